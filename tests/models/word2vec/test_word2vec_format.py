"""Files of word vectors: bit for bit what gensim reads and writes; damaged ones refused in one line."""

import gzip
import time

import numpy as np
import pytest
import torch
from gensim.models import KeyedVectors

from hfembed.convert.word2vec import convert_word2vec_file
from hfembed.errors import InputError
from hfembed.models.word2vec import word2vec_format
from hfembed.models.word2vec.modeling_word2vec import Word2VecModel
from hfembed.models.word2vec.word2vec_format import read_word2vec_format, write_word2vec_format

WORDS = ["the", "naïve", "猫", "d"]
VECTORS = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
TEXT = "4 5\n" + "".join(f"{w} {' '.join(map(str, v))}\n" for w, v in zip(WORDS, VECTORS, strict=True))
GLOVE = TEXT.partition("\n")[2]
BINARY = b"4 5\n" + b"".join(w.encode() + b" " + v.tobytes() for w, v in zip(WORDS, VECTORS, strict=True))


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_gensim_and_we_read_each_others_files(tmp_path, binary, suffix):
    theirs = KeyedVectors(5)
    theirs.add_vectors(WORDS, VECTORS)
    for number, word in enumerate(WORDS):
        theirs.set_vecattr(word, "count", 10 - number)
    theirs.save_word2vec_format(str(tmp_path / f"a{suffix}"), binary=binary, fvocab=str(tmp_path / "counts"))
    model = Word2VecModel.from_word2vec_format(tmp_path / f"a{suffix}", counts_file=tmp_path / "counts")
    assert model.vocabulary.words == WORDS and model.vocabulary.counts.tolist() == [10, 9, 8, 7]
    assert model.numpy_vectors().tobytes() == VECTORS.tobytes()
    write_word2vec_format(
        tmp_path / f"b{suffix}", WORDS, VECTORS, model.vocabulary.counts, binary, counts_file=tmp_path / "c"
    )
    back = KeyedVectors.load_word2vec_format(str(tmp_path / f"b{suffix}"), binary=binary, fvocab=str(tmp_path / "c"))
    assert back.index_to_key == WORDS and back.vectors.tobytes() == VECTORS.tobytes()
    assert back.get_vecattr("d", "count") == 7


def test_limit_half_precision_and_word2vec_c(tmp_path):
    path = tmp_path / "c.bin"  # word2vec.c ends rows with a line break
    path.write_bytes(
        BINARY.replace("猫".encode(), b"\n" + "猫".encode()).replace(
            b"d " + VECTORS[3].tobytes(), b"\nd " + VECTORS[3].tobytes() + b"\n"
        )
    )
    assert read_word2vec_format(path)[0] == WORDS
    model = Word2VecModel.from_word2vec_format(path, limit=2, dtype=torch.float16)
    assert model.vocabulary.words == WORDS[:2] and model.dtype == torch.float16
    np.testing.assert_array_equal(model.embeddings.weight.detach().numpy(), VECTORS[:2].astype(np.float16))


def test_glove(tmp_path):
    path = tmp_path / "glove.txt"
    rows = [("the", VECTORS[0]), (". . .", VECTORS[1]), ("3", VECTORS[2])] + [
        (f"w{n}", VECTORS[3]) for n in range(9000)
    ]
    path.write_text("".join(f"{w} {' '.join(map(str, v))}\n" for w, v in rows))
    words, vectors, counts = read_word2vec_format(path)
    assert words == [word for word, _ in rows] and counts is None
    assert vectors.tobytes() == np.array([v for _, v in rows]).tobytes()
    assert read_word2vec_format(path, limit=2)[1].shape == (2, 5)


DAMAGED = {
    "empty": (b"", "empty"),
    "truncated text": (TEXT.encode()[:-70], "ends after|numbers in place"),
    "truncated binary": (BINARY[:-30], "ends after 2 of the 4|more than the file can hold"),
    "fewer than promised, text": (b"9" + TEXT.encode()[1:], "ends after 4 of the 9"),
    "more than promised, text": (b"3" + TEXT.encode()[1:], "extra data after the 3"),
    "more than promised, binary": (b"3" + BINARY[1:], "extra data after the 3"),
    "wrong dimension, text": (b"4 6" + TEXT.encode()[3:], "line 2 has 5 numbers in place of 6"),
    "wrong dimension, binary": (b"4 4" + BINARY[3:], "not UTF-8|extra data|twice|not finite|does not end"),
    "header larger than the file": (b"900000000000 300\n" + TEXT.encode()[4:], "more than the file can hold"),
    "header larger than the file, binary": (b"900000000000 300\n" + BINARY[4:], "more than the file can hold"),
    "a word twice": (TEXT.replace("naïve", "the").encode(), "'the' is in it twice"),
    "a word twice, binary": (BINARY.replace("naïve".encode(), b"the"), "'the' is in it twice"),
    "no number": (TEXT.replace(str(VECTORS[2, 2]), "x").encode(), "line 4 has a damaged number"),
    "no number in the first row": (TEXT.replace(str(VECTORS[0, 3]), "0.1x").encode(), "line 2 has a damaged number"),
    "an underscore in a number": (TEXT.replace(str(VECTORS[2, 2]), "0.1_5").encode(), "line 4 has a damaged number"),
    "GloVe, damaged first line": (GLOVE.replace(str(VECTORS[0, 3]), "0.1x"), "line 1 has a damaged number"),
    "GloVe, a number cut in two": (GLOVE.replace(str(VECTORS[1, 3]), "0. 1"), "line 2 has 6 numbers in place of 5"),
    "GloVe, a number lost in the first line": (
        GLOVE.replace(" " + str(VECTORS[0, 3]), ""),
        "line 1 has 4 numbers in place of 5",
    ),
    "no line break": (b"4 5\n" + b"1" * (9 << 20), "line of more than|does not end"),
    "no line break at all": (b"1" * (9 << 20), "first line does not end"),
    "NaN": (TEXT.replace(str(VECTORS[2, 2]), "nan").encode(), "'猫'.*not finite"),
    "infinite, binary": (BINARY.replace(VECTORS[2, 2].tobytes(), np.float32("inf").tobytes()), "'猫'.*not finite"),
    "not UTF-8": (TEXT.encode().replace("naïve".encode(), b"na\xefve"), "word 2 is not UTF-8"),
    "not UTF-8, binary": (BINARY.replace("naïve".encode(), b"na\xefve"), "word 2 is not UTF-8"),
    "prose": (b"It was a dark and stormy night.\n" * 9, "first line"),
    "zero words": (b"0 5\n", "declares 0"),
}


@pytest.mark.parametrize("name", DAMAGED)
@pytest.mark.parametrize("compress", [False, True])
def test_damaged_files_are_refused_quickly(tmp_path, name, compress):
    content, message = DAMAGED[name]
    content = content.encode() if isinstance(content, str) else content
    path = tmp_path / ("vectors.gz" if compress else "vectors")
    path.write_bytes(gzip.compress(content) if compress else content)
    start = time.perf_counter()
    with pytest.raises(ValueError, match=message) as caught:
        read_word2vec_format(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert time.perf_counter() - start < 2


def test_a_truncated_archive_is_refused(tmp_path):
    path = tmp_path / "vectors.gz"
    path.write_bytes(gzip.compress(BINARY)[:-20])
    with pytest.raises(ValueError, match="damaged|ends after"):
        read_word2vec_format(path)


def test_bad_utf8_on_request(tmp_path):
    path = tmp_path / "vectors"
    path.write_bytes(BINARY.replace("naïve".encode(), b"na\xefve"))
    assert read_word2vec_format(path, unicode_errors="ignore")[0][1] == "nave"


def test_words_the_format_cannot_hold(tmp_path):
    with pytest.raises(ValueError, match="'a b' cannot be written"):
        write_word2vec_format(tmp_path / "v", ["a b"], VECTORS[:1])


def test_text_whose_first_word_has_a_blank_is_not_read_as_binary(tmp_path):
    path = tmp_path / "vectors"
    path.write_text(TEXT.replace("the", "of the", 1))
    for limit in (None, 1):
        with pytest.raises(ValueError, match="line 2 has 6 numbers in place of 5"):
            read_word2vec_format(path, limit=limit)


def test_a_small_archive_cannot_fill_the_memory(tmp_path, monkeypatch):
    path = tmp_path / "vectors.gz"
    for content, message in (
        (b" " * (16 << 20), "it is empty"),
        (b"4 5\n" + b"1" * (64 << 20), "line of more than|does not end"),
        (b"a 1 2\n" + b"\n" * (4 << 20), "empty lines"),
    ):
        path.write_bytes(gzip.compress(content))
        with pytest.raises(ValueError, match=message):
            read_word2vec_format(path)
    monkeypatch.setattr(word2vec_format, "_ALWAYS_UNPACKED", 0)
    with pytest.raises(ValueError, match="decompresses to more than"):
        read_word2vec_format(path)


def test_a_byte_order_mark_is_not_read(tmp_path):
    (tmp_path / "vectors").write_text("\ufeff" + TEXT)
    (tmp_path / "glove").write_text("\ufeff" + GLOVE)
    assert read_word2vec_format(tmp_path / "vectors")[0] == read_word2vec_format(tmp_path / "glove")[0] == WORDS


def test_how_texts_are_split_is_said_on_conversion(tmp_path):
    (tmp_path / "glove.txt").write_text("cat 1 0\nthe 0 1\nsat 1 1\n")
    convert_word2vec_file(tmp_path / "glove.txt", tmp_path / "model", lowercase=True, word_pattern=r"\w+")
    model = Word2VecModel.from_pretrained(tmp_path / "model")
    np.testing.assert_allclose(model.document_vectors(["The cat."])[0], [0.5, 0.5])
    with pytest.raises(InputError, match="not a regular expression"):
        convert_word2vec_file(tmp_path / "glove.txt", tmp_path / "other", word_pattern="(")
