"""Train a face embedder by a recipe, on one CPU or many GPUs.

    accelerate launch scripts/train_face_embedder.py --config scripts/recipes/quickstart.yaml
    accelerate launch scripts/train_face_embedder.py --config FILE --learning_rate 0.05 --output_dir outputs/mine
    accelerate launch scripts/train_face_embedder.py --config FILE --resume
"""

from pathlib import Path

import torch
from accelerate.utils import set_seed
from transformers import AutoImageProcessor, PreTrainedModel

from hfembed.data.aligned_faces import AlignedFaces
from hfembed.data.collators import FaceCollator
from hfembed.data.samplers import IdentityBatchSampler, KeyedBatchSampler
from hfembed.errors import exit_on_input_error
from hfembed.training.config import read_config
from hfembed.training.face_training import (
    FaceTrainingConfig,
    MetricLoss,
    add_margin,
    classification_loss,
    imprint,
    load_training_faces,
    load_validation,
    make_augmentation,
    make_processor,
    resolve_path,
    start_model,
    write_card,
)
from hfembed.training.loop import make_accelerator, samples_per_round, train


@exit_on_input_error
def main() -> None:
    """Recipe -> data -> model -> loop -> a folder for `from_pretrained`."""
    config = read_config(FaceTrainingConfig, description=__doc__)
    accelerator = make_accelerator(config)
    round_size = samples_per_round(config, accelerator)

    if config.init_from:
        processor = AutoImageProcessor.from_pretrained(resolve_path(config.data_dir, config.init_from))
    else:
        processor = make_processor(config)
    with accelerator.main_process_first():
        faces = load_training_faces(config)
        dataset = AlignedFaces(faces, add_margin(processor, config.frame_margin), num_workers=config.num_workers)
        validation = load_validation(config, processor)
    people = faces.features["label"].names
    accelerator.print(f"{len(dataset)} photos of {len(people)} people; batches of {config.batch_size}")

    set_seed(config.seed)
    model = start_model(config, people)
    if config.imprint:
        imprint(model, dataset, FaceCollator(processor, make_augmentation(config, still=True)))
    ranks = {"rank": accelerator.process_index, "world_size": accelerator.num_processes, "seed": config.seed}
    if config.photos_per_identity:
        identities = round_size // config.photos_per_identity
        sampler = IdentityBatchSampler(dataset.labels, identities, config.photos_per_identity, **ranks)
    else:
        sampler = KeyedBatchSampler(len(dataset), round_size, **ranks)

    def save(model: PreTrainedModel, folder: Path) -> None:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)

    def evaluate(model: PreTrainedModel) -> dict[str, float]:
        return validation(model, processor)

    metrics = train(
        config,
        accelerator,
        model.to(memory_format=torch.channels_last),
        classification_loss if config.objective == "classification" else MetricLoss(model),
        dataset,
        sampler,
        FaceCollator(processor, make_augmentation(config)),
        save,
        evaluate if validation is not None else None,
        primary_metric=validation.primary_metric if validation is not None else "loss",
    )
    if accelerator.is_main_process:
        write_card(config, faces, metrics)
        accelerator.print(f"the model is in {config.output_dir}")


if __name__ == "__main__":
    main()
