"""Tests of word vectors: analogies (questions-words, BATS) and word pairs with human ratings.

Which questions are asked and which answers are correct follows gensim, and for BATS vecto: the numbers are the same.
"""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

from hfembed.errors import InputError
from hfembed.models.word2vec.word_vectors import answer_analogies, unit_rows
from hfembed.words.evaluation.known_words import KnownWords, read_lines
from hfembed.words.evaluation.outliers import UnknownVectors, read_outliers, score_outliers, sum_outliers
from hfembed.words.evaluation.weat import read_associations, score_associations

_CANDIDATES = 5  # as in gensim: the best of these that is not another spelling of a word of the question


Question = tuple[str, tuple[str, ...], str, tuple[str, ...]]
"""a is to b as c is to d, where b and d are one or several words that are right."""


@dataclass(frozen=True)
class AnalogySection:
    """Questions of one kind; in BATS the kinds belong to a category."""

    name: str
    questions: tuple[Question, ...]
    category: str = ""


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
    """Read questions: `: section` lines, and lines of four words; or a folder in BATS' layout.

    BATS (Gladkova et al. 2016) has a folder per category with files of lines `word<TAB>answer/answer/...`. All ordered
    pairs of a file's lines are questions. Those whose words and first answers are known are asked; any of the answers
    is correct.

    Raises:
        InputError: Not such a file or folder.
    """
    if Path(path).is_dir():
        return _read_bats(Path(path))
    names: list[str] = []
    questions: list[list[Question]] = []
    for number, line in enumerate(read_lines(path), start=1):
        if line.startswith(": "):
            names.append(line[2:].strip())
            questions.append([])
        elif not names:
            raise InputError(f"{path} line {number}: questions come in sections, the first line is ': its name'")
        elif len(words := line.split()) == 4:
            questions[-1].append((words[0], (words[1],), words[2], (words[3],)))
    if not any(questions):
        raise InputError(f"{path} has no questions (lines of four words)")
    return [AnalogySection(name, tuple(asked)) for name, asked in zip(names, questions, strict=True)]


def _read_bats(folder: Path) -> list[AnalogySection]:
    sections = []
    for file in sorted(folder.glob("*/*.txt")):
        pairs = []
        for number, line in enumerate(read_lines(file), start=1):
            word, _, listed = (part.strip() for part in line.partition("\t" if "\t" in line else " "))
            if not line.strip():
                continue
            answers = tuple(filter(None, map(str.strip, re.split("/" if "/" in listed else ",", listed))))
            if not word or not answers:
                raise InputError(f"{file} line {number}: expected 'word<TAB>answer/answer/...', not {line[:60]!r}")
            pairs.append((word, answers))
        asked = tuple((*one, *other) for i, one in enumerate(pairs) for j, other in enumerate(pairs) if i != j)
        sections.append(AnalogySection(file.stem, asked, file.parent.name))
    if not any(section.questions for section in sections):
        raise InputError(f"{folder} is not in BATS' layout: folders of .txt files with lines 'word<TAB>answer/answer'")
    if len({section.name for section in sections}) < len(sections):
        raise InputError(f"{folder} has two files of one name")
    return sections


def read_word_pairs(path: str | Path) -> list[tuple[str, str, float]]:
    """Read lines of word, word, score, separated by tabs, commas or spaces; comments (#) and a heading are skipped.

    Raises:
        InputError: Not such a file, or a later line is none; the line is named.
    """
    pairs, begun = [], False
    for number, line in enumerate(read_lines(path), start=1):
        fields = re.split(r"[\s,;]+", line.strip())
        if line.startswith("#") or not line.strip():
            continue
        try:
            score = float(fields[2])
        except (IndexError, ValueError):
            score = math.nan
        if math.isfinite(score):
            pairs.append((fields[0], fields[1], score))
        elif begun:
            raise InputError(f"{path}, line {number}: {line.strip()[:80]!r} is not two words and a number")
        begun = True
    if not pairs:
        raise InputError(f"{path} has no lines of two words and a number")
    return pairs


def _list_tests(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(file for file in path.iterdir() if file.suffix in (".txt", ".tsv", ".csv"))
    return [path]


_SUITES = {
    "en": (("questions-words.txt", "BATS*"), ("word-sim/*.txt",), ("8-8-8*",)),
    "ru": (
        ("russian/*analog*.txt", "*analog*ru*.txt"),
        ("russian/russe-*.csv", "russe-*.csv", "russian/*simlex*.tsv"),
        (),
    ),
}


def list_suite(language: str, folder: Path) -> tuple[list[Path], list[Path], list[Path]]:
    """Analogies, word pairs and outliers of a language in a folder: the usual English sets, RUSSE's Russian ones.

    Raises:
        InputError: The folder has none of them.
    """
    found = [[file for name in names for file in sorted(folder.glob(name))] for names in _SUITES[language]]
    if not any(found):
        names = ", ".join(name for names in _SUITES[language] for name in names)
        raise InputError(f"{folder} has no tests of '{language}': {names}")
    return found[0], found[1], found[2]


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
    vocabulary = KnownWords(words, restrict_vocab, fold_case)
    known = vocabulary.rows
    spellings = [vocabulary.fold(word) for word in words[:restrict_vocab]]
    table = unit_rows(vectors[:restrict_vocab])

    def fold(asked: Sequence[str]) -> tuple[str, ...]:
        return tuple(vocabulary.fold(vocabulary.spell(word)) for word in asked)

    results = {}
    for section in sections:
        questions = [(fold([a])[0], fold([c])[0], fold(b), fold(d)) for a, b, c, d in section.questions]
        asked = [(a, c, b, d) for a, c, b, d in questions if all(word in known for word in (a, c, b[0], d[0]))]
        correct = 0
        for start in range(0, len(asked), batch_size):
            batch = asked[start : start + batch_size]
            given = torch.tensor([[known[a], known[b[0]], known[c]] for a, c, b, _ in batch], device=table.device)
            # every right answer of the first pair is no answer to the second
            more = [[known[word] for word in b[1:] if word in known] for _, _, b, _ in batch]
            width = max(map(len, more))
            padded = torch.tensor([rows + [-1] * (width - len(rows)) for rows in more], dtype=torch.int64)
            exclude = torch.cat([given, padded.to(given.device)], dim=1)
            _, answers = answer_analogies(table, table[given], exclude, _CANDIDATES, method)
            for (a, c, b, d), candidates in zip(batch, answers.tolist(), strict=True):
                names = [spellings[row] for row in candidates]
                answer = next((name for name in names if name not in (a, c, *b)), names[-1])
                correct += answer in d
        unknown = len(questions) - len(asked)
        results[section.name] = AnalogyResult(correct, len(questions if unknown_is_wrong else asked), unknown)
    return results


def total_of(parts: Iterable[AnalogyResult]) -> AnalogyResult:
    """The sum over sections."""
    parts = list(parts)
    return AnalogyResult(
        sum(part.correct for part in parts), sum(part.asked for part in parts), sum(part.unknown for part in parts)
    )


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
    vocabulary = KnownWords(words, restrict_vocab, fold_case)
    pairs = [(vocabulary.spell(first), vocabulary.spell(second), rating) for first, second, rating in pairs]
    asked = dict.fromkeys(word for pair in pairs for word in pair[:2])
    outside = {word for word in asked if vocabulary.find(word) is None}
    if unknown_vectors is not None and outside:
        found, there = unknown_vectors(sorted(outside))
        for row, (word, has_vector) in enumerate(zip(sorted(outside), there.tolist(), strict=True), len(vectors)):
            if has_vector:
                vocabulary.rows[vocabulary.fold(word)] = row
        vectors = torch.cat([vectors, found.to(vectors)])
    rows, ratings, num_unknown = [], [], 0
    for first, second, rating in pairs:
        both = (vocabulary.find(first), vocabulary.find(second))
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
    """Analogies, word pairs, outliers and tests of bias together, for training and `hfembed evaluate words`.

    Args:
        analogies: Files of questions, or folders in BATS' layout; the metrics have the files' names.
        word_pairs: Files of rated pairs, or folders of these.
        restrict_vocab: Use only the first words, the most frequent (analogies are often restricted to 30,000).
        fold_case: Ignore case.
        unknown_is_wrong: Questions and pairs with unknown words count as wrong, or at cosine 0.
        method: "3cosadd" or "3cosmul".
        associations: Files of WEAT's sets of words; the metrics have the tests' names.
        outliers: Folders of groups of words with outliers; the metrics have the folders' names.

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
        outliers: Sequence[str | Path] = (),
    ):
        self.files = {_name_of(Path(file)): Path(file) for file in analogies}
        self.analogies = {name: read_analogies(file) for name, file in self.files.items()}
        pair_files = [file for path in map(Path, word_pairs) for file in _list_tests(path)]
        self.word_pairs = {file.stem: read_word_pairs(file) for file in pair_files}
        self.files |= {file.stem: file for file in pair_files}
        self.associations = {name: test for file in associations for name, test in read_associations(file).items()}
        self.files |= {Path(file).stem: Path(file) for file in associations}
        self.outliers = {_name_of(Path(folder)): read_outliers(folder) for folder in outliers}
        self.files |= {_name_of(Path(folder)): Path(folder) for folder in outliers}
        if not self.files:
            raise InputError("give analogies, word pairs or outliers to evaluate, or sets of words for WEAT")
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
        if self.outliers:
            return f"words_{next(iter(self.outliers))}_opp"
        return f"words_{next(iter(self.associations))}_effect_size"

    def __call__(
        self, words: Sequence[str], vectors: torch.Tensor, unknown_vectors: UnknownVectors | None = None
    ) -> dict[str, float]:
        """Score word vectors.

        Args:
            words: The vocabulary, the most frequent word first.
            vectors: Their vectors, of shape (words, dimensions).
            unknown_vectors: Of models with subwords: word pairs and outliers outside the vocabulary are then compared
                too.

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
        sections: dict[str, dict[str, Any]] = {}
        categories: dict[str, dict[str, Any]] = {}
        for name, questions in self.analogies.items():
            results = score_analogies(
                words, vectors, questions, self.restrict_vocab, self.fold_case, self.unknown_is_wrong, self.method
            )
            total = total_of(results.values())
            count = sum(len(section.questions) for section in questions)
            metrics[f"words_{name}_accuracy"] = total.accuracy
            metrics[f"words_{name}_unknown"] = 100 * total.unknown / count
            sections[name] = {part: asdict(result) for part, result in {**results, "total": total}.items()}
            for category in dict.fromkeys(section.category for section in questions if section.category):
                part = total_of(results[section.name] for section in questions if section.category == category)
                metrics[f"words_{name}_{category}_accuracy"] = part.accuracy
                categories.setdefault(name, {})[category] = asdict(part)
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
        groups = {}
        for name, asked in self.outliers.items():
            found = score_outliers(
                words, vectors, asked, self.restrict_vocab, self.fold_case, self.unknown_is_wrong, unknown_vectors
            )
            outliers = sum_outliers(found)
            if outliers.asked:
                metrics[f"words_{name}_accuracy"] = outliers.accuracy
                metrics[f"words_{name}_opp"] = outliers.opp
            count = sum(len(group.outliers) for group in asked.values())
            metrics[f"words_{name}_unknown"] = 100 * outliers.unknown / count
            groups[name] = {group: asdict(part) for group, part in {**found, "total": outliers}.items()}
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
        more = {"analogy_categories": categories, "outliers": groups, "associations": associations}
        details = {"analogies": sections, "word_pairs": pairs, "settings": settings}
        return metrics, details | {kind: tests for kind, tests in more.items() if tests}


def _name_of(path: Path) -> str:
    """How the results call a test: a folder's name may have points in it (BATS_3.0)."""
    return path.resolve().name if path.is_dir() else path.stem
