"""A folder of photos -> every face in it, cropped and embedded."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm.auto import tqdm

from hfembed.checkpoint.checkpoint import Checkpoint
from hfembed.checkpoint.loading import load_face_embedder
from hfembed.errors import InputError, input_errors
from hfembed.faces.evaluation.embedding import FaceFile, align_faces, embed_aligned
from hfembed.faces.face_analyzer import FaceAnalyzer, describe_set_aside
from hfembed.index.min_quality import MIN_QUALITY
from hfembed.models.face_embedder.image_processing_face_embedder import FaceImageProcessor
from hfembed.models.face_embedder.modeling_face_embedder import FaceEmbedderModel
from hfembed.photos import PhotoListing, find_photos


class Search(NamedTuple):
    """How the detector searches; see its `change_search`. None leaves what its config says."""

    turned: bool | None = None
    max_image_size: int | None = None


_AS_CONFIGURED = Search()


class FaceCrops(NamedTuple):
    """The faces of a folder.

    Attributes:
        crops: (N, H, W, C) uint8, as the embedder sees them; in a file that ends with the array.
        embeddings: (N, D) float32, unit length.
        set_aside: One line for each photo with faces of too low a quality beside others.
    """

    files: list[str]
    crops: np.ndarray
    embeddings: np.ndarray
    failures: dict[str, str]
    thresholds: dict[str, Any] | None
    set_aside: Sequence[str] = ()


def read_face_crops(
    folder: str | Path | PhotoListing,
    model: str | Path | Checkpoint,
    aligned: bool = False,
    batch_size: int = 32,
    device: str = "auto",
    min_quality: float = MIN_QUALITY,
    search: Search = _AS_CONFIGURED,
) -> FaceCrops:
    """Find and embed all faces in the photos of a folder.

    Args:
        min_quality: Faces whose `quality.overall` is lower are left out; of cropped faces it is not known.

    Raises:
        InputError: There is no such folder or model, no photo, or no face in any of them.
    """
    listing = folder if isinstance(folder, PhotoListing) else find_photos(folder)
    if aligned:
        faces = _aligned(listing, model, batch_size, device)
    else:
        faces = _detected(listing, model, batch_size, device, min_quality, search)
    if not faces.files:
        name, reason = next(iter(faces.failures.items()))
        raise InputError(f"no face in any of the {len(listing.photos)} photos; the first, {name}: {reason}")
    return faces


def _aligned(listing: PhotoListing, model: str | Path | Checkpoint, batch_size: int, device: str) -> FaceCrops:
    embedder, processor = load_face_embedder(model, device)
    photos = [FaceFile(name, path) for name, path in zip(listing.names, listing.photos, strict=True)]
    found = align_faces(processor, photos, batch_size, num_workers=0)
    failures = dict(found.failures)
    rows = np.array([row for row, name in enumerate(listing.names) if name not in failures], dtype=np.int64)
    embeddings = embed_aligned(embedder, processor, found.pixels[rows], batch_size)
    is_finite = np.isfinite(embeddings).all(axis=1)
    failures |= {listing.names[row]: "the embedding is not finite" for row in rows[~is_finite]}
    kept = rows[is_finite]
    crops = found.pixels[kept].permute(0, 2, 3, 1).numpy()
    files = [listing.names[row] for row in kept]
    return FaceCrops(files, crops, embeddings[is_finite], failures, embedder.config.thresholds)


def _detected(
    listing: PhotoListing,
    model: str | Path | Checkpoint,
    batch_size: int,
    device: str,
    min_quality: float,
    search: Search,
) -> FaceCrops:
    analyzer = _load(model, device, search)
    photos = analyzer.stream(listing.photos, "all", batch_size, return_crops=True, min_quality=min_quality)
    files: list[str] = []
    embeddings: list[np.ndarray] = []
    failures: dict[str, str] = {}
    set_aside: list[str] = []
    pixels = tempfile.TemporaryFile()
    bar = tqdm(photos, total=len(listing.photos), unit=" photos", disable=None)  # None: on a terminal alone
    for name, photo in zip(listing.names, bar, strict=True):
        if photo.problem:
            failures[name] = photo.problem.removeprefix(f"{photo.name}: ")
        elif line := describe_set_aside(photo):
            set_aside.append(line)
        for face in photo.faces:
            files.append(name)
            embeddings.append(face.embedding)
            crop = np.ascontiguousarray(face.crop)
            pixels.write(crop.data)
            shape = crop.shape
    pixels.flush()
    crops = np.memmap(pixels, np.uint8, "r", shape=(len(files), *shape)) if files else np.empty(0, np.uint8)
    thresholds = analyzer.embedder.config.thresholds
    return FaceCrops(files, crops, np.array(embeddings), failures, thresholds, set_aside)


def read_face_pair(
    a: str | Path,
    b: str | Path,
    model: str | Path | Checkpoint,
    aligned: bool = False,
    device: str = "auto",
    min_quality: float = MIN_QUALITY,
    search: Search = _AS_CONFIGURED,
) -> tuple[FaceEmbedderModel, FaceImageProcessor, torch.Tensor, torch.Tensor]:
    """Crop the largest face of each of two photos.

    Returns:
        The embedder, its processor, and the two crops (C, H, W) uint8.

    Raises:
        InputError: A photo cannot be read or shows no face.
    """
    if aligned:
        embedder, processor = load_face_embedder(model, device)
        with input_errors():
            crops = [processor.align(photo) for photo in (a, b)]
    else:
        analyzer = _load(model, device, search)
        embedder, processor = analyzer.embedder, analyzer.embedder_processor
        photos = list(analyzer.stream([a, b], "largest", return_crops=True, min_quality=min_quality))
        for photo in photos:
            if photo.error:
                raise InputError(photo.error)
        crops = [np.asarray(photo.faces[0].crop) for photo in photos]
    first, second = (torch.from_numpy(crop.transpose(2, 0, 1).copy()) for crop in crops)
    return embedder, processor, first, second


def _load(model: str | Path | Checkpoint, device: str, search: Search) -> FaceAnalyzer:
    analyzer = FaceAnalyzer.from_pretrained(model, device)
    with input_errors():
        analyzer.detector.change_search(*search)
    return analyzer
