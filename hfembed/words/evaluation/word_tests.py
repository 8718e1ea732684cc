"""Tests of word vectors: analogies (questions-words and others) and word pairs with human ratings.

Which questions are asked and which answers are correct follows gensim, so that both report the same numbers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

from hfembed.errors import InputError
from hfembed.models.word2vec.word_vectors import analogy_rows, unit_rows
from hfembed.words.evaluation.weat import read_associations, score_associations

_CANDIDATES = 5  # as in gensim: the best of these that is not another spelling of a word of the question


@dataclass(frozen=True)
class AnalogySection:
    """Questions of one kind, four words each: a is to b as c is to d."""

    name: str
    questions: tuple[tuple[str, str, str, str], ...]


@dataclass(frozen=True)
class AnalogyResult:
    """The result of one section.

    Attributes:
        correct: Questions answered correctly.
        asked: Questions asked.
        unknown: Questions with an unknown word; they count as asked only if they count as wrong.
    """

    correct: int
    asked: int
    unknown: int

    @property
    def accuracy(self) -> float:
        """Correct answers in percent; 0 if nothing was asked."""
        return 100 * self.correct / self.asked if self.asked else 0.0


def read_analogies(path: str | Path) -> list[AnalogySection]:
    """Read questions: `: section` lines, and lines of four words.

    Raises:
        InputError: Not such a file.
    """
    names: list[str] = []
    questions: list[list[tuple[str, str, str, str]]] = []
    for number, line in enumerate(_read_lines(path), start=1):
        if line.startswith(": "):
            names.append(line[2:].strip())
            questions.append([])
        elif not names:
            raise InputError(f"{path} line {number}: questions come in sections, the first line is ': its name'")
        elif len(words := line.split()) == 4:
            questions[-1].append((words[0], words[1], words[2], words[3]))
    if not any(questions):
        raise InputError(f"{path} has no questions (lines of four words)")
    return [AnalogySection(name, tuple(asked)) for name, asked in zip(names, questions, strict=True)]


def read_word_pairs(path: str | Path) -> list[tuple[str, str, float]]:
    """Read lines of word, word, score, separated by tabs, commas or spaces; comments (#) and headers are skipped.

    Raises:
        InputError: Not such a file.
    """
    pairs = []
    for line in _read_lines(path):
        fields = line.replace("\t", " ").replace(",", " ").replace(";", " ").split()
        if line.startswith("#") or len(fields) < 3:
            continue
        try:
            pairs.append((fields[0], fields[1], float(fields[2])))
        except ValueError:
            continue
    if not pairs:
        raise InputError(f"{path} has no lines of two words and a number")
    return pairs


def _read_lines(path: str | Path) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise InputError(f"{path} is not UTF-8 text") from None


def _list_tests(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(file for file in path.iterdir() if file.suffix in (".txt", ".tsv", ".csv"))
    return [path]


_SUITES = {
    "en": (("questions-words.txt",), ("word-sim/*.txt",)),
    "ru": (("russian/*analog*.txt", "*analog*ru*.txt"), ("russian/russe-*.csv", "russe-*.csv")),
}


def list_suite(language: str, folder: Path) -> tuple[list[Path], list[Path]]:
    """Files of analogies and of word pairs of a language in a folder: the usual English sets, RUSSE's Russian ones.

    Raises:
        InputError: The folder has none of them.
    """
    analogies, pairs = ([file for name in names for file in sorted(folder.glob(name))] for names in _SUITES[language])
    if not analogies and not pairs:
        names = ", ".join(name for names in _SUITES[language] for name in names)
        raise InputError(f"{folder} has no tests of '{language}': {names}")
    return analogies, pairs


def _known_rows(words: Sequence[str], restrict_vocab: int | None, fold_case: bool) -> dict[str, int]:
    """Spelling -> row; of words that differ only in case the first, the most frequent."""
    rows: dict[str, int] = {}
    for row, word in enumerate(words[:restrict_vocab]):
        rows.setdefault(word.upper() if fold_case else word, row)
    return rows


@torch.no_grad()
def score_analogies(
    words: Sequence[str],
    vectors: torch.Tensor,
    sections: Sequence[AnalogySection],
    restrict_vocab: int | None = 300_000,
    fold_case: bool = True,
    unknown_is_wrong: bool = False,
    method: str = "3cosadd",
    batch_size: int = 512,
) -> dict[str, AnalogyResult]:
    """Answer all questions, in batches on the device of the vectors.

    Args:
        words: The vocabulary, the most frequent word first.
        vectors: Their vectors, of shape (words, dimensions).
        sections: From `read_analogies`.
        restrict_vocab: Ask and answer only with the first words, the most frequent.
        fold_case: Ignore case.
        unknown_is_wrong: Count questions with unknown words as wrong; otherwise they are not asked.
        method: "3cosadd" or "3cosmul".
        batch_size: Questions per matrix product.

    Returns:
        Section -> result.
    """
    known = _known_rows(words, restrict_vocab, fold_case)
    spellings = [word.upper() if fold_case else word for word in words[:restrict_vocab]]
    table = unit_rows(vectors[:restrict_vocab])
    results = {}
    for section in sections:
        questions = [tuple(word.upper() if fold_case else word for word in asked) for asked in section.questions]
        rows = [[known[word] for word in asked] for asked in questions if all(word in known for word in asked)]
        correct = 0
        for start in range(0, len(rows), batch_size):
            batch = torch.tensor(rows[start : start + batch_size], device=table.device)
            _, answers = analogy_rows(table, batch[:, :3], _CANDIDATES, method)
            for (*given, expected), candidates in zip(batch.tolist(), answers.tolist(), strict=True):
                asked = {spellings[row] for row in given}
                names = [spellings[row] for row in candidates]
                answer = next((name for name in names if name not in asked), names[-1])
                correct += answer == spellings[expected]
        unknown = len(questions) - len(rows)
        results[section.name] = AnalogyResult(correct, len(questions if unknown_is_wrong else rows), unknown)
    return results


def total_of(results: dict[str, AnalogyResult]) -> AnalogyResult:
    """The sum over all sections."""
    parts = results.values()
    return AnalogyResult(
        sum(part.correct for part in parts), sum(part.asked for part in parts), sum(part.unknown for part in parts)
    )


UnknownVectors = Callable[[Sequence[str]], tuple[torch.Tensor, torch.Tensor]]
"""Vectors of words outside the vocabulary and whether they have one, as `Word2VecModel.unknown_vectors` gives them."""


@dataclass(frozen=True)
class WordPairResult:
    """How well cosines agree with human ratings.

    Attributes:
        spearman: Rank correlation, -1 to 1; NaN if fewer than two pairs are known.
        pearson: Linear correlation, -1 to 1.
        unknown_share: Pairs with a word that has no vector, in percent.
        pairs: Pairs that were compared.
        average_precision: Where the ratings are 1 (related) and 0 (not): of the related pairs, 0 to 1; NaN otherwise.
        outside_share: Pairs with a word outside the vocabulary, in percent; with subwords they have vectors.
    """

    spearman: float
    pearson: float
    unknown_share: float
    pairs: int
    average_precision: float = float("nan")
    outside_share: float = 0.0


def average_precision(related: Sequence[float], scores: np.ndarray) -> float:
    """Mean over the related items of the precision at their score; items of equal score count together."""
    labels = np.asarray(related, dtype=bool)
    order = np.argsort(-scores, kind="stable")
    found = np.cumsum(labels[order])
    last = np.append(np.diff(scores[order]) != 0, True)  # of each score
    recall = np.diff(found[last] / max(labels.sum(), 1), prepend=0)
    return float((recall * found[last] / (np.flatnonzero(last) + 1)).sum())


@torch.no_grad()
def score_word_pairs(
    words: Sequence[str],
    vectors: torch.Tensor,
    pairs: Sequence[tuple[str, str, float]],
    restrict_vocab: int | None = 300_000,
    fold_case: bool = True,
    unknown_is_zero: bool = False,
    unknown_vectors: UnknownVectors | None = None,
) -> WordPairResult:
    """Correlate cosines with ratings; where these are 0 and 1, also the average precision.

    Args:
        words: The vocabulary, the most frequent word first.
        vectors: Their vectors, of shape (words, dimensions).
        pairs: From `read_word_pairs`.
        restrict_vocab: Use only the first words, the most frequent.
        fold_case: Ignore case.
        unknown_is_zero: Give pairs with unknown words the cosine 0; otherwise they are left out.
        unknown_vectors: Vectors of words that are not in the vocabulary, of models with subwords.
    """
    known = _known_rows(words, restrict_vocab, fold_case)
    asked = list(dict.fromkeys(word for pair in pairs for word in pair[:2]))
    outside = {word for word in asked if (word.upper() if fold_case else word) not in known}
    if unknown_vectors is not None and outside:
        found, there = unknown_vectors(sorted(outside))
        for row, (word, has_vector) in enumerate(zip(sorted(outside), there.tolist(), strict=True), len(vectors)):
            if has_vector:
                known[word.upper() if fold_case else word] = row
        vectors = torch.cat([vectors, found.to(vectors)])
    rows, ratings, num_unknown = [], [], 0
    for first, second, rating in pairs:
        both = tuple(known.get(word.upper() if fold_case else word) for word in (first, second))
        if None in both:
            num_unknown += 1
            if not unknown_is_zero:
                continue
        rows.append(both)
        ratings.append(rating)
    cosines = np.zeros(len(rows))
    at = [number for number, both in enumerate(rows) if None not in both]
    if at:
        index = torch.tensor([rows[number] for number in at], device=vectors.device)
        one, other = (unit_rows(vectors[column]) for column in index.unbind(dim=1))
        cosines[at] = (one * other).sum(dim=1).cpu().double().numpy()
    spearman = pearson = float("nan")
    if len(rows) > 1 and np.ptp(cosines) > 0 and np.ptp(ratings) > 0:
        spearman = float(stats.spearmanr(ratings, cosines).statistic)
        pearson = float(stats.pearsonr(ratings, cosines).statistic)
    precision = float("nan")
    if set(ratings) == {0.0, 1.0}:
        precision = average_precision(ratings, cosines)
    outside_share = 100 * sum(not outside.isdisjoint(pair[:2]) for pair in pairs) / len(pairs)
    return WordPairResult(spearman, pearson, 100 * num_unknown / len(pairs), len(rows), precision, outside_share)


class WordTests:
    """Analogies, word pairs and tests of bias together, for training and `hfembed evaluate words`.

    Args:
        analogies: Files of questions; the metrics have the files' names.
        word_pairs: Files of rated pairs, or folders of these.
        restrict_vocab: Use only the first words, the most frequent (analogies are often restricted to 30,000).
        fold_case: Ignore case.
        unknown_is_wrong: Questions and pairs with unknown words count as wrong, or at cosine 0.
        method: "3cosadd" or "3cosmul".
        associations: Files of WEAT's sets of words; the metrics have the tests' names.

    Raises:
        InputError: A file that does not exist or is not such a test.
    """

    greater_is_better = True

    def __init__(
        self,
        analogies: Sequence[str | Path] = (),
        word_pairs: Sequence[str | Path] = (),
        restrict_vocab: int | None = 300_000,
        fold_case: bool = True,
        unknown_is_wrong: bool = False,
        method: str = "3cosadd",
        associations: Sequence[str | Path] = (),
    ):
        self.files = {Path(file).stem: Path(file) for file in analogies}
        self.analogies = {name: read_analogies(file) for name, file in self.files.items()}
        pair_files = [file for path in map(Path, word_pairs) for file in _list_tests(path)]
        self.word_pairs = {file.stem: read_word_pairs(file) for file in pair_files}
        self.files |= {file.stem: file for file in pair_files}
        self.associations = {name: test for file in associations for name, test in read_associations(file).items()}
        self.files |= {Path(file).stem: Path(file) for file in associations}
        if not self.files:
            raise InputError("give analogies or word pairs to evaluate, or sets of words for WEAT")
        self.restrict_vocab = restrict_vocab
        self.fold_case = fold_case
        self.unknown_is_wrong = unknown_is_wrong
        self.method = method

    @property
    def primary_metric(self) -> str:
        """The metric by which models are compared."""
        if self.analogies:
            return f"words_{next(iter(self.analogies))}_accuracy"
        if self.word_pairs:
            return f"words_{next(iter(self.word_pairs))}_spearman"
        return f"words_{next(iter(self.associations))}_effect_size"

    def __call__(
        self, words: Sequence[str], vectors: torch.Tensor, unknown_vectors: UnknownVectors | None = None
    ) -> dict[str, float]:
        """Score word vectors.

        Args:
            words: The vocabulary, the most frequent word first.
            vectors: Their vectors, of shape (words, dimensions).
            unknown_vectors: Of models with subwords: word pairs are then compared outside the vocabulary too.

        Returns:
            Metric -> value; accuracies, correlations (x 100) and unknown shares in percent; effect sizes and p values
            of WEAT as they are. A correlation of less than two known pairs is left out, and so is WEAT with a set of
            less than two known words.
        """
        return self.details(words, vectors, unknown_vectors)[0]

    def details(
        self, words: Sequence[str], vectors: torch.Tensor, unknown_vectors: UnknownVectors | None = None
    ) -> tuple[dict[str, float], dict[str, Any]]:
        """The metrics, and their details: sections, counts, settings."""
        metrics: dict[str, float] = {}
        sections = {}
        for name, questions in self.analogies.items():
            results = score_analogies(
                words, vectors, questions, self.restrict_vocab, self.fold_case, self.unknown_is_wrong, self.method
            )
            total = total_of(results)
            count = sum(len(section.questions) for section in questions)
            metrics[f"words_{name}_accuracy"] = total.accuracy
            metrics[f"words_{name}_unknown"] = 100 * total.unknown / count
            sections[name] = {
                section: {"correct": result.correct, "asked": result.asked, "unknown": result.unknown}
                for section, result in {**results, "total": total}.items()
            }
        pairs = {}
        for name, rated in self.word_pairs.items():
            result = score_word_pairs(
                words, vectors, rated, self.restrict_vocab, self.fold_case, self.unknown_is_wrong, unknown_vectors
            )
            if result.average_precision == result.average_precision:
                metrics[f"words_{name}_average_precision"] = 100 * result.average_precision
                metrics[f"words_{name}_outside_vocabulary"] = result.outside_share
            if result.spearman == result.spearman:
                metrics[f"words_{name}_spearman"] = 100 * result.spearman
                metrics[f"words_{name}_pearson"] = 100 * result.pearson
            metrics[f"words_{name}_unknown"] = result.unknown_share
            pairs[name] = {"pairs": result.pairs, "of": len(rated)}
        associations = {}
        measured = score_associations(words, vectors, self.associations, self.restrict_vocab, self.fold_case)
        for name, association in measured.items():
            test = self.associations[name]
            associations[name] = {
                "sets": list(test.labels), "known": list(association.known), "of": [len(part) for part in test.words]
            }  # fmt: skip
            if association.effect_size == association.effect_size:
                metrics[f"words_{name}_effect_size"] = association.effect_size
                metrics[f"words_{name}_p_value"] = association.p_value
        settings = {
            "restrict_vocab": self.restrict_vocab,
            "fold_case": self.fold_case,
            "unknown_is_wrong": self.unknown_is_wrong,
            "method": self.method,
        }
        details = {"analogies": sections, "word_pairs": pairs, "settings": settings}
        return metrics, details | ({"associations": associations} if associations else {})
