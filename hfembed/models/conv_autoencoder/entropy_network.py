"""The probability of each rounded latent number, given those that were decoded before it."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

LEAST_DEVIATION = 0.1  # in steps: a number that was constant in the training images may differ in others
_MIDDLE_QUALITY = 16
_LOG_DEVIATIONS = (-8.0, 24.0)  # base 2, in steps
_LEAST_LIKELIHOOD = 2.0**-24  # the smallest that the coder represents


class Stage(NamedTuple):
    """Numbers that are decoded together: channels first to last - 1, at the positions of one checkerboard color."""

    group: int
    first: int
    last: int
    color: int


class GroupNetwork(nn.Module):
    """Predicts a group of channels from all earlier channels and its own values at the other color's positions."""

    def __init__(self, first: int, last: int, hidden: int, height: int, width: int) -> None:
        super().__init__()
        self.read = nn.Conv2d(last, hidden, 5, padding=2)
        self.mix = nn.Conv2d(hidden, hidden, 1)
        self.write = nn.Conv2d(hidden, 2 * (last - first), 1)
        self.quality = nn.Parameter(torch.zeros(hidden))
        # in aligned faces each position shows one part of the face: biases per color, unit and position
        self.hidden_at = nn.Parameter(torch.zeros(2, hidden, height, width))
        self.output_at = nn.Parameter(torch.zeros(2 * (last - first), height, width))

    def forward(self, known: torch.Tensor, color: int, quality: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Predict a group.

        Args:
            known: (B, last, h, w), zero where nothing is decoded yet.
            color: Of the checkerboard, 0 or 1.
            quality: (B,), as `quality_input` gives it.

        Returns:
            Mean and log2 of the standard deviation, each (B, last - first, h, w), in standard deviations of the
            channel.
        """
        shift = self.hidden_at[color] + quality[:, None, None, None] * self.quality[:, None, None]
        hidden = F.relu(self.read(known) + shift)
        mean, log_deviation = (self.write(F.relu(self.mix(hidden))) + self.output_at).chunk(2, dim=1)
        return mean, log_deviation


class EntropyNetwork(nn.Module):
    """A Gaussian for each rounded latent number, conditioned on the numbers decoded before it.

    Channels are decoded in groups, each as large as all before it (Minnen and Singh, "Channel-wise Autoregressive
    Entropy Models for Learned Image Compression", 2020), and each group in two halves, the colors of a checkerboard
    (He et al., "Checkerboard Context Model for Efficient Learned Image Compression", 2021). There is no hyperprior
    (Balle et al., "Variational Image Compression with a Scale Hyperprior", 2018), and so no side information: crops of
    faces are aligned, and biases per position take its place.

    Args:
        shape: (C, h, w) of the latents.
        hidden: Channels of the networks' layers.
    """

    center: torch.Tensor
    scale: torch.Tensor

    def __init__(self, shape: Sequence[int], hidden: int = 48) -> None:
        super().__init__()
        channels, height, width = shape
        ends = [min(2**count, channels) for count in range((channels - 1).bit_length() + 1)]
        self.bounds = list(zip([0, *ends[:-1]], ends, strict=True))
        self.groups = nn.ModuleList(GroupNetwork(*bounds, hidden, height, width) for bounds in self.bounds)
        # mean and standard deviation of each channel, by which the networks' input is normalized
        self.register_buffer("center", torch.zeros(channels, 1, 1))
        self.register_buffer("scale", torch.ones(channels, 1, 1))
        self.size = (height, width)

    @property
    def colors(self) -> torch.Tensor:
        """The two halves of the positions: (2, h, w) bool."""
        height, width = self.size
        rows, columns = (torch.arange(side, device=self.center.device) for side in (height, width))
        is_even = (rows[:, None] + columns) % 2 == 0
        return torch.stack([is_even, ~is_even])

    def stages(self) -> Iterator[Stage]:
        """The order in which numbers are coded."""
        for group, (first, last) in enumerate(self.bounds):
            for color in (0, 1):
                yield Stage(group, first, last, color)

    def forward(
        self, latents: torch.Tensor, steps: torch.Tensor, quality: torch.Tensor, are_levels: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Round latents as a codec does, and compute their cost in bits.

        The difference to the predicted mean, in steps, is rounded, with a straight-through gradient. For the bits,
        uniform noise takes the place of rounding (Minnen and Singh 2020, sec. 3.2).

        Args:
            latents: (B, C, h, w).
            steps: Quantization step of each number; broadcast to the latents' shape.
            quality: (B,), the qualities that the steps belong to.
            are_levels: The latents are whole multiples of the steps already: they stay as they are.

        Returns:
            Rounded latents (B, C, h, w), and bits (B,).
        """
        quality, colors = quality_input(quality), self.colors
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
            is_now = colors[stage.color]
            costs = -torch.log2(likelihood(measured, deviation).clamp(min=_LEAST_LIKELIHOOD))
            bits = bits + (costs * is_now).sum((1, 2, 3))
            values = values + value * is_now
            seen = seen + (value - center) / scale * is_now
            if stage.color == 1:
                rounded.append(values)
                known = torch.cat([known, seen], 1)
        return torch.cat(rounded, 1), bits


def quality_input(quality: torch.Tensor) -> torch.Tensor:
    """A quality, scaled for the networks' input."""
    return (quality - _MIDDLE_QUALITY) / 8


def step_deviation(log_deviation: torch.Tensor) -> torch.Tensor:
    """Deviations in steps, bounded from below, from their base-2 logarithms."""
    return torch.sqrt(torch.exp2(2 * log_deviation.clamp(*_LOG_DEVIATIONS)) + LEAST_DEVIATION**2)


def likelihood(difference: torch.Tensor, deviation: torch.Tensor) -> torch.Tensor:
    """Probability mass of a Gaussian within half a step of a difference to its mean (Balle et al. 2018, eq. 11).

    Computed in the lower tail, where small masses do not cancel against 1.
    """
    distance = -difference.abs()
    scale = 1 / (deviation * math.sqrt(2))
    return 0.5 * (torch.erfc(-(distance + 0.5) * scale) - torch.erfc(-(distance - 0.5) * scale))


def rounding_step(quality: torch.Tensor, pixel_values: int) -> torch.Tensor:
    """The quantization step of a quality.

    It is 2 ** (-quality / 2) of the range in each value of the image, if the decoder were orthonormal.

    Args:
        quality: Any shape.
        pixel_values: How many values an image has.
    """
    return torch.exp2(-quality / 2) * pixel_values**0.5
