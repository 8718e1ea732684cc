"""WEAT against its definition written out, its sets of words, and where its results are shown."""

import itertools
import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from hfembed import Word2VecModel
from hfembed.checkpoint.card import write_card
from hfembed.cli import app
from hfembed.errors import InputError
from hfembed.models.word2vec.vocabulary_word2vec import Vocabulary
from hfembed.words.evaluation.weat import WEAT_EN, associate, read_associations, score_associations
from hfembed.words.evaluation.word_tests import WordTests


def by_definition(x, y, a, b):
    """The paper's formulas, word by word; equal partitions count."""

    def cosine(v, w):
        return v @ w / np.sqrt((v @ v) * (w @ w))

    def s(w):
        return np.mean([cosine(w, v) for v in a]) - np.mean([cosine(w, v) for v in b])

    words = [*x, *y]
    scores = [s(w) for w in words]
    effect = (np.mean(scores[: len(x)]) - np.mean(scores[len(x) :])) / np.std(scores, ddof=1)

    def statistic(chosen):
        inside = [scores[n] for n in chosen]
        return np.mean(inside) - np.mean([score for n, score in enumerate(scores) if n not in chosen])

    partitions = list(itertools.combinations(range(len(words)), len(x)))
    observed = statistic(partitions[0])
    return effect, np.mean([statistic(chosen) >= observed - 1e-12 for chosen in partitions])


@pytest.mark.parametrize("sizes", [(4, 4, 3, 3), (2, 5, 4, 2), (5, 3, 2, 6)])
def test_equal_to_the_definition(sizes):
    for seed in range(8):
        rng = np.random.default_rng(seed)
        x, y, a, b = (rng.normal(size=(size, 5)) for size in sizes)
        assert associate((x, y), (a, b)) == pytest.approx(by_definition(x, y, a, b), abs=1e-9)


def test_extremes_and_drawn_partitions():
    x, y, a, b = (np.array([[1, 0.1 * n], [1, 0.2 * n]]) for n in (1, 2, 3, 4))
    assert associate((x, x), (a, a)) == pytest.approx((np.nan, np.nan), nan_ok=True)
    x, y = np.array([[1.0, 0.0]] * 4), np.array([[0.0, 1.0]] * 4)
    effect, p_value = associate((x, y), (x, y))
    assert p_value == pytest.approx(1 / 70) and effect == pytest.approx(2 * np.sqrt(7 / 8))
    assert associate((y, x), (x, y)) == pytest.approx((-effect, 1))
    rng = np.random.default_rng(0)
    x, y, a, b = (rng.normal(size=(8, 4)) for _ in range(4))
    exact, drawn = associate((x, y), (a, b)), associate((x, y), (a, b), most_partitions=5000)
    assert drawn[0] == exact[0] and drawn[1] == pytest.approx(exact[1], abs=0.03)
    assert drawn == associate((x, y), (a, b), most_partitions=5000)


def test_the_papers_sets():
    tests = read_associations(WEAT_EN)
    assert list(tests) == ["weat6", "weat7", "weat8"]
    assert all(len(set(words)) == 8 for test in tests.values() for words in test.words)
    assert tests["weat6"].labels == ("male names", "female names", "career", "family")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "four lines"), (": a\nx: b c\n", "four lines.*a"), ("x: b c\n", "line 1"), (": a\nb c\n", "line 2"),
        (": a\nx: b\n", "line 2"), (": a\n: a\n", "line 2: 'a' is a duplicate"), (": a b\n", "no name of a test"),
        (": a\nx: b c\ny: c d\nz: e f\nw: g h\n", "'c' in both 'x' and 'y'"), (": a\n|: b c\n", "line 2"),
    ],
)  # fmt: skip
def test_files_that_are_no_tests(tmp_path, text, message):
    (tmp_path / "weat.txt").write_text(text)
    with pytest.raises(InputError, match=message):
        read_associations(tmp_path / "weat.txt")


def test_words_are_found_by_spelling_then_in_another_case():
    tests = read_associations(WEAT_EN)
    words = [word for part in tests["weat6"].words for word in part]
    vectors = torch.from_numpy(np.random.default_rng(0).normal(size=(len(words), 6)))
    x, y, a, b = vectors.reshape(4, 8, 6).numpy()
    expected = associate((x, y), (a, b))
    found = score_associations(words, vectors, tests)
    assert (found["weat6"].effect_size, found["weat6"].p_value) == pytest.approx(expected)
    assert found["weat7"].known == (0, 0, 0, 0) and np.isnan(found["weat7"].effect_size)
    # a more frequent 'bill' is not Bill where there is one
    with_bill = score_associations(["bill", *words], torch.cat([torch.ones(1, 6), vectors]), tests)
    assert with_bill["weat6"] == found["weat6"]
    lowercase = [word.lower() for word in words]
    assert score_associations(lowercase, vectors, tests)["weat6"] == found["weat6"]
    assert score_associations(lowercase, vectors, tests, fold_case=False)["weat6"].known == (0, 0, 8, 8)
    assert score_associations(words, vectors, tests, restrict_vocab=12)["weat6"].known == (8, 4, 0, 0)


def test_results_and_the_cards_warning(tmp_path):
    words = [word for part in read_associations(WEAT_EN)["weat6"].words for word in part]
    rng = np.random.default_rng(0)
    side = np.repeat([[1, 0], [0, 1], [1, 0], [0, 1]], 8, axis=0)
    for name, vectors, warned in (("biased", side, True), ("even", np.ones((32, 2)), False)):
        folder, noisy = tmp_path / name, vectors + rng.normal(size=(32, 2)) * 0.1
        Word2VecModel.from_vectors(Vocabulary(words), noisy.astype(np.float32)).save_pretrained(folder)
        arguments = ["evaluate", "words", str(folder), "--weat", "en", "--output", str(folder), "--device", "cpu"]
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.exception
        assert "weat6: male names with career and female names with family, effect size" in result.stdout
        assert "weat7: too few words are known (0 of 32 words)" in result.stdout
        results = json.loads((folder / "results.json").read_text())
        assert (results["words_weat6_p_value"] < 0.05) is warned and "words_weat7_p_value" not in results
        card = write_card(folder).read_text()
        assert "| weat6: male names with career, female names with family | effect size" in card
        assert ("**Bias**: male names are closer to career and female names to family" in card) is warned
    assert WordTests(associations=[WEAT_EN]).primary_metric == "words_weat6_effect_size"
