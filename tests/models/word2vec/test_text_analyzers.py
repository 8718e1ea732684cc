"""spaCy's and stanza's models as analyzers: lemmas and tags in training and in use; what may name a model."""

import json
import sys
from types import ModuleType, SimpleNamespace

import pytest
from transformers import AutoTokenizer

from hfembed import Word2VecConfig, Word2VecModel
from hfembed.errors import InputError, exit_on_input_error
from hfembed.models.word2vec.text_analyzers import SPACY_FOLDER, load_analyzer
from hfembed.models.word2vec.text_rules import TextRules
from hfembed.words.data.corpora import prepare_corpus
from hfembed.words.training.recipe import Word2VecTrainingConfig

WORD = r"\w+(?:[-'\u2019]\w+)*"
TEXT = "The cats saw Paris, and a saw."
LEMMAS = "the_DET cat_NOUN see_VERB paris_PROPN and_CCONJ a_DET saw_NOUN"


@pytest.fixture
def spacy_model(tmp_path, monkeypatch):
    """A folder `en_rules`: a pipeline whose tags depend on neighbors, in the folder that the user named."""
    spacy = pytest.importorskip("spacy")
    nlp = spacy.blank("en")
    ruler = nlp.add_pipe("attribute_ruler")
    for words, tag, lemma, index in (
        (["the"], "DET", "the", 0), (["a"], "DET", "a", 0), (["cats"], "NOUN", "cat", 0),
        (["paris"], "PROPN", "Paris", 0),
        (["and"], "CCONJ", "and", 0), (["cats", "saw"], "VERB", "see", 1), (["a", "saw"], "NOUN", "saw", 1),
        ([","], "PUNCT", ",", 0), (["."], "PUNCT", ".", 0),
    ):  # fmt: skip
        ruler.add([[{"LOWER": word} for word in words]], {"POS": tag, "LEMMA": lemma}, index=index)
    (tmp_path / "models").mkdir()
    nlp.to_disk(tmp_path / "models" / "en_rules")
    monkeypatch.setenv(SPACY_FOLDER, str(tmp_path / "models"))
    return tmp_path / "models" / "en_rules"


def test_spacys_lemmas_in_training_in_use_and_in_the_tokenizer(spacy_model, tmp_path, monkeypatch):
    rules = {"lowercase": True, "word_pattern": WORD, "analyzer": "spacy:en_rules"}
    corpus = prepare_corpus([TEXT, TEXT], tmp_path / "cache", min_count=1, **rules)
    assert [corpus.vocabulary.words[row] for row in corpus.ids] == LEMMAS.split() * 2
    config = Word2VecConfig(vocab_size=len(corpus.vocabulary), embedding_size=4)
    Word2VecModel(config, corpus.vocabulary).save_pretrained(tmp_path / "model")
    assert json.loads((tmp_path / "model" / "tokenizer_config.json").read_text())["text_rules"]["analyzer"] == (
        "spacy:en_rules"
    )
    model, tokenizer = (kind.from_pretrained(tmp_path / "model") for kind in (Word2VecModel, AutoTokenizer))
    expected = corpus.ids[: len(LEMMAS.split())].tolist()
    assert model.vocabulary.encode([TEXT])[0].tolist() == tokenizer(TEXT).input_ids == expected
    monkeypatch.delenv(SPACY_FOLDER)  # someone else, who has no such model
    monkeypatch.chdir(spacy_model.parent)  # a folder of that name at hand is not one that the user named
    model = Word2VecModel.from_pretrained(tmp_path / "model")
    with pytest.raises(ModuleNotFoundError, match="spacy download en_rules, or set HFEMBED_SPACY_MODELS"):
        model.document_vectors([TEXT])
    assert model.vector("cat_NOUN").shape == (4,)


def test_an_installed_package(spacy_model, tmp_path, monkeypatch):
    """As `spacy package` makes one: an entry point in the group spacy_models, and a module with load()."""
    site = tmp_path / "site"
    (site / "xx_rules-1.0.dist-info").mkdir(parents=True)
    (site / "xx_rules-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: xx_rules\nVersion: 1.0\n")
    (site / "xx_rules-1.0.dist-info" / "entry_points.txt").write_text("[spacy_models]\nxx_rules = xx_rules\n")
    (site / "xx_rules.py").write_text(f"import spacy\n\ndef load():\n    return spacy.load({str(spacy_model)!r})\n")
    monkeypatch.syspath_prepend(site)
    analyze = load_analyzer("spacy:xx_rules", str.split)
    assert analyze("the cats saw Paris") == ["the_DET", "cat_NOUN", "see_VERB", "Paris_PROPN"]
    assert analyze("") == analyze("  ") == []
    words = analyze("the cats saw Paris " * 5000)  # in two parts, where a word may lose its neighbor
    assert len(words) == 20_000 and words.count("see_VERB") >= 4_999 and set(words[::4]) == {"the_DET"}


def test_a_pipeline_that_tags_nothing(tmp_path, monkeypatch):
    spacy = pytest.importorskip("spacy")
    spacy.blank("en").to_disk(tmp_path / "en_blank")
    monkeypatch.setenv(SPACY_FOLDER, str(tmp_path))
    with pytest.raises(ValueError, match="en_blank has no components"):
        load_analyzer("spacy:en_blank", str.split)


@pytest.mark.parametrize(
    "name",
    [
        "spacy", "spacy:", "stanza", "pymorphy3:ru", "spacy:../en_rules", "spacy:/tmp/en_rules", "spacy:.",
        "spacy:a.b", "spacy:a\\b", "spacy:a\n", "stanza:../ru", "os", "os:path", 5, ["spacy:en"],
    ],
)  # fmt: skip
def test_names_that_are_none(name):
    with pytest.raises(ValueError, match="unknown analyzer"):
        TextRules(analyzer=name)
    if isinstance(name, str):
        with pytest.raises(Exception, match="unknown analyzer"):
            Word2VecTrainingConfig(corpus="x", analyzer=name)


@pytest.mark.parametrize("package", ["spacy", "stanza"])
def test_a_missing_package_is_one_line(monkeypatch, tmp_path, capsys, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SystemExit):
        exit_on_input_error(prepare_corpus)(["word"], tmp_path, 1, analyzer=f"{package}:en")
    error = capsys.readouterr().err
    assert error.startswith(f"error: the analyzer {package}:en is not installed: pip install {package}, ")
    assert error.count("\n") == 1 and "{" not in error


def test_stanzas_words(monkeypatch, tmp_path):
    """stanza's interface without its models, which PyPI does not have."""
    asked = {}

    def pipeline(language, **options):
        if language == "xx":
            raise ValueError("No processors to load for language xx")
        asked.update(options, language=language)
        words = [("Печь", "печь", "NOUN"), ("пекла", "печь", "VERB"), ("ё", None, None), (".", ".", "PUNCT")]
        sentence = SimpleNamespace(words=[SimpleNamespace(text=t, lemma=lemma, upos=p) for t, lemma, p in words])
        return lambda text: SimpleNamespace(sentences=[sentence, sentence])

    stub = ModuleType("stanza")
    stub.Pipeline = pipeline
    monkeypatch.setitem(sys.modules, "stanza", stub)
    corpus = prepare_corpus(["Печь пекла ё."], tmp_path, 1, analyzer="stanza:ru", fold_yo=True, word_pattern=WORD)
    found = [corpus.vocabulary.words[row] for row in corpus.ids]
    assert found == ["печь_NOUN", "печь_VERB", "е_X"] * 2
    assert asked == {
        "language": "ru", "processors": "tokenize,pos,lemma", "download_method": None, "verbose": False
    }  # fmt: skip
    with pytest.raises(ModuleNotFoundError, match=r"stanza.download\('xx'\)"):
        load_analyzer("stanza:xx", str.split)
    with pytest.raises(InputError, match="unknown analyzer"):
        prepare_corpus(["x"], tmp_path, 1, analyzer="stanza:")
