"""Mutated word files: what is read is what gensim reads, and everything else is refused in one line."""

import gzip
import json
import shutil

import numpy as np
import pytest
from gensim.models import KeyedVectors

from hfembed.errors import InputError
from hfembed.models.word2vec.modeling_word2vec import Word2VecModel
from hfembed.models.word2vec.vocabulary_word2vec import TextRules, Vocabulary
from hfembed.models.word2vec.word2vec_format import read_word2vec_format
from tests.fuzz.fuzzing import fuzz, mutate_bytes, put

WORDS = ["the", "naïve", "猫", "new_york", "don't", "3"]
VECTORS = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
ROWS = [(word.encode(), " ".join(map(str, row)).encode()) for word, row in zip(WORDS, VECTORS, strict=True)]
TEXT = b"6 4\n" + b"".join(word + b" " + row + b"\n" for word, row in ROWS)
BINARY = b"6 4\n" + b"".join(word + b" " + row.tobytes() for (word, _), row in zip(ROWS, VECTORS, strict=True))
FILES = {"text": TEXT, "binary": BINARY, "glove": TEXT.partition(b"\n")[2], "gzip": gzip.compress(TEXT, mtime=0)}


def mutate(content, rng):
    """As any bytes, or a character that means something in such a file inserted."""
    if rng.random() < 0.3:
        at = int(rng.integers(len(content)))
        return content[:at] + bytes([b" \n0.9e-_x"[rng.integers(9)]]) + content[at:]
    return mutate_bytes(content, rng)


def one_line(error, path):
    """Errors of these readers are ValueErrors, which callers of the library catch."""
    assert str(path) in str(error) and "\n" not in str(error)
    return InputError(str(error))


def read_by_gensim(path, kind):
    try:
        theirs = KeyedVectors.load_word2vec_format(str(path), binary=kind == "binary", no_header=kind == "glove")
    except Exception:  # whatever it says
        return None
    return theirs.index_to_key, theirs.vectors


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.filterwarnings("ignore")
def test_vectors_are_what_gensim_reads_or_refused(tmp_path, kind):
    path = tmp_path / ("vectors.gz" if kind == "gzip" else "vectors")
    compared = []

    def try_case(rng):
        put(path, mutate(FILES[kind], rng))
        limit = None if rng.random() < 0.5 else 2
        try:
            words, vectors, _ = read_word2vec_format(path, limit=limit)
        except ValueError as error:
            raise one_line(error, path) from error
        assert np.isfinite(vectors).all()
        theirs = read_by_gensim(path, kind)
        if theirs is not None:  # GloVe's words with spaces, a damage beyond the limit
            compared.append(len(words))
            assert words == theirs[0][: len(words)], path.read_bytes()
            np.testing.assert_array_equal(vectors, theirs[1][: len(words)], str(path.read_bytes()))

    assert fuzz(f"word2vec format, {kind}", 400, try_case)["refused"] and compared


@pytest.mark.parametrize("damaged", ["tokenizer.json", "vocab_counts.safetensors", "both"])
def test_damaged_vocabularies_are_one_line_or_the_same_words(tmp_path, damaged):
    rules = TextRules(True, r"\w+", ((("new", "york"),),))
    vocabulary = Vocabulary(WORDS, np.arange(60, 0, -10), rules)
    vocabulary.save(tmp_path)
    names = ["tokenizer.json", "vocab_counts.safetensors"] if damaged == "both" else [damaged]
    whole = {name: (tmp_path / name).read_bytes() for name in names}

    def try_case(rng):
        for name in names:
            put(tmp_path / name, mutate(whole[name], rng))
        try:
            read = Vocabulary.load(tmp_path)
        except ValueError as error:
            raise one_line(error, tmp_path) from error
        assert read.words == WORDS and read.counts.tolist() == vocabulary.counts.tolist() and read.rules == rules

    assert fuzz(f"vocabulary, {damaged}", 300, try_case)["refused"]


DAMAGES = [
    b"", b"{", b"null", b"[]", b"{}", b'{"model": null}', b'{"model": {"vocab": []}}', b"\xff\xfe", b"[" * 200_000,
    b'{"model": {"vocab": {"a": "0"}}}', b'{"model": {"vocab": {"a": -1}}}', b'{"model": {"vocab": {"a": 0.5}}}',
    b"1" * 9_000,
]  # fmt: skip


@pytest.mark.parametrize("name", ["tokenizer.json", "vocab_counts.safetensors"])
@pytest.mark.parametrize("content", DAMAGES, ids=range(len(DAMAGES)))
def test_files_of_another_shape_are_named(tmp_path, name, content):
    Vocabulary(["a", "b"], np.array([2, 1])).save(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=name) as caught:
        Vocabulary.load(tmp_path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.parametrize("field", ["size", "lowercase", "word_pattern", "phrases", "fingerprint"])
@pytest.mark.parametrize("value", ["", "x", "-1", "999999999999", '"("', "[[1]]", '[["a"]]', "{}"])
def test_metadata_of_the_counts_is_checked(tmp_path, field, value):
    Vocabulary(["a", "b"], np.array([2, 1])).save(tmp_path)
    path = tmp_path / "vocab_counts.safetensors"
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    header["__metadata__"][field] = value
    encoded = json.dumps(header).encode()
    path.write_bytes(len(encoded).to_bytes(8, "little") + encoded + content[8 + size :])
    try:
        read = Vocabulary.load(tmp_path)
    except ValueError as error:
        assert str(tmp_path) in str(error) and "\n" not in str(error)
    else:  # {} is no phrases too
        assert field == "phrases" and value == "{}" and read.words == ["a", "b"]


def test_damaged_weights_of_a_model_are_refused_or_finite(tmp_path):
    Word2VecModel.from_vectors(Vocabulary(WORDS), VECTORS).save_pretrained(tmp_path / "model")
    whole = (tmp_path / "model" / "model.safetensors").read_bytes()
    rng = np.random.default_rng(3)
    start = len(whole) - VECTORS.nbytes
    for _ in range(8):
        shutil.copytree(tmp_path / "model", tmp_path / "damaged", dirs_exist_ok=True)
        at = int(rng.integers(start, len(whole)))
        content = whole[:at] + rng.bytes(1) + whole[at + 1 :]
        (tmp_path / "damaged" / "model.safetensors").write_bytes(content)
        if content == whole:
            continue
        with pytest.raises(ValueError, match="other vectors"):
            Word2VecModel.from_pretrained(tmp_path / "damaged")
