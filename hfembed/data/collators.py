"""Lists of samples to batches for the models."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from hfembed.data.augmentation import FaceAugmentation
from hfembed.data.corruptions import Corruption

if TYPE_CHECKING:
    from hfembed.models.conv_autoencoder.image_processing_conv_autoencoder import ConvAutoencoderImageProcessor
    from hfembed.models.face_embedder.image_processing_face_embedder import FaceImageProcessor


class FaceCollator:
    """Samples of `AlignedFaces` to a batch for a `FaceEmbedder...` model, augmented and normalised.

    Args:
        processor: Gives the normalisation, and nothing else: the pixels are aligned already.
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


class AutoencoderCollator:
    """Samples of `AlignedFaces` to a batch for a `ConvAutoencoderModel`: corrupted in, clean out.

    Args:
        processor: Scales the pixels, and nothing else: they are cropped already.
        augmentation: Changes the uint8 pixels by each sample's key; None leaves them as they are.
        corruption: Damages what the network sees, by each sample's key; None lets it see its targets.
    """

    def __init__(
        self,
        processor: "ConvAutoencoderImageProcessor",
        augmentation: FaceAugmentation | None = None,
        corruption: Corruption | None = None,
    ):
        self.processor = processor
        self.augmentation = augmentation
        self.corruption = corruption

    def __call__(self, samples: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Join samples of `AlignedFaces`.

        Args:
            samples: Each with "pixels" uint8 (channels, height, width) and "key".

        Returns:
            "pixel_values" and "targets" float32 (batch, channels, height, width) in [0, 1]; without corruption the
            two are one tensor.
        """
        pixels = torch.stack([sample["pixels"] for sample in samples])
        keys = [sample["key"] for sample in samples]
        if self.augmentation is not None:
            pixels = self.augmentation(pixels, keys)
        targets = self.processor.normalize(pixels)
        pixel_values = targets if self.corruption is None else self.processor.normalize(self.corruption(pixels, keys))
        return {"pixel_values": pixel_values, "targets": targets}
