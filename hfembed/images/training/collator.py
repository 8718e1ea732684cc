"""Lists of samples to batches for autoencoders."""

from collections.abc import Sequence
from typing import Any

import torch

from hfembed.faces.data.augmentation import FaceAugmentation
from hfembed.images.data.corruptions import Corruption
from hfembed.models.conv_autoencoder.image_processing_conv_autoencoder import ConvAutoencoderImageProcessor


class AutoencoderCollator:
    """Samples of `AlignedFaces` to a batch for an autoencoder: corrupted in, clean out.

    Augmentation and corruption change uint8 pixels by each sample's key. With `show_holes` the network gets the
    corruption's holes as a mask.

    Raises:
        ValueError: There are no holes to show.
    """

    def __init__(
        self,
        processor: ConvAutoencoderImageProcessor,
        augmentation: FaceAugmentation | None = None,
        corruption: Corruption | None = None,
        show_holes: bool = False,
    ):
        if show_holes and (corruption is None or not corruption.makes_holes):
            raise ValueError(
                "an inpainting model learns from holes: the recipe's corruption must have holes, or strokes"
            )
        self.processor = processor
        self.augmentation = augmentation
        self.corruption = corruption
        self.show_holes = show_holes

    def __call__(self, samples: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Join samples, each with "pixels" uint8 (channels, height, width) and "key".

        "pixel_values" and "targets" are float32 (batch, channels, height, width) in [0, 1], one tensor where there is
        no corruption; "mask" is bool (batch, 1, height, width).
        """
        pixels = torch.stack([sample["pixels"] for sample in samples])
        keys = [sample["key"] for sample in samples]
        if self.augmentation is not None:
            pixels = self.augmentation(pixels, keys)
        targets = self.processor.normalize(pixels)
        pixel_values = targets if self.corruption is None else self.processor.normalize(self.corruption(pixels, keys))
        batch = {"pixel_values": pixel_values, "targets": targets}
        if self.show_holes and self.corruption is not None:
            batch["mask"] = self.corruption.hole_masks(keys, *pixels.shape[2:])
        return batch
