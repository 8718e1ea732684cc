"""Photos to the autoencoder's input in [0, 1], and its output back to photos."""

from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np
import torch
from PIL import Image, ImageOps
from transformers.image_processing_utils import BatchFeature

from hfembed.models.image_opening import check_pixels, image_errors, open_image, to_eight_bit
from hfembed.models.image_processor_base import ImageProcessorBase, PhotoSource, as_batch, for_each, height_and_width


class ConvAutoencoderImageProcessorKwargs(TypedDict, total=False):
    """What a `ConvAutoencoderImageProcessor` stores, and `from_pretrained` lets one override."""

    size: int | Sequence[int] | dict[str, int] | None
    crop_fraction: float | int
    color: str
    do_resize: bool
    size_divisor: int


class ConvAutoencoderImageProcessor(ImageProcessorBase):
    """Makes photos into the input of an autoencoder, and its output into photos.

    The center of the photo is cropped to the output's shape and resized (bilinear, antialiased). With
    `do_resize=False` the photo keeps its own size, less what `size_divisor` does not divide: for models that are
    convolutional throughout. EXIF orientation is applied first; palette, CMYK, 16-bit and float photos are converted,
    transparent parts become white.

    A photo is a PIL image, a uint8, uint16 or float array (height, width[, channels]), a tensor (channels, height,
    width), or an encoded file: a path, bytes, or the `{"bytes", "path"}` of an undecoded `datasets` image.

    Args:
        size (`int`, `[height, width]` or `dict`, *optional*, defaults to 64 x 64): Output size in pixels.
        crop_fraction (`float`, *optional*, defaults to 1.0): The sides of the crop as a fraction of the largest
            rectangle of the output's shape that fits into the photo, in (0, 1]: LFW's faces fill the middle 0.6.
        color (`str`, *optional*, defaults to `"rgb"`): `"rgb"` or `"gray"` (one channel).
        do_resize (`bool`, *optional*, defaults to `True`): Crop and resize to `size`.
        size_divisor (`int`, *optional*, defaults to 1): With `do_resize=False`: height and width are cut down to
            multiples of it, evenly at both sides.

    Raises:
        ValueError: A value is impossible, or a key is unknown.
    """

    valid_kwargs = ConvAutoencoderImageProcessorKwargs  # type: ignore[assignment]

    def __init__(
        self,
        size: int | Sequence[int] | dict[str, int] | None = None,
        crop_fraction: float = 1.0,
        color: str = "rgb",
        do_resize: bool = True,
        size_divisor: int = 1,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        if color not in ("rgb", "gray"):
            raise ValueError(f"ConvAutoencoderImageProcessor: color is 'rgb' or 'gray', not {color!r}")
        if not 0 < crop_fraction <= 1:
            raise ValueError(f"ConvAutoencoderImageProcessor: crop_fraction lies in (0, 1], not {crop_fraction!r}")
        if not isinstance(size_divisor, int) or size_divisor < 1:
            raise ValueError(f"ConvAutoencoderImageProcessor: size_divisor is 1 or more, not {size_divisor!r}")
        height, width = height_and_width(size, 64, self)
        self.size = {"height": height, "width": width}
        self.crop_fraction = crop_fraction
        self.color = color
        self.do_resize = do_resize
        self.size_divisor = size_divisor

    @property
    def num_channels(self) -> int:
        """Channels of the output: 1 for `color="gray"`, otherwise 3."""
        return 1 if self.color == "gray" else 3

    def crop_box(self, height: int, width: int) -> tuple[float, float, float, float]:
        """The part of an upright photo that becomes the output, as left, top, right, bottom in its pixels."""
        if self.do_resize:
            scale = self.crop_fraction * min(height / self.size["height"], width / self.size["width"])
            half_height, half_width = scale * self.size["height"] / 2, scale * self.size["width"] / 2
            return width / 2 - half_width, height / 2 - half_height, width / 2 + half_width, height / 2 + half_height
        rest_y, rest_x = height % self.size_divisor, width % self.size_divisor
        left, top = rest_x // 2, rest_y // 2
        return left, top, left + width - rest_x, top + height - rest_y

    def points_in_crop(self, points: np.ndarray, height: int, width: int) -> np.ndarray:
        """Points (..., 2), [x, y] in an upright photo's pixels, as they lie in the output's."""
        left, top, right, bottom = self.crop_box(height, width)
        size = (self.size["width"], self.size["height"]) if self.do_resize else (right - left, bottom - top)
        # pixel centers lie at whole numbers, scaling happens about the picture's corner
        scale = np.array([size[0] / (right - left), size[1] / (bottom - top)])
        return (points + 0.5 - np.array([left, top])) * scale - 0.5

    def align(self, image: PhotoSource) -> np.ndarray:
        """Decode one photo, crop and resize it. The face processor's method of this name aligns a face.

        Returns:
            uint8 (height, width, channels).

        Raises:
            ValueError: The photo cannot be read, or is smaller than `size_divisor`; names it where it has a name.
        """
        with image_errors(image):
            photo, _ = open_image(image)
            check_pixels(photo)
            photo = to_eight_bit(ImageOps.exif_transpose(photo), gray=self.color == "gray")
            box = self.crop_box(photo.height, photo.width)
            if self.do_resize:
                size = (self.size["width"], self.size["height"])
                box = (max(box[0], 0), max(box[1], 0), min(box[2], photo.width), min(box[3], photo.height))
                photo = photo.resize(size, Image.Resampling.BILINEAR, box=box)
            elif min(photo.size) < self.size_divisor:
                raise ValueError(f"{photo.width} x {photo.height} pixels are fewer than {self.size_divisor} at a side")
            else:
                photo = photo.crop(box)
        pixels = np.array(photo)
        return np.repeat(pixels[:, :, None], self.num_channels, axis=2) if pixels.ndim == 2 else pixels

    def normalize(self, pixels: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        """Scale pixels to [0, 1].

        Args:
            pixels: (batch, channels, height, width), uint8 or float in [0, 255].

        Returns:
            float32 of the same shape, on the same device.
        """
        return pixels.to(torch.float32).mul(1 / 255)

    def preprocess(self, images: PhotoSource | Sequence[PhotoSource], return_tensors: str = "pt") -> BatchFeature:
        """Crop and scale one photo or a batch.

        Args:
            images: A photo or a list of photos, see the class. With `do_resize=False` all of one size.
            return_tensors: `"pt"` or `"np"`.

        Returns:
            `pixel_values` float32 (batch, channels, height, width) in [0, 1].

        Raises:
            ValueError: An empty list, a photo that cannot be read (named by file, or by its position in the batch),
                or photos of different sizes.
        """
        images = as_batch(images)
        if len(images) == 0:
            raise ValueError("got no images")
        crops = for_each(self.align, images)
        sizes = sorted({crop.shape[:2] for crop in crops})
        if len(sizes) > 1:
            raise ValueError(
                f"images of different sizes, {sizes[0]} and {sizes[1]}, cannot be batched; process one at a time"
            )
        pixels = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2)
        return BatchFeature({"pixel_values": self.normalize(pixels).contiguous()}, tensor_type=return_tensors)

    def postprocess(self, pixel_values: torch.Tensor) -> list[Image.Image]:
        """Turn the model's output into photos.

        Args:
            pixel_values: (batch, channels, height, width); below 0 is black, above 1 white.
        """
        pixels = self.to_uint8(pixel_values).permute(0, 2, 3, 1).cpu().numpy()
        return [Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image) for image in pixels]

    @staticmethod
    def to_uint8(pixel_values: torch.Tensor) -> torch.Tensor:
        """(batch, channels, height, width) in [0, 1] -> the nearest uint8, clipped."""
        return pixel_values.detach().float().clamp(0, 1).mul(255).round_().to(torch.uint8)


__all__ = ["ConvAutoencoderImageProcessor"]
