"""Triplet loss (FaceNet, Schroff et al. 2015), exact over the mined triplets, in O(B^2) memory."""

from typing import Literal

import torch

from .triplet_mining import (
    hard_triplets,
    positive_and_negative_pairs,
    semi_hard_triplets,
    squared_distances,
    violation_counts,
)


def triplet_loss(
    embeddings: torch.Tensor,
    labels: torch.Tensor,
    margin: float = 0.2,
    mining: Literal["semi-hard", "hard", "all", "all-violating"] = "semi-hard",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean of max(0, d2(a, p) - d2(a, n) + margin) over the mined triplets (section 3.1), d2 the squared distance.

    What is mined, and what the mean and the fraction are taken over:

    | mining | triplets in the mean | active fraction |
    |---|---|---|
    | `semi-hard` | of each anchor-positive pair one negative, see `semi_hard_triplets` | mined / pairs |
    | `hard` | of each anchor the farthest positive and nearest negative | above zero / anchors |
    | `all` | all | above zero / all |
    | `all-violating` | all above zero | above zero / all |

    A collapsed network (all embeddings equal) shows as a loss that stays at the margin with an active fraction of 1.

    Args:
        embeddings: (B, D), unit length; from all ranks where there are several.
        labels: (B,) integers.

    Returns:
        Loss and active fraction, scalars; both 0 (with a gradient of 0) where the batch has no such triplet.

    Raises:
        ValueError: An unknown mining.
    """
    distances = squared_distances(embeddings)
    fixed = distances.detach()
    if mining in ("all", "all-violating"):
        counts, violating, triplets = violation_counts(fixed, labels, margin)
        total = (counts * distances).sum() + margin * violating
        mean_over = triplets if mining == "all" else violating
        return (total / mean_over.clamp(min=1)).to(distances.dtype), _fraction(violating, triplets)
    if mining == "semi-hard":
        anchors, positives, negatives = semi_hard_triplets(fixed, labels, margin)
        positive, negative = positive_and_negative_pairs(labels)
        candidates = (positive.sum(1) * negative.any(1)).sum()
    elif mining == "hard":
        anchors, positives, negatives = hard_triplets(fixed, labels)
        candidates = torch.tensor(len(anchors), device=labels.device)
    else:
        raise ValueError(f"unknown mining '{mining}'; known: semi-hard, hard, all, all-violating")
    violations = (distances[anchors, positives] - distances[anchors, negatives] + margin).relu()
    loss = violations.sum() / max(len(anchors), 1)
    return loss, _fraction((violations > 0).sum(), candidates)


def _fraction(part: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
    return (part / whole.clamp(min=1)).detach().float()
