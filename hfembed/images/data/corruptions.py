"""Damage to clean images that a network learns to undo, each sample's a pure function of (seed, key).

The functions take and return one image, (channels, height, width) float32 in [0, 255].
"""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from hfembed.training.config import setting
from hfembed.training.keyed_randomness import keyed_generator
from hfembed.training.pixel_filters import blur_matrix, resampling_matrix

# of `keyed_generator`, one per use and none of augmentation's (0) or warping's: draws that share a stream would repeat
_STRENGTHS, _NOISE, _SALT, _HOLES = 1, 11, 12, 13
# every random parameter owns one place among a sample's draws: switching one damage on leaves the others as they were
_DRAWS = ("blur", "downsample", "noise", "salt_and_pepper", "jpeg")


def add_gaussian_noise(image: np.ndarray, sigma: float, generator: np.random.Generator) -> np.ndarray:
    """Add independent Gaussian noise to every value; `sigma` is a fraction of the range (0.1 is 25.5 of 255)."""
    noise = generator.standard_normal(image.shape, dtype=np.float32)
    return np.clip(image + np.float32(255 * sigma) * noise, 0, 255)


def add_salt_and_pepper(image: np.ndarray, share: float, generator: np.random.Generator) -> np.ndarray:
    """Turn this fraction of the pixels black or white, all channels of a pixel together."""
    draw = generator.random(image.shape[1:], dtype=np.float32)
    damaged = np.where(draw < share / 2, np.float32(0), image)
    return np.where(draw >= 1 - share / 2, np.float32(255), damaged)


def draw_hole(height: int, width: int, size: int, generator: np.random.Generator) -> tuple[slice, slice]:
    """Rows and columns of a square hole inside an image, every position equally likely."""
    top, left = generator.integers(0, height - size + 1), generator.integers(0, width - size + 1)
    return slice(int(top), int(top) + size), slice(int(left), int(left) + size)


def blur_image(image: np.ndarray, sigma: float) -> np.ndarray:
    """Blur by a Gaussian of `sigma` pixels; at the borders its weights inside the image are scaled to sum to one."""
    height, width = image.shape[1:]
    return blur_matrix(height, sigma) @ image @ blur_matrix(width, sigma).T


def downsample_image(image: np.ndarray, share: float) -> np.ndarray:
    """Shrink to this fraction of the sides with antialiasing and enlarge again, both bilinearly."""
    height, width = image.shape[1:]
    rows = resampling_matrix(height, max(1, round(height * share)))
    return rows @ image @ resampling_matrix(width, max(1, round(width * share))).T


def compress_as_jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """Write as a JPEG of Pillow's quality, 1 to 95, and read back; whole numbers."""
    pixels = np.clip(np.rint(image), 0, 255).astype(np.uint8).transpose(1, 2, 0)
    file = io.BytesIO()
    Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels).save(file, "JPEG", quality=quality)
    decoded = np.asarray(Image.open(file), dtype=np.float32)
    return decoded.reshape(*pixels.shape).transpose(2, 0, 1)


@dataclass(frozen=True)
class Corruption:
    """Damages a batch of images; what happens to a sample depends on (seed, key) and on nothing else.

    Training on one rank, on several, and after resuming sees the same damage. Every operation is off by default; a
    parameter is given as (smallest, largest) and drawn uniformly for each sample. They are applied in the order of
    the fields: lens, sensor, transmission, file, scratches.

    Raises:
        ValueError: A field has an impossible value; the message names it.
    """

    seed: int = setting(0, "Seed of all draws.")
    blur: tuple[float, float] = setting((0.0, 0.0), "Sigma of a Gaussian blur, in pixels.")
    downsample: tuple[float, float] = setting((1.0, 1.0), "Shrink to this fraction of the sides and enlarge again.")
    noise: tuple[float, float] = setting((0.0, 0.0), "Sigma of Gaussian noise, as a fraction of the range.")
    salt_and_pepper: tuple[float, float] = setting((0.0, 0.0), "Fraction of pixels turned black or white.")
    jpeg: tuple[int, int] | None = setting(None, "Quality of a JPEG (1 to 95) the image passes through.")
    holes: int = setting(0, "Number of square holes to mask.")
    hole_size: tuple[int, int] = setting((16, 16), "Side of a hole, in pixels.")
    hole_level: float = setting(0.5, "The gray level that fills a hole, in [0, 1].")

    def __post_init__(self) -> None:
        for name, highest in (("blur", np.inf), ("downsample", 1), ("noise", np.inf), ("salt_and_pepper", 1)):
            low, high = getattr(self, name)
            if not 0 <= low <= high <= highest or (name == "downsample" and low == 0):
                raise ValueError(
                    f"{name} must be (smallest, largest) between 0 and {highest}, not {getattr(self, name)}"
                )
        if self.jpeg is not None and not 1 <= self.jpeg[0] <= self.jpeg[1] <= 95:
            raise ValueError(f"jpeg must be (smallest, largest) quality between 1 and 95, not {self.jpeg}")
        if self.holes < 0:
            raise ValueError(f"holes must not be negative, not {self.holes}")
        if not 1 <= self.hole_size[0] <= self.hole_size[1]:
            raise ValueError(f"hole_size must be (smallest, largest) of at least one pixel, not {self.hole_size}")
        if not 0 <= self.hole_level <= 1:
            raise ValueError(f"hole_level must lie in [0, 1], not {self.hole_level}")

    def __call__(self, pixels: torch.Tensor, keys: Sequence[Sequence[int]]) -> torch.Tensor:
        """Damage a batch: float32 of the same shape in [0, 255], not rounded.

        Args:
            pixels: (batch, channels, height, width), uint8 or float in [0, 255]; left as they were.
            keys: One per sample: (epoch, index) or (epoch, index, repetition), as the samplers give them.

        Raises:
            ValueError: A hole may be larger than the images.
        """
        self._check_holes(*pixels.shape[2:])
        clean = pixels.to(torch.float32).numpy()
        damaged = np.empty_like(clean)
        for place, key in enumerate(keys):
            damaged[place] = self._damage(clean[place], key)
        return torch.from_numpy(damaged)

    def hole_masks(self, keys: Sequence[Sequence[int]], height: int, width: int) -> torch.Tensor:
        """The masks of the holes that `__call__` makes for the same keys: (batch, 1, height, width) bool.

        Raises:
            ValueError: A hole may be larger than the images.
        """
        self._check_holes(height, width)
        masks = np.zeros((len(keys), 1, height, width), dtype=bool)
        for mask, key in zip(masks, keys, strict=True):
            *_, holes = self._draws(key)
            for rows, columns in self._places(holes, height, width):
                mask[:, rows, columns] = True
        return torch.from_numpy(masks)

    def _check_holes(self, height: int, width: int) -> None:
        if self.holes and self.hole_size[1] > min(height, width):
            raise ValueError(f"hole_size {self.hole_size} is larger than images of {(height, width)}")

    def _draws(
        self, key: Sequence[int]
    ) -> tuple[dict[str, float], np.random.Generator, np.random.Generator, np.random.Generator]:
        """A sample's random parameters, and the generators of its noise, its salt and pepper and its holes."""
        generator = keyed_generator(self.seed, key, _STRENGTHS)
        strengths = dict(zip(_DRAWS, generator.random(len(_DRAWS)), strict=True))
        noise, salt, holes = (keyed_generator(self.seed, key, stream) for stream in (_NOISE, _SALT, _HOLES))
        return strengths, noise, salt, holes

    def _places(self, holes: np.random.Generator, height: int, width: int) -> Iterator[tuple[slice, slice]]:
        """Rows and columns of each hole."""
        for _ in range(self.holes):
            size = int(holes.integers(self.hole_size[0], self.hole_size[1] + 1))
            yield draw_hole(height, width, size, holes)

    def _damage(self, image: np.ndarray, key: Sequence[int]) -> np.ndarray:
        """One sample, (channels, height, width) float32."""
        draws, noise, salt, holes = self._draws(key)
        if sigma := _between(self.blur, draws["blur"]):
            image = blur_image(image, sigma)
        if (share := _between(self.downsample, draws["downsample"])) < 1:
            image = downsample_image(image, share)
        if sigma := _between(self.noise, draws["noise"]):
            image = add_gaussian_noise(image, sigma, noise)
        if share := _between(self.salt_and_pepper, draws["salt_and_pepper"]):
            image = add_salt_and_pepper(image, share, salt)
        if self.jpeg is not None:
            low, high = self.jpeg
            image = compress_as_jpeg(image, low + int(draws["jpeg"] * (high - low + 1)))
        if self.holes:
            image = image.copy()
            for rows, columns in self._places(holes, *image.shape[1:]):
                image[:, rows, columns] = 255 * self.hole_level
        return image


def _between(limits: tuple[float, float], uniform: float) -> float:
    low, high = limits
    return low + (high - low) * uniform
