"""A recipe for an identity-conditioned swap model: its settings, and the parts they stand for."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import torch
from huggingface_hub.dataclasses import strict

from hfembed.checkpoint.loading import load_face_detector, load_identity_swap
from hfembed.errors import InputError, input_errors
from hfembed.faces.data.aligned_faces import AlignedFaces
from hfembed.faces.data.faces import FaceSource, load_faces
from hfembed.faces.data.splits import split_people
from hfembed.faces.data.synthetic_faces import make_synthetic_faces
from hfembed.faces.identity_swap.collator import IdentitySwapCollator
from hfembed.faces.identity_swap.identity_embedders import IdentityEmbedders
from hfembed.faces.identity_swap.loss import IdentitySwapLoss
from hfembed.faces.perceptual_networks import load_features
from hfembed.faces.swap.warping import WarpedPairs
from hfembed.models.face_embedder.image_processing_face_embedder import FaceImageProcessor, template_for_size
from hfembed.models.identity_swap.configuration_identity_swap import IdentitySwapConfig
from hfembed.models.identity_swap.modeling_identity_swap import IdentitySwapModel
from hfembed.training.adversarial_config import AdversarialTrainingConfig
from hfembed.training.config import build_config, setting


@strict
@dataclass(kw_only=True)
class IdentitySwapTrainingConfig(AdversarialTrainingConfig):
    """A recipe for an identity-conditioned swap model: the loop's settings, and the people, network and losses."""

    images: str = setting(
        "synthetic", "folder with a directory per person, an archive of it, a Hub id; or synthetic", False
    )
    aligned: str = setting("", "arcface_112: the photos are crops on the standard 112x112 template already")
    landmarks: str = setting("", "JSON file of five landmarks per photo; empty and not aligned: center crops")
    exclude_files: str = setting("", "JSON list of files to leave out")
    exclude_people: list[str] = setting([], "people to leave out, by name: whom the model is measured on later")
    min_photos: int = setting(3, "leave out people with fewer photos: a vector is the mean of a person's photos")
    synthetic_people: int = setting(60, "people when images is synthetic")
    synthetic_photos: int = setting(6, "photos of each")
    held_out_share: float = setting(0.05, "fraction of the people never trained on: drawn in pictures; 0 = none")
    split_seed: int = setting(0, "of that split")

    image_size: int = setting(112, "side of input and output in pixels")
    color: str = setting("rgb", "rgb or gray (one channel)")
    warping: dict[str, Any] = setting({}, "fields of WarpedPairs")
    swap_share: float = setting(0.5, "fraction of the samples drawn as somebody else; the others are reconstructed")

    init_from: str = setting("", "identity swap checkpoint to start from; its network replaces the one below")
    model: dict[str, Any] = setting({}, "fields of IdentitySwapConfig that say what the network is like")
    identity_models: list[str] = setting(
        [], "face embedders whose embeddings are the identity vectors and judge swaps; not the one to measure with"
    )
    identity_weight: float = setting(1.0, "of 1 - cosine between a swapped face and the person it should be")
    identity_photos: int = setting(12, "photos of a person that make the vector, at most")
    source_weight: float = setting(
        0.2, "of a swapped face's distance from its photo, relative to a reconstruction's from its own"
    )
    reference_shift: float = setting(
        0.0, "what is to be reconstructed is drawn as a stranger first, without the network, by up to this share"
    )
    mask_weight: float = setting(0.0, "of the mask's mean: change little of a face")
    perceptual_network: str = setting(
        "", "timm architecture or face embedder whose features are compared too; empty = none"
    )
    perceptual_layers: list[int] = setting([0, 1, 2], "which of its feature maps, from 0, finest first")
    perceptual_layer_weights: list[float] = setting([1.0, 1.0, 1.0], "a weight for each of them")
    perceptual_weight: float = setting(0.5, "of the distance of features, relative to that of pixels")
    landmark_detector: str = setting(
        "", "a face detector that teaches the network landmarks, where its reference_points is true; empty = none"
    )
    landmark_weight: float = setting(
        0.0, "of a swapped face's distance of landmarks from its photo, by the network's own, in distances of the eyes"
    )
    discriminator_width: int = setting(16, "channels of its first layer, a multiple of 8")

    def validate_identity_choices(self) -> None:
        """Refuse combinations that cannot train."""
        if self.aligned not in ("", "arcface_112"):
            raise ValueError(f"aligned must be arcface_112 or empty, not '{self.aligned}'")
        if self.aligned and self.landmarks:
            raise ValueError("give landmarks or aligned, not both")
        if not self.identity_models:
            raise ValueError("identity_models must name a face embedder: `hfembed models get sface outputs/sface`")
        if self.color not in ("rgb", "gray"):
            raise ValueError(f"color must be rgb or gray, not '{self.color}'")
        if not 0 <= self.held_out_share < 1 or not 0 < self.swap_share < 1:
            raise ValueError("held_out_share must be in [0, 1), swap_share in (0, 1)")
        for name in ("min_photos", "identity_photos"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not 0 <= self.reference_shift <= 1:
            raise ValueError(f"reference_shift must be in [0, 1], not {self.reference_shift}")
        for name in ("identity", "source", "mask", "perceptual", "landmark"):
            if getattr(self, f"{name}_weight") < 0:
                raise ValueError(f"{name}_weight must not be negative, but is {getattr(self, f'{name}_weight')}")
        if len(self.perceptual_layers) != len(self.perceptual_layer_weights):
            raise ValueError("perceptual_layer_weights must have a weight for each of perceptual_layers")
        if self.discriminator_weight and self.image_size < 32:
            raise ValueError(f"a discriminator needs images of at least 32 pixels, not {self.image_size}")
        if not self.init_from and bool(self.landmark_detector) != bool(self.model.get("reference_points")):
            raise ValueError("landmark_detector teaches landmarks to a model with reference_points: give both or none")
        for name in ("image_size", "num_channels", "identity_size", "identity_models", "people"):
            if name in self.model:
                raise ValueError(f"model: {name} is set by the recipe's other fields")

    def validate_parts(self) -> None:
        """Refuse what the network or the warp would refuse, before any data is loaded."""
        make_warp(self)
        if not self.init_from:
            make_model_config(self, 8, [])


def load_photos(config: IdentitySwapTrainingConfig) -> datasets.Dataset:
    """All photos of this recipe but the excluded people's, in the schema `image`, `label`, `file`, `landmarks`."""
    if config.images == "synthetic":
        return make_synthetic_faces(
            num_identities=config.synthetic_people, photos_per_identity=config.synthetic_photos, seed=config.seed
        )
    source = FaceSource(
        config.path(config.images),
        aligned=config.aligned or None,
        landmarks=config.path(config.landmarks) or None,
        min_photos=config.min_photos,
        exclude_files=config.path(config.exclude_files) or None,
        exclude_people=config.exclude_people,
    )
    return load_faces(source)


def load_people(
    config: IdentitySwapTrainingConfig, processor: FaceImageProcessor
) -> tuple[AlignedFaces, AlignedFaces | None]:
    """The aligned photos to train on, and those of people held out."""
    photos, held_out = load_photos(config), None
    if config.held_out_share:
        photos, rest = split_people(photos, config.held_out_share, config.split_seed)
        held_out = AlignedFaces(rest, processor, num_workers=config.num_workers)
    aligned = AlignedFaces(photos, processor, num_workers=config.num_workers)
    if len(aligned.identities) < 2:
        raise InputError(f"{config.images}: faces are swapped between two people or more, and only one is left")
    return aligned, held_out


def make_processor(config: IdentitySwapTrainingConfig) -> FaceImageProcessor:
    """The image processor of this recipe: the standard template, pixels in [0, 1]."""
    return FaceImageProcessor(size=config.image_size, color=config.color, image_mean=0.0, image_std=1.0)


def make_warp(config: IdentitySwapTrainingConfig) -> WarpedPairs:
    """The warp of this recipe.

    Raises:
        InputError: A field is unknown or has an impossible value.
    """
    return build_config(WarpedPairs, {"seed": config.seed, "output_size": config.image_size, **config.warping})


def make_collator(config: IdentitySwapTrainingConfig, num_people: int) -> IdentitySwapCollator:
    """Batches of this recipe."""
    points = template_for_size(config.image_size, config.image_size)
    return IdentitySwapCollator(make_warp(config), num_people, config.swap_share, points, config.seed)


def make_model_config(
    config: IdentitySwapTrainingConfig, identity_size: int, fingerprints: list[str]
) -> IdentitySwapConfig:
    """The config of a network that starts from random weights."""
    with input_errors():
        return IdentitySwapConfig(
            image_size=config.image_size,
            num_channels=1 if config.color == "gray" else 3,
            identity_size=identity_size,
            identity_models=fingerprints,
            **config.model,
        )


def make_model(config: IdentitySwapTrainingConfig, embedders: IdentityEmbedders) -> IdentitySwapModel:
    """The model to train: that of `init_from`, or random weights.

    Raises:
        InputError: `init_from` is not such a model, has vectors of other embedders, takes other images, or has no
            landmarks that a detector could teach.
    """
    if config.init_from:
        model, _ = load_identity_swap(config.path(config.init_from), "cpu")
        embedders.check(model, config.init_from)
        channels = 1 if config.color == "gray" else 3
        if (model.config.image_size, model.config.num_channels) != (config.image_size, channels):
            raise InputError(
                f"init_from {config.init_from} takes images of {model.config.num_channels} x "
                f"{model.config.image_size} x {model.config.image_size}: change color or image_size"
            )
        if model.points is None and config.landmark_detector:
            raise InputError(f"init_from {config.init_from} has no reference_points: set landmark_detector to nothing")
        if model.points is not None:
            model.points.requires_grad_(bool(config.landmark_detector))  # without a teacher they stay as they are
        return model.train()
    return IdentitySwapModel(make_model_config(config, sum(embedders.sizes), embedders.fingerprints))


def make_loss(
    config: IdentitySwapTrainingConfig,
    embedders: IdentityEmbedders,
    people: torch.Tensor,
    photos: torch.Tensor,
    device: torch.device,
) -> IdentitySwapLoss:
    """The losses of this recipe."""
    features = None
    if config.perceptual_network:
        features = load_features(config.path(config.perceptual_network), config.perceptual_layers).to(device)
    detector = None
    if config.landmark_detector:
        detector, _ = load_face_detector(config.path(config.landmark_detector), str(device))
    return IdentitySwapLoss(
        embedders,
        people.to(device),
        photos.to(device),
        config.identity_weight,
        config.source_weight,
        config.mask_weight,
        features,
        config.perceptual_layer_weights,
        config.perceptual_weight,
        config.discriminator_weight,
        config.reference_shift,
        detector,
        config.landmark_weight,
    )


def describe_photos(config: IdentitySwapTrainingConfig, photos: AlignedFaces) -> str:
    """What was trained on, in a sentence for the card."""
    source = "synthetic faces" if config.images == "synthetic" else Path(config.images).name
    text = f"{len(photos):,} aligned photos of {len(photos.identities):,} people from {source}."
    if config.held_out_share:
        text += f" {config.held_out_share:.0%} of the people were held out."
    if config.exclude_people:
        text += f" Left out: {', '.join(config.exclude_people)}."
    return text
