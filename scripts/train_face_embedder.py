"""Train a face embedder by a recipe, on one CPU or many GPUs.

accelerate launch scripts/train_face_embedder.py --config hfembed/recipes/quickstart.yaml
accelerate launch scripts/train_face_embedder.py --config FILE --learning_rate 0.05 --output_dir outputs/mine
accelerate launch scripts/train_face_embedder.py --config FILE --output_dir outputs/mine --resume
"""

from pathlib import Path

import torch
from accelerate.utils import set_seed
from transformers import PreTrainedModel

from hfembed.checkpoint.card import write_card
from hfembed.errors import exit_on_input_error
from hfembed.faces.data.aligned_faces import AlignedFaces
from hfembed.faces.data.collators import FaceCollator
from hfembed.faces.data.frozen_features import FrozenFeatures
from hfembed.faces.data.samplers import IdentityBatchSampler
from hfembed.faces.data.splits import hold_out_photos
from hfembed.faces.evaluation.identification import HeldOutIdentification
from hfembed.faces.training.losses import MetricLoss, classification_loss
from hfembed.faces.training.recipe import (
    FaceTrainingConfig,
    describe_faces,
    load_training_faces,
    load_validation,
    make_augmentation,
    make_model,
    make_processor,
)
from hfembed.training.config import read_config
from hfembed.training.loop import make_accelerator, samples_per_round, train
from hfembed.training.record import TrainingRecord
from hfembed.training.samplers import KeyedBatchSampler
from hfembed.training.sharing import HubSharing


@exit_on_input_error
def main() -> None:
    """Recipe -> photos -> model -> loop -> a folder for `from_pretrained`."""
    config = read_config(FaceTrainingConfig, description=__doc__)
    accelerator = make_accelerator(config)
    batch_size = samples_per_round(config, accelerator)
    processor = make_processor(config)
    size = (processor.size["height"], processor.size["width"])
    as_it_is = FaceCollator(processor, make_augmentation(config, size, off=True))
    augmented = FaceCollator(processor, make_augmentation(config, size))

    held_out = None
    with accelerator.main_process_first():
        faces = load_training_faces(config)
        if config.held_out:
            faces, rest = hold_out_photos(faces, config.held_out_share, config.train_photos, config.seed)
            held_out = AlignedFaces(rest, processor, margin=config.frame_margin, num_workers=config.num_workers)
        photos = AlignedFaces(faces, processor, margin=config.frame_margin, num_workers=config.num_workers)
    accelerator.print(
        f"{len(photos)} photos of {len(photos.identities)} people; batches of {config.batch_size} "
        f"on {accelerator.num_processes} rank(s), {accelerator.device.type}"
    )

    set_seed(config.seed)
    model = make_model(config, photos.identities).to(memory_format=torch.channels_last)
    dataset, collate = photos, augmented
    if config.imprint or config.features_once:
        embedder = model.embedder.to(accelerator.device)
        features = FrozenFeatures(photos, embedder, as_it_is, noise=config.feature_noise, seed=config.seed)
        if config.imprint:
            model.cpu().imprint(features.features, torch.from_numpy(features.labels))
        if config.features_once:
            dataset, collate = features, None

    if config.photos_per_identity:
        people = batch_size // config.photos_per_identity
        sampler = IdentityBatchSampler(
            dataset.labels, people, config.photos_per_identity,
            seed=config.seed, rank=accelerator.process_index, world_size=accelerator.num_processes,
        )  # fmt: skip
    else:
        sampler = KeyedBatchSampler(
            len(dataset), batch_size,
            seed=config.seed, rank=accelerator.process_index, world_size=accelerator.num_processes,
        )  # fmt: skip

    protocol = HeldOutIdentification(held_out, as_it_is) if config.held_out else load_validation(config)
    record = TrainingRecord(config, photos, describe_faces(config, photos), accelerator)
    sharing = HubSharing(config, config.output_dir, accelerator.print)

    def evaluate(model: PreTrainedModel) -> dict[str, float]:
        return protocol(model, processor)

    def save(model: PreTrainedModel, folder: Path) -> None:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)

    if config.imprint and protocol is not None and accelerator.is_main_process:
        record.start = evaluate(model.to(accelerator.device).eval())
        accelerator.print(f"imprinted: {protocol.primary_metric} {record.start[protocol.primary_metric]:.2f}")
    metrics = train(
        config,
        accelerator,
        model,
        classification_loss if config.objective == "classification" else MetricLoss(model),
        dataset,
        sampler,
        collate,
        save,
        None if protocol is None else evaluate,
        primary_metric="" if protocol is None else protocol.primary_metric,
        sharing=sharing,
    )
    if accelerator.is_main_process:
        record.write(metrics)
        card = write_card(config.output_dir)
        accelerator.print(f"the model is in {config.output_dir}, its card is {card}")
        sharing.push_result()


if __name__ == "__main__":
    main()
