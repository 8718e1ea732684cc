"""The block-banded step: word2vec as three batched matrix products, gradients by hand, on CPU threads and GPUs alike.

A block is N consecutive centre words with `window` positions of context on either side. Its score matrix holds every
(output row, context position) product at once; a band (the window, cut at the sentences' borders) picks the positive
pairs, and K negatives are shared by the whole block, weighted so that in expectation every pair has `negative` of
them. Two things make steps of thousands of words learn as well as one word at a time: the blocks of a step come from
across the segment, and a row on which many pairs land is held back (the row cap).

Mikolov et al., "Distributed Representations of Words and Phrases and their Compositionality", 2013, equation 4.
"""

import math

import numpy as np
import torch
from torch.nn import functional as F

from hfembed.training.word2vec.alias_table import alias_table
from hfembed.training.word2vec.segments import Objective

_LOSS_EVERY = 16  # steps; it costs a pass over the scores


class NegativeSampler:
    """Draws words in proportion to the given weights, by the alias method: two random numbers a word.

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


class BlockStep:
    """One thread's workspace and arithmetic for steps over blocks; subclasses say which loss.

    Args:
        input_rows: float32 (vocab_size, embedding_size), changed in place.
        output_rows: float32 (vocab_size, embedding_size), changed in place.
        negative: Negatives a pair has, in expectation.
        cbow_mean: CBOW alone: average the context (True) or add it up.
    """

    block_size: int
    """N, centre words a block."""
    shared_negatives: int
    """K, negatives shared by a block."""
    row_cap: float
    """A row moves at most as far as `row_cap / learning_rate` predictions would push it: the curvature of the logistic
    loss grows with their number, and beyond that one step for all of them overshoots."""

    def __init__(self, input_rows: torch.Tensor, output_rows: torch.Tensor, negative: int, cbow_mean: bool = True):
        self.input_rows, self.output_rows = input_rows, output_rows
        self.negative, self.cbow_mean = negative, cbow_mean
        self.pairs_per_row = torch.zeros(input_rows.shape[0], device=input_rows.device)
        self.workspace: dict[str, torch.Tensor] = {}

    def buffer(self, name: str, *shape: int) -> torch.Tensor:
        """A reused tensor: megabytes taken anew each step would cost as much in page faults as the arithmetic."""
        size = math.prod(shape)
        if name not in self.workspace or self.workspace[name].numel() < size:
            self.workspace[name] = torch.empty(size, device=self.input_rows.device)
        return self.workspace[name][:size].view(shape)

    def capped_rates(self, rows: torch.Tensor, weights: torch.Tensor, rate: float) -> torch.Tensor:
        """Learning rate of each contribution, held down by the row cap.

        Args:
            rows: int (n,), the row each contribution goes to.
            weights: (n,), pair weight of each contribution.
            rate: Learning rate.
        """
        self.pairs_per_row.index_fill_(0, rows, 0)
        self.pairs_per_row.index_add_(0, rows, weights)
        return self.pairs_per_row.index_select(0, rows).reciprocal_().mul_(self.row_cap).clamp_(max=rate)

    def __call__(
        self,
        words: torch.Tensor,
        sentences: torch.Tensor,
        window: int,
        negatives: torch.Tensor,
        rate: float,
        with_loss: bool = False,
    ) -> torch.Tensor | None:
        """Take one step in place.

        Args:
            words: int64 (B, N + 2 window), context positions of B blocks.
            sentences: int32 (B, N + 2 window), equal within a sentence; each padded position has its own number.
            window: Context positions on either side of a centre.
            negatives: int64 (B, K).
            rate: Learning rate.
            with_loss: Whether to return the loss, which costs a pass over the scores.

        Returns:
            The mean loss per predicted word before the step (a pair in skip-gram, a centre in CBOW), or None.
        """
        raise NotImplementedError


class SkipGramStep(BlockStep):
    """Skip-gram: each context word alone predicts the centre word."""

    block_size, shared_negatives, row_cap = 32, 32, 1.5

    def band(self, sentences: torch.Tensor, window: int) -> torch.Tensor:
        """Positive pairs as float32 ones (B, N, C), by the sentence of each position (B, C)."""
        num_blocks, width = sentences.shape
        centre = torch.arange(window, width - window, device=sentences.device)[:, None]
        distance = (torch.arange(width, device=sentences.device) - centre).abs_()
        inside = (distance > 0) & (distance <= window)
        inside = inside & (sentences[:, window : width - window, None] == sentences[:, None])
        return self.buffer("band", *inside.shape).copy_(inside)

    def __call__(self, words, sentences, window, negatives, rate, with_loss=False):  # noqa: D102
        num_blocks, width = words.shape
        num_centres, size = width - 2 * window, self.input_rows.shape[1]
        outputs = torch.cat([words[:, window : width - window], negatives], dim=1).flatten()  # (B * (N + K),)
        inputs = words.flatten()
        height = num_centres + self.shared_negatives

        x = torch.index_select(self.input_rows, 0, inputs, out=self.buffer("x", num_blocks * width, size))
        y = torch.index_select(self.output_rows, 0, outputs, out=self.buffer("y", num_blocks * height, size))
        x, y = x.view(num_blocks, width, size), y.view(num_blocks, height, size)
        band = self.band(sentences, window)
        pairs = band.sum(1)  # (B, C): positive pairs of each position, m_j
        negative_weight = pairs * (self.negative / self.shared_negatives)

        scores = torch.bmm(y, x.transpose(1, 2), out=self.buffer("scores", num_blocks, height, width))
        positive, shared = scores[:, :num_centres], scores[:, num_centres:]
        loss = None
        if with_loss:
            loss = (F.softplus(-positive) * band).sum() + (F.softplus(shared).sum(1) * negative_weight).sum()
            loss /= pairs.sum().clamp(min=1)

        # scores become the negative gradients with respect to themselves
        scores.sigmoid_()
        torch.addcmul(band, positive, band, value=-1, out=positive)
        shared.mul_(negative_weight.neg()[:, None])
        y_step = torch.bmm(scores, x, out=self.buffer("y step", num_blocks, height, size)).view(-1, size)
        x_step = torch.bmm(scores.transpose(1, 2), y, out=x).view(-1, size)  # x is no longer needed
        shared_weight = negative_weight.sum(1, keepdim=True).expand(-1, self.shared_negatives)
        output_weights = torch.cat([band.sum(2), shared_weight], dim=1).flatten()
        x_step.mul_(self.capped_rates(inputs, pairs.flatten() * (1 + self.negative), rate)[:, None])
        y_step.mul_(self.capped_rates(outputs, output_weights, rate)[:, None])
        self.input_rows.index_add_(0, inputs, x_step)
        self.output_rows.index_add_(0, outputs, y_step)
        return loss


class CbowStep(BlockStep):
    """CBOW: the mean (or the sum) of the context predicts the centre word.

    A context is a bag of 2 `window` rows, and so are the errors that come back to a position: two `embedding_bag`s in
    place of products with a band that is nearly all zeros. With the mean, the error goes undivided to every context
    row, as in word2vec.c and gensim: dividing it by the number of context words slows the input rows down several
    times over.
    """

    block_size, shared_negatives, row_cap = 64, 16, 4.0

    def __call__(self, words, sentences, window, negatives, rate, with_loss=False):  # noqa: D102
        num_blocks, width = words.shape
        block, size = width - 2 * window, self.input_rows.shape[1]
        num_centres = num_blocks * block
        inputs = words.flatten()
        targets = words[:, window : width - window].flatten()
        outputs = torch.cat([targets, negatives.flatten()])  # first the targets, then the negatives

        # a centre's bag: the words around it, with a weight where they are of its sentence and not itself
        around = 2 * window + 1
        together = sentences.unfold(1, around, 1) == sentences[:, window : width - window, None]
        together[:, :, window] = False
        together = together.view(num_centres, around).float()
        context_size = together.sum(1, keepdim=True)
        valid = (context_size > 0).float()
        share = context_size.clamp_(min=1).reciprocal_()
        if self.cbow_mean:
            together.mul_(share)
        bags = words.unfold(1, around, 1).reshape(num_centres, around)
        hidden = F.embedding_bag(bags, self.input_rows, mode="sum", per_sample_weights=together)

        y_and_z = torch.index_select(self.output_rows, 0, outputs, out=self.buffer("y", outputs.numel(), size))
        y, z = y_and_z[:num_centres], y_and_z[num_centres:].view(num_blocks, -1, size)
        product = torch.mul(hidden, y, out=self.buffer("error", num_centres, size))
        positive = product.sum(1, keepdim=True)  # (B * N, 1)
        hidden_blocks = hidden.view(num_blocks, block, size)
        shared = torch.bmm(
            hidden_blocks, z.transpose(1, 2), out=self.buffer("shared", num_blocks, block, self.shared_negatives)
        )
        flat_shared = shared.view(num_centres, -1)
        negative_weight = valid * (self.negative / self.shared_negatives)
        loss = None
        if with_loss:
            losses = F.softplus(-positive) * valid
            losses += F.softplus(flat_shared).sum(1, keepdim=True) * negative_weight
            loss = losses.sum() / valid.sum().clamp(min=1)

        # scores become the negative gradients with respect to themselves
        positive = torch.addcmul(valid, positive.sigmoid_(), valid, value=-1)
        flat_shared.sigmoid_().mul_(negative_weight.neg_())
        error = torch.bmm(shared, z, out=product.view_as(hidden_blocks)).view(num_centres, size)
        error.addcmul_(positive, y)
        if not self.cbow_mean:
            error.mul_(share)
        shared_weight = negative_weight.view(num_blocks, block).sum(1, keepdim=True).neg_()
        output_weights = torch.cat([valid.flatten(), shared_weight.expand(-1, self.shared_negatives).flatten()])
        output_rates = self.capped_rates(outputs, output_weights, rate)
        # the rows read are no longer needed: their steps take their place
        torch.mul(hidden, positive.mul_(output_rates[:num_centres, None]), out=y)
        shared.mul_(output_rates[num_centres:].view(num_blocks, 1, -1))
        torch.bmm(shared.transpose(1, 2), hidden_blocks, out=z)

        # a position's bag: the errors of the centres around it, in its block and of its sentence
        sources = torch.arange(-2 * window, block + 2 * window, device=words.device)
        sources = sources.unfold(0, around, 1)  # (C, around)
        inside = (sources >= 0) & (sources < block)
        inside[:, window] = False
        together = F.pad(sentences, (window, window)).unfold(1, around, 1) == sentences[:, :, None]
        together = together.logical_and_(inside).float().view(inputs.numel(), around)
        input_rates = self.capped_rates(inputs, together.sum(1) * (1 + self.negative), rate)
        together.mul_(input_rates[:, None])
        first = torch.arange(0, num_centres, block, device=words.device).view(-1, 1, 1)
        bags = (sources.clamp(0, block - 1) + first).view(inputs.numel(), around)
        x_step = F.embedding_bag(bags, error, mode="sum", per_sample_weights=together)
        self.input_rows.index_add_(0, inputs, x_step)
        self.output_rows.index_add_(0, outputs, y_and_z)
        return loss


class TorchWorker:
    """Works off segments with block-banded steps; one for each thread, on shared rows.

    Args:
        input_rows: float32 (vocab_size, embedding_size) on the device to compute on, changed in place.
        output_rows: Likewise.
        objective: What is learnt.
        centres_per_step: Centre words a step, at most.
    """

    def __init__(
        self,
        input_rows: torch.Tensor,
        output_rows: torch.Tensor,
        objective: Objective,
        centres_per_step: int,
    ):
        self.objective, self.device = objective, input_rows.device
        self.keep_probabilities = torch.as_tensor(objective.keep_probabilities, dtype=torch.float32).to(self.device)
        self.sampler = NegativeSampler(objective.noise_weights, self.device)
        step = SkipGramStep if objective.architecture == "skip-gram" else CbowStep
        self.step = step(input_rows, output_rows, objective.negative, objective.cbow_mean)
        self.blocks_per_step = max(centres_per_step // step.block_size, 1)

    def learn(
        self, words: np.ndarray, sentences: np.ndarray, key: int, first_rate: float, last_rate: float
    ) -> float | None:
        """Learn a segment.

        Args:
            words: int32 (n,).
            sentences: int32 (n,), a number that changes at every border.
            key: Seeds all that is drawn.
            first_rate: Learning rate at the first step.
            last_rate: Learning rate after the last; linear in between.

        Returns:
            The mean loss per predicted word, measured now and then; None where there was nothing to predict.
        """
        # one thread of torch for each of ours: more of them get in each other's way in `index_add_`
        if self.device.type == "cpu":
            torch.set_num_threads(1)
        generator = torch.Generator(self.device).manual_seed(key)
        words, sentences = torch.from_numpy(words).to(self.device).long(), torch.from_numpy(sentences).to(self.device)
        keep = self.keep_probabilities.index_select(0, words)
        kept = (torch.rand(len(words), generator=generator, device=self.device) < keep).nonzero().flatten()
        words, sentences = words.index_select(0, kept), sentences.index_select(0, kept)
        if not len(words):
            return None

        # step t takes blocks t, t + num_steps, t + 2 * num_steps ...: from all over the segment
        reach, size = self.objective.window, self.step.block_size
        num_steps = -(-len(words) // (size * self.blocks_per_step))
        num_blocks = -(-len(words) // (size * num_steps))
        padding = size * num_steps * num_blocks - len(words)
        words = F.pad(words, (reach, reach + padding)).unfold(0, size + 2 * reach, size)
        outside = -torch.arange(1, 2 * reach + padding + 1, dtype=torch.int32, device=self.device)
        sentences = torch.cat([outside[:reach], sentences, outside[reach:]]).unfold(0, size + 2 * reach, size)
        words, sentences = (part.view(num_blocks, num_steps, -1) for part in (words, sentences))
        negatives = self.sampler.draw((num_steps, num_blocks, self.step.shared_negatives), generator)
        # a step's centres share their window: over the steps it is as evenly spread as if each had its own
        windows = torch.full((num_steps,), reach)
        if self.objective.shrink_windows:
            windows = torch.randint(1, reach + 1, (num_steps,), generator=torch.Generator().manual_seed(key))
        windows = windows.tolist()

        losses = []
        for t in range(num_steps):
            rate = first_rate + (last_rate - first_rate) * t / num_steps
            cut = slice(reach - windows[t], size + reach + windows[t])
            loss = self.step(
                words[:, t, cut], sentences[:, t, cut], windows[t], negatives[t], rate, with_loss=t % _LOSS_EVERY == 0
            )
            if loss is not None:
                losses.append(loss)
        return float(torch.stack(losses).mean())
