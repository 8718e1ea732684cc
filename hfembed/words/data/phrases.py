"""Phrases: neighbors that occur together far more often than by chance (Mikolov et al. 2013b, section 4)."""

import hashlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from hfembed.atomic import atomic_write
from hfembed.errors import InputError
from hfembed.words.data.corpora import make_rules, open_source
from hfembed.words.data.encoded_blocks import EncodedBlocks, WordRows, count_words, encode_blocks

# distinct pairs kept at once (16 bytes each); the rarest of more are dropped, as in word2phrase
_MAX_PAIRS = 30_000_000
_PENDING_PAIRS = 4_000_000


def learn_phrases(
    source: object,
    thresholds: Sequence[float] = (200.0, 100.0),
    min_count: int = 5,
    discount: float = 5.0,
    lowercase: bool = False,
    word_pattern: str | None = None,
    column: str = "text",
    split: str = "train",
    config_name: str | None = None,
    cache_dir: str | Path | None = None,
    num_threads: int = 2,
    fold_yo: bool = False,
    analyzer: str | None = None,
    streaming: bool = False,
    max_words: int | None = None,
) -> tuple[tuple[tuple[str, str], ...], ...]:
    """Find the pairs of words to join, in several passes: `new_york`, then `new_york` + `times`.

    A pair (a, b) is joined where (count(ab) - discount) / (count(a) count(b)) x words > threshold (equation 6, with
    word2phrase's factor that makes thresholds independent of the corpus' size).

    Args:
        source: A source of `hfembed.words.data.corpora.prepare_corpus`; it is read once per pass.
        thresholds: One per pass, usually falling; higher means fewer phrases.
        min_count: Words and pairs seen less often make no phrase.
        discount: Keeps pairs of very rare words from scoring high.
        lowercase: Lowercase the text.
        word_pattern: A regular expression whose matches are the words.
        column: The column with the text, of Parquet files and data sets; several with commas between.
        split: The split of a data set on the Hub.
        config_name: The configuration of a data set on the Hub.
        cache_dir: Folder for temporary files (4 bytes per word) and for the result, which is reused when source and
            settings are unchanged. Default: the system's folder for temporary files, and nothing is kept.
        num_threads: Blocks of text processed at once.
        fold_yo: Write the Russian letter ё as е.
        analyzer: A tagger or segmenter by name, as `TextRules` says.
        streaming: Read a data set on the Hub as it arrives, once per pass.
        max_words: Read only this many words.

    Returns:
        The pairs of each pass, for `prepare_corpus(phrases=...)`, which saves them with the tokenizer.

    Raises:
        InputError: A source that does not exist, is not text, or can be read only once.
    """
    if isinstance(source, Iterator):
        raise InputError(
            "phrases need several passes over the corpus; give a list, a file or a data set, not an iterator"
        )
    where = (source, column, split, config_name, streaming, max_words)
    kept = None
    if cache_dir is not None:
        identity, _ = open_source(*where)
        settings = [identity, list(thresholds), min_count, discount, lowercase, word_pattern]
        if fold_yo or analyzer:  # results of releases before these are still found
            settings += [fold_yo, analyzer] if analyzer else [fold_yo]
        kept = Path(cache_dir) / f"phrases-{hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:16]}.json"
        if kept.is_file():
            return tuple(tuple((first, second) for first, second in pairs) for pairs in json.loads(kept.read_text()))
        Path(cache_dir).mkdir(parents=True, exist_ok=True)
    passes: tuple[tuple[tuple[str, str], ...], ...] = ()
    for threshold in thresholds:
        rules = make_rules(lowercase, word_pattern, passes, fold_yo, analyzer)
        _, blocks = open_source(*where)
        with tempfile.TemporaryDirectory(dir=cache_dir) as scratch:
            encoded = encode_blocks(blocks, rules, Path(scratch), num_threads)
            words, counts = count_words(encoded, min_count)
            keys, pair_counts, num_words = _count_pairs(encoded, words)
        first, second = keys >> 32, keys & 0xFFFFFFFF
        scores = (pair_counts - discount) / counts[first] / counts[second] * num_words
        chosen = (scores > threshold) & (pair_counts >= min_count)
        names = words.to_pylist()
        pairs = sorted((names[a], names[b]) for a, b in zip(first[chosen], second[chosen], strict=True))
        if not pairs:
            break
        passes += (tuple(pairs),)
    if kept is not None:
        with atomic_write(kept) as temporary:
            temporary.write_text(json.dumps(passes))
    return passes


def _count_pairs(encoded: EncodedBlocks, words: pa.StringArray) -> tuple[np.ndarray, np.ndarray, int]:
    """Pairs of neighbors as first << 32 | second (rows of `words`); their counts; number of words of the text."""
    keys, counts = np.empty(0, np.int64), np.empty(0, np.int64)
    pending: list[tuple[np.ndarray, np.ndarray]] = []
    num_pending = num_words = 0
    least = 1

    def merge() -> tuple[np.ndarray, np.ndarray]:
        together = np.concatenate([keys, *(part[0] for part in pending)])
        unique, inverse = np.unique(together, return_inverse=True)
        summed = np.bincount(inverse, np.concatenate([counts, *(part[1] for part in pending)]), minlength=len(unique))
        return unique, summed.astype(np.int64)

    rows = WordRows(words)
    for block in encoded:
        ids = rows.find(block.words).astype(np.int64)[block.ids]
        num_words += len(ids)
        pair = (ids[:-1] >= 0) & (ids[1:] >= 0)
        line_ends = block.line_ends[(block.line_ends > 0) & (block.line_ends < len(ids))]
        pair[line_ends - 1] = False
        at = np.flatnonzero(pair)
        pending.append(np.unique(ids[at] << 32 | ids[at + 1], return_counts=True))
        num_pending += len(pending[-1][0])
        if num_pending > max(_PENDING_PAIRS, len(keys)):
            keys, counts = merge()
            pending, num_pending = [], 0
            while len(keys) > _MAX_PAIRS:
                least += 1
                keys, counts = keys[counts >= least], counts[counts >= least]
    keys, counts = merge()
    return keys, counts, num_words
