"""How much made-up faces are like real ones, by what a face embedder sees in them."""

from collections.abc import Callable

import numpy as np
import torch
from sklearn.decomposition import PCA


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Distance of two sets of features, each taken for a Gaussian.

    Heusel et al., "GANs Trained by a Two Time-Scale Update Rule", 2017, eq. 6:
    |m1 - m2| ** 2 + trace(C1 + C2 - 2 (C1 C2) ** (1/2)). It falls with the number of features even for two sets of one
    kind: compare sets of equal sizes.

    Args:
        first: (N, D), more rows than columns.
        second: (M, D).

    Returns:
        From 0 up, in squared units of the features.
    """
    means = first.mean(0), second.mean(0)
    covariances = [np.cov(features.astype(np.float64), rowvar=False) for features in (first, second)]
    # the trace of the root of C1 C2 is that of the symmetric C1 ** (1/2) C2 C1 ** (1/2)
    values, vectors = np.linalg.eigh(covariances[0])
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    cross = np.sqrt(np.clip(np.linalg.eigvalsh(root @ covariances[1] @ root), 0, None)).sum()
    trace = np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * cross
    return float(((means[0] - means[1]) ** 2).sum() + max(trace, 0.0))


class PcaGaussian:
    """The linear way to make faces: principal components of pixels, drawn from one Gaussian.

    Args:
        images: (M, C, H, W) float in [0, 1], to fit on.
        components: Numbers a face is drawn with, at most M.
    """

    def __init__(self, images: torch.Tensor, components: int):
        self.pca = PCA(components, svd_solver="randomized", iterated_power=5, random_state=0).fit(
            images.flatten(1).numpy()
        )
        self.shape = images.shape[1:]

    def sample(self, count: int, seed: int = 0) -> torch.Tensor:
        """Draw images.

        Args:
            count: How many.
            seed: Another seed, other images.

        Returns:
            (count, C, H, W) float32, clipped to [0, 1].
        """
        noise = np.random.default_rng(seed).standard_normal((count, len(self.pca.components_)))
        flat = self.pca.inverse_transform(noise * np.sqrt(self.pca.explained_variance_))
        return torch.from_numpy(flat.astype(np.float32)).view(count, *self.shape).clamp_(0, 1)


def distances_of_samples(
    embed: Callable[[torch.Tensor], np.ndarray],
    held_out: torch.Tensor,
    known: torch.Tensor,
    samplers: dict[str, Callable[[int, int], torch.Tensor]],
    draws: int = 5,
) -> dict[str, list[float]]:
    """Frechet distances of made-up images to held-out ones.

    Args:
        embed: Images (N, C, H, W) in [0, 1] -> features (N, D).
        held_out: (N, C, H, W) in [0, 1], of people that no sampler was fitted on.
        known: (M, C, H, W) in [0, 1], real images of other people: their distance is the floor, what N draws of real
            faces score.
        samplers: Name -> (count, seed) -> images.
        draws: Sets of N images drawn from each.

    Returns:
        Name -> a distance for each draw; first "real_faces".
    """
    features = embed(held_out)
    count = len(held_out)

    def real(number: int, seed: int) -> torch.Tensor:
        chosen = np.random.default_rng(seed).choice(len(known), size=number, replace=False)
        return known[torch.from_numpy(chosen)]

    return {
        name: [frechet_distance(features, embed(sample(count, seed))) for seed in range(draws)]
        for name, sample in {"real_faces": real, **samplers}.items()
    }
