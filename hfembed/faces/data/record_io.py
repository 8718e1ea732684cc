"""MXNet's RecordIO (`train.rec`, as insightface trains from), read without mxnet and without unpacking.

A record is one part or, where its data holds the magic number at a multiple of four, several; a part is the magic
number, a word of three bits (0 whole, 1 first, 2 middle, 3 last) and 29 bits of length, the data, and zeros up to a
multiple of four (dmlc-core, `recordio.h`). A packed image begins with a header of 24 bytes: flag uint32, label
float32, id and id2 uint64; where the flag is above 0, that many float32 labels follow and replace the one in the
header (MXNet, `recordio.py`).
"""

import logging
from array import array
from dataclasses import dataclass
from pathlib import Path
from struct import Struct, unpack_from
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv

from hfembed.errors import InputError, first_line
from hfembed.faces.data.mapped_files import map_file
from hfembed.models.image_opening import MAX_FILE_BYTES

logger = logging.getLogger(__name__)

MAGIC = 0xCED7230A
_MAGIC_BYTES = MAGIC.to_bytes(4, "little")
_PART_HEADER = 8
IMAGE_HEADER = 24
_BLOCK = 16 << 20
_FIELDS_END = IMAGE_HEADER + 8  # of an image's header and two labels behind it
_LOOK_AHEAD = _PART_HEADER + _FIELDS_END
LABEL_END = _PART_HEADER + IMAGE_HEADER + 4  # bytes of a record in one part up to the end of its first label
# bytes of a line of the .idx: two numbers of up to 19 digits
_INDEX_LINE = 48
_LIST_LINE = 4096  # of a .lst: two numbers, perhaps more labels, and a path
_EXACT_FLOAT32 = 2**24


class RecordIO:
    """The records of a `.rec` file, by number in the order of the file, or one after the other.

    Opening reads the file once, in blocks, so that every byte of it is accounted for; records themselves are read
    from the memory-mapped file when they are asked for.

    Attributes:
        data: The mapped file.
        starts: (N,) int64, where each record's data begins; of one in several parts, the first part's.
        sizes: (N,) int64, bytes of its data, over all its parts.
        num_parts: (N,) int64.

    Raises:
        InputError: The file is missing, empty, cut short or damaged: one line with the offset.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.data = map_file(self.path)
        parts = _scan(self.path, len(self.data))
        kind = parts.words >> 29
        begins = (kind == 0) | (kind == 1)
        # a first part, middle parts, a last one: whatever else follows a part is damage
        before = np.concatenate([[3], kind[:-1]])
        wrong = np.flatnonzero((kind > 3) | (begins != ((before == 0) | (before == 3))))
        if len(wrong):
            at = parts.starts[wrong[0]] - _PART_HEADER
            raise self._damage(at, f"a part of kind {kind[wrong[0]]} after one of kind {before[wrong[0]]}")
        if kind[-1] in (1, 2):
            raise self._damage(parts.starts[-1] - _PART_HEADER, "a record whose last part is missing")
        self._first = np.append(np.flatnonzero(begins), len(kind))
        self._part_starts, self._part_sizes = parts.starts, (parts.words & 0x1FFFFFFF).astype(np.int64)
        self.starts = self._part_starts[self._first[:-1]]
        self.num_parts = np.diff(self._first)
        self._fields = parts.fields[self._first[:-1]]
        # the magic number between two parts is left out when they are written
        self.sizes = np.add.reduceat(self._part_sizes, self._first[:-1]) + 4 * (self.num_parts - 1)
        if self.sizes.max() > MAX_FILE_BYTES:
            at = self.starts[self.sizes.argmax()] - _PART_HEADER
            raise self._damage(at, f"a record of {self.sizes.max():,} bytes, more than {MAX_FILE_BYTES:,}")

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, number: int) -> bytes:
        """The data of a record, its parts joined."""
        if self.num_parts[number] > 1:
            first, last = self._first[:-1][number], self._first[1:][number]
            parts = zip(self._part_starts[first:last].tolist(), self._part_sizes[first:last].tolist(), strict=True)
            return _MAGIC_BYTES.join(self.data[start : start + size].to_pybytes() for start, size in parts)
        start = int(self.starts[number])
        return self.data[start : start + int(self.sizes[number])].to_pybytes()

    def image_fields(self) -> np.ndarray:
        """(N, 5) float64 of records that are packed images: flag, label, the first two of the labels behind it, id.

        Only those are meaningful that lie inside of the record, see `sizes`.
        """
        fields = self._fields.copy()
        for number in np.flatnonzero(self.num_parts > 1).tolist():  # a field may lie in the second part
            start = self[number][:_FIELDS_END].ljust(_FIELDS_END, b"\0")
            flag, label, image_id = unpack_from("<IfI", start)
            fields[number] = flag, label, *unpack_from("<ff", start, IMAGE_HEADER), image_id
        return fields

    def damage(self, number: int, what: str) -> InputError:
        """The error that says where a record's damage lies."""
        return self._damage(int(self.starts[number]) - _PART_HEADER, what)

    def _damage(self, at: int, what: str) -> InputError:
        return InputError(f"{self.path} is damaged at byte {at:,}: {what}; copy it again")


@dataclass(frozen=True)
class RecordImages:
    """The packed images of a `.rec` file, in its order.

    Attributes:
        records: The file.
        numbers: (N,) int64, which of its records are images.
        keys: (N,) int64, their keys in the .idx; without one, their numbers.
        labels: (N,) int64, the first label of each.
        starts: (N,) int64, where each encoded image begins, of those in one part.
        sizes: (N,) int64, its bytes.
        ranges: (P, 3) int64: key of a person's record, first key and key after the last of their photos; None
            where the file has no such records.
        shape: (height, width) of all images as the file `property` has it, or None.
        files: (N,) strings, their names in the list that was given.
    """

    records: RecordIO
    numbers: np.ndarray
    keys: np.ndarray
    labels: np.ndarray
    starts: np.ndarray
    sizes: np.ndarray
    ranges: np.ndarray | None
    shape: tuple[int, int] | None
    files: pa.Array | None = None

    def __len__(self) -> int:
        return len(self.numbers)

    def encoded(self, row: int) -> bytes:
        """The bytes of an image as they were packed."""
        number, size = int(self.numbers[row]), int(self.sizes[row])
        if self.records.num_parts[number] > 1:
            return self.records[number][-size:]
        return self.records.data[(start := int(self.starts[row])) : start + size].to_pybytes()


def read_record_images(path: str | Path, listed: Path | None = None) -> RecordImages:
    """Find the images of a `.rec` file, and who is in them.

    Beside it lie, where there are such files, `.idx` (keys) and `property` ("people,height,width"). insightface's
    layout is understood: record 0 holds no image but the keys of the first person's record and after the last, and
    those hold the first key and the key after the last of a person's photos.

    Args:
        listed: A list of MXNet's im2rec (`.lst`): its images alone are taken, with its labels and names; an image is
            found by the id in its record.

    Raises:
        InputError: The files are damaged, contradict each other, or a label is not a whole number of 0 or more.
    """
    records = RecordIO(path)
    flags, labels, first_label, second_label, ids = records.image_fields().T
    flags = flags.astype(np.int64)
    sizes = records.sizes - IMAGE_HEADER - 4 * flags
    if (sizes < 0).any():
        row = int(np.flatnonzero(sizes < 0)[0])
        raise records.damage(row, f"a record of {records.sizes[row]} bytes with {flags[row]} labels")
    keys = _read_keys(records)
    labels = np.where(flags > 0, first_label, labels)
    has_image = sizes > 0
    ranges = None
    header = int(keys.argmin())
    if keys[header] == 0 and flags[header] >= 2 and not has_image[header]:
        ranges = _read_ranges(records, keys, has_image, flags, first_label, second_label, header)
    numbers = np.flatnonzero(has_image)
    if not len(numbers):
        raise InputError(f"{records.path} holds {len(records):,} records and no image")
    people, shape = read_property(records.path)
    files = None
    if listed is not None:
        rows, labels_in_list, files = _find_in_list(listed, ids[numbers].astype(np.int64), records)
        numbers = numbers[rows >= 0]
        labels[numbers] = labels_in_list
    found = labels[numbers]
    wrong = ~((found >= 0) & (found < 2**31) & (found == np.floor(found)))
    people = None if listed is not None else people  # the list may have other people
    if people is not None:
        wrong |= ~(found < people)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        expected = "a whole number from 0 to 2^31 - 1" + (f", below {people:,} as property says" if people else "")
        raise InputError(
            f"{listed or records.path}: the record at byte {records.starts[numbers[row]] - _PART_HEADER:,} has label "
            f"{found[row]:g}; expected {expected}"
        )
    return RecordImages(
        records,
        numbers,
        keys[numbers],
        found.astype(np.int64),
        records.starts[numbers] + records.sizes[numbers] - sizes[numbers],
        sizes[numbers],
        ranges,
        shape,
        files,
    )


def _find_in_list(listed: Path, ids: np.ndarray, records: RecordIO) -> tuple[np.ndarray, np.ndarray, pa.Array]:
    """Row in the list of each image, -1 where it has none, and labels and names of those that have one."""
    in_list, labels, names = read_list(listed, len(records))
    order = np.argsort(in_list, kind="stable")
    if len(repeated := np.flatnonzero(np.diff(in_list[order]) == 0)):
        raise InputError(f"{listed} lists {in_list[order][repeated[0]]} twice")
    rows = order[np.minimum(np.searchsorted(in_list[order], ids), len(order) - 1)]
    rows = np.where(in_list[rows] == ids, rows, -1)
    known = rows[rows >= 0]
    if not len(known):
        raise InputError(
            f"{listed} lists none of the {len(ids):,} images of {records.path.name} by the id in its record"
        )
    if len(known) < max(len(ids), len(in_list)):
        logger.warning(
            "%s lists %s images, %s has %s: the %s that both have are taken",
            listed, f"{len(in_list):,}", records.path.name, f"{len(ids):,}", f"{len(known):,}",
        )  # fmt: skip
    return rows, labels[known], names.take(pa.array(known))


class PackedImage(NamedTuple):
    """A packed image: its first label, and the encoded bytes, which a record of a person or of the file has not."""

    label: float
    encoded: bytes


def parse_record(data: bytes) -> PackedImage:
    """Read one record, from its magic number on; what follows it is not looked at.

    Raises:
        ValueError: It is damaged.
    """
    position = 0
    parts: list[bytes] = []
    while True:
        if position + _PART_HEADER > len(data):
            raise ValueError("it is cut short")
        magic, word = unpack_from("<II", data, position)
        kind, size = word >> 29, word & 0x1FFFFFFF
        if magic != MAGIC or kind not in ((0, 1) if not parts else (2, 3)):
            raise ValueError(f"expected RecordIO's magic number and a part of a record, found {magic:#x}, {kind}")
        begin = position + _PART_HEADER
        if begin + size > len(data):
            raise ValueError("it is cut short")
        parts.append(data[begin : begin + size])
        if kind in (0, 3):
            break
        position = begin + size + -size % 4
    content = _MAGIC_BYTES.join(parts)
    if len(content) < IMAGE_HEADER:
        raise ValueError(f"a record of {len(content)} bytes is no packed image")
    flag, label = unpack_from("<If", content)
    begin = IMAGE_HEADER + 4 * flag
    if begin > len(content):
        raise ValueError(f"a record of {len(content)} bytes with {flag} labels")
    return PackedImage(unpack_from("<f", content, IMAGE_HEADER)[0] if flag else label, content[begin:])


def read_label(start: bytes) -> float | None:
    """The first label of a packed image from the first `LABEL_END` bytes of its record.

    Returns:
        The label; None where it cannot be told from these, and `parse_record` has to.
    """
    if len(start) < LABEL_END:
        return None
    magic, word, flag, label = unpack_from("<IIIf", start)
    if magic != MAGIC or word >> 29:
        return None
    return unpack_from("<f", start, _PART_HEADER + IMAGE_HEADER)[0] if flag else label


def find_records(path: Path) -> np.ndarray:
    """(N,) int64: where each record of a `.rec` file begins, found by reading the file once.

    Raises:
        InputError: As `RecordIO`.
    """
    return RecordIO(path).starts - _PART_HEADER


class _Parts(NamedTuple):
    """Every part of a file.

    Attributes:
        starts: (P,) int64, where its data starts.
        words: (P,) uint32, kind and length.
        fields: (P, 5) float64, those of an image's header: flag, label, first and second of the labels behind it, and
            the lower half of its id.
    """

    starts: np.ndarray
    words: np.ndarray
    fields: np.ndarray


def _scan(path: Path, end: int) -> _Parts:
    """Walk through the parts; read in blocks, as pages of a memory map would count as this process's memory."""
    blocks: list[_Parts] = []
    size_of_block = min(_BLOCK, end + -end % 4)
    block = bytearray(size_of_block + _LOOK_AHEAD)
    as_integers, as_floats = np.frombuffer(block, "<u4"), np.frombuffer(block, "<f4")
    read_word = Struct("<I").unpack_from
    position = 0
    with path.open("rb", buffering=0) as file:
        while position < end:
            begin, stop = position, min(position + size_of_block, end)
            file.seek(begin)
            filled = 0
            while filled < len(block) and (count := file.readinto(memoryview(block)[filled:])):
                filled += count
            block[filled:] = bytes(len(block) - filled)
            found = array("q")
            while position < stop:
                found.append(position)
                size = read_word(block, position - begin + 4)[0] & 0x1FFFFFFF
                position += _PART_HEADER + size + -size % 4
            at = np.frombuffer(found, np.int64)
            inside = (at - begin) // 4
            magic = as_integers[inside]
            wrong = np.flatnonzero(magic != MAGIC)
            if len(wrong):
                raise InputError(
                    f"{path} is damaged at byte {at[wrong[0]]:,}: expected RecordIO's magic number, found "
                    f"{magic[wrong[0]]:#x}; copy it again"
                )
            if position > end:
                raise InputError(
                    f"{path} is cut short: the record at byte {at[-1]:,} goes to byte {position:,}, and the file ends "
                    f"at {end:,}; copy it again"
                )
            floats = (as_floats[inside + word] for word in (3, 8, 9))
            columns = [as_integers[inside + 2], *floats, as_integers[inside + 4]]
            fields = np.stack([column.astype(np.float64) for column in columns], axis=1)
            blocks.append(_Parts(at + _PART_HEADER, as_integers[inside + 1], fields))
    return _Parts(*(np.concatenate(column) for column in zip(*blocks, strict=True)))


def read_index(path: Path, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Keys and offsets, (N,) int64 each, of an `.idx` file, in its order.

    Raises:
        InputError: It is no such file, or larger than one of `most` records.
    """
    if path.stat().st_size > _INDEX_LINE * (most + 1):
        raise InputError(f"{path} is larger than an index of the {most:,} records of its file")
    columns = {"key": pa.int64(), "offset": pa.int64()}
    try:
        table = pyarrow.csv.read_csv(
            path,
            read_options=pyarrow.csv.ReadOptions(column_names=list(columns)),
            parse_options=pyarrow.csv.ParseOptions(delimiter="\t"),
            convert_options=pyarrow.csv.ConvertOptions(column_types=columns),
        )
    except pa.ArrowInvalid as error:
        raise InputError(
            f"{path} is not an index of RecordIO, 'key<tab>offset' per line: {first_line(error)}"
        ) from error
    return table["key"].to_numpy(), table["offset"].to_numpy()


def read_list(path: Path, most: int) -> tuple[np.ndarray, np.ndarray, pa.Array]:
    """Ids (N,) int64, first labels (N,) float64, and names (N,) of a list as MXNet's im2rec writes it.

    Raises:
        InputError: It is no such file, or much larger than one of `most` records.
    """
    if path.stat().st_size > _LIST_LINE * (most + 1):
        raise InputError(f"{path} is larger than a list of the {most:,} records of its file")
    try:
        with path.open("rb") as file:
            count = file.readline(_LIST_LINE).count(b"\t") + 1
        names = [f"column {number}" for number in range(count)]
        table = pyarrow.csv.read_csv(
            path,
            read_options=pyarrow.csv.ReadOptions(column_names=names),
            parse_options=pyarrow.csv.ParseOptions(delimiter="\t", quote_char=False),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types={names[0]: pa.int64(), names[1]: pa.float64(), names[-1]: pa.string()},
                null_values=[],
            ),
        )
        if count < 3:
            raise pa.ArrowInvalid(f"{count} columns")
    except (pa.ArrowInvalid, IndexError) as error:
        raise InputError(
            f"{path} is not a list of im2rec, 'id<tab>label<tab>name' per line: {first_line(error)}"
        ) from error
    return table[0].to_numpy(), table[1].to_numpy(), table[count - 1].combine_chunks()


def _read_keys(records: RecordIO) -> np.ndarray:
    """(N,) int64: each record's key in the .idx beside the file; without one, its number."""
    path = records.path.with_suffix(".idx")
    if not path.is_file():
        return np.arange(len(records))
    listed, offsets = read_index(path, len(records))
    known = records.starts - _PART_HEADER
    rows = np.minimum(np.searchsorted(known, offsets), len(known) - 1)
    strange = np.flatnonzero(known[rows] != offsets)
    if len(strange):
        raise InputError(
            f"{path}: line {strange[0] + 1} names byte {offsets[strange[0]]:,}, where no record begins; "
            f"it is not the index of this {records.path.name}"
        )
    keys = np.full(len(records), -1, dtype=np.int64)
    keys[rows] = listed
    # as many lines as records, none without a key: each is listed once; sorting tells whether a key comes twice
    if len(rows) != len(records) or (keys < 0).any() or (np.diff(np.sort(keys)) == 0).any():
        raise InputError(
            f"{path} lists {len(rows):,} records, and {records.path.name} has {len(records):,}; it must list each "
            "once; delete it to read without keys"
        )
    return keys


def _read_ranges(
    records: RecordIO,
    keys: np.ndarray,
    has_image: np.ndarray,
    flags: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    header: int,
) -> np.ndarray:
    """(P, 3) int64: key of a person's record, first key and key after the last of their photos."""
    order = np.argsort(keys)
    people = order[~has_image[order] & (order != header)]
    bounds = np.stack([keys[people], first[people], second[people]], axis=1)
    images = keys[has_image]
    end = images.max(initial=0) + 1
    is_range = (flags[people] >= 2) & (bounds[:, 1] >= 0) & (bounds[:, 1] <= bounds[:, 2]) & (bounds[:, 2] <= end)
    exact = end <= _EXACT_FLOAT32  # later keys do not fit the float32 that they are written as
    wrong = np.flatnonzero(~is_range)
    if exact and len(wrong):
        row = people[wrong[0]]
        raise records.damage(
            row,
            f"the record {keys[row]} of a person holds [{first[row]:g}, {second[row]:g}), and photos end at {end}",
        )
    said = first[header], second[header]
    if exact and len(people) and said != (keys[people[0]], keys[people[-1]] + 1):
        raise records.damage(
            header,
            f"record 0 says that people's records are [{said[0]:g}, {said[1]:g}), and they are "
            f"[{keys[people[0]]}, {keys[people[-1]] + 1})",
        )
    return bounds.astype(np.int64)


def read_property(record_file: Path) -> tuple[int | None, tuple[int, int] | None]:
    """People, and (height, width), of insightface's file `property` beside a `.rec`; None where there is none.

    Raises:
        InputError: The file is something else.
    """
    path = record_file.with_name("property")
    if not path.is_file():
        return None, None
    with path.open("rb") as file:
        text = file.read(200).decode(errors="replace").strip()
    words = text.split(",")
    if len(words) != 3 or not all(word.strip().isascii() and word.strip().isdecimal() for word in words):
        raise InputError(f"{path}: expected 'people,height,width', not {text!r}")
    people, height, width = (int(word) for word in words)
    return people, (height, width)
