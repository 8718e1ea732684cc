"""Blurring and resampling as matrices, for augmentation and corruption of crops."""

from functools import lru_cache

import numpy as np
import torch
from torch.nn.functional import interpolate


@lru_cache(maxsize=512)
def resampling_matrix(size: int, between: int) -> np.ndarray:
    """(size, size): shrink a column of pixels to `between` with antialiasing, then enlarge it again."""
    identity = torch.eye(size)[None, None]
    small = interpolate(identity, size=(between, size), mode="bilinear", antialias=True)
    return interpolate(small, size=(size, size), mode="bilinear").numpy()[0, 0]


def blur_matrix(size: int, sigma: float) -> np.ndarray:
    """(size, size): a Gaussian whose weights sum to one at the borders too."""
    places = np.arange(size)
    weights = np.exp(-((places[:, None] - places[None]) ** 2) / (2 * sigma**2))
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
