"""Photos of any kind to upright RGB pixels: the image processor of every face detector."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple, TypedDict

import numpy as np
import torch
from PIL import Image, ImageOps
from transformers.image_processing_utils import BatchFeature

from hfembed.models.image_opening import MAX_PIXELS, check_pixels, image_errors, open_image, to_eight_bit
from hfembed.models.image_processor_base import ImageProcessorBase, PhotoSource, as_batch, for_each


class Photo(NamedTuple):
    """A decoded photo.

    Attributes:
        pixels: (3, H, W) uint8, RGB, upright.
        shrinkage: How much larger the photo itself is, at least 1.
    """

    pixels: torch.Tensor
    shrinkage: float

    @property
    def size(self) -> tuple[float, float]:
        """Width and height of the photo itself."""
        height, width = self.pixels.shape[1:]
        return self.shrinkage * width, self.shrinkage * height


class PhotoImageProcessorKwargs(TypedDict, total=False):
    """What a `PhotoImageProcessor` stores, and `from_pretrained` lets one override."""

    max_pixels: int


class PhotoImageProcessor(ImageProcessorBase):
    """Decodes photos, each at its own size: a detector scales, pads and normalizes them itself.

    A photo is a PIL image, a uint8, uint16 or float array (height, width[, channels]), a tensor (channels, height,
    width), or an encoded file: a path, bytes, or the `{"bytes", "path"}` of an undecoded `datasets` image. EXIF
    orientation is applied. Gray, palette, CMYK, 16-bit and float photos are converted, transparent parts become
    white, of an animation the first picture is taken.

    Args:
        max_pixels (`int`, *optional*, defaults to 64,000,000): Photos that would take more pixels in memory are
            refused. JPEGs larger than asked for are decoded at 1/2, 1/4 or 1/8 of their size and may have more.

    Raises:
        ValueError: A value is impossible, or a key is unknown.
    """

    valid_kwargs = PhotoImageProcessorKwargs  # type: ignore[assignment]

    def __init__(self, max_pixels: int = MAX_PIXELS, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not isinstance(max_pixels, int) or not 1 <= max_pixels <= MAX_PIXELS:
            raise ValueError(
                f"{type(self).__name__}: max_pixels lies between 1 and {MAX_PIXELS:,}, not {max_pixels!r}"
            )
        self.max_pixels = max_pixels

    def open(self, image: PhotoSource, longest_side: int | None = None) -> Photo:
        """Decode one photo.

        Args:
            longest_side: Shrink the photo so that no side has more pixels.

        Returns:
            Its pixels.

        Raises:
            ValueError: The photo cannot be read; the message names it where it has a name.
        """
        with image_errors(image):
            photo, is_ours = open_image(image)
            size = photo.size
            if is_ours and photo.format == "JPEG" and longest_side is not None:
                # to the smallest of 1/2, 1/4 and 1/8 that leaves as many pixels as asked for
                photo.draft(None, _fitting(size, longest_side))
            check_pixels(photo, self.max_pixels)
            upright = to_eight_bit(ImageOps.exif_transpose(photo), gray=False)
        if longest_side is not None and max(upright.size) > longest_side:
            upright = upright.resize(_fitting(upright.size, longest_side), Image.Resampling.BOX)
        pixels = torch.from_numpy(np.array(upright)).permute(2, 0, 1)
        return Photo(pixels, max(size) / max(upright.size))

    def preprocess(
        self,
        images: PhotoSource | Sequence[PhotoSource],
        longest_side: int | None = None,
        return_tensors: str | None = None,
    ) -> BatchFeature:
        """Decode one photo or several.

        Args:
            longest_side: Shrink photos so that no side has more pixels.
            return_tensors: `"pt"` stacks photos of one size; by default they may be of different sizes.

        Returns:
            `pixel_values`, (3, H, W) uint8 each, and `shrinkage`, how much larger each photo itself is.

        Raises:
            ValueError: A photo cannot be read; named by file, or by its position among the photos.
        """
        images = as_batch(images)
        photos = for_each(functools.partial(self.open, longest_side=longest_side), images)
        values = {
            "pixel_values": [photo.pixels for photo in photos],
            "shrinkage": [photo.shrinkage for photo in photos],
        }
        return BatchFeature(values, tensor_type=return_tensors)


def _fitting(size: tuple[int, int], longest_side: int) -> tuple[int, int]:
    """The size of a photo of `size` once its longer side has `longest_side` pixels."""
    factor = min(longest_side / max(size), 1)
    return max(round(size[0] * factor), 1), max(round(size[1] * factor), 1)


__all__ = ["PhotoImageProcessor", "Photo", "PhotoSource"]
