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

        worker = TritonWorker(*rows, objective, num_programs=1, precision="ieee")
    return worker.learn(WORDS.copy(), SENTENCES.copy(), key=5, first_rate=rate, last_rate=rate)


def learn_in_place(engine: str, rows, objective: Objective, rate: float):
    """The rows after `learn`, and the loss."""
    loss = learn(engine, rows, objective, rate)
    return rows, loss


@pytest.fixture(scope="module")
def interpreter():
    """A process without a GPU for triton, which interprets kernels where it is told to before it is imported."""
    with (
        patch.dict(os.environ, TRITON_INTERPRET="1"),
        ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process,
    ):
        yield process


@pytest.fixture
def learn_anywhere(request):
    """A function that gives the rows after `learn`, on the CPU, and the loss."""

    def learn_somewhere(engine: str, rows, objective: Objective, rate: float):
        rows = [matrix.clone() for matrix in rows]  # a tensor that is sent to a process is shared with it
        if engine == "triton":
            pytest.importorskip("triton")
            if not torch.cuda.is_available():
                process = request.getfixturevalue("interpreter")
                return process.submit(learn_in_place, engine, rows, objective, rate).result()
            rows = [matrix.to("cuda") for matrix in rows]
        after, loss = learn_in_place(engine, rows, objective, rate)
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


@pytest.mark.parametrize("engine", ["torch", "numba"])
@pytest.mark.parametrize(("architecture", "cbow_mean"), [("skip-gram", True), ("cbow", True), ("cbow", False)])
def test_all_rows_of_a_word_learn_what_the_word_learns(engine, architecture, cbow_mean):
    rng = np.random.default_rng(3)
    # from 1 to 6 rows per word, some of them twice, some shared
    extra = [rng.integers(VOCAB_SIZE, VOCAB_SIZE + 8, size=number % 6) for number in range(VOCAB_SIZE)]
    parts = [np.concatenate([[word], more]) for word, more in enumerate(extra)]
    lengths = np.array([len(part) for part in parts])
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    subwords = SubwordTable(offsets, np.concatenate(parts).astype(np.int32), (1 / lengths).astype(np.float32))
    table, outputs = rng.normal(size=(VOCAB_SIZE + 8, SIZE)), make_rows()[1]
    composed = np.stack([table[part].mean(axis=0) for part in parts])
    word_gradient, expected_output, expected_loss = brute_force(architecture, cbow_mean, composed, outputs)
    expected_input = np.zeros_like(table)
    for part, gradient in zip(parts, word_gradient, strict=True):
        np.add.at(expected_input, part, gradient)  # undivided, as in fastText
    rows = torch.tensor(table, dtype=torch.float32), torch.tensor(outputs, dtype=torch.float32)
    after = [matrix.clone() for matrix in rows]
    loss = learn(engine, after, make_objective(architecture, cbow_mean), RATE, subwords)
    moved = [(matrix - start).numpy() / -RATE for matrix, start in zip(after, rows, strict=True)]
    np.testing.assert_allclose(moved[0], expected_input, rtol=5e-3, atol=4e-2)
    np.testing.assert_allclose(moved[1], expected_output, rtol=5e-3, atol=2e-2)
    if engine == "torch":
        assert loss == pytest.approx(expected_loss, rel=1e-4)


@pytest.mark.parametrize("engine", ["torch", "triton"])
def test_no_row_moves_further_than_its_cap(engine, learn_anywhere):
    inputs, outputs = make_rows()
    rows = torch.tensor(inputs, dtype=torch.float32), torch.tensor(outputs, dtype=torch.float32)
    rate = 0.5
    _, gradient, _ = brute_force("skip-gram", True, inputs, outputs)
    after, _ = learn_anywhere(engine, rows, make_objective("skip-gram"), rate)
    pairs = sum(
        i != j and abs(i - j) <= WINDOW and SENTENCES[i] == SENTENCES[j]
        for i in range(len(WORDS))
        for j in range(len(WORDS))
    )
    moved = (after[1] - rows[1])[NOISE_WORD].numpy()
    np.testing.assert_allclose(moved, -SkipGramStep.row_cap / (pairs * NEGATIVE) * gradient[NOISE_WORD], rtol=1e-3)


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
