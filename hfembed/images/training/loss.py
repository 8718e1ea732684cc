"""What an autoencoder is trained by, as the loop wants it: (model, batch) -> (loss, figures to log)."""

from typing import Any, cast

import torch
from torch import nn

from hfembed.checkpoint.loading import load_face_embedder
from hfembed.faces.perceptual_networks import FaceEmbeddings, load_features
from hfembed.images.training.recipe import AutoencoderTrainingConfig
from hfembed.models.autoencoder_base import AutoencoderModelBase, AutoencoderOutput
from hfembed.models.face_embedder.image_processing_face_embedder import template_for_size
from hfembed.training.patch_discriminator import adversarial_loss, with_gradient
from hfembed.training.perceptual_loss import embedding_distance, feature_distance


class AutoencoderLoss:
    """The model's own loss, the distances that the recipe's frozen networks see, a discriminator's verdict."""

    def __init__(self, config: AutoencoderTrainingConfig, device: torch.device):
        self.config = config
        self.features = self.embeddings = None
        if config.perceptual_network:
            self.features = load_features(
                config.path(config.perceptual_network),
                config.perceptual_layers,
                config.path(config.perceptual_weights),
            ).to(device)
        if config.identity_network:
            embedder, processor = load_face_embedder(config.path(config.identity_network), str(device))
            points = config.face_points or template_for_size(*config.image_size)
            self.embeddings = FaceEmbeddings(embedder, processor, points)

    def __call__(
        self, model: nn.Module, batch: dict[str, Any], discriminator: nn.Module | None = None
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Loss and figures of one batch of `AutoencoderCollator`; with a discriminator, its own loss is in the sum."""
        output = model(**batch)
        figures = {"reconstruction_loss": output.reconstruction_loss}
        if output.divergence is not None:
            figures["divergence"] = output.divergence
        if output.rate is not None:
            figures["rate"] = output.rate
        if output.codebook_loss is not None:
            figures["codebook_loss"] = output.codebook_loss
        distance = output.reconstruction.new_zeros((), dtype=torch.float32)
        if self.features is not None:
            with torch.no_grad():
                target = self.features(batch["targets"])
            figures["perceptual"] = feature_distance(
                self.features(output.reconstruction), target, self.config.perceptual_layer_weights
            )
            distance = distance + self.config.perceptual_weight * figures["perceptual"]
        if self.embeddings is not None:
            with torch.no_grad():
                target = self.embeddings(batch["targets"])
            figures["identity"] = embedding_distance(self.embeddings(output.reconstruction), target)
            distance = distance + self.config.identity_weight * figures["identity"]
        if discriminator is None:
            return output.loss + distance, figures
        last_layer = cast(AutoencoderModelBase, getattr(model, "module", model)).last_layer
        assert last_layer is not None, "checked before training"
        adversarial, more = self._adversarial(output, distance, batch["targets"], last_layer, discriminator)
        return output.loss + adversarial, figures | more

    def _adversarial(
        self,
        output: AutoencoderOutput,
        distance: torch.Tensor,
        targets: torch.Tensor,
        last_layer: torch.Tensor,
        discriminator: nn.Module,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss that is not the model's own, and figures."""
        image = output.reconstruction
        assert image is not None and output.reconstruction_loss is not None
        (own,) = torch.autograd.grad(output.reconstruction_loss, image, retain_graph=True)
        slope = torch.zeros_like(image)
        if distance.requires_grad:
            (slope,) = torch.autograd.grad(distance, image)
        added, figures = adversarial_loss(
            image, own + slope, targets, last_layer, discriminator, self.config.discriminator_weight
        )
        return with_gradient(distance, image, slope) + added, figures
