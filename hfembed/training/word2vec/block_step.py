"""The block-banded step: word2vec as three batched matrix products, gradients by hand, on CPU threads and GPUs alike.

A block is N consecutive words, each of them a centre and context of the others: windows end at its borders as at those
of sentences, which costs some pairs in a hundred and saves fetching the rows around. Its score matrix holds every
(output row, context position) product at once; a band (the window) picks the positive pairs, and K negatives are
shared by the whole block, weighted so that in expectation every pair has `negative` of them. Two things make steps of
thousands of words learn as well as one word at a time: the blocks of a step come from across the segment, and a row on
which many pairs land is held back (the row cap).

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
    """N, words a block."""
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

    def draw_windows(self, words: torch.Tensor, smallest: int, largest: int, generator: torch.Generator):
        """Draw how far contexts reach, a window (the argument of a step) for each step.

        Args:
            words: int64 (steps, B, N).
            smallest: Smallest reach.
            largest: Largest reach.
            generator: On the device of `words`.
        """
        raise NotImplementedError

    def __call__(
        self,
        words: torch.Tensor,
        sentences: torch.Tensor,
        window: torch.Tensor | int,
        negatives: torch.Tensor,
        rate: float,
        with_loss: bool = False,
    ) -> torch.Tensor | None:
        """Take one step in place.

        Args:
            words: int64 (B, N).
            sentences: int32 (B, N), not negative, equal within a sentence; each padded position has its own number.
            window: As drawn by `draw_windows`.
            negatives: int64 (B, K).
            rate: Learning rate.
            with_loss: Whether to return the loss, which costs a pass over the scores.

        Returns:
            The mean loss per predicted word before the step (a pair in skip-gram, a centre in CBOW), or None.
        """
        raise NotImplementedError


class SkipGramStep(BlockStep):
    """Skip-gram: each context word alone predicts the centre word."""

    block_size, shared_negatives, row_cap = 48, 32, 1.5

    def draw_windows(self, words, smallest, largest, generator):
        """Return int64 (steps, B, N): each centre has its own."""
        return torch.randint(smallest, largest + 1, words.shape, generator=generator, device=words.device)

    def band(self, sentences: torch.Tensor, windows: torch.Tensor) -> torch.Tensor:
        """Positive pairs as float32 ones (B, N, N): a row for each centre, a column for each context position."""
        place = torch.arange(sentences.shape[1], device=sentences.device)
        distance = (place - place[:, None]).abs_()
        distance.fill_diagonal_(len(place))  # a word is not its own context
        inside = (distance <= windows[:, :, None]).logical_and_(sentences[:, :, None] == sentences[:, None])
        return self.buffer("band", *inside.shape).copy_(inside)

    def __call__(self, words, sentences, window, negatives, rate, with_loss=False):  # noqa: D102
        num_blocks, block = words.shape
        size, height = self.input_rows.shape[1], block + self.shared_negatives
        inputs = words.flatten()
        outputs = torch.cat([words, negatives], dim=1).flatten()  # (B * (N + K),)

        x = torch.index_select(self.input_rows, 0, inputs, out=self.buffer("x", num_blocks * block, size))
        y = torch.index_select(self.output_rows, 0, outputs, out=self.buffer("y", num_blocks * height, size))
        x, y = x.view(num_blocks, block, size), y.view(num_blocks, height, size)
        band = self.band(sentences, window)
        pairs = band.sum(1)  # (B, N): positive pairs of each position, m_j
        negative_weight = pairs * (self.negative / self.shared_negatives)

        scores = torch.bmm(y, x.transpose(1, 2), out=self.buffer("scores", num_blocks, height, block))
        positive, shared = scores[:, :block], scores[:, block:]
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

    A context is a bag of rows, and so are the errors that come back to a position: two `embedding_bag`s over the
    step's own rows in place of products with a band that is nearly all zeros. With the mean, the error goes undivided
    to every context row, as in word2vec.c and gensim: dividing it by the number of context words slows the input rows
    down several times over.
    """

    block_size, shared_negatives, row_cap = 128, 16, 4.0

    def draw_windows(self, words, smallest, largest, generator):
        """Return a list of a number for each step: its bags are of one size."""
        # from a generator's seed, so that on a GPU no step waits for its number
        on_cpu = torch.Generator().manual_seed(generator.initial_seed())
        return torch.randint(smallest, largest + 1, (len(words),), generator=on_cpu).tolist()

    def __call__(self, words, sentences, window, negatives, rate, with_loss=False):  # noqa: D102
        num_blocks, block = words.shape
        num_centres, size = words.numel(), self.input_rows.shape[1]
        inputs = words.flatten()
        outputs = torch.cat([inputs, negatives.flatten()])  # first the targets, then the negatives

        # a centre's bag: the words around it, with a weight where they are of its sentence and not itself. The errors
        # that come back to a position are the same bag: those in my context have me in theirs
        around = 2 * window + 1
        together = F.pad(sentences, (window, window), value=-1).unfold(1, around, 1) == sentences[:, :, None]
        together[:, :, window] = False
        together = together.view(num_centres, around).float()
        context_size = together.sum(1, keepdim=True)
        valid = context_size.clamp(max=1)
        share = context_size.clamp(min=1).reciprocal_()
        # places of the step; those that overhang have no weight
        bags = torch.arange(num_centres, device=words.device)[:, None]
        bags = (bags + torch.arange(-window, window + 1, device=words.device)).clamp_(0, num_centres - 1)

        x = torch.index_select(self.input_rows, 0, inputs, out=self.buffer("x", num_centres, size))
        weights = together * share if self.cbow_mean else together
        hidden = F.embedding_bag(bags, x, mode="sum", per_sample_weights=weights)
        y_and_z = torch.index_select(self.output_rows, 0, outputs, out=self.buffer("y", outputs.numel(), size))
        y, z = y_and_z[:num_centres], y_and_z[num_centres:].view(num_blocks, -1, size)
        product = torch.mul(hidden, y, out=x)  # x is no longer needed
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

        input_rates = self.capped_rates(inputs, context_size.flatten() * (1 + self.negative), rate)
        x_step = F.embedding_bag(bags, error, mode="sum", per_sample_weights=together.mul_(input_rates[:, None]))
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
        size = self.step.block_size
        num_steps = -(-len(words) // (size * self.blocks_per_step))
        num_blocks = -(-len(words) // (size * num_steps))
        padding = size * num_steps * num_blocks - len(words)
        outside = torch.arange(padding, dtype=torch.int32, device=self.device) + (sentences.max() + 1)
        words = F.pad(words, (0, padding)).view(num_blocks, num_steps, size).transpose(0, 1)
        sentences = torch.cat([sentences, outside]).view(num_blocks, num_steps, size).transpose(0, 1)
        smallest = 1 if self.objective.shrink_windows else self.objective.window
        windows = self.step.draw_windows(words, smallest, self.objective.window, generator)
        negatives = self.sampler.draw((num_steps, num_blocks, self.step.shared_negatives), generator)

        losses = []
        for t in range(num_steps):
            rate = first_rate + (last_rate - first_rate) * t / num_steps
            with_loss = t % _LOSS_EVERY == 0
            loss = self.step(words[t], sentences[t], windows[t], negatives[t], rate, with_loss)
            if loss is not None:
                losses.append(loss)
        return float(torch.stack(losses).mean())
