"""The numba kernel: word2vec a few center words at a time, several threads on shared rows without locks ("Hogwild").

Needs `hfembed[fast]`. Its unit is the block of `kernel_torch`, but small and processed one after the other: the rows
of about 30 words, centers and context of each other, and of the negatives that they share fit into the L1 cache, and
small matrix products (BLAS, through `np.dot`) do the arithmetic. word2vec.c fetches five negatives from main memory
per center; here it is one, or less. CBOW is bound by memory: a block has one window, and the context is a running sum
that rows enter and leave, so that each row is read and written once.

Mikolov et al., "Distributed Representations of Words and Phrases and their Compositionality", 2013, equation 4; Recht
et al., "Hogwild!: A Lock-Free Approach to Parallelizing Stochastic Gradient Descent", 2011.
"""

import math

import numpy as np
import torch
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from hfembed.words.training.alias_table import alias_table
from hfembed.words.training.segments import Objective
from hfembed.words.training.subword_table import SubwordTable

# only reordering of sums and contraction to fused operations are allowed: the engine checks for NaN and infinity
_FAST = {"reassoc", "contract", "nsz", "arcp"}
_compile = njit(nogil=True, fastmath=_FAST, cache=True, boundscheck=False, error_model="numpy")

SIGMOID_RANGE, SIGMOID_SIZE = 8, 4096
# centers of a block, and as many negatives; smaller for small vocabularies, where each word comes up often
BLOCK_SIZE, SMALL_BLOCK_SIZE, SMALL_VOCABULARY = 24, 16, 100
# centers and negatives of a block
CBOW_BLOCK_SIZE, CBOW_NEGATIVES = 32, 12
_AHEAD = 4  # rows of n-grams to prefetch


def sigmoid_table() -> np.ndarray:
    """The logistic function at the middle of 4,096 intervals from -8 to 8, float32; the error is below 0.0005."""
    middle = (np.arange(SIGMOID_SIZE) + 0.5) / SIGMOID_SIZE * (2 * SIGMOID_RANGE) - SIGMOID_RANGE
    return (1 / (1 + np.exp(-middle))).astype(np.float32)


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
def _draw_reach(window, shrink_windows, state):
    """How far a context reaches."""
    if shrink_windows:
        return 1 + np.int64((_next(state) * np.uint64(window)) >> np.uint64(32))
    return np.int64(window)


@_compile
def _context(position, sentences, begin, end, window, shrink_windows, state):
    """First and one past the last position of a center and its context, in the block from `begin` to `end`."""
    reach = _draw_reach(window, shrink_windows, state)
    first, stop = position, position + 1
    while first > begin and position - first < reach and sentences[first - 1] == sentences[position]:
        first -= 1
    while stop < end and stop - position <= reach and sentences[stop] == sentences[position]:
        stop += 1
    return first, stop


@_compile
def _logistic(score, sigmoid):
    place = (score + np.float32(SIGMOID_RANGE)) * np.float32(SIGMOID_SIZE / (2 * SIGMOID_RANGE))
    return sigmoid[np.int64(min(max(place, np.float32(0)), np.float32(SIGMOID_SIZE - 1)))]


@_compile
def _softplus(score):
    return max(score, np.float32(0)) + math.log1p(math.exp(-abs(score)))


@intrinsic
def _prefetch_line(_, rows, row, column):
    """Prefetch the cache line of rows[row, column]."""

    def generate(context, builder, signature, arguments):
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        pointer = cgutils.get_item_pointer(context, builder, signature.args[0], array, arguments[1:])
        flag = ir.IntType(32)
        pointer = builder.bitcast(pointer, ir.IntType(8).as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, flag, flag, flag])
        prefetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(prefetch, [pointer, flag(0), flag(3), flag(1)])  # to read; into all caches; data
        return context.get_dummy_value()

    return types.void(rows, types.intp, types.intp), generate


@_compile
def _prefetch(rows, row):
    for column in range(0, rows.shape[1], 16):  # floats per cache line
        _prefetch_line(rows, row, column)


# separate loops, because compilers vectorize only simple ones


@_compile
def _dot(left, i, right, j):
    total = np.float32(0)
    for d in range(left.shape[1]):
        total += left[i, d] * right[j, d]
    return total


@_compile
def _add_row(rows, row, factor, steps, step):
    """rows[row] += factor * steps[step]."""
    for d in range(rows.shape[1]):
        rows[row, d] += factor * steps[step, d]


@_compile
def _slide_in(hidden, n, scale, running, rows, entering, leaving, own, output_rows, target):
    """The next context of CBOW: a row enters the running sum, one leaves it.

    hidden[n] = scale * (running - rows[own]); returns hidden[n] @ output_rows[target].
    """
    total = np.float32(0)
    for d in range(rows.shape[1]):
        context = running[0, d] + (rows[entering, d] - rows[leaving, d])
        running[0, d] = context
        h = scale * (context - rows[own, d])
        hidden[n, d] = h
        total += h * output_rows[target, d]
    return total


@_compile
def _slide_back(rows, row, running, error, entering, leaving, own):
    """The errors of the next context: one enters, one leaves; rows[row] += running - error[own]."""
    for d in range(rows.shape[1]):
        context = running[0, d] + (error[entering, d] - error[leaving, d])
        running[0, d] = context
        rows[row, d] += context - error[own, d]


@_compile
def _difference(out, i, scale, running, rows, row):
    """out[i] = scale * (running - rows[row])."""
    for d in range(rows.shape[1]):
        out[i, d] = scale * (running[0, d] - rows[row, d])


@_compile
def _add_difference(rows, row, running, steps, step):
    """rows[row] += running - steps[step]."""
    for d in range(rows.shape[1]):
        rows[row, d] += running[0, d] - steps[step, d]


@_compile
def _exchange(error, rows, row, step, hidden, n):
    """error[n] += step * rows[row], rows[row] += step * hidden[n], both from what they were."""
    for d in range(rows.shape[1]):
        y = rows[row, d]
        error[n, d] += step * y
        rows[row, d] = y + step * hidden[n, d]


@_compile
def _gather(rows, which, out):
    """out[i] = rows[which[i]]."""
    for i in range(len(which)):
        row = which[i]
        for d in range(rows.shape[1]):
            out[i, d] = rows[row, d]


@_compile
def _add(rows, which, steps):
    """rows[which[i]] += steps[i]."""
    for i in range(len(which)):
        row = which[i]
        for d in range(rows.shape[1]):
            rows[row, d] += steps[i, d]


@_compile
def _compose(rows, subwords, which, out):
    """out[i] = the mean of the rows of the word which[i]."""
    offsets, places, scale = subwords
    for i in range(len(which)):
        begin, end = offsets[which[i]], offsets[which[i] + 1]
        for ahead in range(begin, min(begin + _AHEAD, end)):
            _prefetch(rows, places[ahead])
        _set_row(out, i, rows, places[begin])
        at = begin + 1
        while at + 1 < end:  # two at once: half as many reads and writes of the sum
            if at + _AHEAD + 1 < len(places):
                _prefetch(rows, places[at + _AHEAD])
                _prefetch(rows, places[at + _AHEAD + 1])
            _add_two(out, i, rows, places[at], places[at + 1])
            at += 2
        if at < end:
            _add_row(out, i, np.float32(1), rows, places[at])
        _scale_row(out, i, scale[which[i]])


@_compile
def _spread(rows, subwords, which, steps):
    """Add steps[i] to all rows of the word which[i]."""
    offsets, places, _ = subwords
    for i in range(len(which)):
        for at in range(offsets[which[i]], offsets[which[i] + 1]):
            _add_row(rows, places[at], np.float32(1), steps, i)


@_compile
def _set_row(out, i, rows, row):
    for d in range(rows.shape[1]):
        out[i, d] = rows[row, d]


@_compile
def _add_two(out, i, rows, first, second):
    for d in range(rows.shape[1]):
        out[i, d] += rows[first, d] + rows[second, d]


@_compile
def _scale_row(out, i, factor):
    for d in range(out.shape[1]):
        out[i, d] *= factor


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
    block_size,
    subwords,
):
    """Learn a segment by skip-gram, in place: each context word alone predicts the center word.

    Args:
        words: int32 (n,), already subsampled.
        sentences: int32 (n,), a number that changes at every border.
        input_rows: float32 (vocab_size, embedding_size); with subwords, those of the n-grams follow.
        output_rows: float32 (vocab_size, embedding_size).
        threshold: From `alias_table`.
        alias: From `alias_table`.
        window: Largest distance of a context word.
        shrink_windows: Whether each center draws its own from 1 to `window`.
        negative: Negatives per pair, in expectation.
        first_rate: Learning rate at the first word.
        last_rate: Learning rate after the last word; linear in between.
        state: Random state, uint64 (1,).
        sigmoid: From `sigmoid_table`.
        block_size: Centers of a block, and its negatives.
        subwords: `None`, or the offsets, rows and scale of a `SubwordTable`.

    Returns:
        (sum of the losses, number of pairs) of one block in 64.
    """
    count, size = len(words), input_rows.shape[1]
    height = 2 * block_size
    outputs = np.empty(height, np.int64)
    inputs = outputs[:block_size]
    x, x_step = np.zeros((block_size, size), np.float32), np.empty((block_size, size), np.float32)
    y, y_step = np.empty((height, size), np.float32), np.empty((height, size), np.float32)
    scores, pairs = np.empty((height, block_size), np.float32), np.empty(block_size, np.float32)
    share = np.float32(negative / block_size)
    loss, num_losses = 0.0, 0.0
    for begin in range(0, count, block_size):
        rate = np.float32(first_rate + (last_rate - first_rate) * begin / count)
        with_loss = begin % (64 * block_size) == 0
        end = min(begin + block_size, count)
        for n in range(block_size):
            inputs[n] = words[min(begin + n, count - 1)]  # the last block may be short: no weight later
        for k in range(block_size, height):
            outputs[k] = _draw(state, threshold, alias)
        if subwords is None:
            _gather(input_rows, inputs, x)
        else:
            _compose(input_rows, subwords, inputs[: end - begin], x)
        _gather(output_rows, outputs, y)
        np.dot(y, x.T, scores)
        # scores become steps: rate * (label - sigmoid(score)), weighted
        pairs[:] = 0
        for n in range(block_size):
            first, stop = 0, 0
            if begin + n < end:
                first, stop = _context(begin + n, sentences, begin, end, window, shrink_windows, state)
            for c in range(block_size):
                if first <= begin + c < stop and c != n:
                    pairs[c] += 1
                    if with_loss:
                        loss += _softplus(-scores[n, c])
                        num_losses += 1
                    scores[n, c] = rate * (1 - _logistic(scores[n, c], sigmoid))
                else:
                    scores[n, c] = 0
        for k in range(block_size, height):
            for c in range(block_size):
                if with_loss:
                    loss += share * pairs[c] * _softplus(scores[k, c])
                scores[k, c] = -rate * share * pairs[c] * _logistic(scores[k, c], sigmoid)
        np.dot(scores.T, y, x_step)
        np.dot(scores, x, y_step)
        if subwords is None:
            _add(input_rows, inputs, x_step)
        else:
            _spread(input_rows, subwords, inputs[: end - begin], x_step)
        _add(output_rows, outputs, y_step)
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
    subwords,
):
    """Learn a segment by CBOW, in place: the mean (without `cbow_mean` the sum) of the context predicts the center.

    With the mean, the error goes undivided to every context row, as in word2vec.c and gensim. Arguments and result are
    those of `train_skip_gram`.
    """
    count, size = len(words), input_rows.shape[1]
    hidden, error = np.empty((CBOW_BLOCK_SIZE, size), np.float32), np.empty((CBOW_BLOCK_SIZE, size), np.float32)
    running, positives = np.empty((1, size), np.float32), np.empty(CBOW_BLOCK_SIZE, np.float32)
    first, stop = np.empty(CBOW_BLOCK_SIZE, np.int64), np.empty(CBOW_BLOCK_SIZE, np.int64)
    chosen, negatives = np.empty(CBOW_NEGATIVES, np.int64), np.empty((CBOW_NEGATIVES, size), np.float32)
    scores = np.empty((CBOW_BLOCK_SIZE, CBOW_NEGATIVES), np.float32)
    weight = np.float32(negative / CBOW_NEGATIVES)
    # with subwords the words of a block are composed first, and their steps are spread at its end
    x, x_step = np.empty((CBOW_BLOCK_SIZE, size), np.float32), np.empty((CBOW_BLOCK_SIZE, size), np.float32)
    places = np.arange(CBOW_BLOCK_SIZE).astype(np.int32)
    inputs, steps = (input_rows, input_rows) if subwords is None else (x, x_step)
    loss, num_losses = 0.0, 0.0
    for begin in range(0, count, CBOW_BLOCK_SIZE):
        rate = np.float32(first_rate + (last_rate - first_rate) * begin / count)
        with_loss = begin % (64 * CBOW_BLOCK_SIZE) == 0
        end = min(begin + CBOW_BLOCK_SIZE, count)
        reach = _draw_reach(window, shrink_windows, state)
        for k in range(CBOW_NEGATIVES):
            chosen[k] = _draw(state, threshold, alias)
            _prefetch(output_rows, chosen[k])
        # input row of the word at a position: ids[position - base]
        ids, base = words, 0
        if subwords is not None:
            ids, base = places, begin
            _compose(input_rows, subwords, words[begin:end], x)
            x_step[:] = 0
        # the context slides over the rows: what enters is added, what leaves is subtracted
        f, s = begin, begin
        running[0] = 0
        for n in range(end - begin):
            position = begin + n
            row, old_f, old_s = ids[position - base], f, s
            if position + CBOW_BLOCK_SIZE < count:  # one by one: few prefetches can be pending at once
                if subwords is None:
                    _prefetch(input_rows, words[position + CBOW_BLOCK_SIZE])
                _prefetch(output_rows, words[position + CBOW_BLOCK_SIZE])
            while f < position and (position - f > reach or sentences[f] != sentences[position]):
                f += 1
            while s < end and s - position <= reach and sentences[s] == sentences[position]:
                s += 1
            first[n], stop[n] = f, s
            scale = np.float32(1) / max(s - f - 1, 1) if cbow_mean else np.float32(1)
            if f == old_f + 1 and s == old_s + 1:
                entering, leaving = ids[old_s - base], ids[old_f - base]
                positives[n] = _slide_in(
                    hidden, n, scale, running, inputs, entering, leaving, row, output_rows, words[position]
                )
                continue
            for i in range(old_f, f):
                _add_row(running, 0, np.float32(-1), inputs, ids[i - base])
            for i in range(old_s, s):
                _add_row(running, 0, np.float32(1), inputs, ids[i - base])
            if s - f == 1:  # alone in its sentence
                running[0] = inputs[row]
            _difference(hidden, n, scale, running, inputs, row)
            positives[n] = _dot(hidden, n, output_rows, words[position])
        hidden[end - begin :] = 0
        _gather(output_rows, chosen, negatives)
        np.dot(hidden, negatives.T, scores)
        # scores become steps: rate * (label - sigmoid(score)), weighted
        for n in range(CBOW_BLOCK_SIZE):
            for k in range(CBOW_NEGATIVES):
                if with_loss and begin + n < end and stop[n] - first[n] > 1:
                    loss += weight * _softplus(scores[n, k])
                scores[n, k] = -rate * weight * _logistic(scores[n, k], sigmoid)
        np.dot(scores, negatives, error)
        np.dot(scores.T, hidden, negatives)  # overwrite the rows that were read with their steps
        _add(output_rows, chosen, negatives)
        for n in range(end - begin):
            context_size = stop[n] - first[n] - 1
            if context_size == 0:
                continue
            if with_loss:
                loss += _softplus(-positives[n])
                num_losses += 1
            step = rate * (1 - _logistic(positives[n], sigmoid))
            _exchange(error, output_rows, words[begin + n], step, hidden, n)
            if not cbow_mean:
                _add_row(error, n, np.float32(1) / context_size - np.float32(1), error, n)
        # the gradient of a word is the sum of the errors of its context
        f, s = begin, begin
        running[0] = 0
        for n in range(end - begin):
            row, old_f, old_s = ids[begin + n - base], f, s
            f, s = first[n], stop[n]
            if f == old_f + 1 and s == old_s + 1:
                _slide_back(steps, row, running, error, old_s - begin, old_f - begin, n)
                continue
            for i in range(old_f, f):
                _add_row(running, 0, np.float32(-1), error, i - begin)
            for i in range(old_s, s):
                _add_row(running, 0, np.float32(1), error, i - begin)
            if s - f > 1:
                _add_difference(steps, row, running, error, n)
        if subwords is not None:
            _spread(input_rows, subwords, words[begin:end], x_step)
    return loss, num_losses


class NumbaWorker:
    """Trains on segments with the Hogwild kernel; one for each thread, on shared rows.

    Args:
        input_rows: float32 (vocab_size, embedding_size) on the CPU, changed in place; with subwords, those of the
            n-grams follow.
        output_rows: float32 (vocab_size, embedding_size), likewise.
        objective: What is learned.
        subwords: The rows of each word, where it has more than one.
    """

    def __init__(
        self,
        input_rows: torch.Tensor,
        output_rows: torch.Tensor,
        objective: Objective,
        subwords: SubwordTable | None = None,
    ):
        self.objective = objective
        self.subwords = None if subwords is None else (subwords.offsets, subwords.rows, subwords.scale)
        self.input_rows, self.output_rows = input_rows.numpy(), output_rows.numpy()
        self.keep_probabilities = np.asarray(objective.keep_probabilities, dtype=np.float32)
        self.threshold, self.alias = alias_table(np.asarray(objective.noise_weights, dtype=np.float64))
        self.sigmoid = sigmoid_table()
        self.block_size = BLOCK_SIZE if len(output_rows) >= SMALL_VOCABULARY else SMALL_BLOCK_SIZE
        nothing = np.empty(0, dtype=np.int32)
        self.learn(nothing, nothing, key=1, first_rate=0.0, last_rate=0.0)  # compile before the time is measured

    def learn(
        self, words: np.ndarray, sentences: np.ndarray, key: int, first_rate: float, last_rate: float
    ) -> float | None:
        """Train on a segment, like `TorchWorker.learn`; the loss is that of one block in 64."""
        state = np.array([key], dtype=np.uint64)
        kept = subsample(words, sentences, self.keep_probabilities, state)
        objective = self.objective
        matrices = (words[:kept], sentences[:kept], self.input_rows, self.output_rows, self.threshold, self.alias)
        sizes = (objective.window, objective.shrink_windows, objective.negative)
        rates = (float(first_rate), float(last_rate), state, self.sigmoid)
        if objective.architecture == "skip-gram":
            loss, number = train_skip_gram(*matrices, *sizes, *rates, self.block_size, self.subwords)
        else:
            loss, number = train_cbow(*matrices, *sizes, objective.cbow_mean, *rates, self.subwords)
        return loss / number if number else None
