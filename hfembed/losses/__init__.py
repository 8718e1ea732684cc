"""Losses as pure functions: tensors in, scalar out. They live with the model whose folder they travel in."""

from hfembed.models.face_embedder.contrastive_loss import contrastive_loss
from hfembed.models.face_embedder.margin_softmax import (
    adaface_logits,
    adaface_norm_scores,
    arcface_logits,
    cosface_logits,
    cosine_similarities,
)
from hfembed.models.face_embedder.triplet_loss import triplet_loss

__all__ = [
    "adaface_logits",
    "adaface_norm_scores",
    "arcface_logits",
    "contrastive_loss",
    "cosface_logits",
    "cosine_similarities",
    "triplet_loss",
]
