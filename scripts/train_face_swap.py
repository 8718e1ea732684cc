"""Train a face swap model on folders of people's photos, on one CPU or many GPUs.

accelerate launch scripts/train_face_swap.py --config hfembed/recipes/face_swap.yaml --people DIR DIR --output_dir OUT
accelerate launch scripts/train_face_swap.py --config FILE --people DIR DIR --output_dir OUT --resume
accelerate launch scripts/train_face_swap.py --config hfembed/recipes/face_swap_start.yaml --people DIR --output_dir A
accelerate launch scripts/train_face_swap.py --config FILE --people DIR DIR --init_from A --output_dir OUT
"""

from pathlib import Path

import numpy as np
import torch
from accelerate.utils import set_seed
from transformers import PreTrainedModel

from hfembed.checkpoint.card import write_card
from hfembed.errors import exit_on_input_error
from hfembed.faces.data.aligned_faces import AlignedFaces
from hfembed.faces.data.samplers import PersonBatchSampler
from hfembed.faces.data.splits import hold_out_photos
from hfembed.faces.swap.pictures import draw_swap_grid
from hfembed.faces.swap.recipe import (
    SwapTrainingConfig,
    describe_people,
    load_photos,
    make_collator,
    make_loss,
    make_model,
    make_processor,
)
from hfembed.training.config import read_config
from hfembed.training.loop import make_accelerator, samples_per_round, train
from hfembed.training.record import TrainingRecord
from hfembed.training.sharing import HubSharing

PROVENANCE = (
    "Every face this model draws is generated and shows what did not happen; `hfembed swap` writes so "
    "into the picture and into its file."
)
PICTURED = 6  # photos of each person in the pictures


@exit_on_input_error
def main() -> None:
    """Recipe -> photos -> model -> loop -> a folder for `from_pretrained`."""
    config = read_config(SwapTrainingConfig, description=__doc__)
    accelerator = make_accelerator(config)
    batch_size = samples_per_round(config, accelerator)
    processor = make_processor(config)
    held_out = None
    with accelerator.main_process_first():
        photos = load_photos(config)
        if config.held_out_share:
            photos, rest = hold_out_photos(photos, config.held_out_share, seed=config.seed)
            held_out = AlignedFaces(rest, processor, num_workers=config.num_workers)
        photos = AlignedFaces(photos, processor, margin=config.frame_margin, num_workers=config.num_workers)
    accelerator.print(
        f"{len(photos)} photos of {', '.join(photos.identities)}; batches of {config.batch_size} "
        f"on {accelerator.num_processes} rank(s), {accelerator.device.type}"
    )

    set_seed(config.seed)
    model = make_model(config, photos.identities).to(memory_format=torch.channels_last)
    loss = make_loss(config, model, photos, processor, accelerator.device, accelerator.num_processes)
    sampler = PersonBatchSampler(
        photos.labels, batch_size, config.steps_per_epoch * config.accumulation_steps,
        seed=config.seed, rank=accelerator.process_index, world_size=accelerator.num_processes,
    )  # fmt: skip
    record = TrainingRecord(
        config, photos, describe_people(photos), accelerator,
        provenance=PROVENANCE, people_names=photos.identities,
        trained_files=photos.files, held_out_files=held_out.files if held_out else [],
    )  # fmt: skip
    sharing = HubSharing(config, config.output_dir, accelerator.print)

    def evaluate(model: PreTrainedModel) -> dict[str, float]:
        return {"held_out_error": reconstruction_error(model, held_out)}

    def draw(model: PreTrainedModel, path: Path) -> None:
        chosen = held_out or AlignedFaces(load_photos(config), processor)
        count = min(PICTURED, *np.bincount(chosen.labels))
        rows = [np.flatnonzero(chosen.labels == label)[:count] for label in range(len(chosen.identities))]
        draw_swap_grid(model, [as_pixel_values(chosen, row) for row in rows], path)

    def save(model: PreTrainedModel, folder: Path) -> None:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)

    metrics = train(
        config,
        accelerator,
        model,
        loss,
        photos,
        sampler,
        make_collator(config, processor),
        save,
        None if held_out is None else evaluate,
        primary_metric="held_out_error",
        greater_is_better=False,
        draw=draw,
        sharing=sharing,
    )
    if accelerator.is_main_process:
        record.write(metrics)
        card = write_card(config.output_dir)
        accelerator.print(f"the model is in {config.output_dir}, its card is {card}")
        sharing.push_result()


def as_pixel_values(photos: AlignedFaces, rows: np.ndarray) -> torch.Tensor:
    """The crops of some rows, (count, channels, height, width) in [0, 1]."""
    return torch.stack([photos[0, row]["pixels"] for row in rows]).float() / 255


def reconstruction_error(model: PreTrainedModel, photos: AlignedFaces, batch_size: int = 64) -> float:
    """Mean absolute error, in [0, 1], of photos redrawn by the decoders of their own people."""
    total = 0.0
    for rows in np.array_split(np.arange(len(photos)), -(-len(photos) // batch_size)):
        pixels = as_pixel_values(photos, rows).to(model.device)
        drawn, _ = model.decode(model.encode(pixels), torch.from_numpy(photos.labels[rows]).to(model.device))
        total += len(rows) * (drawn.float() - pixels).abs().mean().item()
    return total / len(photos)


if __name__ == "__main__":
    main()
