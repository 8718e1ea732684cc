"""`hfembed forms`, `phrase`, `odd-one-out`, `compress-vectors`, `export static` and training with subwords."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from hfembed import Word2VecModel
from hfembed.cli import app
from hfembed.errors import InputError
from hfembed.models.word2vec.vocabulary_word2vec import TextRules, Vocabulary
from hfembed.words.training.engine import train_word2vec
from hfembed.words.training.recipe import Word2VecTrainingConfig, load_corpus, start_model

WORDS = ["walk", "walked", "swim", "swam", "car", "walks"]
# walking or swimming, past or present, a vehicle
VECTORS = np.array([[1, 0, 0.1], [1, 1, 0.1], [0, 0.1, 1], [0, 1.1, 1], [-2, -1, -1], [0.9, 0.0, 0.2]], np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    vocabulary = Vocabulary(WORDS, np.arange(60, 0, -10), TextRules(lowercase=True, word_pattern=r"\w+"))
    path = tmp_path_factory.mktemp("words") / "model"
    Word2VecModel.from_vectors(vocabulary, VECTORS).save_pretrained(path)
    return path


def run(*arguments):
    result = CliRunner().invoke(app, [*map(str, arguments), "--json"])
    assert result.exit_code == 0, result.output or result.exception
    return json.loads(result.stdout)


def test_forms_phrases_and_the_odd_one_out(folder):
    assert run("forms", folder, "walk", "walked", "swim")["form"] == "swam"
    assert run("phrase", folder, "Walk + swam")["words"] == ["walk", "swam"]
    assert run("odd-one-out", folder, "walk", "walked", "swam", "car")["odd_one_out"] == "car"
    refused = CliRunner().invoke(app, ["odd-one-out", str(folder), "walk", "car"])
    assert refused.exit_code == 1 and "three words" in str(refused.exception)


def refuse(*arguments) -> str:
    refused = CliRunner().invoke(app, [*map(str, arguments)])
    assert refused.exit_code == 1 and isinstance(refused.exception, InputError), refused.exception
    return str(refused.exception)


def test_a_model_without_the_word_or_without_any_is_one_line(folder, tmp_path):
    assert (
        refuse("neighbors", folder, "wolk")
        == "the word 'wolk' is not in the vocabulary; did you mean 'walk' or 'walks'?"
    )
    assert refuse("neighbors", folder, "zzz") == "the word 'zzz' is not in the vocabulary"
    nothing = np.empty((0, 3), np.float32)
    Word2VecModel.from_vectors(Vocabulary([], np.empty(0, np.int64)), nothing).save_pretrained(tmp_path / "empty")
    for command in ("neighbors", "map"):
        more = ["--output", tmp_path / "map.png"] if command == "map" else []
        assert "a vocabulary of no words" in refuse(command, tmp_path / "empty", "walk", *more)
    Word2VecModel.from_vectors(Vocabulary(WORDS[:3]), VECTORS[:3]).save_pretrained(tmp_path / "three")
    assert "no words but walk, walked and swim" in refuse("forms", tmp_path / "three", "walk", "walked", "swim")


def test_compressed_and_static(folder, tmp_path):
    assert run("compress-vectors", folder, tmp_path / "small", "--dims", 2)["dimensions"] == 2
    assert Word2VecModel.from_pretrained(tmp_path / "small").similarity("walk", "walks") > 0.9
    run("export", "static", folder, tmp_path / "static")
    from sentence_transformers import SentenceTransformer

    static = SentenceTransformer(str(tmp_path / "static"), device="cpu")
    np.testing.assert_allclose(static.encode(["Walk, swam"])[0], (VECTORS[0] + VECTORS[3]) / 2, atol=1e-6)


@pytest.mark.parametrize("engine", ["numba", "torch"])
def test_training_with_subwords_and_going_on_with_more_text(tmp_path, engine):
    rng = np.random.default_rng(0)
    topics = rng.integers(3, size=2000)
    lines = [" ".join(f"{'абв'[t]}ё{'абв'[t] * 2}{w}" for w in rng.integers(10, 50, size=8)) for t in topics]
    (tmp_path / "text.txt").write_text("\n".join(lines), encoding="utf-8")
    settings = {
        "corpus": str(tmp_path / "text.txt"), "cache_dir": str(tmp_path / "cache"), "engine": engine, "language": "ru",
        "fold_yo": True, "subwords": [3, 4], "buckets": 5000, "embedding_size": 12, "num_threads": 1, "epochs": 8,
        "sample": 0.0,
    }  # fmt: skip
    config = Word2VecTrainingConfig(**settings)
    corpus = load_corpus(config)
    model = start_model(config, corpus)
    assert "аеаа11" in corpus.vocabulary.words and model.config.ngram_rows < 1500
    train_word2vec(model, corpus, config.engine_settings(), show_progress=False)
    words = model.word2vec
    assert words.similarity("аеаа11", "аёаа12") > words.similarity("аеаа11", "бёбб12") + 0.2
    assert words.similarity("аёаа77", "аёаа12") > words.similarity("аёаа77", "бёбб12") + 0.2  # it was never seen
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "more.txt").write_text("ddd1 ddd2 ddd3 ddd4\n" * 300, encoding="utf-8")
    more = Word2VecTrainingConfig(
        **settings | {"corpus": str(tmp_path / "more.txt")}, init_from=str(tmp_path / "model")
    )
    going_on = start_model(more, load_corpus(more))
    assert "ddd1" in going_on.require_vocabulary()
    np.testing.assert_allclose(going_on.word2vec.vector("аёаа77"), words.vector("аёаа77"), atol=1e-6)


def test_an_unknown_language_is_refused():
    with pytest.raises(Exception, match="language must be one of"):
        Word2VecTrainingConfig(corpus="x", language="klingon")
