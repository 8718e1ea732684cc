"""Distorted inputs and undistorted targets for face swapping; each pair depends on (seed, key) alone."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import grid_sample, interpolate

from hfembed.models.face_embedder.image_processing_face_embedder import similarity_transform
from hfembed.training.config import setting
from hfembed.training.keyed_randomness import keyed_generator

_STREAM = 2  # of `keyed_generator`: augmentation and corruption have others
# every random parameter has its own position among a sample's draws: switching one off leaves the others as they are
_DRAWS = ("mirror", "rotation", "zoom", "shift_x", "shift_y", "gain", "offset", "saturation", "tint_r", "tint_b")


@dataclass(frozen=True)
class WarpedPairs:
    """From aligned crops to pairs of a distorted input and the target that a decoder should make of it.

    Each node of a grid over the crop moves at random, and the input is the crop resampled through the moved grid. The
    target is the crop under the similarity transform that fits the moved grid best, so that only the local distortion
    is left to undo: the shape of the face, which tells people apart. Rotation, zoom, shift, mirror and color are the
    same for both. (The training scheme of the first deepfakes program, 2017, whose grid covers the middle of the crop
    only.)

    Raises:
        ValueError: A field has an impossible value; the message names it.
    """

    seed: int = setting(0, "Seed of all draws.")
    output_size: int | None = setting(None, "Side of inputs and targets; None takes the crops' own.")
    warp: float = setting(
        5 / 256, "Standard deviation of a node's displacement, as a fraction of the size; 0: no warp."
    )
    nodes: int = setting(5, "Nodes per side of the grid.")
    rotation: float = setting(10.0, "Largest rotation to either side, in degrees.")
    zoom: float = setting(0.05, "Largest magnification and reduction, as a fraction.")
    shift: float = setting(0.05, "Largest shift to every side, as a fraction of the size.")
    mirror: float = setting(0.5, "Probability of a mirror image.")
    brightness: float = setting(0.0, "Multiply values by up to 1 +- this, and add up to +- half of it.")
    tint: float = setting(0.0, "Multiply red and blue each by up to 1 +- this.")
    saturation: float = setting(0.0, "Multiply the colors' distance from gray by up to 1 +- this.")

    def __post_init__(self) -> None:
        if self.nodes < 2:
            raise ValueError(f"nodes must be at least 2 per side, not {self.nodes}")
        if not 0 <= self.mirror <= 1:
            raise ValueError(f"mirror is a probability and must lie in [0, 1], not {self.mirror}")
        for name in ("warp", "rotation"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, not {getattr(self, name)}")
        for name in ("zoom", "shift", "brightness", "tint", "saturation"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1), not {getattr(self, name)}")

    def __call__(
        self, pixels: torch.Tensor, keys: Sequence[Sequence[int]], masks: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Make pairs of a batch.

        Args:
            pixels: (batch, channels, height, width) uint8, square crops.
            keys: One per sample: (epoch, index) or (epoch, index, repetition), as the samplers give them.
            masks: (batch, 1, height, width) uint8, moved with the targets.

        Returns:
            Inputs and targets (batch, channels, output_size, output_size) in [0, 1], and the targets' masks
            (batch, 1, output_size, output_size) in [0, 1] or None.
        """
        generators = [keyed_generator(self.seed, key, _STREAM) for key in keys]
        draws = np.stack([generator.random(len(_DRAWS)) for generator in generators]).astype(np.float32)
        uniform = {name: torch.from_numpy(draws[:, column]) for column, name in enumerate(_DRAWS)}
        shape = (2, self.nodes, self.nodes)
        moves = np.stack([generator.standard_normal(shape, dtype=np.float32) for generator in generators])

        # the unit is half of the output's side, from its center: x and y in [-1, 1]
        frame = pixels.shape[-1]
        size = self.output_size or frame
        regular = _regular_grid(self.nodes)
        moved = regular + 2 * self.warp * torch.from_numpy(moves)
        fitted = similarity_transform(_as_points(regular), _as_points(moved))
        matrix = torch.from_numpy(fitted).to(moved.dtype)[:, :, :, None, None]
        x, y = _regular_grid(size) * (size - 1) / size
        aligned = matrix[:, :, 0] * x + matrix[:, :, 1] * y + matrix[:, :, 2]
        distorted = aligned
        if self.warp:
            # nodes lie on the edges, pixel centers half a pixel inside
            distorted = interpolate(moved, size=2 * size + 1, mode="bilinear", align_corners=True)[:, :, 1::2, 1::2]

        place = self._placement(uniform, size / frame)
        crops = pixels.float() / 255
        inputs = _resample(crops, distorted, place)
        if masks is None:
            targets, target_masks = _resample(crops, aligned, place), None
        else:
            both = torch.cat([crops, masks.float() / 255], dim=1)
            targets, target_masks = _resample(both, aligned, place).split([crops.shape[1], 1], dim=1)
        recolor = self._recoloring(uniform, crops.shape[1])
        return recolor(inputs), recolor(targets), target_masks

    def _placement(self, uniform: dict[str, torch.Tensor], fraction: float) -> torch.Tensor:
        """(batch, 2, 3): from the output's coordinates to the crop's, both in [-1, 1]."""
        angle = math.radians(self.rotation) * _signed(uniform["rotation"])
        scale = fraction / (1 + self.zoom * _signed(uniform["zoom"]))
        across = torch.where(uniform["mirror"] < self.mirror, -scale, scale)
        shift_x, shift_y = (2 * fraction * self.shift * _signed(uniform[name]) for name in ("shift_x", "shift_y"))
        first_row = torch.stack([angle.cos() * across, -angle.sin() * scale, shift_x], dim=1)
        second_row = torch.stack([angle.sin() * across, angle.cos() * scale, shift_y], dim=1)
        return torch.stack([first_row, second_row], dim=1)

    def _recoloring(self, uniform: dict[str, torch.Tensor], channels: int) -> Callable[[torch.Tensor], torch.Tensor]:
        def column(values: torch.Tensor) -> torch.Tensor:
            return values.view(-1, 1, 1, 1)

        gain = column(1 + self.brightness * _signed(uniform["gain"]))
        offset = column(0.5 * self.brightness * _signed(uniform["offset"]))
        gains = gain.expand(-1, channels, 1, 1)
        if channels == 3:
            tints = [_signed(uniform["tint_r"]), torch.zeros(len(gain)), _signed(uniform["tint_b"])]
            gains = gains * (1 + self.tint * torch.stack(tints, dim=1).view(-1, 3, 1, 1))
        colorfulness = column(1 + self.saturation * _signed(uniform["saturation"]))

        def recolor(images: torch.Tensor) -> torch.Tensor:
            if self.saturation:
                gray = images.mean(dim=1, keepdim=True)
                images = gray + (images - gray) * colorfulness
            if self.brightness or self.tint:
                images = images * gains + offset
            return images.clamp(0, 1)

        return recolor


def _regular_grid(side: int) -> torch.Tensor:
    """(2, side, side): x and y of a regular grid from -1 to 1."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, side), torch.linspace(-1, 1, side), indexing="ij")
    return torch.stack([x, y])


def _as_points(grid: torch.Tensor) -> np.ndarray:
    """(..., 2, side, side) -> points (..., side * side, 2), in double precision."""
    return grid.flatten(-2).transpose(-1, -2).double().numpy()


def _resample(crops: torch.Tensor, positions: torch.Tensor, placement: torch.Tensor) -> torch.Tensor:
    """Sample crops at positions (batch, 2, h, w), transformed by the placement; the border repeats outside."""
    x, y = positions.unbind(dim=1)
    # element by element, not as a matrix product: its result could depend on the size of the batch
    m = placement[:, :, :, None, None]
    grid = torch.stack([m[:, axis, 0] * x + m[:, axis, 1] * y + m[:, axis, 2] for axis in (0, 1)], dim=-1)
    return grid_sample(crops, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _signed(uniform: torch.Tensor) -> torch.Tensor:
    """[0, 1) -> [-1, 1)."""
    return 2 * uniform - 1
