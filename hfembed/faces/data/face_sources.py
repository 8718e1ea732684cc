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
import pyarrow.compute
import pyarrow.parquet as pq
from datasets.exceptions import DatasetNotFoundError

from hfembed.errors import InputError, first_line
from hfembed.faces.data.person_folders import (
    ARCHIVE_SUFFIXES,
    CheckedTarInfo,
    check_person_names,
    check_tar,
    download,
    read_person_folders,
)
from hfembed.hub.dataset import OwnFiles, PhotoFeature, check_dataset_card
from hfembed.photos import PHOTO_SUFFIXES, is_hidden

# the names that public data sets of pairs use
PAIR_COLUMNS = (("image_a", "image_b"), ("image1", "image2"), ("img_0", "img_1"), ("img1", "img2"))
# the names that public data sets use, in the order they are looked for
IMAGE_COLUMNS = ("image", "img", "jpg", "jpeg", "png", "webp", "photo", "images")
IDENTITY_COLUMNS = ("label", "identity", "celeb_id", "cls", "person", "person_id", "name", "subject", "labels")
FILE_COLUMNS = ("file", "filename", "file_name", "path", "image_path", "__key__")
_IMAGE_NAMES = (*IMAGE_COLUMNS, *itertools.chain(*PAIR_COLUMNS))

LANDMARKS_FEATURE = datasets.List(datasets.List(datasets.Value("float64")))


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
        files: "Person/photo.jpg", or None where the source has no names.
        landmarks: Five points, or None, per photo; None where the source has no such column.
    """

    table: datasets.Dataset
    files: list[str] | None
    people: list[str]
    landmarks: list[list[list[float]] | None] | None = None


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
        source: A folder with a folder per person, or an archive of it; a folder of, or a pattern or path for, Parquet
            files or webdataset tars; a URL with its checksum, "https://...tgz#sha256=..."; a Hub repository's id.

    Raises:
        InputError: There is no such source, or the split has to be chosen.
    """
    text = str(source)
    if re.match(r"https?://|file://", text):
        url, _, sha256 = text.partition("#sha256=")
        if not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
            raise InputError(f'{url}: add its checksum to the URL: "#sha256=" and 64 hexadecimal digits')
        return open_source(download(url, sha256), split=split, streaming=streaming)
    shards = _shards(text)
    if shards is None and Path(text).exists():
        if streaming:
            raise InputError(f'"{text}" is a layout of person folders, which cannot be streamed; turn streaming off')
        return read_person_folders(text, follow_links=follow_links)
    if shards is None and not re.fullmatch(r"[\w.-]+/[\w.-]+", text):
        raise InputError(f'"{text}" is not a file, folder, URL or Hub repository id')
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
        people = [file.split("/")[0] for file in files or ()]
    else:
        people = _people(table, source)
        if files is not None:
            files = [f"{person}/{PurePosixPath(file).name}" for person, file in zip(people, files, strict=True)]
            if len(set(files)) < len(files):
                files = None  # names that do not distinguish photos, such as "image.jpg" throughout
    check_person_names(people, source)
    photos = table.select_columns(image)
    if image != "image":
        photos = photos.rename_column(image, "image")
    if not isinstance(photos.features["image"], datasets.Image):
        raise InputError(f'"{source}": column {image} holds no images but {photos.features["image"]}')
    landmarks = table["landmarks"][:] if table.features.get("landmarks") == LANDMARKS_FEATURE else None
    return Photos(photos, files, people, landmarks)


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
    number = {name: index for index, name in enumerate(names)}
    points: list[list[list[float]] | None]
    if isinstance(landmarks, np.ndarray):
        points = [landmarks.tolist()] * len(files)
    elif landmarks is None and photos.landmarks is not None:
        points = photos.landmarks
    else:
        found = [None if landmarks is None else landmarks.get(file) for file in files]
        points = [None if point is None else np.asarray(point).tolist() for point in found]
    columns = {
        # -1 = unknown to ClassLabel: a person left out
        "label": ([number.get(person, -1) for person in photos.people], datasets.ClassLabel(names=list(names))),
        "file": (files, datasets.Value("string")),
        "landmarks": (points, LANDMARKS_FEATURE),
    }
    rows = np.arange(len(files)) if kept is None else np.flatnonzero(kept)
    order = sorted(rows.tolist(), key=files.__getitem__)
    table = photos.table
    for name, (values, feature) in columns.items():
        # the fingerprint that `datasets` would work out itself takes seconds for lists this long
        state = hashlib.sha256(f"{table._fingerprint}{name}{feature}{values}".encode()).hexdigest()[:16]
        table = table.add_column(name, values, new_fingerprint=state, feature=feature)
    state = hashlib.sha256(f"{table._fingerprint}{order}{list(names)}".encode()).hexdigest()[:16]
    return table.select(order, new_fingerprint=state)


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


def _shards(source: str) -> list[str] | None:
    """The Parquet or webdataset files a path means; None for person folders, archives and Hub ids."""
    path = Path(source)
    if path.is_dir():
        inside = sorted(file for file in path.rglob("*") if not any(map(is_hidden, file.relative_to(path).parts)))
        shards = [file for file in inside if file.suffix in (".parquet", ".tar") and file.is_file()]
        if shards and any(file.suffix.lower() in PHOTO_SUFFIXES for file in inside):
            # beside photos of people there may be other things, such as the table that `hfembed embed` wrote
            shards = [file for file in shards if file.parent == path and _has_image_column(file)]
        return [str(file) for file in shards] or None
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


def _file_names(table: datasets.Dataset, image: str) -> list[str] | None:
    for name in FILE_COLUMNS:
        if name in table.column_names and table.features[name].dtype == "string":
            return table[name][:]
    stored = table.select_columns(image).cast_column(image, datasets.Image(decode=False)).with_format("arrow")
    paths = pyarrow.compute.struct_field(stored[:][image], "path").to_pylist()
    return None if any(path is None for path in paths) else paths


def _people(table: datasets.Dataset, source: str | Path) -> list[str]:
    known = [name for name in IDENTITY_COLUMNS if name in table.column_names]
    if not known:
        column = find_column(table.column_names, FILE_COLUMNS, "the people", source)
        return [person_of_file(file) for file in table[column][:]]
    values = table[known[0]][:]
    if any(value is None for value in values):
        raise InputError(f'"{source}": column {known[0]} is empty at row {values.index(None)}')
    feature = table.features[known[0]]
    if isinstance(feature, datasets.ClassLabel):
        return feature.int2str(values)
    return [str(value) for value in values]


def person_of_file(file: str) -> str:
    """From "Aaron_Peirsol/Aaron_Peirsol_0001.jpg", or without the folder, to "Aaron_Peirsol"."""
    path = PurePosixPath(file)
    return path.parent.name or re.sub(r"_\d+$", "", path.stem)


def sorted_names(people: Iterable[str]) -> list[str]:
    """Distinct names in a stable order: by number where all are numbers, otherwise by letter."""
    names = set(people)
    return sorted(names, key=int) if all(name.isdecimal() for name in names) else sorted(names)
