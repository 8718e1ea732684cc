"""Several ranks, one model: what each of them learnt since the last meeting is added up.

DistributedDataParallel would send both matrices after every step. Here each rank learns from its own share of the
corpus, and every so many words the ranks add up their *deltas*. Rows that moved little since then (nearly all of them)
get the sum: rarely seen words must not learn less because there are more ranks. Rows that moved so much that every
rank has already gone most of the way would overshoot with the sum: they get between the sum and the mean.
"""

import numpy as np
import torch

SYNC_CAP = 25.0
"""Learning rate x pair weight of a row between two meetings from which on its deltas are no longer simply added."""


class DeltaSynchronizer:
    """Keeps the rows of all ranks equal, meeting by meeting.

    Args:
        rows: The matrices, changed in place; the same on all ranks at the start.
        pairs_per_word: For each matrix, the expected pair weight of each row per corpus word, float (vocab_size,).
        num_ranks: Ranks of the default process group.
    """

    def __init__(self, rows: list[torch.Tensor], pairs_per_word: list[np.ndarray], num_ranks: int):
        self.rows, self.num_ranks = rows, num_ranks
        self.pairs_per_word = [torch.as_tensor(p, dtype=torch.float32).to(rows[0].device) for p in pairs_per_word]
        self.agreed = [matrix.clone() for matrix in rows]

    def synchronize(self, num_words: int, rate: float) -> None:
        """Add up the deltas. Call on every rank.

        Args:
            num_words: Corpus words that all ranks together have learnt from since the last meeting.
            rate: Learning rate.
        """
        for matrix, agreed, pairs in zip(self.rows, self.agreed, self.pairs_per_word, strict=True):
            matrix.sub_(agreed)
            torch.distributed.all_reduce(matrix)
            share = (SYNC_CAP / (pairs * (num_words * rate))).clamp_(min=1 / self.num_ranks, max=1)
            agreed.addcmul_(matrix, share[:, None])
            matrix.copy_(agreed)
