"""What an autoencoder is trained by, as the loop wants it: (model, batch) -> (loss, figures to log)."""

from typing import Any

import torch

from hfembed.checkpoint.loading import load_face_embedder
from hfembed.images.training.perceptual_loss import embedding_distance, feature_distance
from hfembed.images.training.perceptual_networks import FaceEmbeddings, TimmFeatures
from hfembed.images.training.recipe import AutoencoderTrainingConfig
from hfembed.models.face_embedder.image_processing_face_embedder import template_for_size


class AutoencoderLoss:
    """The model's own loss, and how far reconstructions are from targets for the recipe's frozen networks."""

    def __init__(self, config: AutoencoderTrainingConfig, device: torch.device):
        self.config = config
        self.features = self.embeddings = None
        if config.perceptual_network:
            weights = config.path(config.perceptual_weights)
            self.features = TimmFeatures(config.perceptual_network, config.perceptual_layers, weights).to(device)
        if config.identity_network:
            embedder, processor = load_face_embedder(config.path(config.identity_network), str(device))
            points = config.face_points or template_for_size(*config.image_size)
            self.embeddings = FaceEmbeddings(embedder, processor, points)

    def __call__(self, model: torch.nn.Module, batch: dict[str, Any]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Loss and figures of one batch of `AutoencoderCollator`."""
        output = model(**batch)
        loss, figures = output.loss, {"reconstruction_loss": output.reconstruction_loss}
        if output.divergence is not None:
            figures["divergence"] = output.divergence
        if self.features is not None:
            with torch.no_grad():
                target = self.features(batch["targets"])
            distance = feature_distance(
                self.features(output.reconstruction), target, self.config.perceptual_layer_weights
            )
            loss, figures["perceptual"] = loss + self.config.perceptual_weight * distance, distance
        if self.embeddings is not None:
            with torch.no_grad():
                target = self.embeddings(batch["targets"])
            distance = embedding_distance(self.embeddings(output.reconstruction), target)
            loss, figures["identity"] = loss + self.config.identity_weight * distance, distance
        return loss, figures
