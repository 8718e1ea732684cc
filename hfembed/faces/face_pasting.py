"""Faces of a photo: found, aligned to a template, and pasted back to where they were."""

from typing import NamedTuple

import numpy as np
from PIL import Image

from hfembed.errors import InputError
from hfembed.models.detected_faces import FaceDetector
from hfembed.models.face_embedder.image_processing_face_embedder import (
    FaceImageProcessor,
    lie_inside,
    similarity_transform,
)

_FINER = 1.5  # crop pixels per photo pixel
# in extents of the landmarks of the better face: of RetinaFace's, in photos in the wild, the same face has 0.4 to 0.74
# and 0.5 to 0.8, another one 1.6 and more
_SAME, _SAME_SIZES = 0.8, (0.4, 1.5)


class AlignedFace(NamedTuple):
    """A face cut out of a photo.

    Attributes:
        crop: uint8 (height, width, channels), on the processor's template.
        to_crop: (2, 3), from the photo's pixels to the crop's.
    """

    crop: np.ndarray
    to_crop: np.ndarray


def find_faces(detector: FaceDetector, picture: Image.Image, name: str, way_out: str) -> np.ndarray:
    """Landmarks (n, 5, 2) of all faces of a picture that can be pasted into, n at least 1.

    Raises:
        InputError: The detector finds nobody; `way_out` ends the line.
    """
    landmarks = detector.detect([picture])[0].landmarks.numpy()
    landmarks = landmarks[can_be_pasted(landmarks, picture.size)]
    if len(landmarks) == 0:
        raise InputError(f"no face was found in {name}: {way_out}")
    return landmarks


def can_be_pasted(landmarks: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Which of a detector's faces (n, 5, 2), the highest-scoring first, to work on in a picture of (width, height).

    Left out are those beyond an edge, and those of about the size of a better one in whose midst they lie: a turned
    head is found several times. Heads of two people lie less close, and a face on a shirt is smaller.

    Returns:
        bool (n,).
    """
    middles, extents = landmarks.mean(1), np.ptp(landmarks, axis=1).max(1)
    chosen = lie_inside(landmarks, size)
    for number in range(len(landmarks)):
        better = np.flatnonzero(chosen[:number])
        distances = np.hypot(*(middles[better] - middles[number]).T) / extents[better]
        sizes = extents[number] / extents[better]
        chosen[number] &= not ((distances < _SAME) & (_SAME_SIZES[0] < sizes) & (sizes < _SAME_SIZES[1])).any()
    return chosen


def align_face(processor: FaceImageProcessor, picture: Image.Image, landmarks: np.ndarray) -> AlignedFace:
    """Cut a face out by its landmarks (5, 2).

    Raises:
        ValueError: The face lies outside of the picture.
    """
    crop = processor.align(picture, landmarks)
    return AlignedFace(crop, similarity_transform(landmarks, np.asarray(processor.template)))


def paste_face(
    pixels: np.ndarray,
    face: np.ndarray,
    opacity: np.ndarray,
    to_crop: np.ndarray,
    crop: np.ndarray | None = None,
    detail_kept: np.ndarray | None = None,
) -> None:
    """Paste a face into a photo.

    Args:
        pixels: uint8 (height, width, 3), the photo; changed in place.
        face: float (h, w, 1 or 3), what the crop is to be, in [0, 255].
        opacity: float (h, w) in [0, 1].
        to_crop: As of `AlignedFace`.
        crop: float or uint8 (h, w, 1 or 3): what the crop was; then detail stays that the photo has and it has not.
        detail_kept: With `crop`, float (h, w) in [0, 1]: how much of that detail stays; None: all.
    """
    box = _covered(to_crop, face.shape[:2], (pixels.shape[1], pixels.shape[0]))
    if box is None:
        return
    left, top, right, bottom = box
    region = pixels[top:bottom, left:right]

    def in_photo(image: np.ndarray) -> np.ndarray:
        channels = image.transpose(2, 0, 1) if image.ndim == 3 else [image]
        return np.stack([_resample_back(channel, to_crop, box) for channel in channels], axis=2)

    wanted = in_photo(face)
    if crop is not None:
        kept = 1 if detail_kept is None else np.clip(in_photo(detail_kept), 0, 1)
        wanted = wanted + kept * (region - in_photo(crop))
    weight = np.clip(in_photo(opacity), 0, 1)
    region[:] = np.clip(np.rint(region + weight * (wanted - region)), 0, 255)


def _covered(
    to_crop: np.ndarray, crop_size: tuple[int, int], photo_size: tuple[int, int]
) -> tuple[int, int, int, int] | None:
    """The part of the photo, left, top, right, bottom, that the crop covers; None where they do not meet."""
    corners = np.array([[x, y] for x in (0, crop_size[1] - 1) for y in (0, crop_size[0] - 1)])
    positions = np.linalg.solve(to_crop[:, :2], (corners - to_crop[:, 2]).T)
    left, top = np.maximum(np.floor(positions.min(axis=1)), 0).astype(int)
    right, bottom = np.minimum(np.ceil(positions.max(axis=1)) + 1, photo_size).astype(int)
    return (left, top, right, bottom) if left < right and top < bottom else None


def _resample_back(layer: np.ndarray, to_crop: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
    """One channel of the crop, resampled to a part of the photo; 0 outside the crop."""
    left, top, right, bottom = box
    image = Image.fromarray(np.ascontiguousarray(layer, dtype=np.float32))
    height, width = layer.shape
    shrinkage = np.hypot(*to_crop[:, 0])
    if shrinkage > _FINER:  # averaged down first: single pixels of a much finer crop would be picked out otherwise
        small = max(round(width / shrinkage), 1), max(round(height / shrinkage), 1)
        image = image.resize(small, Image.Resampling.BICUBIC)
    to_image = np.array([[image.width / width], [image.height / height]])
    # Pillow counts from the corner of a pixel, the matrix from its center
    center = to_crop @ np.array([left - 0.5, top - 0.5, 1.0]) + 0.5
    rows = to_image * np.column_stack([to_crop[:, :2], center])
    size = (right - left, bottom - top)
    return np.asarray(image.transform(size, Image.Transform.AFFINE, tuple(rows.ravel()), Image.Resampling.BICUBIC))
