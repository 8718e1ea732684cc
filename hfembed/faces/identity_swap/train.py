"""Train an identity-conditioned face swap model on photos of many people, on one CPU or many GPUs.

hfembed train identity-swap --config identity_swap_112 --images aligned_112x112.tgz --output_dir OUT
hfembed train identity-swap --config identity_swap_112 --images aligned_112x112.tgz --output_dir OUT --resume
"""

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch
from accelerate.utils import set_seed
from transformers import PreTrainedModel

from hfembed.faces.data.aligned_faces import AlignedFaces
from hfembed.faces.discriminators import make_discriminator
from hfembed.faces.identity_swap.identity_embedders import IdentityEmbedders, describe_people
from hfembed.faces.identity_swap.pictures import draw_swap_table
from hfembed.faces.identity_swap.recipe import (
    IdentitySwapTrainingConfig,
    describe_photos,
    load_people,
    make_collator,
    make_loss,
    make_model,
    make_processor,
)
from hfembed.faces.swap.train import PROVENANCE
from hfembed.faces.training.recipe import photo_facts
from hfembed.models.face_embedder.image_processing_face_embedder import template_for_size
from hfembed.models.identity_swap.modeling_identity_swap import IdentitySwapModel, nearest_photos
from hfembed.training.config import read_config
from hfembed.training.loop import Task, make_accelerator, shard, train
from hfembed.training.run import Run, training_program
from hfembed.training.samplers import KeyedBatchSampler

CONFIG = IdentitySwapTrainingConfig
_MEASURED = 6  # people held out, each as every other


@training_program
def main(arguments: Sequence[str] | None = None) -> None:
    """Recipe -> photos -> identity vectors -> model -> loop -> a folder for `from_pretrained`."""
    config = read_config(IdentitySwapTrainingConfig, arguments, __doc__)
    run = Run(config, "identity-swap", make_accelerator(config))
    device = run.accelerator.device
    processor = make_processor(config)
    photos, held_out = run.prepare(lambda: load_people(config, processor))
    run.describe_data(describe_photos(config, photos), **photo_facts(photos))
    run.notes |= {
        "provenance": PROVENANCE,
        "split": {"held_out_share": config.held_out_share, "seed": config.split_seed},
    }

    set_seed(config.seed)
    points = template_for_size(config.image_size, config.image_size)
    embedders = IdentityEmbedders([config.path(name) for name in config.identity_models], points).to(device)
    rows = first_photos(photos.labels, config.identity_photos)
    model = make_model(config, embedders)
    kept = model.config.photos_per_person
    pixels = photo_pixels(photos, rows)
    known = describe_people(embedders, pixels, photos.labels[rows], len(photos.identities), kept)
    if not config.init_from:
        model.standardize(known[0])
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):  # the photos of people have five dimensions
            module.to(memory_format=torch.channels_last)  # type: ignore[call-arg]
    protocol = HeldOutSwaps(held_out, embedders, config.identity_photos, kept) if held_out else None
    train(
        run,
        Task(
            model=model,
            processor=processor,
            compute_loss=make_loss(config, embedders, *known, device),
            dataset=photos,
            sampler=KeyedBatchSampler(len(photos), **shard(config, run.accelerator)),  # type: ignore[arg-type]
            collate=make_collator(config, len(photos.identities)),
            evaluate=protocol,
            primary_metric="held_out_cosine",
            draw=protocol.draw if protocol else None,
            discriminator=make_discriminator(config, model.config.num_channels, [config.image_size] * 2),
            discriminator_learning_rate=config.discriminator_learning_rate,
            discriminator_start=config.discriminator_start,
        ),
    )


def first_photos(labels: np.ndarray, count: int) -> np.ndarray:
    """Rows of at most `count` photos of each person."""
    return np.concatenate([np.flatnonzero(labels == label)[:count] for label in np.unique(labels)])


def photo_pixels(photos: AlignedFaces, rows: np.ndarray) -> torch.Tensor:
    """The crops of some rows, (count, channels, height, width) uint8."""
    return torch.stack([photos[0, row]["pixels"] for row in rows])


class HeldOutSwaps:
    """A photo of each of some people held out, drawn as each of the others, whom the model has never seen.

    Args:
        photos: Of the people; the first is swapped, the others make the vector.
        embedders: The training's.
        count: Photos of a person that make the vector, at most.
        kept: Photos of a person to choose references among.
    """

    def __init__(self, photos: AlignedFaces, embedders: IdentityEmbedders, count: int, kept: int) -> None:
        many = [label for label in np.unique(photos.labels) if (photos.labels == label).sum() > 1][:_MEASURED]
        rows = [np.flatnonzero(photos.labels == label) for label in many]
        known = np.concatenate([row[1 : 1 + count] for row in rows])
        labels = np.repeat(np.arange(len(rows)), [len(row[1 : 1 + count]) for row in rows])
        self.embedders = embedders
        self.faces = photo_pixels(photos, np.array([row[0] for row in rows])).float() / 255
        self.shown = photo_pixels(photos, np.array([row[1] for row in rows])).float() / 255
        pixels = photo_pixels(photos, known)
        self.people, self.photos = describe_people(embedders, pixels, labels, len(rows), kept)

    def swaps(self, model: PreTrainedModel) -> torch.Tensor:
        """(sources, targets, channels, height, width) in [0, 1]."""
        network, count = cast(IdentitySwapModel, model), len(self.faces)
        drawn = []
        for face in self.faces.to(model.device):
            faces, people = face.expand(count, -1, -1, -1), self.people.to(model.device)
            references = nearest_photos(faces, self.photos.to(model.device))
            output = network(faces, identities=people, references=references)
            drawn.append(output.reconstruction.float().clamp(0, 1))
        return torch.stack(drawn)

    def __call__(self, model: PreTrainedModel) -> dict[str, float]:
        """`held_out_cosine`: to the person whom a face is to become, by the training's embedders."""
        drawn = self.swaps(model)
        cosines = torch.stack([self.embedders(row).cpu() @ self.people.T for row in drawn])
        own = torch.eye(len(drawn), dtype=torch.bool)
        to_target = cosines.diagonal(dim1=1, dim2=2)
        to_source = torch.stack([cosines[row, :, row] for row in range(len(drawn))])
        distance = (drawn.cpu() - self.faces[:, None]).abs().mean((2, 3, 4))
        return {
            "held_out_cosine": float(to_target[~own].mean()),
            "held_out_cosine_to_source": float(to_source[~own].mean()),
            "held_out_change": float(distance[~own].mean()),
            "held_out_error": float(distance[own].mean()),
        }

    def draw(self, model: PreTrainedModel, path: Path) -> None:
        """Sources down, targets across."""
        draw_swap_table(self.faces, self.shown, self.swaps(model).cpu(), path)


if __name__ == "__main__":
    main()
