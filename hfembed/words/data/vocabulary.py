"""Vocabularies: the words of a model with their counts, and the union of two for continued training."""

import numpy as np

from hfembed.models.word2vec.vocabulary_word2vec import TextRules, UnknownWordError, Vocabulary


def merge_vocabularies(old: Vocabulary, new: Vocabulary) -> tuple[Vocabulary, np.ndarray]:
    """Add the words of new text to a vocabulary, as gensim's `build_vocab(update=True)` does; counts add up.

    Returns:
        The union, sorted by count and with the rules of `old`, and the row of each word in `old` (int64 of shape
        (words,), -1 for new words).

    Raises:
        ValueError: A vocabulary without counts.
    """
    if old.counts is None or new.counts is None:
        raise ValueError("vocabularies without counts cannot be merged")
    counts = dict(zip(old.words, old.counts.tolist(), strict=True))
    for word, count in zip(new.words, new.counts.tolist(), strict=True):
        counts[word] = counts.get(word, 0) + count
    merged = Vocabulary.from_counts(counts, rules=old.rules)
    old_rows = np.array([old.index.get(word, -1) for word in merged.words], dtype=np.int64)
    return merged, old_rows


__all__ = ["TextRules", "UnknownWordError", "Vocabulary", "merge_vocabularies"]
