"""IResNets of AdaFace and of CVLFace, which share the names of their layers, as face embedder folders."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch

from hfembed.atomic import check_destination
from hfembed.convert.batch_norms import unscaled_norm
from hfembed.convert.foreign_checkpoint import (
    check_layout,
    fill,
    find_beside,
    find_file,
    read_state_dict,
    weights_of,
    write_checkpoint,
)
from hfembed.convert.insightface import arcface_iresnet
from hfembed.convert.iresnet import iresnet_config
from hfembed.errors import InputError, counted
from hfembed.models.face_embedder.image_processing_face_embedder import FaceImageProcessor
from hfembed.models.face_embedder.modeling_face_embedder import FaceEmbedderModel

ADAFACE = "mk-minchul/AdaFace"
CVLFACE = "mk-minchul/CVLface"
NOTE = "The data is what the file's name says (CASIA-WebFace, MS1MV2, WebFace ...); the code is under the MIT license."

_COLOR_SPACE = re.compile(r"^color_space:[ \t]*['\"]?(rgb|bgr)['\"]?[ \t]*$", re.IGNORECASE | re.MULTILINE)
_MAX_SETTINGS_BYTES = 1 << 20

# our module -> its module
_MODULES = {
    "trunk.stem.0": "input_layer.0",
    "trunk.stem.1": "input_layer.1",
    "trunk.stem.2": "input_layer.2",
    "trunk.norm": "output_layer.0",
    "projection": "output_layer.3",
    "norm": "output_layer.4",
}
# the same within a block, after `trunk.stages.<stage>.<block>.` and `body.<index>.`
_BLOCK_MODULES = {
    "norm1": "res_layer.0",
    "conv1": "res_layer.1",
    "norm2": "res_layer.2",
    "activation": "res_layer.3",
    "conv2": "res_layer.4",
    "norm3": "res_layer.5",
    "activation2": "res_layer.6",
    "conv3": "res_layer.7",
    "norm4": "res_layer.8",
    "se.squeeze": "res_layer.se_block.fc1",
    "se.excite": "res_layer.se_block.fc2",
    "shortcut.0": "shortcut_layer.0",
    "shortcut.1": "shortcut_layer.1",
}


def convert_adaface(source: str, destination: str | Path, overwrite: bool = False) -> FaceEmbedderModel:
    """Turn an IResNet of AdaFace into a folder that `from_pretrained` reads; its processor makes the colors BGR."""
    check_destination(destination, overwrite)
    file = find_file(source)
    tensors = _below(read_state_dict(file, source), "model.")
    model = _adaface_iresnet(tensors, source, f"an IResNet of {ADAFACE}")
    processor = FaceImageProcessor(size=model.config.image_size, color="bgr", image_mean=0.5, image_std=0.5)
    write_checkpoint(destination, model, processor, [file], ADAFACE, NOTE)
    return model


def convert_cvlface(
    source: str, destination: str | Path, overwrite: bool = False, color: Literal["rgb", "bgr"] | None = None
) -> FaceEmbedderModel:
    """Turn an IResNet of CVLFace into a folder that `from_pretrained` reads."""
    check_destination(destination, overwrite)
    file = find_file(source, ("pretrained_model/model.pt", "model.pt", "model.safetensors"))
    tensors = _below(_below(read_state_dict(file, source), "model."), "net.")
    order = color or _color_beside(source, file)
    if "conv1.weight" in tensors:
        model = arcface_iresnet(tensors, source)
    else:
        model = _adaface_iresnet(tensors, source, f"an IResNet of {CVLFACE}")
    processor = FaceImageProcessor(size=model.config.image_size, color=order, image_mean=0.5, image_std=0.5)
    write_checkpoint(destination, model, processor, [file], CVLFACE, NOTE)
    return model


def _below(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """Those under a prefix, without it; all where it is not used. A training head beside the network is left out."""
    below = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    return below or tensors


def _color_beside(source: str, file: Path) -> str:
    for name in ("pretrained_model/model.yaml", "model.yaml"):
        settings = find_beside(source, file, name)
        if settings is None:
            continue
        # its networks swap the channels themselves where the file says BGR; one line is read, no YAML is parsed
        written = _COLOR_SPACE.search(settings.read_bytes()[:_MAX_SETTINGS_BYTES].decode("utf-8", "replace"))
        if written:
            return written[1].lower()
    raise InputError(f"{source} has no model.yaml with a color_space beside it: say --color rgb or --color bgr")


def _adaface_iresnet(tensors: Mapping[str, torch.Tensor], source: str, layout: str) -> FaceEmbedderModel:
    blocks = sorted({int(index) for key in tensors for index in re.findall(r"^body\.(\d{1,4})\.", key)})
    needed = [f"body.{index}.res_layer.{layer}.weight" for index in range(max(len(blocks), 1)) for layer in (0, 1)]
    missing = [key for key in ("input_layer.0.weight", *needed, "output_layer.3.weight") if key not in tensors]
    if missing:
        raise InputError(
            f"{source} is not {layout}: it lacks {counted(len(missing), 'weight')} ({', '.join(missing[:3])})"
        )
    # IR-152 and IR-200 have three convolutions per block
    has_bottlenecks = tensors["body.0.res_layer.1.weight"].shape[2:] == (1, 1)
    last = 7 if has_bottlenecks else 4
    # a stage begins where the channels change; the first one does not change them
    depths: list[int] = []
    widths: list[int] = []
    for index in blocks:
        before = tensors[f"body.{index}.res_layer.1.weight"].shape[1]
        if f"body.{index}.res_layer.{last}.weight" not in tensors:
            raise InputError(f"{source} is not {layout}: it lacks body.{index}.res_layer.{last}.weight")
        after = len(tensors[f"body.{index}.res_layer.{last}.weight"])
        if index == 0 or after != before:
            depths.append(0)
            widths.append(after)
        depths[-1] += 1
    embedding_size, features = tensors["output_layer.3.weight"].shape
    use_se = "body.0.res_layer.se_block.fc1.weight" in tensors
    stem = len(tensors["input_layer.0.weight"]) if has_bottlenecks else None
    model = FaceEmbedderModel(iresnet_config(depths, widths, features // widths[-1], embedding_size, use_se, stem))

    ours = weights_of(model)
    given = _what_the_file_lacks(model, "body.0.shortcut_layer.0.weight" in tensors)
    first_of_stage = [sum(depths[:stage]) for stage in range(len(depths))]
    keys = {key: _foreign_key(key, first_of_stage) for key in ours if key not in given}
    shapes = {theirs: ours[key].shape for key, theirs in keys.items()} | {"output_layer.3.bias": (embedding_size,)}
    check_layout(tensors, shapes, source, layout)
    weights = given | {key: tensors[theirs] for key, theirs in keys.items()}
    # BatchNorm subtracts the mean: W x + b with mean m is W x with mean m - b
    weights["norm.running_mean"] = weights["norm.running_mean"] - tensors["output_layer.3.bias"]
    fill(model, weights)
    return model


def _what_the_file_lacks(model: FaceEmbedderModel, has_first_shortcut: bool) -> dict[str, torch.Tensor]:
    """Layers missing from the file, set to identity."""
    size = model.config.embedding_size
    given = {"norm.weight": torch.ones(size), "norm.bias": torch.zeros(size)}
    if not has_first_shortcut:  # the first block takes every second pixel where ours convolves
        first = "trunk.stages.0.0.shortcut"
        channels = len(model.trunk.stages[0][0].shortcut[0].weight)
        given[f"{first}.0.weight"] = torch.eye(channels)[:, :, None, None]
        given |= {f"{first}.1.{name}": value for name, value in unscaled_norm(channels).items()}
    # its gates have no bias, and ReLU: PReLU of slope 0
    for key, value in weights_of(model).items():
        if key.endswith((".se.squeeze.bias", ".se.excite.bias", ".se.activation.weight")):
            given[key] = torch.zeros_like(value)
    return given


def _foreign_key(key: str, first_of_stage: list[int]) -> str:
    module, _, parameter = key.rpartition(".")
    if module in _MODULES:
        return f"{_MODULES[module]}.{parameter}"
    _, _, stage, block, inside = module.split(".", 4)
    return f"body.{first_of_stage[int(stage)] + int(block)}.{_BLOCK_MODULES[inside]}.{parameter}"
