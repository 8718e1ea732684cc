"""Train an autoencoder by a recipe, on one CPU or many GPUs.

hfembed train autoencoder --config autoencoder_128 --images lfw-a.tgz --output_dir outputs/mine
hfembed train autoencoder --config autoencoder_128 --images FOLDER --output_dir outputs/mine --resume
"""

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from accelerate.utils import set_seed
from transformers import PreTrainedModel

from hfembed.errors import InputError, input_errors
from hfembed.faces.data.aligned_faces import AlignedFaces
from hfembed.faces.discriminators import make_discriminator
from hfembed.faces.perceptual_networks import FaceEmbeddings
from hfembed.faces.training.recipe import photo_facts
from hfembed.images.evaluation.reconstruction import HeldOutReconstruction, takes_masks
from hfembed.images.evaluation.reconstruction_pictures import draw_reconstructions
from hfembed.images.training.collator import AutoencoderCollator
from hfembed.images.training.identity_start import start_from_identity
from hfembed.images.training.loss import AutoencoderLoss
from hfembed.images.training.recipe import (
    AutoencoderTrainingConfig,
    describe_images,
    load_images,
    make_augmentation,
    make_corruption,
    make_model,
    make_processor,
    split_images,
    without_margin,
)
from hfembed.models.appearance_autoencoder.modeling_appearance_autoencoder import AppearanceAutoencoderModel
from hfembed.models.autoencoder_base import AutoencoderModelBase
from hfembed.models.conv_autoencoder.image_processing_conv_autoencoder import ConvAutoencoderImageProcessor
from hfembed.models.conv_autoencoder.modeling_conv_autoencoder import ConvAutoencoderModel
from hfembed.training.config import read_config
from hfembed.training.loop import Task, make_accelerator, shard, train
from hfembed.training.run import Run, training_program
from hfembed.training.samplers import KeyedBatchSampler

CONFIG = AutoencoderTrainingConfig
_START_PHOTOS = 500  # of which a linear start knows the patches, and a codebook the latents


@training_program
def main(arguments: Sequence[str] | None = None) -> None:
    """Recipe -> photos -> model -> loop -> a folder for `from_pretrained`."""
    config = read_config(AutoencoderTrainingConfig, arguments, __doc__)
    run = Run(config, "autoencoder", make_accelerator(config))
    processor = make_processor(config)
    photos, validation = run.prepare(lambda: load_photos(config))
    run.describe_data(describe_images(config, photos), **photo_facts(photos))
    run.notes["split"] = {"held_out_share": config.held_out_share, "seed": config.split_seed}

    set_seed(config.seed)
    model = start_model(config, photos, processor)
    check_discriminator(config, model)
    objective = AutoencoderLoss(config, run.accelerator.device)
    if config.identity_start and objective.embeddings is not None:
        model.to(run.accelerator.device)
        add_identity(config, cast(AppearanceAutoencoderModel, model), photos, processor, objective.embeddings)
    with input_errors():
        collate = AutoencoderCollator(
            processor, make_augmentation(config), make_corruption(config), show_holes=takes_masks(model)
        )
    protocols = make_protocols(config, photos, validation) if validation else []

    def draw(model: PreTrainedModel, path: Path) -> None:
        draw_reconstructions(protocols[0], model, processor, path, config.pictures)

    def evaluate(model: PreTrainedModel) -> dict[str, float]:
        return {name: value for protocol in protocols for name, value in protocol(model, processor).items()}

    train(
        run,
        Task(
            model=model,
            processor=processor,
            compute_loss=objective,
            dataset=photos,
            sampler=KeyedBatchSampler(len(photos), **shard(config, run.accelerator)),  # type: ignore[arg-type]
            collate=collate,
            evaluate=evaluate if protocols else None,
            primary_metric="psnr",
            draw=draw if protocols and config.pictures else None,
            discriminator=make_discriminator(config, model.config.num_channels, config.image_size),
            discriminator_learning_rate=config.discriminator_learning_rate,
            discriminator_start=config.discriminator_start,
        ),
    )


def load_photos(config: AutoencoderTrainingConfig) -> tuple[AlignedFaces, AlignedFaces | None]:
    """The crops to train on, with their margin, and those of validation."""
    split = split_images(load_images(config), config.held_out_share, config.validation_share, config.split_seed)
    photos = AlignedFaces(split.train, make_processor(config, config.frame_margin), num_workers=config.num_workers)
    if split.validation is None:
        return photos, None
    return photos, AlignedFaces(split.validation, make_processor(config), num_workers=config.num_workers)


def start_model(
    config: AutoencoderTrainingConfig, photos: AlignedFaces, processor: ConvAutoencoderImageProcessor
) -> AutoencoderModelBase:
    """The model, and what some measure on the photos before they are trained."""
    model = make_model(config).to(memory_format=torch.channels_last)  # type: ignore[call-arg]
    if config.patch_start and not config.init_from:
        start_from_patches(config, model, photos, processor)
    if isinstance(model, ConvAutoencoderModel) and model.vector_quantizer is not None and not config.init_from:
        model.start_codebook(processor.normalize(without_margin(photos.pixels(_START_PHOTOS), config.frame_margin)))
    if hasattr(model, "start_from_images") and not config.init_from:
        model.start_from_images(processor.normalize(without_margin(photos.pixels(), config.frame_margin)))
    if config.gradient_checkpointing:
        with input_errors():
            model.checkpoint_blocks()
    return model


def start_from_patches(
    config: AutoencoderTrainingConfig,
    model: AutoencoderModelBase,
    photos: AlignedFaces,
    processor: ConvAutoencoderImageProcessor,
) -> None:
    """Start as the PCA of the patches of some photos."""
    if not isinstance(model, ConvAutoencoderModel):
        raise InputError(f"patch_start: a {type(model).__name__} has no such start; leave it out")
    some = without_margin(photos.pixels(_START_PHOTOS), config.frame_margin)
    with input_errors():
        model.start_from_patches(processor.normalize(some))


def check_discriminator(config: AutoencoderTrainingConfig, model: AutoencoderModelBase) -> None:
    """Refuse a discriminator for a model that does not learn from one.

    Raises:
        InputError: Its images do not come from one convolution.
    """
    if config.discriminator_weight and model.last_layer is None:
        raise InputError(f"discriminator_weight: a {type(model).__name__} does not learn from a discriminator; set 0")


def add_identity(
    config: AutoencoderTrainingConfig,
    model: AppearanceAutoencoderModel,
    photos: AlignedFaces,
    processor: ConvAutoencoderImageProcessor,
    embeddings: FaceEmbeddings,
) -> None:
    """Let some latents tell people apart from the start."""
    pixels = without_margin(photos.pixels(config.identity_start_photos), config.frame_margin)
    start_from_identity(model, processor, embeddings, pixels, config.identity_start, seed=config.seed)


def make_protocols(
    config: AutoencoderTrainingConfig, photos: AlignedFaces, validation: AlignedFaces
) -> list[HeldOutReconstruction]:
    """The same number of photos of both sides, as the network sees them: the difference is the generalization gap."""
    corruption = make_corruption(config, seed=config.seed + 1)
    trained = without_margin(photos.pixels(len(validation)), config.frame_margin)
    return [
        HeldOutReconstruction(validation.pixels(), corruption),
        HeldOutReconstruction(trained, corruption, name="train"),
    ]


if __name__ == "__main__":
    main()
