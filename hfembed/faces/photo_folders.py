"""Folders of photos through a face analyzer: to a table of faces, to a gallery of known people."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm.auto import tqdm

from hfembed.atomic import atomic_write
from hfembed.errors import InputError
from hfembed.faces.data.person_folders import check_person_names
from hfembed.faces.face_analyzer import AnalyzedPhoto, FaceAnalyzer, WhichFaces, describe_set_aside
from hfembed.faces.quality import COMPONENTS
from hfembed.index.embedding_index import EmbeddingIndex
from hfembed.index.min_quality import MIN_QUALITY
from hfembed.photos import PhotoListing, find_photos, utf8_name
from hfembed.threads import NumThreads

_NUMBER = pa.float32()
# a photo without usable faces is one row without a face
FACE_TABLE = pa.schema(
    [
        ("file", pa.string()),
        ("face", pa.int32()),
        ("box", pa.list_(_NUMBER)),
        ("landmarks", pa.list_(pa.list_(_NUMBER))),
        *[(name, _NUMBER) for name in COMPONENTS],
        ("quality", _NUMBER),
        ("embedding", pa.list_(_NUMBER)),
        ("error", pa.string()),
    ]
)


class FolderSummary(NamedTuple):
    """What became of a folder's photos."""

    photos: int
    faces: int
    errors: list[str]
    set_aside: list[str]


def embed_folder(
    analyzer: FaceAnalyzer,
    folder: str | Path | PhotoListing,
    output: str | Path,
    faces: WhichFaces = "all",
    batch_size: int = 32,
    num_threads: NumThreads = "auto",
    show_progress_bar: bool = True,
    min_quality: float = MIN_QUALITY,
) -> FolderSummary:
    """Write the faces of a folder's photos as a Parquet table, with the columns of `FACE_TABLE`.

    Raises:
        InputError: There is no such folder, no photo in it, or the output is a folder.
        OSError: The table cannot be written.
    """
    listing = folder if isinstance(folder, PhotoListing) else find_photos(folder)
    if Path(output).is_dir():
        raise InputError(f"{output} is a folder; name a .parquet file to write")
    errors: list[str] = []
    set_aside: list[str] = []
    count, rows = 0, []
    photos = _stream(analyzer, listing.photos, faces, batch_size, num_threads, show_progress_bar, min_quality)
    with atomic_write(output) as temporary, pq.ParquetWriter(temporary, FACE_TABLE) as writer:
        for name, photo in zip(listing.names, photos, strict=True):
            error = photo.problem
            errors += [error] if error else []
            set_aside += [line] if not error and (line := describe_set_aside(photo)) else []
            count += len(photo.faces)
            rows += _rows(name, photo, error)
            if len(rows) >= 1000:
                writer.write_table(pa.Table.from_pylist(rows, FACE_TABLE))
                rows = []
        writer.write_table(pa.Table.from_pylist(rows, FACE_TABLE))
    return FolderSummary(len(listing.photos), count, errors, set_aside)


def read_gallery(
    analyzer: FaceAnalyzer,
    folder: str | Path,
    batch_size: int = 32,
    num_threads: NumThreads = "auto",
    show_progress_bar: bool = True,
    min_quality: float = MIN_QUALITY,
) -> tuple[EmbeddingIndex, FolderSummary]:
    """Index the known people of a folder with a directory per person; of each photo the largest face.

    Raises:
        InputError: There is no such folder, no photo in it, a photo outside the people's directories, one person
            under two names, or none of the photos can be used.
    """
    listing = find_photos(folder)
    people = [name.split("/")[0] for name in listing.names]
    stray = [name for name in listing.names if "/" not in name]
    if stray:
        raise InputError(f"{utf8_name(folder)}/{stray[0]} is not inside a person folder; a gallery has one per person")
    check_person_names(people, folder)
    index, errors = EmbeddingIndex(origin=analyzer.origin), []
    photos = _stream(analyzer, listing.photos, "largest", batch_size, num_threads, show_progress_bar, min_quality)
    found: list[tuple[np.ndarray, str, str]] = []
    for row, (name, person, photo) in enumerate(zip(listing.names, people, photos, strict=True), 1):
        errors += [photo.error] if photo.error else []
        found += [(face.embedding, person, name) for face in photo.faces]
        if found and (len(found) >= 1000 or row == len(people)):
            embeddings, labels, files = zip(*found, strict=True)
            index.add(np.stack(embeddings), labels, files)
            found = []
    if not len(index):
        raise InputError(f"none of the photos of {utf8_name(folder)} can be used; the first: {errors[0]}")
    errors += [f"no photo of {person} can be used" for person in sorted({*people} - {*index.names})]
    return index, FolderSummary(len(listing.photos), len(index), errors, [])


def _stream(
    analyzer: FaceAnalyzer,
    paths: list[Path],
    faces: WhichFaces,
    batch_size: int,
    num_threads: NumThreads,
    show_progress_bar: bool,
    min_quality: float,
) -> Iterator[AnalyzedPhoto]:
    photos = analyzer.stream(paths, faces, batch_size, num_threads, min_quality=min_quality)
    return iter(tqdm(photos, total=len(paths), unit=" photos", disable=not show_progress_bar))


def _rows(file: str, photo: AnalyzedPhoto, error: str | None) -> list[dict[str, Any]]:
    if not photo.faces:
        return [{"file": file, "error": error}]
    return [
        {
            "file": file,
            "face": number,
            "box": face.box.tolist(),
            "landmarks": face.landmarks.tolist(),
            **face.quality._asdict(),
            "quality": face.quality.overall,
            "embedding": face.embedding,
            "error": error,
        }
        for number, face in enumerate(photo.faces)
    ]
