"""The losses of `FaceEmbedderForTripletLearning`, by the name that `config.metric_loss` gives them.

To add one: write it here and enter it in `METRIC_LOSSES`; its test belongs into tests/models/face_embedder.
"""

from collections.abc import Callable
from typing import Any

import torch

from .triplet_loss import triplet_loss
from .triplet_mining import positive_and_negative_pairs, squared_distances

# the square root's gradient is infinite at 0: there two different people get no gradient instead of NaN
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
        Loss, and the fraction of the pairs of different people that are nearer than the margin; scalars.
    """
    distances_squared = squared_distances(embeddings)
    positive, negative = positive_and_negative_pairs(labels)
    gaps = (margin - distances_squared.clamp(min=_MIN_SQUARED_DISTANCE).sqrt()).relu()
    attraction = (distances_squared * positive).sum() / 2
    repulsion = (gaps.square() * negative).sum() / 2
    pairs = positive.sum() + negative.sum()
    active_share = ((gaps > 0) & negative).sum() / negative.sum().clamp(min=1)
    return (attraction + repulsion) / pairs.clamp(min=1), active_share.float()


# name -> function of embeddings (B, D) of unit length, labels (B,) and the config: the loss, and the fraction of
# active triplets or pairs
METRIC_LOSSES: dict[str, Callable[[torch.Tensor, torch.Tensor, Any], tuple[torch.Tensor, torch.Tensor]]] = {
    "triplet": lambda embeddings, labels, config: triplet_loss(
        embeddings, labels, config.triplet_margin, config.triplet_mining
    ),
    "contrastive": lambda embeddings, labels, config: contrastive_loss(embeddings, labels, config.contrastive_margin),
}
