"""Shards of photos read in order: RecordIO by its `.idx`, plain webdataset tars, Parquet.

What is known before the first photo is read is how many photos each shard has and how many people there are: from
`manifest.json` (as `hfembed convert-dataset` writes it), Parquet's footers and its column of people, RecordIO's `.idx`
and `property`. Tars without a manifest are read once to count.
"""

import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hfembed.errors import InputError, first_line
from hfembed.faces.data.face_sources import (
    IDENTITY_COLUMNS,
    IMAGE_COLUMNS,
    LANDMARKS_FEATURE,
    find_column,
    is_plain_tar,
    record_file,
    shard_files,
    sorted_names,
)
from hfembed.faces.data.landmarks import five_points
from hfembed.faces.data.person_folders import check_person_names
from hfembed.faces.data.record_io import LABEL_END, find_records, parse_record, read_index, read_label, read_property
from hfembed.faces.data.shard_files import (
    folder_of,
    is_remote,
    list_remote,
    local_copy,
    manifest_of,
    open_shard,
    size_of,
)
from hfembed.faces.data.webdataset_tars import TarPhotos, read_fields, read_tar
from hfembed.models.face_embedder.image_processing_face_embedder import template_for_size
from hfembed.models.image_opening import MAX_FILE_BYTES

logger = logging.getLogger(__name__)

# records that are read at once; few, as in insightface's files a person's photos lie side by side
_RECORDS_PER_SHARD = 32
_ROWS_AT_ONCE = 64
_SMALLEST_RECORD = 32  # bytes: the two headers


class StoredPhoto(NamedTuple):
    """A photo as it lies in its shard.

    Attributes:
        place: Its number in the shard.
        image: Encoded.
        label: Number of the person.
        landmarks: Five (x, y), or None.
        name: Where it lies, for messages.
    """

    place: int
    image: Any
    label: int
    landmarks: Any
    name: str


class FaceShards(ABC):
    """Shards of one source.

    Attributes:
        counts: (num_shards,) int64, photos in each.
        people: Names, in the order of the labels.
        facts: What tells other data: a line per file, without its folder.
    """

    counts: np.ndarray
    people: Sequence[str]
    facts: list[str]

    @abstractmethod
    def read(self, shard: int, places: Iterable[int]) -> Iterator[StoredPhoto]:
        """Read photos of a shard, one after the other, and no more than is asked for.

        Args:
            places: Numbers of photos in the shard, rising.

        Raises:
            InputError: The shard is missing, damaged or not what its index says: one line.
        """

    @abstractmethod
    def group_people(self) -> np.ndarray:
        """Find out who is in each photo before they are read; runs of records then end where a person does.

        Returns:
            (num_photos,) int32 labels, shard after shard.

        Raises:
            InputError: As `read`.
        """


def open_shards(source: str, num_people: int = 0, aligned: str | None = None) -> FaceShards | None:
    """Open local shards.

    Args:
        source: As for `load_faces`, or tars or Parquet at s3://, gs:// or hf://; None is returned for the id of a Hub
            repository.
        num_people: How many people there are, where the shards do not say it: labels are below it.
        aligned: "arcface_112": the photos are crops on the standard 112 x 112 template.

    Raises:
        InputError: There is no such source, it is of another kind, or it does not say how many people it has.
    """
    records = None if is_remote(source) else record_file(source)
    if records is not None:
        return RecordRuns(records, num_people, aligned)
    files = list_remote(source) if is_remote(source) else shard_files(source)
    if files is None:
        if Path(source).exists():
            raise InputError(
                f'"{source}" cannot be streamed: RecordIO, Parquet and webdataset tars can; turn streaming off, or '
                "convert it by hfembed convert-dataset"
            )
        return None
    if all(file.endswith(".parquet") for file in files):
        return ParquetShards(files, aligned)
    if all(file.endswith(".tar") if is_remote(file) else is_plain_tar(file) for file in files):
        return TarShards(files, num_people, aligned)
    raise InputError(
        f'"{source}" cannot be streamed: its tars are compressed, or Parquet lies among them; '
        "convert it by hfembed convert-dataset"
    )


class JoinedShards(FaceShards):
    """Shards of several sources, whose people are different ones.

    People who are numbers get the source's name in front of theirs.

    Args:
        sources: At least two; name -> shards.

    Raises:
        InputError: A person's name is in two sources.
    """

    def __init__(self, sources: Mapping[str, FaceShards]) -> None:
        self.sources = list(sources.values())
        self._set_counts()
        people: list[str] = []
        self._first_label = []
        self.facts = []
        for name, shards in sources.items():
            self._first_label.append(len(people))
            numbered = all(person.isdecimal() for person in shards.people)
            people += [f"{name}_{person}" for person in shards.people] if numbered else shards.people
            self.facts += [f"{name}: {fact}" for fact in shards.facts]
        if len(people) >= 2**31:
            raise InputError(f"{len(people):,} people are too many")
        shared = sorted(person for person, count in Counter(people).items() if count > 1)
        if shared:
            raise InputError(
                f"{', '.join(shared[:8])}: people of this name are in two of {', '.join(sources)}; rename them"
            )
        self.people = people

    def _set_counts(self) -> None:
        self.counts = np.concatenate([shards.counts for shards in self.sources])
        self._first_shard = np.cumsum([0, *(len(shards.counts) for shards in self.sources)])

    def read(self, shard: int, places: Iterable[int]) -> Iterator[StoredPhoto]:
        """As `FaceShards.read`."""
        source = int(np.searchsorted(self._first_shard, shard, side="right")) - 1
        for photo in self.sources[source].read(shard - int(self._first_shard[source]), places):
            yield photo._replace(label=photo.label + self._first_label[source])

    def group_people(self) -> np.ndarray:
        """As `FaceShards.group_people`."""
        labels = [shards.group_people() + first for shards, first in zip(self.sources, self._first_label, strict=True)]
        self._set_counts()
        return np.concatenate(labels).astype(np.int32)


def _template(aligned: str | None) -> list[list[float]] | None:
    return template_for_size(112, 112) if aligned else None


def _counts(files: list[str], manifest: dict[str, Any]) -> list[int] | None:
    """Photos in each file, where the manifest is of these files."""
    try:
        known = {shard["name"]: (shard["photos"], shard["bytes"]) for shard in manifest.get("shards", ())}
    except (KeyError, TypeError) as error:
        raise InputError(f"{folder_of(files[0])}: manifest.json is damaged: {error!r}") from error
    if not {Path(file).name for file in files} <= known.keys():
        return None
    counts = []
    for file in files:
        photos, size = known[Path(file).name]
        if size != (found := size_of(file)):
            raise InputError(
                f"{file} has {found:,} bytes, not {size} as in manifest.json: fetch it again, or delete manifest.json "
                "if the file is meant to be so"
            )
        if not isinstance(photos, int) or not 0 < photos <= size:
            raise InputError(f"{folder_of(file)}: manifest.json is damaged: {photos!r} photos in {Path(file).name}")
        counts.append(photos)
    return counts


def _wrong_count(path: str, found: int, expected: int) -> InputError:
    return InputError(
        f"{path} has {found:,} photos, not {expected:,} as manifest.json says, or as were counted before"
    )


def _facts(files: list[str], counts: np.ndarray) -> list[str]:
    sizes = map(size_of, files)
    return [f"{Path(file).name} {count} {size}" for file, count, size in zip(files, counts, sizes, strict=True)]


def _checked(label: float, people: Sequence[str], where: str) -> int:
    if not 0 <= label < len(people) or label != int(label):  # nor NaN
        raise InputError(
            f"{where} has label {label:g}; expected a whole number from 0 to {len(people) - 1:,}: num_people says how "
            "many people there are"
        )
    return int(label)


class TarShards(FaceShards):
    """Webdataset tars with `cls`; the index of a shard is made when it is its turn."""

    def __init__(self, files: list[str], num_people: int, aligned: str | None) -> None:
        self.files = files
        folder, manifest = folder_of(files[0]), manifest_of(files[0])
        counts = _counts(files, manifest)
        if counts is None:
            if is_remote(folder):
                raise InputError(
                    f"{folder} has no manifest.json of these shards, and counting would fetch all of them: put shards "
                    "of hfembed convert-dataset there"
                )
            logger.warning("%s has no manifest.json: all shards are read once to count", folder)
            counts = [len(read_tar(file).keys) for file in files]
        self.counts = np.array(counts, dtype=np.int64)
        people = num_people or manifest.get("people")
        if people is not None and (not isinstance(people, int) or not 0 < people < 2**31):
            raise InputError(f"{folder}: manifest.json is damaged: {people!r} people")
        if people is None:
            raise InputError(f"{folder} does not say how many people it has: give num_people")
        self.people = list(map(str, range(people)))
        self.landmarks = _template(aligned) or manifest.get("landmarks")
        self.facts = _facts(files, self.counts)

    def read(self, shard: int, places: Iterable[int]) -> Iterator[StoredPhoto]:
        """As `FaceShards.read`."""
        with local_copy(self.files[shard]) as copy:
            yield from self._read(copy, shard, places)

    def _read(self, copy: Path, shard: int, places: Iterable[int]) -> Iterator[StoredPhoto]:
        path, photos = self.files[shard], read_tar(copy)
        if len(photos.keys) != self.counts[shard]:
            raise _wrong_count(path, len(photos.keys), self.counts[shard])
        landmarks = None
        if self.landmarks is None and photos.fields["json"].null_count < len(photos.keys):
            landmarks = read_fields(photos, path, ())["landmarks"]
        with copy.open("rb", buffering=0) as file:
            for place in places:
                name = f"{path}: {photos.keys[place]}"
                label = self._label(photos, place, name)
                file.seek(int(photos.starts[place]))
                image = file.read(int(photos.sizes[place]))
                points = self.landmarks if landmarks is None else landmarks[place]
                yield StoredPhoto(place, image, label, points, name)

    def group_people(self) -> np.ndarray:
        """As `FaceShards.group_people`; reads all tars."""
        logger.warning("%s: all shards are read once to find who is in them", folder_of(self.files[0]))
        labels = []
        for path, count in zip(self.files, self.counts, strict=True):
            with local_copy(path) as copy:
                photos = read_tar(copy)
            if len(photos.keys) != count:
                raise _wrong_count(path, len(photos.keys), count)
            labels += [self._label(photos, place, f"{path}: {photos.keys[place]}") for place in range(count)]
        return np.array(labels, dtype=np.int32)

    def _label(self, photos: TarPhotos, place: int, name: str) -> int:
        try:
            label = int((photos.fields["cls"][place].as_py() or b"").strip())
        except ValueError:
            raise InputError(f"{name} has no number in a .cls; turn streaming off") from None
        return _checked(label, self.people, name)


class ParquetShards(FaceShards):
    """Parquet files, whose column of people is read first: a number per photo stays in memory."""

    def __init__(self, files: list[str], aligned: str | None) -> None:
        self.files = files
        schema = self._read(files[0], [])[1]
        self.image = find_column(schema.names, IMAGE_COLUMNS, "the photos", files[0])
        label = find_column(schema.names, IDENTITY_COLUMNS, "the people", files[0])
        features = datasets.Features.from_arrow_schema(schema)
        self.columns = [self.image]
        self.landmarks = _template(aligned)
        if self.landmarks is None and features.get("landmarks") == LANDMARKS_FEATURE:
            self.columns.append("landmarks")
        columns = [self._read(file, [label])[0].column(0) for file in files]
        self.counts = np.array([len(column) for column in columns], dtype=np.int64)
        self._first = np.concatenate([[0], np.cumsum(self.counts)])
        self.people, self.labels = _number_people(columns, features[label], files)
        self.facts = _facts(files, self.counts)

    @staticmethod
    def _read(file: str, columns: list[str]) -> tuple[pa.Table, pa.Schema]:
        with open_shard(file) as opened, _arrow_errors(file):
            parquet = pq.ParquetFile(opened)
            return parquet.read(columns), parquet.schema_arrow

    def read(self, shard: int, places: Iterable[int]) -> Iterator[StoredPhoto]:
        """As `FaceShards.read`."""
        path = self.files[shard]
        with open_shard(path) as opened:
            with _arrow_errors(path):
                parquet = pq.ParquetFile(opened, buffer_size=1 << 20)
            with parquet:
                yield from self._rows(parquet, shard, places, path)

    def group_people(self) -> np.ndarray:
        """As `FaceShards.group_people`."""
        return self.labels

    def _rows(self, parquet: pq.ParquetFile, shard: int, places: Iterable[int], path: str) -> Iterator[StoredPhoto]:
        groups = [parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)]
        edges = np.concatenate([[0], np.cumsum(groups)])
        if edges[-1] != self.counts[shard]:
            raise _wrong_count(path, edges[-1], self.counts[shard])
        group, first, end = -1, 0, 0
        batch: Any = None
        batches: Iterator[pa.RecordBatch] = iter(())
        for place in places:
            wanted = int(np.searchsorted(edges, place, side="right")) - 1
            if wanted != group:
                group, first = wanted, int(edges[wanted])
                batches = parquet.iter_batches(
                    _ROWS_AT_ONCE, row_groups=[group], columns=self.columns, use_threads=False
                )
                end = first
            while place >= end:
                with _arrow_errors(path):
                    batch = next(batches, None)
                if batch is None:
                    raise InputError(f"{path} has fewer rows than its footer says; copy it again")
                first, end = end, end + batch.num_rows
            row = place - first
            name = f"{path}: row {place}"
            stored = batch.column(self.image)
            image = (stored.field("bytes") if pa.types.is_struct(stored.type) else stored)[row].as_py()
            if not isinstance(image, bytes):
                raise InputError(f"{name} has no photo in the file; turn streaming off")
            if len(image) > MAX_FILE_BYTES:
                raise InputError(f"{name} has {len(image):,} bytes, more than {MAX_FILE_BYTES:,}")
            points: Any = self.landmarks
            if "landmarks" in self.columns and (points := batch.column("landmarks")[row].as_py()) is not None:
                points = five_points(points, f"{name} has no five finite [x, y] landmarks")
            yield StoredPhoto(place, image, int(self.labels[self._first[shard] + place]), points, name)


@contextmanager
def _arrow_errors(file: str) -> Iterator[None]:
    """Say which file it is that cannot be read; not to be left open where a generator yields."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{file} cannot be read: {first_line(error)}") from error


def _number_people(columns: list[pa.ChunkedArray], feature: Any, files: list[str]) -> tuple[Sequence[str], np.ndarray]:
    """Names, and (N,) int32, a label per row of all files."""
    for column, file in zip(columns, files, strict=True):
        if column.null_count:
            raise InputError(
                f"{file}: the column of people is empty at row {pc.index(pc.is_null(column), True).as_py()}"
            )
    if isinstance(feature, datasets.ClassLabel):
        labels = np.concatenate([column.to_numpy() for column in columns])
        if len(labels) and not (0 <= labels.min() and labels.max() < feature.num_classes):
            raise InputError(f"{files[0]}: a label is not below the {feature.num_classes:,} names")
        return feature.names, labels.astype(np.int32)
    try:
        parts = [chunk.cast(pa.string()).dictionary_encode() for column in columns for chunk in column.chunks]
    except pa.ArrowInvalid as error:
        raise InputError(f"{files[0]}: the column of people is of type {columns[0].type}: {error}") from error
    found = pa.chunked_array(parts, pa.dictionary(pa.int32(), pa.string())).unify_dictionaries()
    dictionary = found.chunk(0).dictionary if found.num_chunks else pa.array([], pa.string())
    people = sorted_names(dictionary.to_pylist())
    check_person_names(people, files[0])
    number = pc.index_in(dictionary, pa.array(people, pa.string())).to_numpy(zero_copy_only=False)
    codes = [chunk.indices.to_numpy() for chunk in found.chunks]
    return people, number[np.concatenate([np.empty(0, np.int32), *codes])].astype(np.int32)


class RecordRuns(FaceShards):
    """A RecordIO file by its `.idx`: a shard is a run of consecutive records, which is read at once."""

    def __init__(self, path: Path, num_people: int, aligned: str | None) -> None:
        self.path = path
        index, self._end = path.with_suffix(".idx"), path.stat().st_size
        if index.is_file():
            keys, offsets = read_index(index, self._end // _SMALLEST_RECORD)
            order = np.argsort(offsets, kind="stable")
            keys, offsets = keys[order], offsets[order]
        else:
            logger.warning("%s has no %s beside it: it is read once to find its records", path, index.name)
            offsets = find_records(path)
            keys = np.arange(len(offsets))
        ends = np.append(offsets[1:], self._end)
        if len(keys) == 0 or offsets[0] < 0 or (ends <= offsets).any():
            raise InputError(f"{index} is not the index of {path.name}: offsets repeat or lie outside of the file")
        if (ends - offsets).max() > MAX_FILE_BYTES:
            raise InputError(f"{index}: a record of {(ends - offsets).max():,} bytes, more than {MAX_FILE_BYTES:,}")
        photos = self._are_photos(keys, offsets, ends)
        self.offsets, self.ends = offsets[photos], ends[photos]
        count = len(self.offsets)
        if not count:
            raise InputError(f"{path} holds no photos")
        self._cut(np.append(np.arange(0, count, _RECORDS_PER_SHARD), count))
        people, shape = read_property(path)
        if not (people := num_people or people or 0):
            raise InputError(f"{path} has no file 'property' that says how many people it has: give num_people")
        self.people = list(map(str, range(people)))
        self.landmarks = _template(aligned) or (template_for_size(112, 112) if shape == (112, 112) else None)
        self.facts = [f"{path.name} {count} {self._end}"]

    def _cut(self, edges: np.ndarray) -> None:
        self._edges, self.counts = edges, np.diff(edges)

    def _are_photos(self, keys: np.ndarray, offsets: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """(N,) bool: insightface's record 0 holds no photo but the key after the last one."""
        row = int(keys.argmin())
        if keys[row] != 0:
            return np.ones(len(keys), dtype=bool)
        header = self._record(self._bytes(int(offsets[row]), int(ends[row])), int(offsets[row]))
        if header.encoded:
            return np.ones(len(keys), dtype=bool)
        last = int(header.label)
        # a float32, which is exact up to 2^24: the first record near to it that holds no photo is that of a person
        near = np.flatnonzero((keys >= last - 16) & (keys <= last + 16) & (keys > 0))
        for row in near[np.argsort(keys[near])].tolist():
            begin, end = int(offsets[row]), int(ends[row])
            if not self._record(self._bytes(begin, end), begin).encoded:
                return (keys > 0) & (keys < keys[row])
        return keys > 0

    def _bytes(self, begin: int, end: int) -> bytes:
        with self.path.open("rb", buffering=0) as file:
            file.seek(begin)
            return file.read(end - begin)

    def _record(self, data: bytes, at: int) -> Any:
        try:
            return parse_record(data)
        except ValueError as error:
            raise InputError(f"{self.path} is damaged at byte {at:,}: {error}; copy it again") from error

    def read(self, shard: int, places: Iterable[int]) -> Iterator[StoredPhoto]:
        """As `FaceShards.read`."""
        run = slice(int(self._edges[shard]), int(self._edges[shard + 1]))
        offsets, ends = self.offsets[run].tolist(), self.ends[run].tolist()
        begin, data = 0, b""
        for place in places:
            at, end = offsets[place], ends[place]
            if end > begin + len(data):
                begin, data = at, self._bytes(at, ends[-1] if ends[-1] - at <= MAX_FILE_BYTES else end)
            record = self._record(data[at - begin : end - begin], at)
            name = f"{self.path}: the record at byte {at:,}"
            if not record.encoded:
                raise InputError(f"{name} holds no photo; turn streaming off")
            yield StoredPhoto(place, record.encoded, _checked(record.label, self.people, name), self.landmarks, name)

    def group_people(self) -> np.ndarray:
        """As `FaceShards.group_people`, by the header of each record; a run ends where a person does."""
        labels = np.empty(len(self.offsets), dtype=np.int32)
        with self.path.open("rb", buffering=0) as file:
            for row, (begin, end) in enumerate(zip(self.offsets.tolist(), self.ends.tolist(), strict=True)):
                file.seek(begin)
                label = read_label(file.read(LABEL_END))
                if label is None:
                    label = self._record(self._bytes(begin, end), begin).label
                labels[row] = _checked(label, self.people, f"{self.path}: the record at byte {begin:,}")
        changes = np.flatnonzero(np.diff(labels)) + 1
        edges = [0]
        while (place := np.searchsorted(changes, edges[-1] + _RECORDS_PER_SHARD)) < len(changes):
            edges.append(int(changes[place]))
        self._cut(np.append(edges, len(labels)))
        return labels
