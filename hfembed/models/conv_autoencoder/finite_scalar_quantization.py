"""Finite scalar quantization: each latent number is one of a few levels."""

from collections.abc import Sequence

import torch

_MARGIN = 1e-3  # the outermost levels are reached before tanh is flat


def quantize(codes: torch.Tensor, levels: Sequence[int]) -> torch.Tensor:
    """Bound each number by tanh and round it to one of its channel's levels (Mentzer et al. 2023, "Finite Scalar
    Quantization: VQ-VAE Made Simple", section 3.1); the gradient passes the rounding as if it were not there.

    Args:
        codes: (B, C, h, w).
        levels: Of each channel, C whole numbers of at least 2.

    Returns:
        (B, C, h, w): multiples of `level_steps(levels)`, from -1 up to 1 (an odd number of levels) or less than 1.
    """
    count = torch.tensor(levels, dtype=torch.float32, device=codes.device).view(1, -1, 1, 1)
    half = (count - 1) * (1 + _MARGIN) / 2
    offset = torch.where(count % 2 == 0, 0.5, 0.0)  # an even number has one more below 0 than above
    bounded = torch.tanh(codes.float() + torch.atanh(offset / half)) * half - offset
    rounded = bounded + (bounded.round() - bounded).detach()
    return (rounded / (count // 2)).to(codes.dtype)


def level_steps(levels: Sequence[int]) -> list[float]:
    """The distance between two levels of each channel."""
    return [1 / (count // 2) for count in levels]
