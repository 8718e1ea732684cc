"""Photos of people -> shuffled shards of Parquet or webdataset, byte for byte, with a manifest."""

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm.auto import tqdm

from hfembed.atomic import atomic_write
from hfembed.checkpoint.json_notes import write_json
from hfembed.errors import InputError
from hfembed.faces.data.face_sources import LANDMARKS_FEATURE
from hfembed.faces.data.landmarks import read_json
from hfembed.faces.data.mapped_files import PackedPhotos, physical_rows, whole_column
from hfembed.faces.data.shard_manifest import MANIFEST_FILE
from hfembed.models.image_opening import MAX_FILE_BYTES
from hfembed.photos import PHOTO_SUFFIXES

FORMAT_VERSION = 1
_PROGRESS_FILE = "progress.json"
_ROWS_PER_GROUP = 256  # a row group is what a reader of Parquet takes into memory
_SIGNATURES = ((b"\xff\xd8", "jpg"), (b"\x89PNG", "png"), (b"GIF8", "gif"), (b"BM", "bmp"))

Row = dict[str, Any]


def write_shards(
    faces: datasets.Dataset,
    folder: str | Path,
    to: Literal["parquet", "webdataset"],
    *,
    shard_photos: int = 10_000,
    by_person: bool = False,
    seed: int = 0,
    show_progress: bool = True,
) -> dict[str, Any]:
    """Write photos in the schema of `load_faces` as shards, in a random order that depends on the seed alone.

    Parquet has the columns `image`, `label` (the person: a number where all people are numbers), `file` and, where
    they differ between photos, `landmarks`. A webdataset sample is the photo under its own suffix and `cls`, a number:
    the person's, or where people have names their place among the sorted names; then, or where landmarks differ, also
    `json` ({"identity", "file", "landmarks"}). Landmarks that all photos share stand in the manifest.

    With `by_person` people are shuffled: the photos of a person lie side by side in one shard, whose size varies, so
    that a stream finds several photos of each person together.

    A shard appears once it is whole. What a killed run left is continued by the next one with the same arguments; in
    memory is one row group or photo at a time.

    Returns:
        The manifest, which is also `manifest.json`: format, photos, people, seed, landmarks, and of each shard its
        name, photos, bytes and sha256.

    Raises:
        InputError: The folder holds shards of something else, or a photo is too large or of no known format.
        OSError: The disk is full; whole shards stay.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    names = faces.features["label"].names
    labels = whole_column(faces, "label").to_numpy()
    used = np.unique(labels)
    landmarks = _shared_landmarks(faces)
    facts = {
        "format": to,
        "version": FORMAT_VERSION,
        "photos": len(faces),
        "people": len(used),
        "seed": seed,
        "shard_photos": shard_photos,
        "landmarks": landmarks,
        "by_person": by_person,
        "source": faces._fingerprint,
    }
    done = _continue(folder, facts)
    order = np.random.default_rng([seed]).permutation(len(faces))
    edges = np.append(np.arange(0, len(faces), shard_photos), len(faces))
    if by_person:
        turn: np.ndarray = np.random.default_rng([seed, 1]).permutation(len(names))
        order = order[np.argsort(turn[labels[order]], kind="stable")]
        edges = _edges_between_people(labels[order], shard_photos)
    # in tars, landmarks that all photos share would add a file to each; they stand in the manifest
    with_landmarks = (
        landmarks is None if to == "webdataset" else whole_column(faces, "landmarks").null_count < len(faces)
    )
    read = _reader(faces, with_landmarks)
    are_numbers = all(name.isascii() and name.isdecimal() and str(int(name)) == name for name in names)
    write = _write_parquet if to == "parquet" else _write_tar
    count = len(edges) - 1
    with tqdm(total=len(faces), unit="photo", disable=not show_progress) as bar:
        for number in range(count):
            first = int(edges[number])
            chosen = order[first : edges[number + 1]]
            name = f"{number:06d}.tar" if to == "webdataset" else f"train-{number:05d}-of-{count:05d}.parquet"
            if name not in done:
                rows = _rows(read, chosen, first, names, are_numbers, bar.update)
                with atomic_write(folder / name) as temporary:
                    write(temporary, rows, are_numbers, with_landmarks)
                    size, digest = temporary.stat().st_size, _sha256(temporary)
                done[name] = {"photos": len(chosen), "bytes": size, "sha256": digest}
                write_json(folder / _PROGRESS_FILE, _manifest(facts, done))
            else:
                bar.update(len(chosen))
    manifest = _manifest(facts, done)
    write_json(folder / MANIFEST_FILE, manifest)
    (folder / _PROGRESS_FILE).unlink(missing_ok=True)
    return manifest


def _edges_between_people(labels: np.ndarray, shard_photos: int) -> np.ndarray:
    """First photo of each shard, and the end: a shard ends with the person with whom it is full."""
    ends = np.append(np.flatnonzero(np.diff(labels)) + 1, len(labels))
    edges = [0]
    while edges[-1] < len(labels):
        person = int(np.searchsorted(ends, edges[-1] + shard_photos))
        edges.append(int(ends[min(person, len(ends) - 1)]))
    return np.array(edges)


def _manifest(facts: dict[str, Any], done: dict[str, Any]) -> dict[str, Any]:
    return facts | {"shards": [{"name": name, **done[name]} for name in sorted(done)]}


def _continue(folder: Path, facts: dict[str, Any]) -> dict[str, Any]:
    """The shards that an earlier run with the same facts has written: name -> what the manifest says of it."""
    for file in (folder / _PROGRESS_FILE, folder / MANIFEST_FILE):
        if not file.is_file():
            continue
        earlier = read_json(file, "what was written before")
        shards = earlier.get("shards") if isinstance(earlier, dict) else None
        if not isinstance(shards, list) or {name: earlier.get(name, False) for name in facts} != facts:
            raise InputError(f"{folder} holds shards of another conversion ({file.name}); choose another folder")
        return {
            shard["name"]: {fact: value for fact, value in shard.items() if fact != "name"}
            for shard in shards
            if (folder / shard["name"]).is_file() and (folder / shard["name"]).stat().st_size == shard["bytes"]
        }
    if any(entry for entry in folder.iterdir() if not entry.name.startswith(".")):
        raise InputError(f"{folder} is not empty; choose another folder")
    return {}


def _shared_landmarks(faces: datasets.Dataset) -> list[list[float]] | None:
    """The five points that all photos have in common; None where they differ or where there are none."""
    column = whole_column(faces, "landmarks")
    if column.null_count:
        return None
    values = np.concatenate([chunk.flatten().flatten().to_numpy() for chunk in column.chunks])
    points = values.reshape(-1, 10) if len(values) == 10 * len(column) else None
    return None if points is None or (points != points[0]).any() else points[0].reshape(5, 2).tolist()


def _reader(faces: datasets.Dataset, with_landmarks: bool) -> Callable[[int], Row]:
    """Row -> its encoded photo, label, file and landmarks."""
    stored = PackedPhotos.of(faces) or faces.cast_column("image", datasets.Image(decode=False))
    rows = physical_rows(faces)
    columns = {name: faces.data.column(name) for name in ("label", "file")}

    def read(row: int) -> Row:
        photo = stored[row]
        place = row if rows is None else int(rows[row])
        image = photo["image"]
        encoded = image["bytes"]
        if encoded is None:
            path = Path(image["path"])
            if path.stat().st_size > MAX_FILE_BYTES:
                raise InputError(f"{path} has more than {MAX_FILE_BYTES:,} bytes")
            encoded = path.read_bytes()
        points = photo.get("landmarks") if with_landmarks else None
        return {"bytes": encoded, "landmarks": points, **{n: column[place].as_py() for n, column in columns.items()}}

    return read


def _rows(
    read: Callable[[int], Row],
    chosen: np.ndarray,
    first: int,
    names: list[str],
    are_numbers: bool,
    update: Callable[[int], Any],
) -> Iterator[Row]:
    for place, row in enumerate(chosen.tolist(), start=first):
        photo = read(row)
        person = names[photo["label"]]
        yield photo | {"place": place, "person": int(person) if are_numbers else person}
        update(1)


def _write_parquet(path: Path, rows: Iterator[Row], are_numbers: bool, with_landmarks: bool) -> None:
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.Value("int64" if are_numbers else "string"),
            "file": datasets.Value("string"),
            **({"landmarks": LANDMARKS_FEATURE} if with_landmarks else {}),
        }
    )
    schema = features.arrow_schema
    # encoded photos do not compress, and their statistics would repeat them
    compression = {"image.bytes": "none", "label": "zstd", "file": "zstd"}
    with pq.ParquetWriter(path, schema, compression=compression, write_statistics=False) as writer:
        group: list[Row] = []

        def flush() -> None:
            columns = {
                "image": [{"bytes": row["bytes"], "path": Path(row["file"]).name} for row in group],
                "label": [row["person"] for row in group],
                "file": [row["file"] for row in group],
                "landmarks": [row["landmarks"] for row in group],
            }
            writer.write_table(pa.table({name: columns[name] for name in schema.names}, schema=schema))
            group.clear()

        for row in rows:
            group.append(row)
            if len(group) == _ROWS_PER_GROUP:
                flush()
        if group:
            flush()


def _write_tar(path: Path, rows: Iterator[Row], are_numbers: bool, with_landmarks: bool) -> None:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        archive.members = _Forgotten()  # type: ignore[attr-defined]  # tarfile keeps all of them otherwise

        def add(name: str, content: bytes) -> None:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))

        for row in rows:
            key = f"{row['place']:09d}"
            add(f"{key}.{_suffix(row)}", row["bytes"])
            add(f"{key}.cls", str(row["person"] if are_numbers else row["label"]).encode())
            if not are_numbers or with_landmarks and row["landmarks"] is not None:
                said = {"identity": str(row["person"]), "file": row["file"], "landmarks": row["landmarks"]}
                kept = {name: value for name, value in said.items() if value is not None}
                add(f"{key}.json", json.dumps(kept, ensure_ascii=False).encode())


class _Forgotten(list):
    def append(self, _: Any) -> None:
        pass


def _suffix(row: Row) -> str:
    """The suffix by what the photo begins with, or otherwise by its name."""
    start = row["bytes"][:16]
    for signature, suffix in _SIGNATURES:
        if start.startswith(signature):
            return suffix
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "webp"
    suffix = Path(row["file"]).suffix.lower()
    if suffix not in PHOTO_SUFFIXES:
        raise InputError(f"{row['file']} begins with {start[:4]!r}, which is no known format of photos")
    return suffix[1:]


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
