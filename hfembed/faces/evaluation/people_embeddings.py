"""Embed the photos of people from any source, to measure identification on."""

import hashlib
import json
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from datasets import Image
from transformers import PreTrainedModel

from hfembed.errors import InputError
from hfembed.faces.data.faces import load_faces
from hfembed.faces.evaluation.embedding import FaceFile, embed_faces
from hfembed.index.embedding_index import EmbeddingIndex
from hfembed.index.origin import Origin
from hfembed.models.face_embedder.image_processing_face_embedder import FaceImageProcessor


class PeopleEmbeddings(NamedTuple):
    """N photos of people.

    Attributes:
        embeddings: (N, D) float32, NaN where a photo failed.
        files: N names, "Person/photo.jpg".
    """

    embeddings: np.ndarray
    files: list[str]
    people: list[str]
    failures: dict[str, str]


def embed_people(
    model: PreTrainedModel,
    processor: FaceImageProcessor,
    source: str | Path,
    landmarks: str | Path | None = None,
    index_folder: str | Path | None = None,
    undetected: Literal["error", "center-crop"] = "error",
    batch_size: int = 64,
    num_workers: int = 2,
    progress: bool = True,
) -> PeopleEmbeddings:
    """Embed all photos of a source.

    Raises:
        InputError: The source cannot be read, none of the photos can be used, or the index is of other photos or of
            another model.
    """
    faces = load_faces(source, landmarks=landmarks)
    files, points = faces["file"][:], faces["landmarks"][:]
    people = faces.features["label"].int2str(faces["label"][:])
    settings = {
        "mirror": model.config.mirror,
        "undetected": undetected,
        "processor": _digest(processor.to_dict()),
        "photos": _digest(files),
        "landmarks": None if landmarks is None else _digest(points),
    }
    origin = Origin() if index_folder is None else Origin.of(model, **settings)
    if index_folder is not None and Path(index_folder).exists():
        return _from_index(EmbeddingIndex.from_pretrained(index_folder), index_folder, origin, files, people)
    failures: dict[str, str] = {}
    if landmarks is not None and undetected == "error":
        failures = {file: "no face detected" for file, found in zip(files, points, strict=True) if found is None}
    rows = [row for row, file in enumerate(files) if file not in failures]
    stored = faces.select_columns("image").cast_column("image", Image(decode=False)).select(rows)
    photos = [
        FaceFile(files[row], photo["image"]["bytes"] or Path(photo["image"]["path"]), points[row])
        for row, photo in zip(rows, stored, strict=True)
    ]
    found, broken = embed_faces(model, processor, photos, batch_size, num_workers, progress)
    embeddings = np.full((len(files), found.shape[1]), np.nan, dtype=np.float32)
    embeddings[rows] = found
    if index_folder is not None:
        index = EmbeddingIndex(origin=origin)
        usable = [row for row in rows if files[row] not in broken]
        index.add(embeddings[usable], [people[row] for row in usable], [files[row] for row in usable])
        index.save(index_folder)
    return PeopleEmbeddings(embeddings, files, people, failures | broken)


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _from_index(
    index: EmbeddingIndex, folder: str | Path, origin: Origin, files: list[str], people: list[str]
) -> PeopleEmbeddings:
    index.check_origin(origin, name=str(folder))
    if index.origin.weights is None or index.origin.settings.keys() != origin.settings.keys():
        raise InputError(f"{folder} does not say how its embeddings were made; give another folder")
    place: dict[tuple[str, str | None], int] = {
        (person, file): row for row, (person, file) in enumerate(zip(people, files, strict=True))
    }
    foreign = [file for person, file in zip(index.labels, index.files, strict=True) if (person, file) not in place]
    if foreign:
        raise InputError(f"{folder} contains other photos, such as {foreign[0]}; give another folder")
    vectors = index.vectors().numpy()
    embeddings = np.full((len(files), vectors.shape[1]), np.nan, dtype=np.float32)
    embeddings[[place[key] for key in zip(index.labels, index.files, strict=True)]] = vectors
    failures = {file: f"not in {folder}" for file, row in zip(files, embeddings, strict=True) if np.isnan(row[0])}
    return PeopleEmbeddings(embeddings, files, people, failures)
