"""Exchange with gensim's objects: words, counts and all matrices, bit for bit."""

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


def make_keyed_vectors(
    config: Word2VecConfig, vocabulary: Vocabulary, vectors: np.ndarray, ngram_vectors: np.ndarray | None = None
) -> Any:
    """A gensim `KeyedVectors` or `FastTextKeyedVectors` with a copy of the vectors and, where known, the counts.

    Args:
        vectors: float32 of shape (words, dimensions), with subwords the words' own rows.
        ngram_vectors: float32 of shape (buckets, dimensions), where the model has subwords.
    """
    models = _import_gensim()
    size = {"vector_size": vectors.shape[1], "count": len(vocabulary), "dtype": vectors.dtype}
    if ngram_vectors is None:
        keyed_vectors = models.KeyedVectors(**size)
    else:
        keyed_vectors = models.fasttext.FastTextKeyedVectors(**_ngram_settings(config), **size)
    keyed_vectors.index_to_key = list(vocabulary.words)
    keyed_vectors.key_to_index = dict(vocabulary.index)
    if vocabulary.counts is not None:
        keyed_vectors.expandos["count"] = vocabulary.counts.copy()
    if ngram_vectors is None:
        keyed_vectors.vectors = vectors.copy()
    else:
        _set_fasttext_rows(keyed_vectors, vectors.copy(), ngram_vectors.copy())
    return keyed_vectors


def _ngram_settings(config: Word2VecConfig) -> dict[str, int]:
    smallest, largest = config.subwords or (0, 0)
    return {"min_n": smallest, "max_n": largest, "bucket": config.buckets}


def _set_fasttext_rows(keyed_vectors: Any, vectors: np.ndarray, ngram_vectors: np.ndarray) -> None:
    keyed_vectors.vectors_vocab, keyed_vectors.vectors_ngrams = vectors, ngram_vectors
    keyed_vectors.recalc_char_ngram_buckets()
    keyed_vectors.adjust_vectors()


def make_gensim_model(
    config: Word2VecConfig,
    vocabulary: Vocabulary,
    vectors: np.ndarray,
    context: np.ndarray,
    ngram_vectors: np.ndarray | None = None,
) -> Any:
    """A gensim `Word2Vec`, or with subwords a `FastText`, that continues training where ours stopped.

    Args:
        config: Architecture and sampling settings; workers, epochs and rates are gensim's own to set.
        vocabulary: Words with counts, by which gensim draws noise words and subsamples.
        vectors: Input rows, float32 of shape (words, dimensions).
        context: Output rows, of the same shape.
        ngram_vectors: float32 of shape (buckets, dimensions), where the model has subwords.

    Raises:
        ValueError: Counts are unknown, or settings that gensim does not have.
    """
    if config.negative == 0:
        raise ValueError("negative is 0: gensim has output rows only where negative is above 0")
    kind, subwords = _import_gensim().Word2Vec, {}
    if ngram_vectors is not None:
        kind, subwords = _import_gensim().FastText, _ngram_settings(config)
    model = kind(
        **subwords,
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
    if ngram_vectors is None:
        model.wv.vectors[:] = vectors[rows]
    else:
        _set_fasttext_rows(model.wv, vectors[rows], ngram_vectors.copy())
    model.syn1neg[:] = context[rows]
    return model


def read_keyed_vectors(keyed_vectors: Any, trained: bool = False) -> tuple[Vocabulary, np.ndarray]:
    """Words, vectors and, where gensim has them, counts of a `KeyedVectors`.

    Reading a file without counts, gensim fills in n, n - 1, ..., 1; such counts are left out.
    """
    words = [str(word) for word in keyed_vectors.index_to_key]
    # of FastTextKeyedVectors the words' own rows
    vectors = np.ascontiguousarray(getattr(keyed_vectors, "vectors_vocab", keyed_vectors.vectors)[: len(words)])
    counts = keyed_vectors.expandos.get("count")
    if counts is not None:
        counts = np.array(counts[: len(words)], dtype=np.int64)
        if not trained and np.array_equal(counts, np.arange(len(words), 0, -1)):
            counts = None
    return Vocabulary(words, counts), vectors


def read_ngram_vectors(keyed_vectors: Any) -> tuple[dict[str, Any], np.ndarray | None]:
    """Fields of the config and a copy of the n-grams' rows of a gensim `FastTextKeyedVectors`; nothing of others."""
    if not getattr(keyed_vectors, "bucket", 0) or not keyed_vectors.max_n:
        return {}, None
    smallest = max(keyed_vectors.min_n, 1)
    config = {"subwords": [smallest, keyed_vectors.max_n], "buckets": keyed_vectors.bucket}
    return config, keyed_vectors.vectors_ngrams.copy()


def read_gensim_settings(model: Any) -> dict[str, Any]:
    """How a gensim `Word2Vec` was trained, as fields of `Word2VecConfig`.

    Raises:
        ValueError: A model trained with hierarchical softmax alone.
    """
    if model.hs and not model.negative:
        raise ValueError("the gensim model has no output rows: it was trained with hierarchical softmax (hs=1)")
    return {
        "architecture": "skip-gram" if model.sg else "cbow",
        "window": model.window,
        "shrink_windows": bool(model.shrink_windows),
        "negative": model.negative,
        "sample": float(model.sample),
        "ns_exponent": float(model.ns_exponent),
        "cbow_mean": bool(model.cbow_mean),
        "min_count": model.min_count,
    }
