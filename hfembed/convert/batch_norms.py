"""BatchNorms of foreign files: those that stand for what a file lacks, and those that a convolution takes in."""

from collections.abc import Mapping

import torch
from torch.nn.utils.fusion import fuse_conv_bn_weights

EPS = 1e-5  # of our every BatchNorm


def unscaled_norm(channels: int, shift: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
    """A BatchNorm that adds `shift` (channels,), or nothing, and does not scale: parameters and statistics by name."""
    return {
        "weight": torch.full((channels,), (1 + EPS) ** 0.5),
        "bias": torch.zeros(channels) if shift is None else shift,
        "running_mean": torch.zeros(channels),
        "running_var": torch.ones(channels),
    }


def norm_shapes(norm: str, channels: int) -> dict[str, tuple[int, ...]]:
    """The shapes of a BatchNorm's parameters and statistics, by the names of a file."""
    return {f"{norm}.{key}": (channels,) for key in ("weight", "bias", "running_mean", "running_var")}


def convolution(weights: Mapping[str, torch.Tensor], conv: str, norm: str | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias of a file's convolution, the BatchNorm behind it made part of it."""
    weight, bias = weights[f"{conv}.weight"], weights.get(f"{conv}.bias")
    if norm is None:
        return weight, torch.zeros(len(weight)) if bias is None else bias
    scale, shift, mean, variance = (weights[name] for name in norm_shapes(norm, len(weight)))
    return fuse_conv_bn_weights(weight, bias, mean, variance, EPS, scale, shift)
