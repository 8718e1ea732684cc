"""MTEB's tasks through the real package, on generated copies of their data sets; nothing is downloaded."""

import json

import numpy as np
import pytest
from scipy.stats import spearmanr
from typer.testing import CliRunner

from hfembed.checkpoint.card import write_card
from hfembed.cli import app
from hfembed.errors import InputError
from hfembed.models.word2vec.modeling_word2vec import Word2VecModel
from hfembed.models.word2vec.vocabulary_word2vec import TextRules, Vocabulary
from hfembed.words.evaluation.mteb_tasks import WordVectorEncoder, find_tasks

WORDS = [f"{topic}{number}" for topic in ("cat", "car", "sea") for number in range(30)] + ["the"]


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def mteb():
    return pytest.importorskip("mteb")


@pytest.fixture
def model():
    rng = np.random.default_rng(0)
    centers = np.repeat(np.eye(3, 8) * 3, 30, axis=0)
    vectors = np.concatenate([centers + rng.normal(size=(90, 8)), [[5.0] * 8]]).astype(np.float32)
    vocabulary = Vocabulary(WORDS, np.arange(len(WORDS), 0, -1) + 100, TextRules(lowercase=True))
    return Word2VecModel.from_vectors(vocabulary, vectors)


def write_rows(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_data(folder):
    """STS12 and Banking77 as their repositories are, and NFCorpus with its three configurations."""
    rng = np.random.default_rng(1)

    def text(topic):
        return " ".join(["the", *(f"{topic}{number}" for number in rng.integers(30, size=4))])

    topics = ["cat", "car", "sea"]
    pairs = [(text(a), text(b), 5.0 * (a == b)) for a, b in (rng.choice(topics, 2) for _ in range(60))]
    write_rows(
        folder / "mteb" / "sts12-sts" / "test.jsonl",
        [{"sentence1": one, "sentence2": other, "score": score} for one, other, score in pairs],
    )
    for split, count in (("train", 90), ("test", 45)):
        rows = [{"text": text(topics[i % 3]), "label": i % 3, "label_text": topics[i % 3]} for i in range(count)]
        write_rows(folder / "banking77" / f"{split}.jsonl", rows)
    corpus, queries = folder / "nfcorpus", [text(topic) for topic in topics]
    write_rows(
        corpus / "corpus.jsonl", [{"_id": f"d{i}", "title": "", "text": text(topics[i % 3])} for i in range(30)]
    )
    write_rows(corpus / "queries.jsonl", [{"_id": f"q{i}", "text": query} for i, query in enumerate(queries)])
    write_rows(
        corpus / "qrels" / "test.jsonl",
        [{"query-id": f"q{i % 3}", "corpus-id": f"d{i}", "score": 1} for i in range(30)],
    )
    (corpus / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: test\n    path: qrels/test.jsonl\n"
        "- config_name: corpus\n  data_files:\n  - split: corpus\n    path: corpus.jsonl\n"
        "- config_name: queries\n  data_files:\n  - split: queries\n    path: queries.jsonl\n---\n"
    )
    return pairs


@pytest.mark.parametrize("weighting", ["mean", "sif"])
def test_sts_is_the_rank_correlation_of_cosines(mteb, model, tmp_path, weighting):
    pairs = write_data(tmp_path / "data")
    model.save_pretrained(tmp_path / "model")
    arguments = ["--tasks", "STS12", "--data", str(tmp_path / "data"), "--weighting", weighting, "--device", "cpu"]
    command = ["evaluate", "mteb", str(tmp_path / "model"), *arguments, "--output", str(tmp_path / "model"), "--json"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.exception
    firsts, seconds, scores = (list(column) for column in zip(*pairs, strict=True))
    one, other = (
        model.document_vectors(texts, weighting, None if weighting == "mean" else firsts).numpy()
        for texts in (firsts, seconds)
    )
    cosines = (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
    expected = 100 * spearmanr(scores, cosines).statistic
    assert json.loads(result.stdout)["mteb_STS12_cosine_spearman"] == pytest.approx(expected, abs=0.01)
    details = json.loads((tmp_path / "model" / "results.json").read_text())["mteb"]
    assert details["weighting"] == weighting and details["versions"]["mteb"] == mteb.__version__
    card = write_card(tmp_path / "model").read_text()
    assert f"| STS12, cosine_spearman | {expected:.2f} |" in card


def test_classification_and_retrieval(mteb, model, tmp_path):
    write_data(tmp_path / "data")
    model.save_pretrained(tmp_path / "model")
    command = ["evaluate", "mteb", str(tmp_path / "model"), "--data", str(tmp_path / "data"), "--weighting", "sif"]
    command += ["--tasks", "Banking77Classification", "--tasks", "NFCorpus", "--output", str(tmp_path / "out")]
    result = CliRunner().invoke(app, [*command, "--device", "cpu"])
    assert result.exit_code == 0, result.exception
    assert "mean of 2: " in result.stdout
    figures = json.loads((tmp_path / "out" / "results.json").read_text())
    assert figures["mteb_Banking77Classification_accuracy"] > 90 and figures["mteb_NFCorpus_ndcg_at_10"] > 90


def test_one_space_per_task(mteb, model):
    encoder = WordVectorEncoder(model, "sif")
    task = mteb.get_task("STS12").metadata
    firsts, seconds = ["cat1 cat2", "sea4 the", "car1"], ["the sea1", "cat3"]

    def encode(texts, subset="default"):
        return encoder.encode([{"text": texts}], task_metadata=task, hf_split="test", hf_subset=subset)

    np.testing.assert_allclose(encode(firsts), model.document_vectors(firsts, "sif").numpy(), atol=1e-6)
    expected = model.document_vectors(seconds, "sif", firsts).numpy()
    np.testing.assert_allclose(encode(seconds), expected, atol=1e-6)
    assert not np.allclose(encode(seconds, "other"), expected)


def test_what_cannot_be_measured_is_one_line(mteb, model, tmp_path):
    with pytest.raises(InputError, match="no such task: 'STS99'"):
        find_tasks(["STS99"])
    with pytest.raises(InputError, match="no folder mteb/sts12-sts with the data of STS12"):
        find_tasks(["STS12"], tmp_path)
    (tmp_path / "mteb" / "sts12-sts").mkdir(parents=True)
    model.save_pretrained(tmp_path / "model")
    command = ["evaluate", "mteb", str(tmp_path / "model"), "--tasks", "STS12", "--output", str(tmp_path / "out")]
    result = CliRunner().invoke(app, [*command, "--data", str(tmp_path)])
    assert isinstance(result.exception, InputError) and "STS12: " in str(result.exception)


def test_without_mteb(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "mteb", None)
    with pytest.raises(InputError, match="pip install mteb"):
        find_tasks(["STS12"])
