"""The numba kernel: word2vec one centre word at a time, several threads on shared rows without locks ("Hogwild").

Needs `hfembed[fast]`. It differs from word2vec.c in one point: the negatives are drawn once per centre word and serve
all its pairs, so that their rows stay in the nearest cache.

Mikolov et al., "Distributed Representations of Words and Phrases and their Compositionality", 2013, equation 4; Recht
et al., "Hogwild!: A Lock-Free Approach to Parallelizing Stochastic Gradient Descent", 2011.
"""

import math

import numpy as np
import torch
from numba import njit

from hfembed.training.word2vec.segments import Objective

# nothing here may be NaN or infinite unless training has diverged, and the engine checks that outside these kernels:
# only re-ordering of sums and contraction to fused operations is allowed
_FAST = {"reassoc", "contract", "nsz", "arcp"}
_compile = njit(nogil=True, fastmath=_FAST, cache=True, boundscheck=False, error_model="numpy")

SIGMOID_RANGE, SIGMOID_SIZE = 8, 4096


def sigmoid_table() -> np.ndarray:
    """The logistic function at the middle of 4,096 intervals from -8 to 8, float32; the error is below 0.0005."""
    middle = (np.arange(SIGMOID_SIZE) + 0.5) / SIGMOID_SIZE * (2 * SIGMOID_RANGE) - SIGMOID_RANGE
    return (1 / (1 + np.exp(-middle))).astype(np.float32)


@_compile
def alias_table(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Walker's alias method: draw from a discrete distribution with one table look-up.

    Args:
        weights: float64 (vocab_size,), not negative.

    Returns:
        (threshold float32 (vocab_size,), alias int32 (vocab_size,)): draw a row uniformly, keep it with probability
        `threshold`, else take its alias.
    """
    size = len(weights)
    threshold = (weights * (size / weights.sum())).astype(np.float64)
    alias = np.arange(size).astype(np.int32)
    small, large = np.empty(size, np.int64), np.empty(size, np.int64)
    num_small = num_large = 0
    for row in range(size):
        if threshold[row] < 1:
            small[num_small] = row
            num_small += 1
        else:
            large[num_large] = row
            num_large += 1
    while num_small > 0 and num_large > 0:
        num_small -= 1
        poor, rich = small[num_small], large[num_large - 1]
        alias[poor] = rich
        threshold[rich] -= 1 - threshold[poor]
        if threshold[rich] < 1:
            num_large -= 1
            small[num_small] = rich
            num_small += 1
    # what is left differs from 1 by rounding alone
    for i in range(num_small):
        threshold[small[i]] = 1
    for i in range(num_large):
        threshold[large[i]] = 1
    return threshold.astype(np.float32), alias


@_compile
def _next(state):
    """One step of xorshift64*: 32 random bits; `state` uint64 (1,), not 0."""
    x = state[0]
    x ^= x >> np.uint64(12)
    x ^= x << np.uint64(25)
    x ^= x >> np.uint64(27)
    state[0] = x
    return (x * np.uint64(2685821657736338717)) >> np.uint64(32)


@_compile
def _uniform(state):
    """A float32 in [0, 1)."""
    return np.float32(_next(state) >> np.uint64(8)) * np.float32(2.0**-24)


@_compile
def _draw(state, threshold, alias):
    """A word id from the alias table."""
    row = np.int64((_next(state) * np.uint64(len(alias))) >> np.uint64(32))
    if _uniform(state) < threshold[row]:
        return row
    return np.int64(alias[row])


@_compile
def subsample(words, sentences, keep_probabilities, state):
    """Drop frequent words at random, as word2vec does, in place.

    Args:
        words: int32 (n,).
        sentences: int32 (n,).
        keep_probabilities: float32 (vocab_size,).
        state: Random state, uint64 (1,).

    Returns:
        How many words are left, at the front of both arrays.
    """
    kept = 0
    for i in range(len(words)):
        if _uniform(state) < keep_probabilities[words[i]]:
            words[kept], sentences[kept] = words[i], sentences[i]
            kept += 1
    return kept


@_compile
def _context(position, sentences, count, window, shrink_windows, state):
    """First and one past the last position of a centre and its context."""
    reach = window
    if shrink_windows:
        reach = 1 + np.int64((_next(state) * np.uint64(window)) >> np.uint64(32))
    first, stop = position, position + 1
    while first > 0 and position - first < reach and sentences[first - 1] == sentences[position]:
        first -= 1
    while stop < count and stop - position <= reach and sentences[stop] == sentences[position]:
        stop += 1
    return first, stop


@_compile
def _gather_targets(centre, targets, negative, threshold, alias, state, output_rows, y):
    """Draw the negatives of a centre word and copy the output rows, the centre's first, into `y`.

    A negative that is the centre word itself is dropped, as in word2vec.c.

    Returns:
        How many rows of `y` count.
    """
    targets[0] = centre
    num_targets = 1
    for _ in range(negative):
        word = _draw(state, threshold, alias)
        if word != centre:
            targets[num_targets] = word
            num_targets += 1
    for t in range(num_targets):
        row = targets[t]
        for d in range(output_rows.shape[1]):
            y[t, d] = output_rows[row, d]
    return num_targets


@_compile
def _scores(x, y, num_x, num_y, size, scores):
    """scores[i, t] = x[i] . y[t], in tiles of 2 x 3 so that each value loaded serves two or three products.

    The buffers have room for the tiles that stick out; what they yield there is never used.
    """
    for i in range(0, num_x, 2):
        for t in range(0, num_y, 3):
            s00 = s01 = s02 = s10 = s11 = s12 = np.float32(0)
            for d in range(size):
                x0, x1 = x[i, d], x[i + 1, d]
                y0, y1, y2 = y[t, d], y[t + 1, d], y[t + 2, d]
                s00 += x0 * y0
                s01 += x0 * y1
                s02 += x0 * y2
                s10 += x1 * y0
                s11 += x1 * y1
                s12 += x1 * y2
            scores[i, t], scores[i, t + 1], scores[i, t + 2] = s00, s01, s02
            scores[i + 1, t], scores[i + 1, t + 1], scores[i + 1, t + 2] = s10, s11, s12


@_compile
def _steps(scores, num_x, num_y, rate, steps, transposed, sigmoid):
    """Turn scores into steps: rate * (label - sigmoid(score)), 0 in the tiles that stick out; also transposed."""
    steps[:] = 0
    transposed[:] = 0
    for i in range(num_x):
        for t in range(num_y):
            place = (scores[i, t] + np.float32(SIGMOID_RANGE)) * np.float32(SIGMOID_SIZE / (2 * SIGMOID_RANGE))
            place = min(max(place, np.float32(0)), np.float32(SIGMOID_SIZE - 1))
            step = -rate * sigmoid[np.int64(place)]
            if t == 0:
                step += rate
            steps[i, t] = step
            transposed[t, i] = step


@_compile
def _loss(scores, num_x, num_y):
    """The negative-sampling loss of these pairs, summed."""
    loss = 0.0
    for i in range(num_x):
        for t in range(num_y):
            score = -scores[i, t] if t == 0 else scores[i, t]
            loss += max(score, np.float32(0)) + math.log1p(math.exp(-abs(score)))
    return loss


@_compile
def _add(rows, which, number, steps, other, num_other, size):
    """rows[which[i]] += sum over t of steps[i, t] * other[t], three terms a pass."""
    for i in range(number):
        row = which[i]
        for t in range(0, num_other, 3):
            step0, step1, step2 = steps[i, t], steps[i, t + 1], steps[i, t + 2]
            for d in range(size):
                rows[row, d] += step0 * other[t, d] + step1 * other[t + 1, d] + step2 * other[t + 2, d]


@_compile
def train_skip_gram(
    words,
    sentences,
    input_rows,
    output_rows,
    threshold,
    alias,
    window,
    shrink_windows,
    negative,
    first_rate,
    last_rate,
    state,
    sigmoid,
):
    """Learn a segment by skip-gram, in place: each context word alone predicts the centre word.

    Args:
        words: int32 (n,), already subsampled.
        sentences: int32 (n,), a number that changes at every border.
        input_rows: float32 (vocab_size, embedding_size).
        output_rows: float32 (vocab_size, embedding_size).
        threshold: From `alias_table`.
        alias: From `alias_table`.
        window: Largest distance of a context word.
        shrink_windows: Whether each centre draws its own from 1 to `window`.
        negative: Negatives a centre word, shared by its pairs.
        first_rate: Learning rate at the first word.
        last_rate: Learning rate after the last word; linear in between.
        state: Random state, uint64 (1,).
        sigmoid: From `sigmoid_table`.

    Returns:
        (sum of the losses looked at, number of pairs looked at): about one centre in 64 is.
    """
    count, size = len(words), input_rows.shape[1]
    targets, context = np.empty(negative + 1, np.int64), np.empty(2 * window, np.int64)
    x, y = np.zeros((2 * window + 3, size), np.float32), np.zeros((negative + 3, size), np.float32)
    scores = np.zeros((2 * window + 3, negative + 3), np.float32)
    steps, transposed = np.zeros_like(scores), np.zeros((negative + 3, 2 * window + 3), np.float32)
    loss, num_losses = 0.0, 0
    for position in range(count):
        first, stop = _context(position, sentences, count, window, shrink_windows, state)
        num_context = 0
        for other in range(first, stop):
            if other != position:
                row = np.int64(words[other])
                context[num_context] = row
                for d in range(size):
                    x[num_context, d] = input_rows[row, d]
                num_context += 1
        if num_context == 0:
            continue
        num_targets = _gather_targets(
            np.int64(words[position]), targets, negative, threshold, alias, state, output_rows, y
        )
        _scores(x, y, num_context, num_targets, size, scores)
        if position & 63 == 0:
            loss += _loss(scores, num_context, num_targets)
            num_losses += num_context
        rate = np.float32(first_rate + (last_rate - first_rate) * position / count)
        _steps(scores, num_context, num_targets, rate, steps, transposed, sigmoid)
        _add(output_rows, targets, num_targets, transposed, x, num_context, size)
        _add(input_rows, context, num_context, steps, y, num_targets, size)
    return loss, num_losses


@_compile
def train_cbow(
    words,
    sentences,
    input_rows,
    output_rows,
    threshold,
    alias,
    window,
    shrink_windows,
    negative,
    cbow_mean,
    first_rate,
    last_rate,
    state,
    sigmoid,
):
    """Learn a segment by CBOW, in place: the mean (or the sum) of the context predicts the centre word.

    With the mean, the error goes undivided to every context row, as in word2vec.c and gensim.

    Args:
        words: As in `train_skip_gram`, as all that is not named here.
        sentences: As there.
        input_rows: As there.
        output_rows: As there.
        threshold: As there.
        alias: As there.
        window: As there.
        shrink_windows: As there.
        negative: As there.
        cbow_mean: Average the context (True) or add it up.
        first_rate: As there.
        last_rate: As there.
        state: As there.
        sigmoid: As there.

    Returns:
        (sum of the losses looked at, number of centres looked at): about one centre in 64 is.
    """
    count, size = len(words), input_rows.shape[1]
    targets = np.empty(negative + 1, np.int64)
    hidden, y = np.zeros((2, size), np.float32), np.zeros((negative + 3, size), np.float32)
    error = np.zeros((1, size), np.float32)
    only = np.zeros(1, np.int64)
    scores = np.zeros((2, negative + 3), np.float32)
    steps, transposed = np.zeros_like(scores), np.zeros((negative + 3, 2), np.float32)
    loss, num_losses = 0.0, 0
    for position in range(count):
        first, stop = _context(position, sentences, count, window, shrink_windows, state)
        num_context = stop - first - 1
        if num_context == 0:
            continue
        for d in range(size):
            hidden[0, d] = 0
            error[0, d] = 0
        for other in range(first, stop):
            if other != position:
                row = np.int64(words[other])
                for d in range(size):
                    hidden[0, d] += input_rows[row, d]
        share = np.float32(1) / np.float32(num_context)
        if cbow_mean:
            for d in range(size):
                hidden[0, d] *= share
        num_targets = _gather_targets(
            np.int64(words[position]), targets, negative, threshold, alias, state, output_rows, y
        )
        _scores(hidden, y, 1, num_targets, size, scores)
        if position & 63 == 0:
            loss += _loss(scores, 1, num_targets)
            num_losses += 1
        rate = np.float32(first_rate + (last_rate - first_rate) * position / count)
        _steps(scores, 1, num_targets, rate, steps, transposed, sigmoid)
        _add(error, only, 1, steps, y, num_targets, size)
        for t in range(num_targets):
            row, step = targets[t], steps[0, t]
            for d in range(size):
                output_rows[row, d] += step * hidden[0, d]
        if not cbow_mean:
            for d in range(size):
                error[0, d] *= share
        for other in range(first, stop):
            if other != position:
                row = np.int64(words[other])
                for d in range(size):
                    input_rows[row, d] += error[0, d]
    return loss, num_losses


class NumbaWorker:
    """Works off segments with the Hogwild kernel; one for each thread, on shared rows.

    Args:
        input_rows: float32 (vocab_size, embedding_size) on the CPU, changed in place.
        output_rows: Likewise.
        objective: What is learnt.
    """

    def __init__(self, input_rows: torch.Tensor, output_rows: torch.Tensor, objective: Objective):
        self.objective = objective
        self.input_rows, self.output_rows = input_rows.numpy(), output_rows.numpy()
        self.keep_probabilities = np.asarray(objective.keep_probabilities, dtype=np.float32)
        self.threshold, self.alias = alias_table(np.asarray(objective.noise_weights, dtype=np.float64))
        self.sigmoid = sigmoid_table()
        nothing = np.empty(0, dtype=np.int32)
        self.learn(nothing, nothing, key=1, first_rate=0.0, last_rate=0.0)  # compiles now, not while time is taken

    def learn(
        self, words: np.ndarray, sentences: np.ndarray, key: int, first_rate: float, last_rate: float
    ) -> float | None:
        """Learn a segment; `TorchWorker.learn` says what the arguments are.

        Returns:
            The mean loss per predicted word of one centre in 64; None where there was nothing to predict.
        """
        state = np.array([key], dtype=np.uint64)
        kept = subsample(words, sentences, self.keep_probabilities, state)
        objective = self.objective
        matrices = (words[:kept], sentences[:kept], self.input_rows, self.output_rows, self.threshold, self.alias)
        sizes = (objective.window, objective.shrink_windows, objective.negative)
        rates = (float(first_rate), float(last_rate), state, self.sigmoid)
        if objective.architecture == "skip-gram":
            loss, number = train_skip_gram(*matrices, *sizes, *rates)
        else:
            loss, number = train_cbow(*matrices, *sizes, objective.cbow_mean, *rates)
        return loss / number if number else None
