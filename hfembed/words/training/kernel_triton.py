"""The Triton kernels: blocks of word2vec on a GPU, a hundred at once on shared rows without locks ("Hogwild").

The unit is the block of `kernel_torch`: N consecutive words, centers and context of each other, with K negatives that
they share. One program of the kernel processes a block from its words to the last row written, all in the registers of
a multiprocessor: rows are loaded once, three matrix products run on the tensor cores, and atomic additions write the
steps back. A program continues with the next block at once; as many blocks as there are programs are in flight, and
they do not see each other's steps, like the words of one step in `kernel_torch`: the row cap limits them, here with
the pair weight that the other blocks in flight are *expected* to put on a row.

Mikolov et al., "Distributed Representations of Words and Phrases and their Compositionality", 2013, equation 4; Recht
et al., "Hogwild!: A Lock-Free Approach to Parallelizing Stochastic Gradient Descent", 2011.
"""

import numpy as np
import torch
import triton
import triton.language as tl

from hfembed.words.training.alias_table import alias_table
from hfembed.words.training.kernel_torch import CbowStep, SkipGramStep, subsample
from hfembed.words.training.segments import Objective

BLOCK_SIZE = 32
"""N, words per block, and K, its negatives."""
NUM_WARPS = 8
"""Warps per block: with fewer, its matrices do not fit into their registers."""
_NUMBERS = [
    "count",
    "vocab_size",
    "seed",
    "num_blocks",
    "blocks_per_program",
]  # no kernel specialized for each kind of these


@triton.jit
def _draw_noise(seed, place, threshold, alias, vocab_size):
    """Words from the alias table, int32; `place` counts the draws."""
    row, coin, _, _ = tl.randint4x(seed, place)
    row = tl.umulhi(row.to(tl.uint32), vocab_size.to(tl.uint32)).to(tl.int32)
    coin = (coin.to(tl.uint32) >> 8).to(tl.float32) * 5.9604645e-08  # 2 ** -24
    return tl.where(coin < tl.load(threshold + row), row, tl.load(alias + row))


@triton.jit
def _draw_band(seed, place, inside, sentence, n, WINDOW: tl.constexpr, SHRINK: tl.constexpr):
    """Float ones (N, N) where the column's word is context of the row's; a GPU draws faster than it loads."""
    reach = tl.full(n.shape, WINDOW, tl.int32)
    if SHRINK:
        reach = 1 + (tl.randint(seed, place).to(tl.uint32) % WINDOW).to(tl.int32)
    distance = tl.abs(n[:, None] - n[None, :])
    band = (distance > 0) & (distance <= reach[:, None]) & (sentence[:, None] == sentence[None, :])
    return (band & inside[:, None] & inside[None, :]).to(tl.float32)


@triton.jit
def _softplus(score):
    return tl.maximum(score, 0.0) + tl.log(1.0 + tl.exp(-tl.abs(score)))


@triton.jit
def _weight_on(rows, other_rows, other_weights):
    """Pair weight that falls on each of `rows` where `other_rows` are the same."""
    return tl.sum(tl.where(rows[:, None] == other_rows[None, :], other_weights[None, :], 0.0), axis=1)


@triton.jit
def _capped_rates(
    rate, word, noise, input_weight, output_weight, noise_weight, input_crowd, output_crowd, CAP: tl.constexpr
):
    """Learning rates of the block's input rows, output rows and negatives, limited by the row cap.

    The weight that this block puts on a row is exact, that of the other blocks is an expectation.
    """
    crowd = _weight_on(word, word, input_weight) + tl.load(input_crowd + word)
    input_rate = tl.minimum(rate, CAP / tl.maximum(crowd, 1e-6))
    crowd = _weight_on(word, word, output_weight) + _weight_on(word, noise, noise_weight)
    output_rate = tl.minimum(rate, CAP / tl.maximum(crowd + tl.load(output_crowd + word), 1e-6))
    crowd = _weight_on(noise, word, output_weight) + _weight_on(noise, noise, noise_weight)
    noise_rate = tl.minimum(rate, CAP / tl.maximum(crowd + tl.load(output_crowd + noise), 1e-6))
    return input_rate, output_rate, noise_rate


@triton.jit
def _load_rows(input_rows, output_rows, inputs, outputs, d, SIZE: tl.constexpr):
    """Dimensions `d` of the block's input rows, its output rows and its negatives, (N, CHUNK) each."""
    x = tl.load(input_rows + inputs + d, mask=d < SIZE, other=0.0)
    y = tl.load(output_rows + inputs + d, mask=d < SIZE, other=0.0)
    z = tl.load(output_rows + outputs + d, mask=d < SIZE, other=0.0)
    return x, y, z


@triton.jit
def _add_rows(input_rows, output_rows, inputs, outputs, d, inside, x_step, y_step, z_step, SIZE: tl.constexpr):
    """Write back the steps of what `_load_rows` loaded; positions outside the segment have no row."""
    written = (d < SIZE) & inside[:, None]
    tl.atomic_add(input_rows + inputs + d, x_step, mask=written, sem="relaxed")
    tl.atomic_add(output_rows + inputs + d, y_step, mask=written, sem="relaxed")
    tl.atomic_add(output_rows + outputs + d, z_step, mask=d < SIZE, sem="relaxed")


@triton.jit(do_not_specialize=_NUMBERS)
def train_skip_gram(
    words,
    sentences,
    count,
    input_rows,
    output_rows,
    threshold,
    alias,
    vocab_size,
    input_crowd,
    output_crowd,
    losses,
    seed,
    first_rate,
    last_rate,
    num_blocks,
    blocks_per_program,
    SIZE: tl.constexpr,
    CHUNK: tl.constexpr,
    N: tl.constexpr,
    WINDOW: tl.constexpr,
    SHRINK: tl.constexpr,
    NEGATIVE: tl.constexpr,
    CAP: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Skip-gram over a segment: each context word alone predicts the center word.

    Args:
        words: int32 (count,), already subsampled.
        sentences: int32 (count,), a number that changes at every border.
        count: Words.
        input_rows: float32 (vocab_size, SIZE), changed in place.
        output_rows: float32 (vocab_size, SIZE), changed in place.
        threshold: From `alias_table`, float32 (vocab_size,).
        alias: From `alias_table`, int32 (vocab_size,).
        vocab_size: Words of the vocabulary.
        input_crowd: float32 (vocab_size,), pair weight expected on each row from other blocks in flight.
        output_crowd: Likewise.
        losses: float32 (programs, 2): receives the sum of losses and the number of pairs of one block in 16.
        seed: Of all random numbers.
        first_rate: Learning rate at the first word.
        last_rate: Learning rate after the last word; linear in between.
        num_blocks: Blocks of the segment.
        blocks_per_program: Consecutive blocks of a program, so that blocks in flight are from all over the segment.
        SIZE: Dimensions of a vector.
        CHUNK: Dimensions processed at once, a power of two.
        N: Words per block, and negatives.
        WINDOW: Largest distance of a context word.
        SHRINK: Whether each center draws its own from 1 to WINDOW.
        NEGATIVE: Negatives per pair, in expectation.
        CAP: The row cap.
        PRECISION: Of the matrix products, as in `tl.dot`.
    """
    program = tl.program_id(0)
    n = tl.arange(0, N)
    loss = 0.0
    num_losses = 0.0
    for turn in range(blocks_per_program):
        # programs are at the same point of their shares at the same time, and so is the learning rate
        rate = first_rate + (last_rate - first_rate) * turn / blocks_per_program
        block = program * blocks_per_program + turn
        position = block * N + n
        inside = position < count
        word = tl.load(words + position, mask=inside, other=0)
        sentence = tl.load(sentences + position, mask=inside, other=-1)
        noise = _draw_noise(seed, position, threshold, alias, vocab_size)
        band = _draw_band(seed, position + num_blocks * N, inside, sentence, n, WINDOW, SHRINK)
        pairs = tl.sum(band, axis=0)  # of each context position

        inputs = word.to(tl.int64)[:, None] * SIZE
        outputs = noise.to(tl.int64)[:, None] * SIZE
        positive = tl.zeros((N, N), tl.float32)  # rows: centers, columns: context
        shared = tl.zeros((N, N), tl.float32)  # rows: negatives
        for start in range(0, SIZE, CHUNK):
            d = start + tl.arange(0, CHUNK)[None, :]
            x, y, z = _load_rows(input_rows, output_rows, inputs, outputs, d, SIZE)
            positive = tl.dot(y, x.T, positive, input_precision=PRECISION)
            shared = tl.dot(z, x.T, shared, input_precision=PRECISION)
        if turn % 16 == 0:
            loss += tl.sum(_softplus(-positive) * band) + tl.sum(_softplus(shared) * pairs[None, :]) * (NEGATIVE / N)
            num_losses += tl.sum(pairs)

        # scores become the negative gradients with respect to themselves
        positive = band * (1.0 - tl.sigmoid(positive))
        shared = tl.sigmoid(shared) * pairs[None, :] * (-NEGATIVE / N)

        input_weight = pairs * (1 + NEGATIVE)
        output_weight = tl.sum(band, axis=1)
        noise_weight = tl.zeros((N,), tl.float32) + tl.sum(pairs) * (NEGATIVE / N)
        input_rate, output_rate, noise_rate = _capped_rates(
            rate, word, noise, input_weight, output_weight, noise_weight, input_crowd, output_crowd, CAP
        )

        for start in range(0, SIZE, CHUNK):
            d = start + tl.arange(0, CHUNK)[None, :]
            x, y, z = _load_rows(input_rows, output_rows, inputs, outputs, d, SIZE)
            x_step = tl.dot(positive.T, y, input_precision=PRECISION)
            x_step = tl.dot(shared.T, z, x_step, input_precision=PRECISION) * input_rate[:, None]
            y_step = tl.dot(positive, x, input_precision=PRECISION) * output_rate[:, None]
            z_step = tl.dot(shared, x, input_precision=PRECISION) * noise_rate[:, None]
            _add_rows(input_rows, output_rows, inputs, outputs, d, inside, x_step, y_step, z_step, SIZE)
    tl.store(losses + 2 * program, loss)
    tl.store(losses + 2 * program + 1, num_losses)


@triton.jit(do_not_specialize=_NUMBERS)
def train_cbow(
    words,
    sentences,
    count,
    input_rows,
    output_rows,
    threshold,
    alias,
    vocab_size,
    input_crowd,
    output_crowd,
    losses,
    seed,
    first_rate,
    last_rate,
    num_blocks,
    blocks_per_program,
    SIZE: tl.constexpr,
    CHUNK: tl.constexpr,
    N: tl.constexpr,
    WINDOW: tl.constexpr,
    SHRINK: tl.constexpr,
    NEGATIVE: tl.constexpr,
    MEAN: tl.constexpr,
    CAP: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """CBOW over a segment: the mean (or the sum, without MEAN) of the context predicts the center word.

    With the mean, the error goes undivided to every context row, as in word2vec.c and gensim. Arguments are those of
    `train_skip_gram`; `losses` counts centers instead of pairs.
    """
    program = tl.program_id(0)
    n = tl.arange(0, N)
    loss = 0.0
    num_losses = 0.0
    for turn in range(blocks_per_program):
        rate = first_rate + (last_rate - first_rate) * turn / blocks_per_program
        block = program * blocks_per_program + turn
        position = block * N + n
        inside = position < count
        word = tl.load(words + position, mask=inside, other=0)
        sentence = tl.load(sentences + position, mask=inside, other=-1)
        noise = _draw_noise(seed, position, threshold, alias, vocab_size)
        band = _draw_band(seed, position + num_blocks * N, inside, sentence, n, WINDOW, SHRINK)
        context_size = tl.sum(band, axis=1)
        valid = tl.minimum(context_size, 1.0)  # a center without context has nothing to say
        share = 1.0 / tl.maximum(context_size, 1.0)
        scale = share if MEAN else valid
        back = valid if MEAN else share

        inputs = word.to(tl.int64)[:, None] * SIZE
        outputs = noise.to(tl.int64)[:, None] * SIZE
        positive = tl.zeros((N,), tl.float32)
        shared = tl.zeros((N, N), tl.float32)  # rows: centers, columns: negatives
        for start in range(0, SIZE, CHUNK):
            d = start + tl.arange(0, CHUNK)[None, :]
            x, y, z = _load_rows(input_rows, output_rows, inputs, outputs, d, SIZE)
            hidden = tl.dot(band, x, input_precision=PRECISION) * scale[:, None]
            positive += tl.sum(hidden * y, axis=1)
            shared = tl.dot(hidden, z.T, shared, input_precision=PRECISION)
        if turn % 16 == 0:
            loss += tl.sum(_softplus(-positive) * valid)
            loss += tl.sum(_softplus(shared) * valid[:, None]) * (NEGATIVE / N)
            num_losses += tl.sum(valid)

        # scores become the negative gradients with respect to themselves
        positive = valid * (1.0 - tl.sigmoid(positive))
        shared = tl.sigmoid(shared) * valid[:, None] * (-NEGATIVE / N)

        input_weight = context_size * (1 + NEGATIVE)
        noise_weight = tl.zeros((N,), tl.float32) + tl.sum(valid) * (NEGATIVE / N)
        input_rate, output_rate, noise_rate = _capped_rates(
            rate, word, noise, input_weight, valid, noise_weight, input_crowd, output_crowd, CAP
        )

        for start in range(0, SIZE, CHUNK):
            d = start + tl.arange(0, CHUNK)[None, :]
            x, y, z = _load_rows(input_rows, output_rows, inputs, outputs, d, SIZE)
            hidden = tl.dot(band, x, input_precision=PRECISION) * scale[:, None]
            error = tl.dot(shared, z, input_precision=PRECISION) + positive[:, None] * y
            x_step = tl.dot(band.T, error * back[:, None], input_precision=PRECISION) * input_rate[:, None]
            y_step = hidden * (positive * output_rate)[:, None]
            z_step = tl.dot(shared.T, hidden, input_precision=PRECISION) * noise_rate[:, None]
            _add_rows(input_rows, output_rows, inputs, outputs, d, inside, x_step, y_step, z_step, SIZE)
    tl.store(losses + 2 * program, loss)
    tl.store(losses + 2 * program + 1, num_losses)


class TritonWorker:
    """Trains on segments with the Triton kernels.

    Args:
        input_rows: float32 (vocab_size, embedding_size) on a GPU, changed in place.
        output_rows: Likewise.
        objective: What is learned.
        num_programs: Blocks in flight.
        precision: Of the matrix products: "tf32" (the tensor cores' float32: 10 bits of mantissa, sums in full) or
            "ieee".
    """

    def __init__(
        self,
        input_rows: torch.Tensor,
        output_rows: torch.Tensor,
        objective: Objective,
        num_programs: int,
        precision: str = "tf32",
    ):
        self.objective, self.device = objective, input_rows.device
        self.input_rows, self.output_rows = input_rows, output_rows
        self.num_programs, self.precision = num_programs, precision
        self.keep_probabilities = torch.as_tensor(objective.keep_probabilities, dtype=torch.float32).to(self.device)
        threshold, alias = alias_table(np.asarray(objective.noise_weights, dtype=np.float64))
        self.threshold = torch.from_numpy(threshold).to(self.device)
        self.alias = torch.from_numpy(alias.astype(np.int32)).to(self.device)
        # corpus words that the other blocks in flight stand for
        others = BLOCK_SIZE * (num_programs - 1) / (objective.frequencies * objective.keep_probabilities).sum()
        self.crowds = [
            torch.as_tensor(pairs * others, dtype=torch.float32).to(self.device)
            for pairs in objective.pairs_per_word()
        ]
        if objective.architecture == "skip-gram":
            self.kernel, self.options = train_skip_gram, {"CAP": SkipGramStep.row_cap}
        else:
            self.kernel, self.options = train_cbow, {"CAP": CbowStep.row_cap, "MEAN": objective.cbow_mean}
        # segments are transferred and subsampled while the one before them is trained on
        self.preparing = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        nothing = np.empty(0, dtype=np.int32)
        self.learn(nothing, nothing, key=1, first_rate=0.0, last_rate=0.0)  # compile before the time is measured

    def learn(
        self, words: np.ndarray, sentences: np.ndarray, key: int, first_rate: float, last_rate: float
    ) -> float | None:
        """Train on a segment, like `TorchWorker.learn`; the loss is that of one block in 16."""
        with torch.cuda.stream(self.preparing):
            generator = torch.Generator(self.device).manual_seed(key)
            ids, numbers = subsample(words, sentences, self.keep_probabilities, generator)
            losses = torch.zeros(self.num_programs, 2, device=self.device)
        if self.preparing is not None:
            torch.cuda.current_stream(self.device).wait_stream(self.preparing)
            for tensor in (ids, numbers, losses):
                tensor.record_stream(torch.cuda.current_stream(self.device))

        num_blocks = -(-len(ids) // BLOCK_SIZE)
        objective, size = self.objective, self.input_rows.shape[1]
        with torch.cuda.device_of(self.input_rows):  # a new thread uses the first GPU, whatever its rank's
            self.kernel[(self.num_programs,)](
                ids,
                numbers,
                len(ids),
                self.input_rows,
                self.output_rows,
                self.threshold,
                self.alias,
                len(self.alias),
                *self.crowds,
                losses,
                key % 2**31,
                float(first_rate),
                float(last_rate),
                num_blocks,
                -(-num_blocks // self.num_programs),
                SIZE=size,
                CHUNK=128 if 64 < size <= 128 else 64,
                N=BLOCK_SIZE,
                WINDOW=objective.window,
                SHRINK=objective.shrink_windows,
                NEGATIVE=objective.negative,
                PRECISION=self.precision,
                num_warps=NUM_WARPS,
                num_stages=1,
                **self.options,
            )
        loss, number = losses.sum(0).tolist()
        return loss / number if number else None
