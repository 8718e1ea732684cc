"""WEAT, a test of bias in word vectors (Caliskan, Bryson, Narayanan 2017)."""

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from hfembed.errors import InputError
from hfembed.models.word2vec.word_vectors import unit_rows
from hfembed.words.evaluation.known_words import read_lines

WEAT_EN = Path(__file__).with_name("weat_en.txt")
"""The paper's tests 6 to 8: gender with career and family, math and arts, science and arts."""

_MOST_PARTITIONS = 200_000
_FEWEST_WORDS = 2  # known ones in each set


@dataclass(frozen=True)
class AssociationTest:
    """Two sets of targets (X, Y) and two of attributes (A, B), in this order, with what each set is called."""

    labels: tuple[str, ...]
    words: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class AssociationResult:
    """The result of one test.

    Attributes:
        effect_size: Of X with A and Y with B, in standard deviations; NaN if too few words are known.
        p_value: Of the hypothesis that X and Y do not differ, one-sided, above 0 to 1; NaN likewise.
        known: Words of X, Y, A and B that have vectors.
    """

    effect_size: float
    p_value: float
    known: tuple[int, ...]


def read_associations(path: str | Path) -> dict[str, AssociationTest]:
    """Read tests: a line `: name`, then four lines `label: word word ...`; X, Y, A, B. Comments begin with #.

    Raises:
        InputError: Not such a file.
        OSError: It cannot be read.
    """
    lines = read_lines(path)
    tests: dict[str, list[tuple[str, tuple[str, ...]]]] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        label, colon, words = (part.strip() for part in line.partition(":"))
        if colon and not label:
            if words in tests or not re.fullmatch(r"[\w-]+", words):
                raise InputError(f"{path} line {number}: {words!r} is a duplicate, or no name of a test (one word)")
            tests[words] = []
        elif not tests or not re.fullmatch(r"[\w '-]+", label) or len(set(words.split())) < _FEWEST_WORDS:
            raise InputError(f"{path} line {number}: expected ': name of a test' or 'label: word word ...'")
        else:
            tests[list(tests)[-1]].append((label, tuple(dict.fromkeys(words.split()))))
    wrong = next((name for name, sets in tests.items() if len(sets) != 4), None)
    if wrong is not None or not tests:
        raise InputError(f"{path}: a test has four lines of words, two of targets and two of attributes ({wrong})")
    for name, sets in tests.items():
        for first, second in (sets[:2], sets[2:]):
            if shared := set(first[1]) & set(second[1]):
                raise InputError(f"{path}: {name} has {min(shared)!r} in both '{first[0]}' and '{second[0]}'")
    return {
        name: AssociationTest(tuple(label for label, _ in sets), tuple(words for _, words in sets))
        for name, sets in tests.items()
    }


def associate(
    targets: tuple[np.ndarray, np.ndarray],
    attributes: tuple[np.ndarray, np.ndarray],
    most_partitions: int = _MOST_PARTITIONS,
    seed: int = 0,
) -> tuple[float, float]:
    """Effect size and one-sided p value of WEAT.

    With s(w) the mean cosine of w to A minus that to B, the effect size is the mean s of X minus that of Y, over the
    standard deviation of s over both (n - 1 in its denominator). The p value is the share of the partitions of X and Y
    together, in sets of their sizes, whose X is associated with A at least as much as X is. The partition itself is
    one of them (the paper counts only greater ones), so that the p value is above 0.

    Args:
        targets: Vectors of X and Y, each of shape (words, dimensions), at least two words.
        attributes: Vectors of A and B, likewise.
        most_partitions: Where there are more, this many are drawn.
        seed: Of the drawing.

    Returns:
        Effect size and p value; NaN where all targets are associated alike.
    """
    units = [
        part / np.maximum(np.linalg.norm(part, axis=1, keepdims=True), np.finfo(np.float64).tiny)
        for part in (np.asarray(part, dtype=np.float64) for part in (*targets, *attributes))
    ]
    both = np.concatenate(units[:2])
    scores = both @ units[2].mean(axis=0) - both @ units[3].mean(axis=0)
    size, count = len(units[0]), len(scores)
    deviation = scores.std(ddof=1)
    if deviation < 1e-12:
        return float("nan"), float("nan")
    effect = (scores[:size].mean() - scores[size:].mean()) / deviation
    # with the sizes fixed, the statistic grows with the sum over X alone
    bound = scores[:size].sum() - 1e-12 * count
    if math.comb(count, size) <= most_partitions:
        chosen = np.array(list(itertools.combinations(range(count), size)))
        return float(effect), float(np.mean(scores[chosen].sum(axis=1) >= bound))
    rng = np.random.default_rng(seed)
    sums = [rng.permutation(scores)[:size].sum() for _ in range(most_partitions)]
    return float(effect), float((1 + np.sum(np.array(sums) >= bound)) / (1 + most_partitions))


@torch.no_grad()
def score_associations(
    words: Sequence[str],
    vectors: torch.Tensor,
    tests: dict[str, AssociationTest],
    restrict_vocab: int | None = 300_000,
    fold_case: bool = True,
) -> dict[str, AssociationResult]:
    """Apply tests to word vectors; words that are not in the vocabulary are left out.

    Args:
        words: The vocabulary, the most frequent word first.
        vectors: Their vectors, of shape (words, dimensions).
        tests: From `read_associations`.
        restrict_vocab: Use only the first words, the most frequent.
        fold_case: A word that is not spelled like this in the vocabulary is found in another case.
    """
    wanted = {word for test in tests.values() for part in test.words for word in part}
    folded = {word.upper() for word in wanted}
    rows: dict[str, int] = {}
    others: dict[str, int] = {}
    for row, word in enumerate(words[:restrict_vocab]):
        if word in wanted:
            rows.setdefault(word, row)
        if fold_case and word.upper() in folded:
            others.setdefault(word.upper(), row)
    results = {}
    for name, test in tests.items():
        found = [[rows.get(word, others.get(word.upper())) for word in part] for part in test.words]
        known = [list(dict.fromkeys(row for row in part if row is not None)) for part in found]
        effect = p_value = float("nan")
        if min(map(len, known)) >= _FEWEST_WORDS:
            first, second, third, fourth = (unit_rows(vectors[part]).cpu().double().numpy() for part in known)
            effect, p_value = associate((first, second), (third, fourth))
        results[name] = AssociationResult(effect, p_value, tuple(map(len, known)))
    return results
