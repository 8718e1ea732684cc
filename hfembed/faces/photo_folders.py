"""Folders of photos through a face analyzer: to a table of faces, to a gallery of known people."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from hfembed.atomic import atomic_write
from hfembed.errors import InputError
from hfembed.faces.data.person_folders import check_person_names
from hfembed.faces.face_analyzer import AnalyzedPhoto, FaceAnalyzer, WhichFaces
from hfembed.faces.fingerprint import probe_embedding
from hfembed.index.embedding_index import EmbeddingIndex
from hfembed.photos import find_photos, utf8_name

_NUMBER = pa.float32()
# a photo without usable faces is one row without a face
FACE_TABLE = pa.schema(
    [
        ("file", pa.string()),
        ("face", pa.int32()),
        ("box", pa.list_(_NUMBER)),
        ("landmarks", pa.list_(pa.list_(_NUMBER))),
        *[(name, _NUMBER) for name in ("score", "size", "sharpness", "norm")],
        ("embedding", pa.list_(_NUMBER)),
        ("error", pa.string()),
    ]
)


class FolderSummary(NamedTuple):
    """What became of a folder's photos.

    Attributes:
        photos: How many there are.
        faces: Faces embedded.
        errors: A line for each photo that failed, naming it; photos without a face are among them.
    """

    photos: int
    faces: int
    errors: list[str]


def embed_folder(
    analyzer: FaceAnalyzer,
    folder: str | Path,
    output: str | Path,
    faces: WhichFaces = "all",
    batch_size: int = 32,
    num_workers: int = 1,
    progress: bool = True,
) -> FolderSummary:
    """Write the faces of a folder's photos as a Parquet table, with the columns of `FACE_TABLE`.

    Args:
        analyzer: What finds and embeds them.
        folder: Photos, at any depth.
        output: The .parquet file; appears whole or not at all.
        faces: See `FaceAnalyzer`.
        batch_size: See `FaceAnalyzer`.
        num_workers: See `FaceAnalyzer`.
        progress: Show a bar.

    Returns:
        What became of the photos.

    Raises:
        InputError: There is no such folder, or no photo in it.
        OSError: The table cannot be written.
    """
    listing = find_photos(folder)
    paths = listing.photos
    errors, count = [], 0
    with atomic_write(output) as temporary, pq.ParquetWriter(temporary, FACE_TABLE) as writer:
        rows = []
        photos = _stream(analyzer, paths, faces, batch_size, num_workers, progress)
        for path, name, photo in zip(paths, listing.names, photos, strict=True):
            error = photo.error or (None if photo.faces else f"{path}: no face was found")
            error = None if error is None else utf8_name(error)
            errors += [error] if error else []
            count += len(photo.faces)
            rows += _rows(name, photo, error)
            if len(rows) >= 1000:
                writer.write_table(pa.Table.from_pylist(rows, FACE_TABLE))
                rows = []
        writer.write_table(pa.Table.from_pylist(rows, FACE_TABLE))
    return FolderSummary(len(paths), count, errors)


def read_gallery(
    analyzer: FaceAnalyzer,
    folder: str | Path,
    batch_size: int = 32,
    num_workers: int = 1,
    progress: bool = True,
) -> tuple[EmbeddingIndex, FolderSummary]:
    """Index the known people of a folder with a directory per person; of each photo the largest face.

    Args:
        analyzer: What finds and embeds them.
        folder: `<Person>/<photo>`.
        batch_size: See `FaceAnalyzer`.
        num_workers: See `FaceAnalyzer`.
        progress: Show a bar.

    Returns:
        The index, and what became of the photos.

    Raises:
        InputError: There is no such folder, no photo in it, a photo outside the people's directories, one person
            under two names, or somebody of whom no photo can be used.
    """
    listing = find_photos(folder)
    paths = listing.photos
    people = [name.split("/")[0] for name in listing.names]
    stray = [name for name in listing.names if "/" not in name]
    if stray:
        raise InputError(
            f"{utf8_name(folder)}/{stray[0]} is in nobody's directory: a gallery has a directory for each person"
        )
    check_person_names(people, folder)
    index, errors = EmbeddingIndex(model=str(analyzer.embedder.config.name_or_path)), {}
    index.probe = probe_embedding(analyzer.embedder)
    photos = _stream(analyzer, paths, "largest", batch_size, num_workers, progress)
    for path, person, photo in zip(paths, people, photos, strict=True):
        if photo.error:
            errors[path] = photo.error
        for face in photo.faces:
            index.add(face.embedding[None], [person], [utf8_name(path)])
    for path, person in zip(paths, people, strict=True):
        if person not in index.names:
            raise InputError(f"no photo of {person} can be used; {errors[path]}")
    return index, FolderSummary(len(paths), len(index), list(errors.values()))


def _stream(
    analyzer: FaceAnalyzer,
    paths: list[Path],
    faces: WhichFaces,
    batch_size: int,
    num_workers: int,
    progress: bool,
) -> Iterator[AnalyzedPhoto]:
    photos = analyzer.stream(paths, faces, batch_size, num_workers)
    return iter(tqdm(photos, total=len(paths), unit=" photos", disable=not progress))


def _rows(file: str, photo: AnalyzedPhoto, error: str | None) -> list[dict]:
    if not photo.faces:
        return [{"file": file, "error": error}]
    return [
        {
            "file": file,
            "face": number,
            "box": face.box.tolist(),
            "landmarks": face.landmarks.tolist(),
            **face.quality._asdict(),
            "embedding": face.embedding,
            "error": error,
        }
        for number, face in enumerate(photo.faces)
    ]
