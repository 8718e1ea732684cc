"""Several ranks, one model: what each of them learnt since they last met is added up.

DistributedDataParallel would send both matrices after every step. Here each rank learns from its own share of the
corpus, and now and then the ranks meet and add up their *deltas*.

Which rows: a row of a frequent word moves far in a few thousand words, and the ranks must not lose sight of each
other; a row of a rare word moves once in millions. Rows are sorted by frequency, so every meeting takes the most
frequent ones, every third one twice as many, every ninth four times, and so on: all rows meet seldom, and the bytes
sent stay few.

When: the deltas travel while the next words are learnt, and the sum is added at the next meeting in place of what the
rank itself had sent. So nobody waits for the network, nor for a rank that was a little slower; the price is that what
the others learnt comes one meeting later.

How they are added up: rows that moved little since they met get the sum, because rare words must not learn less when
there are more ranks. Where every rank has gone most of the way by itself the sum would overshoot: those rows get their
mean. In between, a rank that keeps a share c of the distance to its goal makes 1 - c of the way; one after the other R
ranks would make 1 - c ** R; so their sum is multiplied by (1 - c ** R) / (R (1 - c)).
"""

import math

import numpy as np
import torch

FORGETTING = 50.0
"""Learning rate x pair weight after which a row keeps 1 / e of the distance to its goal."""


class DeltaSynchronizer:
    """Keeps the rows of all ranks together, meeting by meeting.

    Args:
        rows: The matrices, changed in place; the same on all ranks at the start.
        pairs_per_word: For each matrix, the expected pair weight of each row per corpus word, float (vocab_size,).
        num_ranks: Ranks of the default process group.
        smallest: Rows that every meeting takes.
    """

    def __init__(self, rows: list[torch.Tensor], pairs_per_word: list[np.ndarray], num_ranks: int, smallest: int):
        self.rows, self.num_ranks, self.smallest = rows, num_ranks, smallest
        self.pairs_per_word = [torch.as_tensor(p, dtype=torch.float32).to(rows[0].device) for p in pairs_per_word]
        self.agreed = [matrix.clone() for matrix in rows]
        self.moved = torch.zeros(len(rows[0]), device=rows[0].device)  # words x learning rate since a row's meeting
        # what a meeting sends and the rows it was taken from: of both matrices, one after the other
        self.buffers = [rows[0].new_empty(sum(matrix.numel() for matrix in rows)) for _ in range(2)]
        self.under_way = None

    def num_rows(self, meeting: int) -> int:
        """How many of the rows a meeting takes; meetings count from 1."""
        taken = self.smallest
        while meeting % 3 == 0 and taken < len(self.moved):
            meeting, taken = meeting // 3, 2 * taken
        return min(taken, len(self.moved))

    def synchronize(self, num_words: int, rate: float, num_rows: int) -> None:
        """Settle the last meeting and send the deltas of the first `num_rows` rows. Call on every rank.

        Args:
            num_words: Corpus words that all ranks together have learnt from since the last meeting.
            rate: Learning rate.
            num_rows: The same on every rank; those that are not taken keep what this rank learnt.
        """
        self.settle()
        self.moved += num_words * rate
        self.shares = [self.share(pairs[:num_rows] * self.moved[:num_rows])[:, None] for pairs in self.pairs_per_word]
        self.moved[:num_rows] = 0
        shape = len(self.rows), num_rows, self.rows[0].shape[1]
        self.sums, self.sent = (buffer[: math.prod(shape)].view(shape) for buffer in self.buffers)
        for matrix, agreed, sums, sent in zip(self.rows, self.agreed, self.sums, self.sent, strict=True):
            sent.copy_(matrix[:num_rows])
            torch.sub(sent, agreed[:num_rows], out=sums)
        self.under_way = torch.distributed.all_reduce(self.sums, async_op=True)

    def settle(self) -> None:
        """Wait for the sums that are under way and add them; what this rank learnt meanwhile stays.

        Where nothing was learnt meanwhile and the meeting took all rows, they are the same on all ranks to the bit.
        """
        if self.under_way is None:
            return
        self.under_way.wait()
        self.under_way = None
        num_rows = self.sums.shape[1]
        for matrix, agreed, sums, sent, shares in zip(
            self.rows, self.agreed, self.sums, self.sent, self.shares, strict=True
        ):
            matrix, agreed = matrix[:num_rows], agreed[:num_rows]
            matrix.sub_(sent)
            agreed.addcmul_(sums, shares)
            matrix.add_(agreed)

    def share(self, weights: torch.Tensor) -> torch.Tensor:
        """What the sum of deltas is multiplied by.

        Args:
            weights: (n,), learning rate x pair weight that all ranks together put on each row.

        Returns:
            (n,), from 1 for rows hardly touched down to 1 / ranks.
        """
        exponents = (weights / FORGETTING).clamp(min=1e-12)  # a row not touched at all gets the sum too
        return torch.expm1(-exponents) / (self.num_ranks * torch.expm1(-exponents / self.num_ranks))
