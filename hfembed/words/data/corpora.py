"""From text to word ids on disk: one pass over the text, exact counts, bounded memory.

A block of text (16 MB) is split at whitespace and dictionary-encoded by pyarrow; what lies between becomes words by
the tokenizer's own rules, once per distinct piece. The block's ids and its dictionary go to disk. Once all counts are
known, each block's ids are mapped to the vocabulary's and rare words are dropped, as word2vec does. Nothing grows with
the corpus but the vocabulary and the files. A preparation that is killed goes on with the next block.
"""

import bz2
import contextlib
import gzip
import hashlib
import json
import logging
import lzma
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock

from hfembed.atomic import atomic_folder, replace_folder
from hfembed.errors import InputError, first_line
from hfembed.words.data.encoded_blocks import WorkerKilledError, count_words, encode_blocks, write_ids
from hfembed.words.data.vocabulary import TextRules, Vocabulary

logger = logging.getLogger(__name__)

Phrases = tuple[tuple[tuple[str, str], ...], ...]

BLOCK_BYTES = 16 << 20
_LONGEST_WORD_BYTES = 4 << 20
_FORMAT = 2
_COMPRESSED = (".gz", ".xz", ".zst", ".bz2")
_TEXT_SUFFIXES = (".txt", ".text", ".parquet", *_COMPRESSED)
# read as text these would teach their syntax
_TABLES = {".jsonl": "json", ".ndjson": "json", ".json": "json", ".csv": "csv", ".tsv": "csv", ".arrow": "arrow"}
_NOT_TEXT = (
    ".tar", ".tgz", ".tbz2", ".txz", ".zip", ".7z", ".rar", ".pdf", ".doc", ".docx", ".odt", ".rtf", ".epub", ".html",
    ".htm", ".xml", ".yaml", ".yml", ".npy", ".npz", ".safetensors", ".db", ".sqlite",
)  # fmt: skip


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
        num_threads: Blocks processed at once, about 0.4 GB each; by processes on Linux, by threads elsewhere.
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
        text = identity[0] if isinstance(identity, list) and max_words is not None else identity
        with _unfinished(folder, may_go_on=not isinstance(text, str)) as unfinished:  # others have no name
            if not (folder / "corpus.json").is_file():  # another process may have made it meanwhile
                encoded = encode_blocks(blocks, rules, unfinished / "blocks", num_threads)
                words = unfinished / "vocabulary"
                if vocabulary is None and words.is_dir():
                    vocabulary = Vocabulary.load(words)
                if vocabulary is None:
                    vocabulary = _make_vocabulary(*count_words(encoded, min_count), max_vocab_size, rules)
                    if not len(vocabulary):
                        raise InputError(f"{_describe(source)} has no word {min_count} times or more; lower min_count")
                    with atomic_folder(words) as saved:
                        vocabulary.save(saved)
                corpus = unfinished / "corpus"
                num_raw_words = write_ids(encoded, vocabulary.words, sentence_length, corpus, num_threads)
                if words.is_dir():
                    shutil.copytree(words, corpus, dirs_exist_ok=True)
                else:
                    vocabulary.save(corpus)
                (corpus / "corpus.json").write_text(json.dumps({"num_raw_words": num_raw_words, **settings}))
                replace_folder(corpus, folder)
    num_raw_words = json.loads((folder / "corpus.json").read_text())["num_raw_words"]
    return EncodedCorpus(folder, fingerprint, num_raw_words)


@contextlib.contextmanager
def _unfinished(folder: Path, may_go_on: bool) -> Iterator[Path]:
    """The folder of a preparation, for one process at a time; a killed one is gone on with where the source allows."""
    work = folder.with_name(f".{folder.name}.unfinished")
    work.mkdir(parents=True, exist_ok=True)
    with FileLock(work / "lock"):
        try:
            yield work
        except WorkerKilledError:
            raise
        except InputError:
            may_go_on = False  # bad text stays bad
            raise
        else:
            may_go_on = False
        finally:
            if not may_go_on:
                shutil.rmtree(work, ignore_errors=True)


def _make_vocabulary(words: pa.Array, counts: np.ndarray, max_size: int | None, rules: TextRules) -> Vocabulary:
    table = pa.table({"word": words, "count": counts})
    # pyarrow compares strings by their UTF-8 bytes, which is the order of code points: Python's
    table = table.sort_by([("count", "descending"), ("word", "ascending")]).slice(0, max_size)
    return Vocabulary(table["word"].to_pylist(), table["count"].to_numpy(), rules)


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


def _map_array(path: Path) -> np.ndarray:
    """Memory-map an array; an empty one cannot be mapped."""
    return np.load(path, mmap_mode="r" if path.stat().st_size > 128 else None)
