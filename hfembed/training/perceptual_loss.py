"""Distances between what a frozen network makes of two images: feature maps, and embeddings of faces."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F


def feature_distance(
    reconstruction: Sequence[torch.Tensor], target: Sequence[torch.Tensor], weights: Sequence[float]
) -> torch.Tensor:
    """The mean of `feature_distances` over the images, a scalar."""
    return feature_distances(reconstruction, target, weights).mean()


def feature_distances(
    reconstruction: Sequence[torch.Tensor], target: Sequence[torch.Tensor], weights: Sequence[float]
) -> torch.Tensor:
    """Squared distance of feature maps whose channels have unit length at every place.

    Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", 2018, eq. 1, with a weight
    for each layer instead of one for each channel.

    Args:
        reconstruction: A map (B, channels, h, w) for each layer.
        target: Maps of the same shapes.
        weights: A weight for each layer.

    Returns:
        (B,): the weighted sum over layers of the mean over places. In [0, 4 * sum(weights)].
    """
    total = reconstruction[0].new_zeros(len(reconstruction[0]), dtype=torch.float32)
    for ours, theirs, weight in zip(reconstruction, target, weights, strict=True):
        difference = _unit_channels(ours.float()) - _unit_channels(theirs.float())
        total = total + weight * difference.square().sum(1).mean((1, 2))
    return total


def embedding_distance(reconstruction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """One minus the mean cosine of embeddings (B, D): how much of a person's identity is lost, in [0, 2]."""
    return 1 - F.cosine_similarity(reconstruction.float(), target.float(), eps=1e-6).mean()


def _unit_channels(features: torch.Tensor) -> torch.Tensor:
    # the constant stands inside the root, whose slope at zero is infinite
    return features / torch.sqrt(features.square().sum(1, keepdim=True) + 1e-8)
