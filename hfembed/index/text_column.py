"""A column of texts that may be read from a file: memory-mapped Arrow, searched without a Python object per text."""

from collections.abc import Container, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_CHUNK = 65_536
_SCANS = 8  # of a file, before it is worth hashing every text
_POOL = pa.system_memory_pool()  # Arrow's own keeps what joined chunks have given back


class TextColumn:
    """Texts in the order in which they were added; some may be missing.

    Args:
        texts: What there is already, of the type `large_string`.
    """

    def __init__(self, texts: pa.ChunkedArray | None = None) -> None:
        self._chunks: list[pa.Array] = [] if texts is None else texts.chunks
        self._pending: list[str | None] = []  # not yet a chunk
        self._hashes: np.ndarray | None = None  # (n,) int64, ascending, of the first n texts ...
        self._order = np.empty(0, dtype=np.int64)  # ... and where each is
        self._recent: dict[str, int] = {}  # the others'
        self._scans = 0

    def __len__(self) -> int:
        return sum(map(len, self._chunks)) + len(self._pending)

    def append(self, texts: Sequence[str | None]) -> None:
        """Add texts."""
        self._pending += texts
        if len(self._pending) >= _CHUNK:
            self._flush()

    def arrow(self) -> pa.ChunkedArray:
        """All of them, without a copy of what is Arrow's already."""
        self._flush()
        return pa.chunked_array(self._chunks, pa.large_string())

    def take(self, rows: np.ndarray) -> list[str | None]:
        """Those at some places."""
        return self.arrow().take(pa.array(rows.ravel())).to_pylist()

    def keep(self, kept: np.ndarray) -> None:
        """Forget those where (n,) bool is False."""
        self._chunks = self.arrow().filter(pa.array(kept)).chunks
        self._hashes, self._recent = None, {}

    def find(self, text: str) -> int | None:
        """The place where a text was last added by `number`, or first stands; None where there is none."""
        if (place := self._recent.get(text)) is not None:
            return place
        if self._hashes is None:
            if self._scans < _SCANS:
                self._scans += 1
                return None if (place := pc.index(self.arrow(), _scalar(text)).as_py()) < 0 else place
            self._hash()
        assert self._hashes is not None
        first, last = (int(np.searchsorted(self._hashes, hash(text), side)) for side in ("left", "right"))
        places = self._order[first:last]
        # the latest of equal texts, since one that was added anew stands for the one before
        found = [place for place, equal in zip(places.tolist(), self.take(places), strict=True) if equal == text]
        return max(found, default=None)

    def number(self, texts: Sequence[str], gone: Container[int] = ()) -> np.ndarray:
        """The place of each text (n,) int32, added where it is new.

        Args:
            gone: Places that count as missing.
        """
        if self._hashes is None:
            self._hash()
        known = self._hashed(texts)
        places = np.empty(len(texts), dtype=np.int32)
        count = len(self)
        added: list[str] = []
        for row, text in enumerate(texts):
            place = self._recent.get(text, known[row])
            if place is None or place in gone:
                place = count + len(added)
                added.append(text)
                self._recent[text] = place
            places[row] = place
        self.append(added)
        if len(self._recent) > max(_CHUNK, len(self) // 8):
            self._hash()
        return places

    def _hashed(self, texts: Sequence[str]) -> list[int | None]:
        """The place of each text among those that are hashed."""
        assert self._hashes is not None
        if not len(self._hashes):
            return [None] * len(texts)
        hashes = np.fromiter(map(hash, texts), np.int64, len(texts))
        last = np.searchsorted(self._hashes, hashes, "right") - 1
        rows = np.flatnonzero(self._hashes[last] == hashes)
        places: list[int | None] = [None] * len(texts)
        candidates = self._order[last[rows]]
        for row, place, text in zip(rows.tolist(), candidates.tolist(), self.take(candidates), strict=True):
            places[row] = place if text == texts[row] else self.find(texts[row])
        return places

    def _hash(self) -> None:
        hashes = np.empty(len(self), dtype=np.int64)
        start = 0
        for texts in self._batches():
            hashes[start : start + len(texts)] = np.fromiter(map(hash, texts), np.int64, len(texts))
            start += len(texts)
        self._order = np.argsort(hashes, kind="stable")
        self._hashes = hashes[self._order]
        self._recent = {}

    def _batches(self) -> Iterator[list[str]]:
        for chunk in self.arrow().chunks:
            for start in range(0, len(chunk), _CHUNK):
                yield chunk.slice(start, _CHUNK).to_pylist()

    def _flush(self) -> None:
        if self._pending:
            self._chunks.append(pa.array(self._pending, pa.large_string(), memory_pool=_POOL))
            self._pending = []
        # few chunks: taking from thousands of them is slow; each is copied a few times only
        while len(self._chunks) > 1 and len(self._chunks[-2]) <= min(2 * len(self._chunks[-1]), _CHUNK):
            last = self._chunks.pop()
            self._chunks[-1] = pa.concat_arrays([self._chunks[-1], last], memory_pool=_POOL)


def _scalar(text: str) -> pa.Scalar:
    """`pa.scalar(text, pa.large_string())` without the import of pandas that it begins with, a quarter of a second."""
    encoded = text.encode()
    offsets = np.array([0, len(encoded)], dtype=np.int64)
    return pa.Array.from_buffers(pa.large_string(), 1, [None, pa.py_buffer(offsets), pa.py_buffer(encoded)])[0]


def write_texts(texts: pa.ChunkedArray, path: str | Path) -> None:
    """Write a column as an Arrow file, for `read_texts`."""
    schema = pa.schema({"text": pa.large_string()})
    with pa.ipc.new_file(str(path), schema) as file:
        file.write_table(pa.table({"text": texts}, schema=schema), max_chunksize=1 << 20)


def read_texts(path: str | Path) -> pa.ChunkedArray:
    """Map a column into memory.

    Raises:
        pa.ArrowException: It is no such file, or damaged.
    """
    table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    table.validate(full=True)  # offsets and UTF-8: what lies in the file is read as it is
    if table.schema != pa.schema({"text": pa.large_string()}):
        raise pa.ArrowInvalid(f"{Path(path).name} has other columns than the text")
    return table["text"]
