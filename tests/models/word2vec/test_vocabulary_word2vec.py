"""A vocabulary's files: those that the whole tokenizer writes, read a piece at a time, in any form of JSON."""

import json

import numpy as np
import pytest

from hfembed.models.word2vec import vocabulary_word2vec
from hfembed.models.word2vec.vocabulary_word2vec import TextRules, Vocabulary

WORDS = [
    '"q"',
    "\\",
    "[UNK]",
    "\u2028",
    "e\u0301x",
    "\x01",
    '    "vocab": {',
    "    }",
    "</s>",
    "é",
    "猫🙂",
    "a\tb",
    "\x7f",
]


@pytest.mark.parametrize("rules", [TextRules(), TextRules(lowercase=True, phrases=((("a", "b"),),))])
@pytest.mark.parametrize("subwords", [None, (3, 6)])
def test_the_file_is_that_of_the_whole_tokenizer(tmp_path, monkeypatch, rules, subwords):
    monkeypatch.setattr(vocabulary_word2vec, "_AT_ONCE", 3)
    monkeypatch.setattr(vocabulary_word2vec, "_PIECE", 9)
    vocabulary = Vocabulary(WORDS, np.arange(len(WORDS), 0, -1), rules)
    vocabulary.save(tmp_path / "ours", None, subwords, 50)
    vocabulary.to_tokenizer(subwords, 50).save_pretrained(tmp_path / "whole")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "ours" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    loaded = Vocabulary.load(tmp_path / "ours")
    assert loaded.words == WORDS and loaded.fingerprint == vocabulary.fingerprint
    # as another program may write it
    file = tmp_path / "ours" / "tokenizer.json"
    file.write_text(json.dumps(json.loads(file.read_text())))
    assert Vocabulary.load(tmp_path / "ours").words == WORDS


def test_a_fingerprint_does_not_depend_on_the_pieces(monkeypatch):
    vocabulary = Vocabulary(["a", "b", "c", "d"])
    before = vocabulary.fingerprint
    monkeypatch.setattr(vocabulary_word2vec, "_AT_ONCE", 2)
    assert vocabulary.fingerprint == before


def test_damage_and_duplicates_are_one_line(tmp_path):
    with pytest.raises(ValueError, match="'a' is in the vocabulary twice"):
        Vocabulary(["a", "b", "a"]).save(tmp_path)
    Vocabulary([f"word{number}" for number in range(9)]).save(tmp_path)
    file = tmp_path / "tokenizer.json"
    whole = file.read_text()
    for old, new in (
        ('"word3": 3,\n', '"word3": 3\n'),
        ('      "word3": 3,\n', ""),
        ('"word3": 3', '"word3": 2'),
        ("}", ""),
    ):
        file.write_text(whole.replace(old, new, 1))
        with pytest.raises(ValueError, match="tokenizer.json"):
            Vocabulary.load(tmp_path)
