"""Find the landmarks of faces in crops, where detectors would miss them: they look for whole heads."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from hfembed.models.detected_faces import FaceDetector

# crops are enlarged to this many pixels, with the edge repeated around them, since faces that fill an image are missed
_SHOWN_AT = 160
_BORDER = 40


def find_landmarks(detector: FaceDetector, faces: torch.Tensor | Sequence[torch.Tensor]) -> np.ndarray:
    """Find five landmarks in face crops.

    Args:
        faces: (n, C, H, W) in [0, 1].

    Returns:
        (n, 5, 2), [x, y] in pixels of the crops, of the highest-scoring face; NaN where none was found.
    """
    pictures = []
    for face in faces:
        pixels = (face.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        picture = Image.fromarray(np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels)
        shown = np.asarray(picture.resize((_SHOWN_AT, _SHOWN_AT), Image.Resampling.BICUBIC))
        pictures.append(np.pad(shown, ((_BORDER, _BORDER), (_BORDER, _BORDER), (0, 0)), mode="edge"))
    landmarks = np.full((len(pictures), 5, 2), np.nan)
    for place, found in enumerate(detector.detect(pictures)):
        if len(found.landmarks):
            scale = _SHOWN_AT / faces[place].shape[-1]
            landmarks[place] = (found.landmarks[0].numpy() - _BORDER + 0.5) / scale - 0.5
    return landmarks
