"""Face recognition networks on timm's architectures (`gaunernst/*` on the Hub), as face embedder folders."""

import json
from pathlib import Path
from typing import Any

import timm
from huggingface_hub.errors import StrictDataclassError

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
from hfembed.errors import InputError, first_line
from hfembed.models.face_embedder.configuration_face_embedder import FaceEmbedderConfig
from hfembed.models.face_embedder.image_processing_face_embedder import FaceImageProcessor
from hfembed.models.face_embedder.modeling_face_embedder import FaceEmbedderModel

TRAINER = "gau-nernst/timm-face"
NOTE = "That trainer's data is MS1MV3, by the repository's name; a set for research only."


def convert_timm_face(source: str, destination: str | Path, overwrite: bool = False) -> FaceEmbedderModel:
    """Turn a timm-face checkpoint into a folder that `from_pretrained` reads.

    What timm takes for a classifier over 512 classes is the embedding there; `AutoModel` leaves it out without a word.
    """
    check_destination(destination, overwrite)
    file = find_file(source, ("model.safetensors", "pytorch_model.bin"))
    settings = _read_settings(source, file)
    tensors = read_state_dict(file, source)
    architecture, embedding_size = settings["architecture"], settings["num_classes"]
    if not timm.is_model(architecture):
        raise InputError(f"{source}: this version of timm has no architecture '{architecture}'")
    arguments = dict(settings["model_args"])
    # config.json may keep the input size and normalization of timm's own weights: that trainer's are these
    size = arguments.get("img_size", 112)
    image_size = [size, size] if isinstance(size, int) else size
    for ours in ("num_classes", "in_chans", "img_size"):
        arguments.pop(ours, None)
    try:
        config = FaceEmbedderConfig(
            trunk=f"timm/{architecture}",
            trunk_arguments=arguments,
            image_size=image_size,
            embedding_size=embedding_size,
            bn_neck=False,
        )
        model = FaceEmbedderModel(config)
    # what the config and timm's networks raise for arguments that are not theirs
    except (TypeError, ValueError, AssertionError, StrictDataclassError) as error:
        reason = first_line(error.__cause__ or error)
        raise InputError(f"{source}: {architecture} cannot be built with {arguments}: {reason}") from error

    pretrained_cfg = timm.get_pretrained_cfg(architecture)
    head = str(pretrained_cfg.classifier) if pretrained_cfg else "head"
    keys = {key: _foreign_key(key, head) for key in weights_of(model)}
    shapes = {keys[key]: value.shape for key, value in weights_of(model).items()}
    check_layout(tensors, shapes, source, f"a {architecture} with an embedding of {embedding_size}")
    fill(model, {key: tensors[theirs] for key, theirs in keys.items()})
    processor = FaceImageProcessor(size=config.image_size, image_mean=0.5, image_std=0.5)
    write_checkpoint(destination, model, processor, [file], TRAINER, NOTE)
    return model


def _read_settings(source: str, file: Path) -> dict[str, Any]:
    path = find_beside(source, file, "config.json")
    if path is None:
        raise InputError(f"{source} has no config.json of timm beside the weights: name the folder or <owner>/<name>")
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"config.json of {source} is not JSON ({first_line(error)}); fetch it again") from error
    expected = {"architecture": str, "num_classes": int}
    if not isinstance(settings, dict) or any(type(settings.get(key)) is not kind for key, kind in expected.items()):
        raise InputError(f"config.json of {source} is not timm's: it lacks an architecture and num_classes")
    if not isinstance(settings.setdefault("model_args", {}), dict):
        raise InputError(f"config.json of {source}: model_args must be an object")
    return settings


def _foreign_key(key: str, head: str) -> str:
    if key.startswith("projection."):
        return head + key.removeprefix("projection")
    return key.removeprefix("trunk.backbone.")
