"""Landmarks for photos of one person each, by a detector: what an evaluation from raw photos aligns with."""

from collections.abc import Mapping
from pathlib import Path

import datasets
import numpy as np
import torch
from tqdm.auto import tqdm

from hfembed.models.detected_faces import FaceDetector
from hfembed.models.photo_image_processor import Photo, PhotoImageProcessor
from hfembed.threads import NumThreads, choose_threads, map_in_threads, split_batches

Detection = np.ndarray | str

_PHOTOS_AT_ONCE = 1024
NO_FACE = "no face detected"  # a `Detection` of a photo that could be read


def detect_central_faces(
    detector: FaceDetector,
    photos: Mapping[str, bytes | Path],
    batch_size: int = 32,
    num_threads: NumThreads = "auto",
    progress: bool = True,
) -> dict[str, Detection]:
    """The face nearest to the center of each photo, for photos that were cropped around one person.

    Returns:
        File -> landmarks (5, 2) in pixels of the photo, or the reason why there are none.
    """
    files = list(photos)
    num_threads = choose_threads(num_threads, detector.device)
    batches = [files[batch] for batch in split_batches(len(files), batch_size, num_threads)]

    def detect(batch: list[str]) -> dict[str, Detection]:
        return _detect(detector, {file: photos[file] for file in batch})

    found: dict[str, Detection] = {}
    with tqdm(total=len(files), desc="detecting", unit=" images", disable=not progress) as bar:
        for results in map_in_threads(detect, batches, num_threads):
            found.update(results)
            bar.update(len(results))
    return found


def detect_landmarks(
    detector: FaceDetector, faces: datasets.Dataset, num_threads: NumThreads = "auto", progress: bool = True
) -> dict[str, Detection]:
    """The face nearest to the center of each photo of a data set from `load_faces`, which is read piece by piece.

    Returns:
        As `detect_central_faces`.
    """
    stored = faces.select_columns(["file", "image"]).cast_column("image", datasets.Image(decode=False))
    found: dict[str, Detection] = {}
    with tqdm(total=len(stored), desc="detecting", unit=" images", disable=not progress) as bar:
        for piece in stored.iter(batch_size=_PHOTOS_AT_ONCE):
            photos = {
                file: Path(image["path"]) if image["bytes"] is None else image["bytes"]
                for file, image in zip(piece["file"], piece["image"], strict=True)
            }
            found |= detect_central_faces(detector, photos, num_threads=num_threads, progress=False)
            bar.update(len(photos))
    return found


def _detect(detector: FaceDetector, photos: Mapping[str, bytes | Path]) -> dict[str, Detection]:
    processor = PhotoImageProcessor()
    opened: dict[str, Photo] = {}
    found: dict[str, Detection] = {}
    for file, photo in photos.items():
        try:
            opened[file] = processor.open(photo, detector.config.max_image_size)
        except ValueError as error:
            found[file] = str(error)
    pixels, shrinkage = zip(*opened.values(), strict=True) if opened else ((), ())
    for (file, decoded), faces in zip(opened.items(), detector.detect_in(pixels, shrinkage), strict=True):
        if not len(faces.scores):
            found[file] = NO_FACE
            continue
        centers = (faces.boxes[:, :2] + faces.boxes[:, 2:]) / 2
        nearest = (centers - torch.tensor(decoded.size) / 2).norm(dim=1).argmin()
        found[file] = faces.landmarks[nearest].double().numpy()
    return found
