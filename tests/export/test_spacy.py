"""`hfembed export spacy`: keys, the files by hand, and spaCy itself where it is installed."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from hfembed import Word2VecModel
from hfembed.cli import app
from hfembed.errors import InputError
from hfembed.export.spacy import export_spacy, spacy_keys
from hfembed.models.word2vec.vocabulary_word2vec import TextRules, Vocabulary

WORDS = ["paris", "agent", "café", "a much longer one, 中🙂"]
VECTORS = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)


def murmur(text, seed=1):
    """MurmurHash64A as its author wrote it, a byte at a time."""
    mask, factor = 2**64 - 1, 0xC6A4A7935BD1E995
    value = seed ^ len(text) * factor & mask
    for start in range(0, len(text) - 7, 8):
        block = int.from_bytes(text[start : start + 8], "little") * factor & mask
        block = (block ^ block >> 47) * factor & mask
        value = (value ^ block) * factor & mask
    if rest := text[len(text) // 8 * 8 :]:
        value = (value ^ int.from_bytes(rest, "little")) * factor & mask
    value = (value ^ value >> 47) * factor & mask
    return value ^ value >> 47


def test_keys():
    assert spacy_keys(["coffee"]).tolist() == [3197928453018144401]  # in spaCy's documentation
    assert spacy_keys(["NOUN", "agent", "ORG", "root", "_"]).tolist() == [92, 401, 383, 449, 456]
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("aбé中🙂z"), size)) for size in range(40)]
    assert spacy_keys(words).tolist() == [murmur(word.encode()) for word in words]


def test_files(tmp_path):
    export_spacy(Word2VecModel.from_vectors(Vocabulary(WORDS), VECTORS), tmp_path / "out")
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "vectors", allow_pickle=False), VECTORS)
    assert json.loads((tmp_path / "out" / "strings.json").read_text()) == sorted(WORDS)
    packed = (tmp_path / "out" / "key2row").read_bytes()
    assert packed[:5] == b"\xdf\0\0\0\4" and len(packed) == 5 + 4 * 14
    assert packed[19:33] == b"\xcf" + (401).to_bytes(8, "big") + b"\xce\0\0\0\1"


@pytest.mark.parametrize("lowercase", [False, True])
def test_spacy_has_the_vectors(tmp_path, lowercase):
    spacy = pytest.importorskip("spacy")
    export_spacy(Word2VecModel.from_vectors(Vocabulary(WORDS, rules=TextRules(lowercase)), VECTORS), tmp_path / "out")
    nlp = spacy.blank("en")
    nlp.vocab.from_disk(tmp_path / "out")
    np.testing.assert_array_equal([nlp.vocab.get_vector(word) for word in WORDS], VECTORS)
    assert [token.has_vector for token in nlp("agent Paris elsewhere")] == [True, lowercase, False]


def test_command(tmp_path):
    Word2VecModel.from_vectors(Vocabulary(WORDS), VECTORS).save_pretrained(tmp_path / "model")
    arguments = ["export", "spacy", str(tmp_path / "model"), str(tmp_path / "out")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0 and "nlp.vocab.from_disk" in result.stdout
    assert CliRunner().invoke(app, arguments).exit_code == 1  # it exists
    with pytest.raises(InputError, match="utf-8"):
        export_spacy(Word2VecModel.from_vectors(Vocabulary(["\udc80"]), VECTORS[:1]), tmp_path / "other")
