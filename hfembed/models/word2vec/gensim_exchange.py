"""Exchange with gensim's objects: words, counts and both matrices, bit for bit."""

from typing import Any

import numpy as np

from .configuration_word2vec import Word2VecConfig
from .vocabulary_word2vec import Vocabulary


def _import_gensim() -> Any:
    try:
        import gensim.models
    except ImportError:
        raise ImportError("gensim is not installed: pip install gensim") from None
    return gensim.models


def make_keyed_vectors(vocabulary: Vocabulary, vectors: np.ndarray) -> Any:
    """A gensim `KeyedVectors` with a copy of the vectors and, where known, the counts.

    Args:
        vectors: float32 of shape (words, dimensions).
    """
    keyed_vectors = _import_gensim().KeyedVectors(vectors.shape[1], count=len(vocabulary), dtype=vectors.dtype)
    keyed_vectors.vectors = vectors.copy()
    keyed_vectors.index_to_key = list(vocabulary.words)
    keyed_vectors.key_to_index = dict(vocabulary.index)
    if vocabulary.counts is not None:
        keyed_vectors.expandos["count"] = vocabulary.counts.copy()
    return keyed_vectors


def make_gensim_model(config: Word2VecConfig, vocabulary: Vocabulary, vectors: np.ndarray, context: np.ndarray) -> Any:
    """A gensim `Word2Vec` that continues training where ours stopped.

    Args:
        config: Architecture and sampling settings; workers, epochs and rates are gensim's own to set.
        vocabulary: Words with counts, by which gensim draws noise words and subsamples.
        vectors: Input rows, float32 of shape (words, dimensions).
        context: Output rows, of the same shape.

    Raises:
        ValueError: Counts are unknown, or settings that gensim does not have.
    """
    if config.negative == 0:
        raise ValueError("negative is 0: gensim has output rows only where negative is above 0")
    model = _import_gensim().Word2Vec(
        vector_size=config.embedding_size,
        window=config.window,
        min_count=1,
        sample=config.sample,
        sg=int(config.architecture == "skip-gram"),
        hs=0,
        negative=config.negative,
        ns_exponent=config.ns_exponent,
        cbow_mean=int(config.cbow_mean),
        shrink_windows=config.shrink_windows,
    )
    counts = dict(zip(vocabulary.words, vocabulary.known_counts().tolist(), strict=True))
    model.build_vocab_from_freq(counts, corpus_count=1, update=False)
    model.min_count = config.min_count  # only now: no word of ours is to be dropped
    # gensim sorts words of equal count its own way: carry rows over by word
    rows = np.array([vocabulary.index[word] for word in model.wv.index_to_key], dtype=np.int64)
    model.wv.vectors[:] = vectors[rows]
    model.syn1neg[:] = context[rows]
    return model


def read_keyed_vectors(keyed_vectors: Any, trained: bool = False) -> tuple[Vocabulary, np.ndarray]:
    """Words, vectors and, where gensim has them, counts of a `KeyedVectors`.

    Reading a file without counts, gensim fills in n, n - 1, ..., 1; such counts are left out.
    """
    words = [str(word) for word in keyed_vectors.index_to_key]
    vectors = np.ascontiguousarray(keyed_vectors.vectors[: len(words)])
    counts = keyed_vectors.expandos.get("count")
    if counts is not None:
        counts = np.array(counts[: len(words)], dtype=np.int64)
        if not trained and np.array_equal(counts, np.arange(len(words), 0, -1)):
            counts = None
    return Vocabulary(words, counts), vectors


def read_gensim_config(model: Any) -> Word2VecConfig:
    """The configuration of a gensim `Word2Vec`.

    Raises:
        ValueError: A model trained with hierarchical softmax alone.
    """
    if model.hs and not model.negative:
        raise ValueError("the gensim model has no output rows: it was trained with hierarchical softmax (hs=1)")
    return Word2VecConfig(
        architecture="skip-gram" if model.sg else "cbow",
        vocab_size=len(model.wv),
        embedding_size=model.vector_size,
        window=model.window,
        shrink_windows=bool(model.shrink_windows),
        negative=model.negative,
        sample=float(model.sample),
        ns_exponent=float(model.ns_exponent),
        cbow_mean=bool(model.cbow_mean),
        min_count=model.min_count,
    )
