"""Webdataset shards by an index of offsets: plain tars whose consecutive files of one key are a sample.

A sample is a photo (`jpg`, `png` ...), and who it is of: `cls` (a number, as timm's sets of faces have it), or `json`
({"identity" or another column for people, "file", "landmarks"}), or its key ("Ann_Lee/Ann_Lee_0001").
"""

import itertools
import json
import math
import re
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hfembed.errors import InputError
from hfembed.faces.data.landmarks import five_points
from hfembed.models.image_opening import MAX_FILE_BYTES
from hfembed.photos import PHOTO_SUFFIXES, utf8_name

_HEADER = 512
_BLOCK = 16 << 20
_MAX_FIELD_BYTES = 1 << 20
MAX_SHARDS = 100_000
IMAGE_FIELDS = frozenset(suffix[1:] for suffix in PHOTO_SUFFIXES)
_FILES = frozenset(b"0\0")


class TarPhotos(NamedTuple):
    """The photos of a tar, in its order.

    Attributes:
        keys: (N,) strings, what precedes the first dot of each file's name.
        starts: (N,) int64, where each encoded photo begins.
        sizes: (N,) int64.
        fields: `cls` and `json` of each as they are stored, (N,) binary, null where a sample has none.
    """

    keys: pa.Array
    starts: np.ndarray
    sizes: np.ndarray
    fields: dict[str, pa.Array]


def expand_braces(pattern: str) -> list[str]:
    """Write out "part{0..3}.tar" and "{a,b}.tar", as shells and webdataset do; zeros in front are kept.

    Raises:
        InputError: They stand for more than 100,000 names.
    """
    choices: list[list[str]] = []
    for place, piece in enumerate(re.split(r"\{([^{}]*)\}", pattern)):
        numbers = re.fullmatch(r"(\d+)\.\.(\d+)", piece)
        if not place % 2:
            choices.append([piece])
        elif numbers:
            first, last = int(numbers[1]), int(numbers[2])
            width = len(numbers[1]) if numbers[1].startswith("0") else 0
            if abs(last - first) >= MAX_SHARDS:
                raise InputError(f'"{pattern}" stands for more than {MAX_SHARDS:,} files')
            step = 1 if first <= last else -1
            choices.append([f"{number:0{width}d}" for number in range(first, last + step, step)])
        elif "," in piece:
            choices.append(piece.split(","))
        else:
            choices.append(["{" + piece + "}"])
    if math.prod(map(len, choices)) > MAX_SHARDS:
        raise InputError(f'"{pattern}" stands for more than {MAX_SHARDS:,} files')
    return ["".join(parts) for parts in itertools.product(*choices)]


def read_tar(path: str | Path) -> TarPhotos:
    """Find the photos of a tar; read once, in blocks, with every header's checksum compared.

    Raises:
        InputError: It is damaged, cut short or compressed, or holds a file that is too large: one line with the
            offset.
    """
    path = Path(path)
    with path.open("rb", buffering=0) as file:
        names, starts, sizes = _members(file, path)
        parts = pc.extract_regex(names, r"(?s)^(?P<key>(?:.*/)?[^./][^./]*)\.(?P<field>[^/]*)$")
        keys, field = parts.field("key"), pc.utf8_lower(parts.field("field"))
        if not len(names):
            raise InputError(f"{path} holds no files")
        # consecutive files of one key are a sample; what has no suffix, and hidden files, belong to none
        sample = np.concatenate([[0], np.cumsum(~_mask(pc.equal(keys.slice(1), keys.slice(0, len(keys) - 1))))])
        is_image = _mask(pc.is_in(field, pa.array(sorted(IMAGE_FIELDS))))
        rows = np.flatnonzero(is_image & (sizes > 0))
        rows = rows[np.unique(sample[rows], return_index=True)[1]]
        if len(rows) and sizes[rows].max() > MAX_FILE_BYTES:
            row = rows[sizes[rows].argmax()]
            raise InputError(f"{path}: {names[row]} has {sizes[row]:,} bytes, more than {MAX_FILE_BYTES:,}")
        fields = {
            name: _values(file, path, name, pc.equal(field, name), sample, sample[rows], starts, sizes)
            for name in ("cls", "json")
        }
    return TarPhotos(keys.take(pa.array(rows)), starts[rows], sizes[rows], fields)


def _mask(values: pa.Array) -> np.ndarray:
    return pc.fill_null(values, False).to_numpy(zero_copy_only=False)


def _values(
    file: IO[bytes],
    path: Path,
    name: str,
    has_name: pa.Array,
    sample: np.ndarray,
    wanted: np.ndarray,
    starts: np.ndarray,
    sizes: np.ndarray,
) -> pa.Array:
    """(len(wanted),) binary: the content of each sample's file of this name, null where there is none."""
    rows = np.flatnonzero(_mask(has_name))
    if len(rows) and sizes[rows].max() > _MAX_FIELD_BYTES:
        row = rows[sizes[rows].argmax()]
        raise InputError(f"{path}: the .{name} at byte {starts[row]:,} has {sizes[row]:,} bytes")
    values = []
    block, begin = b"", 0
    for start, size in zip(starts[rows].tolist(), sizes[rows].tolist(), strict=True):
        if start + size > begin + len(block):
            file.seek(start)
            block, begin = _read(file, 1 << 20), start
        values.append(block[start - begin : start - begin + size])
    found = pa.array(values, pa.binary())
    place = np.full(int(sample[-1]) + 1, -1)
    place[sample[rows]] = np.arange(len(rows))
    chosen = place[wanted]
    return found.take(pa.array(chosen, mask=chosen < 0))


def _read(file: IO[bytes], size: int) -> bytes:
    blocks = []
    while size and (block := file.read(size)):
        blocks.append(block)
        size -= len(block)
    return b"".join(blocks)


def _members(file: IO[bytes], path: Path) -> tuple[pa.Array, np.ndarray, np.ndarray]:
    """Name, start and size of every regular file; long names by GNU and pax headers."""
    end = path.stat().st_size
    names: list[pa.Array] = []
    all_starts: list[np.ndarray] = []
    all_sizes: list[np.ndarray] = []
    long_name, position, ended = None, 0, False
    while position < end and not ended:
        begin = position
        file.seek(begin)
        block = _read(file, _BLOCK)
        headers, found, starts, sizes = array("q"), [], array("q"), array("q")
        while position + _HEADER <= begin + len(block):
            place = position - begin
            if not block[place]:
                ended = not block[place : place + _HEADER].strip(b"\0")
                if ended:
                    break
            try:
                size = int(block[place + 124 : place + 136].rstrip(b" \0") or b"0", 8)
            except ValueError:
                raise _damage(path, position, "no tar header (a compressed tar is read as it is: .tar.gz)") from None
            kind = block[place + 156]
            following = position + _HEADER + size + -size % _HEADER
            if following > end:
                raise InputError(
                    f"{path} is cut short: the file at byte {position:,} goes to byte {following:,}, and the tar ends "
                    f"at {end:,}; copy it again"
                )
            headers.append(place)
            if kind in _FILES:
                name = long_name
                if name is None:
                    name = block[place : place + 100].rstrip(b"\0")
                    if block[place + 345] and block[place + 257 : place + 262] == b"ustar":
                        name = block[place + 345 : place + 500].rstrip(b"\0") + b"/" + name
                found.append(name)
                starts.append(position + _HEADER)
                sizes.append(size)
                long_name = None
            elif kind in b"Lx":
                if size > _MAX_FIELD_BYTES:
                    raise _damage(path, position, f"an extended header of {size:,} bytes")
                file.seek(position + _HEADER)
                content = _read(file, size)
                long_name = content.rstrip(b"\0") if kind == ord("L") else _pax_path(content, path, position)
            elif kind != ord("g"):  # folders, links and special files
                long_name = None
            position = following
        if not headers and not ended:
            raise _damage(path, position, "a header that is cut short")
        _check_sums(block, np.frombuffer(headers, np.int64), begin, path)
        names.append(_as_text(found))
        all_starts.append(np.frombuffer(starts, np.int64))
        all_sizes.append(np.frombuffer(sizes, np.int64))
    if not ended and position < end:
        raise _damage(path, position, "a header that is cut short")
    return pa.concat_arrays(names), np.concatenate(all_starts), np.concatenate(all_sizes)


def _as_text(names: list[bytes]) -> pa.Array:
    try:
        return pa.array(names, pa.binary()).cast(pa.string())
    except pa.ArrowInvalid:  # not UTF-8
        return pa.array([utf8_name(name.decode("utf-8", "surrogateescape")) for name in names], pa.string())


def _check_sums(block: bytes, places: np.ndarray, begin: int, path: Path) -> None:
    if not len(places):
        return
    headers = np.frombuffer(block, np.uint8)[places[:, None] + np.arange(_HEADER)]
    sums = headers.sum(axis=1, dtype=np.int64) - headers[:, 148:156].sum(axis=1, dtype=np.int64) + 8 * ord(" ")
    digits = headers[:, 148:154].astype(np.int64) - ord("0")
    stored = np.zeros(len(places), np.int64)
    for column in digits.T:  # octal digits, with blanks or zeros in front
        stored = np.where((column >= 0) & (column < 8), 8 * stored + column, stored)
    wrong = np.flatnonzero(sums != stored)
    if len(wrong):
        raise _damage(path, begin + int(places[wrong[0]]), "a damaged header, its checksum is wrong")


def _pax_path(content: bytes, path: Path, position: int) -> bytes | None:
    """The name in a pax header, a line "LENGTH path=NAME" among others; sizes, for files above 8 GiB, are refused."""
    name = None
    while content:
        found = re.match(rb"(\d{1,8}) ([^=]+)=", content)
        length = int(found[1]) if found else 0
        if found is None or not found.end() < length <= len(content):
            raise _damage(path, position, "a pax header that cannot be understood")
        value = content[found.end() : length - 1]
        if found[2] == b"path":
            name = value
        elif found[2] == b"size":
            raise _damage(path, position, f"a file of {value[:20].decode(errors='replace')} bytes")
        content = content[length:]
    return name


def _damage(path: Path, position: int, what: str) -> InputError:
    return InputError(f"{path} is damaged at byte {position:,}: {what}; copy it again")


def read_fields(photos: TarPhotos, path: str | Path, people: Sequence[str]) -> dict[str, list[Any] | None]:
    """What the `json` of each photo says, "identity", "file", "landmarks", as columns; None where none says it.

    Args:
        people: Keys that name people, the first that is there counts.

    Raises:
        InputError: A .json is not a JSON object, or what it says is of another kind.
    """
    columns: dict[str, list[Any] | None] = {"identity": None, "file": None, "landmarks": None}
    for row, content in enumerate(photos.fields["json"]):
        if not content.is_valid:
            continue
        try:
            said = json.loads(content.as_py())
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}: the .json of {photos.keys[row]} cannot be read: {error}") from error
        if not isinstance(said, dict):
            raise InputError(f"{path}: the .json of {photos.keys[row]} is not a JSON object")
        person = next((said[name] for name in people if name in said), None)
        file, landmarks = said.get("file"), said.get("landmarks")
        if landmarks is not None:
            complaint = f"{path}: the .json of {photos.keys[row]} has no five finite [x, y] landmarks"
            landmarks = five_points(landmarks, complaint).tolist()
        for name, value, kind in (
            ("identity", person, (str, int)),
            ("file", file, str),
            ("landmarks", landmarks, list),
        ):
            if value is None:
                continue
            if not isinstance(value, kind) or isinstance(value, bool):
                raise InputError(f"{path}: the .json of {photos.keys[row]} has {name} {str(value)[:50]!r}")
            column = columns[name]
            if column is None:
                column = columns[name] = [None] * len(photos.keys)
            column[row] = str(value) if name == "identity" else value
    return columns
