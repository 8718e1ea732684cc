"""Swap faces in photos: detect, align, reconstruct as another person, match the colors, paste back."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter

from hfembed.errors import InputError, counted, input_errors
from hfembed.faces.face_oval import face_oval
from hfembed.faces.face_pasting import align_face, find_faces, paste_face
from hfembed.faces.swap.color_transfer import COLOR_TRANSFERS, Colors
from hfembed.models.detected_faces import FaceDetector
from hfembed.models.face_embedder.image_processing_face_embedder import FaceImageProcessor
from hfembed.models.face_swap_base import FaceSwapBase
from hfembed.photos import open_photo

_CHANGES = (4.0, 16.0)  # of 255: from where on a photo's own detail goes, and from where on none stays
_CHANGE_WIDTH = 0.02  # of the crop


class FaceSwapper:
    """Replaces the faces in photos by another person's.

    Args:
        colors: What a new face takes over from the old one, see `color_transfer`: mean and `"deviation"` per channel;
            mean and `"covariance"` of the channels; the `"histogram"` per channel, with scikit-image; the colors at
            its edge, `"seamless"`; or `"none"`.
        softness: Width of the soft edge as a fraction of the face, in (0, 1].

    Raises:
        ValueError: `colors` is none of these.
    """

    def __init__(
        self,
        model: FaceSwapBase,
        processor: FaceImageProcessor,
        detector: FaceDetector | None = None,
        colors: Colors = "deviation",
        softness: float = 0.3,
    ) -> None:
        self.model = model
        self.processor = processor
        self.detector = detector
        if colors != "none" and colors not in COLOR_TRANSFERS:
            raise ValueError(f"colors must be one of {', '.join(COLOR_TRANSFERS)}, none, not {colors!r}")
        self.colors = colors
        height, width = processor.size["height"], processor.size["width"]
        self.oval = face_oval(processor.template, height, width, softness)

    def __call__(
        self,
        photo: str | Path | Image.Image,
        person: str,
        landmarks: Sequence[Sequence[Sequence[float]]] | np.ndarray | None = None,
        faces: Sequence[int] | None = None,
    ) -> tuple[Image.Image, int]:
        """Swap the faces of one photo.

        Args:
            landmarks: (n, 5, 2), [x, y] in pixels of the upright photo; None: the detector finds them.
            faces: Which of them, counted from the left from 0; None: all.

        Returns:
            The photo, "RGB", or "L" where it is gray, and how many faces were swapped.

        Raises:
            InputError: The photo cannot be read, has no face or not that many, or the person is unknown.
        """
        with input_errors():
            self.model.label_of(person)
        opened = open_photo(photo, mode=None)
        picture = opened.convert("RGB")
        name = str(photo) if isinstance(photo, str | Path) else "the photo"
        picture.filename = name  # type: ignore[attr-defined]  # by which messages name it
        found = self.find(picture, name) if landmarks is None else np.asarray(landmarks, dtype=np.float64)
        if found.ndim != 3 or found.shape[1:] != (5, 2):
            raise InputError(f"landmarks are five [x, y] for each face, not an array of shape {found.shape}")
        if landmarks is not None and _are_mirrored(found).any():
            raise InputError(
                f"{name}: landmarks in which left and right are exchanged; left is what lies left in the photo"
            )
        found = found[np.argsort(found[:, 2, 0], kind="stable")]
        chosen = range(len(found)) if faces is None else sorted(set(faces))
        for number in chosen:
            if not 0 <= number < len(found):
                raise InputError(
                    f"{name} has {counted(len(found), 'face')}, counted from 0 from the left; there is no {number}"
                )
        return self.replace([picture], [found[list(chosen)]], person)[0].convert(opened.mode), len(chosen)

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
            aligned = [align_face(self.processor, pictures[number], points) for number, points in faces]
        source = torch.from_numpy(np.stack([face.crop for face in aligned])).permute(0, 3, 1, 2) / 255
        drawn, masks = self.model.swap(source.to(self.model.device), person)
        drawn = 255 * drawn.float().cpu().permute(0, 2, 3, 1)
        changed: dict[int, np.ndarray] = {}
        for row, (number, _) in enumerate(faces):
            pixels = changed.setdefault(number, np.array(pictures[number]))
            weights = self.oval
            if masks is not None and not self.model.corrects_photos:  # a correction has had its mask
                weights = self.oval * masks[row, 0].float().cpu().numpy()
            face, crop = drawn[row].numpy(), aligned[row].crop
            if self.colors != "none":
                face = COLOR_TRANSFERS[self.colors](face, crop.astype(np.float32), weights)
            if self.model.corrects_photos:
                paste_face(pixels, face, weights, aligned[row].to_crop, crop, _detail_kept(face, crop))
            else:
                paste_face(pixels, face, weights, aligned[row].to_crop)
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
        return find_faces(self.detector, picture, name, "give its landmarks, another detector or a larger picture")


def _are_mirrored(landmarks: np.ndarray) -> np.ndarray:
    """Whether the mouth of faces (n, 5, 2) lies on the wrong side of their eyes: bool (n,)."""
    across = landmarks[:, 1] - landmarks[:, 0]
    down = landmarks[:, 3:].mean(1) - landmarks[:, :2].mean(1)
    return across[:, 0] * down[:, 1] < across[:, 1] * down[:, 0]


def _detail_kept(face: np.ndarray, crop: np.ndarray) -> np.ndarray:
    """How much of a larger photo's own detail is to stay, (height, width) in [0, 1].

    Pores and stubble stay where little changes, and nothing of the old brows and nostrils where much does.
    """
    change = gaussian_filter(np.abs(face - crop).mean(2), _CHANGE_WIDTH * face.shape[1])
    least, most = _CHANGES
    return np.clip((most - change) / (most - least), 0, 1)
