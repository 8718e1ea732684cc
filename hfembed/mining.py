"""Mining of triplets: embeddings and labels -> (anchor, positive, negative) index tensors."""

from hfembed.models.face_embedder.triplet_mining import (
    hard_triplets,
    positive_and_negative_pairs,
    semi_hard_triplets,
    squared_distances,
    violation_counts,
)

__all__ = [
    "hard_triplets",
    "positive_and_negative_pairs",
    "semi_hard_triplets",
    "squared_distances",
    "violation_counts",
]
