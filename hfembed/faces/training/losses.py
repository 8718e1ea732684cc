"""The two ways to train a face embedder, as the loop wants them: (model, batch) -> (loss, figures to log)."""

import sys
from typing import Any

import torch

from hfembed.models.face_embedder.modeling_face_embedder import FaceEmbedderForTripletLearning
from hfembed.training.distributed import gather_labels, gather_with_gradient

Figures = dict[str, torch.Tensor]


def classification_loss(model: torch.nn.Module, batch: dict[str, Any]) -> tuple[torch.Tensor, Figures]:
    """DeepFace's way: which of the people is it? Each rank on its own samples."""
    output = model(**batch)
    accuracy = (output.logits.argmax(dim=1) == batch["labels"]).float().mean()
    return output.loss, {"accuracy": accuracy}


class MetricLoss:
    """FaceNet's way, over the embeddings of all ranks: everybody in the step's batch can be everybody's negative.

    When the embeddings collapse onto a point, where the triplet loss stays at its margin, it says so in one line.

    Args:
        model: The model to train, before it is wrapped; its config names loss, margin and mining.
    """

    COLLAPSED_BELOW = 1e-3  # mean squared distance of unit vectors; evenly spread ones have 2

    def __init__(self, model: FaceEmbedderForTripletLearning):
        self.model = model
        self.collapsed = False

    def __call__(self, model: torch.nn.Module, batch: dict[str, Any]) -> tuple[torch.Tensor, Figures]:
        """The loss of the step's batch, the fraction of active triplets, the embeddings' mean squared distance."""
        embeddings = gather_with_gradient(model(batch["pixel_values"]).embeddings)
        loss, active_share = self.model.metric_loss(embeddings, gather_labels(batch["labels"]))
        spread = 2 - 2 * embeddings.detach().mean(dim=0).square().sum()
        if not self.collapsed and spread < self.COLLAPSED_BELOW:
            self.collapsed = True
            print(  # noqa: T201
                f"the embeddings have collapsed onto one point (mean squared distance {spread:.1e}): start from a "
                "softmax-trained checkpoint (init_from), mine semi-hard, or lower learning_rate",
                file=sys.stderr,
            )
        return loss, {"active_share": active_share, "spread": spread}
