"""Face recognition networks on timm's architectures (`gaunernst/*` on the Hub), as face embedder folders."""

import json
from pathlib import Path
from typing import Any

import timm

from hfembed.atomic import check_destination
from hfembed.convert.foreign_checkpoint import (
    check_layout,
    fill,
    find_beside,
    find_file,
    read_state_dict,
    weights_of,
    write_checkpoint,
)
from hfembed.errors import InputError
from hfembed.models.face_embedder.configuration_face_embedder import FaceEmbedderConfig
from hfembed.models.face_embedder.image_processing_face_embedder import FaceImageProcessor
from hfembed.models.face_embedder.modeling_face_embedder import FaceEmbedderModel

TRAINER = "gau-nernst/timm-face"
NOTE = "That trainer's data is MS1MV3, by the repository's name; a set for research only."


def convert_timm_face(source: str, destination: str | Path, overwrite: bool = False) -> FaceEmbedderModel:
    """Turn a timm-face checkpoint into a folder that `from_pretrained` reads.

    What timm takes for a classifier over 512 classes is the embedding there; `AutoModel` leaves it out without a word.

    Args:
        source: A folder or `<owner>/<name>` as timm's `push_to_hf_hub` makes them: config.json, model.safetensors or
            pytorch_model.bin.
        destination: The folder to write.
        overwrite: Replace what is there.

    Returns:
        The model that was written.

    Raises:
        InputError: The source is missing or damaged, has no config.json of timm, or weights that do not fit it; the
            destination is taken.
        OSError: The folder cannot be written.
    """
    check_destination(destination, overwrite)
    file = find_file(source, ("model.safetensors", "pytorch_model.bin"))
    settings = _read_settings(source, file)
    tensors = read_state_dict(file, source)
    architecture, embedding_size = settings["architecture"], settings["num_classes"]
    if not timm.is_model(architecture):
        raise InputError(f"{source}: this version of timm has no architecture '{architecture}'")
    arguments = dict(settings.get("model_args", {}))
    # config.json may keep the input size and normalisation of timm's own weights: that trainer's are these
    size = arguments.get("img_size", 112)
    height, width = (size, size) if isinstance(size, int) else size
    for ours in ("num_classes", "in_chans", "img_size"):
        arguments.pop(ours, None)
    config = FaceEmbedderConfig(
        trunk=f"timm/{architecture}",
        trunk_arguments=arguments,
        image_size=[height, width],
        embedding_size=embedding_size,
        bn_neck=False,
    )
    try:
        model = FaceEmbedderModel(config)
    except (TypeError, ValueError, AssertionError) as error:  # what timm's networks raise for arguments not theirs
        raise InputError(f"{source}: {architecture} cannot be built with {arguments}: {error}") from error

    head = timm.get_pretrained_cfg(architecture).classifier
    keys = {key: _foreign_key(key, head) for key in weights_of(model)}
    shapes = {keys[key]: value.shape for key, value in weights_of(model).items()}
    check_layout(tensors, shapes, source, f"a {architecture} with an embedding of {embedding_size}")
    fill(model, {key: tensors[theirs] for key, theirs in keys.items()})
    processor = FaceImageProcessor(size=[height, width], image_mean=0.5, image_std=0.5)
    write_checkpoint(destination, model, processor, [file], TRAINER, NOTE)
    return model


def _read_settings(source: str, file: Path) -> dict[str, Any]:
    path = find_beside(source, file, "config.json")
    if path is None:
        raise InputError(f"{source} has no config.json of timm beside the weights: name the folder or <owner>/<name>")
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"config.json of {source} is not JSON ({error}): fetch it again") from error
    if not isinstance(settings, dict) or "architecture" not in settings or not settings.get("num_classes"):
        raise InputError(f"config.json of {source} is none of timm with an architecture and num_classes")
    return settings


def _foreign_key(key: str, head: str) -> str:
    if key.startswith("projection."):
        return head + key.removeprefix("projection")
    return key.removeprefix("trunk.backbone.")
