"""A recipe's stream of photos: which source, in what batches, and what is said of it."""

from pathlib import Path
from typing import Any

import datasets

from hfembed.errors import InputError
from hfembed.faces.data.face_stream import IterablePhotos, PhotoSource, ShardRing, StreamBatchSampler
from hfembed.faces.data.faces import FaceSource, in_schema, load_faces
from hfembed.faces.data.shard_readers import FaceShards, JoinedShards, open_shards
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
        shards = _open_sources(config)
        if shards is not None:
            if config.steps_per_epoch:
                raise InputError(
                    f"{' and '.join(config.sources)}: photos are counted; max_steps, not steps_per_epoch, ends a "
                    "training early"
                )
            return ShardRing(shards, config.seed, config.shuffle_buffer, config.photos_per_identity)
        loaded = load_faces(FaceSource(config.sources[0], aligned=config.aligned or None), streaming=True)
    else:
        loaded = in_schema(faces, FaceSource("the stream", aligned=config.aligned or None))
    if config.photos_per_identity:
        raise InputError(
            "photos_per_identity needs local shards: who is in a photo of this stream is not known before"
        )
    if not (config.steps_per_epoch or config.max_steps):
        raise InputError("nobody has counted the photos of this stream: give steps_per_epoch or max_steps")
    label = loaded.features["label"]
    people = label.names if isinstance(label, datasets.ClassLabel) else list(map(str, range(config.num_people)))
    if not people:
        raise InputError("the stream does not say how many people it has: give num_people")
    undecoded = loaded.cast_column("image", datasets.Image(decode=False))
    return IterablePhotos(undecoded, people, config.seed, config.shuffle_buffer)


def _open_sources(config: FaceTrainingConfig) -> FaceShards | None:
    """The recipe's shards; None for the one id of a Hub repository."""
    sources = [config.path(source) for source in config.sources]
    if "synthetic" in sources:
        raise InputError("synthetic faces cannot be streamed: train_images names shards")
    if len(sources) == 1:
        return open_shards(sources[0], config.num_people, config.aligned or None)
    if config.num_people:
        raise InputError("num_people says it of one source; of several, each has to say how many people it has itself")
    opened: dict[str, FaceShards] = {}
    for source in sources:
        shards = open_shards(source, aligned=config.aligned or None)
        if shards is None:
            raise InputError(f"{source}: a stream from the Hub cannot be joined with others; download it first")
        if Path(source).name in opened:
            raise InputError(f"two sources are called {Path(source).name}: rename one of them")
        opened[Path(source).name] = shards
    return JoinedShards(opened)


def make_stream_sampler(config: FaceTrainingConfig, source: PhotoSource, shard: dict[str, Any]) -> StreamBatchSampler:
    """Batches of the stream, with a lane per worker process."""
    steps = config.steps_per_epoch or config.max_steps
    return StreamBatchSampler(
        source.num_groups,
        num_batches=steps * config.accumulation_steps,
        lanes=max(1, config.num_workers),
        group_size=source.group_size,
        **shard,
    )


def describe_stream(config: FaceTrainingConfig, source: PhotoSource, is_given: bool) -> tuple[str, dict[str, Any]]:
    """A sentence for the card, and arguments of `Run.describe_data`."""
    count = "Photos" if source.num_photos is None else f"{source.num_photos:,} photos"
    names = ["a data set given in Python"] if is_given else [Path(source).name for source in config.sources]
    facts: dict[str, Any] = {"fingerprint": source.fingerprint, "people": len(source.people)}
    if source.num_photos is not None:
        facts["photos"] = source.num_photos
    return f"{count} of {len(source.people):,} people from {' and '.join(names)}, streamed.", facts
