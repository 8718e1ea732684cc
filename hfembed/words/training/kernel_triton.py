"""The Triton kernels: blocks of word2vec on a GPU, a hundred at once on shared rows without locks ("Hogwild").

The unit is the block of `kernel_torch`: N consecutive words, centers and context of each other, with K negatives that
they share. One program of the kernel processes a block from its words to the last row written, all in the registers of
a multiprocessor: rows are loaded once, three matrix products run on the tensor cores, and atomic additions write the
steps back. A program continues with the next block at once; as many blocks as there are programs are in flight, and
they do not see each other's steps, like the words of one step in `kernel_torch`: the row cap limits them, here with
the pair weight that the other blocks in flight are *expected* to put on a row.

With subwords a program composes the words of its block, the means of their rows, into scratch memory of its own, and
adds the step of each word to all its rows when the block is done: once per block, not once per pair.

A segment is subsampled on the GPU without the host waiting for how many words are left: the kernel reads their number.

Mikolov et al., "Distributed Representations of Words and Phrases and their Compositionality", 2013, equation 4; Recht
et al., "Hogwild!: A Lock-Free Approach to Parallelizing Stochastic Gradient Descent", 2011.
"""

import numpy as np
import torch
import triton
import triton.language as tl

from hfembed.words.training.alias_table import alias_table
from hfembed.words.training.kernel_torch import CbowStep, SkipGramStep, Words
from hfembed.words.training.segments import Objective
from hfembed.words.training.subword_table import SubwordTable

BLOCK_SIZE = 32
"""N, words per block, and K, its negatives."""
NUM_WARPS = 8
"""Warps per block: with fewer, its matrices do not fit into their registers."""
_NUMBERS = ["vocab_size", "seed"]  # no kernel specialized for each kind of these


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
def _capped(rate, weight, crowd, CAP: tl.constexpr):
    """Learning rates of rows, limited by the row cap.

    The weight that this block puts on a row is exact, that of the other blocks is an expectation.
    """
    return tl.minimum(rate, CAP / tl.maximum(weight + crowd, 1e-6))


@triton.jit
def _output_rates(rate, word, noise, output_weight, noise_weight, output_crowd, CAP: tl.constexpr):
    """Learning rates of the block's output rows and of its negatives."""
    weight = _weight_on(word, word, output_weight) + _weight_on(word, noise, noise_weight)
    output_rate = _capped(rate, weight, tl.load(output_crowd + word), CAP)
    weight = _weight_on(noise, word, output_weight) + _weight_on(noise, noise, noise_weight)
    return output_rate, _capped(rate, weight, tl.load(output_crowd + noise), CAP)


@triton.jit
def _find_parts(offsets, word, inside):
    """Where the rows of each of the block's words begin in `parts`, and how many they are: 0 outside the segment."""
    begin = tl.load(offsets + word)
    return begin, tl.where(inside, tl.load(offsets + word + 1) - begin, 0).to(tl.int32)


@triton.jit
def _compose(
    input_rows, offsets, parts, part_scale, word, inside, composed, n, SIZE: tl.constexpr, CHUNK: tl.constexpr
):
    """Write the mean of the rows of each of the block's words to `composed`, (N, SIZE)."""
    begin, number = _find_parts(offsets, word, inside)
    longest = tl.max(number, axis=0)
    share = tl.load(part_scale + word)
    tl.debug_barrier()  # nobody reads the block before any more
    for start in range(0, SIZE, CHUNK):
        d = start + tl.arange(0, CHUNK)[None, :]
        total = tl.zeros((n.shape[0], CHUNK), tl.float32)
        for k in tl.range(longest, loop_unroll_factor=4):  # several rows on their way at once
            row = tl.load(parts + begin + k, mask=k < number, other=0).to(tl.int64)
            total += tl.load(input_rows + row[:, None] * SIZE + d, mask=(k < number)[:, None] & (d < SIZE), other=0.0)
        tl.store(composed + n[:, None] * SIZE + d, total * share[:, None], mask=d < SIZE)
    tl.debug_barrier()


@triton.jit
def _spread(
    input_rows, offsets, parts, word, inside, rate, weight, crowd, d, x_step, SIZE: tl.constexpr, CAP: tl.constexpr
):
    """Add dimensions `d` of what each of the block's words learned to all its rows, each limited by the row cap."""
    begin, number = _find_parts(offsets, word, inside)
    for k in range(tl.max(number, axis=0)):
        row = tl.load(parts + begin + k, mask=k < number, other=0).to(tl.int64)
        row_rate = _capped(rate, weight, tl.load(crowd + row), CAP)
        written = (k < number)[:, None] & (d < SIZE)
        tl.atomic_add(input_rows + row[:, None] * SIZE + d, x_step * row_rate[:, None], mask=written, sem="relaxed")


@triton.jit
def _load_rows(x_rows, x_places, output_rows, inputs, outputs, d, SIZE: tl.constexpr):
    """Dimensions `d` of the block's words, its output rows and its negatives, (N, CHUNK) each."""
    x = tl.load(x_rows + x_places + d, mask=d < SIZE, other=0.0)
    y = tl.load(output_rows + inputs + d, mask=d < SIZE, other=0.0)
    z = tl.load(output_rows + outputs + d, mask=d < SIZE, other=0.0)
    return x, y, z


@triton.jit
def _add_rows(output_rows, inputs, outputs, d, inside, y_step, z_step, SIZE: tl.constexpr):
    """Write back the steps of output rows and negatives; positions outside the segment have no row."""
    written = (d < SIZE) & inside[:, None]
    tl.atomic_add(output_rows + inputs + d, y_step, mask=written, sem="relaxed")
    tl.atomic_add(output_rows + outputs + d, z_step, mask=d < SIZE, sem="relaxed")


@triton.jit(do_not_specialize=_NUMBERS)
def train_skip_gram(
    words,
    sentences,
    counter,
    input_rows,
    output_rows,
    threshold,
    alias,
    vocab_size,
    input_crowd,
    output_crowd,
    offsets,
    parts,
    part_scale,
    scratch,
    losses,
    seed,
    first_rate,
    last_rate,
    SUBWORDS: tl.constexpr,
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
        words: int32 (at least count,), already subsampled.
        sentences: int32 likewise, a number that changes at every border.
        counter: int32 (1,), the count.
        input_rows: float32 (vocab_size, SIZE), or with SUBWORDS (rows, SIZE), changed in place.
        output_rows: float32 (vocab_size, SIZE), changed in place.
        threshold: From `alias_table`, float32 (vocab_size,).
        alias: From `alias_table`, int32 (vocab_size,).
        vocab_size: Words of the vocabulary.
        input_crowd: float32, pair weight expected on each input row from other blocks in flight; with SUBWORDS also
            from other words of the block.
        output_crowd: float32 (vocab_size,), from other blocks in flight.
        offsets: int64 (vocab_size + 1,): word w is the mean of rows parts[offsets[w] : offsets[w + 1]].
        parts: int32.
        part_scale: float32 (vocab_size,), 1 / number of rows of each word.
        scratch: float32 (programs, N, SIZE), for the words of each program's block.
        losses: float32 (programs, 2): receives the sum of losses and the number of pairs of one block in 16.
        seed: Of all random numbers.
        first_rate: Learning rate at the first word.
        last_rate: Learning rate after the last word; linear in between.
        SUBWORDS: Whether words have several rows; otherwise these four are `None`.
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
    count = tl.load(counter)
    num_blocks = tl.cdiv(count, N)
    # consecutive ones, so that blocks in flight are from all over the segment
    blocks_per_program = tl.cdiv(num_blocks, tl.num_programs(0))
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
        x_rows, x_places = input_rows, inputs
        if SUBWORDS:
            x_rows, x_places = scratch + program * N * SIZE, n[:, None] * SIZE
            _compose(input_rows, offsets, parts, part_scale, word, inside, x_rows, n, SIZE, CHUNK)
        outputs = noise.to(tl.int64)[:, None] * SIZE
        positive = tl.zeros((N, N), tl.float32)  # rows: centers, columns: context
        shared = tl.zeros((N, N), tl.float32)  # rows: negatives
        for start in range(0, SIZE, CHUNK):
            d = start + tl.arange(0, CHUNK)[None, :]
            x, y, z = _load_rows(x_rows, x_places, output_rows, inputs, outputs, d, SIZE)
            positive = tl.dot(y, x.T, positive, input_precision=PRECISION)
            shared = tl.dot(z, x.T, shared, input_precision=PRECISION)
        if turn % 16 == 0:
            loss += tl.sum(_softplus(-positive) * band) + tl.sum(_softplus(shared) * pairs[None, :]) * (NEGATIVE / N)
            num_losses += tl.sum(pairs)

        # scores become the negative gradients with respect to themselves
        positive = band * (1.0 - tl.sigmoid(positive))
        shared = tl.sigmoid(shared) * pairs[None, :] * (-NEGATIVE / N)

        input_weight = _weight_on(word, word, pairs * (1 + NEGATIVE))
        output_weight = tl.sum(band, axis=1)
        noise_weight = tl.zeros((N,), tl.float32) + tl.sum(pairs) * (NEGATIVE / N)
        output_rate, noise_rate = _output_rates(rate, word, noise, output_weight, noise_weight, output_crowd, CAP)

        for start in range(0, SIZE, CHUNK):
            d = start + tl.arange(0, CHUNK)[None, :]
            x, y, z = _load_rows(x_rows, x_places, output_rows, inputs, outputs, d, SIZE)
            x_step = tl.dot(positive.T, y, input_precision=PRECISION)
            x_step = tl.dot(shared.T, z, x_step, input_precision=PRECISION)
            y_step = tl.dot(positive, x, input_precision=PRECISION) * output_rate[:, None]
            z_step = tl.dot(shared, x, input_precision=PRECISION) * noise_rate[:, None]
            _add_rows(output_rows, inputs, outputs, d, inside, y_step, z_step, SIZE)
            if SUBWORDS:
                _spread(
                    input_rows, offsets, parts, word, inside, rate, input_weight, input_crowd, d, x_step, SIZE, CAP
                )
            else:
                x_step *= _capped(rate, input_weight, tl.load(input_crowd + word), CAP)[:, None]
                tl.atomic_add(input_rows + inputs + d, x_step, mask=(d < SIZE) & inside[:, None], sem="relaxed")
    tl.store(losses + 2 * program, loss)
    tl.store(losses + 2 * program + 1, num_losses)


@triton.jit(do_not_specialize=_NUMBERS)
def train_cbow(
    words,
    sentences,
    counter,
    input_rows,
    output_rows,
    threshold,
    alias,
    vocab_size,
    input_crowd,
    output_crowd,
    offsets,
    parts,
    part_scale,
    scratch,
    losses,
    seed,
    first_rate,
    last_rate,
    SUBWORDS: tl.constexpr,
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
    count = tl.load(counter)
    num_blocks = tl.cdiv(count, N)
    # consecutive ones, so that blocks in flight are from all over the segment
    blocks_per_program = tl.cdiv(num_blocks, tl.num_programs(0))
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
        x_rows, x_places = input_rows, inputs
        if SUBWORDS:
            x_rows, x_places = scratch + program * N * SIZE, n[:, None] * SIZE
            _compose(input_rows, offsets, parts, part_scale, word, inside, x_rows, n, SIZE, CHUNK)
        outputs = noise.to(tl.int64)[:, None] * SIZE
        positive = tl.zeros((N,), tl.float32)
        shared = tl.zeros((N, N), tl.float32)  # rows: centers, columns: negatives
        for start in range(0, SIZE, CHUNK):
            d = start + tl.arange(0, CHUNK)[None, :]
            x, y, z = _load_rows(x_rows, x_places, output_rows, inputs, outputs, d, SIZE)
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

        input_weight = _weight_on(word, word, context_size * (1 + NEGATIVE))
        noise_weight = tl.zeros((N,), tl.float32) + tl.sum(valid) * (NEGATIVE / N)
        output_rate, noise_rate = _output_rates(rate, word, noise, valid, noise_weight, output_crowd, CAP)

        for start in range(0, SIZE, CHUNK):
            d = start + tl.arange(0, CHUNK)[None, :]
            x, y, z = _load_rows(x_rows, x_places, output_rows, inputs, outputs, d, SIZE)
            hidden = tl.dot(band, x, input_precision=PRECISION) * scale[:, None]
            error = tl.dot(shared, z, input_precision=PRECISION) + positive[:, None] * y
            x_step = tl.dot(band.T, error * back[:, None], input_precision=PRECISION)
            y_step = hidden * (positive * output_rate)[:, None]
            z_step = tl.dot(shared.T, hidden, input_precision=PRECISION) * noise_rate[:, None]
            _add_rows(output_rows, inputs, outputs, d, inside, y_step, z_step, SIZE)
            if SUBWORDS:
                _spread(
                    input_rows, offsets, parts, word, inside, rate, input_weight, input_crowd, d, x_step, SIZE, CAP
                )
            else:
                x_step *= _capped(rate, input_weight, tl.load(input_crowd + word), CAP)[:, None]
                tl.atomic_add(input_rows + inputs + d, x_step, mask=(d < SIZE) & inside[:, None], sem="relaxed")
    tl.store(losses + 2 * program, loss)
    tl.store(losses + 2 * program + 1, num_losses)


def keep_some(
    words: torch.Tensor, sentences: torch.Tensor, keep_probabilities: torch.Tensor, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Drop frequent words at random, as word2vec does, without waiting for how many are left.

    Args:
        words: int32 (n,).
        sentences: int32 (n,).
        keep_probabilities: float32 (vocab_size,).
        generator: On the device of all of them.

    Returns:
        Words and sentences, int32 (n + 1,) each, the kept ones first, and the number of these, int32 (1,).
    """
    kept = torch.rand(len(words), generator=generator, device=words.device) < keep_probabilities.index_select(0, words)
    places = torch.where(kept, kept.cumsum(0) - 1, len(words))  # the dropped ones all go to the last
    left = [values.new_zeros(len(values) + 1).scatter_(0, places, values) for values in (words, sentences)]
    return left[0], left[1], kept.sum(dtype=torch.int32).view(1)


class TritonWorker:
    """Trains on segments with the Triton kernels.

    Several may be used at once by threads with streams of their own, on which they prepare segments; the kernels run
    on the device's default stream, one after the other.

    Args:
        input_rows: float32 (vocab_size, embedding_size) on a GPU, changed in place; with subwords, those of the
            n-grams follow.
        output_rows: float32 (vocab_size, embedding_size), likewise.
        objective: What is learned.
        num_programs: Blocks in flight.
        precision: Of the matrix products: "tf32" (the tensor cores' float32: 10 bits of mantissa, sums in full) or
            "ieee".
        subwords: The rows of each word, where it has more than one.
    """

    def __init__(
        self,
        input_rows: torch.Tensor,
        output_rows: torch.Tensor,
        objective: Objective,
        num_programs: int,
        precision: str = "tf32",
        subwords: SubwordTable | None = None,
    ):
        self.objective, self.device = objective, input_rows.device
        self.input_rows, self.output_rows = input_rows, output_rows
        self.num_programs, self.precision = num_programs, precision
        self.keep_probabilities = torch.as_tensor(objective.keep_probabilities, dtype=torch.float32).to(self.device)
        threshold, alias = alias_table(np.asarray(objective.noise_weights, dtype=np.float64))
        self.threshold = torch.from_numpy(threshold).to(self.device)
        self.alias = torch.from_numpy(alias.astype(np.int32)).to(self.device)
        # corpus words that the blocks in flight stand for
        flight = BLOCK_SIZE * num_programs / (objective.frequencies * objective.keep_probabilities).sum()
        others = flight * (num_programs - 1) / num_programs
        input_pairs, output_pairs = objective.pairs_per_word()
        if subwords is None:
            crowds = [input_pairs * others, output_pairs * others]
            self.subwords: list[torch.Tensor | None] = [None] * 4
        else:
            crowds = [subwords.add_up(input_pairs, len(input_rows)) * flight, output_pairs * others]
            scratch = torch.empty(num_programs, BLOCK_SIZE, input_rows.shape[1])
            tables = [torch.from_numpy(table) for table in (subwords.offsets, subwords.rows, subwords.scale)]
            self.subwords = [table.to(self.device) for table in (*tables, scratch)]
        self.crowds = [torch.as_tensor(crowd, dtype=torch.float32).to(self.device) for crowd in crowds]
        if objective.architecture == "skip-gram":
            self.kernel, self.options = train_skip_gram, {"CAP": SkipGramStep.row_cap}
        else:
            self.kernel, self.options = train_cbow, {"CAP": CbowStep.row_cap, "MEAN": objective.cbow_mean}
        nothing = np.empty(0, dtype=np.int32)
        self.learn(nothing, nothing, key=1, first_rate=0.0, last_rate=0.0)  # compile before the time is measured

    def learn(self, words: Words, sentences: Words, key: int, first_rate: float, last_rate: float) -> float | None:
        """Train on a segment, like `TorchWorker.learn`; the loss is that of one block in 16."""
        generator = torch.Generator(self.device).manual_seed(key)
        words, sentences = (torch.as_tensor(array, device=self.device) for array in (words, sentences))
        ids, numbers, count = keep_some(words, sentences, self.keep_probabilities, generator)
        losses = torch.zeros(self.num_programs, 2, device=self.device)
        training = None
        if self.device.type == "cuda":
            prepared = torch.cuda.current_stream(self.device)
            training = torch.cuda.default_stream(self.device)
            training.wait_stream(prepared)
        objective, size = self.objective, self.input_rows.shape[1]
        # a new thread uses the first GPU, whatever its rank's
        with torch.cuda.device_of(self.input_rows), torch.cuda.stream(training):
            self.kernel[(self.num_programs,)](
                ids,
                numbers,
                count,
                self.input_rows,
                self.output_rows,
                self.threshold,
                self.alias,
                len(self.alias),
                *self.crowds,
                *self.subwords,
                losses,
                key % 2**31,
                float(first_rate),
                float(last_rate),
                SUBWORDS=self.subwords[0] is not None,
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
            loss, number = losses.sum(0).tolist()  # waits: what the kernel read can be freed
        return loss / number if number else None
