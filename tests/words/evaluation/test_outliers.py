"""Outlier detection against a loop over the paper's formulas; unknown words, and files that are no groups."""

import numpy as np
import pytest
import torch

from hfembed.errors import InputError
from hfembed.words.evaluation.outliers import read_outliers, score_outliers, sum_outliers
from hfembed.words.evaluation.word_tests import WordTests

GROUPS = {
    "animals": "cat\ndog\ncow\nhorse\n\ncar\npaper\nsky\n",
    "cities": "Paris\nNew York\r\nRome\n\n\nriver\nnew paper\nunheard\n",
}
WORDS = "cat dog cow horse car paper sky paris rome new york river".split()


def write_groups(folder):
    for name, text in GROUPS.items():
        (folder / f"{name}.txt").write_text(text)
    return folder


def positions_as_the_paper(vectors, members, outliers):
    """The position of each outlier, 0 to n, when its group is sorted by compactness (equations 2 to 5)."""

    def cosine(a, b):
        return a @ b / (np.linalg.norm(a) * np.linalg.norm(b))

    found = []
    for outlier in outliers:
        group = [vectors[word] for word in (*members, outlier)]
        compact = [
            sum(cosine(one, group[j]) for j in range(len(group)) if j != i) / (len(group) - 1)
            for i, one in enumerate(group)
        ]
        order = sorted(range(len(group)), key=lambda i, compact=compact: -compact[i])
        found.append(order.index(len(group) - 1))
    return found


def test_positions_are_the_papers(tmp_path):
    groups = read_outliers(write_groups(tmp_path))
    assert groups["cities"].words == ("Paris", "New_York", "Rome")
    detected = 0
    for seed in range(20):
        rows = np.random.default_rng(seed).normal(size=(len(WORDS), 3))
        vectors = dict(zip(WORDS, rows, strict=True))
        vectors |= {
            "new_york": (vectors["new"] + vectors["york"]) / 2,
            "new_paper": (vectors["new"] + vectors["paper"]) / 2,
        }
        found = score_outliers(WORDS, torch.from_numpy(rows.astype(np.float32)), groups)
        for name, members, outliers in (
            ("animals", ("cat", "dog", "cow", "horse"), ("car", "paper", "sky")),
            ("cities", ("paris", "new_york", "rome"), ("river", "new_paper")),
        ):
            at = positions_as_the_paper(vectors, members, outliers)
            assert found[name].position == pytest.approx(sum(at) / len(members))
            assert found[name].detected == sum(place == len(members) for place in at)
            assert found[name].asked == len(outliers)
        total = sum_outliers(found)
        assert (total.asked, total.unknown) == (5, 1) and 0 <= total.opp <= 100
        detected += total.detected
    assert detected


def test_unknown_words(tmp_path):
    groups = read_outliers(write_groups(tmp_path))
    rows = torch.eye(len(WORDS))[:, :4] + 0.1
    without_cow = [word if word != "cow" else "bull" for word in WORDS]
    left_out = score_outliers(without_cow, rows, groups)
    assert (left_out["animals"].asked, left_out["animals"].unknown) == (3, 0)
    wrong = score_outliers(without_cow, rows, groups, unknown_is_wrong=True)
    assert (wrong["animals"].asked, wrong["animals"].detected, wrong["animals"].unknown) == (3, 0, 3)
    assert (wrong["cities"].asked, wrong["cities"].unknown) == (3, 1)
    none = WordTests(outliers=[tmp_path])(["others", "alone"], torch.eye(2))
    assert none == {f"words_{tmp_path.name}_unknown": 100}

    def everything(words):
        return torch.ones(len(words), 4), torch.ones(len(words), dtype=torch.bool)

    assert score_outliers(without_cow, rows, groups, unknown_vectors=everything)["cities"].asked == 3


def test_folders_that_are_no_groups(tmp_path):
    with pytest.raises(InputError, match="no groups"):
        read_outliers(tmp_path)
    for text in ("cat\ndog\ncow\n", "cat\n\ndog\n", "cat\ndog\n\ncat\n", "a\nb\n\nc\n\nd\n"):
        (tmp_path / "x.txt").write_text(text)
        with pytest.raises(InputError, match="x.txt is not a group with outliers: a line per word"):
            read_outliers(tmp_path)
