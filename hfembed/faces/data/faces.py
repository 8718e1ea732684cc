"""Faces to train on: a folder per person, archives, Parquet, webdataset, the Hub, alone or together."""

import logging
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hfembed.errors import InputError
from hfembed.faces.data.face_sources import (
    FILE_COLUMNS,
    IDENTITY_COLUMNS,
    IMAGE_COLUMNS,
    LANDMARKS_FEATURE,
    Photos,
    assemble,
    face_features,
    find_column,
    landmarks_column,
    open_source,
    read_photos,
    sorted_names,
)
from hfembed.faces.data.landmarks import read_json, read_landmarks
from hfembed.faces.data.person_folders import check_person_names
from hfembed.faces.data.spread_rows import spread_rows
from hfembed.hub.dataset import OwnFiles, PhotoFeature
from hfembed.models.face_embedder.image_processing_face_embedder import template_for_size

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FaceSource:
    """One place photos come from, and which of them to take.

    Attributes:
        source: A folder with a folder per person or an archive of it, Parquet files or webdataset tars, a URL with
            "#sha256=...", a Hub repository's id.
        split: Which split of a Hub repository.
        landmarks: JSON file, {"Person/photo.jpg": five [x, y] or null}.
        aligned: "arcface_112" where the photos are crops on the standard 112 x 112 template already: they get its
            five points for landmarks, so that any processor finds its own crop in them.
        need_landmarks: Leave out photos without landmarks.
        min_photos: Leave out people with fewer photos.
        max_photos: Take at most this many photos of a person, spread evenly over their file names.
        exclude_files: JSON file, a list of "Person/photo.jpg" or of {"file": ...}: photos to leave out.
        exclude_identities: JSON file, a list of people or of {"identity": ..., "cosine": ...}: people to leave out.
        max_overlap: With cosines in `exclude_identities`: leave out those above.
        exclude_people: People to leave out, such as `lfw_people_in_folds(...)`.
        follow_links: False leaves out links that lead out of a folder of people.
    """

    source: str | Path
    split: str | None = None
    landmarks: str | Path | None = None
    aligned: str | None = None
    need_landmarks: bool = False
    min_photos: int = 1
    max_photos: int | None = None
    exclude_files: str | Path | None = None
    exclude_identities: str | Path | None = None
    max_overlap: float = 0.55
    exclude_people: Collection[str] = field(default=())
    follow_links: bool = True

    def __post_init__(self) -> None:
        if self.aligned not in (None, "arcface_112"):
            raise ValueError(f'aligned must be "arcface_112" or None, not "{self.aligned}"')
        if self.aligned and self.landmarks:
            raise ValueError("give landmarks or aligned, not both")


def load_faces(
    sources: str | Path | FaceSource | Sequence[str | Path | FaceSource],
    *,
    merge_people: bool = False,
    streaming: bool = False,
    **options: Any,
) -> datasets.Dataset | datasets.IterableDataset:
    """Load photos of people in one schema.

    Columns are found by the names public data sets use (`face_sources`). Several sources share one label space. The
    same person name in two sources is refused, for it may be two people, or one the evaluation must not see; with
    `merge_people` it is one person. Spellings that differ only in case, Unicode form or spaces are always refused.

    Args:
        sources: One source or several.
        merge_people: Equal names in two sources are the same person.
        streaming: Read on the fly: Parquet, webdataset and Hub sources with numbered people,
            one source at a time. What needs the whole set first (`min_photos`, `max_photos`) is refused.
        **options: Fields of `FaceSource`, for the sources that are given by their path alone.

    Returns:
        `image`, `label` (a `ClassLabel` of people, sorted), `file`, `landmarks` (or None), ordered by source and file;
        streaming: the same columns in the order of the source, `label` a number.

    Raises:
        InputError: A source cannot be read or understood, names are ambiguous, or nobody is left.
    """
    if isinstance(sources, str | Path | FaceSource):
        sources = [sources]
    if not sources:
        raise InputError("no source of faces is given")
    chosen = [source if isinstance(source, FaceSource) else FaceSource(source, **options) for source in sources]
    if streaming:
        if len(chosen) > 1:
            raise InputError("only one source of faces can be streamed at a time")
        return _stream(chosen[0])

    parts = []
    for source in chosen:
        photos = read_photos(source.source, split=source.split, follow_links=source.follow_links)
        if photos.files is None:
            photos.files = _numbered(photos)
        points = _landmarks(source)
        if isinstance(points, dict):
            _check_landmarks(source, photos.files, points)
        parts.append((photos, _kept(source, photos, points), points))
    people_of_parts = [
        set(photos.people.dictionary.take(pa.array(np.unique(photos.codes[kept]))).to_pylist())
        for photos, kept, _ in parts
    ]
    if len(parts) > 1:
        check_person_names(chain(*people_of_parts), " and ".join(str(source.source) for source in chosen))
    shared = sorted(person for person, count in Counter(chain(*people_of_parts)).items() if count > 1)
    if shared and not merge_people:
        raise InputError(
            f"{_some(shared)} in more than one source; rename or exclude them, or pass merge_people=True if "
            "they are the same"
        )
    names = sorted_names(chain(*people_of_parts))
    faces = [assemble(photos, names, kept=kept, landmarks=points) for photos, kept, points in parts]
    if len(faces) == 1:
        return faces[0]
    # features of sources that differ are read from the table again, as those of `datasets`
    return datasets.concatenate_datasets(faces).cast_column("image", PhotoFeature())


def _landmarks(source: FaceSource) -> dict[str, np.ndarray | None] | np.ndarray | None:
    if source.aligned:
        return np.array(template_for_size(112, 112))
    return None if source.landmarks is None else read_landmarks(source.landmarks)


def _check_landmarks(source: FaceSource, files: pa.Array, landmarks: dict[str, np.ndarray | None]) -> None:
    """Refuse landmarks of other photos, and say how many photos they leave out."""
    unknown = np.flatnonzero(~_is_in(files, set(landmarks)))
    if not len(unknown):
        return
    first = files[int(unknown[0])].as_py()
    if len(unknown) == len(files):
        theirs = f"the first they name is {next(iter(landmarks))}" if landmarks else "they are empty"
        raise InputError(
            f"{source.landmarks} names none of the {len(files):,} photos of {source.source}, such as {first}: {theirs}"
        )
    logger.warning(
        "%s does not name %s of the %s photos of %s, such as %s; nothing is known of where their faces are",
        source.landmarks, f"{len(unknown):,}", f"{len(files):,}", source.source, first,
    )  # fmt: skip


def _kept(
    source: FaceSource, photos: Photos, landmarks: dict[str, np.ndarray | None] | np.ndarray | None
) -> np.ndarray:
    """(num_photos,) bool: what is left after all exclusions."""
    assert photos.files is not None
    no_files = _names_to_exclude(source.exclude_files, "file", photos.files, source)
    names = photos.people.dictionary
    no_people = _names_to_exclude(source.exclude_identities, "identity", names, source) | set(source.exclude_people)
    codes = photos.codes
    kept = ~_is_in(photos.files, no_files) & ~_is_in(names, no_people)[codes]
    if source.need_landmarks:
        kept &= landmarks_column(photos, landmarks).is_valid().to_numpy()
    counts = np.bincount(codes[kept], minlength=len(names))
    few = np.flatnonzero((counts > 0) & (counts < source.min_photos))
    if len(few):
        too_few = sorted(names.take(pa.array(few)).to_pylist())
        logger.warning("%s: %s left out, fewer than %d photos", source.source, _some(too_few), source.min_photos)
    kept &= (counts >= source.min_photos)[codes]
    if source.max_photos is not None and (counts > source.max_photos).any():
        rows = np.flatnonzero(kept & (counts > source.max_photos)[codes])
        rows = rows[pc.sort_indices(photos.files.take(pa.array(rows))).to_numpy()]
        rows = rows[np.argsort(codes[rows], kind="stable")]
        for of_person in np.split(rows, np.flatnonzero(np.diff(codes[rows])) + 1):
            kept[np.delete(of_person, spread_rows(len(of_person), source.max_photos))] = False
    if not kept.any():
        raise InputError(f"{source.source}: no photos left after min_photos {source.min_photos} and the exclusions")
    return kept


def _is_in(values: pa.Array, chosen: Collection[str]) -> np.ndarray:
    """(len(values),) bool."""
    return pc.is_in(values, pa.array(list(chosen), pa.string())).to_numpy(zero_copy_only=False)


def read_names(path: str | Path | None, key: str, max_overlap: float = 0.55) -> set[str]:
    """The names in a JSON list of names, or of objects that hold them.

    Args:
        max_overlap: Of objects with a "cosine", only those above it count.

    Raises:
        InputError: The file is missing or something else.
    """
    if path is None:
        return set()
    entries = read_json(path, "names")
    try:
        named = [(entry, None) if isinstance(entry, str) else (entry[key], entry.get("cosine")) for entry in entries]
        return {name for name, cosine in named if cosine is None or cosine > max_overlap}
    except (TypeError, KeyError, AttributeError) as error:
        raise InputError(f'"{path}" is not a JSON list of names or of {{"{key}": name}}: {error!r}') from error


def _names_to_exclude(path: str | Path | None, key: str, names: pa.Array, source: FaceSource) -> set[str]:
    """The names to leave out; a list that has nothing to do with the source is refused."""
    found = read_names(path, key, source.max_overlap)
    if found and not _is_in(names, found).any():
        raise InputError(
            f'{path}: none of its {len(found)} names is in "{source.source}"; check that it is the right list'
        )
    return found


def _numbered(photos: Photos) -> pa.Array:
    """File names for photos that have none: a person's photos numbered in the order of the source."""
    codes = photos.codes
    order = np.argsort(codes, kind="stable")
    counts = np.bincount(codes)
    number = np.empty(len(codes), np.int64)
    number[order] = np.arange(len(codes)) - np.repeat(np.cumsum(counts) - counts, counts) + 1
    text = pa.array(number).cast(pa.string())
    # as f"{number:04d}": a number of more digits is not cut
    text = pc.if_else(pc.less(pc.utf8_length(text), 4), pc.utf8_lpad(text, 4, "0"), text)
    people = photos.people.cast(pa.string())
    return pc.binary_join_element_wise(people, "/", people, "_", text, ".jpg", "")


def _some(names: Sequence[str]) -> str:
    """Such as "3 people (A, B, C)", with at most eight names."""
    listed = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    return f"{len(names)} {'person' if len(names) == 1 else 'people'} ({listed})"


def _stream(source: FaceSource) -> datasets.IterableDataset:
    if source.min_photos > 1 or source.max_photos is not None:
        raise InputError("min_photos and max_photos need the whole data set; they cannot be used with streaming")
    stream = open_source(source.source, split=source.split, streaming=True)
    return in_schema(stream, source, OwnFiles(str(source.source)))


def in_schema(
    stream: datasets.IterableDataset, source: FaceSource, own: OwnFiles | None = None
) -> datasets.IterableDataset:
    """Bring a stream with numbered people into the schema.

    Args:
        source: Its name for messages, and what to leave out.
        own: The files that its rows may name; None for a stream that the user has made, which may name any.

    Raises:
        InputError: It is empty, or no column contains the photos, or numbers of people.
    """
    first = next(iter(stream), None)
    if first is None:
        raise InputError(f'"{source.source}" contains no photos')
    columns = list(first)
    image = find_column(columns, IMAGE_COLUMNS, "the photos", source.source)
    label = find_column(columns, IDENTITY_COLUMNS, "the people", source.source)
    file = next((name for name in FILE_COLUMNS if name in columns and isinstance(first[name], str)), None)
    if not isinstance(first[label], int):
        raise InputError(
            f'"{source.source}": streaming needs numbered people; column {label} contains {first[label]!r}'
        )
    feature = (stream.features or {}).get(label)
    names = feature.names if isinstance(feature, datasets.ClassLabel) else None
    points = _landmarks(source)
    own_points = points is None and (stream.features or {}).get("landmarks") == LANDMARKS_FEATURE
    no_files = read_names(source.exclude_files, "file", source.max_overlap)
    no_people = read_names(source.exclude_identities, "identity", source.max_overlap) | set(source.exclude_people)

    def to_schema(row: dict[str, Any], number: int) -> dict[str, Any]:
        photo = row[image]
        if own is not None and photo is not None and photo["bytes"] is None and photo["path"] is not None:
            photo = {"bytes": None, "path": own.resolve(photo["path"])}
        person = str(row[label]) if names is None else names[row[label]]
        name = f"{person}/{number:08d}.jpg" if file is None else f"{person}/{PurePosixPath(row[file]).name}"
        known = points if isinstance(points, np.ndarray) or points is None else points.get(name)
        landmarks = row["landmarks"] if own_points else None if known is None else known.tolist()
        return {"image": photo, "label": row[label], "file": name, "landmarks": landmarks}

    def wanted(row: dict[str, Any]) -> bool:
        person = row["file"].split("/")[0]
        found = row["landmarks"] is not None or not source.need_landmarks
        return found and row["file"] not in no_files and person not in no_people

    schema = face_features(datasets.Value("int64") if names is None else feature)
    # undecoded on the way; told to `map`, the schema would count as applied and nothing would be decoded in the end
    stream = stream.cast_column(image, datasets.Image(decode=False))
    return stream.map(to_schema, with_indices=True, remove_columns=columns).filter(wanted).cast(schema)
