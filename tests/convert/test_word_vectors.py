"""`hfembed convert word2vec` on the text formats of others: fastText's .vec, GloVe's, and gensim's own writing."""

import numpy as np
import pytest
from gensim.models import KeyedVectors
from typer.testing import CliRunner

from hfembed import Word2VecModel
from hfembed.cli import app
from tests.convert.foreign_networks import convert

WORDS = ["the", "naïve", "приве́т", "a\u00a0b", ",", "new_york"]
VECTORS = np.random.default_rng(0).normal(size=(len(WORDS), 5)).astype(np.float32)


def rows(end=""):
    """One word and its numbers per line, with every digit that a float32 needs."""
    return "".join(
        f"{word} {' '.join(str(number) for number in vector)}{end}\n"
        for word, vector in zip(WORDS, VECTORS, strict=True)
    )


def write_vec(path):
    # fastText ends its lines with a blank
    path.write_text(f"{len(WORDS)} 5\n{rows(' ')}", encoding="utf-8")


def write_glove(path):
    path.write_text(rows(), encoding="utf-8")


def write_gensim(path):
    vectors = KeyedVectors(5)
    vectors.add_vectors(WORDS, VECTORS)
    vectors.save_word2vec_format(path, binary=path.suffix == ".bin")


@pytest.mark.parametrize(
    ("name", "write"),
    [("wiki.vec", write_vec), ("glove.txt", write_glove), ("gensim.txt", write_gensim), ("gensim.bin", write_gensim)],
)
def test_every_bit_arrives(name, write, tmp_path):
    write(tmp_path / name)
    assert f"{len(WORDS)} words of 5 dimensions" in convert("word2vec", tmp_path / name, tmp_path / "out")
    model = Word2VecModel.from_pretrained(tmp_path / "out")
    assert model.vocabulary.words == WORDS
    np.testing.assert_array_equal(model.numpy_vectors(), VECTORS)


def test_a_taken_folder_is_replaced_only_when_told_to(tmp_path):
    write_vec(tmp_path / "wiki.vec")
    convert("word2vec", tmp_path / "wiki.vec", tmp_path / "out")
    refused = CliRunner().invoke(app, ["convert", "word2vec", str(tmp_path / "wiki.vec"), str(tmp_path / "out")])
    assert refused.exit_code == 1 and "--overwrite" in str(refused.exception)
    convert("word2vec", tmp_path / "wiki.vec", tmp_path / "out", "--overwrite")
