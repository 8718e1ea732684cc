"""Contrastive loss over all pairs of a batch (Hadsell, Chopra and LeCun 2006)."""

import torch

from .triplet_mining import positive_and_negative_pairs, squared_distances

# the square root's slope is infinite at 0: two different people on one point are pushed apart by nothing, not by NaN
_MIN_SQUARED_DISTANCE = 1e-8


def contrastive_loss(
    embeddings: torch.Tensor, labels: torch.Tensor, margin: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean over all pairs of d^2 / 2 for one person and max(0, margin - d)^2 / 2 for two (equation 4).

    Args:
        embeddings: (B, D), unit length; from all ranks where there are several.
        labels: (B,) integers.
        margin: Euclidean distance (not squared) up to which different people are pushed apart.

    Returns:
        Loss, and the share of the pairs of different people that are nearer than the margin; scalars.
    """
    distances_squared = squared_distances(embeddings)
    positive, negative = positive_and_negative_pairs(labels)
    gaps = (margin - distances_squared.clamp(min=_MIN_SQUARED_DISTANCE).sqrt()).relu()
    attraction = (distances_squared * positive).sum() / 2
    repulsion = (gaps.square() * negative).sum() / 2
    pairs = positive.sum() + negative.sum()
    active_share = ((gaps > 0) & negative).sum() / negative.sum().clamp(min=1)
    return (attraction + repulsion) / pairs.clamp(min=1), active_share.float()
