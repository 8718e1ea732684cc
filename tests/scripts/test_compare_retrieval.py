"""Searching judged texts: the reader, the figures and BM25 by hand."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from hfembed import Word2VecModel
from hfembed.models.word2vec.vocabulary_word2vec import Vocabulary

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "compare_retrieval.py"
DOCUMENTS = ".I 7\n.T\nwings\n.A\nfuselage,m.\n.W\nwings of planes\n.I 9\n.T\nheat\n.W\nheat in slabs\nand slabs\n"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("compare_retrieval", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def collection(tmp_path) -> list[str]:
    (tmp_path / "documents").write_text(DOCUMENTS)
    (tmp_path / "queries").write_text(".I 3\n.W\nhot slabs\n.I 4\n.W\nplanes\n")
    (tmp_path / "judgments").write_text("1 9 2\n1 7 5\n2 7 1\n")
    return [word for name in ("documents", "queries", "judgments") for word in (f"--{name}", str(tmp_path / name))]


def test_words_found_in_a_text_find_it(script, collection, tmp_path, monkeypatch, capsys):
    words = ["wings", "planes", "heat", "hot", "slabs"]
    vectors = np.array([[1, 0.1], [1, 0], [0, 1], [0.1, 1], [0, 1]], dtype=np.float32)
    Word2VecModel.from_vectors(Vocabulary(words, np.arange(5, 0, -1)), vectors).save_pretrained(tmp_path / "words")
    monkeypatch.setattr(sys, "argv", ["compare_retrieval.py", *collection, "--model", str(tmp_path / "words")])
    script.main()
    printed = capsys.readouterr().out
    assert "2 documents, 2 queries" in printed
    # of two texts in two dimensions nothing is left by SIF, which removes one of them
    found = [line for line in printed.splitlines()[1:] if "sif" not in line]
    assert len(found) == 6 and all("ndcg_at_10 100.0  map 100.0" in line for line in found)


def test_a_judgment_of_another_collection_is_named(script, collection, tmp_path, monkeypatch, capsys):
    (tmp_path / "judgments").write_text("1 9 2\n1 8 2\n")
    monkeypatch.setattr(sys, "argv", ["compare_retrieval.py", *collection])
    with pytest.raises(SystemExit):
        script.main()
    assert "line 2: '1 8 2'" in capsys.readouterr().err


def test_authors_are_not_searched(script, collection, tmp_path):
    texts = script.read_texts(str(tmp_path / "documents"))
    assert list(texts) == ["7", "9"] and texts["7"].split() == ["wings", "wings", "of", "planes"]


def test_figures_are_those_of_their_definitions(script):
    scores = np.array([[4.0, 3.0, 2.0, 1.0], [4.0, 3.0, 2.0, 1.0], [1.0, 2.0, 3.0, 4.0]])
    relevant = np.array([[False, True, False, True], [False] * 4, [True, False, False, False]])
    found = script.measure(scores, relevant)
    first = (1 / np.log2(3) + 1 / np.log2(5)) / (1 + 1 / np.log2(3))
    assert found["ndcg_at_10"] == pytest.approx(50 * (first + 1 / np.log2(5)))
    assert found["map"] == pytest.approx(50 * ((1 / 2 + 2 / 4) / 2 + 1 / 4))
    assert found["recall_at_100"] == 100


def test_bm25_is_the_formula(script):
    scores = script.search_by_bm25(["wings wings of planes", "heat in slabs and slabs"], ["slabs heat slabs"])
    norm = 1.2 * (0.25 + 0.75 * 5 / 4.5)
    idf = np.log(1 + 1.5 / 1.5)
    expected = idf * (2 * 2 * 2.2 / (2 + norm) + 2.2 / (1 + norm))
    np.testing.assert_allclose(scores, [[0, expected]])
