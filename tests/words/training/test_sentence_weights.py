"""Weights of words for sentence vectors: what says nothing of the topic loses, and bad input is named."""

import numpy as np
import pytest
import torch

from hfembed.errors import InputError
from hfembed.models.word2vec.configuration_word2vec import Word2VecConfig
from hfembed.models.word2vec.modeling_word2vec import Word2VecModel
from hfembed.models.word2vec.vocabulary_word2vec import Vocabulary
from hfembed.words.data.corpora import prepare_corpus
from hfembed.words.training.sentence_weights import fit_weights

TOPICS, WORDS, NOISE = 40, 6, 200


@pytest.fixture
def corpus(tmp_path):
    """Lines of words of one topic, among words of equal frequency that are anywhere."""
    rng = np.random.default_rng(0)
    lines = []
    for _ in range(1500):
        topic = rng.integers(TOPICS)
        words = [f"topic{topic}_{n}" for n in rng.integers(WORDS, size=8)]
        lines.append(" ".join(rng.permutation(words + [f"noise{n}" for n in rng.integers(NOISE, size=8)])))
    return prepare_corpus(lines, tmp_path, min_count=1)


@pytest.fixture
def model(corpus):
    rng, topics = np.random.default_rng(1), {}
    rows = [
        topics.setdefault(word.split("_")[0], rng.normal(size=16)) + 0.2 * rng.normal(size=16)
        for word in corpus.vocabulary
    ]
    return Word2VecModel.from_vectors(corpus.vocabulary, np.array(rows, dtype=np.float32))


def gap(model):
    """How much nearer texts of one topic are than texts of two."""
    rng = np.random.default_rng(2)
    topics = torch.arange(60) % 6
    texts = [
        [f"topic{topic}_{n}" for n in range(3)] + [f"noise{n}" for n in rng.integers(NOISE, size=8)]
        for topic in topics.tolist()
    ]
    vectors = torch.nn.functional.normalize(model.document_vectors(texts), dim=1)
    cosines, same = vectors @ vectors.T, topics[:, None] == topics
    return cosines[same].mean() - cosines[~same].mean()


def test_words_that_tell_nothing_lose_their_weight(model, corpus):
    fitted = fit_weights(model, corpus, steps=100)
    weights = fitted.model.word_vectors().norm(dim=1) / model.word_vectors().norm(dim=1)
    noise = torch.tensor([word.startswith("noise") for word in corpus.vocabulary])
    assert weights[noise].mean() < 0.6 * weights[~noise].mean()
    assert gap(fitted.model) > 1.2 * gap(model)
    again = fit_weights(model, corpus, steps=100)
    assert torch.equal(again.model.word_vectors(), fitted.model.word_vectors())


def test_what_has_no_weights_is_named(model, corpus, tmp_path):
    subwords = Word2VecModel(Word2VecConfig(vocab_size=len(corpus.vocabulary), subwords=(3, 4), buckets=10))
    subwords.set_vocabulary(corpus.vocabulary)
    uncounted = Word2VecModel.from_vectors(Vocabulary(corpus.vocabulary.words), model.numpy_vectors())
    short = prepare_corpus(["topic1_1", "topic1_2"] * 50, tmp_path, vocabulary=corpus.vocabulary)
    for wrong, text, message in (
        (subwords, corpus, "subwords"),
        (uncounted, corpus, "no word counts"),
        (model, prepare_corpus(["a b c"], tmp_path, min_count=1), "ids of the model's words"),
        (model, short, "100 known words"),
    ):
        with pytest.raises(InputError, match=message):
            fit_weights(wrong, text)
