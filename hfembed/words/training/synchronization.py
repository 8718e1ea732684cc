"""Several ranks, one model: delayed all-reduce of what each of them learned (local SGD).

DistributedDataParallel would send both matrices after every step. Here each rank trains on its own share of the
corpus, and from time to time a synchronization round adds up the ranks' *deltas*.

Which rows: a row of a frequent word moves far within a few thousand words, so that ranks would diverge; a row of a
rare word moves once in millions. Rows are sorted by frequency: every round takes the most frequent ones, every third
round twice as many, every ninth four times, and so on. All rows are synchronized sooner or later, with few bytes sent.

When: the all-reduce runs while the next words are processed, and its sum is applied at the next round in place of what
the rank itself had sent. So no rank waits for the network or for a slightly slower rank; the price is that the other
ranks' updates arrive one round later.

How they are combined: rows that moved little since their last round get the sum, because rare words must not learn
less when there are more ranks. Where every rank has nearly converged by itself, the sum would overshoot: those rows
get the mean. In between, a rank that keeps a fraction c of the distance to its optimum covers 1 - c of it; R ranks one
after the other would cover 1 - c ** R; so their sum is multiplied by (1 - c ** R) / (R (1 - c)).
"""

import math

import numpy as np
import torch

FORGETTING = 50.0
"""Learning rate x pair weight after which a row keeps 1 / e of the distance to its optimum."""


class DeltaSynchronizer:
    """Synchronizes the rows of all ranks, round by round.

    Args:
        rows: The matrices, changed in place; the same on all ranks at the start.
        pairs_per_word: For each matrix, the expected pair weight of each row per corpus word, float (vocab_size,).
        num_ranks: Ranks of the default process group.
        smallest: Rows that every round takes.
    """

    def __init__(self, rows: list[torch.Tensor], pairs_per_word: list[np.ndarray], num_ranks: int, smallest: int):
        self.rows, self.num_ranks, self.smallest = rows, num_ranks, smallest
        self.pairs_per_word = [torch.as_tensor(p, dtype=torch.float32).to(rows[0].device) for p in pairs_per_word]
        self.synchronized = [matrix.clone() for matrix in rows]
        self.moved = torch.zeros(len(rows[0]), device=rows[0].device)  # words x learning rate since a row's round
        # what a round sends and the rows it was computed from: both matrices, one after the other
        self.buffers = [rows[0].new_empty(sum(matrix.numel() for matrix in rows)) for _ in range(2)]
        self.pending: torch.distributed.Work | None = None

    def num_rows(self, round_number: int) -> int:
        """How many of the rows a round takes; rounds count from 1."""
        taken = self.smallest
        while round_number % 3 == 0 and taken < len(self.moved):
            round_number, taken = round_number // 3, 2 * taken
        return min(taken, len(self.moved))

    def synchronize(self, num_words: int, rate: float, num_rows: int) -> None:
        """Finish the last round and send the deltas of the first `num_rows` rows. Call on every rank.

        Args:
            num_words: Corpus words that all ranks together have processed since the last round.
            rate: Learning rate.
            num_rows: The same on every rank; the other rows keep what this rank learned.
        """
        self.finish()
        self.moved += num_words * rate
        self.shares = [self.share(pairs[:num_rows] * self.moved[:num_rows])[:, None] for pairs in self.pairs_per_word]
        self.moved[:num_rows] = 0
        shape = len(self.rows), num_rows, self.rows[0].shape[1]
        self.sums, self.sent = (buffer[: math.prod(shape)].view(shape) for buffer in self.buffers)
        for matrix, base, sums, sent in zip(self.rows, self.synchronized, self.sums, self.sent, strict=True):
            sent.copy_(matrix[:num_rows])
            torch.sub(sent, base[:num_rows], out=sums)
        self.pending = torch.distributed.all_reduce(self.sums, async_op=True)

    def finish(self) -> None:
        """Wait for the pending sums and apply them; what this rank has learned since is kept.

        If it learned nothing since and the round took all rows, they are bit-identical on all ranks.
        """
        if self.pending is None:
            return
        self.pending.wait()
        self.pending = None
        num_rows = self.sums.shape[1]
        for matrix, base, sums, sent, shares in zip(
            self.rows, self.synchronized, self.sums, self.sent, self.shares, strict=True
        ):
            matrix, base = matrix[:num_rows], base[:num_rows]
            matrix.sub_(sent)
            base.addcmul_(sums, shares)
            matrix.add_(base)

    def share(self, weights: torch.Tensor) -> torch.Tensor:
        """The factor of the sum of deltas.

        Args:
            weights: (n,), learning rate x pair weight that all ranks together put on each row.

        Returns:
            (n,), from 1 for rows hardly touched down to 1 / ranks.
        """
        exponents = (weights / FORGETTING).clamp(min=1e-12)  # an untouched row gets the sum too
        return torch.expm1(-exponents) / (self.num_ranks * torch.expm1(-exponents / self.num_ranks))
