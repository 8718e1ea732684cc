"""The rows that make up each word of a model with subwords, in the one table that the engines train."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from hfembed.models.word2vec.modeling_word2vec import Word2VecModel
from hfembed.models.word2vec.subwords import hash_ngrams


@dataclass(frozen=True)
class SubwordTable:
    """Word w is the mean of the table's rows[offsets[w] : offsets[w + 1]]; its own row, w, comes first.

    The table holds the words' own rows and below them those of the n-grams; with `hash_count` it is the model's one
    table, and rows are those of words and n-grams alike.

    Attributes:
        offsets: int64 (words + 1,).
        rows: int32 (all,).
        scale: 1 / number of rows of each word, float32 (words,).
    """

    offsets: np.ndarray
    rows: np.ndarray
    scale: np.ndarray

    @classmethod
    def of(cls, model: Word2VecModel) -> "SubwordTable":
        """The table of a model's vocabulary."""
        words = model.require_vocabulary().words
        offsets, rows = model.ngram_rows(words)
        if model.config.hash_count is None:
            rows = np.insert(rows + len(words), offsets[:-1], np.arange(len(words)))
            offsets = offsets + np.arange(len(words) + 1)
        return cls(offsets, rows.astype(np.int32), (1 / np.diff(offsets)).astype(np.float32))

    def add_up(self, weights: np.ndarray, num_rows: int) -> np.ndarray:
        """The sum over the words that each of the table's rows is part of; float64 (num_rows,).

        Args:
            weights: One per word, (words,).
            num_rows: Rows of the table.
        """
        return np.bincount(self.rows, np.repeat(weights, np.diff(self.offsets)), minlength=num_rows)


class SubwordBags:
    """A `SubwordTable` on a device: composes words and adds to all their rows.

    Args:
        table: The rows of each word.
        device: Where to compute.
    """

    def __init__(self, table: SubwordTable, device: torch.device):
        self.begins = torch.from_numpy(table.offsets[:-1]).to(device)
        self.lengths = torch.from_numpy(np.diff(table.offsets)).to(device)
        self.rows = torch.from_numpy(table.rows).to(device)
        self.scale = torch.from_numpy(table.scale).to(device)

    def find(self, words: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Rows of words (n,), one after the other, the place in `words` of each, and where each word begins."""
        lengths = self.lengths.index_select(0, words)
        ends = lengths.cumsum(0)
        begins = ends - lengths
        owner = torch.repeat_interleave(torch.arange(len(words), device=words.device), lengths)
        first = self.begins.index_select(0, words) - begins
        chosen = first.index_select(0, owner).add_(torch.arange(len(owner), device=words.device))
        return self.rows.index_select(0, chosen).long(), owner, begins

    def compose(
        self, matrix: torch.Tensor, words: torch.Tensor, rows: torch.Tensor, begins: torch.Tensor
    ) -> torch.Tensor:
        """The vectors of words (n, dimensions), `rows` and `begins` from `find`."""
        sums = torch.nn.functional.embedding_bag(rows, matrix, begins, mode="sum")
        return sums.mul_(self.scale.index_select(0, words)[:, None])


def used_buckets(words: Sequence[str], subwords: Sequence[int], buckets: int) -> np.ndarray:
    """Buckets that n-grams of the words fall into, ascending."""
    smallest, largest = subwords
    used = np.zeros(buckets, dtype=bool)
    used[hash_ngrams(words, smallest, largest, buckets)[1]] = True
    return np.flatnonzero(used)
