"""Character n-grams and their hash buckets, exactly as fastText computes them (Bojanowski et al. 2017)."""

from collections.abc import Sequence

import numpy as np

END_OF_SENTENCE = "</s>"
"""fastText's word for a line break: the only one without n-grams."""
LONGEST_NGRAM, MOST_BUCKETS = 64, 100_000_000
_WORDS_AT_ONCE = 50_000
_MOST_BYTES = 4  # of a character in UTF-8


def hash_ngrams(words: Sequence[str], smallest: int, largest: int, buckets: int) -> tuple[np.ndarray, np.ndarray]:
    """Hash the n-grams of words between `<` and `>`, each as often as it occurs.

    The hash is 32-bit FNV-1a over the UTF-8 bytes with fastText's quirk: bytes are signed, so that one from 128 flips
    the upper 24 bits too. An n-gram of one character is none if it is a boundary.

    Args:
        smallest: Least number of characters, boundaries included.
        largest: Greatest number of characters.
        buckets: Hashes are taken modulo this.

    Returns:
        (offsets int64 (words + 1,), hashes int64 (n-grams,)): word i has the hashes from offsets[i] to offsets[i + 1],
        in the order of fastText.
    """
    counts, hashes = [np.zeros(1, np.int64)], [np.empty(0, np.int64)]
    for start in range(0, len(words), _WORDS_AT_ONCE):
        number, found = _hash_chunk(words[start : start + _WORDS_AT_ONCE], smallest, largest, buckets)
        counts.append(number)
        hashes.append(found)
    return np.cumsum(np.concatenate(counts)), np.concatenate(hashes)


def _hash_chunk(words: Sequence[str], smallest: int, largest: int, buckets: int) -> tuple[np.ndarray, np.ndarray]:
    bounded = ["" if word == END_OF_SENTENCE else f"<{word}>" for word in words]
    lengths = np.array([len(word) for word in bounded], dtype=np.int64)
    largest = min(largest, int(lengths.max(initial=0)))
    text = np.frombuffer("".join(bounded).encode("utf-8", "surrogatepass"), dtype=np.uint8)
    first_bytes = np.flatnonzero((text & 0xC0) != 0x80)  # one per character
    num_bytes = np.diff(first_bytes, append=len(text))
    # what is left of the word from each character on, itself included
    left = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(first_bytes))
    is_first = left == np.repeat(lengths, lengths)
    signed = text.view(np.int8).astype(np.int32).view(np.uint32)

    # one column per length: read row by row, they are in fastText's order
    table = np.zeros((len(first_bytes), max(largest - smallest + 1, 0)), dtype=np.int64)
    valid = np.zeros(table.shape, dtype=bool)
    state = np.full(len(first_bytes), 2166136261, dtype=np.uint32)
    alive = np.arange(len(first_bytes))
    for n in range(1, largest + 1):
        alive = alive[left[alive] >= n]
        added = alive + (n - 1)
        for byte in range(_MOST_BYTES):
            have = num_bytes[added] > byte
            at = alive[have]
            state[at] = (state[at] ^ signed[first_bytes[added[have]] + byte]) * np.uint32(16777619)
        if n < smallest:
            continue
        kept = alive if n > 1 else alive[~is_first[alive] & (left[alive] > 1)]
        table[kept, n - smallest] = state[kept] % np.uint32(buckets)
        valid[kept, n - smallest] = True
    number = valid.sum(axis=1)
    ends = np.concatenate([[0], np.cumsum(number)])
    borders = np.concatenate([[0], np.cumsum(lengths)])
    return np.diff(ends[borders]), table[valid]


__all__ = ["END_OF_SENTENCE", "LONGEST_NGRAM", "MOST_BUCKETS", "hash_ngrams"]
