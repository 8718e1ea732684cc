"""Photos to network input: five-point alignment or center crop, then normalization."""

import math
from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np
import torch
from PIL import Image, ImageOps
from transformers.image_processing_utils import BatchFeature

from hfembed.models.image_opening import check_pixels, image_errors, open_image, to_eight_bit
from hfembed.models.image_processor_base import ImageProcessorBase, PhotoSource, as_batch, for_each, height_and_width

# Left eye, right eye, nose, left and right mouth corner (as seen in the image) in a 112 x 112 crop, [x, y] in pixels,
# pixel centers at whole numbers: the template most published face embedders were trained with.
STANDARD_TEMPLATE = (
    (38.2946, 51.6963),
    (73.5318, 51.5014),
    (56.0252, 71.7366),
    (41.5493, 92.3655),
    (70.7299, 92.2041),
)
STANDARD_SIZE = 112

_EXIF_ORIENTATION = 0x0112
_ON_ITS_SIDE = (5, 6, 7, 8)


def template_for_size(height: int, width: int) -> list[list[float]]:
    """The standard five points for another output size: scaled by the height, centered in the width.

    Args:
        height: Output height in pixels. 112 keeps the standard scale; 64 shrinks the face to 64 / 112.
        width: Output width in pixels. A crop 112 high and 96 wide shows the standard crop's columns 8 to 104.

    Returns:
        Five [x, y] in output pixels.
    """
    scale = height / STANDARD_SIZE
    margin = (width - STANDARD_SIZE * scale) / 2
    # pixel centers lie at whole numbers: scaling happens about the picture's corner, half a pixel off
    return [[(x + 0.5) * scale - 0.5 + margin, (y + 0.5) * scale - 0.5] for x, y in STANDARD_TEMPLATE]


def similarity_transform(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The least-squares rotation, scale and shift that take `source` to `target`.

    In the plane the solution of Umeyama, "Least-squares estimation of transformation parameters between two point
    patterns", 1991, eqs. 40-42, is a complex regression: with the points as centered complex numbers
    a = <source, target> / <source, source>, rotation and scale are the angle and the modulus of a.

    Args:
        source: Points (..., n, 2), [x, y].
        target: Points (..., n, 2), [x, y]; leading dimensions are broadcast.

    Returns:
        Matrices (..., 2, 3): target = matrix[:, :2] @ source + matrix[:, 2].

    Raises:
        ValueError: The source points, or their images, fall onto one point: no scale or rotation can be told.
    """
    source_mean, target_mean = source.mean(-2, keepdims=True), target.mean(-2, keepdims=True)
    x, y = np.moveaxis(source - source_mean, -1, 0)
    u, v = np.moveaxis(target - target_mean, -1, 0)
    # in real numbers: complex products may leave a rotation of 1e-17 where source and target are the same
    spread = (x * x + y * y).sum(-1)
    spread = np.where(spread > 1e-9, spread, np.inf)
    cosine, sine = (x * u + y * v).sum(-1) / spread, (x * v - y * u).sum(-1) / spread
    if (np.hypot(cosine, sine) < 1e-9).any():
        raise ValueError("landmarks give no scale or rotation: the points coincide")
    rotation = np.stack([np.stack([cosine, -sine], -1), np.stack([sine, cosine], -1)], -2)
    shift = np.swapaxes(target_mean, -1, -2) - rotation @ np.swapaxes(source_mean, -1, -2)
    return np.concatenate([rotation, shift], -1)


class FaceImageProcessorKwargs(TypedDict, total=False):
    """What a `FaceImageProcessor` stores, and `from_pretrained` lets one override."""

    size: int | Sequence[int] | dict[str, int] | None
    template: Sequence[Sequence[float]] | None
    crop_fraction: float | int
    color: str
    image_mean: float | Sequence[float]
    image_std: float | Sequence[float]


class FaceImageProcessor(ImageProcessorBase):
    """Makes face photos into network input the way the network was trained to see them.

    With five landmarks, a photo is warped by the similarity transform that brings them closest to `template`
    (bilinear, black outside the photo; a face larger than the template is averaged down first). Without, the center
    is cropped and resized. EXIF orientation is applied first, landmarks refer to the upright photo, pixel centers at
    whole numbers. Gray, palette, CMYK and 16-bit photos are converted; transparent parts become white.

    A photo is a PIL image, a uint8 array (height, width[, channels]), a uint8 tensor (channels, height, width), or an
    encoded file: a path, bytes, or the `{"bytes", "path"}` of an undecoded `datasets` image. Encoded JPEGs are decoded
    at 1/2, 1/4 or 1/8 size where the face stays at least as large as needed, which is several times faster.

    Args:
        size (`int`, `[height, width]` or `dict`, *optional*, defaults to 112 x 112): Output size in pixels.
        template (`list[list[float]]`, *optional*): Where the left eye, right eye, nose, left and right mouth corner
            (as seen in the image) lie, [x, y] in output pixels. Defaults to `template_for_size(height, width)`.
        crop_fraction (`float`, *optional*, defaults to 1.0): Without landmarks: the sides of the center crop as a
            fraction of the largest rectangle of the output's shape that fits into the photo, in (0, 1].
        color (`str`, *optional*, defaults to `"rgb"`): `"rgb"`, `"bgr"` or `"gray"` (one channel).
        image_mean (`float` or `list[float]`, *optional*, defaults to 0.5): Per channel, on pixels scaled to [0, 1].
        image_std (`float` or `list[float]`, *optional*, defaults to 0.5): Per channel, on pixels scaled to [0, 1].

    Raises:
        ValueError: A value is impossible, or a key is unknown.
    """

    valid_kwargs = FaceImageProcessorKwargs  # type: ignore[assignment]

    def __init__(
        self,
        size: int | Sequence[int] | dict[str, int] | None = None,
        template: Sequence[Sequence[float]] | None = None,
        crop_fraction: float = 1.0,
        color: str = "rgb",
        image_mean: float | Sequence[float] = 0.5,
        image_std: float | Sequence[float] = 0.5,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        if color not in ("rgb", "bgr", "gray"):
            raise ValueError(f"FaceImageProcessor: color is 'rgb', 'bgr' or 'gray', not {color!r}")
        if not 0 < crop_fraction <= 1:
            raise ValueError(f"FaceImageProcessor: crop_fraction lies in (0, 1], not {crop_fraction!r}")
        height, width = height_and_width(size, STANDARD_SIZE, self)
        points = np.asarray(template_for_size(height, width) if template is None else template, dtype=np.float64)
        if points.shape != (5, 2):
            raise ValueError("FaceImageProcessor: template is five [x, y] in output pixels")
        # also false for NaN; a template may reach beyond the crop, but not by more than its size; faces of a few
        # pixels all look the same
        low, high, extent = -max(height, width), 2 * max(height, width), min(height, width) / 8
        if not (low <= points.min() and points.max() <= high and np.ptp(points, axis=0).max() >= extent):
            raise ValueError(
                f"FaceImageProcessor: template must be five points between {low} and {high}, {extent:g} pixels apart "
                f"or more, got {points.tolist()}"
            )
        self.size = {"height": height, "width": width}
        self.template = points.tolist()
        self.crop_fraction = crop_fraction
        self.color = color
        self.image_mean = self._per_channel("image_mean", image_mean)
        self.image_std = self._per_channel("image_std", image_std)
        # also false for NaN. Pixels lie in [0, 1] here: with numbers far from theirs, all photos look the same. A
        # network that takes 0 to 255 has the standard deviation 1 / 255.
        if not all(abs(mean) <= 10 for mean in self.image_mean):
            raise ValueError(f"FaceImageProcessor: image_mean lies between -10 and 10, not {image_mean!r}")
        if not all(1e-3 <= std <= 10 for std in self.image_std):
            raise ValueError(f"FaceImageProcessor: image_std lies between 0.001 and 10, not {image_std!r}")

    @property
    def num_channels(self) -> int:
        """Channels of the output: 1 for `color="gray"`, else 3."""
        return 1 if self.color == "gray" else 3

    def _per_channel(self, name: str, value: float | Sequence[float]) -> list[float]:
        values = [value] * self.num_channels if isinstance(value, int | float) else list(value)
        if not all(isinstance(number, int | float) for number in values):
            raise ValueError(f"FaceImageProcessor: {name} must be numbers, not {value!r}")
        if len(values) != self.num_channels:
            raise ValueError(
                f"FaceImageProcessor: {name} has {len(values)} values, color {self.color!r} has {self.num_channels}"
            )
        return values

    def align(self, image: PhotoSource, landmarks: Sequence[Sequence[float]] | np.ndarray | None = None) -> np.ndarray:
        """Decode one photo and warp it to the template, or crop its center.

        Args:
            landmarks: Five [x, y] in pixels of the upright photo, in the template's order; `None` for a center crop.

        Returns:
            uint8 (height, width, channels), channels in the order of `color`.

        Raises:
            ValueError: The photo cannot be read, or the landmarks are unusable; names the photo where it has a name.
        """
        with image_errors(image, "cannot be made into a face crop"):
            return self._align(image, landmarks)

    def _align(self, image: PhotoSource, landmarks: Sequence[Sequence[float]] | np.ndarray | None) -> np.ndarray:
        height, width = self.size["height"], self.size["width"]
        photo, is_ours = open_image(image)
        orientation = photo.getexif().get(_EXIF_ORIENTATION, 1)
        upright_size = photo.size[::-1] if orientation in _ON_ITS_SIDE else photo.size
        if landmarks is None:
            shrinkage = self.crop_fraction * min(upright_size[0] / width, upright_size[1] / height)
        else:
            points = np.asarray(landmarks, dtype=np.float64)
            if points.shape != (5, 2) or not np.isfinite(points).all():
                raise ValueError(f"landmarks are five finite [x, y], not an array of shape {points.shape}")
            _check_scale(points, upright_size)
            matrix = similarity_transform(points, np.asarray(self.template))
            shrinkage = 1 / math.hypot(*matrix[:, 0])

        # `draft` changes the image it is called on: never done to one that the caller holds
        drafted = _draft(photo, shrinkage, orientation) if is_ours else 1
        check_pixels(photo)
        if orientation != 1:
            photo = ImageOps.exif_transpose(photo)
        # a gray photo stays gray through the warp: a third of the work
        photo = to_eight_bit(photo, True if self.color == "gray" else None)
        if landmarks is None:
            center = upright_size[0] / drafted / 2, upright_size[1] / drafted / 2
            crop = _crop(photo, center, shrinkage / drafted, height, width)
        else:
            crop = _warp(photo, matrix, drafted, shrinkage, height, width)

        pixels = np.array(crop)
        if pixels.ndim == 2:
            return np.repeat(pixels[:, :, None], self.num_channels, axis=2)
        return np.ascontiguousarray(pixels[:, :, ::-1]) if self.color == "bgr" else pixels

    def normalize(self, pixels: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        """Scale pixels to [0, 1], subtract `image_mean`, divide by `image_std`.

        Args:
            pixels: (batch, channels, height, width), uint8 or float in [0, 255], channels in the order of `color`.

        Returns:
            float32 of the same shape, on the same device.
        """
        std = torch.tensor(self.image_std, dtype=torch.float64)
        scale = (1 / (255 * std)).to(pixels.device, torch.float32).view(-1, 1, 1)
        mean = (torch.tensor(self.image_mean, dtype=torch.float64) * 255).to(pixels.device, torch.float32)
        return pixels.to(torch.float32).sub(mean.view(-1, 1, 1)).mul_(scale)

    def preprocess(
        self,
        images: PhotoSource | Sequence[PhotoSource],
        landmarks: Any = None,
        return_tensors: str = "pt",
    ) -> BatchFeature:
        """Align and normalize one photo or a batch.

        Args:
            landmarks: For one photo its (5, 2) landmarks; for a list one entry per photo, (5, 2) or `None` (then the
                photo's center is cropped). `None`: center crops.
            return_tensors: `"pt"` or `"np"`.

        Returns:
            `pixel_values` float32 (batch, channels, height, width).

        Raises:
            ValueError: A photo cannot be read (named by file, or by its position in the batch), or the number of
                landmarks differs from the number of photos.
        """
        given, images = images, as_batch(images)
        if landmarks is None:
            landmarks = [None] * len(images)
        elif images is not given:
            landmarks = [landmarks]
        if len(images) == 0 or len(landmarks) != len(images):
            raise ValueError(f"got {len(images)} images and landmarks for {len(landmarks)}")
        pixels = torch.from_numpy(np.stack(for_each(self.align, images, landmarks))).permute(0, 3, 1, 2)
        return BatchFeature({"pixel_values": self.normalize(pixels).contiguous()}, tensor_type=return_tensors)


def lie_inside(landmarks: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Whether the middle of each face's landmarks (n, 5, 2) lies in a picture of (width, height): bool (n,).

    Detectors also see faces at an edge whose other half they imagine: most of such a face cannot be cut out.
    """
    middles = landmarks.mean(1)
    return ~((middles < 0) | (middles > size)).any(1)


def _check_scale(landmarks: np.ndarray, upright_size: tuple[int, int]) -> None:
    """Refuse landmarks that are not in pixels of this photo: their crop would be black."""
    extent = np.ptp(landmarks, axis=0).max()
    size = f"the photo of {upright_size[0]} x {upright_size[1]} pixels"
    if not lie_inside(landmarks[None], upright_size).all():
        raise ValueError(f"the landmarks lie outside {size}: are they of another scale?")
    if 1e-6 < extent < 2:
        raise ValueError(
            f"the landmarks lie within {extent:.2g} pixels of {size}: give them in pixels, not as fractions"
        )


def _draft(photo: Image.Image, shrinkage: float, orientation: int) -> int:
    """Let a JPEG be decoded at 1/2, 1/4 or 1/8 size where the crop still shrinks; returns the divisor."""
    width, height = photo.size
    divisor = next(d for d in (8, 4, 2, 1) if d <= max(shrinkage, 1))
    # a rotated photo has its origin at another corner, which stays in place only when nothing is padded
    while orientation != 1 and (width % divisor or height % divisor):
        divisor //= 2
    if photo.format != "JPEG" or divisor == 1:
        return 1
    photo.draft(None, (max(width // divisor, 1), max(height // divisor, 1)))
    return round(width / photo.width)


def _crop(photo: Image.Image, center: tuple[float, float], shrinkage: float, height: int, width: int) -> Image.Image:
    half_width, half_height = shrinkage * width / 2, shrinkage * height / 2
    box = (
        max(center[0] - half_width, 0),
        max(center[1] - half_height, 0),
        min(center[0] + half_width, photo.width),
        min(center[1] + half_height, photo.height),
    )
    return photo.resize((width, height), Image.Resampling.BILINEAR, box=box)


def _warp(
    photo: Image.Image, matrix: np.ndarray, drafted: int, shrinkage: float, height: int, width: int
) -> Image.Image:
    """Warp by `matrix` (upright photo to crop, pixel centers at whole numbers); black outside the photo."""
    # Crop to photo, in Pillow's coordinates: pixel centers at halves, so that dividing a size divides coordinates.
    # A similarity's inverse in plain numbers: for a small photo, arrays would cost a tenth of the time of the warp.
    (a, _, x), (b, _, y) = matrix.tolist()
    divisor = (a * a + b * b) * drafted
    a, b = a / divisor, b / divisor
    left, top = 0.5 / drafted - a * (x + 0.5) - b * (y + 0.5), 0.5 / drafted + b * (x + 0.5) - a * (y + 0.5)
    reduction = int(shrinkage / drafted)
    if reduction > 1:
        # bilinear sampling reads 2 x 2 pixels: a larger face is averaged down first, around the crop only
        corners_x = [left + a * u + b * v for u in (0, width) for v in (0, height)]
        corners_y = [top - b * u + a * v for u in (0, width) for v in (0, height)]
        margin = 2 * reduction
        box_left, box_top = max(math.floor(min(corners_x)) - margin, 0), max(math.floor(min(corners_y)) - margin, 0)
        box_right = min(math.ceil(max(corners_x)) + margin, photo.width)
        box_bottom = min(math.ceil(max(corners_y)) + margin, photo.height)
        photo = photo.reduce(reduction, (box_left, box_top, box_right, box_bottom))
        a, b = a / reduction, b / reduction
        left, top = (left - box_left) / reduction, (top - box_top) / reduction
    coefficients = (a, b, left, -b, a, top)
    return photo.transform((width, height), Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR)


__all__ = ["FaceImageProcessor", "lie_inside", "similarity_transform", "template_for_size"]
