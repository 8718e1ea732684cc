"""Damage to clean images that a network learns to undo, each sample's a pure function of (seed, key).

The functions take and return one image, (channels, height, width) float32 in [0, 255].
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import interpolate

from hfembed.training.config import setting
from hfembed.training.keyed_randomness import keyed_generator
from hfembed.training.pixel_filters import blur_matrix, resampling_matrix

# of `keyed_generator`, one per use and none of augmentation's (0) or warping's: draws that share a stream would repeat
_STRENGTHS, _NOISE, _SALT, _HOLES, _CHANCES, _STROKES = 1, 11, 12, 13, 14, 15
# every random parameter owns one place among a sample's draws: switching one damage on leaves the others as they were
_DRAWS = ("blur", "downsample", "noise", "salt_and_pepper", "jpeg", "reduction")
# what `chance` may leave out of a sample; each has its own draw too
_CHOSEN = (*_DRAWS, "holes", "strokes")
_STROKE_CORNERS = (3, 8)  # points that a stroke joins


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


def draw_stroke(
    height: int, width: int, widths: tuple[float, float], generator: np.random.Generator
) -> tuple[np.ndarray, float]:
    """Corners (n, 2) of a free-form stroke, row and column, and its width, in pixels.

    Yu et al., "Free-Form Image Inpainting with Gated Convolution", 2019, algorithm 1: from a random place on in steps
    of random length, every other step turned back, so that the stroke stays together as if it were wiped.
    """
    count = int(generator.integers(_STROKE_CORNERS[0], _STROKE_CORNERS[1] + 1))
    start, breadth = generator.random(2) * (height, width), generator.uniform(*widths)
    angles = generator.uniform(-1, 1, count - 1) * 2 * np.pi / 15 + 2 * np.pi / 5
    angles[::2] = 2 * np.pi - angles[::2]
    angles += generator.uniform(0, 2 * np.pi)
    lengths = generator.uniform(0.05, 0.35, count - 1) * np.hypot(height, width)
    steps = lengths[:, None] * np.stack([np.sin(angles), np.cos(angles)], axis=1)
    corners = start + np.concatenate([np.zeros((1, 2)), steps.cumsum(axis=0)])
    return np.clip(corners, 0, (height - 1, width - 1)), float(breadth)


def stroke_mask(height: int, width: int, corners: np.ndarray, breadth: float) -> np.ndarray:
    """Bool (height, width): pixels whose center is at most half the breadth from the line through the corners."""
    mask, radius = np.zeros((height, width), dtype=bool), breadth / 2
    for start, end in zip(corners[:-1], corners[1:], strict=True):
        low, high = np.floor(np.minimum(start, end) - radius), np.ceil(np.maximum(start, end) + radius) + 1
        (top, left), (bottom, right) = low.clip(0).astype(int), high.astype(int)
        near = mask[top:bottom, left:right]  # the line's surroundings: no other pixel can be inside
        pixels = np.moveaxis(np.indices(near.shape, dtype=np.float64), 0, -1) + (top, left)
        along = end - start
        place = np.clip((pixels - start) @ along / max(along @ along, 1e-12), 0, 1)
        near |= ((pixels - start - place[..., None] * along) ** 2).sum(-1) <= radius**2
    return mask


def blur_image(image: np.ndarray, sigma: float) -> np.ndarray:
    """Blur by a Gaussian of `sigma` pixels; at the borders its weights inside the image are scaled to sum to one."""
    height, width = image.shape[1:]
    return blur_matrix(height, sigma) @ image @ blur_matrix(width, sigma).T


def downsample_image(image: np.ndarray, share: float) -> np.ndarray:
    """Shrink to this fraction of the sides with antialiasing and enlarge again, both bilinearly."""
    height, width = image.shape[1:]
    rows = resampling_matrix(height, max(1, round(height * share)))
    return rows @ image @ resampling_matrix(width, max(1, round(width * share))).T


def resize_image(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize bicubically as Pillow does: with antialiasing where it shrinks, overshoot clipped."""
    rows, columns = _bicubic_matrix(image.shape[1], height), _bicubic_matrix(image.shape[2], width)
    return np.clip(rows @ image @ columns.T, 0, 255)


@lru_cache(maxsize=512)
def _bicubic_matrix(size: int, new_size: int) -> np.ndarray:
    identity = torch.eye(size)[None, None]
    return interpolate(identity, size=(new_size, size), mode="bicubic", antialias=True).numpy()[0, 0]


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
    the fields: lens, sensor, transmission, file, scratches. What a sample is reduced by, it is enlarged by again after
    its file: noise and JPEG blocks grow with it, as those of a small photo do (Zhang et al., "Designing a Practical
    Degradation Model for Deep Blind Image Super-Resolution", 2021).

    With `chance`, a sample gets each damage with this probability, independently of the others: a mixture.

    Raises:
        ValueError: A field has an impossible value; the message names it.
    """

    seed: int = setting(0, "Seed of all draws.")
    blur: tuple[float, float] = setting((0.0, 0.0), "Sigma of a Gaussian blur, in pixels.")
    downsample: tuple[float, float] = setting((1.0, 1.0), "Shrink to this fraction of the sides and enlarge again.")
    reduction: tuple[float, float] = setting(
        (1.0, 1.0), "Shrink by this factor before noise and JPEG, enlarge after them, bicubically."
    )
    noise: tuple[float, float] = setting((0.0, 0.0), "Sigma of Gaussian noise, as a fraction of the range.")
    salt_and_pepper: tuple[float, float] = setting((0.0, 0.0), "Fraction of pixels turned black or white.")
    jpeg: tuple[int, int] | None = setting(None, "Quality of a JPEG (1 to 95) the image passes through.")
    holes: int = setting(0, "Number of square holes to mask.")
    hole_size: tuple[int, int] = setting((16, 16), "Side of a hole, in pixels.")
    hole_level: float = setting(0.5, "The gray level that fills a hole, in [0, 1].")
    strokes: tuple[int, int] = setting((0, 0), "Number of free-form strokes to mask.")
    stroke_width: tuple[float, float] = setting((4.0, 12.0), "Breadth of a stroke, in pixels.")
    chance: dict[str, float] = setting({}, "Damage -> fraction of the samples that get it; 1 for others.")

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
        if not 1 <= self.reduction[0] <= self.reduction[1] <= 16:
            raise ValueError(f"reduction must be (smallest, largest) factor between 1 and 16, not {self.reduction}")
        if not 0 <= self.strokes[0] <= self.strokes[1] <= 100:
            raise ValueError(f"strokes must be (fewest, most) between 0 and 100, not {self.strokes}")
        if not 1 <= self.stroke_width[0] <= self.stroke_width[1] < np.inf:
            raise ValueError(f"stroke_width must be (smallest, largest) of at least 1 pixel, not {self.stroke_width}")
        for name, chance in self.chance.items():
            if name not in _CHOSEN:
                raise ValueError(f"chance: unknown damage '{name}'; expected one of {', '.join(_CHOSEN)}")
            if not 0 <= chance <= 1:
                raise ValueError(f"chance of {name} must lie in [0, 1], not {chance}")

    @property
    def makes_holes(self) -> bool:
        """Whether there are masks to be shown."""
        return bool(self.holes or self.strokes[1])

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
        return torch.from_numpy(np.stack([self._mask(key, height, width)[None] for key in keys]))

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

    def _chosen(self, key: Sequence[int]) -> set[str]:
        """The damages that a sample gets, if they are on."""
        if not self.chance:
            return set(_CHOSEN)
        draws = keyed_generator(self.seed, key, _CHANCES).random(len(_CHOSEN))
        return {name for name, draw in zip(_CHOSEN, draws, strict=True) if draw < self.chance.get(name, 1)}

    def _mask(self, key: Sequence[int], height: int, width: int) -> np.ndarray:
        """Where a sample has holes, bool (height, width)."""
        mask, chosen = np.zeros((height, width), dtype=bool), self._chosen(key)
        if "holes" in chosen:
            *_, holes = self._draws(key)
            for _ in range(self.holes):
                size = int(holes.integers(self.hole_size[0], self.hole_size[1] + 1))
                mask[draw_hole(height, width, size, holes)] = True
        if self.strokes[1] and "strokes" in chosen:
            generator = keyed_generator(self.seed, key, _STROKES)
            for _ in range(int(generator.integers(self.strokes[0], self.strokes[1] + 1))):
                mask |= stroke_mask(height, width, *draw_stroke(height, width, self.stroke_width, generator))
        return mask

    def _damage(self, image: np.ndarray, key: Sequence[int]) -> np.ndarray:
        """One sample, (channels, height, width) float32."""
        draws, noise, salt, _ = self._draws(key)
        chosen, (height, width) = self._chosen(key), image.shape[1:]
        if "blur" in chosen and (sigma := _between(self.blur, draws["blur"])):
            image = blur_image(image, sigma)
        if "downsample" in chosen and (share := _between(self.downsample, draws["downsample"])) < 1:
            image = downsample_image(image, share)
        if "reduction" in chosen and (factor := _between(self.reduction, draws["reduction"])) > 1:
            image = resize_image(image, max(1, round(height / factor)), max(1, round(width / factor)))
        if "noise" in chosen and (sigma := _between(self.noise, draws["noise"])):
            image = add_gaussian_noise(image, sigma, noise)
        if "salt_and_pepper" in chosen and (share := _between(self.salt_and_pepper, draws["salt_and_pepper"])):
            image = add_salt_and_pepper(image, share, salt)
        if "jpeg" in chosen and self.jpeg is not None:
            low, high = self.jpeg
            image = compress_as_jpeg(image, low + int(draws["jpeg"] * (high - low + 1)))
        if image.shape[1:] != (height, width):
            image = resize_image(image, height, width)
        if self.makes_holes:
            image = np.where(self._mask(key, height, width), np.float32(255 * self.hole_level), image)
        return image


def _between(limits: tuple[float, float], uniform: float) -> float:
    low, high = limits
    return low + (high - low) * uniform
