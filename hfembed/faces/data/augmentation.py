"""Augmentation of uint8 face crops, each sample's a pure function of (seed, key)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
import torch
from torch.nn.functional import grid_sample

from hfembed.training.config import setting
from hfembed.training.keyed_randomness import keyed_generator
from hfembed.training.pixel_filters import blur_matrix, resampling_matrix

# Every random parameter owns one place among a sample's draws, so that switching one operation on or off, or
# changing its range, leaves the draws of the others as they were.
_DRAWS = (
    *("mirror", "zoom", "aspect", "rotation", "shear", "shift_x", "shift_y"),
    *(f"corner_{corner}" for corner in range(8)),
    *("grayscale", "saturation", "downsample", "downsample_size", "blur", "blur_sigma"),
    *("gamma", "contrast", "brightness", "light_x", "light_y", "noise", "noise_strength"),
    *("erase", "erase_height", "erase_width", "erase_x", "erase_y", "erase_level"),
)
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)


@dataclass(frozen=True)
class FaceAugmentation:
    """Changes a batch of aligned crops; what happens to a sample depends on (seed, key) alone.

    Neither the other samples of the batch, nor the rank, the worker or an earlier call have an influence, so that
    training on one rank, on several, and after resuming gets the same pixels. Every operation is off by default. They
    come in the order of the fields: geometry in one bilinear resampling, then color, sharpness, light, noise,
    occlusion.

    Raises:
        ValueError: A field has an impossible value; the message names it.
    """

    seed: int = setting(0, "Seed of all draws.")
    output_size: tuple[int, int] | None = setting(
        None,
        "Height and width to cut from the middle of crops aligned with a margin; None keeps the size of the crops.",
    )
    mirror: float = setting(0.0, "Probability of a mirror image.")
    zoom: tuple[float, float] = setting(
        (1.0, 1.0), "Smallest and largest magnification (drawn evenly in the logarithm)."
    )
    aspect: float = setting(0.0, "Stretch width against height by up to exp(+-aspect) each.")
    rotation: float = setting(0.0, "Largest rotation to either side, in degrees.")
    shear: float = setting(0.0, "Largest horizontal shear to either side (shift per height).")
    shift: float = setting(0.0, "Largest shift to every side, as a fraction of the size.")
    perspective: float = setting(0.0, "Largest way a corner moves (each by itself), as a fraction of the size.")
    padding: Literal["border", "zeros", "reflection"] = setting("border", "What lies outside of the crop.")
    grayscale: float = setting(0.0, "Probability of removing all color (crops with three channels).")
    saturation: float = setting(0.0, "Multiply the colors' distance from gray by up to exp(+-saturation).")
    downsample: float = setting(0.0, "Probability of shrinking and enlarging again.")
    downsample_size: tuple[float, float] = setting((0.35, 0.8), "Smallest and largest size in between, as a fraction.")
    blur: float = setting(0.0, "Probability of a Gaussian blur.")
    blur_sigma: tuple[float, float] = setting((0.5, 1.5), "Smallest and largest sigma of the blur, in pixels.")
    gamma: float = setting(0.0, "Raise the values in [0, 1] to a power of up to exp(+-gamma).")
    contrast: float = setting(0.0, "Multiply the distance from the crop's mean by up to exp(+-contrast).")
    brightness: float = setting(0.0, "Add up to +-brightness to the values in [0, 1].")
    light: float = setting(0.0, "Multiply by a ramp of 1 +- light from edge to edge, across and down (side light).")
    noise: float = setting(0.0, "Probability of Gaussian noise.")
    noise_strength: float = setting(0.05, "Largest standard deviation of the noise, for values in [0, 1].")
    erase: float = setting(0.0, "Probability of covering a rectangle, at any place, partly outside too.")
    erase_size: tuple[float, float] = setting(
        (0.2, 0.45), "Smallest and largest side of the rectangle, as a fraction."
    )
    erase_fill: Literal["level", "mean", "noise"] = setting(
        "level", "Cover with one random gray level, with the crop's mean color, or with noise."
    )

    def __post_init__(self) -> None:
        probabilities = ("mirror", "grayscale", "downsample", "blur", "noise", "erase")
        for name in probabilities:
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a probability and must lie in [0, 1], not {getattr(self, name)}")
        for name in ("aspect", "rotation", "shear", "shift", "saturation", "gamma", "contrast", "brightness", "light"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be finite and not negative, not {getattr(self, name)}")
        if not 0 <= self.perspective < 0.5:
            raise ValueError(f"perspective must lie in [0, 0.5), not {self.perspective}")
        for name in ("zoom", "downsample_size", "blur_sigma", "erase_size"):
            low, high = getattr(self, name)
            if not 0 < low <= high < math.inf:
                raise ValueError(
                    f"{name} must be (smallest, largest) with 0 < smallest <= largest, not ({low}, {high})"
                )
        if self.downsample_size[1] > 1:
            raise ValueError(f"downsample_size must not exceed 1, not {self.downsample_size}")
        if self.padding not in ("border", "zeros", "reflection"):
            raise ValueError(f'padding must be "border", "zeros" or "reflection", not "{self.padding}"')
        if self.erase_fill not in ("level", "mean", "noise"):
            raise ValueError(f'erase_fill must be "level", "mean" or "noise", not "{self.erase_fill}"')

    def __call__(self, pixels: torch.Tensor, keys: Sequence[Sequence[int]]) -> torch.Tensor:
        """Augment a batch.

        Args:
            pixels: (batch, channels, height, width) uint8.
            keys: One per sample: (epoch, index) or (epoch, index, repetition), as the samplers give them.

        Returns:
            (batch, channels, *output_size) uint8; `pixels` itself is left as it was.
        """
        generators = [keyed_generator(self.seed, key) for key in keys]
        drawn = np.stack([generator.random(len(_DRAWS)) for generator in generators])
        uniform = {name: drawn[:, column] for column, name in enumerate(_DRAWS)}
        augmented = self._move(pixels, uniform).numpy()
        if self.grayscale or self.saturation:
            augmented = self._recolor(augmented, uniform)
        if self.downsample or self.blur:
            augmented = self._soften(augmented, uniform)
        if self.gamma or self.contrast or self.brightness or self.light or self.noise:
            augmented = self._relight(augmented, uniform, generators)
        if self.erase:
            augmented = self._cover(augmented, uniform, generators)
        return torch.from_numpy(augmented)

    def _move(self, pixels: torch.Tensor, uniform: dict[str, np.ndarray]) -> torch.Tensor:
        """Mirror, zoom, stretch, rotate, shear, shift, tilt: (B, C, frame) -> (B, C, output), one resampling."""
        frame_height, frame_width = pixels.shape[2:]
        height, width = self.output_size or (frame_height, frame_width)
        mirrored = uniform["mirror"] < self.mirror
        still = not (self.aspect or self.rotation or self.shear or self.shift or self.perspective)
        if still and self.zoom == (1.0, 1.0):  # no resampling needed: cut out the middle
            top, left = (frame_height - height) // 2, (frame_width - width) // 2
            moved = pixels[:, :, top : top + height, left : left + width].clone()
            flipped = torch.from_numpy(mirrored)
            moved[flipped] = moved[flipped].flip(3)
            return moved

        # output pixel, counted from the middle -> frame pixel, counted from the middle:
        # rotation @ shear @ diag(stretch) / zoom, then shift
        zoom = np.exp(_between(uniform["zoom"], *np.log(self.zoom)))
        stretch = np.exp(self.aspect * _signed(uniform["aspect"]))
        angle = math.radians(self.rotation) * _signed(uniform["rotation"])
        shear = self.shear * _signed(uniform["shear"])
        across = stretch / zoom * np.where(mirrored, -1.0, 1.0)
        down = 1.0 / (stretch * zoom)
        cosine, sine = np.cos(angle), np.sin(angle)
        affine = np.zeros((len(zoom), 3, 3))
        affine[:, 0, 0], affine[:, 0, 1] = cosine * across, (cosine * shear - sine) * down
        affine[:, 1, 0], affine[:, 1, 1] = sine * across, (sine * shear + cosine) * down
        affine[:, 0, 2] = self.shift * width * _signed(uniform["shift_x"])
        affine[:, 1, 2] = self.shift * height * _signed(uniform["shift_y"])
        affine[:, 2, 2] = 1.0
        if self.perspective:
            offsets = np.stack([_signed(uniform[f"corner_{corner}"]) for corner in range(8)], axis=1)
            affine = affine @ _homographies(height, width, self.perspective * offsets.reshape(-1, 4, 2))

        # element by element, not as a matrix product: its result could depend on the size of the batch
        m = torch.from_numpy(affine.astype(np.float32))[:, :, :, None, None]
        y = (torch.arange(height, dtype=torch.float32) - (height - 1) / 2)[None, :, None]
        x = (torch.arange(width, dtype=torch.float32) - (width - 1) / 2)[None, None, :]
        grid = torch.empty(len(pixels), height, width, 2)
        for axis, frame_size in enumerate((frame_width, frame_height)):
            source = m[:, axis, 0] * x + (m[:, axis, 1] * y + m[:, axis, 2])
            if self.perspective:
                source /= m[:, 2, 0] * x + (m[:, 2, 1] * y + m[:, 2, 2])
            torch.mul(source, 2 / (frame_size - 1), out=grid[..., axis])
        moved = grid_sample(pixels.float(), grid, mode="bilinear", padding_mode=self.padding, align_corners=True)
        return moved.add_(0.5).clamp_(0, 255).to(torch.uint8)

    def _recolor(self, pixels: np.ndarray, uniform: dict[str, np.ndarray]) -> np.ndarray:
        if pixels.shape[1] != 3:
            raise ValueError(f"grayscale and saturation need crops with 3 channels, these have {pixels.shape[1]}")
        kept = np.exp(self.saturation * _signed(uniform["saturation"]))
        kept = np.where(uniform["grayscale"] < self.grayscale, 0.0, kept).astype(np.float32)[:, None, None, None]
        colors = pixels.astype(np.float32)
        gray = (colors * _LUMA[:, None, None]).sum(axis=1, keepdims=True)
        return _to_uint8(gray + (colors - gray) * kept)

    def _soften(self, pixels: np.ndarray, uniform: dict[str, np.ndarray]) -> np.ndarray:
        height, width = pixels.shape[2:]
        share = _between(uniform["downsample_size"], *self.downsample_size)
        sigma = _between(uniform["blur_sigma"], *self.blur_sigma)
        shrunk = uniform["downsample"] < self.downsample
        blurred = uniform["blur"] < self.blur
        for sample in np.flatnonzero(shrunk | blurred):
            # both are linear and separable: rows @ crop @ columns.T
            rows, columns = np.eye(height, dtype=np.float32), np.eye(width, dtype=np.float32)
            if shrunk[sample]:
                rows = resampling_matrix(height, max(1, round(height * share[sample])))
                columns = resampling_matrix(width, max(1, round(width * share[sample])))
            if blurred[sample]:
                rows = blur_matrix(height, sigma[sample]) @ rows
                columns = blur_matrix(width, sigma[sample]) @ columns
            pixels[sample] = _to_uint8(rows @ pixels[sample].astype(np.float32) @ columns.T)
        return pixels

    def _relight(
        self, pixels: np.ndarray, uniform: dict[str, np.ndarray], generators: list[np.random.Generator]
    ) -> np.ndarray:
        height, width = pixels.shape[2:]
        power = np.exp(self.gamma * _signed(uniform["gamma"]))
        factor = np.exp(self.contrast * _signed(uniform["contrast"]))
        offset = self.brightness * _signed(uniform["brightness"])
        table = (np.arange(256) / 255) ** power[:, None]  # (B, 256): where each of the 256 values goes
        if self.contrast:
            # the mean after gamma, from the histogram: exact whatever the order of summation
            counts = np.stack([np.bincount(crop.ravel(), minlength=256) for crop in pixels])
            mean = (table * counts).sum(axis=1, keepdims=True) / counts.sum(axis=1, keepdims=True)
            table = (table - mean) * factor[:, None] + mean
        table = ((table + offset[:, None]) * 255).astype(np.float32)
        values = np.empty(pixels.shape, dtype=np.float32)
        for sample, crop in enumerate(pixels):
            np.take(table[sample], crop, out=values[sample])
        if self.light:
            ramp_x = (self.light * _signed(uniform["light_x"])[:, None] * np.linspace(-1, 1, width)).astype(np.float32)
            ramp_y = (self.light * _signed(uniform["light_y"])[:, None] * np.linspace(-1, 1, height)).astype(
                np.float32
            )
            values *= (1 + ramp_x[:, None, :] + ramp_y[:, :, None])[:, None]
        strength = (self.noise_strength * 255 * uniform["noise_strength"]).astype(np.float32)
        for noisy in np.flatnonzero(uniform["noise"] < self.noise):
            noise = generators[noisy].standard_normal(values[noisy].shape, dtype=np.float32)
            values[noisy] += strength[noisy] * noise
        return _to_uint8(values)

    def _cover(
        self, pixels: np.ndarray, uniform: dict[str, np.ndarray], generators: list[np.random.Generator]
    ) -> np.ndarray:
        height, width = pixels.shape[2:]
        half_height = _between(uniform["erase_height"], *self.erase_size) * height / 2
        half_width = _between(uniform["erase_width"], *self.erase_size) * width / 2
        center_y, center_x = uniform["erase_y"] * height, uniform["erase_x"] * width
        for sample in np.flatnonzero(uniform["erase"] < self.erase):
            y, x, h, w = center_y[sample], center_x[sample], half_height[sample], half_width[sample]
            rows = slice(max(0, round(y - h)), max(0, round(y + h)))
            columns = slice(max(0, round(x - w)), max(0, round(x + w)))
            patch = pixels[sample, :, rows, columns]
            if self.erase_fill == "level":
                patch[:] = int(uniform["erase_level"][sample] * 256)
            elif self.erase_fill == "mean":
                patch[:] = _to_uint8(pixels[sample].mean(axis=(1, 2), keepdims=True))
            else:
                patch[:] = generators[sample].integers(0, 256, patch.shape, dtype=np.uint8)
        return pixels

    @classmethod
    def help_texts(cls) -> dict[str, str]:
        """What each field does, for command lines and documentation."""
        return {item.name: item.metadata["help"] for item in fields(cls)}


def _signed(uniform: np.ndarray) -> np.ndarray:
    """[0, 1) -> [-1, 1)."""
    return 2 * uniform - 1


def _between(uniform: np.ndarray, low: float, high: float) -> np.ndarray:
    return low + (high - low) * uniform


def _to_uint8(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _homographies(height: int, width: int, offsets: np.ndarray) -> np.ndarray:
    """Projective maps that move the corners of the output by `offsets` (B, 4, [x, y]), shares of the size."""
    size = np.array([width, height])
    corners = np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]]) * size
    targets = corners + offsets * size
    x, y = corners[None, :, 0], corners[None, :, 1]
    zero, one = np.zeros_like(targets[..., 0]), np.ones_like(targets[..., 0])
    rows = []
    for u, first in ((targets[..., 0], True), (targets[..., 1], False)):
        point = (x * one, y * one, one)
        here, there = (point, (zero,) * 3) if first else ((zero,) * 3, point)
        rows.append(np.stack([*here, *there, -u * x, -u * y], axis=-1))
    system = np.concatenate(rows, axis=1)  # (B, 8, 8): the direct linear transformation
    right = np.concatenate([targets[..., 0], targets[..., 1]], axis=1)[..., None]
    solution = np.linalg.solve(system, right)[..., 0]
    return np.concatenate([solution, np.ones((len(solution), 1))], axis=1).reshape(-1, 3, 3)
