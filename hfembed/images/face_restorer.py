"""Restore the faces of photos: find, align, restore, paste the correction back."""

import numpy as np
import torch
from PIL import Image

from hfembed.errors import InputError, input_errors
from hfembed.faces.face_oval import face_oval
from hfembed.faces.face_pasting import align_face, find_faces, paste_face
from hfembed.images.restoration import check_removes_damage, inpaint, restore
from hfembed.models.autoencoder_base import AutoencoderModelBase
from hfembed.models.detected_faces import FaceDetector
from hfembed.models.face_embedder.image_processing_face_embedder import FaceImageProcessor, similarity_transform

_LARGEST = 8  # faces are restored at up to this many times the model's size
_WAY_OUT = "--whole restores the photo by tiles, wherever its faces are; --scale finds smaller ones"


class FaceRestorer:
    """Restores the faces in photos; outside of their ovals a photo stays as it is.

    A face that is larger than the model's input is aligned at a multiple of that size, the smallest at which no detail
    is lost, and restored in overlapping tiles. Only the difference between the restored and the aligned face is pasted
    back, so that resampling does not blur the photo.

    Args:
        softness: Width of the soft edge as a fraction of the face, in (0, 1].

    Raises:
        InputError: The model was not trained on aligned faces, or removes no damage.
    """

    def __init__(self, model: AutoencoderModelBase, detector: FaceDetector, softness: float = 0.3) -> None:
        check_takes_faces(model)
        self.model = model
        self.detector = detector
        self.softness = softness

    def __call__(
        self, picture: Image.Image, mask: np.ndarray | None = None, name: str = "the photo"
    ) -> tuple[Image.Image, int]:
        """Restore the faces of one upright photo.

        Args:
            picture: "RGB", or "L", which stays gray.
            mask: (height, width) bool, true where the photo has holes: they are filled, outside of faces too.
            name: Of the photo, for messages.

        Returns:
            The photo, of the same mode and size, and how many faces were restored.

        Raises:
            InputError: No face is found; errors of `restore`.
        """
        color = picture.convert("RGB")
        if mask is not None:
            color = self._filled(color, mask)
        faces = find_faces(self.detector, color, name, _WAY_OUT)
        pixels = np.array(color)
        for landmarks in faces:
            self._restore_face(pixels, color, landmarks, mask)
        return Image.fromarray(pixels).convert(picture.mode), len(faces)

    def _filled(self, picture: Image.Image, mask: np.ndarray) -> Image.Image:
        photo, holes = torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255, torch.from_numpy(mask)
        filled = inpaint(self.model, photo, holes).mul(255).round().byte()
        return Image.fromarray(filled.permute(1, 2, 0).numpy())

    def _restore_face(
        self, pixels: np.ndarray, picture: Image.Image, landmarks: np.ndarray, mask: np.ndarray | None
    ) -> None:
        """Restore one face of a picture, and paste it into `pixels`."""
        processor = _processor(self.model, landmarks)
        with input_errors():
            crop, to_crop = align_face(processor, picture, landmarks)
            hole = None
            if mask is not None:
                aligned, _ = align_face(processor, Image.fromarray(mask).convert("RGB"), landmarks)
                hole = torch.from_numpy(aligned[:, :, 0] > 127)
        image = torch.from_numpy(crop).permute(2, 0, 1) / 255
        is_masked = hole is not None and bool(hole.any()) and not bool(hole.all())
        restored = restore(self.model, image, hole if is_masked else None)
        face = 255 * restored.permute(1, 2, 0).numpy()
        height, width = crop.shape[:2]
        oval = face_oval(processor.template, height, width, self.softness)
        paste_face(pixels, face, oval, to_crop, crop)


def check_takes_faces(model: AutoencoderModelBase) -> None:
    """Refuse a model that does not restore aligned faces.

    Raises:
        InputError: It was not trained on aligned faces, or removes no damage.
    """
    check_removes_damage(model)
    if not model.config.aligned_faces:
        raise InputError(f"this model was not trained on aligned faces (recipes/restore_112.yaml); {_WAY_OUT}")


def _processor(model: AutoencoderModelBase, landmarks: np.ndarray) -> FaceImageProcessor:
    """The processor that aligns a face at the smallest multiple of the model's size at which no detail is lost."""
    height, width = model.config.image_size
    processor = FaceImageProcessor(size=[height, width])
    with input_errors():
        scale = np.hypot(*similarity_transform(landmarks, np.asarray(processor.template))[:, 0])
    times = int(np.clip(np.ceil(1 / scale - 0.1), 1, _LARGEST))  # a tenth larger loses nothing that is seen
    return FaceImageProcessor(size=[times * height, times * width])
