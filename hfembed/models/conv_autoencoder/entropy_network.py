"""How likely each rounded latent number is, given those that were decoded before it."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

LEAST_DEVIATION = 0.1  # in steps: a number that is always rounded to the same may still change
_MIDDLE_QUALITY = 16
_LOG_DEVIATIONS = (-8.0, 24.0)  # base 2, in steps
_LEAST_LIKELIHOOD = 2.0**-24  # that of the coder


class Stage(NamedTuple):
    """Numbers that are decoded together: of the channels first..last - 1, the positions of a checkerboard's color."""

    group: int
    first: int
    last: int
    color: int


class GroupNetwork(nn.Module):
    """Predicts a group of channels from the channels before it, and from its own at the other color's positions."""

    def __init__(self, first: int, last: int, hidden: int, height: int, width: int) -> None:
        super().__init__()
        self.read = nn.Conv2d(last, hidden, 5, padding=2)
        self.mix = nn.Conv2d(hidden, hidden, 1)
        self.write = nn.Conv2d(hidden, 2 * (last - first), 1)
        self.quality = nn.Parameter(torch.zeros(hidden))
        # faces are aligned: a position is a part of the face. For each color and each unit
        self.hidden_at = nn.Parameter(torch.zeros(2, hidden, height, width))
        self.output_at = nn.Parameter(torch.zeros(2 * (last - first), height, width))

    def forward(self, known: torch.Tensor, color: int, quality: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Known channels (B, last, h, w), zero where nothing is known yet, and the quality (B,) -> mean and log2 of
        the deviation, each (B, last - first, h, w), in deviations of the channel.
        """
        shift = self.hidden_at[color] + quality[:, None, None, None] * self.quality[:, None, None]
        hidden = F.relu(self.read(known) + shift)
        mean, log_deviation = (self.write(F.relu(self.mix(hidden))) + self.output_at).chunk(2, dim=1)
        return mean, log_deviation


class EntropyNetwork(nn.Module):
    """A Gaussian for each rounded latent number, conditioned on what a decoder knows by then.

    Channels are decoded in groups, each as large as all before it (Minnen and Singh, "Channel-wise Autoregressive
    Entropy Models for Learned Image Compression", 2020), and each group in two halves, the colors of a checkerboard
    (He et al., "Checkerboard Context Model for Efficient Learned Image Compression", 2021). Position takes the place
    of a hyperprior (Balle et al., "Variational Image Compression with a Scale Hyperprior", 2018): crops of faces are
    aligned, and there is no side information.

    Args:
        shape: (C, h, w) of the latents.
        hidden: Channels of the networks' layers.
    """

    center: torch.Tensor
    scale: torch.Tensor
    colors: torch.Tensor

    def __init__(self, shape: Sequence[int], hidden: int = 48) -> None:
        super().__init__()
        channels, height, width = shape
        ends = [min(2**count, channels) for count in range((channels - 1).bit_length() + 1)]
        self.bounds = list(zip([0, *ends[:-1]], ends, strict=True))
        self.groups = nn.ModuleList(GroupNetwork(*bounds, hidden, height, width) for bounds in self.bounds)
        # mean and standard deviation of each channel: what the networks see is of size 1
        self.register_buffer("center", torch.zeros(channels, 1, 1))
        self.register_buffer("scale", torch.ones(channels, 1, 1))
        rows, columns = torch.arange(height)[:, None], torch.arange(width)
        is_even = (rows + columns) % 2 == 0
        self.register_buffer("colors", torch.stack([is_even, ~is_even]), persistent=False)

    def stages(self) -> Iterator[Stage]:
        """The order in which numbers are coded."""
        for group, (first, last) in enumerate(self.bounds):
            for color in (0, 1):
                yield Stage(group, first, last, color)

    def forward(
        self, latents: torch.Tensor, steps: torch.Tensor, quality: torch.Tensor, are_levels: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Round latents as a codec does, and say what they cost.

        What is rounded is the difference to the predicted mean, in steps. Its gradient passes the rounding as if it
        were not there; the bits are those of the number under uniform noise instead (Minnen and Singh 2020, sec. 3.2).

        Args:
            latents: (B, C, h, w).
            steps: Of each number, broadcast to the latents' shape.
            quality: (B,), of which the steps are.
            are_levels: The latents are whole multiples of the steps already: they stay as they are.

        Returns:
            Rounded latents (B, C, h, w), and bits (B,).
        """
        quality = quality_input(quality)
        steps = steps.expand_as(latents)
        rounded: list[torch.Tensor] = []
        bits = latents.new_zeros(len(latents))
        known = latents[:, :0]
        for stage in self.stages():
            own = slice(stage.first, stage.last)
            center, scale, step = self.center[own], self.scale[own], steps[:, own]
            if stage.color == 0:
                values = torch.zeros_like(latents[:, own])
                seen = values
            mean, log_deviation = self.groups[stage.group](torch.cat([known, seen], 1), stage.color, quality)
            mean = (center + mean * scale) / step
            deviation = step_deviation(log_deviation + torch.log2(scale / step))
            difference = latents[:, own] / step - mean
            if are_levels:
                value, measured = latents[:, own], difference
            else:
                value = (mean + difference + (difference.round() - difference).detach()) * step
                measured = difference + torch.rand_like(difference) - 0.5
            is_now = self.colors[stage.color]
            costs = -torch.log2(likelihood(measured, deviation).clamp(min=_LEAST_LIKELIHOOD))
            bits = bits + (costs * is_now).sum((1, 2, 3))
            values = values + value * is_now
            seen = seen + (value - center) / scale * is_now
            if stage.color == 1:
                rounded.append(values)
                known = torch.cat([known, seen], 1)
        return torch.cat(rounded, 1), bits


def quality_input(quality: torch.Tensor) -> torch.Tensor:
    """A quality as the networks see it."""
    return (quality - _MIDDLE_QUALITY) / 8


def step_deviation(log_deviation: torch.Tensor) -> torch.Tensor:
    """Deviations in steps, bounded from below, from their base-2 logarithms."""
    return torch.sqrt(torch.exp2(2 * log_deviation.clamp(*_LOG_DEVIATIONS)) + LEAST_DEVIATION**2)


def likelihood(difference: torch.Tensor, deviation: torch.Tensor) -> torch.Tensor:
    """Mass of a Gaussian within half a step of a difference to its mean (Balle et al. 2018, eq. 11).

    Both tails are taken from below, where the mass is not lost beside 1.
    """
    distance = -difference.abs()
    scale = 1 / (deviation * math.sqrt(2))
    return 0.5 * (torch.erfc(-(distance + 0.5) * scale) - torch.erfc(-(distance - 0.5) * scale))


def rounding_step(quality: torch.Tensor, pixel_values: int) -> torch.Tensor:
    """The step of a quality: 2 ** (-quality / 2) of the image's range in each value, for an orthonormal code.

    Args:
        quality: Any shape.
        pixel_values: Numbers of an image.
    """
    return torch.exp2(-quality / 2) * pixel_values**0.5
