"""Train a face embedder by a recipe, on one CPU or many GPUs.

hfembed train faces --config quickstart
hfembed train faces --config face_softmax --learning_rate 0.05 --output_dir outputs/mine
hfembed train faces --config face_softmax --output_dir outputs/mine --resume
"""

import itertools
import logging
from collections.abc import Sequence
from typing import Any

import datasets
import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed

from hfembed.checkpoint.files import PEOPLE_FILE
from hfembed.checkpoint.people_file import write_people
from hfembed.errors import InputError
from hfembed.faces.data.aligned_faces import AlignedFaces
from hfembed.faces.data.collators import FaceCollator
from hfembed.faces.data.face_stream import FaceStream, PhotoSource
from hfembed.faces.data.frozen_features import FrozenFeatures
from hfembed.faces.data.lazy_faces import LazyFaces
from hfembed.faces.data.samplers import IdentityBatchSampler
from hfembed.faces.data.splits import hold_out_photos
from hfembed.faces.evaluation.identification import HeldOutIdentification
from hfembed.faces.training.losses import MetricLoss, classification_loss
from hfembed.faces.training.recipe import (
    KEPT_CROPS,
    FaceTrainingConfig,
    describe_faces,
    load_training_faces,
    load_validation,
    load_validation_sets,
    make_augmentation,
    make_model,
    make_processor,
    photo_facts,
)
from hfembed.faces.training.sharded_head import ShardedHead
from hfembed.faces.training.streaming import describe_stream, make_stream_sampler, open_stream
from hfembed.faces.training.validation import Validation
from hfembed.models.face_embedder.image_processing_face_embedder import FaceImageProcessor
from hfembed.models.face_embedder.modeling_face_embedder import FaceEmbedderForClassification
from hfembed.training.config import read_config
from hfembed.training.loop import Task, make_accelerator, shard, train
from hfembed.training.run import Run, training_program
from hfembed.training.samplers import KeyedBatchSampler, ShardedBatchSampler

logger = logging.getLogger(__name__)

CONFIG = FaceTrainingConfig
NAMED_FAILURES = 5
Photos = AlignedFaces | LazyFaces


@training_program
def main(arguments: Sequence[str] | None = None, faces: datasets.IterableDataset | None = None) -> None:
    """Recipe -> photos -> model -> loop -> a folder for `from_pretrained`.

    Args:
        arguments: The command line without the program's name; `sys.argv[1:]` when None.
        faces: With `streaming`: a stream to train from in place of the recipe's source.
    """
    config = read_config(FaceTrainingConfig, arguments, __doc__)
    if faces is not None and not config.streaming:
        raise InputError("a data set given in Python is streamed: set streaming")
    run = Run(config, "faces", make_accelerator(config))
    processor = make_processor(config)
    # a missing file is found before the long work
    validation, pair_sets = None if config.held_out else load_validation(config), load_validation_sets(config)
    photos, held_out = run.prepare(lambda: open_photos(config, processor, faces))
    if isinstance(photos, Photos):
        people = photos.identities
        run.describe_data(describe_faces(config, photos), **photo_facts(photos))
    else:
        people = list(photos.people)
        text, facts = describe_stream(config, photos, faces is not None)
        run.describe_data(text, **facts)

    set_seed(config.seed)
    model = make_model(config, people).to(memory_format=torch.channels_last)  # type: ignore[call-arg]
    unchanged = make_collator(config, processor, off=True)
    chooses = HeldOutIdentification(held_out, unchanged) if held_out else validation
    protocol = Validation(chooses, pair_sets) if chooses is not None or pair_sets else None
    features = frozen_features(config, model, photos, unchanged, run.accelerator.device)
    if config.imprint and protocol is not None:
        run.notes["start"] = protocol(model.to(run.accelerator.device).eval(), processor)
    head = make_sharded_head(config, model, len(people), run.accelerator) if config.has_sharded_head else None
    dataset, sampler = make_batches(config, photos, features, processor, shard(config, run.accelerator))
    train(
        run,
        Task(
            model=model,
            processor=processor,
            compute_loss=head or (classification_loss if config.objective == "classification" else MetricLoss(model)),
            dataset=dataset,
            sampler=sampler,
            collate=make_collator(config, processor) if features is None else None,
            evaluate=(lambda model: protocol(model, processor)) if protocol else None,
            evaluate_on_all_ranks=True,
            primary_metric=protocol.primary_metric if protocol else "",
            write_results=protocol.write_results if protocol else None,
            # too many names for config.json
            save_more=(lambda folder: write_people(folder / PEOPLE_FILE, people)) if model.config.num_people else None,
            head=head,
        ),
    )


@training_program
def prepare(arguments: Sequence[str] | None = None) -> None:
    """Look up the recipe's photos, align and keep their crops, or count its streams: the first step of a training."""
    config = read_config(FaceTrainingConfig, arguments, __doc__)
    photos, held_out = open_photos(config, make_processor(config), None)
    if not isinstance(photos, Photos):
        print(describe_stream(config, photos, False)[0])  # noqa: T201
        return
    count = len(photos) + (len(held_out) if held_out else 0)
    print(f"{count:,} photos of {len(photos.identities):,} people are ready to train on")  # noqa: T201


def open_photos(
    config: FaceTrainingConfig, processor: FaceImageProcessor, faces: datasets.IterableDataset | None
) -> tuple[Photos | PhotoSource, Photos | None]:
    """The photos to train on, looked up or streamed, and those held out."""
    return (open_stream(config, faces), None) if config.streaming else load_photos(config, processor)


def load_photos(config: FaceTrainingConfig, processor: FaceImageProcessor) -> tuple[Photos, Photos | None]:
    """The aligned photos to train on, and those held out."""
    faces = load_training_faces(config)
    if not config.held_out:
        return align(config, faces, processor), None
    faces, rest = hold_out_photos(faces, config.held_out_share, config.train_photos, config.seed)
    held_out = align(config, rest, processor)
    return align(config, faces, processor), held_out


def align(config: FaceTrainingConfig, faces: datasets.Dataset, processor: FaceImageProcessor) -> Photos:
    """Crops that are kept on disk, or made each time they are asked for, as `crop_cache` says."""
    if config.crop_cache == "no" or (config.crop_cache == "auto" and len(faces) > KEPT_CROPS):
        return LazyFaces(faces, processor, margin=config.frame_margin)
    crops = AlignedFaces(faces, processor, margin=config.frame_margin, num_workers=config.num_workers)
    for file, reason in itertools.islice(crops.failures.items(), NAMED_FAILURES):
        logger.warning("%s; it is left out", reason if file in reason else f"{file}: {reason}")
    return crops


def make_collator(config: FaceTrainingConfig, processor: FaceImageProcessor, off: bool = False) -> FaceCollator:
    """Cut batches out of crops with a margin, augmented unless it is off."""
    size = (processor.size["height"], processor.size["width"])
    return FaceCollator(processor, make_augmentation(config, size, off), None if off else config.noise_seed)


def frozen_features(
    config: FaceTrainingConfig,
    model: FaceEmbedderForClassification,
    photos: Photos | PhotoSource,
    unchanged: FaceCollator,
    device: torch.device,
) -> FrozenFeatures | None:
    """What the last layer is trained on where its trunk sees the same pixels every epoch; its start, if imprinted."""
    if not isinstance(photos, Photos) or not (config.imprint or config.features_once):
        return None
    embedder = model.embedder.to(device)  # type: ignore[arg-type]
    features = FrozenFeatures(
        photos, embedder, unchanged, noise=config.feature_noise, seed=config.seed, margin_seed=config.noise_seed
    )
    if config.imprint:
        model.cpu().imprint(features.features, torch.from_numpy(features.labels))
    return features if config.features_once else None


def make_sharded_head(
    config: FaceTrainingConfig, model: FaceEmbedderForClassification, people: int, accelerator: Accelerator
) -> ShardedHead:
    """A head whose class weights are split over the ranks."""
    return ShardedHead(model.config, people, config, config.sample_rate, accelerator.device)


def make_batches(
    config: FaceTrainingConfig,
    photos: Photos | PhotoSource,
    features: FrozenFeatures | None,
    processor: FaceImageProcessor,
    shard: dict[str, Any],
) -> tuple[torch.utils.data.Dataset, ShardedBatchSampler]:
    """What is trained on, and its batches."""
    if isinstance(photos, Photos):
        return photos if features is None else features, make_sampler(config, photos.labels, shard)
    sampler = make_stream_sampler(config, photos, shard)
    return FaceStream(photos, processor, config.frame_margin, sampler), sampler


def make_sampler(
    config: FaceTrainingConfig, labels: Sequence[int] | np.ndarray, shard: dict[str, Any]
) -> KeyedBatchSampler | IdentityBatchSampler:
    """Batches of samples at random, or of the same number of photos of each person."""
    if not config.photos_per_identity:
        return KeyedBatchSampler(len(labels), **shard)
    people = shard.pop("batch_size") // config.photos_per_identity
    return IdentityBatchSampler(labels, people, config.photos_per_identity, **shard)


if __name__ == "__main__":
    main()
