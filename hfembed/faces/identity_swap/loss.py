"""The training step of an identity-conditioned swap model: (model, batch) -> (loss, figures to log)."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import nn
from torch.func import functional_call

from hfembed.faces.crop_landmarks import find_landmarks
from hfembed.faces.identity_swap.identity_embedders import IdentityEmbedders
from hfembed.faces.perceptual_networks import FaceFeatures, TimmFeatures
from hfembed.models.detected_faces import FaceDetector
from hfembed.models.identity_swap.modeling_identity_swap import IdentitySwapModel, nearest_photos
from hfembed.training.patch_discriminator import adversarial_loss, with_gradient
from hfembed.training.perceptual_loss import feature_distances


class IdentitySwapLoss:
    """Likeness to the person, closeness to the photo, and a discriminator's verdict.

    Every term is a sum over the images that it is for, divided by the size of the whole batch: parts of a batch, on
    ranks or in gradient accumulation, add up to the batch.

    Args:
        embedders: Judge swapped faces.
        people: (number of people, D), their vectors.
        photos: (number of people, K, C, H, W) uint8, of which references are chosen.
        identity_weight: Of 1 - cosine, of swapped faces, around the mean of the people.
        source_weight: Of the distance of a swapped face from the photo it was made of, relative to that of a
            reconstruction from its photo.
        mask_weight: Of the mean of the mask.
        features: Whose distances count besides those of pixels; None: none.
        layer_weights: Of the features.
        perceptual_weight: Of the distance of features, relative to that of pixels.
        discriminator_weight: Of the verdict on all images.
        reference_shift: What is to be reconstructed is drawn as a stranger first, as the network's correction starts,
            by up to this share: such a pair has the answer to a swap.
        landmark_detector: Teaches the model's own estimate of landmarks, on photos; None: they are not learned.
        landmark_weight: Of the distance of the drawn face's landmarks from the photo's, by the model's own estimate:
            for its expression.
    """

    def __init__(
        self,
        embedders: IdentityEmbedders,
        people: torch.Tensor,
        photos: torch.Tensor,
        identity_weight: float,
        source_weight: float,
        mask_weight: float,
        features: TimmFeatures | FaceFeatures | None = None,
        layer_weights: Sequence[float] = (),
        perceptual_weight: float = 0.0,
        discriminator_weight: float = 0.0,
        reference_shift: float = 0.0,
        landmark_detector: FaceDetector | None = None,
        landmark_weight: float = 0.0,
    ) -> None:
        self.embedders = embedders
        self.people = people
        self.photos = photos
        # some embedders' vectors all point one way: people differ by the angle around the mean of all
        self.center = people.mean(0)
        self.centered = embedders.unit(people - self.center)
        self.identity_weight = identity_weight
        self.source_weight = source_weight
        self.mask_weight = mask_weight
        self.features = features
        self.layer_weights = layer_weights
        self.perceptual_weight = perceptual_weight
        self.discriminator_weight = discriminator_weight
        self.reference_shift = reference_shift
        self.landmark_detector = landmark_detector
        self.landmark_weight = landmark_weight

    def __call__(
        self, model: nn.Module, batch: dict[str, Any], discriminator: nn.Module | None = None
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Loss and figures of a batch of `IdentitySwapCollator`; with a discriminator, its own loss is in the sum."""
        targets, swapped = batch["targets"], batch["swapped"]
        identities = self.people[batch["people"]]
        # of the own person any photo, for the nearest one may be the target itself
        nearest = nearest_photos(targets, self.photos[batch["people"]])
        references = torch.where(swapped[:, None, None, None], nearest, self.any_photos(batch, "people"))
        network = cast(IdentitySwapModel, getattr(model, "module", model))
        output = model(self.shifted(network, batch), identities=identities, references=references)
        drawn = output.reconstruction
        weights = torch.where(swapped, self.source_weight, 1.0)
        distances = (drawn.float() - targets).abs().mean((1, 2, 3))
        figures = {"absolute": (distances * ~swapped).mean(), "mask": output.mask.float().mean()}
        if self.features is not None:
            with torch.no_grad():
                seen = self.features(targets)
            perceptual = feature_distances(self.features(drawn), seen, self.layer_weights)
            figures["perceptual"] = (perceptual * ~swapped).mean()
            distances = distances + self.perceptual_weight * perceptual
        compared = (weights * distances).mean()
        if network.points is not None and output.points is not None:
            weights_now = {name: weight.detach() for name, weight in network.points.named_parameters()}
            found = functional_call(network.points, weights_now, drawn)
            figures["landmarks"] = (landmark_error(found, output.points.detach()) * swapped).mean()
            compared = compared + self.landmark_weight * figures["landmarks"]
        rows = swapped.nonzero().flatten()
        if len(rows):
            vectors = self.embedders(drawn[rows], batch["points"][rows].cpu().numpy())
            wanted = self.centered[batch["people"][rows]]
            lost = (1 - (self.embedders.unit(vectors - self.center) * wanted).sum(1)).sum() / len(targets)
            compared = compared + self.identity_weight * lost
            figures["identity_lost"] = lost
        else:
            figures["identity_lost"] = compared.new_zeros(())
        beside = self.mask_weight * output.mask.float().mean()
        if self.landmark_detector is not None and output.points is not None:
            figures["points"] = self.points_lost(output.points[rows], targets[rows]) * (len(rows) / len(targets))
            beside = beside + figures["points"]
        figures = {name: value.detach() for name, value in figures.items()}
        if discriminator is None:
            return compared + beside, figures
        (slope,) = torch.autograd.grad(compared, drawn, retain_graph=True)
        added, more = adversarial_loss(
            drawn, slope, targets, network.conv_out.weight, discriminator, self.discriminator_weight
        )
        return with_gradient(compared, drawn, slope) + added + beside, figures | more

    def points_lost(self, estimated: torch.Tensor, faces: torch.Tensor) -> torch.Tensor:
        """How far the model's landmarks (N, 5, 2) of photos that are not distorted are from the detector's; a mean."""
        assert self.landmark_detector is not None
        if not len(faces):
            return estimated.sum()
        wanted = torch.from_numpy(find_landmarks(self.landmark_detector, faces.cpu()))
        is_found = wanted.isfinite().all(2).all(1).to(estimated.device)
        return (landmark_error(estimated, wanted.nan_to_num().to(estimated)) * is_found).mean()

    def shifted(self, network: IdentitySwapModel, batch: dict[str, Any]) -> torch.Tensor:
        """The inputs, those of reconstructions shifted towards strangers."""
        pixels = batch["pixel_values"]
        if not self.reference_shift:
            return pixels
        with torch.no_grad():
            strangers, _, _ = network.move_references(pixels, self.any_photos(batch, "strangers"))
            change = network.start_of_correction(pixels, strangers)
        shares = self.reference_shift * batch["shares"] * ~batch["swapped"]
        return pixels + shares[:, None, None, None] * change

    def any_photos(self, batch: dict[str, Any], people: str) -> torch.Tensor:
        """A photo (B, C, H, W) in [0, 1] of each of some people of the batch, chosen by the sample's key."""
        chosen = (batch["choices"] * self.photos.shape[1]).long()
        return self.photos[batch[people], chosen].float() / 255


def landmark_error(found: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Mean distance of landmarks, (B, 5, 2) each -> (B,), in distances of the wanted eyes."""
    eyes = (wanted[:, 1] - wanted[:, 0]).norm(dim=1).clamp(min=1)
    return (found - wanted).norm(dim=2).mean(1) / eyes
