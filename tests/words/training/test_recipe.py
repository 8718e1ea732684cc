"""From a recipe's fields to the corpus and the model."""

import numpy as np
import pytest
from huggingface_hub.errors import StrictDataclassClassValidationError

from hfembed.models.word2vec.modeling_word2vec import Word2VecForPreTraining, Word2VecModel
from hfembed.training.config import read_config
from hfembed.words.training import recipe
from hfembed.words.training.recipe import Word2VecTrainingConfig, keep_objective, load_corpus, start_model

RNG = np.random.default_rng(0)
TEXT = "\n".join(" ".join(RNG.choice(list("abcdefgh"), 6)) + " new york" * (line % 3 == 0) for line in range(300))


@pytest.fixture
def config(tmp_path) -> Word2VecTrainingConfig:
    (tmp_path / "text.txt").write_text(TEXT)
    return Word2VecTrainingConfig(
        corpus=str(tmp_path / "text.txt"),
        output_dir=str(tmp_path / "out"),
        phrase_thresholds=[4.0, 3.0],
        phrase_min_count=3,
        embedding_size=4,
    )


def test_phrases_are_learnt_once_and_join_text_at_use(config, tmp_path, monkeypatch):
    corpus = load_corpus(config)
    assert "new_york" in corpus.vocabulary
    start_model(config, corpus).save_pretrained(tmp_path / "model")
    model = Word2VecModel.from_pretrained(tmp_path / "model")
    row = model.vocabulary["new_york"]
    assert row in model.vocabulary.encode(["they live in new york now"])[0]
    # one more run finds the phrases where the first has left them
    monkeypatch.setattr(recipe, "prepare_corpus", lambda *arguments, **rules: rules["phrases"])
    monkeypatch.setattr("hfembed.words.data.phrases.encode_blocks", None)
    assert load_corpus(config) == corpus.vocabulary.rules.phrases


def test_training_on_adds_words_and_keeps_rows_and_phrases(config, tmp_path):
    start_model(config, load_corpus(config)).save_pretrained(tmp_path / "model")
    old = Word2VecForPreTraining.from_pretrained(tmp_path / "model")
    (tmp_path / "more.txt").write_text("a fresh word in new york\n" * 7)
    config.corpus, config.init_from, config.phrase_thresholds = str(tmp_path / "more.txt"), str(tmp_path / "model"), []
    corpus = load_corpus(config)
    model = start_model(config, corpus)
    assert "fresh" in model.vocabulary and "fresh" not in old.vocabulary
    assert (
        model.vocabulary.counts[model.vocabulary["new_york"]] == old.vocabulary.counts[old.vocabulary["new_york"]] + 7
    )
    for word in old.vocabulary:
        assert model.word2vec.vector(word).equal(old.word2vec.vector(word))


def test_training_on_keeps_the_objective_that_the_recipe_does_not_name(config, tmp_path):
    config.architecture, config.negative = "cbow", 7
    start_model(config, load_corpus(config)).save_pretrained(tmp_path / "model")
    start = ["--init_from", str(tmp_path / "model")]
    kept = read_config(Word2VecTrainingConfig, start)
    assert not keep_objective(kept)
    assert (kept.architecture, kept.negative, kept.embedding_size) == ("cbow", 7, config.embedding_size)
    changed = read_config(Word2VecTrainingConfig, [*start, "--negative", "3"])
    line = keep_objective(changed)
    assert "negative 3 instead of 7" in line and "architecture" not in line and "\n" not in line
    assert (changed.architecture, changed.negative) == ("cbow", 3)


@pytest.mark.parametrize(
    ("field", "value"), [("phrase_thresholds", [0.0]), ("phrase_min_count", 0), ("init_from", "somewhere")]
)
def test_impossible_phrase_settings_are_named(field, value):
    with pytest.raises(StrictDataclassClassValidationError, match="phrase_"):
        Word2VecTrainingConfig(**{"phrase_thresholds": [100.0], field: value})
