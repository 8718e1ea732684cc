"""gensim both ways, by objects, by files and by the commands."""

import numpy as np
import pytest
from gensim.models import KeyedVectors, Word2Vec
from gensim.test.utils import datapath
from typer.testing import CliRunner

from hfembed.cli import app
from hfembed.errors import InputError
from hfembed.models.word2vec.modeling_word2vec import Word2VecForPreTraining, Word2VecModel
from hfembed.models.word2vec.vocabulary_word2vec import Vocabulary

CORPUS = datapath("lee_background.cor")


@pytest.fixture(scope="module")
def theirs():
    return Word2Vec(corpus_file=CORPUS, vector_size=20, min_count=5, epochs=1, seed=1, workers=1, sg=1, window=4)


def in_our_order(gensim_model, matrix, words):
    return matrix[[gensim_model.wv.key_to_index[word] for word in words]]


def test_there_and_back_to_the_bit(theirs, tmp_path):
    Word2VecForPreTraining.from_gensim(theirs).save_pretrained(tmp_path)
    ours = Word2VecForPreTraining.from_pretrained(tmp_path)
    assert ours.config.architecture == "skip-gram" and ours.config.window == 4 and ours.config.min_count == 5
    words = ours.vocabulary.words
    back = ours.to_gensim()
    assert set(back.wv.index_to_key) == set(words) == set(theirs.wv.index_to_key)
    for matrix, expected in ((back.wv.vectors, theirs.wv.vectors), (back.syn1neg, theirs.syn1neg)):
        assert in_our_order(back, matrix, words).tobytes() == in_our_order(theirs, expected, words).tobytes()
    assert all(back.wv.get_vecattr(word, "count") == theirs.wv.get_vecattr(word, "count") for word in words)
    keyed = ours.word2vec.to_keyed_vectors()
    for word in words[:20]:
        assert [near for near, _ in keyed.most_similar(word)] == [near for near, _ in theirs.wv.most_similar(word)]
    assert Word2VecModel.from_keyed_vectors(keyed).numpy_vectors().tobytes() == keyed.vectors.tobytes()


def test_gensim_goes_on_training(theirs):
    for ours in (Word2VecForPreTraining.from_gensim(theirs), Word2VecModel.from_gensim(theirs)):
        back = ours.to_gensim()
        before = back.wv.vectors.copy()
        back.train(corpus_file=CORPUS, epochs=1, total_words=60_000, total_examples=300)
        assert np.isfinite(back.wv.vectors).all() and not np.array_equal(before, back.wv.vectors)


def test_counts_that_gensim_made_up_are_left_out(theirs, tmp_path):
    theirs.wv.save_word2vec_format(str(tmp_path / "a.txt"))
    read = KeyedVectors.load_word2vec_format(str(tmp_path / "a.txt"))
    assert read.get_vecattr(read.index_to_key[0], "count") == len(read)  # gensim: a word's place from the end
    assert Word2VecModel.from_keyed_vectors(read).vocabulary.counts is None
    counts = Word2VecModel.from_keyed_vectors(theirs.wv).vocabulary.counts
    assert counts.tolist() == [theirs.wv.get_vecattr(word, "count") for word in theirs.wv.index_to_key]
    counted = Word2Vec([["b", "b", "a"]], vector_size=4, min_count=1)  # 2 and 1, and really counted
    assert Word2VecModel.from_gensim(counted).vocabulary.counts.tolist() == [2, 1]


def test_our_vectors_are_copies(theirs):
    ours = Word2VecModel.from_gensim(theirs)
    keyed = ours.to_keyed_vectors()
    keyed.vectors[:] = 0
    assert ours.numpy_vectors().any() and theirs.wv.vectors.any()


def test_without_counts(theirs):
    with pytest.raises(ValueError, match="counts"):
        Word2VecModel.from_vectors(Vocabulary(["a"]), np.ones((1, 2), np.float32)).to_gensim()


def test_commands(theirs, tmp_path):
    def run(*arguments):
        result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.stdout

    theirs.wv.save_word2vec_format(str(tmp_path / "a.bin"), binary=True, fvocab=str(tmp_path / "counts"))
    run("convert", "word2vec", tmp_path / "a.bin", tmp_path / "model", "--counts", tmp_path / "counts")
    run("export", "word2vec", tmp_path / "model", tmp_path / "b.bin", "--binary", "--counts", tmp_path / "counts2")
    assert (tmp_path / "a.bin").read_bytes() == (tmp_path / "b.bin").read_bytes()
    assert (tmp_path / "counts").read_bytes() == (tmp_path / "counts2").read_bytes()
    run("export", "word2vec", tmp_path / "model", tmp_path / "b.txt.gz")
    assert len(KeyedVectors.load_word2vec_format(str(tmp_path / "b.txt.gz"))) == len(theirs.wv)
    assert "KeyedVectors" in run("export", "gensim", tmp_path / "model", tmp_path / "b.kv")
    assert KeyedVectors.load(str(tmp_path / "b.kv")).most_similar("the")
    run("compress-vectors", tmp_path / "model", tmp_path / "small")
    assert "KeyedVectors" in run("export", "gensim", tmp_path / "small", tmp_path / "small.kv")
    assert "the" in KeyedVectors.load(str(tmp_path / "small.kv"))
    Word2VecForPreTraining.from_gensim(theirs).save_pretrained(tmp_path / "whole")
    assert "Word2Vec" in run("export", "gensim", tmp_path / "whole", tmp_path / "c.model")
    loaded = Word2Vec.load(str(tmp_path / "c.model"))
    np.testing.assert_array_equal(loaded.wv["the"], theirs.wv["the"])
    assert theirs.wv.most_similar("government")[0][0] in run(
        "neighbors", tmp_path / "model", "government", "he-the+she"
    )
    answer = theirs.wv.most_similar(["his", "the"], ["he"])[0][0]
    assert answer in run("analogy", tmp_path / "model", "he", "his", "the")
    run("map", tmp_path / "model", "he:his", "the", "--output", tmp_path / "map.png", "--projector", tmp_path / "p")
    with pytest.raises(InputError, match="goverment.*government"):
        run("neighbors", tmp_path / "model", "goverment")
    with pytest.raises(InputError, match="pickle"):
        run("convert", "word2vec", tmp_path / "b.kv", tmp_path / "x")
