"""Which triplets of a batch to learn from. O(B^2) memory: sorted rows of the distance matrix, never B x B x B."""

import torch
import torch.nn.functional as F


def squared_distances(embeddings: torch.Tensor) -> torch.Tensor:
    """Squared Euclidean distances between vectors of unit length, 2 - 2 cos.

    Returns:
        (B, B) in [0, 4], at least float32, also under autocast; no square root, so no infinite gradient.
    """
    embeddings = embeddings.to(torch.promote_types(embeddings.dtype, torch.float32))
    with torch.autocast(embeddings.device.type, enabled=False):
        return (2 - 2 * F.linear(embeddings, embeddings)).clamp(min=0)


def positive_and_negative_pairs(labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Pairs of the same label (an image with itself left out) and of different labels.

    Returns:
        Two bool matrices (B, B).
    """
    same = labels.unsqueeze(0) == labels.unsqueeze(1)
    return same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device), ~same


@torch.no_grad()
def semi_hard_triplets(
    distances: torch.Tensor, labels: torch.Tensor, margin: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """For every anchor-positive pair the nearest negative that is farther than the positive (FaceNet, section 3.2).

    Of the negatives with d2(a, p) < d2(a, n) < d2(a, p) + margin the nearest is taken. A pair whose negatives are all
    at least the margin farther is learned: no triplet. A pair that has negatives, none of them farther than its
    positive (so early in training, and after a collapse), falls back to its farthest negative, the least hard.

    Returns:
        Anchor, positive and negative indices, (T,) each, int64, ordered by anchor.
    """
    positive, negative = positive_and_negative_pairs(labels)
    anchors, positives = positive.nonzero(as_tuple=True)
    by_distance, negatives = distances.masked_fill(~negative, torch.inf).sort(dim=1)
    # one row of positives per anchor, padded: one search per row finds the first negative that is farther
    rows, columns, padded = _rows_of_pairs(anchors, positives, distances)
    first_farther = torch.searchsorted(by_distance, padded, right=True)[rows, columns]
    counts = negative.sum(1)[anchors]
    chosen = torch.minimum(first_farther, counts - 1).clamp(min=0)
    learned = by_distance[anchors, chosen] >= distances[anchors, positives] + margin
    # 'not learned' rather than 'violating': a NaN must reach the loss and be seen there
    kept = ~learned & (counts > 0)
    return anchors[kept], positives[kept], negatives[anchors, chosen][kept]


@torch.no_grad()
def hard_triplets(distances: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """For every anchor its farthest positive and its nearest negative ('batch hard', Hermans et al. 2017, equation 5).

    Returns:
        Anchor, positive and negative indices, (T,) each, int64; anchors without a positive or a negative are left out.
    """
    positive, negative = positive_and_negative_pairs(labels)
    anchors = (positive.any(1) & negative.any(1)).nonzero().squeeze(1)
    farthest = distances.masked_fill(~positive, -torch.inf).argmax(1)
    nearest = distances.masked_fill(~negative, torch.inf).argmin(1)
    return anchors, farthest[anchors], nearest[anchors]


@torch.no_grad()
def violation_counts(
    distances: torch.Tensor, labels: torch.Tensor, margin: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """In how many violating triplets, d2(a, p) - d2(a, n) + margin > 0, each pair takes part, over all triplets.

    The hinge is linear piece by piece, so these counts are the sum of all violations and its whole gradient:
    sum = (counts * distances).sum() + margin * violating.

    Returns:
        Counts (B, B), plus for positive pairs, minus for negative ones; number of violating triplets; number of all
        triplets (both scalars). All float64, and float32 on MPS, which has no float64.
    """
    positive, negative = positive_and_negative_pairs(labels)
    anchors, positives = positive.nonzero(as_tuple=True)
    rows, columns, padded = _rows_of_pairs(anchors, positives, distances)
    # one and the same number d2(a, p) + margin decides for both sides, or rounding would tell them apart
    reaches = padded + margin
    by_distance = distances.masked_fill(~negative, torch.inf).sort(dim=1).values
    nearer_negatives = torch.searchsorted(by_distance, reaches)[rows, columns]
    reaches = reaches.sort(dim=1).values
    positives_per_anchor = positive.sum(1, keepdim=True)
    reaching_positives = positives_per_anchor - torch.searchsorted(reaches, distances, right=True)
    dtype = torch.float32 if distances.device.type == "mps" else torch.float64
    counts = torch.where(negative, -reaching_positives, 0).to(dtype)
    counts[anchors, positives] = nearer_negatives.to(dtype)
    triplets = (positives_per_anchor.squeeze(1).to(dtype) * negative.sum(1)).sum()
    return counts, nearer_negatives.sum().to(dtype), triplets


def _rows_of_pairs(
    anchors: torch.Tensor, positives: torch.Tensor, distances: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Lay out pairs, ordered by anchor, in one row an anchor, padded with infinity: rows, columns, (B, most)."""
    per_anchor = torch.bincount(anchors, minlength=len(distances))
    starts = per_anchor.cumsum(0) - per_anchor
    columns = torch.arange(len(anchors), device=anchors.device) - starts[anchors]
    most = int(per_anchor.max()) if len(anchors) else 0
    padded = distances.new_full((len(distances), most), torch.inf)
    padded[anchors, columns] = distances[anchors, positives]
    return anchors, columns, padded
