"""Several ranks, one model: delayed all-reduce of what each of them learned (local SGD).

DistributedDataParallel would send both matrices after every step. Here each rank trains on its own share of the
corpus, and from time to time a synchronization round adds up the ranks' *deltas*.

Which rows: a row of a frequent word moves far within a few thousand words, so that ranks would diverge; a row of a
rare word moves once in millions. Every round takes the most frequent words' rows, every second round those of twice
as many words, every fourth of four times as many, and so on; of rows that words share (n-grams), those that are
touched as often. All rows are synchronized sooner or later, with few bytes sent.

When: the all-reduce runs while the next words are processed, and its sum is applied in the middle of the next round
in place of what the rank itself had sent. So no rank waits for the network or for a slightly slower rank; the price
is that the other ranks' updates arrive half a round later.

How they are combined: rows that moved little since their last round get the sum, because rare words must not learn
less when there are more ranks. Where every rank has nearly converged by itself, the sum would overshoot: those rows
get the mean. In between, a rank that keeps a fraction c of the distance to its optimum covers 1 - c of it; R ranks one
after the other would cover 1 - c ** R; so their sum is multiplied by (1 - c ** R) / (R (1 - c)). One direction is
steeper than a row's own count of pairs says: that in which the rows of the other matrix point on average (the vectors
of word2vec lie in a narrow cone, Mimno and Thompson 2017), as all pairs pull along it. There every rank has converged
within a round, the sum of rare rows would swing from one side to the other, and all rows get the mean.
"""

import numpy as np
import torch

FORGETTING = 150.0
"""Learning rate x pair weight after which a row keeps 1 / e of the distance to its optimum."""


class _Matrix:
    """One matrix of this rank, as it was after each row's last round; rows count from the most frequent one.

    Args:
        rows: float32 (n, dimensions), changed in place.
        pairs: Expected pair weight of each row per corpus word, float32 (n,).
    """

    def __init__(self, rows: torch.Tensor, pairs: torch.Tensor):
        self.rows = rows
        order = pairs.argsort(descending=True, stable=True)
        sorted_already = torch.equal(order, torch.arange(len(rows), device=rows.device))
        self.order = None if sorted_already else order
        self.pairs = pairs[order]
        self.synchronized = rows[order]
        self.moved = torch.zeros_like(self.pairs)  # words x learning rate since a row's round

    def read(self, out: torch.Tensor) -> None:
        """Copy the first rows, as many as `out` has."""
        if self.order is None:
            out.copy_(self.rows[: len(out)])
        else:
            torch.index_select(self.rows, 0, self.order[: len(out)], out=out)

    def mean_direction(self, number: int) -> torch.Tensor:
        """The direction (dimensions,) in which the most frequent rows point on average, as often as each is met."""
        return torch.nn.functional.normalize(self.pairs[:number] @ self.synchronized[:number], dim=0)

    def replace(
        self, sent: torch.Tensor, sums: torch.Tensor, shares: torch.Tensor, steep: torch.Tensor, num_ranks: int
    ) -> None:
        """Apply what all ranks sent, in place of what this one sent; what it has learned since is kept.

        Args:
            sent: (n, dimensions), this rank's rows as they were when the round began.
            sums: (n, dimensions), the sum of all ranks' deltas.
            shares: (n, 1), the factor of that sum.
            steep: (dimensions,), a unit vector in whose direction the factor is 1 / num_ranks instead.
        """
        base = self.synchronized[: len(sent)]
        base.addcmul_(sums, shares).addr_((1 / num_ranks - shares[:, 0]) * (sums @ steep), steep)
        if self.order is None:
            self.rows[: len(sent)].sub_(sent).add_(base)
        else:
            chosen = self.order[: len(sent)]
            self.rows.index_copy_(0, chosen, self.rows.index_select(0, chosen).sub_(sent).add_(base))


class DeltaSynchronizer:
    """Synchronizes the rows of all ranks, round by round.

    Args:
        rows: The input rows and the output rows, changed in place; the same on all ranks at the start. Output rows are
            those of words, in the order of their frequency.
        pairs_per_word: For each matrix, the expected pair weight of each row per corpus word, float (rows,).
        num_ranks: Ranks of the default process group.
        smallest: Output rows that every round takes.
    """

    def __init__(self, rows: list[torch.Tensor], pairs_per_word: list[np.ndarray], num_ranks: int, smallest: int):
        self.num_ranks, self.smallest = num_ranks, smallest
        weights = [torch.as_tensor(pairs, dtype=torch.float32).to(rows[0].device) for pairs in pairs_per_word]
        self.matrices = [_Matrix(*matrix) for matrix in zip(rows, weights, strict=True)]
        # what a round sends and the rows it was computed from: both matrices, one after the other
        self.buffers = [rows[0].new_empty(sum(matrix.numel() for matrix in rows)) for _ in range(2)]
        self.pending: torch.distributed.Work | None = None

    def num_rows(self, round_number: int) -> int:
        """How many of the output rows a round takes; rounds count from 1."""
        taken, most = self.smallest, len(self.matrices[1].rows)
        while round_number % 2 == 0 and taken < most:
            round_number, taken = round_number // 2, 2 * taken
        return min(taken, most)

    def synchronize(self, num_words: int, rate: float, num_rows: int) -> None:
        """Finish the last round and send the deltas of the most frequent rows. Call on every rank.

        Args:
            num_words: Corpus words that all ranks together have processed since the last round.
            rate: Learning rate.
            num_rows: Output rows to take, the same on every rank; the others keep what this rank learned.
        """
        self.finish()
        numbers = [self._as_many(matrix, num_rows) for matrix in self.matrices]
        self.sums, self.sent = (self._split(buffer, numbers) for buffer in self.buffers)
        self.shares = []
        # the slopes of a row are products of the other matrix's rows: steepest where those point on average
        means = [matrix.mean_direction(self._as_many(matrix, self.num_rows(1))) for matrix in self.matrices]
        self.steep = means[::-1]
        for matrix, number, sums, sent in zip(self.matrices, numbers, self.sums, self.sent, strict=True):
            matrix.moved += num_words * rate
            self.shares.append(self.share(matrix.pairs[:number] * matrix.moved[:number])[:, None])
            matrix.moved[:number] = 0
            matrix.read(sent)
            torch.sub(sent, matrix.synchronized[:number], out=sums)
        used = sum(sums.numel() for sums in self.sums)
        self.pending = torch.distributed.all_reduce(self.buffers[0][:used], async_op=True)

    def finish(self) -> None:
        """Wait for the pending sums and apply them; what this rank has learned since is kept.

        If it learned nothing since and the round took all rows, they are bit-identical on all ranks.
        """
        if self.pending is None:
            return
        self.pending.wait()
        self.pending = None
        for matrix, sums, sent, shares, steep in zip(
            self.matrices, self.sums, self.sent, self.shares, self.steep, strict=True
        ):
            matrix.replace(sent, sums, shares, steep, self.num_ranks)

    def _as_many(self, matrix: _Matrix, num_rows: int) -> int:
        """How many rows of a matrix go with `num_rows` output rows: of n-grams, those touched as often."""
        words = self.matrices[1]
        if matrix.order is None and len(matrix.rows) == len(words.rows):
            return num_rows
        if num_rows == len(words.rows):
            return len(matrix.rows)
        return int((matrix.pairs >= words.pairs[num_rows - 1]).sum())

    def _split(self, buffer: torch.Tensor, numbers: list[int]) -> list[torch.Tensor]:
        """Views of a buffer's beginning, as many rows for each matrix as `numbers` says."""
        size = self.matrices[0].rows.shape[1]
        pieces = buffer[: sum(numbers) * size].split([number * size for number in numbers])
        return [piece.view(-1, size) for piece in pieces]

    def share(self, weights: torch.Tensor) -> torch.Tensor:
        """The factor of the sum of deltas.

        Args:
            weights: (n,), learning rate x pair weight that all ranks together put on each row.

        Returns:
            (n,), from 1 for rows hardly touched down to 1 / ranks.
        """
        exponents = (weights / FORGETTING).clamp(min=1e-12)  # an untouched row gets the sum too
        return torch.expm1(-exponents) / (self.num_ranks * torch.expm1(-exponents / self.num_ranks))
