"""BatchNorms that stand for what a foreign file lacks."""

import torch

EPS = 1e-5  # of our every BatchNorm


def unscaled_norm(channels: int, shift: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
    """A BatchNorm that adds `shift` (channels,), or nothing, and does not scale: parameters and statistics by name."""
    return {
        "weight": torch.full((channels,), (1 + EPS) ** 0.5),
        "bias": torch.zeros(channels) if shift is None else shift,
        "running_mean": torch.zeros(channels),
        "running_var": torch.ones(channels),
    }
