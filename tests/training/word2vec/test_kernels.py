"""One step of each engine against the negative-sampling gradient in plain loops."""

import numpy as np
import pytest
import torch

from hfembed.training.word2vec.alias_table import alias_table
from hfembed.training.word2vec.block_step import CbowStep, NegativeSampler, SkipGramStep, TorchWorker
from hfembed.training.word2vec.hogwild import NumbaWorker
from hfembed.training.word2vec.segments import Objective

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
    return Objective(architecture, WINDOW, False, NEGATIVE, cbow_mean, keep, noise, seed=0)


def make_rows() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(VOCAB_SIZE, SIZE)), rng.normal(size=(VOCAB_SIZE, SIZE))


def sigmoid(x: float) -> float:
    return 1 / (1 + np.exp(-x))


def brute_force(architecture: str, cbow_mean: bool, inputs: np.ndarray, outputs: np.ndarray):
    """Gradients of the loss of Mikolov et al. 2013, equation 4, and the loss per prediction."""
    input_gradient, output_gradient = np.zeros_like(inputs), np.zeros_like(outputs)
    loss, predictions = 0.0, 0
    for i, centre in enumerate(WORDS):
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
            for target, label in [(centre, 1)] + [(NOISE_WORD, 0)] * NEGATIVE:
                score = hidden @ outputs[target]
                loss -= np.log(sigmoid(score if label else -score))
                error += (sigmoid(score) - label) * outputs[target]
                output_gradient[target] += (sigmoid(score) - label) * hidden
            for j in group:
                # gensim's convention: undivided with the mean, divided with the sum
                input_gradient[WORDS[j]] += error if cbow_mean else error / len(group)
            predictions += 1
    return input_gradient, output_gradient, loss / predictions


@pytest.mark.parametrize("engine", ["torch", "numba"])
@pytest.mark.parametrize(("architecture", "cbow_mean"), [("skip-gram", True), ("cbow", True), ("cbow", False)])
def test_step_is_the_gradient_of_the_loss(engine, architecture, cbow_mean):
    inputs, outputs = make_rows()
    expected_input, expected_output, expected_loss = brute_force(architecture, cbow_mean, inputs, outputs)
    # differences of float32 rows: start where 1e-4 * gradient is not lost in rounding
    rows = torch.tensor(inputs, dtype=torch.float32), torch.tensor(outputs, dtype=torch.float32)
    before = [matrix.clone() for matrix in rows]
    objective = make_objective(architecture, cbow_mean)
    if engine == "torch":
        worker = TorchWorker(*rows, objective, centres_per_step=128)
    else:
        worker = NumbaWorker(*rows, objective)
    loss = worker.learn(WORDS.copy(), SENTENCES.copy(), key=5, first_rate=RATE, last_rate=RATE)
    moved = [(matrix - start).numpy() / -RATE for matrix, start in zip(rows, before, strict=True)]
    # numba reads the logistic function from a table with errors below 0.0005, and learns word by word
    np.testing.assert_allclose(moved[0], expected_input, rtol=5e-3, atol=2e-2)
    np.testing.assert_allclose(moved[1], expected_output, rtol=5e-3, atol=2e-2)
    if engine == "torch":
        assert loss == pytest.approx(expected_loss, rel=1e-4)


def test_no_row_moves_further_than_its_cap():
    inputs, outputs = make_rows()
    rows = torch.tensor(inputs, dtype=torch.float32), torch.tensor(outputs, dtype=torch.float32)
    before = [matrix.clone() for matrix in rows]
    rate = 0.5
    _, gradient, _ = brute_force("skip-gram", True, inputs, outputs)
    TorchWorker(*rows, make_objective("skip-gram"), 64).learn(WORDS, SENTENCES, 5, rate, rate)
    pairs = sum(
        i != j and abs(i - j) <= WINDOW and SENTENCES[i] == SENTENCES[j]
        for i in range(len(WORDS))
        for j in range(len(WORDS))
    )
    moved = (rows[1] - before[1])[NOISE_WORD].numpy()
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
