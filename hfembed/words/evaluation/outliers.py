"""Outlier detection (Camacho-Collados and Navigli 2016): the word that does not belong to a group."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from hfembed.errors import InputError
from hfembed.models.word2vec.word_vectors import unit_rows
from hfembed.words.evaluation.known_words import KnownWords, read_lines

UnknownVectors = Callable[[Sequence[str]], tuple[torch.Tensor, torch.Tensor]]
"""Vectors of words outside the vocabulary and whether they have one, as `Word2VecModel.unknown_vectors` gives them."""


@dataclass(frozen=True)
class OutlierGroup:
    """Words that belong together, and words of which none belongs to them."""

    words: tuple[str, ...]
    outliers: tuple[str, ...]


@dataclass(frozen=True)
class OutlierResult:
    """The result of one group, or of several.

    Attributes:
        detected: Outliers that are less similar to the others than every word of the group.
        position: Sum of the outliers' positions among the words by similarity, each from 0 to 1 (the last).
        asked: Outliers asked for.
        unknown: Outliers without a vector, or of a group with less than two known words; asked only if they count as
            wrong.
    """

    detected: int
    position: float
    asked: int
    unknown: int

    @property
    def accuracy(self) -> float:
        """Detected outliers in percent; 0 if none was asked for."""
        return 100 * self.detected / self.asked if self.asked else 0.0

    @property
    def opp(self) -> float:
        """Outlier position percentage (the paper's equation 5); 0 if none was asked for."""
        return 100 * self.position / self.asked if self.asked else 0.0


def read_outliers(folder: str | Path) -> dict[str, OutlierGroup]:
    """Read the .txt files of a folder: one word per line, an empty line, one outlier per line, as in 8-8-8.

    Spaces inside of words become `_`.

    Raises:
        InputError: No such folder, or a file that is no group.
    """
    files = sorted(Path(folder).glob("*.txt"))
    if not files:
        raise InputError(f"{folder} has no groups of words with outliers (.txt files)")
    groups = {}
    for file in files:
        parts: list[list[str]] = [[]]
        for line in map(str.strip, read_lines(file)):
            if line:
                parts[-1].append(line.replace(" ", "_"))
            elif parts[-1]:
                parts.append([])
        parts = [list(dict.fromkeys(part)) for part in parts if part]
        if len(parts) != 2 or len(parts[0]) < 2 or set(parts[0]) & set(parts[1]):
            raise InputError(
                f"{file} is not a group with outliers: a line per word of the group, two or more, then an empty line, "
                "then a line per outlier, other words"
            )
        groups[file.stem] = OutlierGroup(tuple(parts[0]), tuple(parts[1]))
    return groups


@torch.no_grad()
def score_outliers(
    words: Sequence[str],
    vectors: torch.Tensor,
    groups: dict[str, OutlierGroup],
    restrict_vocab: int | None = 300_000,
    fold_case: bool = True,
    unknown_is_wrong: bool = False,
    unknown_vectors: UnknownVectors | None = None,
) -> dict[str, OutlierResult]:
    """Order each group with one outlier by the mean cosine to the others, the paper's compactness.

    A word of several parts that is not in the vocabulary has the mean of its known parts, as in the paper's program.

    Args:
        words: The vocabulary, the most frequent word first.
        vectors: Their vectors, of shape (words, dimensions).
        groups: From `read_outliers`.
        restrict_vocab: Use only the first words, the most frequent.
        fold_case: Ignore case.
        unknown_is_wrong: An unknown outlier, and every outlier of a group with an unknown word, counts as wrong at
            position 0 (Brink Andersen et al. 2020); otherwise unknown words are left out.
        unknown_vectors: Vectors of words that are not in the vocabulary, of models with subwords.
    """
    known = KnownWords(words, restrict_vocab, fold_case)

    def vector(word: str) -> torch.Tensor | None:
        row = known.find(word)
        parts = [row for row in map(known.find, word.split("_")) if row is not None] if row is None else [row]
        if parts:
            return vectors[parts].float().mean(dim=0)
        if unknown_vectors is None:
            return None
        found, there = unknown_vectors([known.spell(word)])
        return found[0].float().to(vectors.device) if bool(there[0]) else None

    results = {}
    for name, group in groups.items():
        members = [found for found in map(vector, group.words) if found is not None]
        outliers = [found for found in map(vector, group.outliers) if found is not None]
        if len(members) < 2 or (unknown_is_wrong and len(members) < len(group.words)):
            outliers = []
        detected, position = 0, 0.0
        if outliers:
            units = unit_rows(torch.stack(members).double())
            among = (units @ units.sum(dim=0)) - (units * units).sum(dim=1)
            to_outlier = units @ unit_rows(torch.stack(outliers).double()).T
            above = ((among.unsqueeze(1) + to_outlier) > to_outlier.sum(dim=0)).sum(dim=0)
            detected = int((above == len(members)).sum())
            position = float(above.sum()) / len(members)
        unknown = len(group.outliers) - len(outliers)
        asked = len(group.outliers) if unknown_is_wrong else len(outliers)
        results[name] = OutlierResult(detected, position, asked, unknown)
    return results


def sum_outliers(results: dict[str, OutlierResult]) -> OutlierResult:
    """The sum over all groups."""
    parts = results.values()
    return OutlierResult(
        sum(part.detected for part in parts),
        sum(part.position for part in parts),
        sum(part.asked for part in parts),
        sum(part.unknown for part in parts),
    )
