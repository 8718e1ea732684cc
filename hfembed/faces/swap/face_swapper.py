"""Swap faces in photos: detect, align, reconstruct as another person, match the colors, paste back."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from hfembed.errors import InputError, input_errors
from hfembed.faces.swap.face_oval import face_oval
from hfembed.models.detected_faces import FaceDetector
from hfembed.models.face_embedder.image_processing_face_embedder import FaceImageProcessor, similarity_transform
from hfembed.models.face_swap_base import FaceSwapBase
from hfembed.photos import open_photo

_CONTRAST_RANGE = (0.7, 1.4)  # color matching changes the contrast by no more than this


class FaceSwapper:
    """Replaces the faces in photos by another person's.

    Args:
        softness: Width of the soft edge as a fraction of the face, in (0, 1].
    """

    def __init__(
        self,
        model: FaceSwapBase,
        processor: FaceImageProcessor,
        detector: FaceDetector | None = None,
        match_colors: bool = True,
        softness: float = 0.3,
    ) -> None:
        self.model = model
        self.processor = processor
        self.detector = detector
        self.match_colors = match_colors
        height, width = processor.size["height"], processor.size["width"]
        self.oval = face_oval(processor.template, height, width, softness)

    def __call__(
        self,
        photo: str | Path | Image.Image,
        person: str,
        landmarks: Sequence[Sequence[Sequence[float]]] | np.ndarray | None = None,
        faces: Sequence[int] | None = None,
    ) -> Image.Image:
        """Swap the faces of one photo.

        Args:
            landmarks: (n, 5, 2), [x, y] in pixels of the upright photo; None: the detector finds them.
            faces: Which of them, counted from the left from 0; None: all.

        Raises:
            InputError: The photo cannot be read, has no face or not that many, or the person is unknown.
        """
        with input_errors():
            self.model.label_of(person)
        picture = open_photo(photo)
        name = str(photo) if isinstance(photo, str | Path) else "the photo"
        found = self.find(picture, name) if landmarks is None else np.asarray(landmarks, dtype=np.float64)
        if found.ndim != 3 or found.shape[1:] != (5, 2):
            raise InputError(f"landmarks are five [x, y] for each face, not an array of shape {found.shape}")
        found = found[np.argsort(found[:, 2, 0], kind="stable")]
        chosen = range(len(found)) if faces is None else faces
        for number in chosen:
            if not 0 <= number < len(found):
                raise InputError(
                    f"{name} has {len(found)} face(s), counted from 0 from the left; there is no {number}"
                )
        return self.replace([picture], [found[list(chosen)]], person)[0]

    def replace(
        self, pictures: Sequence[Image.Image], landmarks: Sequence[Sequence[np.ndarray] | np.ndarray], person: str
    ) -> list[Image.Image]:
        """Swap known faces in several pictures; all faces go through the network together.

        Args:
            pictures: RGB, upright.
            landmarks: For each picture its faces (n, 5, 2), [x, y] in pixels; n may be 0.

        Raises:
            InputError: A face lies outside of its picture.
        """
        faces = [(number, points) for number, found in enumerate(landmarks) for points in found]
        if not faces:
            return list(pictures)
        with input_errors():
            crops = [self.processor.align(pictures[number], points) for number, points in faces]
            to_crops = [similarity_transform(points, np.asarray(self.processor.template)) for _, points in faces]
        source = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2) / 255
        drawn, masks = self.model.swap(source.to(self.model.device), person)
        drawn = 255 * drawn.float().cpu().permute(0, 2, 3, 1)
        changed: dict[int, np.ndarray] = {}
        for row, (number, _) in enumerate(faces):
            pixels = changed.setdefault(number, np.array(pictures[number]))
            weights = self.oval
            if masks is not None and not self.model.corrects_photos:  # a correction has had its mask
                weights = self.oval * masks[row, 0].float().cpu().numpy()
            self._paste(pixels, drawn[row].numpy(), crops[row], weights, to_crops[row])
        return [
            Image.fromarray(changed[number]) if number in changed else picture
            for number, picture in enumerate(pictures)
        ]

    def find(self, picture: Image.Image, name: str = "the photo") -> np.ndarray:
        """Landmarks (n, 5, 2) of all faces, n at least 1.

        Raises:
            InputError: There is no detector, or it finds nobody.
        """
        if self.detector is None:
            raise InputError("give a face detector, or five landmarks for each face")
        landmarks = self.detector.detect([picture])[0].landmarks.numpy()
        if len(landmarks) == 0:
            raise InputError(f"no face was found in {name}: give its landmarks, or a larger picture")
        return landmarks

    def _paste(
        self, pixels: np.ndarray, face: np.ndarray, crop: np.ndarray, weights: np.ndarray, to_crop: np.ndarray
    ) -> None:
        """Paste one face into `pixels`, uint8 (height, width, 3); face and crop in [0, 255].

        Of a model that corrects photos only the difference to the crop is pasted: a larger photo keeps its detail.
        """
        if self.match_colors:
            face = match_colors(face, crop.astype(np.float32), weights)
        if self.model.corrects_photos:
            face = face - crop
        face = np.repeat(face, 3, axis=2) if face.shape[2] == 1 else face
        box = _covered(to_crop, self.processor.size, (pixels.shape[1], pixels.shape[0]))
        if box is None:
            return
        left, top, right, bottom = box
        layers = [_resample_back(layer, to_crop, box) for layer in (*face.transpose(2, 0, 1), weights)]
        pasted, opacity = np.stack(layers[:3], axis=2), np.clip(layers[3], 0, 1)[:, :, None]
        region = pixels[top:bottom, left:right]
        change = pasted if self.model.corrects_photos else pasted - region
        region[:] = np.clip(np.rint(region + opacity * change), 0, 255)


def match_colors(face: np.ndarray, reference: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Give a face the mean and standard deviation per channel of another face.

    Reinhard et al., "Color Transfer between Images", 2001, on RGB; the contrast changes by no more than 0.7 to 1.4.

    Args:
        face: float (height, width, channels).
        weights: (height, width) of the pixels.

    Returns:
        float, the same shape.
    """
    weights = weights[:, :, None] / max(weights.sum(), 1e-6)

    def spread(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mean = (weights * image).sum(axis=(0, 1))
        return mean, np.sqrt((weights * (image - mean) ** 2).sum(axis=(0, 1)))

    mean, deviation = spread(face)
    wanted_mean, wanted_deviation = spread(reference)
    contrast = np.clip(wanted_deviation / np.maximum(deviation, 1e-3), *_CONTRAST_RANGE)
    return (face - mean) * contrast + wanted_mean


def _covered(
    to_crop: np.ndarray, crop_size: dict[str, int], photo_size: tuple[int, int]
) -> tuple[int, int, int, int] | None:
    """The part of the photo, left, top, right, bottom, that the crop covers; None where they do not meet."""
    corners = np.array([[x, y] for x in (0, crop_size["width"] - 1) for y in (0, crop_size["height"] - 1)])
    positions = np.linalg.solve(to_crop[:, :2], (corners - to_crop[:, 2]).T)
    left, top = np.maximum(np.floor(positions.min(axis=1)), 0).astype(int)
    right, bottom = np.minimum(np.ceil(positions.max(axis=1)) + 1, photo_size).astype(int)
    return (left, top, right, bottom) if left < right and top < bottom else None


def _resample_back(layer: np.ndarray, to_crop: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
    """One channel of the crop, resampled to a part of the photo; 0 outside the crop."""
    left, top, right, bottom = box
    # Pillow counts from the corner of a pixel, the matrix from its center
    center = to_crop @ np.array([left - 0.5, top - 0.5, 1.0]) + 0.5
    coefficients = (*to_crop[0, :2], center[0], *to_crop[1, :2], center[1])
    image = Image.fromarray(np.ascontiguousarray(layer, dtype=np.float32))
    size = (right - left, bottom - top)
    return np.asarray(image.transform(size, Image.Transform.AFFINE, coefficients, Image.Resampling.BICUBIC))
