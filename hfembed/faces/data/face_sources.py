"""Open photos of people, whatever their format and columns, in one schema.

The schema: `image`, `label` (a `ClassLabel` of people), `file` ("Person/photo.jpg") and, where known, `landmarks`
(five [x, y]: left eye, right eye, nose, left and right mouth corner as seen in the image).
"""

import glob
import hashlib
import itertools
import re
import tarfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets.exceptions import DatasetNotFoundError
from datasets.table import InMemoryTable, concat_tables

from hfembed.errors import InputError, first_line
from hfembed.faces.data.mapped_files import (
    copied_images,
    dataset_of,
    image_chunks,
    map_file,
    physical_rows,
    whole_column,
)
from hfembed.faces.data.person_folders import (
    ARCHIVE_SUFFIXES,
    CheckedTarInfo,
    check_person_names,
    check_tar,
    download,
    read_person_folders,
)
from hfembed.faces.data.record_io import read_record_images
from hfembed.faces.data.shard_manifest import read_manifest
from hfembed.faces.data.webdataset_tars import expand_braces, read_fields, read_tar
from hfembed.hub.dataset import OwnFiles, PhotoFeature, check_dataset_card
from hfembed.models.face_embedder.image_processing_face_embedder import template_for_size
from hfembed.photos import PHOTO_SUFFIXES, is_hidden

# the names that public data sets of pairs use
PAIR_COLUMNS = (("image_a", "image_b"), ("image1", "image2"), ("img_0", "img_1"), ("img1", "img2"))
# the names that public data sets use, in the order they are looked for
IMAGE_COLUMNS = ("image", "img", "jpg", "jpeg", "png", "webp", "photo", "images")
IDENTITY_COLUMNS = ("label", "identity", "celeb_id", "cls", "person", "person_id", "name", "subject", "labels")
FILE_COLUMNS = ("file", "filename", "file_name", "path", "image_path", "__key__")
_IMAGE_NAMES = (*IMAGE_COLUMNS, *itertools.chain(*PAIR_COLUMNS))

LANDMARKS_FEATURE = datasets.List(datasets.List(datasets.Value("float64")))

# what is found beside photos of people and is something else -> what to do with it
_OTHER_FORMATS = {
    ".idx": "the index of a RecordIO file; name the .rec beside it",
    ".lst": "the list of a RecordIO file, whose .rec of the same name is not beside it",
    ".bin": "a file of verification pairs, as insightface has them: hfembed evaluate pairs --set measures on it",
    ".tfrecord": "a TFRecord file, which is not read; convert it to webdataset or Parquet",
    ".mdb": "an LMDB database, which is not read; convert it to webdataset or Parquet",
    ".lmdb": "an LMDB database, which is not read; convert it to webdataset or Parquet",
    ".h5": "an HDF5 file, which is not read; convert it to webdataset or Parquet",
    ".hdf5": "an HDF5 file, which is not read; convert it to webdataset or Parquet",
    ".npz": "a file of numpy arrays, which is not read; convert it to webdataset or Parquet",
    ".npy": "a file of a numpy array, which is not read; convert it to webdataset or Parquet",
    ".pkl": "a pickle, which is not read: it can run code",
    ".rar": "a RAR archive, which is not read; unpack it",
    ".7z": "a 7z archive, which is not read; unpack it",
}


def face_features(label: datasets.ClassLabel | datasets.Value) -> datasets.Features:
    """The schema, with people of this type."""
    file = datasets.Value("string")
    return datasets.Features({"image": PhotoFeature(), "label": label, "file": file, "landmarks": LANDMARKS_FEATURE})


def with_fingerprint(dataset: datasets.Dataset, state: str) -> datasets.Dataset:
    """A data set that caches know by `state`: `datasets` itself would work through all rows for it."""
    fingerprint = hashlib.sha256(state.encode()).hexdigest()[:16]
    return datasets.Dataset(dataset.data, info=dataset.info, fingerprint=fingerprint)


@dataclass
class Photos:
    """A source's photos, in its own order.

    Attributes:
        table: Column `image`.
        files: "Person/photo.jpg", strings without nulls; None where the source has no names.
        people: Who is in each photo, as codes into the distinct names.
        landmarks: Five points, or null, per photo; None where the source has no such column.
    """

    table: datasets.Dataset
    files: pa.Array | None
    people: pa.DictionaryArray
    landmarks: pa.ChunkedArray | None = None

    @property
    def codes(self) -> np.ndarray:
        """(num_photos,) int64: index of each photo's person in `people.dictionary`."""
        return self.people.indices.to_numpy().astype(np.int64)


def open_source(
    source: str | Path,
    *,
    split: str | None = None,
    streaming: bool = False,
    config: str | None = None,
    follow_links: bool = True,
) -> datasets.Dataset | datasets.IterableDataset:
    """Open a source without interpreting its columns.

    Args:
        source: A folder with a folder per person, or an archive of it; a RecordIO file (`train.rec`) or its folder, or
            the list beside it that says whose photos to take (`train.lst`, as im2rec writes it); a folder of, or a
            pattern or path for, Parquet files or webdataset tars ("part{0..3}.tar" too); a folder that
            `Dataset.save_to_disk` wrote; a URL with its checksum, "https://...tgz#sha256=..."; a Hub repository's id.

    Raises:
        InputError: There is no such source, or the split has to be chosen.
    """
    text = str(source)
    if re.match(r"https?://|file://", text):
        url, _, sha256 = text.partition("#sha256=")
        if not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
            raise InputError(f'{url}: add its checksum to the URL: "#sha256=" and 64 hexadecimal digits')
        return open_source(download(url, sha256), split=split, streaming=streaming)
    if re.match(r"(s3|gs|hf)://", text):
        raise InputError(
            f'"{text}": s3://, gs:// and hf:// are read by a recipe with streaming alone; or copy it here'
        )
    listed = Path(text) if text.endswith(".lst") and Path(text).with_suffix(".rec").is_file() else None
    records = record_file(text) if listed is None else listed.with_suffix(".rec")
    if records is not None:
        table = _open_records(records, listed)
        return table.to_iterable_dataset() if streaming else table
    if Path(text, "state.json").is_file():
        table = _open_saved(text)
        return table.to_iterable_dataset() if streaming else table
    shards = shard_files(text)
    if shards is None and Path(text).exists():
        what = _OTHER_FORMATS.get(Path(text).suffix.lower())
        if what is not None and Path(text).is_file():
            raise InputError(f'"{text}" is {what}')
        if streaming:
            raise InputError(f'"{text}" is a layout of person folders, which cannot be streamed; turn streaming off')
        return read_person_folders(text, follow_links=follow_links)
    if shards is None and not re.fullmatch(r"[\w.-]+/[\w.-]+", text):
        raise InputError(f'"{text}" is not a file, folder, URL or Hub repository id')
    if shards is not None and not streaming and all(map(is_plain_tar, shards)):
        return _open_tars(shards)
    own = OwnFiles(text)
    for shard in shards or ():
        if not streaming and not shard.endswith(".parquet"):
            check_tar(shard)
    try:
        if shards is not None and not Path(text).is_dir():
            kind = "parquet" if shards[0].endswith(".parquet") else "webdataset"
            table = datasets.load_dataset(kind, data_files=shards, split="train", streaming=streaming)
            return table if streaming else own.images(table, _IMAGE_NAMES)
        check_dataset_card(text)
        if config is not None and config not in datasets.get_dataset_config_names(text):
            config = None
        if split is None:
            splits = datasets.get_dataset_split_names(text, config)
            if len(splits) > 1:
                raise InputError(f'"{text}" has the splits {", ".join(splits)}: choose one')
            split = splits[0]
        table = datasets.load_dataset(text, config, split=split, streaming=streaming)
        return table if streaming else own.images(table, _IMAGE_NAMES)
    except InputError:
        raise
    except (DatasetNotFoundError, OSError, ValueError, pa.ArrowInvalid) as error:
        raise InputError(f'"{text}" cannot be opened: {first_line(error)}') from error


def splits_of(source: str) -> list[str]:
    """The splits of a folder of Parquet or of a Hub repository.

    Raises:
        InputError: There is no such data set.
    """
    if not Path(source).is_dir() and not re.fullmatch(r"[\w.-]+/[\w.-]+", source):
        raise InputError(f'"{source}" is not a file, folder or Hub repository id')
    try:
        check_dataset_card(source)
        return datasets.get_dataset_split_names(source)
    except InputError:
        raise
    except (DatasetNotFoundError, OSError, ValueError, pa.ArrowInvalid) as error:
        raise InputError(f'"{source}" cannot be opened: {first_line(error)}') from error


def read_photos(source: str | Path, *, split: str | None = None, follow_links: bool = True) -> Photos:
    """Open a source and find out who is in each photo.

    Raises:
        InputError: The source cannot be opened, or no column contains the photos or the people.
    """
    table = open_source(source, split=split, follow_links=follow_links)
    if table.num_rows == 0:
        raise InputError(f'"{source}" contains no photos')
    image = find_column(table.column_names, IMAGE_COLUMNS, "the photos", source)
    files = _file_names(table, image)
    if table.column_names == ["image", "file"]:  # person folders
        people = pc.replace_substring_regex(files, "(?s)/.*$", "").dictionary_encode()
    else:
        people = _people(table, source)
        if files is not None:
            photo = pc.replace_substring_regex(pc.utf8_rtrim(files, "/"), "(?s)^.*/", "")
            files = pc.binary_join_element_wise(people.cast(pa.string()), photo, "/")
            if pc.count_distinct(files).as_py() < len(files):
                files = None  # names that do not distinguish photos, such as "image.jpg" throughout
    check_person_names(people.dictionary.to_pylist(), source)
    photos = table.select_columns(image)
    if image != "image":
        photos = photos.rename_column(image, "image")
    if not isinstance(photos.features["image"], datasets.Image):
        raise InputError(f'"{source}": column {image} holds no images but {photos.features["image"]}')
    has_landmarks = table.features.get("landmarks") == LANDMARKS_FEATURE
    return Photos(photos, files, people, whole_column(table, "landmarks") if has_landmarks else None)


def assemble(
    photos: Photos,
    names: Sequence[str],
    *,
    kept: np.ndarray | None = None,
    landmarks: Mapping[str, np.ndarray | None] | np.ndarray | None = None,
) -> datasets.Dataset:
    """Photos in the schema, ordered by file. No image is copied.

    Args:
        kept: (num_photos,) bool: which photos to keep. All by default.
        landmarks: By file, or one (5, 2) array for all photos; by default the source's own.
    """
    files = photos.files
    if files is None:
        raise ValueError("photos without names have no order")
    number = pc.index_in(photos.people.dictionary, pa.array(names, pa.string()))
    # -1 = unknown to ClassLabel: a person left out
    labels = pc.fill_null(number.take(photos.people.indices), -1).cast(pa.int64())
    chosen = np.arange(len(files)) if kept is None else np.flatnonzero(kept)
    order = chosen[pc.sort_indices(files.take(pa.array(chosen))).to_numpy()]
    columns = {"label": labels, "file": files, "landmarks": landmarks_column(photos, landmarks)}
    rows = physical_rows(photos.table)
    if rows is not None:  # the new columns stand beside the whole table, of which the photos are a part
        place = np.full(len(photos.table.data), -1)
        place[rows] = np.arange(len(rows))
        taken = pa.array(place, mask=place < 0)
        columns = {name: values.take(taken) for name, values in columns.items()}
        order = rows[order]
    features = face_features(datasets.ClassLabel(names=list(names)))
    schema = features.arrow_schema  # made anew each time, with the names of all people
    added = pa.table(columns, schema=pa.schema([schema.field(name) for name in columns]))
    state = hashlib.sha256(f"{photos.table._fingerprint}{list(names)}".encode())
    for column in ("label", "file"):
        for chunk in added[column].chunks:
            state.update(_content(chunk))
    for chunk in {id(chunk): chunk for chunk in added["landmarks"].chunks}.values():
        state.update(_content(chunk))
    state.update(order.tobytes())
    return datasets.Dataset(
        concat_tables([photos.table.data, InMemoryTable(added)], axis=1),
        info=datasets.DatasetInfo(features=features),
        # each `select` of a data set copies the names of all people several times
        indices_table=InMemoryTable(pa.table({"indices": pa.array(order, pa.uint64())})),
        fingerprint=state.hexdigest()[:16],
    )


def landmarks_column(
    photos: Photos, landmarks: Mapping[str, np.ndarray | None] | np.ndarray | None
) -> pa.ChunkedArray:
    """Five points or null per photo, in the order of `photos`; see `assemble`."""
    if isinstance(landmarks, np.ndarray):
        return repeated(landmarks, len(photos.people))
    if landmarks is not None:
        known = {file: points.tolist() for file, points in landmarks.items() if points is not None}
        where = pc.index_in(photos.files, pa.array(list(known), pa.string()))
        return pa.chunked_array([pa.array(list(known.values()), _LANDMARKS_TYPE).take(where)])
    if photos.landmarks is not None:
        return photos.landmarks
    return pa.chunked_array([pa.nulls(len(photos.people), _LANDMARKS_TYPE)])


_LANDMARKS_TYPE = pa.list_(pa.list_(pa.float64()))
_REPEATED = 65536


def repeated(points: np.ndarray, count: int) -> pa.ChunkedArray:
    """The same five points for every photo, in chunks that are one and the same array."""
    chunk = pa.array([points.tolist()] * min(count, _REPEATED), _LANDMARKS_TYPE)
    whole, rest = divmod(count, _REPEATED)
    return pa.chunked_array([chunk] * whole + [chunk.slice(0, rest)] * (rest > 0), _LANDMARKS_TYPE)


def _content(values: pa.Array) -> bytes:
    """An array's values as bytes, the same in every process."""
    sink = pa.BufferOutputStream()
    batch = pa.record_batch([values], ["values"])
    with pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    return sink.getvalue().to_pybytes()


def find_column(columns: Sequence[str], names: Sequence[str], what: str, source: str | Path) -> str:
    """The first of `names` that is a column.

    Raises:
        InputError: None is; lists the columns there are.
    """
    for name in names:
        if name in columns:
            return name
    raise InputError(
        f'"{source}": no column for {what}; it has {", ".join(columns)}; expected one of {", ".join(names)}'
    )


def shard_files(source: str) -> list[str] | None:
    """The Parquet or webdataset files a path means; None for person folders, archives and Hub ids."""
    path = Path(source)
    if path.is_dir():
        inside = sorted(file for file in path.rglob("*") if not any(map(is_hidden, file.relative_to(path).parts)))
        shards = [file for file in inside if file.suffix in (".parquet", ".tar") and file.is_file()]
        if shards and any(file.suffix.lower() in PHOTO_SUFFIXES for file in inside):
            # beside photos of people there may be other things, such as the table that `hfembed embed` wrote
            shards = [file for file in shards if file.parent == path and _has_image_column(file)]
        return [str(file) for file in shards] or None
    if not path.exists() and "{" in source:
        found = expand_braces(source)
        missing = [file for file in found if not Path(file).is_file()]
        if missing:
            raise InputError(f'"{source}" stands for {len(found):,} files, and {missing[0]} does not exist')
    else:
        found = sorted(glob.glob(source)) if glob.has_magic(source) else [source] if path.is_file() else []
    if glob.has_magic(source) and not found:
        raise InputError(f'no file matches "{source}"')
    if not found or not all(_is_shard(file) for file in found):
        return None
    return found


def _has_image_column(file: Path) -> bool:
    try:
        return file.suffix == ".parquet" and not {*pq.read_schema(file).names}.isdisjoint(_IMAGE_NAMES)
    except pa.ArrowException:
        return False


def _is_shard(file: str) -> bool:
    if file.endswith(".parquet"):
        return True
    if not file.endswith(ARCHIVE_SUFFIXES) or file.endswith(".zip"):
        return False
    return _is_webdataset(file)


def _is_webdataset(file: str) -> bool:
    """Whether a tar's first members carry labels beside photos ("000.jpg", "000.cls")."""
    try:
        with tarfile.open(file, "r|*", tarinfo=CheckedTarInfo) as opened:
            names = [member.name for member in itertools.islice((m for m in opened if m.isfile()), 4)]
    except (tarfile.TarError, EOFError, zlib.error):
        return False  # reading it as an archive of people will say what is wrong
    return any(name.endswith((".cls", ".json", ".txt")) for name in names)


def _file_names(table: datasets.Dataset, image: str) -> pa.Array | None:
    for name in FILE_COLUMNS:
        if name in table.column_names and table.features[name].dtype in ("string", "large_string"):
            column = whole_column(table, name)
            if not column.null_count:
                return _one(column.cast(pa.string()))
    paths = pa.chunked_array(
        [chunk.field("path") for chunk in whole_column(table.select_columns(image), image).chunks], pa.string()
    )
    return None if paths.null_count else _one(paths)


def _people(table: datasets.Dataset, source: str | Path) -> pa.DictionaryArray:
    known = [name for name in IDENTITY_COLUMNS if name in table.column_names]
    if not known:
        column = find_column(table.column_names, FILE_COLUMNS, "the people", source)
        return pa.array([person_of_file(file) for file in table[column][:]]).dictionary_encode()
    values = _one(whole_column(table, known[0]))
    if values.null_count:
        row = pc.index(pc.is_null(values), True).as_py()
        raise InputError(f'"{source}": column {known[0]} is empty at row {row}')
    feature = table.features[known[0]]
    if isinstance(feature, datasets.ClassLabel):
        codes = values.to_numpy()
        wrong = np.flatnonzero((codes < 0) | (codes >= feature.num_classes))
        if len(wrong):
            raise InputError(
                f'"{source}": column {known[0]} has {codes[wrong[0]]} at row {wrong[0]}, and '
                f"{feature.num_classes:,} names"
            )
        return pa.DictionaryArray.from_arrays(pa.array(codes, pa.int32()), pa.array(feature.names, pa.string()))
    if pa.types.is_integer(values.type) or pa.types.is_large_string(values.type):
        values = values.cast(pa.string())
    if not pa.types.is_string(values.type):
        values = pa.array([str(value) for value in values.to_pylist()], pa.string())
    return values.dictionary_encode()


def _one(column: pa.ChunkedArray) -> pa.Array:
    found = column.combine_chunks()
    return found if isinstance(found, pa.Array) else pa.concat_arrays(found.chunks)


def is_plain_tar(file: str) -> bool:
    """Whether a file is an uncompressed tar."""
    if not file.endswith(".tar"):
        return False
    with open(file, "rb") as opened:
        return opened.read(512)[257:262] == b"ustar"


def _open_tars(files: list[str]) -> datasets.Dataset:
    """Webdataset shards as one table; `manifest.json` beside them, if there, has the landmarks of all photos."""
    parts: dict[str, list[pa.Array]] = {name: [] for name in ("image", "label", "__key__", "file", "landmarks")}
    rows, total, state = [], 0, []
    for file in files:
        photos = read_tar(file)
        count = len(photos.keys)
        if not count:
            raise InputError(f"{file} contains no photos")
        said = read_fields(photos, file, IDENTITY_COLUMNS)
        chunks, of_photos = image_chunks(map_file(file), photos.starts, photos.sizes)
        among = sum(map(len, chunks))
        place = np.full(among, -1)
        place[of_photos] = np.arange(count)
        taken = pa.array(place, mask=place < 0)
        try:
            people = pc.utf8_trim_whitespace(photos.fields["cls"].cast(pa.string()))
        except pa.ArrowInvalid:
            raise InputError(f"{file}: a .cls is not text in UTF-8") from None
        if said["identity"] is not None:
            people = pc.coalesce(pa.array(said["identity"], pa.string()), people)
        if people.null_count == count:  # as in an archive of folders
            people = pa.array([person_of_file(key) for key in photos.keys.to_pylist()])
        elif people.null_count:
            key = photos.keys[pc.index(pc.is_null(people), True).as_py()]
            raise InputError(f"{file}: {key} has no .cls, and others have one")
        parts["image"] += chunks
        columns = {"label": people, "__key__": photos.keys, "file": said["file"], "landmarks": said["landmarks"]}
        for name, kind in (*((name, pa.string()) for name in list(columns)[:3]), ("landmarks", _LANDMARKS_TYPE)):
            values = columns[name]
            if values is None:
                parts[name].append(pa.nulls(among, kind))
            else:
                parts[name].append((values if isinstance(values, pa.Array) else pa.array(values, kind)).take(taken))
        rows.append(total + of_photos)
        total += among
        state.append((str(Path(file).resolve()), *_version(Path(file))))
    columns = {name: pa.chunked_array(arrays) for name, arrays in parts.items()}
    photo_rows = np.concatenate(rows)
    shared = read_manifest(Path(files[0]).parent).get("landmarks")
    if shared is not None:
        columns["landmarks"] = repeated(np.array(shared), total)
    for name in ("file", "landmarks"):
        if columns[name].null_count > total - len(photo_rows):  # a name or landmarks for some of the photos only
            if name == "file" or columns[name].null_count == total:
                del columns[name]
    features = datasets.Features({name: datasets.Value("string") for name in columns})
    features["image"] = PhotoFeature()
    if "landmarks" in columns:
        features["landmarks"] = LANDMARKS_FEATURE
    fingerprint = hashlib.sha256(f"{state}{shared}".encode()).hexdigest()[:16]
    return dataset_of(columns, features, fingerprint).select(photo_rows, new_fingerprint=f"{fingerprint}-photos")


def _open_saved(folder: str) -> datasets.Dataset:
    """What `Dataset.save_to_disk` wrote."""
    try:
        table = datasets.load_from_disk(folder)
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise InputError(f'"{folder}" cannot be read as a saved data set: {first_line(error)}') from error
    return OwnFiles(folder).images(table, _IMAGE_NAMES)


def record_file(source: str) -> Path | None:
    """The RecordIO file that a path means; None where it means something else."""
    path = Path(source)
    if not path.is_dir():
        return path if path.suffix == ".rec" and path.is_file() else None
    found = sorted(path.glob("*.rec"))
    if path / "train.rec" in found:
        return path / "train.rec"
    if len(found) > 1:
        raise InputError(f'"{source}" holds {", ".join(file.name for file in found)}: name one of them')
    return found[0] if found else None


def _open_records(file: Path, listed: Path | None = None) -> datasets.Dataset:
    images = read_record_images(file, listed)
    order = np.argsort(images.starts, kind="stable")
    whole = images.records.num_parts[images.numbers] == 1
    order = np.concatenate([order[whole[order]], order[~whole[order]]])
    chunks, rows = image_chunks(
        images.records.data, images.starts[order[: whole.sum()]], images.sizes[order[: whole.sum()]]
    )
    total = sum(map(len, chunks))
    if not whole.all():
        chunks.append(copied_images([images.encoded(row) for row in order[whole.sum() :]]))
        rows = np.concatenate([rows, total + np.arange((~whole).sum())])
        total += int((~whole).sum())
    place = np.full(total, -1)
    place[rows] = order
    taken = pa.array(place, mask=place < 0)
    digits = len(str(int(images.keys.max())))
    names = images.files
    if names is None:
        names = pc.binary_join_element_wise(
            pc.utf8_lpad(pa.array(images.keys).cast(pa.string()), digits, "0"), ".jpg", ""
        )
    columns = {
        "image": pa.chunked_array(chunks),
        "label": pa.array(images.labels).take(taken),
        "file": names.take(taken),
    }
    features = face_features(datasets.Value("int64"))
    if images.shape == (112, 112):
        columns["landmarks"] = repeated(np.array(template_for_size(112, 112)), total)
    else:
        del features["landmarks"]
    beside = (file, file.with_suffix(".idx"), file.with_name("property"), *([listed] if listed else []))
    state = [(path.name, *_version(path)) for path in beside if path.is_file()]
    fingerprint = hashlib.sha256(f"{file.resolve()}{state}".encode()).hexdigest()[:16]
    rows_in_order = np.empty(len(order), np.int64)
    rows_in_order[order] = rows
    return dataset_of(columns, features, fingerprint).select(rows_in_order, new_fingerprint=f"{fingerprint}-photos")


def _version(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def person_of_file(file: str) -> str:
    """From "Aaron_Peirsol/Aaron_Peirsol_0001.jpg", or without the folder, to "Aaron_Peirsol"."""
    path = PurePosixPath(file)
    return path.parent.name or re.sub(r"_\d+$", "", path.stem)


def sorted_names(people: Iterable[str]) -> list[str]:
    """Distinct names in a stable order: by number where all are numbers, otherwise by letter."""
    names = set(people)
    return sorted(names, key=int) if all(name.isdecimal() for name in names) else sorted(names)
