"""Photos inside larger files, as columns of Arrow over the memory-mapped files: nothing is copied or unpacked."""

import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import datasets
import numpy as np
import pyarrow as pa
from datasets.table import InMemoryTable

from hfembed.errors import InputError

_CHUNK_BYTES = 1 << 30  # Arrow counts the bytes of a chunk of `binary` in 31 bits
IMAGE_TYPE = datasets.Image().pa_type


class Locations(NamedTuple):
    """Where encoded photos lie.

    Attributes:
        paths: The files.
        file: (N,) int32, which of them.
        start: (N,) int64, byte in it.
        size: (N,) int64.
    """

    paths: list[str]
    file: np.ndarray
    start: np.ndarray
    size: np.ndarray


class _Map(NamedTuple):
    path: str
    buffer: pa.Buffer


_maps: dict[int, _Map] = {}


def map_file(path: str | Path) -> pa.Buffer:
    """A file as a buffer; what lies in it is found again by `locate`.

    Raises:
        InputError: The file is missing or empty.
    """
    try:
        found = Path(path).stat()
        if not found.st_size:
            raise InputError(f"{path} is empty")
        return _mapped(str(Path(path).resolve()), found.st_size, found.st_mtime_ns)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error


@functools.cache
def _mapped(path: str, size: int, modified: int) -> pa.Buffer:
    """`size` and `modified` tell a changed file from what it was."""
    with pa.memory_map(path) as file:
        buffer = file.read_buffer()
    _maps[buffer.address] = _Map(path, buffer)
    return buffer


def image_chunks(data: pa.Buffer, starts: np.ndarray, sizes: np.ndarray) -> tuple[list[pa.Array], np.ndarray]:
    """Chunks of an image column over a mapped file, without a copy.

    Arrow's binary arrays have no gaps, and between photos lie headers: every other row of the chunks is such a gap.

    Args:
        starts: (N,) int64, rising; photos must not overlap.
        sizes: (N,) int64.

    Returns:
        The chunks, of `IMAGE_TYPE`, and (N,) int64, the row of each photo among theirs.
    """
    chunks, rows, done, row = [], [], 0, 0
    while done < len(starts):
        base = int(starts[done])
        end = int(np.searchsorted(starts + sizes, base + _CHUNK_BYTES, side="right"))
        part = slice(done, max(end, done + 1))
        edges = np.stack([starts[part], starts[part] + sizes[part]], axis=1).reshape(-1) - base
        count = len(edges) - 1
        offsets = pa.py_buffer(edges.astype(np.int32))
        encoded = pa.BinaryArray.from_buffers(pa.binary(), count, [None, offsets, data.slice(base, int(edges[-1]))])
        chunks.append(_images(encoded))
        rows.append(row + np.arange(0, count, 2))
        row += count
        done = part.stop
    return chunks, np.concatenate(rows) if rows else np.empty(0, np.int64)


def copied_images(encoded: Sequence[bytes]) -> pa.Array:
    """A chunk with photos that lie in no file as one piece."""
    return _images(pa.array(encoded, pa.binary()))


def _images(encoded: pa.Array) -> pa.Array:
    return pa.StructArray.from_arrays([encoded, pa.nulls(len(encoded), pa.string())], ["bytes", "path"])


def dataset_of(columns: dict[str, pa.ChunkedArray], features: datasets.Features, fingerprint: str) -> datasets.Dataset:
    """A data set over Arrow columns, which are not copied."""
    table = pa.table(columns, schema=features.arrow_schema)
    return datasets.Dataset(
        InMemoryTable(table), info=datasets.DatasetInfo(features=features), fingerprint=fingerprint
    )


def whole_column(dataset: datasets.Dataset, name: str) -> pa.ChunkedArray:
    """A column in the order of the data set; `dataset[name][:]` would make Python objects of it, row by row."""
    column = dataset.data.column(name)
    rows = physical_rows(dataset)
    return column if rows is None else column.take(pa.array(rows))


def physical_rows(dataset: datasets.Dataset) -> np.ndarray | None:
    """(N,) int64, the rows of the data set's table that it consists of; None if all of them, in order."""
    indices = dataset._indices
    return None if indices is None else indices.column(0).to_numpy().astype(np.int64)


def locate(dataset: datasets.Dataset, column: str = "image") -> Locations | None:
    """Where the encoded photos of a data set lie in files that `map_file` has mapped; None if not all do."""
    paths: list[str] = []
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for chunk in dataset.data.column(column).chunks:
        encoded = chunk.field("bytes")
        _, offsets, data = encoded.buffers()
        found = None if data is None or encoded.null_count else _map_of(data)
        if found is None:
            return None
        edges = np.frombuffer(offsets, np.int32)[encoded.offset : encoded.offset + len(encoded) + 1].astype(np.int64)
        if found.path not in paths:
            paths.append(found.path)
        parts.append(
            (
                np.full(len(encoded), paths.index(found.path), np.int32),
                edges[:-1] + (data.address - found.buffer.address),
                np.diff(edges),
            )
        )
    file, start, size = (np.concatenate(column) for column in zip(*parts, strict=True))
    rows = physical_rows(dataset)
    return (
        Locations(paths, file, start, size) if rows is None else Locations(paths, file[rows], start[rows], size[rows])
    )


def _map_of(data: pa.Buffer) -> _Map | None:
    for address, found in _maps.items():
        if address <= data.address and data.address + data.size <= address + found.buffer.size:
            return found
    return None


class PackedPhotos:
    """Row -> the undecoded photo of a data set whose photos all lie in mapped files, with its landmarks.

    Each process reads from files that it opens itself; what is pickled are offsets.
    """

    def __init__(self, locations: Locations, landmarks: pa.ChunkedArray | None, rows: np.ndarray | None) -> None:
        self.locations = locations
        self.landmarks = landmarks
        self.rows = rows
        self._opened: dict[tuple[int, int], IO[bytes]] = {}

    @classmethod
    def of(cls, dataset: datasets.Dataset) -> "PackedPhotos | None":
        """None where a photo lies elsewhere."""
        locations = locate(dataset)
        if locations is None:
            return None
        landmarks = dataset.data.column("landmarks") if "landmarks" in dataset.column_names else None
        return cls(locations, landmarks, physical_rows(dataset))

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": {}}

    def __len__(self) -> int:
        return len(self.locations.start)

    def __getitem__(self, row: int) -> dict[str, Any]:
        """`{"image": {"bytes", "path"}, "landmarks"}`, as a row of the data set has it."""
        number, start, size = (int(part[row]) for part in self.locations[1:])
        key = os.getpid(), number  # a forked process shares the position of its parent's files
        file = self._opened.get(key)
        if file is None:
            file = self._opened[key] = open(self.locations.paths[number], "rb", buffering=0)
        file.seek(start)
        image = {"bytes": file.read(size), "path": None}
        if self.landmarks is None:
            return {"image": image}
        place = row if self.rows is None else int(self.rows[row])
        return {"image": image, "landmarks": self.landmarks[place].as_py()}


class FileNames(Sequence[str]):
    """A column of strings as a sequence; no string exists before it is asked for."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        self.column = column

    def __len__(self) -> int:
        return len(self.column)

    def __getitem__(self, index: Any) -> Any:
        found = self.column[index]
        return found.to_pylist() if isinstance(index, slice) else found.as_py()
