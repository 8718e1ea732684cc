"""One engine splits text into words, for the training text and for the texts of a user."""

import logging
import sys
import unicodedata

import numpy as np
import pytest
from transformers import AutoTokenizer

from hfembed.errors import InputError, exit_on_input_error
from hfembed.models.word2vec.configuration_word2vec import Word2VecConfig
from hfembed.models.word2vec.modeling_word2vec import Word2VecModel
from hfembed.models.word2vec.vocabulary_word2vec import TextRules, Vocabulary
from hfembed.words.data.corpora import prepare_corpus

HINDI = "यह हिन्दी भाषा का एक वाक्य है। क्षत्रिय, विज्ञान"


def words_of(corpus):
    return [corpus.vocabulary.words[row] for row in corpus.ids]


def test_a_hindi_model_knows_the_words_of_its_own_text(tmp_path):
    corpus = prepare_corpus([HINDI], tmp_path, min_count=1, word_pattern=r"\w+")
    assert words_of(corpus) == ["यह", "हिन्दी", "भाषा", "का", "एक", "वाक्य", "है", "क्षत्रिय", "विज्ञान"]
    assert corpus.vocabulary.encode([HINDI])[0].tolist() == corpus.ids.tolist()


@pytest.mark.parametrize(("pattern", "lowercase"), [(None, True), (r"\w+", False), (r"\p{Lu}\w*|[^\W\d_']+", True)])
@pytest.mark.parametrize("phrases", [(), ((("new", "york"),),)])
def test_every_character_of_unicode_is_read_alike_in_training_and_in_use(tmp_path, pattern, lowercase, phrases):
    characters = [chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000 and code != 10]
    lines = ["".join(characters[start : start + 997]) for start in range(0, len(characters), 997)]
    lines = [f"new york {line[:500]} a{line[500:]}b" for line in lines]
    if phrases:  # the tokenizer is slow on a long line with phrases
        lines = lines[::29]
    corpus = prepare_corpus(lines, tmp_path, 1, lowercase=lowercase, word_pattern=pattern, phrases=phrases)
    in_use = np.concatenate(corpus.vocabulary.encode(lines))
    np.testing.assert_array_equal(in_use, corpus.ids)
    assert ("new_york" in corpus.vocabulary) == bool(phrases)


@pytest.mark.parametrize("pattern", [r"(?P<word>\w+)", r"(?a:\w+)", "[a-", r"\w*"])
def test_a_pattern_that_only_python_knows_is_refused_before_the_text_is_read(tmp_path, pattern):
    with pytest.raises(InputError, match="word_pattern"):
        prepare_corpus(tmp_path / "missing.txt", tmp_path, word_pattern=pattern)


def test_a_byte_order_mark_belongs_to_no_word(tmp_path):
    (tmp_path / "text.txt").write_bytes("\ufeffking queen\n".encode())
    corpus = prepare_corpus(tmp_path / "text.txt", tmp_path, min_count=1)
    assert words_of(corpus) == ["king", "queen"]
    assert corpus.vocabulary.encode(["\ufeffking"])[0].tolist() == [corpus.vocabulary["king"]]


def test_foreign_words_that_are_not_nfc_are_found(tmp_path):
    decomposed, composed = "cafe\u0301", "caf\u00e9"
    vectors = np.eye(4, dtype=np.float32)
    model = Word2VecModel.from_vectors(Vocabulary(["the", decomposed, "e\u0301", "\u00e9"]), vectors)
    model.save_pretrained(tmp_path)
    for loaded in (model, Word2VecModel.from_pretrained(tmp_path)):
        assert loaded.vocabulary.words[1] == decomposed  # kept as it came
        assert loaded.vocabulary[composed] == loaded.vocabulary[decomposed] == 1
        assert [rows.tolist() for rows in loaded.vocabulary.encode([composed, decomposed, [composed]])] == [[1]] * 3
        assert loaded.vocabulary["\u00e9"] == 3 and loaded.vocabulary["e\u0301"] == 2  # both spellings are words
    assert AutoTokenizer.from_pretrained(tmp_path)(f"the {decomposed}").input_ids == [0, 1]


def test_special_tokens_in_a_text_are_text(tmp_path):
    text = "see [PAD] and [UNK] x[PAD]y"
    corpus = prepare_corpus([text], tmp_path / "corpus", min_count=1, word_pattern=r"\w+")
    corpus.vocabulary.save(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert tokenizer.tokenize(text) == words_of(corpus) == ["see", "PAD", "and", "UNK", "x", "PAD", "y"]
    assert tokenizer(text).input_ids == corpus.ids.tolist()
    assert tokenizer([text, "see"], padding=True).input_ids[1][1] == tokenizer.pad_token_id


WORD = r"\w+(?:[-'\u2019]\w+)*"
ANALYZED = {
    "pymorphy3": (
        "Кошки пили чай из Москвы, а Иван ещё нёс 3 по-русски испечённых пирога.",
        "кошка_NOUN пить_VERB чай_NOUN из_ADP москва_PROPN а_CCONJ иван_PROPN еще_ADV нести_VERB 3_NUM по-русски_ADV "
        "испечь_VERB пирог_NOUN",
    ),
    "razdel": ("Кто-то, наверное, пришёл 5-го.", "кто-то наверное пришел 5-го"),
    "jieba": ("我来到北京清华大学，他说 OK。", "我 来到 北京 清华大学 他 说 ok"),
    "fugashi": ("私は東京大学に行きました。", "私 は 東京 大学 に 行き まし た"),
}


@pytest.mark.parametrize("analyzer", ANALYZED)
def test_an_analyzer_makes_the_words_in_training_in_use_and_in_the_tokenizer(tmp_path, analyzer):
    pytest.importorskip(analyzer)
    text, expected = ANALYZED[analyzer][0], ANALYZED[analyzer][1].split()
    phrases = (((expected[0], expected[1]),),)
    rules = {"lowercase": True, "word_pattern": WORD, "fold_yo": True, "analyzer": analyzer}
    corpus = prepare_corpus([text, text], tmp_path, min_count=1, **rules)
    assert words_of(corpus) == expected * 2
    joined = prepare_corpus([text], tmp_path, 1, phrases=phrases, **rules)
    assert words_of(joined) == ["_".join(expected[:2]), *expected[2:]]
    for subwords in (None, (2, 3)):
        config = Word2VecConfig(vocab_size=len(joined.vocabulary), embedding_size=4, subwords=subwords, buckets=50)
        Word2VecModel(config, joined.vocabulary).save_pretrained(tmp_path / "model")
        model, tokenizer = (kind.from_pretrained(tmp_path / "model") for kind in (Word2VecModel, AutoTokenizer))
        assert model.vocabulary.encode([text])[0].tolist() == joined.ids.tolist() == tokenizer(text).input_ids
        assert tokenizer([text, text]).input_ids == [joined.ids.tolist()] * 2
        assert model.vocabulary.split([text]) == [words_of(joined)]
    if analyzer == "pymorphy3":
        assert [model.vocabulary.rules.normalize_word(word) for word in ("чаи", "чай_NOUN")] == ["чай_NOUN"] * 2


def test_an_analyzer_that_is_missing_or_unknown_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "pymorphy3", None)
    with pytest.raises(SystemExit):
        exit_on_input_error(prepare_corpus)(["слово"], tmp_path, 1, analyzer="pymorphy3")
    assert capsys.readouterr().err == "error: the analyzer pymorphy3 is not installed: pip install pymorphy3\n"
    with pytest.raises(InputError, match="'os'; expected one of pymorphy3"):
        prepare_corpus(["слово"], tmp_path, 1, analyzer="os")


def test_a_text_in_place_of_a_list_of_texts_is_refused():
    vocabulary = Vocabulary(["a", "b"])
    for documents in ("a b", b"a b"):
        with pytest.raises(TypeError, match=r"\[text\]"):
            vocabulary.encode(documents)
    for document in (5, b"a"):
        with pytest.raises(TypeError, match="a document is a text or a list of words"):
            vocabulary.encode([document])


def test_hidden_and_foreign_files_of_a_folder_are_not_learned(tmp_path, caplog):
    for name in (
        "a.txt",
        "._a.txt",
        ".ipynb_checkpoints/a.txt",
        "@eaDir/b.txt",
        "__MACOSX/c.txt",
        "d.csv",
        "e.tar.gz",
    ):
        (tmp_path / "texts" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "texts" / name).write_text("right" if name == "a.txt" else "wrong")
    with caplog.at_level(logging.WARNING):
        assert prepare_corpus(tmp_path / "texts", tmp_path, min_count=1).vocabulary.words == ["right"]
    assert "2 files" in caplog.text and "d.csv" in caplog.text


@pytest.mark.parametrize(
    "name", ["a.jsonl", "a.ndjson", "a.yaml", "a.csv", "a.tar.gz", "a.tgz", "a.jsonl.gz", "a.zip", "wiki.xml.bz2"]
)
def test_files_of_other_formats_are_named(tmp_path, name):
    (tmp_path / name).write_text('{"text": "king"}')
    with pytest.raises(InputError, match=rf"{name} is not plain text"):
        prepare_corpus(tmp_path / name, tmp_path, min_count=1)
    if name == "a.jsonl":
        with pytest.raises(InputError, match=r"load_dataset\('json'"):
            prepare_corpus(tmp_path / name, tmp_path, min_count=1)


def test_an_archive_under_a_texts_name_is_refused(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"king queen \x00\x00\x00 man")
    with pytest.raises(InputError, match=r"a\.txt has NUL bytes"):
        prepare_corpus(tmp_path / "a.txt", tmp_path, min_count=1)


def test_words_are_normalized_as_unicode_says(tmp_path):
    corpus = prepare_corpus(["nai\u0308ve a\u00a0b\u3000c \u0130x"], tmp_path, min_count=1, lowercase=True)
    assert words_of(corpus) == ["na\u00efve", "a", "b", "c", unicodedata.normalize("NFC", "\u0130x").lower()]


def test_rules_without_a_pattern_are_valid():
    assert TextRules().pre_tokenizer().pre_tokenize_str("a b")[1][0] == "b"
