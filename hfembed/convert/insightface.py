"""IResNets and vision transformers of insightface: the backbones of its PyTorch trainer, as face embedder folders."""

import re
from collections.abc import Mapping
from pathlib import Path

import torch

from hfembed.atomic import check_destination
from hfembed.convert.batch_norms import EPS
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
from hfembed.models.face_embedder.configuration_face_embedder import FaceEmbedderConfig
from hfembed.models.face_embedder.image_processing_face_embedder import FaceImageProcessor
from hfembed.models.face_embedder.modeling_face_embedder import FaceEmbedderModel
from hfembed.models.face_embedder.vit import VITS

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
# our module -> its module, of the vision transformer; the blocks' after `trunk.blocks.<block>.` and `blocks.<block>.`
_VIT_MODULES = {
    "trunk.patches": "patch_embed.proj",
    "trunk.norm": "norm",
    "trunk.merge": "feature.0",
    "trunk.merge_norm": "feature.1",
    "projection": "feature.2",
    "norm": "feature.3",
}
_VIT_BLOCK_MODULES = {
    "norm1": "norm1",
    "attention.queries_keys_values": "attn.qkv",
    "attention.output": "attn.proj",
    "norm2": "norm2",
    "expand": "mlp.fc1",
    "contract": "mlp.fc2",
}
_VIT_HEADS = 8  # of all of them; weights do not show it
_VIT_EPS = 2e-5  # of its BatchNorms
_BLOCK = re.compile(r"layer(\d{1,2})\.(\d{1,3})\.conv2\.weight")


def convert_insightface(source: str, destination: str | Path, overwrite: bool = False) -> FaceEmbedderModel:
    """Turn an IResNet or a vision transformer of insightface into a folder that `from_pretrained` reads."""
    check_destination(destination, overwrite)
    file = find_file(source)
    if file.suffix == ".onnx":
        with reading(source, "IResNet"):
            model = read_iresnet_onnx(file, source)
    else:
        tensors = read_state_dict(file, source)
        model = (arcface_vit if "patch_embed.proj.weight" in tensors else arcface_iresnet)(tensors, source)
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


def arcface_vit(tensors: Mapping[str, torch.Tensor], source: str) -> FaceEmbedderModel:
    """The face embedder of a state dict with the names of arcface_torch's vision transformer.

    Its token for masked patches, which is used in training alone, is left out.
    """
    layout = "a vision transformer of arcface_torch"
    tensors = {key: value for key, value in tensors.items() if key != "mask_token"}
    blocks = {int(number) for key in tensors for number in re.findall(r"^blocks\.(\d{1,3})\.attn\.qkv\.weight$", key)}
    missing = [key for key in ("pos_embed", "feature.2.weight") if key not in tensors]
    if missing or blocks != set(range(len(blocks))) or not blocks:
        raise InputError(f"{source} is not {layout}: {missing or 'blocks'} missing; it has {_some(tensors)}")
    width, _, patch_size = tensors["patch_embed.proj.weight"].shape[:3]
    tokens = tensors["pos_embed"].shape[1]
    side = 112 if (112 // patch_size) ** 2 == tokens else patch_size * round(tokens**0.5)
    sizes = {"width": width, "depth": len(blocks)}
    names = [name for name, known in VITS.items() if known == sizes and patch_size == 9]
    sizes |= {"num_heads": _VIT_HEADS, "patch_size": patch_size}
    config = FaceEmbedderConfig(
        trunk=names[0] if names else "vit",
        trunk_arguments={} if names else sizes,
        image_size=[side, side],
        embedding_size=len(tensors["feature.2.weight"]),
    )
    try:
        model = FaceEmbedderModel(config)
    except ValueError as error:
        raise InputError(f"{source} is not {layout}: {error}") from error
    ours = weights_of(model)
    keys = {key: _foreign_vit_key(key) for key in ours}
    check_layout(tensors, {theirs: ours[key].shape for key, theirs in keys.items()}, source, layout)
    weights = {key: tensors[theirs] for key, theirs in keys.items()}
    for norm in ("trunk.merge_norm", "norm"):
        weights[f"{norm}.running_var"] = weights[f"{norm}.running_var"] + (_VIT_EPS - EPS)
    fill(model, weights)
    return model


def _foreign_vit_key(key: str) -> str:
    module, _, parameter = key.rpartition(".")
    if key == "trunk.positions":
        return "pos_embed"
    if module in _VIT_MODULES:
        return f"{_VIT_MODULES[module]}.{parameter}"
    _, _, block, inside = module.split(".", 3)
    return f"blocks.{block}.{_VIT_BLOCK_MODULES[inside]}.{parameter}"


def _foreign_key(key: str) -> str:
    module, _, parameter = key.rpartition(".")
    if module in _MODULES:
        return f"{_MODULES[module]}.{parameter}"
    _, _, stage, block, inside = module.split(".", 4)
    return f"layer{int(stage) + 1}.{block}.{_BLOCK_MODULES[inside]}.{parameter}"


def _some(tensors: Mapping[str, torch.Tensor]) -> str:
    return ", ".join(list(tensors)[:3]) + (", ..." if len(tensors) > 3 else "")
