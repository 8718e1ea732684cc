"""The engine on a corpus made so that one knows what there is to learn."""

import sys

import numpy as np
import pytest
import torch

from hfembed.errors import InputError
from hfembed.models.word2vec.configuration_word2vec import Word2VecConfig
from hfembed.models.word2vec.modeling_word2vec import Word2VecForPreTraining
from hfembed.words.data.corpora import EncodedCorpus, prepare_corpus
from hfembed.words.training.engine import EngineSettings, train_word2vec

TOPICS, WORDS_PER_TOPIC = 5, 8
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> EncodedCorpus:
    """Sentences of 10 words, each from one topic's words."""
    rng = np.random.default_rng(0)
    topics = rng.integers(TOPICS, size=6_000)
    words = rng.integers(WORDS_PER_TOPIC, size=(6_000, 10))
    sentences = [" ".join(f"t{t}w{w}" for w in line) for t, line in zip(topics, words, strict=True)]
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "text.txt").write_text("\n".join(sentences))
    return prepare_corpus(folder / "text.txt", folder, min_count=1)


def make_model(corpus: EncodedCorpus, architecture: str = "skip-gram") -> Word2VecForPreTraining:
    torch.manual_seed(0)
    config = Word2VecConfig(
        architecture=architecture,
        vocab_size=len(corpus.vocabulary),
        embedding_size=16,
        window=3,
        sample=0,
        initializer_scale=2,
    )
    return Word2VecForPreTraining(config, corpus.vocabulary)


def vectors_of(model: Word2VecForPreTraining) -> np.ndarray:
    return model.word2vec.embeddings.weight.detach().cpu().numpy().copy()


@pytest.mark.parametrize("architecture", ["skip-gram", "cbow"])
@pytest.mark.parametrize(
    ("engine", "device", "num_threads"),
    [("torch", "cpu", 1), ("torch", "cpu", 2), ("numba", "cpu", 1), ("numba", "cpu", 2)]
    + [pytest.param(engine, "cuda", 1, marks=needs_gpu) for engine in ("torch", "triton")],
)
def test_words_of_a_topic_come_together(corpus, engine, device, num_threads, architecture):
    model = make_model(corpus, architecture).to(device)
    # CBOW's row cap lets more through, which two threads on 40 words do not always survive at 0.1
    learning_rate = {"skip-gram": 0.1, "cbow": 0.05}[architecture]
    settings = EngineSettings(engine=engine, epochs=5, num_threads=num_threads, learning_rate=learning_rate)
    report = train_word2vec(model, corpus, settings, show_progress=False)
    assert report.words == 5 * corpus.num_words
    assert engine in report.engine
    vectors = vectors_of(model)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    topic = np.array([int(word[1]) for word in corpus.vocabulary.words])
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -1)
    assert np.array_equal(topic[cosines.argmax(1)], topic)
    assert cosines[topic[:, None] == topic].mean() > cosines[topic[:, None] != topic].mean() + 0.25


@pytest.mark.parametrize("engine", ["torch", "numba"])
def test_one_thread_repeats_itself_and_resumes_to_the_bit(corpus, engine, tmp_path):
    settings = EngineSettings(engine=engine, epochs=3, num_threads=1, checkpoint_every=40_000, keep_checkpoints=9)
    whole = make_model(corpus)
    train_word2vec(whole, corpus, settings, checkpoint_folder=tmp_path, show_progress=False)
    checkpoints = sorted(tmp_path.iterdir())
    assert len(checkpoints) > 2
    # as if it had been killed after the first checkpoint
    for later in checkpoints[1:]:
        later.rename(tmp_path.parent / f"later-{engine}-{later.name}")
    resumed = make_model(corpus)
    train_word2vec(resumed, corpus, settings, checkpoint_folder=tmp_path, resume=True, show_progress=False)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_resume_refuses_another_runs_checkpoint_and_takes_a_longer_run(corpus, tmp_path):
    settings = {"epochs": 1, "num_threads": 1, "checkpoint_every": 40_000}

    def train(model=None, resume=True, **changes):
        return train_word2vec(
            model or make_model(corpus), corpus, EngineSettings(**settings | changes), checkpoint_folder=tmp_path,
            resume=resume, show_progress=False,
        )  # fmt: skip

    train(resume=False)
    assert train(epochs=2).words == 2 * corpus.num_words
    for changes, line in (
        ({}, f"{2 * corpus.num_words:,} words, not {corpus.num_words:,}"),
        ({"epochs": 2, "seed": 1}, "seed 0, not 1"),
        ({"epochs": 2, "learning_rate": 0.04}, "learning_rate 0.05, not 0.04"),
    ):
        with pytest.raises(InputError, match=line):
            train(**changes)
    for name, value in (("cbow_mean", False), ("ns_exponent", 0.5), ("negative", 7)):
        model = make_model(corpus)
        setattr(model.config, name, value)
        with pytest.raises(InputError, match=f"{name} .*, not {value}"):
            train(model, epochs=2)


def test_evaluation_sees_the_rows_of_that_moment(corpus):
    model = make_model(corpus)
    seen = {}
    settings = EngineSettings(epochs=2, num_threads=1, evaluate_every=corpus.num_words // 2)
    train_word2vec(
        model,
        corpus,
        settings,
        evaluate=lambda words: seen.update({words: vectors_of(model)}),
        show_progress=False,
    )
    assert len(seen) >= 2
    first, second = list(seen.values())[:2]
    assert not np.array_equal(first, second)


def test_a_hopeless_learning_rate_is_said_to_be_one(corpus):
    model = make_model(corpus)
    with torch.no_grad():
        model.word2vec.embeddings.weight[0, 0] = float("nan")
    with pytest.raises(FloatingPointError, match="learning_rate"):
        train_word2vec(model, corpus, EngineSettings(epochs=1, num_threads=1), show_progress=False)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("engine", "cuda"), ("epochs", 0), ("learning_rate", 0.0), ("learning_rate", 7.0), ("num_threads", -1)],
)
def test_impossible_settings_are_named(setting, value):
    with pytest.raises(InputError, match=setting):
        EngineSettings(**{setting: value})


@pytest.mark.parametrize(("engine", "device"), [("triton", "cpu"), pytest.param("numba", "cuda", marks=needs_gpu)])
def test_an_engine_says_where_it_computes(corpus, engine, device):
    settings = EngineSettings(engine=engine)
    with pytest.raises(InputError, match=f"engine '{engine}' computes on .* not on {device}: take engine 'torch'"):
        train_word2vec(make_model(corpus).to(device), corpus, settings, show_progress=False)


def test_without_numba_its_engine_is_an_error_and_not_another_engine(corpus, monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)  # as where it is not installed
    monkeypatch.delitem(sys.modules, "hfembed.words.training.kernel_numba", raising=False)
    with pytest.raises(InputError, match=r"install hfembed\[fast\]"):
        train_word2vec(make_model(corpus), corpus, EngineSettings(engine="numba"))
