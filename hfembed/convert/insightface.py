"""IResNets of insightface: the backbones of its PyTorch trainer (.pth), as face embedder folders."""

import re
from collections.abc import Mapping
from pathlib import Path

import torch

from hfembed.atomic import check_destination
from hfembed.convert.foreign_checkpoint import (
    check_layout,
    fill,
    find_file,
    read_state_dict,
    reading,
    weights_of,
    write_checkpoint,
)
from hfembed.convert.iresnet import iresnet_config
from hfembed.convert.iresnet_onnx import read_iresnet_onnx
from hfembed.errors import InputError
from hfembed.models.face_embedder.image_processing_face_embedder import FaceImageProcessor
from hfembed.models.face_embedder.modeling_face_embedder import FaceEmbedderModel

TRAINER = "deepinsight/insightface, recognition/arcface_torch"
NOTE = (
    "The data is what the file's name says (MS1MV3, Glint360K, WebFace ...); insightface gives its trained models for "
    "non-commercial research only."
)

# our module -> its module
_MODULES = {
    "trunk.stem.0": "conv1",
    "trunk.stem.1": "bn1",
    "trunk.stem.2": "prelu",
    "trunk.norm": "bn2",
    "projection": "fc",
    "norm": "features",
}
# the same within a block, after `trunk.stages.<stage>.<block>.` and `layer<stage + 1>.<block>.`
_BLOCK_MODULES = {
    "norm1": "bn1",
    "conv1": "conv1",
    "norm2": "bn2",
    "activation": "prelu",
    "conv2": "conv2",
    "norm3": "bn3",
    "shortcut.0": "downsample.0",
    "shortcut.1": "downsample.1",
}
_BLOCK = re.compile(r"layer(\d{1,2})\.(\d{1,3})\.conv2\.weight")


def convert_insightface(source: str, destination: str | Path, overwrite: bool = False) -> FaceEmbedderModel:
    """Turn an IResNet of insightface into a folder that `from_pretrained` reads."""
    check_destination(destination, overwrite)
    file = find_file(source)
    if file.suffix == ".onnx":
        with reading(source, "IResNet"):
            model = read_iresnet_onnx(file, source)
    else:
        model = arcface_iresnet(read_state_dict(file, source), source)
    # (x - 127.5) / 127.5
    processor = FaceImageProcessor(size=model.config.image_size, image_mean=0.5, image_std=0.5)
    write_checkpoint(destination, model, processor, [file], TRAINER, NOTE)
    return model


def arcface_iresnet(tensors: Mapping[str, torch.Tensor], source: str) -> FaceEmbedderModel:
    """The face embedder of a state dict with arcface_torch's names."""
    layout = "an IResNet of arcface_torch"
    blocks = {(int(stage), int(block)): key for key in tensors for stage, block in _BLOCK.findall(key)}
    if not blocks or "fc.weight" not in tensors:
        raise InputError(f"{source} is not {layout}: no layer1.0.conv2.weight or fc.weight; it has {_some(tensors)}")
    stages = max(stage for stage, _ in blocks)
    depths = [sum(stage == number for number, _ in blocks) for stage in range(1, stages + 1)]
    if any((stage, block) not in blocks for stage, depth in enumerate(depths, 1) for block in range(max(depth, 1))):
        raise InputError(f"{source} is not {layout}: blocks are missing between {min(blocks)} and {max(blocks)}")
    widths = [len(tensors[blocks[stage, 0]]) for stage in range(1, stages + 1)]
    embedding_size, features = tensors["fc.weight"].shape
    model = FaceEmbedderModel(iresnet_config(depths, widths, features // widths[-1], embedding_size))

    ours = weights_of(model)
    keys = {key: _foreign_key(key) for key in ours}
    shapes = {theirs: ours[key].shape for key, theirs in keys.items()} | {"fc.bias": (embedding_size,)}
    check_layout(tensors, shapes, source, layout)
    weights = {key: tensors[theirs] for key, theirs in keys.items()}
    # BatchNorm subtracts the mean: W x + b with mean m is W x with mean m - b
    weights["norm.running_mean"] = weights["norm.running_mean"] - tensors["fc.bias"]
    fill(model, weights)
    return model


def _foreign_key(key: str) -> str:
    module, _, parameter = key.rpartition(".")
    if module in _MODULES:
        return f"{_MODULES[module]}.{parameter}"
    _, _, stage, block, inside = module.split(".", 4)
    return f"layer{int(stage) + 1}.{block}.{_BLOCK_MODULES[inside]}.{parameter}"


def _some(tensors: Mapping[str, torch.Tensor]) -> str:
    return ", ".join(list(tensors)[:3]) + (", ..." if len(tensors) > 3 else "")
