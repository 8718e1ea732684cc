"""One step of each engine against the negative-sampling gradient in plain loops."""

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from unittest.mock import patch

import numpy as np
import pytest
import torch

from hfembed.words.training.alias_table import alias_table
from hfembed.words.training.kernel_numba import NumbaWorker
from hfembed.words.training.kernel_torch import CbowStep, NegativeSampler, SkipGramStep, TorchWorker
from hfembed.words.training.segments import Objective
from hfembed.words.training.subword_table import SubwordTable

VOCAB_SIZE, SIZE, WINDOW, NEGATIVE, NOISE_WORD = 12, 7, 2, 3, 11
RATE = 1e-4  # so small that learning word by word or all at once comes to the same
# the noise word is not among them, and a border lies after the fifth
WORDS = np.array([0, 1, 2, 3, 1, 4, 5, 2, 6, 7, 8, 0, 1, 9, 10], dtype=np.int32)
SENTENCES = np.array([1] * 5 + [2] * 10, dtype=np.int32)


def make_objective(architecture: str, cbow_mean: bool = True) -> Objective:
    # every noise word drawn is the same one: nothing is left to chance
    noise = np.zeros(VOCAB_SIZE)
    noise[NOISE_WORD] = 1
    keep = np.ones(VOCAB_SIZE)
    frequencies = np.full(VOCAB_SIZE, 1 / VOCAB_SIZE)
    return Objective(architecture, WINDOW, False, NEGATIVE, cbow_mean, frequencies, keep, noise, seed=0)


def make_rows() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(VOCAB_SIZE, SIZE)), rng.normal(size=(VOCAB_SIZE, SIZE))


def count_pairs() -> int:
    return sum(
        i != j and abs(i - j) <= WINDOW and SENTENCES[i] == SENTENCES[j]
        for i in range(len(WORDS))
        for j in range(len(WORDS))
    )


def sigmoid(x: float) -> float:
    return 1 / (1 + np.exp(-x))


def brute_force(architecture: str, cbow_mean: bool, inputs: np.ndarray, outputs: np.ndarray):
    """Gradients of the loss of Mikolov et al. 2013, equation 4, and the loss per prediction."""
    input_gradient, output_gradient = np.zeros_like(inputs), np.zeros_like(outputs)
    loss, predictions = 0.0, 0
    for i, center in enumerate(WORDS):
        context = [
            j
            for j in range(max(i - WINDOW, 0), min(i + WINDOW + 1, len(WORDS)))
            if j != i and SENTENCES[j] == SENTENCES[i]
        ]
        groups = [[j] for j in context] if architecture == "skip-gram" else [context]
        for group in groups:
            hidden = sum(inputs[WORDS[j]] for j in group)
            if cbow_mean:
                hidden = hidden / len(group)
            error = np.zeros(SIZE)
            for target, label in [(center, 1)] + [(NOISE_WORD, 0)] * NEGATIVE:
                score = hidden @ outputs[target]
                loss -= np.log(sigmoid(score if label else -score))
                error += (sigmoid(score) - label) * outputs[target]
                output_gradient[target] += (sigmoid(score) - label) * hidden
            for j in group:
                # gensim's convention: undivided with the mean, divided with the sum
                input_gradient[WORDS[j]] += error if cbow_mean else error / len(group)
            predictions += 1
    return input_gradient, output_gradient, loss / predictions


def learn(engine: str, rows, objective: Objective, rate: float, subwords: SubwordTable | None = None) -> float:
    """One step over all words, in place."""
    if engine == "torch":
        worker = TorchWorker(*rows, objective, centers_per_step=128, subwords=subwords)
    elif engine == "numba":
        worker = NumbaWorker(*rows, objective, subwords)
    else:
        from hfembed.words.training.kernel_triton import TritonWorker

        worker = TritonWorker(*rows, objective, num_programs=1, precision="ieee", subwords=subwords)
    return worker.learn(WORDS.copy(), SENTENCES.copy(), key=5, first_rate=rate, last_rate=rate)


def learn_in_place(engine: str, rows, objective: Objective, rate: float, subwords: SubwordTable | None):
    """The rows after `learn`, and the loss."""
    loss = learn(engine, rows, objective, rate, subwords)
    return rows, loss


@pytest.fixture(scope="module")
def interpreter():
    """A process without a GPU for triton, which interprets kernels where it is told to before it is imported."""
    with (
        patch.dict(os.environ, TRITON_INTERPRET="1"),
        ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process,
    ):
        yield process


def keep_some_in_triton(seed: int) -> list[torch.Tensor]:
    """A segment, each word with its own number as sentence, subsampled for the Triton kernels."""
    from hfembed.words.training.kernel_triton import keep_some

    words = torch.arange(3000, dtype=torch.int32) % 3
    keep = torch.tensor([1.0, 0.0, 0.25])
    return list(keep_some(words, torch.arange(3000, dtype=torch.int32), keep, torch.Generator().manual_seed(seed)))


def learn_twice(rows, objective: Objective) -> list[torch.Tensor]:
    """The output rows after a segment that lies on the host, and after the same one as tensors."""
    from hfembed.words.training.kernel_triton import TritonWorker

    after = []
    for convert in (np.copy, torch.from_numpy):
        copies = [matrix.clone() for matrix in rows]
        worker = TritonWorker(*copies, objective, num_programs=2, precision="ieee")
        worker.learn(convert(WORDS), convert(SENTENCES), key=5, first_rate=0.1, last_rate=0.1)
        after.append(copies[1])
    return after


@pytest.fixture
def learn_anywhere(request):
    """A function that gives the rows after `learn`, on the CPU, and the loss."""

    def learn_somewhere(engine: str, rows, objective: Objective, rate: float, subwords: SubwordTable | None = None):
        rows = [matrix.clone() for matrix in rows]  # a tensor that is sent to a process is shared with it
        if engine == "triton":
            pytest.importorskip("triton")
            if not torch.cuda.is_available():
                process = request.getfixturevalue("interpreter")
                return process.submit(learn_in_place, engine, rows, objective, rate, subwords).result()
            rows = [matrix.to("cuda") for matrix in rows]
        after, loss = learn_in_place(engine, rows, objective, rate, subwords)
        return [matrix.cpu() for matrix in after], loss

    return learn_somewhere


@pytest.mark.parametrize("engine", ["torch", "numba", "triton"])
@pytest.mark.parametrize(("architecture", "cbow_mean"), [("skip-gram", True), ("cbow", True), ("cbow", False)])
def test_step_is_the_gradient_of_the_loss(engine, architecture, cbow_mean, learn_anywhere):
    inputs, outputs = make_rows()
    expected_input, expected_output, expected_loss = brute_force(architecture, cbow_mean, inputs, outputs)
    # differences of float32 rows: start where 1e-4 * gradient is not lost in rounding
    rows = torch.tensor(inputs, dtype=torch.float32), torch.tensor(outputs, dtype=torch.float32)
    after, loss = learn_anywhere(engine, rows, make_objective(architecture, cbow_mean), RATE)
    moved = [(matrix - start).numpy() / -RATE for matrix, start in zip(after, rows, strict=True)]
    # numba reads the logistic function from a table with errors below 0.0005, and learns word by word
    np.testing.assert_allclose(moved[0], expected_input, rtol=5e-3, atol=2e-2)
    np.testing.assert_allclose(moved[1], expected_output, rtol=5e-3, atol=2e-2)
    if engine != "numba":
        assert loss == pytest.approx(expected_loss, rel=1e-4)


def make_subwords(extra: list[np.ndarray]) -> tuple[SubwordTable, list[np.ndarray]]:
    """The table of words with a row of their own and `extra` ones, and the rows of each."""
    parts = [np.concatenate([[word], more]) for word, more in enumerate(extra)]
    lengths = np.array([len(part) for part in parts])
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return SubwordTable(offsets, np.concatenate(parts).astype(np.int32), (1 / lengths).astype(np.float32)), parts


@pytest.mark.parametrize("engine", ["torch", "numba", "triton"])
@pytest.mark.parametrize(("architecture", "cbow_mean"), [("skip-gram", True), ("cbow", True), ("cbow", False)])
def test_all_rows_of_a_word_learn_what_the_word_learns(engine, architecture, cbow_mean, learn_anywhere):
    rng = np.random.default_rng(3)
    # from 1 to 6 rows per word, some of them twice, some shared
    extra = [rng.integers(VOCAB_SIZE, VOCAB_SIZE + 8, size=number % 6) for number in range(VOCAB_SIZE)]
    subwords, parts = make_subwords(extra)
    table, outputs = rng.normal(size=(VOCAB_SIZE + 8, SIZE)), make_rows()[1]
    composed = np.stack([table[part].mean(axis=0) for part in parts])
    word_gradient, expected_output, expected_loss = brute_force(architecture, cbow_mean, composed, outputs)
    expected_input = np.zeros_like(table)
    for part, gradient in zip(parts, word_gradient, strict=True):
        np.add.at(expected_input, part, gradient)  # undivided, as in fastText
    rows = torch.tensor(table, dtype=torch.float32), torch.tensor(outputs, dtype=torch.float32)
    after, loss = learn_anywhere(engine, rows, make_objective(architecture, cbow_mean), RATE, subwords)
    moved = [(matrix - start).numpy() / -RATE for matrix, start in zip(after, rows, strict=True)]
    np.testing.assert_allclose(moved[0], expected_input, rtol=5e-3, atol=4e-2)
    np.testing.assert_allclose(moved[1], expected_output, rtol=5e-3, atol=2e-2)
    if engine != "numba":
        assert loss == pytest.approx(expected_loss, rel=1e-4)


@pytest.mark.parametrize("engine", ["torch", "triton"])
def test_no_row_moves_further_than_its_cap(engine, learn_anywhere):
    inputs, outputs = make_rows()
    rows = torch.tensor(inputs, dtype=torch.float32), torch.tensor(outputs, dtype=torch.float32)
    rate = 0.5
    _, gradient, _ = brute_force("skip-gram", True, inputs, outputs)
    after, _ = learn_anywhere(engine, rows, make_objective("skip-gram"), rate)
    pairs = count_pairs()
    moved = (after[1] - rows[1])[NOISE_WORD].numpy()
    np.testing.assert_allclose(moved, -SkipGramStep.row_cap / (pairs * NEGATIVE) * gradient[NOISE_WORD], rtol=1e-3)


def test_triton_drops_words_in_order_without_counting_them_first(interpreter):
    pytest.importorskip("triton")
    words, numbers, count = interpreter.submit(keep_some_in_triton, 0).result()
    words, numbers = words[: int(count)], numbers[: int(count)]
    assert torch.equal(words, numbers % 3)
    assert bool((numbers[1:] > numbers[:-1]).all())
    kept = torch.bincount(words, minlength=3)
    assert kept[:2].tolist() == [1000, 0] and 200 < int(kept[2]) < 300
    again = interpreter.submit(keep_some_in_triton, 0).result()
    assert torch.equal(again[1][: int(count)], numbers)


def test_triton_learns_the_same_from_the_host_and_from_the_device(interpreter):
    pytest.importorskip("triton")
    rows = [torch.tensor(matrix, dtype=torch.float32) for matrix in make_rows()]
    host, device = interpreter.submit(learn_twice, rows, make_objective("skip-gram")).result()
    assert torch.equal(host, device) and not torch.equal(host, rows[1])


def test_a_row_that_words_share_is_capped_by_what_all_of_them_learn(learn_anywhere):
    inputs, outputs = make_rows()
    shared = VOCAB_SIZE  # a row of every word
    subwords, parts = make_subwords([np.array([shared])] * VOCAB_SIZE)
    table = np.concatenate([inputs, np.ones((1, SIZE))])
    composed = np.stack([table[part].mean(axis=0) for part in parts])
    gradient = brute_force("skip-gram", True, composed, outputs)[0]
    rows = torch.tensor(table, dtype=torch.float32), torch.tensor(outputs, dtype=torch.float32)
    moved = {}
    for engine in ("torch", "triton"):
        after, _ = learn_anywhere(engine, rows, make_objective("skip-gram"), 0.5, subwords)
        moved[engine] = (after[0] - rows[0])[shared].norm().item()
    pairs = count_pairs()
    whole = SkipGramStep.row_cap / (pairs * (1 + NEGATIVE)) * np.linalg.norm(gradient.sum(axis=0))
    assert moved["torch"] == pytest.approx(whole, rel=1e-3)
    # triton knows the weight of the other words of a block as an expectation: 32 words, whose windows are whole
    assert 0.3 * whole < moved["triton"] < whole


def test_steps_taken_together_are_capped_apart():
    table = torch.zeros(VOCAB_SIZE, SIZE)
    rows, weights, rates = (
        torch.tensor([[3, 3, 5], [3, 7, 7]]),
        torch.full((2, 3), 10.0),
        torch.tensor([[0.5], [0.05]]),
    )
    cap = CbowStep.row_cap
    expected = [[cap / 20, cap / 20, cap / 10], [0.05, 0.05, 0.05]]
    step = CbowStep(table, table.clone(), NEGATIVE)
    for _ in range(2):  # nothing is left of the time before
        torch.testing.assert_close(step.capped_rates(rows, weights, rates), torch.tensor(expected))


def test_negatives_follow_their_weights():
    weights = np.array([5.0, 0.0, 1.0, 2.0])
    drawn = NegativeSampler(weights).draw((100_000,), torch.Generator().manual_seed(0))
    np.testing.assert_allclose(np.bincount(drawn, minlength=4) / 100_000, weights / 8, atol=0.01)
    threshold, alias = alias_table(weights)
    probability = threshold.astype(float)
    np.add.at(probability, alias, 1 - threshold)
    np.testing.assert_allclose(probability / 4, weights / 8, atol=1e-6)
