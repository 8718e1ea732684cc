"""Folders of photos through a face analyzer: to a table of faces, to a gallery of known people."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from tqdm.auto import tqdm

from hfembed.atomic import atomic_write
from hfembed.checkpoint.json_notes import read_json, write_json
from hfembed.errors import InputError
from hfembed.faces.data.person_folders import check_person_names
from hfembed.faces.face_analyzer import AnalyzedPhoto, FaceAnalyzer, WhichFaces, describe_set_aside
from hfembed.faces.quality import COMPONENTS
from hfembed.index.embedding_index import EmbeddingIndex
from hfembed.index.min_quality import MIN_QUALITY
from hfembed.index.origin import checksum_tensors
from hfembed.photos import PhotoListing, find_photos, utf8_name
from hfembed.threads import NumThreads

_PART = 1000  # photos that are written together
_SET_ASIDE = b"set_aside"
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
    resume: bool = False,
) -> FolderSummary:
    """Write the faces of a folder's photos as a Parquet table, with the columns of `FACE_TABLE`.

    A thousand photos at a time are kept in `OUTPUT.partial/`: what a kill leaves there, `resume` goes on with. Of
    equal files one is analyzed; the others' rows stand at the end.

    Args:
        resume: Go on with an earlier run of the same model, settings and photos.

    Raises:
        InputError: There is no such folder, no photo in it, the output is a folder, or there is an earlier run: one
            that `resume` does not ask for, or of another model, other settings or photos.
        OSError: The table cannot be written.
    """
    listing = folder if isinstance(folder, PhotoListing) else find_photos(folder)
    if Path(output).is_dir():
        raise InputError(f"{output} is a folder; name a .parquet file to write")
    names, paths = listing.names, listing.photos
    partial = Path(f"{output}.partial")
    _begin(partial, _run_of(analyzer, faces, min_quality, names), resume)
    twins = _equal_files(paths)
    rows = [row for row in range(len(paths)) if row not in twins]
    parts = [(partial / f"{start:09d}.parquet", rows[start : start + _PART]) for start in range(0, len(rows), _PART)]
    with tqdm(total=len(paths), unit=" photos", disable=not show_progress_bar) as bar:
        bar.update(len(twins))
        for path, chosen in parts:
            if path.exists():
                bar.update(len(chosen))
                continue
            found, set_aside = [], []
            photos = analyzer.stream(
                [paths[row] for row in chosen], faces, batch_size, num_threads, min_quality=min_quality
            )
            for row, photo in zip(chosen, photos, strict=True):
                error = photo.problem
                set_aside += [line] if not error and (line := describe_set_aside(photo)) else []
                found += _rows(names[row], photo, error)
                bar.update()
            schema = FACE_TABLE.with_metadata({_SET_ASIDE: json.dumps(set_aside)})
            with atomic_write(path) as temporary:
                pq.write_table(pa.Table.from_pylist(found, schema), temporary)
    copies: dict[str, list[str]] = {}
    for twin, row in twins.items():
        copies.setdefault(names[row], []).append(names[twin])
    summary = _join([path for path, _ in parts], copies, output)
    shutil.rmtree(partial)
    return summary._replace(photos=len(paths))


def _run_of(analyzer: FaceAnalyzer, faces: WhichFaces, min_quality: float, names: list[str]) -> dict[str, Any]:
    return {
        "model": analyzer.origin.weights,
        "settings": analyzer.origin.settings,
        "detector": str(checksum_tensors(analyzer.detector)),
        "faces": faces,
        "min_quality": min_quality,
        "photos": hashlib.sha256("\0".join(names).encode(errors="surrogateescape")).hexdigest(),
    }


def _begin(partial: Path, run: dict[str, Any], resume: bool) -> None:
    note = partial / "run.json"
    table = partial.with_suffix("")
    if resume and table.exists() and not note.exists():
        raise InputError(f"{table} is finished: there is nothing to resume; without --resume it is made anew")
    if note.exists() and not resume:
        raise InputError(f"{partial} holds part of an earlier run: --resume goes on with it; delete it to start anew")
    if note.exists():
        earlier = read_json(note)
        for name, value in run.items():
            if earlier.get(name) != value:
                raise InputError(f"{partial} is of a run with other {name}; delete it to start anew")
        return
    partial.mkdir(parents=True, exist_ok=True)
    write_json(note, run)


def _equal_files(paths: list[Path]) -> dict[int, int]:
    """Row -> the first row with the same bytes; files of different sizes are not read."""
    sizes: dict[int, list[int]] = {}
    for row, path in enumerate(paths):
        sizes.setdefault(path.stat().st_size, []).append(row)
    twins: dict[int, int] = {}
    first: dict[bytes, int] = {}
    for rows in sizes.values():
        for row in rows if len(rows) > 1 else ():
            with suppress(OSError):  # one that cannot be read is said later
                digest = hashlib.sha256(paths[row].read_bytes()).digest()
                if first.setdefault(digest, row) != row:
                    twins[row] = first[digest]
    return twins


def _join(parts: list[Path], copies: dict[str, list[str]], output: str | Path) -> FolderSummary:
    """Write the parts as one table, then the rows of copies, by the file that they are copies of."""
    faces, errors, set_aside = 0, [], []
    copied = []
    with atomic_write(output) as temporary, pq.ParquetWriter(temporary, FACE_TABLE) as writer:

        def write(table: pa.Table) -> None:
            nonlocal faces
            writer.write_table(table)
            faces += len(table) - table["face"].null_count
            errors.extend(table["error"].drop_null().to_pylist())

        for path in parts:
            table = pq.read_table(path)
            set_aside += json.loads(table.schema.metadata[_SET_ASIDE])
            table = table.cast(FACE_TABLE)
            write(table)
            if copies:
                copied.append(table.filter(pc.is_in(table["file"], pa.array(copies))))
        for original in copied:
            for file in original["file"].unique().to_pylist():
                its_rows = original.filter(pc.equal(original["file"], file))
                for copy in copies[file]:
                    write(its_rows.set_column(0, "file", pa.array([copy] * len(its_rows))))
    return FolderSummary(0, faces, errors, set_aside)


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
