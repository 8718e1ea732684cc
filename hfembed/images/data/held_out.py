"""Who a checkpoint was not trained on: what its evaluations measure."""

import logging
from pathlib import Path

import datasets

from hfembed.checkpoint.checkpoint import Checkpoint
from hfembed.faces.data.faces import FaceSource, load_faces
from hfembed.faces.data.splits import split_people

logger = logging.getLogger(__name__)

HELD_OUT_SHARE, SPLIT_SEED = 0.1, 0  # of recipes, and where a checkpoint does not say


def split_as_in_training(
    checkpoint: Checkpoint,
    images: str | Path | FaceSource,
    held_out_share: float | None = None,
    split_seed: int | None = None,
) -> tuple[datasets.Dataset, datasets.Dataset, dict[str, float]]:
    """Load the images, and separate the people that a checkpoint was not trained on.

    Args:
        checkpoint: Its training.json says which split it was trained with.
        images: What it was trained on; see `load_faces`.
        held_out_share: Fraction of the people to hold out, instead of the checkpoint's; 0 for nobody.
        split_seed: Seed of the split, instead of the checkpoint's.

    Returns:
        The others, the held-out people (the data set has `landmarks` where the source does), and the split.

    Raises:
        InputError: The images cannot be read, or one side would be empty.
    """
    trained = checkpoint.split
    given = {"held_out_share": held_out_share, "seed": split_seed}
    default = {"held_out_share": HELD_OUT_SHARE, "seed": SPLIT_SEED} | trained
    split = {name: default[name] if value is None else value for name, value in given.items()}
    if trained and split["held_out_share"] and split != {name: trained.get(name) for name in split}:
        logger.warning(
            "%s was trained with the split %s; with %s it is measured on people it was trained on, if on the same images",
            *(checkpoint.name, trained, split),
        )
    faces = load_faces(images)
    if not split["held_out_share"]:
        return faces, faces.select([]), split
    return *split_people(faces, split["held_out_share"], int(split["seed"])), split
