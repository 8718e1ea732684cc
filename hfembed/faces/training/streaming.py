"""A recipe's stream of photos: which source, in what batches, and what is said of it."""

from pathlib import Path
from typing import Any

import datasets

from hfembed.errors import InputError
from hfembed.faces.data.face_stream import IterablePhotos, PhotoSource, ShardRing, StreamBatchSampler
from hfembed.faces.data.faces import FaceSource, in_schema, load_faces
from hfembed.faces.data.shard_readers import open_shards
from hfembed.faces.training.recipe import FaceTrainingConfig


def open_stream(config: FaceTrainingConfig, faces: datasets.IterableDataset | None = None) -> PhotoSource:
    """Open the photos of a streaming recipe, and find out how many people they are of.

    Args:
        faces: A stream to take in place of the recipe's source: columns by the names that `load_faces` knows.

    Raises:
        InputError: The source cannot be streamed, or it is not known how many people or steps there are.
    """
    if config.min_photos > 1 and "min_photos" in config.named:
        raise InputError("streaming is not possible with min_photos: it needs all photos before the first step")
    if faces is None:
        if len(config.sources) != 1 or config.sources == ["synthetic"]:
            raise InputError("streaming reads one source; convert-dataset joins several: train_images names one")
        source = config.path(config.sources[0])
        shards = open_shards(source, config.num_people, config.aligned or None)
        if shards is not None:
            if config.steps_per_epoch:
                raise InputError(f"{source} has counted photos: max_steps, not steps_per_epoch, ends a training early")
            return ShardRing(shards, config.seed, config.shuffle_buffer)
        loaded = load_faces(FaceSource(source, aligned=config.aligned or None), streaming=True)
    else:
        loaded = in_schema(faces, FaceSource("the stream", aligned=config.aligned or None))
    if not (config.steps_per_epoch or config.max_steps):
        raise InputError("nobody has counted the photos of this stream: give steps_per_epoch or max_steps")
    label = loaded.features["label"]
    people = label.names if isinstance(label, datasets.ClassLabel) else list(map(str, range(config.num_people)))
    if not people:
        raise InputError("the stream does not say how many people it has: give num_people")
    undecoded = loaded.cast_column("image", datasets.Image(decode=False))
    return IterablePhotos(undecoded, people, config.seed, config.shuffle_buffer)


def make_stream_sampler(config: FaceTrainingConfig, source: PhotoSource, shard: dict[str, Any]) -> StreamBatchSampler:
    """Batches of the stream, with a lane per worker process."""
    steps = config.steps_per_epoch or config.max_steps
    return StreamBatchSampler(
        source.num_photos, num_batches=steps * config.accumulation_steps, lanes=max(1, config.num_workers), **shard
    )


def describe_stream(config: FaceTrainingConfig, source: PhotoSource, is_given: bool) -> tuple[str, dict[str, Any]]:
    """A sentence for the card, and arguments of `Run.describe_data`."""
    count = "Photos" if source.num_photos is None else f"{source.num_photos:,} photos"
    name = "a data set given in Python" if is_given else Path(config.sources[0]).name
    facts: dict[str, Any] = {"fingerprint": source.fingerprint, "people": len(source.people)}
    if source.num_photos is not None:
        facts["photos"] = source.num_photos
    return f"{count} of {len(source.people):,} people from {name}, streamed.", facts
