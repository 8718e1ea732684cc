"""Lists of samples to batches for face embedders."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from hfembed.faces.data.augmentation import FaceAugmentation
from hfembed.training.keyed_randomness import keyed_generator

if TYPE_CHECKING:
    from hfembed.models.face_embedder.image_processing_face_embedder import FaceImageProcessor


def margin_noise(seed: int, key: Sequence[int]) -> float:
    """Standard normal noise for the margin of one sample, by (epoch, index) or (epoch, index, repetition)."""
    return float(keyed_generator(seed, key, stream=2).standard_normal())


class FaceCollator:
    """Samples of `AlignedFaces` to a batch for a `FaceEmbedder...` model, augmented and normalized.

    Args:
        augmentation: Changes the uint8 pixels by each sample's key; None leaves them as they are.
        margin_seed: Add "margin_noise", keyed by this seed, for a head that draws its margins.
    """

    def __init__(
        self,
        processor: "FaceImageProcessor",
        augmentation: FaceAugmentation | None = None,
        margin_seed: int | None = None,
    ):
        self.processor = processor
        self.augmentation = augmentation
        self.margin_seed = margin_seed

    def __call__(self, samples: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Join samples of `AlignedFaces`.

        Args:
            samples: Each with "pixels" uint8 (channels, height, width), "label" and "key".

        Returns:
            "pixel_values" float32 (batch, channels, height, width) and "labels" int64 (batch,); with a
            `margin_seed` also "margin_noise" float32 (batch,).
        """
        pixels = torch.stack([sample["pixels"] for sample in samples])
        if self.augmentation is not None:
            pixels = self.augmentation(pixels, [sample["key"] for sample in samples])
        batch = {
            "pixel_values": self.processor.normalize(pixels),
            "labels": torch.tensor([sample["label"] for sample in samples], dtype=torch.int64),
        }
        if self.margin_seed is not None:
            batch["margin_noise"] = torch.tensor([margin_noise(self.margin_seed, sample["key"]) for sample in samples])
        return batch
