"""Baselines of verification without learned features: raw pixels and eigenfaces."""

import numpy as np
import torch
from sklearn.decomposition import PCA
from torch.nn.functional import avg_pool2d

from hfembed.errors import InputError


def pixel_baseline_embeddings(
    fitted_on: torch.Tensor, crops: torch.Tensor, components: int = 300, seed: int = 0
) -> dict[str, np.ndarray]:
    """Embed crops by their pixels: gray, halved in size, compared by cosine.

    Turk and Pentland, "Eigenfaces for Recognition", 1991. Whitening divides each component by its deviation, so that
    the directions of light and pose, which vary most, no longer outweigh the rest.

    Args:
        fitted_on: (M, C, H, W) uint8, crops of other people than the tested; mean and components come from these.
        crops: (N, C, H, W) uint8.

    Returns:
        Name -> (N, D) float32: "pixels" (centered by the mean face), "eigenfaces", "whitened_eigenfaces".

    Raises:
        InputError: There are fewer than two crops to fit on.
    """
    if len(fitted_on) < 2:
        raise InputError(f"{len(fitted_on)} crops are too few to fit eigenfaces on")
    known, tested = _gray_halves(fitted_on), _gray_halves(crops)
    pca = PCA(min(components, *known.shape), svd_solver="randomized", random_state=seed).fit(known)
    centered = tested - pca.mean_
    projected = centered @ pca.components_.T
    return {
        "pixels": centered,
        "eigenfaces": projected,
        "whitened_eigenfaces": projected / np.sqrt(np.maximum(pca.explained_variance_, 1e-12)),
    }


def _gray_halves(crops: torch.Tensor) -> np.ndarray:
    gray = torch.cat([part.float().mean(1, keepdim=True) for part in crops.split(512)])
    return (avg_pool2d(gray, 2) / 255).flatten(1).numpy()
