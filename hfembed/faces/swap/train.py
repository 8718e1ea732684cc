"""Train a face swap model on folders of people's photos, on one CPU or many GPUs.

hfembed train swap --config face_swap --people DIR DIR --output_dir OUT
hfembed train swap --config face_swap --people DIR DIR --output_dir OUT --resume
hfembed train swap --config face_swap_start --people DIR --output_dir A
hfembed train swap --config face_swap --people DIR DIR --init_from A --output_dir OUT
"""

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch
from accelerate.utils import set_seed
from transformers import PreTrainedModel

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
from hfembed.faces.training.recipe import photo_facts
from hfembed.models.face_embedder.image_processing_face_embedder import FaceImageProcessor
from hfembed.models.face_swap.modeling_face_swap import FaceSwapModel
from hfembed.training.config import read_config
from hfembed.training.loop import Task, make_accelerator, shard, train
from hfembed.training.run import Run, training_program

CONFIG = SwapTrainingConfig
PROVENANCE = (
    "Every face of this model is generated and shows what did not happen; `hfembed swap` writes so into the "
    "picture and into its file."
)
PICTURED = 6  # photos of each person in the pictures


@training_program
def main(arguments: Sequence[str] | None = None) -> None:
    """Recipe -> photos -> model -> loop -> a folder for `from_pretrained`."""
    config = read_config(SwapTrainingConfig, arguments, __doc__)
    run = Run(config, "swap", make_accelerator(config))
    processor = make_processor(config)
    photos, held_out = run.prepare(lambda: load_people(config, processor))
    run.describe_data(describe_people(photos), **photo_facts(photos))
    run.notes |= {
        "provenance": PROVENANCE,
        "people_names": photos.identities,
        "trained_files": photos.files,
        "held_out_files": held_out.files if held_out else [],
    }
    set_seed(config.seed)
    model = make_model(config, photos.identities).to(memory_format=torch.channels_last)  # type: ignore[call-arg]
    batches = shard(config, run.accelerator)
    num_batches = config.steps_per_epoch * config.accumulation_steps
    train(
        run,
        Task(
            model=model,
            processor=processor,
            compute_loss=make_loss(config, model, photos, processor, run.accelerator),
            dataset=photos,
            sampler=PersonBatchSampler(photos.labels, num_batches=num_batches, **batches),
            collate=make_collator(config, processor),
            evaluate=(lambda model: reconstruction_error(model, held_out)) if held_out else None,
            primary_metric="held_out_error",
            greater_is_better=False,
            draw=lambda model, path: draw_people(
                model, held_out or AlignedFaces(load_photos(config), processor), path
            ),
        ),
    )


def load_people(config: SwapTrainingConfig, processor: FaceImageProcessor) -> tuple[AlignedFaces, AlignedFaces | None]:
    """The aligned photos to train on, with their margin, and those held out."""
    photos, held_out = load_photos(config), None
    if config.held_out_share:
        photos, rest = hold_out_photos(photos, config.held_out_share, seed=config.seed)
        held_out = AlignedFaces(rest, processor, num_workers=config.num_workers)
    return AlignedFaces(photos, processor, margin=config.frame_margin, num_workers=config.num_workers), held_out


def as_pixel_values(photos: AlignedFaces, rows: np.ndarray) -> torch.Tensor:
    """The crops of some rows, (count, channels, height, width) in [0, 1]."""
    return torch.stack([photos[0, row]["pixels"] for row in rows]).float() / 255


def draw_people(model: PreTrainedModel, photos: AlignedFaces, path: Path) -> None:
    """The same number of photos of each person, and what the others' decoders make of them."""
    count = min(PICTURED, *np.bincount(photos.labels))
    rows = [np.flatnonzero(photos.labels == label)[:count] for label in range(len(photos.identities))]
    draw_swap_grid(cast(FaceSwapModel, model), [as_pixel_values(photos, row) for row in rows], path)


def reconstruction_error(model: PreTrainedModel, photos: AlignedFaces, batch_size: int = 64) -> dict[str, float]:
    """Mean absolute error, in [0, 1], of photos reconstructed by the decoders of their own people."""
    swap, total = cast(FaceSwapModel, model), 0.0
    for rows in np.array_split(np.arange(len(photos)), -(-len(photos) // batch_size)):
        pixels = as_pixel_values(photos, rows).to(model.device)
        drawn, _ = swap.decode(swap.encode(pixels), torch.from_numpy(photos.labels[rows]).to(model.device))
        total += len(rows) * (drawn.float() - pixels).abs().mean().item()
    return {"held_out_error": total / len(photos)}


if __name__ == "__main__":
    main()
