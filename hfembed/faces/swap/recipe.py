"""A recipe for a face swap model: its settings, and the parts they stand for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import torch
from accelerate import Accelerator
from huggingface_hub.dataclasses import strict
from transformers import AutoImageProcessor

from hfembed.checkpoint.loading import load_face_embedder, load_image_model
from hfembed.errors import InputError, counted, first_line
from hfembed.faces.data.aligned_faces import AlignedFaces
from hfembed.faces.data.faces import read_names
from hfembed.faces.face_oval import face_oval
from hfembed.faces.swap.losses import Likeness, SwapLoss
from hfembed.faces.swap.person_crops import load_people
from hfembed.faces.swap.warping import WarpedPairs
from hfembed.models.face_embedder.image_processing_face_embedder import FaceImageProcessor, template_for_size
from hfembed.models.face_swap.configuration_face_swap import FaceSwapConfig
from hfembed.models.face_swap.modeling_face_swap import FaceSwapModel
from hfembed.training.config import TrainingConfig, build_config, setting


@strict
@dataclass(kw_only=True)
class SwapTrainingConfig(TrainingConfig):
    """A recipe for a face swap model: the loop's settings, and the people, crop, network and loss."""

    people: list[str] = setting([], "a folder of photos for each person; the folder's name is the person's", False)
    shared_decoder: bool = setting(
        False, "one folder, one decoder for everybody in it: not to swap with, but for init_from to start others from"
    )
    aligned: str = setting("", "arcface_112: the photos are crops on the standard 112x112 template already")
    exclude_files: str = setting("", "JSON list of photos to leave out, as folder/photo.jpg")
    exclude_people: list[str] = setting([], "with shared_decoder: folders of people to leave out, by name")
    held_out_share: float = setting(
        0.2, "hold out this fraction of each person's photos, to measure swaps on; 0 = none"
    )
    steps_per_epoch: int = setting(100, "steps that make an epoch: a pass over a few photos would be too short")

    image_size: int = setting(64, "side of input and output in pixels")
    color: str = setting("rgb", "rgb or gray (one channel)")
    face_zoom: float = setting(1.0, "magnify the face against the standard template; above 1 = tighter crop")
    frame_margin: int = setting(
        0, "pixels kept around the crops, for warps to move within; otherwise the border repeats"
    )
    warping: dict[str, Any] = setting({}, "fields of WarpedPairs; {warp: 0} trains on undistorted inputs")
    mask: bool = setting(False, "decoders also draw where the face is, learned from the oval of the template")

    init_from: str = setting("", "face swap checkpoint to start from; its network and crop replace those below")
    encoder_widths: list[int] = setting([32, 64, 128, 256], "channels of the encoder's stages, each halves the size")
    bottleneck: str = setting("dense", "dense or convolution")
    latent_size: int = setting(256, "dimensions (dense) or channels (convolution) of the latent code")
    decoder_widths: list[int] = setting([128, 64, 32, 32], "channels of a decoder's stages, each doubles the size")
    residual_blocks: int = setting(1, "residual blocks after each stage of a decoder but the last")
    dssim_weight: float = setting(
        0.5, "fraction of structural dissimilarity in the loss; the remainder is absolute error"
    )
    mask_weight: float = setting(0.2, "weight of the mask's absolute error")

    identity_model: str = setting(
        "", "identity model: a face embedder that scores swapped faces in training; not the one to measure with"
    )
    identity_weight: float = setting(0.0, "weight of 1 - cosine between a swapped face and the person it should be")
    identity_swaps: int = setting(
        8, "faces of a step's batch that are also swapped, over all ranks and accumulation steps"
    )

    def validate_swap_choices(self) -> None:
        """Refuse combinations that cannot train."""
        if self.aligned not in ("", "arcface_112"):
            raise ValueError(f"aligned must be arcface_112 or empty, not '{self.aligned}'")
        if not self.people:
            raise ValueError("people must name a folder of photos for each person")
        if self.shared_decoder != (len(self.people) == 1):
            raise ValueError(
                f"people names {counted(len(self.people), 'folder')}: faces are swapped between two people or more, "
                "and only shared_decoder takes one"
            )
        if not 0 <= self.held_out_share < 1:
            raise ValueError(f"held_out_share must be in [0, 1), not {self.held_out_share}")
        if self.steps_per_epoch < 1:
            raise ValueError(f"steps_per_epoch must be at least 1, not {self.steps_per_epoch}")
        if self.face_zoom <= 0 or self.frame_margin < 0:
            raise ValueError("face_zoom must be positive, frame_margin must not be negative")
        if self.color not in ("rgb", "gray"):
            raise ValueError(f"color must be rgb or gray, not '{self.color}'")
        if self.identity_weight < 0 or self.identity_swaps < 1:
            raise ValueError("identity_weight must not be negative, identity_swaps at least 1")
        if bool(self.identity_weight) != bool(self.identity_model):
            raise ValueError("identity_weight and identity_model need each other")
        if self.identity_weight and self.shared_decoder:
            raise ValueError("identity_weight is for swaps, and a shared decoder makes none")

    def validate_parts(self) -> None:
        """Refuse what the network or the warp would refuse, before any data is loaded."""
        make_warp(self, self.image_size)
        if not self.init_from:
            make_model_config(self, ["a", "b"])


class SwapCollator:
    """Samples of `AlignedFaces` to a batch for `FaceSwapModel`: distorted inputs, targets, and masks if asked for.

    Args:
        warp: Makes pairs of a crop.
        mask: uint8 (1, height, width), where the face is in every crop, margins included; None: no masks.
    """

    def __init__(self, warp: WarpedPairs, mask: torch.Tensor | None = None):
        self.warp = warp
        self.mask = mask

    def __call__(self, samples: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Join samples.

        Args:
            samples: Each with "pixels" uint8 (channels, height, width), "label" and "key".

        Returns:
            What the model's forward takes: "pixel_values", "labels", "target_pixel_values"[, "target_masks"].
        """
        pixels = torch.stack([sample["pixels"] for sample in samples])
        masks = None if self.mask is None else self.mask.expand(len(pixels), -1, -1, -1)
        inputs, targets, target_masks = self.warp(pixels, [sample["key"] for sample in samples], masks)
        batch = {
            "pixel_values": inputs.contiguous(memory_format=torch.channels_last),
            "labels": torch.tensor([sample["label"] for sample in samples], dtype=torch.int64),
            "target_pixel_values": targets,
        }
        return batch if target_masks is None else batch | {"target_masks": target_masks}


def load_photos(config: SwapTrainingConfig) -> datasets.Dataset:
    """The people's photos, in the schema `image`, `label`, `file`, `landmarks`.

    Raises:
        InputError: A folder is missing, empty, or of the name of another.
    """
    return load_people(
        [config.path(folder) for folder in config.people],
        landmarks=template_for_size(112, 112) if config.aligned else None,
        exclude_files=read_names(config.path(config.exclude_files) or None, "file"),
        exclude_people=config.exclude_people,
    )


def make_processor(config: SwapTrainingConfig) -> FaceImageProcessor:
    """The image processor of this recipe: that of `init_from`, or one by the recipe's crop; pixels in [0, 1].

    Raises:
        InputError: `init_from` has no processor.
    """
    if config.init_from:
        try:
            return AutoImageProcessor.from_pretrained(config.path(config.init_from))
        except (OSError, ValueError) as error:
            raise InputError(f"init_from {config.init_from} has no image processor: {first_line(error)}") from error
    size, zoom = config.image_size, config.face_zoom
    middle = (size - 1) / 2
    template = [[(x - middle) * zoom + middle, (y - middle) * zoom + middle] for x, y in template_for_size(size, size)]
    return FaceImageProcessor(size=size, template=template, color=config.color, image_mean=0.0, image_std=1.0)


def make_warp(config: SwapTrainingConfig, size: int) -> WarpedPairs:
    """The warp of this recipe, for crops of `size` pixels without their margin.

    Raises:
        InputError: A field is unknown or has an impossible value.
    """
    return build_config(WarpedPairs, {"seed": config.seed, "output_size": size, **config.warping})


def make_collator(config: SwapTrainingConfig, processor: FaceImageProcessor) -> SwapCollator:
    """Batches of this recipe."""
    size, margin = processor.size["height"], config.frame_margin
    mask = None
    if config.mask:
        side = size + 2 * margin
        oval = face_oval([[x + margin, y + margin] for x, y in processor.template], side, side)
        mask = torch.from_numpy(255 * oval).to(torch.uint8).unsqueeze(0)
    return SwapCollator(make_warp(config, size), mask)


def make_model_config(config: SwapTrainingConfig, people: list[str]) -> FaceSwapConfig:
    """The config of a network that starts from random weights."""
    return FaceSwapConfig(
        people=people,
        image_size=config.image_size,
        num_channels=1 if config.color == "gray" else 3,
        encoder_widths=config.encoder_widths,
        bottleneck=config.bottleneck,  # type: ignore[arg-type]
        latent_size=config.latent_size,
        decoder_widths=config.decoder_widths,
        residual_blocks=config.residual_blocks,
        predict_mask=config.mask,
        dssim_weight=config.dssim_weight,
        mask_weight=config.mask_weight,
    )


def make_model(config: SwapTrainingConfig, people: list[str]) -> FaceSwapModel:
    """The model to train: random weights, or those of `init_from`.

    A person of `init_from` keeps their decoder; everybody else starts from its first one.

    Raises:
        InputError: `init_from` is no face swap model, or has no mask where the recipe wants one.
    """
    if not config.init_from:
        return FaceSwapModel(make_model_config(config, people))
    start, _ = load_image_model(config.path(config.init_from), FaceSwapModel, "a model of a decoder per person", "cpu")
    if start.config.predict_mask != config.mask:
        has = "draws masks" if start.config.predict_mask else "draws no masks"
        raise InputError(f"init_from {config.init_from} {has}: set mask to {str(start.config.predict_mask).lower()}")
    settings = {"people": people, "dssim_weight": config.dssim_weight, "mask_weight": config.mask_weight}
    model = FaceSwapModel(FaceSwapConfig.from_dict(start.config.to_dict() | settings))
    model.encoder.load_state_dict(start.encoder.state_dict())
    for person, decoder in zip(people, model.decoders, strict=True):
        known = start.label_of(person) if person in start.config.people else 0
        decoder.load_state_dict(start.decoders[known].state_dict())
    return model


def make_loss(
    config: SwapTrainingConfig,
    model: FaceSwapModel,
    photos: AlignedFaces,
    processor: FaceImageProcessor,
    accelerator: Accelerator,
) -> Callable:
    """The loss of this recipe, with the identity model if there is one.

    Raises:
        InputError: The embedder cannot be loaded, or the swaps do not divide.
    """
    if not config.identity_weight:
        return SwapLoss(model.config)
    parts = accelerator.num_processes * config.accumulation_steps
    if config.identity_swaps % parts or config.identity_swaps > config.batch_size:
        raise InputError(
            f"identity_swaps {config.identity_swaps} must be a multiple of {parts} (ranks x accumulation steps), "
            f"at most batch_size {config.batch_size}"
        )
    embedder, embedder_processor = load_face_embedder(config.path(config.identity_model), "cpu")
    likeness = Likeness(embedder, embedder_processor, photos, processor, accelerator.device)
    return SwapLoss(model.config, likeness, config.identity_weight, config.identity_swaps // parts)


def describe_people(photos: AlignedFaces) -> str:
    """What was trained on, in a sentence for the card: how many photos, of whom."""
    counts = [int((photos.labels == label).sum()) for label in range(len(photos.identities))]
    people = ", ".join(f"{name} ({count})" for name, count in zip(photos.identities, counts, strict=True))
    text = f"{len(photos):,} aligned photos: {people}."
    if photos.failures:
        text += f" {counted(len(photos.failures), 'photo')} could not be read."
    return text
