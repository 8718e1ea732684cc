"""The block-banded step: word2vec as three batched matrix products, gradients by hand, on CPU threads and GPUs alike.

A block is N consecutive centre words with `window` positions of context on either side. Its score matrix holds every
(output row, context position) product at once; a band (each centre's random window) and the sentence borders pick the
positive pairs, and K negatives are shared by the whole block, weighted so that in expectation every pair has
`negative` of them. Two things make steps of thousands of words learn as well as one word at a time: the blocks of a
step come from across the segment, and a row on which many pairs land is held back (the row cap).

Mikolov et al., "Distributed Representations of Words and Phrases and their Compositionality", 2013, equation 4.
"""

import numpy as np
import torch
from torch.nn import functional as F

from hfembed.training.word2vec.segments import Objective


class NegativeSampler:
    """Draws words in proportion to the given weights, by inverting their cumulative sum.

    Args:
        weights: float64 (vocab_size,), not negative; word2vec takes counts ** 0.75.
    """

    def __init__(self, weights: torch.Tensor):
        self.cumulative = weights.double().cumsum(0)

    def draw(self, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
        """Return int64 word ids of `shape`."""
        uniform = torch.rand(shape, dtype=torch.float64, generator=generator, device=self.cumulative.device)
        words = torch.searchsorted(self.cumulative, uniform * self.cumulative[-1], right=True)
        return words.clamp_(max=self.cumulative.numel() - 1)


class BlockStep:
    """One thread's workspace and arithmetic for steps over blocks; subclasses say which loss.

    Args:
        input_rows: float32 (vocab_size, embedding_size), changed in place.
        output_rows: float32 (vocab_size, embedding_size), changed in place.
        window: Context positions on either side of a centre, at most.
        negative: Negatives a pair has, in expectation.
        cbow_mean: CBOW alone: average the context (True) or add it up.
        block_size: N, centre words a block.
        shared_negatives: K, negatives shared by a block.
    """

    row_cap: float
    """A row moves at most as far as `row_cap / learning_rate` predictions would push it: the curvature of the logistic
    loss grows with their number, and beyond that one step for all of them overshoots."""

    def __init__(
        self,
        input_rows: torch.Tensor,
        output_rows: torch.Tensor,
        window: int,
        negative: int,
        cbow_mean: bool = True,
        block_size: int = 32,
        shared_negatives: int = 32,
    ):
        self.input_rows, self.output_rows = input_rows, output_rows
        self.window, self.negative, self.cbow_mean = window, negative, cbow_mean
        self.block_size, self.shared_negatives = block_size, shared_negatives
        self.width = block_size + 2 * window  # C, context positions a block
        device = input_rows.device
        centre = torch.arange(block_size, device=device)[:, None] + window
        self.distance = (torch.arange(self.width, device=device)[None] - centre).abs().to(torch.int32)  # (N, C)
        self.distance[self.distance == 0] = window + 1  # a word is not its own context
        self.pairs_per_row = torch.zeros(input_rows.shape[0], device=device)
        self.workspace: dict[str, torch.Tensor] = {}

    def buffer(self, name: str, *shape: int) -> torch.Tensor:
        """A reused tensor: megabytes taken anew each step would cost as much in page faults as the arithmetic."""
        size = 1
        for side in shape:
            size *= side
        if name not in self.workspace or self.workspace[name].numel() < size:
            self.workspace[name] = torch.empty(size, device=self.input_rows.device)
        return self.workspace[name][:size].view(shape)

    def band(self, windows: torch.Tensor, sentences: torch.Tensor) -> torch.Tensor:
        """Positive pairs as float32 ones (B, N, C).

        Args:
            windows: Each centre's window, int32 (B, N); 0 for padding.
            sentences: Sentence of each position, int32 (B, C).
        """
        inside = self.distance <= windows[:, :, None]
        centres = sentences[:, self.window : self.window + self.block_size]
        inside &= centres[:, :, None] == sentences[:, None, :]
        return self.buffer("band", *inside.shape).copy_(inside)

    def cap_(self, gradients: torch.Tensor, rows: torch.Tensor, weights: torch.Tensor, rate: float) -> None:
        """Scale each contribution by -rate and by the row cap, in place.

        Args:
            gradients: (n, embedding_size).
            rows: int64 (n,), the row each contribution goes to.
            weights: (n,), pair weight of each contribution.
            rate: Learning rate.
        """
        self.pairs_per_row[rows] = 0
        self.pairs_per_row.index_add_(0, rows, weights)
        scale = (self.row_cap / self.pairs_per_row[rows]).clamp_(max=rate).neg_()
        gradients.mul_(scale[:, None])

    def __call__(
        self,
        words: torch.Tensor,
        sentences: torch.Tensor,
        windows: torch.Tensor,
        negatives: torch.Tensor,
        rate: float,
        with_loss: bool = False,
    ) -> torch.Tensor | None:
        """Take one step in place.

        Args:
            words: int64 (B, C), context positions of B blocks.
            sentences: int32 (B, C), equal within a sentence; padding has a negative one.
            windows: int32 (B, N), each centre's window; 0 for padding.
            negatives: int64 (B, K).
            rate: Learning rate.
            with_loss: Whether to return the loss, which costs a pass over the scores.

        Returns:
            The mean loss per predicted word before the step (a pair in skip-gram, a centre in CBOW), or None.
        """
        raise NotImplementedError


class SkipGramStep(BlockStep):
    """Skip-gram: each context word alone predicts the centre word."""

    row_cap = 1.5

    def __call__(self, words, sentences, windows, negatives, rate, with_loss=False):  # noqa: D102
        num_blocks, width = words.shape
        size = self.input_rows.shape[1]
        centres = words[:, self.window : self.window + self.block_size]
        outputs = torch.cat([centres, negatives], dim=1).flatten()  # (B * (N + K),)
        inputs = words.flatten()
        height = self.block_size + self.shared_negatives

        x = torch.index_select(self.input_rows, 0, inputs, out=self.buffer("x", num_blocks * width, size))
        y = torch.index_select(self.output_rows, 0, outputs, out=self.buffer("y", num_blocks * height, size))
        x, y = x.view(num_blocks, width, size), y.view(num_blocks, height, size)
        band = self.band(windows, sentences)
        pairs = band.sum(1)  # (B, C): positive pairs of each position, m_j
        negative_weight = pairs * (self.negative / self.shared_negatives)

        scores = torch.bmm(y, x.transpose(1, 2), out=self.buffer("scores", num_blocks, height, width))
        loss = None
        if with_loss:
            positive = (F.softplus(-scores[:, : self.block_size]) * band).sum()
            shared = F.softplus(scores[:, self.block_size :]).sum(1)
            loss = (positive + (shared * negative_weight).sum()) / pairs.sum().clamp(min=1)

        # scores become the gradients with respect to themselves
        scores.sigmoid_()
        scores[:, : self.block_size].sub_(1).mul_(band)
        scores[:, self.block_size :].mul_(negative_weight[:, None])
        y_gradient = torch.bmm(scores, x, out=self.buffer("dy", num_blocks, height, size))
        x_gradient = torch.bmm(scores.transpose(1, 2), y, out=x)  # x is no longer needed
        output_weights = torch.cat(
            [band.sum(2), negative_weight.sum(1, keepdim=True).expand(-1, self.shared_negatives)], dim=1
        )
        x_gradient, y_gradient = x_gradient.view(-1, size), y_gradient.view(-1, size)
        self.cap_(x_gradient, inputs, pairs.flatten() * (1 + self.negative), rate)
        self.cap_(y_gradient, outputs, output_weights.flatten(), rate)
        self.input_rows.index_add_(0, inputs, x_gradient)
        self.output_rows.index_add_(0, outputs, y_gradient)
        return loss


class CbowStep(BlockStep):
    """CBOW: the mean (or the sum) of the context predicts the centre word.

    With the mean, the error goes undivided to every context row, as in word2vec.c and gensim: dividing it by the
    number of context words slows the input rows down several times over.
    """

    row_cap = 4.0

    def __call__(self, words, sentences, windows, negatives, rate, with_loss=False):  # noqa: D102
        num_blocks, width = words.shape
        size = self.input_rows.shape[1]
        centres = words[:, self.window : self.window + self.block_size]
        inputs = words.flatten()
        outputs = torch.cat([centres.flatten(), negatives.flatten()])  # first the targets, then the negatives

        x = torch.index_select(self.input_rows, 0, inputs, out=self.buffer("x", num_blocks * width, size))
        y_and_z = torch.index_select(self.output_rows, 0, outputs, out=self.buffer("y", outputs.numel(), size))
        x = x.view(num_blocks, width, size)
        y = y_and_z[: num_blocks * self.block_size].view(num_blocks, self.block_size, size)
        z = y_and_z[num_blocks * self.block_size :].view(num_blocks, self.shared_negatives, size)
        band = self.band(windows, sentences)
        pairs = band.sum(1)
        context_size = band.sum(2, keepdim=True)  # (B, N, 1)
        valid = (context_size > 0).float()
        share = 1 / context_size.clamp(min=1)

        hidden = torch.bmm(band, x, out=self.buffer("hidden", num_blocks, self.block_size, size))
        if self.cbow_mean:
            hidden.mul_(share)
        positive = (hidden * y).sum(2, keepdim=True)  # (B, N, 1)
        shared = torch.bmm(
            hidden, z.transpose(1, 2), out=self.buffer("shared", num_blocks, self.block_size, self.shared_negatives)
        )
        negative_weight = valid * (self.negative / self.shared_negatives)
        loss = None
        if with_loss:
            losses = F.softplus(-positive) * valid
            losses += F.softplus(shared).sum(2, keepdim=True) * negative_weight
            loss = losses.sum() / valid.sum().clamp(min=1)

        positive.sigmoid_().sub_(1).mul_(valid)
        shared.sigmoid_().mul_(negative_weight)
        error = torch.bmm(shared, z, out=self.buffer("error", num_blocks, self.block_size, size))
        error.addcmul_(positive, y)
        if not self.cbow_mean:
            error.mul_(share)
        # the rows read are no longer needed: their gradients take their place
        x_gradient = torch.bmm(band.transpose(1, 2), error, out=x).view(-1, size)
        torch.mul(positive, hidden, out=y)
        torch.bmm(shared.transpose(1, 2), hidden, out=z)

        negative_share = negative_weight.sum(1).expand(-1, self.shared_negatives)
        self.cap_(x_gradient, inputs, pairs.flatten() * (1 + self.negative), rate)
        self.cap_(y_and_z, outputs, torch.cat([valid.flatten(), negative_share.flatten()]), rate)
        self.input_rows.index_add_(0, inputs, x_gradient)
        self.output_rows.index_add_(0, outputs, y_and_z)
        return loss


class TorchWorker:
    """Works off segments with block-banded steps; one for each thread, on shared rows.

    Args:
        input_rows: float32 (vocab_size, embedding_size) on the device to compute on, changed in place.
        output_rows: Likewise.
        objective: What is learnt.
        centres_per_step: Centre words a step, at most.
        block_size: N, centre words a block.
        shared_negatives: K, negatives shared by a block.
    """

    def __init__(
        self,
        input_rows: torch.Tensor,
        output_rows: torch.Tensor,
        objective: Objective,
        centres_per_step: int,
        block_size: int = 32,
        shared_negatives: int = 32,
    ):
        self.objective, self.device = objective, input_rows.device
        self.blocks_per_step = max(centres_per_step // block_size, 1)
        self.keep_probabilities = torch.as_tensor(objective.keep_probabilities, dtype=torch.float32).to(self.device)
        self.sampler = NegativeSampler(torch.as_tensor(objective.noise_weights).to(self.device))
        step = SkipGramStep if objective.architecture == "skip-gram" else CbowStep
        self.step = step(
            input_rows,
            output_rows,
            objective.window,
            objective.negative,
            objective.cbow_mean,
            block_size,
            shared_negatives,
        )

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
            The mean loss per predicted word, measured in every eighth step; None where there was nothing to predict.
        """
        # one thread of torch for each of ours: more of them get in each other's way in `index_add_`
        if self.device.type == "cpu":
            torch.set_num_threads(1)
        generator = torch.Generator(self.device).manual_seed(key)
        words, sentences = torch.from_numpy(words).to(self.device).long(), torch.from_numpy(sentences).to(self.device)
        kept = torch.rand(len(words), generator=generator, device=self.device) < self.keep_probabilities[words]
        words, sentences = words[kept], sentences[kept]
        if not len(words):
            return None

        reach = self.objective.window
        windows = torch.full((len(words),), reach, dtype=torch.int32, device=self.device)
        if self.objective.shrink_windows:
            windows.random_(1, reach + 1, generator=generator)

        # step t takes blocks t, t + num_steps, t + 2 * num_steps ...: from all over the segment
        size, width = self.step.block_size, self.step.width
        num_steps = -(-len(words) // (size * self.blocks_per_step))
        num_blocks = -(-len(words) // (size * num_steps))
        padding = size * num_steps * num_blocks - len(words)
        words = F.pad(words, (reach, reach + padding)).unfold(0, width, size).view(num_blocks, num_steps, width)
        sentences = F.pad(sentences, (reach, reach + padding), value=-1).unfold(0, width, size)
        sentences = sentences.view(num_blocks, num_steps, width)
        windows = F.pad(windows, (0, padding)).view(num_blocks, num_steps, size)
        negatives = self.sampler.draw((num_steps, num_blocks, self.step.shared_negatives), generator)

        losses = []
        for t in range(num_steps):
            rate = first_rate + (last_rate - first_rate) * t / num_steps
            loss = self.step(words[:, t], sentences[:, t], windows[:, t], negatives[t], rate, with_loss=t % 8 == 0)
            if loss is not None:
                losses.append(loss)
        return float(torch.stack(losses).mean())
