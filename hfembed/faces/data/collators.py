"""Lists of samples to batches for face embedders."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from hfembed.faces.data.augmentation import FaceAugmentation

if TYPE_CHECKING:
    from hfembed.models.face_embedder.image_processing_face_embedder import FaceImageProcessor


class FaceCollator:
    """Samples of `AlignedFaces` to a batch for a `FaceEmbedder...` model, augmented and normalized.

    Args:
        augmentation: Changes the uint8 pixels by each sample's key; None leaves them as they are.
    """

    def __init__(self, processor: "FaceImageProcessor", augmentation: FaceAugmentation | None = None):
        self.processor = processor
        self.augmentation = augmentation

    def __call__(self, samples: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Join samples of `AlignedFaces`.

        Args:
            samples: Each with "pixels" uint8 (channels, height, width), "label" and "key".

        Returns:
            "pixel_values" float32 (batch, channels, height, width) and "labels" int64 (batch,).
        """
        pixels = torch.stack([sample["pixels"] for sample in samples])
        if self.augmentation is not None:
            pixels = self.augmentation(pixels, [sample["key"] for sample in samples])
        return {
            "pixel_values": self.processor.normalize(pixels),
            "labels": torch.tensor([sample["label"] for sample in samples], dtype=torch.int64),
        }
