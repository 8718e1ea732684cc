"""From text to word ids on disk: one pass over the text, exact counts, bounded memory.

A block of text (16 MB) is split at whitespace and dictionary-encoded by pyarrow; what lies between becomes words by
the tokenizer's own rules, once per distinct piece. The block's ids and its dictionary go to disk. Once all counts are
known, each block's ids are mapped to the vocabulary's and rare words are dropped, as word2vec does. Nothing grows with
the corpus but the vocabulary and the files.
"""

import bz2
import contextlib
import gzip
import hashlib
import json
import logging
import lzma
import re
import tempfile
import uuid
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hfembed.atomic import atomic_folder
from hfembed.errors import InputError, first_line
from hfembed.words.data.vocabulary import TextRules, Vocabulary

logger = logging.getLogger(__name__)

Phrases = tuple[tuple[tuple[str, str], ...], ...]

BLOCK_BYTES = 16 << 20
_LONGEST_WORD_BYTES = 4 << 20
# distinct words that are counted at once; beyond it the dictionaries are read several times, a share of the words each
_COUNTED_AT_ONCE = 10_000_000
_PENDING_WORDS = 1_000_000
_FORMAT = 2
_COMPRESSED = (".gz", ".xz", ".zst", ".bz2")
_TEXT_SUFFIXES = (".txt", ".text", ".parquet", *_COMPRESSED)
# read as text these would teach their syntax
_TABLES = {".jsonl": "json", ".ndjson": "json", ".json": "json", ".csv": "csv", ".tsv": "csv", ".arrow": "arrow"}
_NOT_TEXT = (
    ".tar", ".tgz", ".tbz2", ".txz", ".zip", ".7z", ".rar", ".pdf", ".doc", ".docx", ".odt", ".rtf", ".epub", ".html",
    ".htm", ".xml", ".yaml", ".yml", ".npy", ".npz", ".safetensors", ".db", ".sqlite",
)  # fmt: skip
_SPLIT_BYTES = 1 << 20


@dataclass(frozen=True)
class EncodedCorpus:
    """A corpus as ids on disk, made by `prepare_corpus`.

    Attributes:
        folder: Where the files are.
        fingerprint: A hash of the source and the settings.
        num_raw_words: Words in the text, before any was dropped.
    """

    folder: Path
    fingerprint: str
    num_raw_words: int

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The words, whose order gives the ids."""
        return Vocabulary.load(self.folder)

    @cached_property
    def ids(self) -> np.ndarray:
        """Ids of the words in order, memory-mapped int32 of shape (num_words,), without unknown words."""
        return _map_array(self.folder / "ids.npy")

    @cached_property
    def sentence_ends(self) -> np.ndarray:
        """Where each sentence ends in `ids` (exclusive), ascending, memory-mapped int64 of shape (sentences,)."""
        return _map_array(self.folder / "sentence_ends.npy")

    @property
    def num_words(self) -> int:
        """Words in `ids`."""
        return len(self.ids)


def prepare_corpus(
    source: object,
    cache_dir: str | Path,
    min_count: int = 5,
    max_vocab_size: int | None = None,
    lowercase: bool = False,
    word_pattern: str | None = None,
    phrases: Phrases | None = None,
    sentence_length: int = 10_000,
    vocabulary: Vocabulary | None = None,
    column: str = "text",
    split: str = "train",
    config_name: str | None = None,
    num_threads: int = 2,
    fold_yo: bool = False,
    analyzer: str | None = None,
    streaming: bool = False,
    max_words: int | None = None,
) -> EncodedCorpus:
    """Count the words of a corpus and write it as ids; a result for the same source and settings is reused.

    Args:
        source: A text file (also .gz, .xz, .zst, .bz2), a Parquet file, a folder or list of these (`Path`s, or names
            with such a suffix), the id of a data set on the Hub, a `datasets.Dataset` or `IterableDataset`, or any
            iterable of texts. One sentence per line. Iterables, `IterableDataset`s too, have no fingerprint: they are
            read again each time.
        cache_dir: Folder that the corpus is kept in.
        min_count: Words seen less often are dropped.
        max_vocab_size: Keep only this many words, the most frequent.
        lowercase: Lowercase the text. It is always brought into Unicode NFC.
        word_pattern: A regular expression (Oniguruma's syntax) whose matches are the words; by default words are what
            whitespace separates.
        phrases: Pairs to join with `_`, from `hfembed.words.data.phrases.learn_phrases`.
        sentence_length: Longer lines are cut after this many words (counted before rare ones are dropped).
        vocabulary: Encode with these words, and their text rules, instead of counting.
        column: The column with the text, of Parquet files and data sets; several with commas between.
        split: The split of a data set on the Hub.
        config_name: The configuration of a data set on the Hub.
        num_threads: Blocks processed at once, about 0.4 GB each.
        fold_yo: Write the Russian letter ё as е.
        analyzer: A tagger or segmenter by name, as `TextRules` says.
        streaming: Read a data set on the Hub as it arrives, without a copy on the disk.
        max_words: Read only this many words, as whitespace separates them.

    Returns:
        The corpus, with its vocabulary.

    Raises:
        InputError: A source that does not exist, is not text, or has no word `min_count` times.
    """
    rules = vocabulary.rules if vocabulary is not None else TextRules()
    if vocabulary is None:
        rules = make_rules(lowercase, word_pattern, phrases, fold_yo, analyzer)
    for number in (sentence_length, min_count, max_vocab_size, max_words):
        if number is not None and number < 1:
            raise InputError("sentence_length, min_count, max_vocab_size and max_words must be at least 1")
    identity, blocks = open_source(source, column, split, config_name, streaming, max_words)
    settings = {
        "format": _FORMAT,
        "source": identity,
        "rules": rules.fields(),
        "sentence_length": sentence_length,
        "block_bytes": BLOCK_BYTES,
    }
    if vocabulary is None:
        settings |= {"min_count": min_count, "max_vocab_size": max_vocab_size}
    else:
        settings["vocabulary"] = hashlib.sha256("\n".join(vocabulary.words).encode()).hexdigest()
    fingerprint = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
    folder = Path(cache_dir) / fingerprint
    if not (folder / "corpus.json").is_file():
        with atomic_folder(folder) as unfinished, tempfile.TemporaryDirectory(dir=cache_dir) as scratch:
            encoded = encode_blocks(blocks, rules, Path(scratch), num_threads)
            if vocabulary is None:
                words, counts = count_words(encoded, min_count)
                vocabulary = _make_vocabulary(words, counts, max_vocab_size, rules)
                if not len(vocabulary):
                    raise InputError(f"{_describe(source)} has no word {min_count} times or more; lower min_count")
            num_raw_words = _write_ids(encoded, vocabulary, sentence_length, unfinished)
            vocabulary.save(unfinished)
            (unfinished / "corpus.json").write_text(json.dumps({"num_raw_words": num_raw_words, **settings}))
    num_raw_words = json.loads((folder / "corpus.json").read_text())["num_raw_words"]
    return EncodedCorpus(folder, fingerprint, num_raw_words)


def make_rules(
    lowercase: bool,
    word_pattern: str | None,
    phrases: Phrases | None,
    fold_yo: bool = False,
    analyzer: str | None = None,
) -> TextRules:
    """`TextRules`, with an `InputError` for impossible ones."""
    try:
        return TextRules(lowercase, word_pattern, phrases or (), fold_yo, analyzer)
    except ValueError as error:
        raise InputError(str(error)) from None


def _describe(source: object) -> str:
    return str(source) if isinstance(source, str | Path) else f"the {type(source).__name__}"


# --- sources: each becomes an identity (for the fingerprint) and an iterator of byte blocks that end between words ---


def open_source(
    source: object,
    column: str,
    split: str,
    config_name: str | None,
    streaming: bool = False,
    max_words: int | None = None,
) -> tuple[object, Iterator[bytes]]:
    """A source's identity, which changes with its text, and its text as blocks that end between words."""
    identity, blocks = _open_whole(source, column.split(","), split, config_name, streaming)
    return (identity, blocks) if max_words is None else ([identity, max_words], _first_words(blocks, max_words))


def _first_words(blocks: Iterator[bytes], number: int) -> Iterator[bytes]:
    for block in blocks:
        words = block.split(None, number)
        if len(words) > number:
            yield block[: len(block) - len(words[-1])]
            return
        yield block
        number -= len(words)
        if not number:
            return


def _open_whole(
    source: object, columns: list[str], split: str, config_name: str | None, streaming: bool
) -> tuple[object, Iterator[bytes]]:
    import datasets

    from hfembed.hub.dataset import check_dataset_card

    name: list[str | None] = []  # what tells a stream from the Hub from others

    if isinstance(source, list | tuple) and source and all(_is_file_name(part) for part in source):
        files = [file for part in source for file in _list_files(Path(part))]
        return _identify_files(files, columns), _read_files(files, columns)
    if isinstance(source, str | Path):
        if Path(source).exists():
            files = _list_files(Path(source))
            return _identify_files(files, columns), _read_files(files, columns)
        if isinstance(source, Path) or not may_be_hub_id(source):
            raise InputError(f"{source}: no such file or folder")
        try:
            commit = check_dataset_card(source)
            name = ["hub", source, commit, config_name, split, *columns]
            source = datasets.load_dataset(source, config_name, split=split, revision=commit, streaming=streaming)
        except (FileNotFoundError, ConnectionError, ValueError) as error:
            reason = first_line(error)
            raise InputError(f"{source} is neither a file nor a data set that can be loaded: {reason}") from None
    if isinstance(source, datasets.Dataset | datasets.IterableDataset):
        if source.column_names is not None:
            _check_columns(columns, source.column_names, "the dataset")
        if isinstance(source, datasets.Dataset):
            name = [source._fingerprint, *columns]
        return name or str(uuid.uuid4()), _join_texts(_dataset_texts(source, columns))
    if isinstance(source, Iterable) and not isinstance(source, str | bytes):
        return str(uuid.uuid4()), _join_texts(source)
    raise InputError(f"a corpus is a file, a folder, a dataset or an iterable of texts, not a {type(source).__name__}")


def may_be_hub_id(source: str) -> bool:
    """Whether a name may be that of a data set on the Hub, and not of a file."""
    return bool(re.fullmatch(r"[\w.-]+(/[\w.-]+)?", source)) and not source.endswith(_TEXT_SUFFIXES)


def _is_file_name(part: object) -> bool:
    """Whether an item of a list is a file, not a text: a `Path`, or a name with one of our suffixes."""
    return isinstance(part, Path) or (isinstance(part, str) and part.endswith(_TEXT_SUFFIXES))


def _list_files(path: Path) -> list[Path]:
    """A file, or the visible text files below a folder; what is skipped there is named in the log."""
    if path.is_file():
        reason = _not_text(path)
        if reason:
            raise InputError(f"{path} {reason}")
        return [path]
    if not path.is_dir():
        raise InputError(f"{path}: no such file or folder")
    files: list[Path] = []
    skipped: list[Path] = []
    for file in sorted(path.rglob("*")):
        hidden = any(part.startswith((".", "@", "__MACOSX")) for part in file.relative_to(path).parts)
        if not hidden and file.is_file():
            (files if file.suffix in _TEXT_SUFFIXES and not _not_text(file) else skipped).append(file)
    if not files:
        raise InputError(f"the folder {path} has no file ending in {', '.join(_TEXT_SUFFIXES)}")
    if skipped:
        names = ", ".join(file.name for file in skipped[:3]) + (", ..." if len(skipped) > 3 else "")
        logger.warning("%s: %d files that are not text are skipped (%s)", path, len(skipped), names)
    return files


def _not_text(file: Path) -> str:
    """What is wrong with a file that is not plain text by its name; empty if nothing is."""
    suffix = Path(file.stem if file.suffix in _COMPRESSED else file.name).suffix.lower()
    if suffix in _TABLES:
        return (
            f"is not plain text ({suffix}): give the texts alone, or in Python "
            f"datasets.load_dataset('{_TABLES[suffix]}', data_files=...) and its column"
        )
    return f"is not plain text ({suffix}): unpack or convert it first" if suffix in _NOT_TEXT else ""


def _identify_files(files: list[Path], columns: list[str]) -> object:
    stats = [(str(file.resolve()), file.stat()) for file in files]
    return [[(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats], *columns]


def _check_columns(columns: list[str], there: list[str], name: str) -> None:
    for column in columns:
        if column not in there:
            raise InputError(f"{name} has no column {column!r} but {there}: name the one with the text")


def _dataset_texts(dataset: Any, columns: list[str]) -> Iterator[str]:
    for batch in dataset.select_columns(columns).iter(batch_size=1000):
        for texts in zip(*(batch[column] for column in columns), strict=True):
            yield from texts


def _join_texts(texts: Iterable[str]) -> Iterator[bytes]:
    """Blocks of whole texts, each followed by a line break; a very long text gives several blocks."""
    parts: list[bytes] = []
    size = 0
    for text in texts:
        if text is None:
            continue
        if not isinstance(text, str):
            raise InputError(f"a corpus is made of texts, but one of its items is a {type(text).__name__}")
        parts.append(text.encode("utf-8", errors="replace") + b"\n")
        size += len(parts[-1])
        if size >= BLOCK_BYTES:
            yield from _cut_blocks(iter([b"".join(parts)]), "a text of the corpus")
            parts, size = [], 0
    yield from _cut_blocks(iter([b"".join(parts)]), "a text of the corpus")


def _read_files(files: list[Path], columns: list[str]) -> Iterator[bytes]:
    for file in files:
        if file.suffix == ".parquet":
            yield from _join_texts(_parquet_texts(file, columns))
            continue
        with _open_binary(file) as stream:
            yield from _cut_blocks(_read_pieces(stream, file), str(file))
        yield b"\n"  # a file ends a sentence


def _parquet_texts(file: Path, columns: list[str]) -> Iterator[str]:
    try:
        parquet = pq.ParquetFile(file)
        _check_columns(columns, parquet.schema_arrow.names, str(file))
        for batch in parquet.iter_batches(batch_size=1000, columns=columns):
            for texts in zip(*(batch[column].to_pylist() for column in columns), strict=True):
                yield from texts
    except pa.ArrowInvalid as error:
        raise InputError(f"{file} cannot be read as parquet: {first_line(error)}") from None


@contextlib.contextmanager
def _open_binary(file: Path) -> Iterator[BinaryIO]:
    if file.suffix == ".zst":
        with pa.OSFile(str(file)) as raw, pa.CompressedInputStream(raw, "zstd") as stream:
            yield stream
        return
    opener: Any = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}.get(file.suffix, open)
    with opener(file, "rb") as stream:
        yield stream


def _read_pieces(stream: BinaryIO, file: Path) -> Iterator[bytes]:
    try:
        while piece := stream.read(BLOCK_BYTES):
            if b"\0" in piece:
                raise InputError(f"{file} has NUL bytes: is it text? (an archive, a binary file and UTF-16 are not)")
            yield piece
    except (EOFError, OSError, lzma.LZMAError) as error:
        raise InputError(f"{file} cannot be read to its end: {error}") from None


def _cut_blocks(pieces: Iterator[bytes], name: str) -> Iterator[bytes]:
    """Pieces of any size -> blocks that end at a line break (if their second half has one) or at a space or tab."""
    rest = b""
    for piece in pieces:
        rest += piece
        while len(rest) >= BLOCK_BYTES:
            end = rest.rfind(b"\n", BLOCK_BYTES // 2, BLOCK_BYTES) + 1
            if not end:
                end = (
                    max(rest.rfind(blank, BLOCK_BYTES - _LONGEST_WORD_BYTES, BLOCK_BYTES) for blank in (b" ", b"\t"))
                    + 1
                )
            if not end:
                raise InputError(f"{name} has no whitespace in {_LONGEST_WORD_BYTES >> 20} MB: is it text?")
            yield rest[:end]
            rest = rest[end:]
    if rest:
        yield rest


# --- a block of text -> local ids ---


@dataclass
class _Block:
    """One block: local ids, ends of lines, and the dictionary with counts."""

    words: pa.StringArray  # may have words that no id refers to
    counts: np.ndarray
    ids: np.ndarray
    line_ends: np.ndarray  # ends of the block's complete lines in `ids`


def _encode_block(block: bytes, rules: TextRules) -> _Block:
    try:
        text = block.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"the corpus is not UTF-8: byte {block[error.start]:#04x} after "
            f"{block[max(0, error.start - 20) : error.start].decode('utf-8', 'ignore')!r}; convert it first"
        ) from None
    if rules.analyzer is not None:
        block, rules = rules.analyze(text).encode(), rules.after_analysis()
    whole = pa.StringArray.from_buffers(
        1, pa.py_buffer(np.array([0, len(block)], dtype=np.int32)), pa.py_buffer(block)
    )
    lines = pc.ascii_split_whitespace(pc.split_pattern(whole, "\n").flatten())
    pieces = lines.flatten().dictionary_encode()
    ids, line_ends = pieces.indices.to_numpy(), lines.offsets.to_numpy()[1:].astype(np.int64)
    words, begins = _split_pieces(pieces.dictionary, rules)
    encoded = words.dictionary_encode()
    # each piece is replaced by its words, of which it may have none
    lengths = np.diff(begins)[ids]
    ends = np.cumsum(lengths)
    places = np.repeat(begins[ids] - ends + lengths, lengths) + np.arange(ends[-1] if len(ends) else 0)
    ids, dictionary = encoded.indices.to_numpy()[places], encoded.dictionary
    line_ends = np.concatenate([[0], ends])[line_ends][:-1]  # the last line goes on in the next block
    for pairs in rules.phrases:
        ids, dictionary, line_ends = join_pairs(ids, dictionary, line_ends, pairs)
    counts = np.bincount(ids, minlength=len(dictionary))
    return _Block(dictionary, counts, ids.astype(np.int32, copy=False), line_ends)


def _split_pieces(pieces: pa.StringArray, rules: TextRules) -> tuple[pa.StringArray, np.ndarray]:
    """The words of each distinct piece of text between ASCII whitespace, by the tokenizer's own rules.

    Returns:
        All words, and where those of each piece begin: int64 of shape (pieces + 1,).
    """
    lengths = pc.binary_length(pieces).to_numpy()
    plain = pc.string_is_ascii(pieces).to_numpy(zero_copy_only=False) & (lengths > 0) & (rules.word_pattern is None)
    words = pieces.filter(pa.array(plain))
    found_words, numbers = [pc.ascii_lower(words) if rules.lowercase else words], [np.flatnonzero(plain)]
    rules = replace(rules, phrases=())
    normalizer, splitter = rules.normalizer(), rules.pre_tokenizer()
    rest = np.flatnonzero(~plain & (lengths > 0))
    # the tokenizer takes dozens of bytes per character: a MB at a time
    for some in np.split(rest, np.flatnonzero(np.diff(np.cumsum(lengths[rest]) // _SPLIT_BYTES)) + 1):
        text = normalizer.normalize_str("\n".join(pieces.take(pa.array(some)).to_pylist()))
        found = splitter.pre_tokenize_str(text)
        found_words.append(pa.array([word for word, _ in found], pa.string()))
        breaks = np.flatnonzero(np.frombuffer(text.encode("utf-32-le"), np.uint32) == ord("\n"))
        starts = np.fromiter((start for _, (start, _) in found), np.int64, len(found))
        numbers.append(some[np.searchsorted(breaks, starts)])
    number = np.concatenate(numbers)
    begins = np.concatenate([[0], np.cumsum(np.bincount(number, minlength=len(pieces)))])
    return pa.concat_arrays(found_words).take(pa.array(np.argsort(number, kind="stable"))), begins


def join_pairs(
    ids: np.ndarray, dictionary: pa.StringArray, line_ends: np.ndarray, pairs: tuple[tuple[str, str], ...]
) -> tuple[np.ndarray, pa.StringArray, np.ndarray]:
    """Join the listed neighbors, left to right without overlap, and never across the end of a line."""
    if not pairs or len(ids) < 2:
        return ids, dictionary, line_ends
    first = pc.index_in(pa.array([pair[0] for pair in pairs]), dictionary).fill_null(-1).to_numpy().astype(np.int64)
    second = pc.index_in(pa.array([pair[1] for pair in pairs]), dictionary).fill_null(-1).to_numpy().astype(np.int64)
    here = np.flatnonzero((first >= 0) & (second >= 0))
    if not len(here):
        return ids, dictionary, line_ends
    keys = first[here] << 32 | second[here]
    order = np.argsort(keys)
    keys, here = keys[order], here[order]
    begins = np.zeros(len(dictionary), dtype=bool)
    begins[first[here]] = True
    ends = np.zeros(len(dictionary), dtype=bool)
    ends[second[here]] = True
    candidate = begins[ids[:-1]] & ends[ids[1:]]
    candidate[line_ends[(line_ends > 0) & (line_ends < len(ids))] - 1] = False
    at = np.flatnonzero(candidate)
    key = ids[at].astype(np.int64) << 32 | ids[at + 1]
    found = np.minimum(np.searchsorted(keys, key), len(keys) - 1)
    match = keys[found] == key
    at, found = at[match], found[match]
    # of a run of overlapping pairs the first, third, ... are joined
    run_start = np.flatnonzero(np.diff(at, prepend=-2) != 1)
    place = np.arange(len(at)) - np.repeat(run_start, np.diff(run_start, append=len(at)))
    joined = place % 2 == 0
    at, found = at[joined], found[joined]
    used, which = np.unique(found, return_inverse=True)
    new_words = pa.array(["_".join(pairs[here[number]]) for number in used], type=dictionary.type)
    # a joined word may be in the text already
    known = pc.index_in(new_words, dictionary).fill_null(-1).to_numpy()
    fresh = known < 0
    new_ids = np.where(fresh, len(dictionary) + np.cumsum(fresh) - 1, known)
    dictionary = pa.concat_arrays([dictionary, new_words.filter(pa.array(fresh))])
    ids = ids.astype(np.int32, copy=True)
    ids[at] = new_ids[which]
    kept = np.ones(len(ids), dtype=bool)
    kept[at + 1] = False
    line_ends = np.concatenate([[0], np.cumsum(kept)])[line_ends]
    return ids[kept], dictionary, line_ends


class EncodedBlocks:
    """The blocks on disk, read several times: to count, and to map to the vocabulary's ids."""

    def __init__(self, scratch: Path):
        self._ids = (scratch / "ids.bin").open("w+b")
        self._line_ends = (scratch / "line_ends.bin").open("w+b")
        self._dictionaries = scratch / "dictionaries.arrow"
        self._sizes: list[tuple[int, int]] = []
        self._schema = pa.schema([("word", pa.string()), ("count", pa.int64())])
        self._writer = pa.ipc.new_file(str(self._dictionaries), self._schema)

    def append(self, block: _Block) -> None:
        """Append a block."""
        self._sizes.append((len(block.ids), len(block.line_ends)))
        self._ids.write(block.ids.tobytes())
        self._line_ends.write(block.line_ends.astype(np.int64).tobytes())
        self._writer.write_batch(pa.record_batch([block.words, pa.array(block.counts)], schema=self._schema))

    def finish(self) -> None:
        """Finish writing."""
        self._writer.close()

    def dictionaries(self) -> Iterator[pa.RecordBatch]:
        """Each block's dictionary: columns `word` and `count`."""
        with pa.ipc.open_file(str(self._dictionaries)) as reader:
            for number in range(reader.num_record_batches):
                yield reader.get_batch(number)

    def __iter__(self) -> Iterator[_Block]:
        self._ids.seek(0)
        self._line_ends.seek(0)
        for (num_ids, num_lines), batch in zip(self._sizes, self.dictionaries(), strict=True):
            ids = np.frombuffer(self._ids.read(4 * num_ids), dtype=np.int32)
            line_ends = np.frombuffer(self._line_ends.read(8 * num_lines), dtype=np.int64)
            yield _Block(batch["word"], batch["count"].to_numpy(), ids, line_ends)

    def close(self) -> None:
        """Close the files."""
        self._ids.close()
        self._line_ends.close()


def encode_blocks(blocks: Iterator[bytes], rules: TextRules, scratch: Path, num_threads: int) -> EncodedBlocks:
    """Encode all blocks, a few at once, in order."""
    encoded = EncodedBlocks(scratch)
    waiting: deque[Future[_Block]] = deque()
    with ThreadPoolExecutor(num_threads) as pool:
        for block in blocks:
            waiting.append(pool.submit(_encode_block, block, rules))
            if len(waiting) > num_threads:
                encoded.append(waiting.popleft().result())
        while waiting:
            encoded.append(waiting.popleft().result())
    encoded.finish()
    return encoded


# --- counts -> vocabulary -> ids ---


def count_words(encoded: EncodedBlocks, min_count: int) -> tuple[pa.Array, np.ndarray]:
    """Exact counts of all words seen `min_count` times; in several passes if they are too many at once."""
    shares = 1
    while True:
        kept = []
        for share in range(shares):
            counted = _count_share(encoded, share, shares)
            if counted is None:
                break
            kept.append(counted.filter(pc.greater_equal(counted["count"], min_count)))
        else:
            table = pa.concat_tables(kept).combine_chunks()
            return table["word"].combine_chunks(), table["count"].to_numpy()
        shares *= 4


def _count_share(encoded: EncodedBlocks, share: int, shares: int) -> pa.Table | None:
    """Counts of the words whose hash falls into this share; `None` if they are too many."""
    empty = pa.table({"word": pa.array([], pa.string()), "count": pa.array([], pa.int64())})
    total, num_pending = empty, 0
    pending: list[pa.Table] = []

    def merge() -> pa.Table:
        grouped = pa.concat_tables([total, *pending]).group_by("word", use_threads=False).aggregate([("count", "sum")])
        return grouped.select(["word", "count_sum"]).rename_columns(["word", "count"])

    for batch in encoded.dictionaries():
        batch = batch.filter(pc.greater(batch["count"], 0))
        if shares > 1:
            batch = batch.filter(pa.array(_hash_words(batch["word"]) % shares == share))
        pending.append(pa.Table.from_batches([batch]))
        num_pending += len(batch)
        if num_pending > max(_PENDING_WORDS, len(total)):
            total, pending, num_pending = merge(), [], 0
            if len(total) > _COUNTED_AT_ONCE:
                return None
    return merge()


def _hash_words(words: pa.StringArray) -> np.ndarray:
    """A hash of each word: a sum over its bytes and its length, uint64 of shape (words,)."""
    words = pa.concat_arrays([words])
    ends = np.frombuffer(words.buffers()[1], dtype=np.int32)[words.offset : words.offset + len(words) + 1]
    data = np.frombuffer(words.buffers()[2], dtype=np.uint8).astype(np.uint64)
    mixed = (data * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(40)
    sums = np.concatenate([[np.uint64(0)], np.cumsum(mixed)])
    return sums[ends[1:]] - sums[ends[:-1]] + np.diff(ends).astype(np.uint64)


def _make_vocabulary(words: pa.Array, counts: np.ndarray, max_size: int | None, rules: TextRules) -> Vocabulary:
    table = pa.table({"word": words, "count": counts})
    # pyarrow compares strings by their UTF-8 bytes, which is the order of code points: Python's
    table = table.sort_by([("count", "descending"), ("word", "ascending")]).slice(0, max_size)
    return Vocabulary(table["word"].to_pylist(), table["count"].to_numpy(), rules)


def _write_ids(encoded: EncodedBlocks, vocabulary: Vocabulary, sentence_length: int, folder: Path) -> int:
    """Write ids.npy and sentence_ends.npy; return the number of words before any was dropped."""
    words = pa.array(vocabulary.words, type=pa.string())
    num_raw, num_kept = 0, 0  # written so far
    sentence_start = 0  # of the sentence under way, in raw words
    last_end = 0
    num_sentences = 0
    with (folder / "ids.npy").open("wb") as ids_file, (folder / "sentence_ends.npy").open("wb") as ends_file:
        _write_header(ids_file, np.int32, 0)
        _write_header(ends_file, np.int64, 0)
        for block in encoded:
            rows = pc.index_in(block.words, words).fill_null(-1).to_numpy()
            ids = rows[block.ids]
            known = ids >= 0
            ids_file.write(ids[known].astype(np.int32, copy=False).tobytes())
            cuts = _cut_sentences(sentence_start, block.line_ends + num_raw, num_raw + len(ids), sentence_length)
            ends = np.concatenate([[0], np.cumsum(known)])[cuts - num_raw] + num_kept
            ends = ends[np.diff(ends, prepend=last_end) > 0]  # drop sentences without a known word
            ends_file.write(ends.tobytes())
            num_sentences += len(ends)
            num_raw += len(ids)
            num_kept += int(known.sum())
            if len(cuts):
                sentence_start = int(cuts[-1])
            if len(ends):
                last_end = int(ends[-1])
        if num_kept > last_end:
            ends_file.write(np.array([num_kept], dtype=np.int64).tobytes())
            num_sentences += 1
        for file, dtype, length in ((ids_file, np.int32, num_kept), (ends_file, np.int64, num_sentences)):
            file.seek(0)
            _write_header(file, dtype, length)
    encoded.close()
    return num_raw


def _cut_sentences(start: int, line_ends: np.ndarray, stop: int, length: int) -> np.ndarray:
    """Ends of the sentences that end in this block: the ends of lines, and cuts in longer lines.

    Args:
        start: Where the current sentence began, in raw words of the corpus, like all numbers here.
        line_ends: Ends of the block's complete lines.
        stop: End of the block; the unfinished line there is cut as well.
        length: Words after which a line is cut.
    """
    starts = np.concatenate([[start], line_ends])
    stops = np.concatenate([line_ends, [stop]])
    num_cuts = np.maximum(stops - starts - 1, 0) // length
    total = int(num_cuts.sum())
    if not total:
        return line_ends
    number = np.arange(total) - np.repeat(np.cumsum(num_cuts) - num_cuts, num_cuts) + 1
    cuts = np.repeat(starts, num_cuts) + number * length
    return np.sort(np.concatenate([line_ends, cuts]))


def _write_header(file: BinaryIO, dtype: type, length: int) -> None:
    """An .npy header of 128 bytes whatever the length, so that it can be overwritten at the end."""
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": (length,)}
    text = repr(header).ljust(128 - 10 - 1) + "\n"
    file.write(np.lib.format.MAGIC_PREFIX + bytes([1, 0]) + len(text).to_bytes(2, "little") + text.encode("latin1"))


def write_arrays(folder: Path, ids: np.ndarray, sentence_ends: np.ndarray) -> None:
    """Write the two arrays of an `EncodedCorpus`: int32 (num_words,) and int64 (sentences,), exclusive."""
    for name, array in (("ids", ids.astype(np.int32, copy=False)), ("sentence_ends", sentence_ends.astype(np.int64))):
        with (folder / f"{name}.npy").open("wb") as file:
            _write_header(file, array.dtype.type, len(array))
            file.write(array.tobytes())


def _map_array(path: Path) -> np.ndarray:
    """Memory-map an array; an empty one cannot be mapped."""
    return np.load(path, mmap_mode="r" if path.stat().st_size > 128 else None)
