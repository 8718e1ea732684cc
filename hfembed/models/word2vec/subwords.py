"""Character n-grams and their hash buckets, exactly as fastText (Bojanowski et al. 2017) and floret compute them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

END_OF_SENTENCE = "</s>"
"""fastText's word for a line break: the only one without n-grams."""
LONGEST_NGRAM, MOST_BUCKETS, MOST_HASHES = 64, 100_000_000, 4
FLORET_SEED = 2166136261
_WORDS_AT_ONCE = 50_000
_MOST_BYTES = 4  # of a character in UTF-8


def hash_ngrams(
    words: Sequence[str], smallest: int, largest: int, buckets: int, hash_count: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Hash the n-grams of words between `<` and `>`, each as often as it occurs.

    The hash is 32-bit FNV-1a over the UTF-8 bytes with fastText's quirk: bytes are signed, so that one from 128 flips
    the upper 24 bits too. An n-gram of one character is none if it is a boundary.

    With `hash_count` the hashes are floret's: those of the whole word between its boundaries come first, and each
    string has `hash_count` of them, the 32-bit parts of MurmurHash3 x64 128 from the lowest on.

    Args:
        smallest: Least number of characters, boundaries included.
        largest: Greatest number of characters.
        buckets: Hashes are taken modulo this.
        hash_count: Hashes per string, from 1 to 4; `None` for fastText's.

    Returns:
        (offsets int64 (words + 1,), hashes int64 (n-grams,)): word i has the hashes from offsets[i] to offsets[i + 1],
        in the order of fastText or floret.
    """
    counts, hashes = [np.zeros(1, np.int64)], [np.empty(0, np.int64)]
    for start in range(0, len(words), _WORDS_AT_ONCE):
        chunk = words[start : start + _WORDS_AT_ONCE]
        if hash_count is None:
            number, found = _hash_chunk(chunk, smallest, largest, buckets)
        else:
            number, found = _hash_chunk_often(chunk, smallest, largest, buckets, hash_count)
        counts.append(number)
        hashes.append(found)
    return np.cumsum(np.concatenate(counts)), np.concatenate(hashes)


@dataclass(frozen=True)
class _Characters:
    """The characters of words, one after the other.

    Attributes:
        text: The words in UTF-8, uint8 (bytes,).
        begins: The first byte of each character and the end of the text, int64 (characters + 1,).
        left: Characters left of the word from each on, itself included, int64 (characters,).
        is_first: Whether each is the first of its word, bool (characters,).
        lengths: Characters of each word, int64 (words,).
    """

    text: np.ndarray
    begins: np.ndarray
    left: np.ndarray
    is_first: np.ndarray
    lengths: np.ndarray

    @classmethod
    def of(cls, words: Sequence[str]) -> "_Characters":
        lengths = np.array([len(word) for word in words], dtype=np.int64)
        text = np.frombuffer("".join(words).encode("utf-8", "surrogatepass"), dtype=np.uint8)
        begins = np.append(np.flatnonzero((text & 0xC0) != 0x80), len(text))
        left = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(begins) - 1)
        return cls(text, begins, left, left == np.repeat(lengths, lengths), lengths)

    def per_word(self, number: np.ndarray) -> np.ndarray:
        """Sums over the characters of each word, of int64 (characters,)."""
        ends = np.concatenate([[0], np.cumsum(number)])
        borders = np.concatenate([[0], np.cumsum(self.lengths)])
        return np.diff(ends[borders])


def _hash_chunk(words: Sequence[str], smallest: int, largest: int, buckets: int) -> tuple[np.ndarray, np.ndarray]:
    characters = _Characters.of(["" if word == END_OF_SENTENCE else f"<{word}>" for word in words])
    left, is_first, first_bytes = characters.left, characters.is_first, characters.begins[:-1]
    largest = min(largest, int(left.max(initial=0)))
    num_bytes = np.diff(characters.begins)
    signed = characters.text.view(np.int8).astype(np.int32).view(np.uint32)

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
    return characters.per_word(valid.sum(axis=1)), table[valid]


def _hash_chunk_often(
    words: Sequence[str], smallest: int, largest: int, buckets: int, hash_count: int
) -> tuple[np.ndarray, np.ndarray]:
    characters = _Characters.of([f"<{word}>" for word in words])
    left, is_first = characters.left[:, None], characters.is_first[:, None]
    # one column for the whole word, one per length
    sizes = np.arange(smallest, largest + 1)
    boundary = (sizes == 1) & (is_first | (left == 1))
    valid = np.concatenate([is_first, (sizes <= left) & ~boundary], axis=1)
    sizes = np.concatenate([left, np.broadcast_to(sizes, (len(left), len(sizes)))], axis=1)
    character, column = np.nonzero(valid)
    begins = characters.begins[character]
    ends = characters.begins[character + sizes[character, column]]
    hashes = murmur3(characters.text, begins, ends - begins)[:, :hash_count] % np.uint32(buckets)
    return hash_count * characters.per_word(valid.sum(axis=1)), hashes.astype(np.int64).ravel()


def murmur3(text: np.ndarray, begins: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Austin Appleby's MurmurHash3 x64 128 of pieces of a text, with floret's seed.

    Args:
        text: uint8 (bytes,).
        begins: Where each piece begins, int64 (pieces,).
        lengths: Bytes of each piece, int64 (pieces,).

    Returns:
        uint32 (pieces, 4), the lowest part first.
    """
    padded = np.concatenate([text, np.zeros(16, np.uint8)])
    eight = np.ndarray(len(text) + 9, "<u8", padded, strides=(1,))  # bytes from each byte on
    low = np.array([(1 << 8 * kept) - 1 for kept in range(9)], dtype=np.uint64)
    first_factor, second_factor = np.uint64(0x87C37B91114253D5), np.uint64(0x4CF5AD432745937F)
    state = np.full((2, len(begins)), FLORET_SEED, dtype=np.uint64)

    def rotate(values: np.ndarray, bits: int) -> np.ndarray:
        return values << np.uint64(bits) | values >> np.uint64(64 - bits)

    def stir(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return rotate(first * first_factor, 31) * second_factor, rotate(second * second_factor, 33) * first_factor

    alive = np.flatnonzero(lengths >= 16)
    start = 0
    while len(alive):
        at = begins[alive] + start
        first, second = stir(eight[at], eight[at + 8])
        h1, h2 = state[:, alive]
        h1 = (rotate(h1 ^ first, 27) + h2) * np.uint64(5) + np.uint64(0x52DCE729)
        h2 = (rotate(h2 ^ second, 31) + h1) * np.uint64(5) + np.uint64(0x38495AB5)
        state[:, alive] = h1, h2
        start += 16
        alive = alive[lengths[alive] >= start + 16]
    rest = lengths % 16
    at = begins + lengths - rest
    first, second = stir(eight[at] & low[np.minimum(rest, 8)], eight[at + 8] & low[np.maximum(rest - 8, 0)])
    length = lengths.astype(np.uint64)
    h1, h2 = state[0] ^ first ^ length, state[1] ^ second ^ length
    h1 = h1 + h2
    h1, h2 = _finish(h1), _finish(h1 + h2)
    h1 = h1 + h2
    return np.stack([h1, h1 + h2], axis=1).astype("<u8", copy=False).view("<u4")


def _finish(values: np.ndarray) -> np.ndarray:
    shift = np.uint64(33)
    values = (values ^ values >> shift) * np.uint64(0xFF51AFD7ED558CCD)
    values = (values ^ values >> shift) * np.uint64(0xC4CEB9FE1A85EC53)
    return values ^ values >> shift


__all__ = ["END_OF_SENTENCE", "FLORET_SEED", "LONGEST_NGRAM", "MOST_BUCKETS", "MOST_HASHES", "hash_ngrams", "murmur3"]
