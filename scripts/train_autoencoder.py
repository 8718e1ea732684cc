"""Train an autoencoder by a recipe, on one CPU or many GPUs.

accelerate launch scripts/train_autoencoder.py --config hfembed/recipes/autoencoder_128.yaml --images lfw-a.tgz --output_dir outputs/mine
accelerate launch scripts/train_autoencoder.py --config FILE --images FOLDER --output_dir outputs/mine --resume
"""  # noqa: E501

from pathlib import Path

import torch
from accelerate.utils import set_seed
from transformers import PreTrainedModel

from hfembed.checkpoint.card import write_card
from hfembed.errors import exit_on_input_error, input_errors
from hfembed.faces.data.aligned_faces import AlignedFaces
from hfembed.faces.data.collators import AutoencoderCollator
from hfembed.images.evaluation.reconstruction import HeldOutReconstruction, takes_masks
from hfembed.images.evaluation.reconstruction_pictures import draw_reconstructions
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
from hfembed.training.config import read_config
from hfembed.training.loop import make_accelerator, samples_per_round, train
from hfembed.training.record import TrainingRecord
from hfembed.training.samplers import KeyedBatchSampler
from hfembed.training.sharing import HubSharing


@exit_on_input_error
def main() -> None:
    """Recipe -> photos -> model -> loop -> a folder for `from_pretrained`."""
    config = read_config(AutoencoderTrainingConfig, description=__doc__)
    accelerator = make_accelerator(config)
    batch_size = samples_per_round(config, accelerator)
    processor = make_processor(config)
    framed = make_processor(config, config.frame_margin)

    with accelerator.main_process_first():
        images = load_images(config)
        split = split_images(images, config.held_out_share, config.validation_share, config.split_seed)
        photos = AlignedFaces(split.train, framed, num_workers=config.num_workers)
        validation = split.validation and AlignedFaces(split.validation, processor, num_workers=config.num_workers)
    accelerator.print(
        f"{len(photos)} photos of {len(photos.identities)} people; batches of {config.batch_size} "
        f"on {accelerator.num_processes} rank(s), {accelerator.device.type}"
    )

    set_seed(config.seed)
    model = make_model(config).to(memory_format=torch.channels_last)
    # some models measure parts of theirs on the photos before they are trained
    if hasattr(model, "start_from_images") and not config.init_from:
        model.start_from_images(processor.normalize(without_margin(photos.pixels(), config.frame_margin)))
    objective = AutoencoderLoss(config, accelerator.device)
    if config.identity_start:
        some = without_margin(photos.pixels(config.identity_start_photos), config.frame_margin)
        start_from_identity(
            model.to(accelerator.device), processor, objective.embeddings, some, config.identity_start,
            seed=config.seed,
        )  # fmt: skip
    with input_errors():
        collate = AutoencoderCollator(
            processor, make_augmentation(config), make_corruption(config), show_holes=takes_masks(model)
        )
    sampler = KeyedBatchSampler(
        len(photos), batch_size,
        seed=config.seed, rank=accelerator.process_index, world_size=accelerator.num_processes,
    )  # fmt: skip

    # the same number of photos of both sides, as the network sees them: the gap between them is what it has by heart
    protocols = []
    if validation:
        corruption = make_corruption(config, seed=config.seed + 1)
        protocols.append(HeldOutReconstruction(validation.pixels(), corruption))
        some = without_margin(photos.pixels(len(validation)), config.frame_margin)
        protocols.append(HeldOutReconstruction(some, corruption, name="train"))
    record = TrainingRecord(
        config, photos, describe_images(config, photos), accelerator,
        split={"held_out_share": config.held_out_share, "seed": config.split_seed},
    )  # fmt: skip
    sharing = HubSharing(config, config.output_dir, accelerator.print)

    def evaluate(model: PreTrainedModel) -> dict[str, float]:
        if config.pictures:
            pictures = Path(config.output_dir) / "pictures"
            number = len(list(pictures.glob("*.png")))
            draw_reconstructions(protocols[0], model, processor, pictures / f"{number:04d}.png", config.pictures)
        return {name: value for protocol in protocols for name, value in protocol(model, processor).items()}

    def save(model: PreTrainedModel, folder: Path) -> None:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)

    metrics = train(
        config,
        accelerator,
        model,
        objective,
        photos,
        sampler,
        collate,
        save,
        evaluate if protocols else None,
        primary_metric="psnr",
        sharing=sharing,
    )
    if accelerator.is_main_process:
        record.write(metrics)
        card = write_card(config.output_dir)
        accelerator.print(f"the model is in {config.output_dir}, its card is {card}")
        sharing.push_result()


if __name__ == "__main__":
    main()
