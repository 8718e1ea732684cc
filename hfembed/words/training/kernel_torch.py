"""The block-banded step: word2vec as three batched matrix products, gradients by hand, on CPU threads and GPUs alike.

A block is N consecutive words, each of them a center and context of the others: windows end at its borders as at those
of sentences, which costs a few percent of the pairs and saves fetching the rows around. Its score matrix holds every
(output row, context position) product at once; a band (the window) picks the positive pairs, and K negatives are
shared by the whole block, weighted so that in expectation every pair has `negative` of them. Two things make steps of
thousands of words learn as well as one word at a time: the blocks of a step come from across the segment, and the step
of a row that occurs in many pairs is limited (the row cap).

Mikolov et al., "Distributed Representations of Words and Phrases and their Compositionality", 2013, equation 4.
"""

import math

import numpy as np
import torch
from torch.nn import functional as F

from hfembed.words.training.alias_table import alias_table
from hfembed.words.training.segments import Objective
from hfembed.words.training.subword_table import SubwordBags, SubwordTable

Words = np.ndarray | torch.Tensor
"""One dimension of a segment's words, on the host or on a GPU."""
_TOGETHER = 16  # steps whose bookkeeping is done at once; the loss is that of the first


class NegativeSampler:
    """Draws words in proportion to the given weights, by the alias method: two random numbers per word.

    Args:
        weights: float64 (vocab_size,), not negative; word2vec takes counts ** 0.75.
        device: Where to draw.
    """

    def __init__(self, weights: np.ndarray, device: torch.device | str = "cpu"):
        threshold, alias = alias_table(weights)
        self.threshold, self.alias = torch.from_numpy(threshold).to(device), torch.from_numpy(alias).to(device)

    def draw(self, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
        """Return int64 word ids of `shape`."""
        device = self.alias.device
        rows = torch.randint(len(self.alias), shape, generator=generator, device=device)
        threshold = self.threshold.index_select(0, rows.flatten()).view(shape)
        kept = torch.rand(shape, generator=generator, device=device) < threshold
        return torch.where(kept, rows, self.alias.index_select(0, rows.flatten()).view(shape))


def subsample(
    words: Words, sentences: Words, keep_probabilities: torch.Tensor, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Move a segment to the device, if it is not there, and drop frequent words at random, as word2vec does.

    Returns:
        Words and sentences that are left, int32 (kept,) each, on the device.
    """
    device = keep_probabilities.device
    ids, numbers = torch.as_tensor(words, device=device), torch.as_tensor(sentences, device=device)
    keep = keep_probabilities.index_select(0, ids)
    kept = (torch.rand(len(ids), generator=generator, device=device) < keep).nonzero().flatten()
    return ids.index_select(0, kept), numbers.index_select(0, kept)


class BlockStep:
    """One thread's workspace and arithmetic for steps over blocks; the loss is that of the subclass.

    Args:
        input_rows: float32 (vocab_size, embedding_size), changed in place.
        output_rows: float32 (vocab_size, embedding_size), changed in place.
        negative: Negatives per pair, in expectation.
        cbow_mean: Only for CBOW: average the context (True) or sum it.
        subwords: The rows of each word, where it has more than one; `input_rows` then has those of the n-grams too.
    """

    block_size: int
    """N, words per block."""
    shared_negatives: int
    """K, negatives shared by a block."""
    row_cap: float
    """A row moves at most as far as `row_cap / learning_rate` predictions would move it: the curvature of the logistic
    loss grows with their number, and beyond that a single step overshoots."""

    def __init__(
        self,
        input_rows: torch.Tensor,
        output_rows: torch.Tensor,
        negative: int,
        cbow_mean: bool = True,
        subwords: SubwordTable | None = None,
    ):
        self.input_rows, self.output_rows = input_rows, output_rows
        self.subwords = None if subwords is None else SubwordBags(subwords, input_rows.device)
        self.negative, self.cbow_mean = negative, cbow_mean
        self.pairs_per_row = torch.empty(_TOGETHER * input_rows.shape[0], device=input_rows.device)
        self.workspace: dict[str, torch.Tensor] = {}

    def buffer(self, name: str, *shape: int) -> torch.Tensor:
        """A reused tensor: allocating megabytes in each step would cost as much in page faults as the arithmetic."""
        size = math.prod(shape)
        if name not in self.workspace or self.workspace[name].numel() < size:
            self.workspace[name] = torch.empty(size, device=self.input_rows.device)
        return self.workspace[name][:size].view(shape)

    def capped_rates(self, rows: torch.Tensor, weights: torch.Tensor, rates: torch.Tensor) -> torch.Tensor:
        """Learning rate of each contribution, limited by the row cap.

        Args:
            rows: int64 (steps, n), the row each contribution goes to; at most `_TOGETHER` steps.
            weights: (steps, n), pair weight of each contribution.
            rates: float32 (steps, 1), learning rates.

        Returns:
            float32 (steps, n).
        """
        # steps are counted apart from each other
        first_row = torch.arange(len(rows), device=rows.device) * self.input_rows.shape[0]
        rows = (rows + first_row[:, None]).flatten()
        self.pairs_per_row.index_fill_(0, rows, 0)
        self.pairs_per_row.index_add_(0, rows, weights.flatten())
        caps = self.pairs_per_row.index_select(0, rows).reciprocal_().mul_(self.row_cap).view_as(weights)
        return torch.minimum(caps, rates, out=caps)

    def spread(
        self, rows: torch.Tensor, owner: torch.Tensor, weights: torch.Tensor, steps: torch.Tensor, rate: torch.Tensor
    ) -> None:
        """Add to all rows of words what each word learned, limited by the row cap.

        Args:
            rows: int64 (n,), from `SubwordBags.find`, and `owner` likewise.
            weights: (words,), pair weight of each word.
            steps: (words, embedding_size), without the learning rate.
            rate: float32 (1,).
        """
        rates = self.capped_rates(rows[None], weights.index_select(0, owner)[None], rate[None])
        spread = self.buffer("spread", len(rows), steps.shape[1])
        torch.index_select(steps, 0, owner, out=spread)
        self.input_rows.index_add_(0, rows, spread.mul_(rates.view(-1, 1)))

    def draw_windows(self, words: torch.Tensor, smallest: int, largest: int, generator: torch.Generator):
        """Draw how far contexts reach, as something that can be sliced by steps.

        Args:
            words: int64 (steps, B, N).
            smallest: Smallest reach.
            largest: Largest reach.
            generator: On the device of `words`.
        """
        raise NotImplementedError

    def __call__(
        self, words: torch.Tensor, sentences: torch.Tensor, windows, negatives: torch.Tensor, rates: torch.Tensor
    ) -> torch.Tensor:
        """Take steps in place, one after the other.

        Args:
            words: int64 (steps, B, N).
            sentences: int32 (steps, B, N), not negative, equal within a sentence; each padded position has its own
                number.
            windows: These steps' slice of what `draw_windows` returned.
            negatives: int64 (steps, B, K).
            rates: float32 (steps, 1), learning rates.

        Returns:
            The mean loss per predicted word before the first step (a pair in skip-gram, a center in CBOW).
        """
        raise NotImplementedError


class SkipGramStep(BlockStep):
    """Skip-gram: each context word alone predicts the center word."""

    block_size, shared_negatives, row_cap = 32, 24, 1.5

    def draw_windows(self, words, smallest, largest, generator):
        """Return int64 (steps, B, N): one per center."""
        return torch.randint(smallest, largest + 1, words.shape, generator=generator, device=words.device)

    def band(self, sentences: torch.Tensor, windows: torch.Tensor) -> torch.Tensor:
        """Positive pairs as float32 ones (B, N, N): one row per center, one column per context position."""
        place = torch.arange(sentences.shape[1], device=sentences.device)
        distance = (place - place[:, None]).abs_()
        distance.fill_diagonal_(len(place))  # a word is not its own context
        inside = (distance <= windows[:, :, None]).logical_and_(sentences[:, :, None] == sentences[:, None])
        return self.buffer("band", *inside.shape).copy_(inside)

    def __call__(self, words, sentences, windows, negatives, rates):  # noqa: D102
        (_, num_blocks, block), size = words.shape, self.input_rows.shape[1]
        height = block + self.shared_negatives
        inputs = words.flatten(1)
        outputs = torch.cat([words, negatives], dim=2).flatten(1)  # (steps, B * (N + K))
        negative_weight = self.negative / self.shared_negatives

        x_rows = self.buffer("x", num_blocks * block, size)
        y_rows = self.buffer("y", num_blocks * height, size)
        x, y = x_rows.view(num_blocks, block, size), y_rows.view(num_blocks, height, size)
        y_step = self.buffer("y step", num_blocks, height, size)
        scores = self.buffer("scores", num_blocks, height, block)
        positive, shared = scores[:, :block], scores[:, block:]
        loss = None
        for t, rate in enumerate(rates.unbind()):
            if self.subwords is None:
                torch.index_select(self.input_rows, 0, inputs[t], out=x_rows)
            else:
                rows, owner, begins = self.subwords.find(inputs[t])
                x_rows.copy_(self.subwords.compose(self.input_rows, inputs[t], rows, begins))
            torch.index_select(self.output_rows, 0, outputs[t], out=y_rows)
            band = self.band(sentences[t], windows[t])
            pairs = band.sum(1)  # (B, N): positive pairs of each position, m_j
            torch.bmm(y, x.transpose(1, 2), out=scores)
            if loss is None:
                loss = (F.softplus(shared).sum(1) * pairs).sum() * negative_weight
                loss = (loss + (F.softplus(-positive) * band).sum()) / pairs.sum().clamp(min=1)

            # scores become the negative gradients with respect to themselves
            scores.sigmoid_()
            torch.addcmul(band, positive, band, value=-1, out=positive)
            shared.mul_(pairs[:, None] * -negative_weight)
            torch.bmm(scores, x, out=y_step)
            x_step = torch.bmm(scores.transpose(1, 2), y, out=x)  # x is no longer needed
            shared_weight = (pairs.sum(1, keepdim=True) * negative_weight).expand(-1, self.shared_negatives)
            output_weights = torch.cat([band.sum(2), shared_weight], dim=1).flatten()
            input_weights = pairs.view(1, -1) * (1 + self.negative)
            output_rates = self.capped_rates(outputs[t, None], output_weights[None], rate)
            y_step.mul_(output_rates.view(num_blocks, height, 1))
            if self.subwords is None:
                input_rates = self.capped_rates(inputs[t, None], input_weights, rate)
                x_step.mul_(input_rates.view(num_blocks, block, 1))
                self.input_rows.index_add_(0, inputs[t], x_rows)
            else:
                self.spread(rows, owner, input_weights[0], x_rows, rate)
            self.output_rows.index_add_(0, outputs[t], y_step.view(-1, size))
        return loss


class CbowStep(BlockStep):
    """CBOW: the mean (or the sum) of the context predicts the center word.

    A context is a bag of rows, and so are the errors whose sum is the gradient of a position: two `embedding_bag`s
    instead of products with a band that is nearly all zeros. With the mean, the error goes undivided to every context
    row, as in word2vec.c and gensim: dividing it by the number of context words slows down the input rows several
    times over.
    """

    block_size, shared_negatives, row_cap = 128, 16, 4.0

    def draw_windows(self, words, smallest, largest, generator):
        """Return one number per step, the same for steps taken together: their bags have one size."""
        # from the generator's seed, so that on a GPU no step waits for its number
        on_cpu = torch.Generator().manual_seed(generator.initial_seed())
        windows = torch.randint(smallest, largest + 1, (-(-len(words) // _TOGETHER),), generator=on_cpu)
        return windows.repeat_interleave(_TOGETHER).tolist()

    def __call__(self, words, sentences, windows, negatives, rates):  # noqa: D102
        num_steps, num_blocks, block = words.shape
        num_centers, size, window = num_blocks * block, self.input_rows.shape[1], windows[0]
        num_outputs = num_centers + num_blocks * self.shared_negatives
        inputs = words.reshape(num_steps, num_centers)
        outputs = torch.cat([inputs, negatives.reshape(num_steps, -1)], dim=1)  # first targets, then negatives

        # a center's context: the words around it in its block, with a weight where they are of its sentence
        around = words.new_zeros(num_steps, num_blocks, block, 2 * window, dtype=torch.float32)
        contexts = torch.zeros_like(around, dtype=torch.int32)
        for k in range(1, window + 1):
            same = sentences[..., k:] == sentences[..., :-k]
            around[..., k:, window - k], around[..., :-k, window + k - 1] = same, same
            contexts[..., k:, window - k], contexts[..., :-k, window + k - 1] = words[..., :-k], words[..., k:]
        around, contexts = around.flatten(1, 2), contexts.flatten(1)
        bags = torch.arange(0, num_centers * 2 * window, 2 * window, dtype=torch.int32, device=words.device)
        context_size = around.sum(2)
        share = (1 / context_size.clamp(min=1))[..., None]
        weights = (around * share if self.cbow_mean else around).flatten(1)
        # a word is in the context of the words in its own context; positions outside the block have no weight
        distances = torch.cat([torch.arange(-window, 0), torch.arange(1, window + 1)]).to(words.device)
        places = torch.arange(num_centers, device=words.device)[:, None] + distances
        places = places.clamp_(0, num_centers - 1).int().flatten()

        # a center without context contributes nothing: its sum is zero, and nothing receives its error
        valid = context_size.clamp(max=1)
        negative_weight = self.negative / self.shared_negatives
        shared_weight = valid.view(num_steps, num_blocks, block).sum(2, keepdim=True) * negative_weight
        shared_weight = shared_weight.expand(-1, -1, self.shared_negatives).reshape(num_steps, -1)
        output_rates = self.capped_rates(outputs, torch.cat([valid, shared_weight], dim=1), rates)
        target_rates = output_rates[:, :num_centers].unflatten(1, (num_blocks, block, 1))
        negative_rates = output_rates[:, num_centers:, None] * -negative_weight
        input_weights = context_size * (1 + self.negative)
        if self.subwords is None:
            input_rates = self.capped_rates(inputs, input_weights, rates)
            back_weights = (around * input_rates[..., None]).flatten(1)
        else:  # the rows of a word have rates of their own; contexts are places among the composed words
            back_weights = around.flatten(1)
            contexts = places.expand(num_steps, -1)

        y_and_z = self.buffer("y", num_outputs, size)
        y, z_rows = y_and_z[:num_centers].view(num_blocks, block, size), y_and_z[num_centers:]
        z = z_rows.view(num_blocks, -1, size)
        error_rows = self.buffer("error", num_centers, size)
        error = error_rows.view_as(y)
        positive = self.buffer("positive", num_blocks, block, 1)
        shared = self.buffer("shared", num_blocks, block, self.shared_negatives)
        z_transposed, shared_transposed = z.transpose(1, 2), shared.transpose(1, 2)
        loss = None
        # each call may wait for another thread's Python: as few calls as possible
        prepared = (contexts, weights, outputs, target_rates, negative_rates, share, back_weights, inputs)
        for t, (context, weight, outward, target_rate, negative_rate, mean, back_weight, inward) in enumerate(
            zip(*(tensor.unbind() for tensor in prepared), strict=True)
        ):
            x = self.input_rows
            if self.subwords is not None:
                rows, owner, begins = self.subwords.find(inward)
                x = self.subwords.compose(x, inward, rows, begins)
            hidden = F.embedding_bag(context, x, bags, mode="sum", per_sample_weights=weight).view_as(y)
            torch.index_select(self.output_rows, 0, outward, out=y_and_z)
            torch.sum(
                torch.mul(hidden, y, out=error), 2, keepdim=True, out=positive
            )  # error holds the product for now
            torch.bmm(hidden, z_transposed, out=shared)
            if loss is None:
                loss = F.softplus(-positive).mul_(valid[0].view_as(positive)).sum()
                loss += F.softplus(shared).view(num_centers, -1).sum(1).mul_(valid[0]).sum() * negative_weight
                loss /= valid[0].sum().clamp(min=1)

            # scores become the negative gradients with respect to themselves, the shared ones except for their weight
            positive.neg_().sigmoid_()
            shared.sigmoid_()
            torch.mul(y, positive, out=error)
            error.baddbmm_(shared, z, alpha=-negative_weight)
            if not self.cbow_mean:
                error_rows.mul_(mean)
            # overwrite the rows that were read with their steps
            torch.mul(hidden, positive.mul_(target_rate), out=y)
            torch.bmm(shared_transposed, hidden, out=z)
            z_rows.mul_(negative_rate)
            x_step = F.embedding_bag(places, error_rows, bags, mode="sum", per_sample_weights=back_weight)
            if self.subwords is None:
                self.input_rows.index_add_(0, inward, x_step)
            else:
                self.spread(rows, owner, input_weights[t], x_step, rates[t])
            self.output_rows.index_add_(0, outward, y_and_z)
        return loss


class TorchWorker:
    """Trains on segments with block-banded steps; one for each thread, on shared rows.

    Args:
        input_rows: float32 (vocab_size, embedding_size) on the device to compute on, changed in place.
        output_rows: Likewise.
        objective: What is learned.
        centers_per_step: Center words per step, at most.
        subwords: The rows of each word, where it has more than one; `input_rows` then has those of the n-grams too.
    """

    def __init__(
        self,
        input_rows: torch.Tensor,
        output_rows: torch.Tensor,
        objective: Objective,
        centers_per_step: int,
        subwords: SubwordTable | None = None,
    ):
        self.objective, self.device = objective, input_rows.device
        self.keep_probabilities = torch.as_tensor(objective.keep_probabilities, dtype=torch.float32).to(self.device)
        self.sampler = NegativeSampler(objective.noise_weights, self.device)
        step = SkipGramStep if objective.architecture == "skip-gram" else CbowStep
        self.step = step(input_rows, output_rows, objective.negative, objective.cbow_mean, subwords)
        self.blocks_per_step = max(centers_per_step // step.block_size, 1)

    @torch.inference_mode()  # less overhead per call
    def learn(self, words: Words, sentences: Words, key: int, first_rate: float, last_rate: float) -> float | None:
        """Train on a segment.

        Args:
            words: int32 (n,), on the host or on the device.
            sentences: int32 (n,), a number that changes at every border.
            key: Seeds all random numbers.
            first_rate: Learning rate at the first step.
            last_rate: Learning rate after the last; linear in between.

        Returns:
            The mean loss per predicted word of some steps; None where there was nothing to predict.
        """
        # one thread of torch for each of ours: more of them contend in `index_add_`
        if self.device.type == "cpu":
            torch.set_num_threads(1)
        generator = torch.Generator(self.device).manual_seed(key)
        ids, numbers = subsample(words, sentences, self.keep_probabilities, generator)
        ids = ids.long()
        if not len(ids):
            return None

        # step t takes blocks t, t + num_steps, t + 2 * num_steps ...: from all over the segment
        size = self.step.block_size
        num_steps = -(-len(ids) // (size * self.blocks_per_step))
        num_blocks = -(-len(ids) // (size * num_steps))
        padding = size * num_steps * num_blocks - len(ids)
        outside = torch.arange(padding, dtype=torch.int32, device=self.device) + (numbers.max() + 1)
        ids = F.pad(ids, (0, padding)).view(num_blocks, num_steps, size).transpose(0, 1)
        numbers = torch.cat([numbers, outside]).view(num_blocks, num_steps, size).transpose(0, 1)
        smallest = 1 if self.objective.shrink_windows else self.objective.window
        windows = self.step.draw_windows(ids, smallest, self.objective.window, generator)
        negatives = self.sampler.draw((num_steps, num_blocks, self.step.shared_negatives), generator)

        rates = (
            torch.arange(num_steps, device=self.device)[:, None] * ((last_rate - first_rate) / num_steps) + first_rate
        )

        losses = []
        for t in range(0, num_steps, _TOGETHER):
            now = slice(t, t + _TOGETHER)
            losses.append(self.step(ids[now], numbers[now], windows[now], negatives[now], rates[now]))
        return float(torch.stack(losses).mean())
