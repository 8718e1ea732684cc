"""A recipe for an autoencoder: its settings, and the parts they stand for."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import torch
from huggingface_hub.dataclasses import strict

from hfembed.checkpoint.loading import load_autoencoder
from hfembed.errors import InputError, input_errors
from hfembed.faces.data.aligned_faces import AlignedFaces
from hfembed.faces.data.augmentation import FaceAugmentation
from hfembed.faces.data.faces import FaceSource, load_faces
from hfembed.faces.data.splits import split_people
from hfembed.faces.data.synthetic_faces import make_synthetic_faces
from hfembed.images.data.corruptions import Corruption
from hfembed.models.appearance_autoencoder.configuration_appearance_autoencoder import AppearanceAutoencoderConfig
from hfembed.models.appearance_autoencoder.modeling_appearance_autoencoder import AppearanceAutoencoderModel
from hfembed.models.autoencoder_base import AutoencoderModelBase
from hfembed.models.autoencoder_config import AutoencoderConfig, upgrade_config
from hfembed.models.conv_autoencoder.configuration_conv_autoencoder import ConvAutoencoderConfig
from hfembed.models.conv_autoencoder.image_processing_conv_autoencoder import ConvAutoencoderImageProcessor
from hfembed.models.conv_autoencoder.modeling_conv_autoencoder import ConvAutoencoderModel
from hfembed.models.restoration_autoencoder.configuration_restoration_autoencoder import RestorationAutoencoderConfig
from hfembed.models.restoration_autoencoder.modeling_restoration_autoencoder import RestorationAutoencoderModel
from hfembed.training.adversarial_config import AdversarialTrainingConfig
from hfembed.training.config import build_config, setting

_FAMILIES: dict[str, tuple[type[AutoencoderConfig], type[AutoencoderModelBase]]] = {
    "hfembed_conv_autoencoder": (ConvAutoencoderConfig, ConvAutoencoderModel),
    "hfembed_appearance_autoencoder": (AppearanceAutoencoderConfig, AppearanceAutoencoderModel),
    "hfembed_restoration_autoencoder": (RestorationAutoencoderConfig, RestorationAutoencoderModel),
}


@strict
@dataclass(kw_only=True)
class AutoencoderTrainingConfig(AdversarialTrainingConfig):
    """A recipe for an autoencoder: the loop's settings, and the data, crop, network and loss."""

    images: str = setting(
        "synthetic", "folder with a directory per person, an archive of it, a Hub id; or synthetic", False
    )
    images_split: str = setting("", "split of a Hub id with several")
    exclude_files: str = setting("", "JSON list of files to leave out")
    synthetic_people: int = setting(150, "people when images is synthetic")
    synthetic_photos: int = setting(8, "photos of each")

    held_out_share: float = setting(
        0.1, "fraction of the people that are never trained on: what evaluation measures on"
    )
    validation_share: float = setting(
        0.05, "fraction of the other people, who choose the best step; 0 = no validation"
    )
    split_seed: int = setting(0, "of both splits: who is held out depends on it and on the names alone")

    image_size: list[int] = setting([64, 64], "height and width of the network's input")
    color: str = setting("rgb", "rgb or gray (one channel)")
    crop_fraction: float = setting(1.0, "sides of the center crop, as a fraction of the largest that fits")
    frame_margin: int = setting(0, "pixels kept around the training crops, for augmentation to move within")
    augmentation: dict[str, Any] = setting({}, "fields of FaceAugmentation; empty = none")
    corruption: dict[str, Any] = setting({}, "fields of Corruption: what the network sees of its targets; empty = all")

    init_from: str = setting("", "checkpoint folder or Hub id to start from; its network replaces the one below")
    model: dict[str, Any] = setting(
        {}, "model_type, hfembed_conv_autoencoder by default, and fields of its config except image_size, num_channels"
    )

    patch_start: bool = setting(
        False, "start as the PCA of patches: a plain network of one level that folds patches, with a grid of latents"
    )

    gradient_checkpointing: bool = setting(
        False,
        "compute the residual blocks again in the backward pass instead of keeping their maps: less memory",
        False,
    )

    perceptual_network: str = setting(
        "", "timm architecture, or face embedder (folder or Hub id), whose features are compared too; empty = none"
    )
    perceptual_weights: str = setting("", "file of timm's weights; empty = its pretrained ones, from the Hub")
    perceptual_layers: list[int] = setting([1, 2], "which of its feature maps, from 0, finest first")
    perceptual_layer_weights: list[float] = setting([1.0, 1.0], "a weight for each of them")
    perceptual_weight: float = setting(0.1, "of the distance of features in the loss")
    identity_network: str = setting("", "face embedder, folder or Hub id, whose embeddings are compared too")
    identity_weight: float = setting(0.01, "of one minus the cosine of embeddings in the loss")
    identity_start: float = setting(
        0.0, "weight of the identity network in a closed-form start of a warped or linear code; 0 = none"
    )
    identity_start_photos: int = setting(6000, "training photos that this start is measured on")
    face_points: list[list[float]] = setting(
        [], "five [x, y] in the crop: where a face's landmarks are on average; empty = the standard template"
    )

    pictures: int = setting(
        8, "validation photos drawn with their reconstructions at every evaluation; 0 = none", False
    )

    def validate_autoencoder_choices(self) -> None:
        """Refuse combinations that cannot train."""
        if not 0 < self.held_out_share < 1 or not 0 <= self.validation_share < 1:
            raise ValueError("held_out_share must be in (0, 1), validation_share in [0, 1)")
        if len(self.image_size) != 2 or min(self.image_size) < 8:
            raise ValueError(f"image_size must be [height, width] of at least 8 pixels, not {self.image_size}")
        if self.frame_margin < 0 or self.pictures < 0:
            raise ValueError("frame_margin and pictures must not be negative")
        frame = min(1 + 2 * self.frame_margin / side for side in self.image_size)
        if self.crop_fraction * frame > 1:
            raise ValueError(f"frame_margin needs room around the crop: crop_fraction of at most {1 / frame:.3f}")
        if len(self.perceptual_layers) != len(self.perceptual_layer_weights):
            raise ValueError("perceptual_layer_weights must have a weight for each of perceptual_layers")
        if self.identity_start < 0 or self.identity_start_photos < 1:
            raise ValueError("identity_start must not be negative, identity_start_photos at least 1")
        is_linear = self.model.get("code_filters") and self.model.get("warp_latents") == 0
        if self.identity_start and not (self.identity_network and (self.init_from or is_linear)):
            raise ValueError(
                "identity_start needs an identity_network to measure with, and init_from to start from, or a model of "
                "warp_latents: 0 and code_filters: true"
            )
        if self.discriminator_weight and min(self.image_size) < 32:
            raise ValueError(f"a discriminator needs images of at least 32 pixels, not {self.image_size}")
        if self.face_points and [len(point) for point in self.face_points] != [2] * 5:
            raise ValueError(f"face_points must be five [x, y], not {self.face_points}")
        if self.model.get("aligned_faces") and self.crop_fraction < 1:
            raise ValueError("model: aligned_faces says that photos are crops on the template: crop_fraction is 1")
        for name in ("image_size", "num_channels"):
            if name in self.model:
                raise ValueError(f"model: {name} is set by the recipe's image_size and color")

    def validate_parts(self) -> None:
        """Refuse what the network, the processor, augmentation or corruption would refuse, before data is loaded."""
        make_augmentation(self)
        make_corruption(self)
        make_processor(self)
        if not self.init_from:
            make_model_config(self)


class Split(NamedTuple):
    """Photos of three groups of people, nobody in two of them; `validation` chooses the best step."""

    train: datasets.Dataset
    validation: datasets.Dataset | None
    held_out: datasets.Dataset


def load_images(config: AutoencoderTrainingConfig) -> datasets.Dataset:
    """All photos of this recipe, in the schema `image`, `label`, `file`."""
    if config.images == "synthetic":
        images = make_synthetic_faces(
            num_identities=config.synthetic_people, photos_per_identity=config.synthetic_photos, seed=config.seed
        )
    else:
        images = load_faces(
            FaceSource(
                config.path(config.images),
                split=config.images_split or None,
                exclude_files=config.path(config.exclude_files) or None,
            )
        )
    return images.remove_columns("landmarks")  # centers are cropped: any images will do


def split_images(images: datasets.Dataset, held_out_share: float, validation_share: float, seed: int) -> Split:
    """Hold people out, then choose validation people among the rest.

    Who goes where depends on the names and the seed alone (`split_people`): an evaluation finds the same people.
    """
    rest, held_out = split_people(images, held_out_share, seed)
    if not validation_share:
        return Split(rest, None, held_out)
    train, validation = split_people(rest, validation_share, seed)
    return Split(train, validation, held_out)


def make_processor(config: AutoencoderTrainingConfig, margin: int = 0) -> ConvAutoencoderImageProcessor:
    """The image processor of this recipe, with `margin` more pixels of the photo, as far as it goes."""
    height, width = config.image_size
    with input_errors():
        return ConvAutoencoderImageProcessor(
            size=[height + 2 * margin, width + 2 * margin],
            crop_fraction=config.crop_fraction * min((height + 2 * margin) / height, (width + 2 * margin) / width),
            color=config.color,
        )


def without_margin(pixels: torch.Tensor, margin: int) -> torch.Tensor:
    """Cut a frame off: (N, C, H + 2 margin, W + 2 margin) -> (N, C, H, W)."""
    return pixels[..., margin : pixels.shape[2] - margin, margin : pixels.shape[3] - margin]


def make_augmentation(config: AutoencoderTrainingConfig) -> FaceAugmentation | None:
    """The augmentation of this recipe; it also cuts the network's input out of crops with a margin."""
    if not config.augmentation and not config.frame_margin:
        return None
    ranges = {name: tuple(value) if isinstance(value, list) else value for name, value in config.augmentation.items()}
    return build_config(FaceAugmentation, {"seed": config.seed, "output_size": tuple(config.image_size), **ranges})


def make_corruption(config: AutoencoderTrainingConfig, seed: int | None = None) -> Corruption | None:
    """The damage of this recipe, None where it has none; validation draws it by another seed."""
    if not config.corruption:
        return None
    ranges = {name: tuple(value) if isinstance(value, list) else value for name, value in config.corruption.items()}
    return build_config(Corruption, {"seed": config.seed if seed is None else seed, **ranges})


def make_model_config(config: AutoencoderTrainingConfig) -> AutoencoderConfig:
    """The config of a network that starts from random weights."""
    with input_errors():
        # recipes of older versions name the family by its fields, as old config.json files do
        fields = upgrade_config({"model_type": "hfembed_conv_autoencoder", **config.model})
        model_type = fields.pop("model_type")
        if model_type not in _FAMILIES:
            raise InputError(f"model: unsupported model_type '{model_type}'; expected one of {', '.join(_FAMILIES)}")
        channels = 1 if config.color == "gray" else 3
        return _FAMILIES[model_type][0](image_size=config.image_size, num_channels=channels, **fields)


def make_model(config: AutoencoderTrainingConfig) -> AutoencoderModelBase:
    """The model to train: random weights, or those of `init_from`.

    Raises:
        InputError: `init_from` is not an autoencoder, or takes other images than the recipe's.
    """
    if not config.init_from:
        model_config = make_model_config(config)
        return _FAMILIES[model_config.model_type][1](model_config)
    model = load_autoencoder(config.path(config.init_from), "cpu")[0]
    channels = 1 if config.color == "gray" else 3
    if model.config.num_channels != channels or any(side % model.config.stride for side in config.image_size):
        raise InputError(
            f"init_from {config.init_from} takes images of {model.config.num_channels} channels, sides divisible by "
            f"{model.config.stride}; the recipe's have {channels} and {config.image_size}: change color or image_size"
        )
    if config.identity_start:
        if not isinstance(model, AppearanceAutoencoderModel):
            raise InputError(f"identity_start needs an appearance autoencoder; {config.init_from} is another model")
        if not model.config.code_filters:
            model.config.code_filters = True
            start, model = model, AppearanceAutoencoderModel(model.config)
            model.load_state_dict(start.state_dict(), strict=False)  # the filters stay at zero
    return model.train()


def describe_images(config: AutoencoderTrainingConfig, photos: AlignedFaces) -> str:
    """What was trained on and what was left out, in a few sentences for the card."""
    source = "synthetic faces" if config.images == "synthetic" else Path(config.images).name
    text = (
        f"{len(photos):,} photos of {len(photos.identities):,} people from {source}. "
        f"{config.held_out_share:.0%} of the people are held out for evaluation"
    )
    text += f", {config.validation_share:.0%} of the others for validation." if config.validation_share else "."
    if config.exclude_files:
        text += f" Left out: the photos listed in {Path(config.exclude_files).name}."
    if photos.failures:
        text += f" {len(photos.failures)} photos could not be read."
    return text
