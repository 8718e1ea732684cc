"""A folder of photos -> every face in it, cut out and embedded."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from transformers import BaseImageProcessor, PreTrainedModel

from hfembed.checkpoint.loading import load_face_embedder
from hfembed.errors import InputError
from hfembed.faces.evaluation.embedding import FaceFile, align_faces, embed_aligned
from hfembed.photos import find_photos


class FaceCrops(NamedTuple):
    """The faces of a folder.

    Attributes:
        files: N names of photos, relative to the folder; a photo with several faces comes several times.
        crops: (N, H, W, C) uint8, as the embedder sees them.
        embeddings: (N, D) float32, unit length.
        failures: Photo -> why it gave no face.
        thresholds: What the embedder's checkpoint knows about its scores.
    """

    files: list[str]
    crops: np.ndarray
    embeddings: np.ndarray
    failures: dict[str, str]
    thresholds: dict | None


def read_face_crops(
    folder: str | Path, model: str, aligned: bool = False, batch_size: int = 32, device: str = "auto"
) -> FaceCrops:
    """Find and embed all faces in the photos of a folder.

    Args:
        folder: The folder; folders within are looked through too.
        model: Checkpoint of a `FaceAnalyzer`, or of a face embedder where the photos are `aligned`.
        aligned: Each photo is one face already, cut out about as the embedder wants it: no detector.
        batch_size: Photos at a time.
        device: A torch device, or "auto".

    Returns:
        The faces, in the order of the files.

    Raises:
        InputError: The folder is none or has no photos, the model is none, or no face was found at all.
    """
    listing = find_photos(folder)
    read = _aligned if aligned else _detected
    return read(listing.photos, listing.names, model, batch_size, device)


def _aligned(paths: list[Path], names: list[str], model: str, batch_size: int, device: str) -> FaceCrops:
    embedder, processor = load_face_embedder(model, device)
    photos = [FaceFile(name, path) for name, path in zip(names, paths, strict=True)]
    found = align_faces(processor, photos, batch_size, num_workers=0)
    usable = [row for row, name in enumerate(names) if name not in found.failures]
    pixels = found.pixels[usable]
    return FaceCrops(
        [names[row] for row in usable],
        pixels.permute(0, 2, 3, 1).numpy(),
        embed_aligned(embedder, processor, pixels, batch_size),
        found.failures,
        embedder.config.thresholds,
    )


def _detected(paths: list[Path], names: list[str], model: str, batch_size: int, device: str) -> FaceCrops:
    from hfembed.faces.face_analyzer import FaceAnalyzer

    analyzer = FaceAnalyzer.from_pretrained(model, device)
    files, crops, embeddings, failures = [], [], [], {}
    for path, name, photo in zip(paths, names, analyzer.stream(paths, "all", batch_size), strict=True):
        if not photo.faces:
            failures[name] = photo.error or "no face detected"
        for face in photo.faces:
            files.append(name)
            crops.append(analyzer.embedder_processor.align(path, face.landmarks))
            embeddings.append(face.embedding)
    if not files:
        name, reason = next(iter(failures.items()))
        raise InputError(f"no face in any of the {len(names)} photos; the first, {name}: {reason}")
    return FaceCrops(files, np.stack(crops), np.stack(embeddings), failures, analyzer.embedder.config.thresholds)


def read_face_pair(
    a: str | Path, b: str | Path, model: str, aligned: bool = False, device: str = "auto"
) -> tuple[PreTrainedModel, BaseImageProcessor, torch.Tensor, torch.Tensor]:
    """Cut out the largest face of each of two photos.

    Args:
        a: A photo.
        b: Another.
        model: As for `read_face_crops`.
        aligned: As for `read_face_crops`.
        device: A torch device, or "auto".

    Returns:
        The embedder, its processor, and the two crops (C, H, W) uint8.

    Raises:
        InputError: A photo cannot be read or shows no face.
        ValueError: An aligned photo cannot be read.
    """
    if aligned:
        embedder, processor = load_face_embedder(model, device)
        crops = [processor.align(photo) for photo in (a, b)]
    else:
        from hfembed.faces.face_analyzer import FaceAnalyzer

        analyzer = FaceAnalyzer.from_pretrained(model, device)
        embedder, processor = analyzer.embedder, analyzer.embedder_processor
        photos = analyzer([a, b], "largest")
        for photo in photos:
            if not photo.faces:
                raise InputError(photo.error or f"{photo.name}: no face detected")
        crops = [processor.align(file, photo.faces[0].landmarks) for file, photo in zip((a, b), photos, strict=True)]
    return embedder, processor, *(torch.from_numpy(crop.transpose(2, 0, 1).copy()) for crop in crops)
