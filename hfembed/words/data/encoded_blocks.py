"""Blocks of text -> ids of words, by several processes: each block is a file, so that a killed run goes on.

A block's ids are those of its own dictionary. Once the words of all blocks are counted, they are mapped to the ids of
the vocabulary, block by block.
"""

import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from itertools import chain, islice, starmap
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hfembed.allocator import keep_freed_memory
from hfembed.atomic import atomic_write
from hfembed.errors import InputError
from hfembed.models.word2vec.subwords import murmur3
from hfembed.words.data.vocabulary import TextRules

_HEADER_BYTES = 128  # of an .npy file here, whatever its length
# distinct words that are counted at once; beyond it the dictionaries are read several times, a share of the words each
_COUNTED_AT_ONCE = 10_000_000
_NOTED = 8  # blocks of ids between notes of the progress
_PENDING_WORDS = 1_000_000
_SPLIT_BYTES = 1 << 20
_HASHED_AT_ONCE = 1_000_000


class WorkerKilledError(InputError):
    """A process that encodes was killed; what others wrote is kept."""


# --- a block of text -> local ids ---


@dataclass
class Block:
    """One block: local ids, ends of lines, and the dictionary with counts."""

    words: pa.StringArray  # may have words that no id refers to
    counts: np.ndarray
    ids: np.ndarray
    line_ends: np.ndarray  # ends of the block's complete lines in `ids`


def _encode_block(block: bytes, rules: TextRules) -> Block:
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
    words_of_pieces = np.diff(begins)
    if (words_of_pieces == 1).all():  # as in text that was cleaned before
        places = ids
    else:  # each piece is replaced by its words, of which it may have none
        lengths = words_of_pieces[ids]
        ends = np.cumsum(lengths)
        places = np.repeat(begins[ids] - ends + lengths, lengths) + np.arange(ends[-1] if len(ends) else 0)
        line_ends = np.concatenate([[0], ends])[line_ends]
    ids, dictionary = encoded.indices.to_numpy()[places], encoded.dictionary
    line_ends = line_ends[:-1]  # the last line goes on in the next block
    for pairs in rules.phrases:
        ids, dictionary, line_ends = join_pairs(ids, dictionary, line_ends, pairs)
    counts = np.bincount(ids, minlength=len(dictionary))
    return Block(dictionary, counts, ids.astype(np.int32, copy=False), line_ends)


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


# --- blocks in files, and processes that make and read them ---


class EncodedBlocks:
    """Blocks in files of a folder, read several times: to count, and to map to the vocabulary's ids.

    Args:
        folder: Where the files are.
        number: How many there are.
    """

    def __init__(self, folder: Path, number: int):
        self.folder, self._number = folder, number

    def __len__(self) -> int:
        return self._number

    def __getitem__(self, number: int) -> Block:
        with pa.memory_map(str(_block_file(self.folder, number))) as file:
            batch = pa.ipc.open_file(file).get_batch(0)
        words, counts, ids, line_ends = (column.values for column in batch.columns)
        return Block(words, counts.to_numpy(), ids.to_numpy(), line_ends.to_numpy())

    def __iter__(self) -> Iterator[Block]:
        return map(self.__getitem__, range(len(self)))

    def dictionaries(self) -> Iterator[pa.RecordBatch]:
        """Each block's dictionary: columns `word` and `count`."""
        for block in self:
            yield pa.record_batch([block.words, pa.array(block.counts, pa.int64())], names=["word", "count"])


def _block_file(folder: Path, number: int) -> Path:
    return folder / f"{number:07}.arrow"


def _write_block(folder: Path, number: int, block: Block) -> None:
    """Write a block as one row of lists."""
    columns = {
        "words": block.words,
        "counts": pa.array(block.counts, pa.int64()),
        "ids": pa.array(block.ids, pa.int32()),
        "line_ends": pa.array(block.line_ends, pa.int64()),
    }
    rows = [pa.ListArray.from_arrays(pa.array([0, len(values)], pa.int32()), values) for values in columns.values()]
    batch = pa.record_batch(rows, names=list(columns))
    with atomic_write(_block_file(folder, number)) as temporary, pa.OSFile(str(temporary), "wb") as file:
        with pa.ipc.new_file(file, batch.schema) as writer:
            writer.write_batch(batch)


def encode_blocks(blocks: Iterator[bytes], rules: TextRules, folder: Path, num_workers: int) -> EncodedBlocks:
    """Encode all blocks, several at once; those that a killed run wrote to the folder are not encoded again.

    Raises:
        InputError: A block is not text.
        WorkerKilledError: A process was killed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    finished = folder / "number_of_blocks.json"
    if not finished.is_file():
        number = 0

        def missing() -> Iterator[tuple[int, bytes]]:
            nonlocal number
            for block in blocks:
                if not _block_file(folder, number).is_file():
                    yield number, block
                number += 1

        def encode(number: int, block: bytes) -> None:
            _write_block(folder, number, _encode_block(block, rules))

        for _ in in_parallel(encode, missing(), num_workers):
            pass
        with atomic_write(finished) as temporary:
            temporary.write_text(json.dumps(number))
    return EncodedBlocks(folder, json.loads(finished.read_text()))


def in_parallel(function: Callable[..., Any], tasks: Iterable[tuple[Any, ...]], num_workers: int) -> Iterator[Any]:
    """Yield function(*task) of all tasks in their order, from processes.

    Where processes cannot be forked safely (other systems than Linux) they are threads.

    Raises:
        WorkerKilledError: A process was killed.
    """
    tasks = iter(tasks)
    first = list(islice(tasks, 2))
    tasks = chain(first, tasks)
    if num_workers == 1 or len(first) < 2:
        yield from starmap(function, tasks)
        return
    waiting: deque[Future[Any]] = deque()
    pool: Executor
    if sys.platform == "linux":
        pool = ProcessPoolExecutor(
            num_workers, multiprocessing.get_context("fork"), initializer=_begin_work, initargs=(function, os.getpid())
        )
        function = _work
    else:
        pool = ThreadPoolExecutor(num_workers)
    with pool:
        try:
            for task in tasks:
                waiting.append(pool.submit(function, *task))
                if len(waiting) > num_workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool:
            raise WorkerKilledError(
                "a process that encodes text was killed, perhaps for want of memory: run again to go on, with fewer "
                "at once (num_threads)"
            ) from None
        finally:
            for future in waiting:
                future.cancel()


_function: Callable[..., Any]  # of a forked process: inherited, not sent with every task


def _begin_work(function: Callable[..., Any], parent: int) -> None:
    global _function
    _function = function
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its processes
    pa.set_memory_pool(pa.system_memory_pool())  # of which the allocator knows
    keep_freed_memory()
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _work(*task: Any) -> Any:
    return _function(*task)


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
    """64 bits of MurmurHash3 of each word, uint64 of shape (words,)."""
    hashes = np.empty(len(words), np.uint64)
    for start in range(0, len(words), _HASHED_AT_ONCE):
        chunk = pa.concat_arrays([words.slice(start, _HASHED_AT_ONCE)])
        borders = np.frombuffer(chunk.buffers()[1], np.int32)[chunk.offset : chunk.offset + len(chunk) + 1]
        text = np.frombuffer(chunk.buffers()[2] or b"", np.uint8)[borders[0] : borders[-1]]
        begins = (borders[:-1] - borders[0]).astype(np.int64)
        found = murmur3(text, begins, np.diff(borders).astype(np.int64))
        hashes[start : start + len(chunk)] = found[:, 0].astype(np.uint64) << np.uint64(32) | found[:, 1]
    return hashes


class WordRows:
    """Finds the rows of words: a table of hashes, made once for all blocks.

    Args:
        words: The words, all different; word `i` has row `i`.
    """

    def __init__(self, words: pa.StringArray):
        self.words = words
        hashes = _hash_words(words)
        self._rows = np.argsort(hashes).astype(np.int32)
        self._hashes = hashes[self._rows]
        # of two words with one hash, about once in a million vocabularies of five million words, both are looked up
        self._unclear = set(self._hashes[1:][self._hashes[1:] == self._hashes[:-1]].tolist())

    def find(self, words: pa.StringArray) -> np.ndarray:
        """Rows of words, int32 of shape (words,), -1 for unknown ones."""
        if not len(self._rows) or not len(words):
            return np.full(len(words), -1, np.int32)
        hashes = _hash_words(words)
        rows = self._rows[np.minimum(np.searchsorted(self._hashes, hashes), len(self._rows) - 1)]
        same = pc.equal(self.words.take(pa.array(rows)), words).to_numpy(zero_copy_only=False)
        rows = np.where(same, rows, np.int32(-1))
        if self._unclear:
            at = np.flatnonzero(np.isin(hashes, list(self._unclear)))
            rows[at] = pc.index_in(words.take(pa.array(at)), self.words).fill_null(-1).to_numpy()
        return rows


def write_ids(encoded: EncodedBlocks, words: list[str], sentence_length: int, folder: Path, num_workers: int) -> int:
    """Write ids.npy and sentence_ends.npy to a folder; a killed run goes on where progress was noted last.

    Returns:
        The number of words before any was dropped.
    """
    rows = WordRows(pa.array(words, type=pa.string()))
    folder.mkdir(parents=True, exist_ok=True)
    note = folder / "progress.json"
    done = _Progress(**json.loads(note.read_text())) if note.is_file() else _Progress()
    first = done.blocks

    def tasks() -> Iterator[tuple[int, int, int]]:
        """Each block's number, first raw word and that of the line that goes on in it."""
        begin = line_begin = 0
        for number, block in enumerate(encoded):
            if number >= first:
                yield number, begin, line_begin
            if len(block.line_ends):
                line_begin = begin + int(block.line_ends[-1])
            begin += len(block.ids)

    def encode(number: int, begin: int, line_begin: int) -> tuple[np.ndarray, np.ndarray, int]:
        """Ids of the known words of a block, where sentences end among them, and the number of all words."""
        block = encoded[number]
        ids = rows.find(block.words)[block.ids]
        known = ids >= 0
        cut = max(begin - line_begin - 1, 0) // sentence_length * sentence_length  # of the line, in earlier blocks
        cuts = _cut_sentences(line_begin + cut, block.line_ends + begin, begin + len(ids), sentence_length)
        return ids[known], np.searchsorted(np.flatnonzero(known), cuts - begin), len(ids)

    with _open_array(folder / "ids.npy") as ids_file, _open_array(folder / "sentence_ends.npy") as ends_file:
        for file, dtype, number in ((ids_file, np.int32, done.kept), (ends_file, np.int64, done.sentences)):
            file.seek(_HEADER_BYTES + number * np.dtype(dtype).itemsize)
            file.truncate()
        for ids, ends, raw in in_parallel(encode, tasks(), num_workers):
            ends += done.kept
            ends = ends[np.diff(ends, prepend=done.last_end) > 0]  # drop sentences without a known word
            ids_file.write(ids.tobytes())
            ends_file.write(ends.tobytes())
            done = _Progress(
                done.blocks + 1, done.raw + raw, done.kept + len(ids), done.sentences + len(ends),
                int(ends[-1]) if len(ends) else done.last_end,
            )  # fmt: skip
            if done.blocks % _NOTED == 0:
                ids_file.flush()
                ends_file.flush()
                with atomic_write(note) as temporary:
                    temporary.write_text(json.dumps(done.__dict__))
        unfinished = done.kept > done.last_end
        if unfinished:
            ends_file.write(np.array([done.kept], dtype=np.int64).tobytes())
        lengths = ((ids_file, np.int32, done.kept), (ends_file, np.int64, done.sentences + unfinished))
        for file, dtype, length in lengths:
            file.seek(0)
            _write_header(file, dtype, length)
    note.unlink(missing_ok=True)
    return done.raw


@dataclass(frozen=True)
class _Progress:
    """What is written of the ids: blocks, raw words of them, known words, sentences, and the end of the last one."""

    blocks: int = 0
    raw: int = 0
    kept: int = 0
    sentences: int = 0
    last_end: int = 0


def _open_array(path: Path) -> BinaryIO:
    path.touch()
    return path.open("r+b")


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
