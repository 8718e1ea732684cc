"""MobileFaceNet checkpoints of two public PyTorch trainers, as face embedder folders."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hfembed.atomic import check_destination
from hfembed.convert.foreign_checkpoint import (
    check_layout,
    fill,
    find_file,
    read_state_dict,
    weights_of,
    write_checkpoint,
)
from hfembed.models.face_embedder.configuration_face_embedder import FaceEmbedderConfig
from hfembed.models.face_embedder.image_processing_face_embedder import FaceImageProcessor
from hfembed.models.face_embedder.modeling_face_embedder import FaceEmbedderModel

# blocks in each of our stages; the foreign files count all fifteen through
_STAGE_DEPTHS = (5, 1, 6, 1, 2)


@dataclass(frozen=True)
class Layout:
    """How one trainer names the parts, and how it shows faces to the network."""

    trainer: str
    modules: dict[str, str]
    block_modules: dict[str, str]
    blocks: str
    projection_bias: str | None
    config: dict[str, Any]
    processor: dict[str, Any]
    note: str

    def foreign_keys(self, our_keys: list[str]) -> dict[str, str]:
        """Our state dict's keys -> the foreign file's."""
        modules = dict(self.modules)
        index = 0
        for stage, depth in enumerate(_STAGE_DEPTHS):
            for block in range(depth):
                for ours, theirs in self.block_modules.items():
                    modules[f"trunk.stages.{stage}.{block}.{ours}"] = f"{self.blocks}.{index}.{theirs}"
                index += 1
        split = {key: key.rpartition(".") for key in our_keys}
        return {key: f"{modules[module]}.{parameter}" for key, (module, _, parameter) in split.items()}


XIAOCCER = Layout(
    trainer="Xiaoccer/MobileFaceNet_Pytorch",
    modules={
        "trunk.stem.0.conv": "conv1.conv",
        "trunk.stem.0.norm": "conv1.bn",
        "trunk.stem.0.activation": "conv1.prelu",
        "trunk.stem.1.conv": "dw_conv1.conv",
        "trunk.stem.1.norm": "dw_conv1.bn",
        "trunk.stem.1.activation": "dw_conv1.prelu",
        "trunk.expand.conv": "conv2.conv",
        "trunk.expand.norm": "conv2.bn",
        "trunk.expand.activation": "conv2.prelu",
        "pooling.conv": "linear7.conv",
        "pooling.norm": "linear7.bn",
        "projection": "linear1.conv",
        "norm": "linear1.bn",
    },
    block_modules={
        "expand.conv": "conv.0",
        "expand.norm": "conv.1",
        "expand.activation": "conv.2",
        "depthwise.conv": "conv.3",
        "depthwise.norm": "conv.4",
        "depthwise.activation": "conv.5",
        "project": "conv.6",
        "norm": "conv.7",
    },
    blocks="blocks",
    projection_bias=None,
    config={"image_size": [112, 96], "mirror": "concatenate"},
    processor={"size": [112, 96], "image_mean": 0.5, "image_std": 128 / 255},
    note="That trainer's data is CASIA-WebFace; its repository states no license for the weights.",
)

FOAMLIU = Layout(
    trainer="foamliu/MobileFaceNet",
    modules={
        "trunk.stem.0.conv": "conv1.0",
        "trunk.stem.0.norm": "conv1.1",
        "trunk.stem.1.conv": "dw_conv.depthwise",
        "trunk.stem.1.norm": "dw_conv.bn1",
        "trunk.stem.2.conv": "dw_conv.pointwise",
        "trunk.stem.2.norm": "dw_conv.bn2",
        "trunk.expand.conv": "conv2.0",
        "trunk.expand.norm": "conv2.1",
        "pooling.conv": "gdconv.depthwise",
        "pooling.norm": "gdconv.bn",
        "projection": "conv3",
        "norm": "bn",
    },
    block_modules={
        "expand.conv": "conv.0.0",
        "expand.norm": "conv.0.1",
        "depthwise.conv": "conv.1.0",
        "depthwise.norm": "conv.1.1",
        "project": "conv.2",
        "norm": "conv.3",
    },
    blocks="features",
    projection_bias="conv3.bias",
    config={
        "trunk_arguments": {"activation": "relu6", "stem": "separable", "stem_activation": "relu"},
        "image_size": [112, 112],
        "mirror": "sum",
    },
    processor={
        "size": [112, 112],
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    },
    note="That trainer's data is a refined MS-Celeb-1M; its repository is under Apache-2.0.",
)

LAYOUTS = (XIAOCCER, FOAMLIU)


def convert_mobilefacenet(source: str, destination: str | Path, overwrite: bool = False) -> Layout:
    """Turn a foreign MobileFaceNet file into a folder that `from_pretrained` reads.

    The folder holds config.json, model.safetensors, preprocessor_config.json, training.json (where the weights come
    from) and README.md, and is written atomically.
    """
    check_destination(destination, overwrite)
    file = find_file(source)
    layout, model = _build(read_state_dict(file, source), source)
    write_checkpoint(destination, model, FaceImageProcessor(**layout.processor), [file], layout.trainer, layout.note)
    return layout


def _build(state_dict: dict[str, torch.Tensor], source: str) -> tuple[Layout, FaceEmbedderModel]:
    """The model in the layout that shares most keys with the file; refused when not all agree."""
    candidates = []
    for layout in LAYOUTS:
        model = FaceEmbedderModel(FaceEmbedderConfig(trunk="mobilefacenet", embedding_size=128, **layout.config))
        foreign_keys = layout.foreign_keys(list(weights_of(model)))
        candidates.append((len(state_dict.keys() & foreign_keys.values()), layout, model, foreign_keys))
    _, layout, model, foreign_keys = max(candidates, key=lambda candidate: candidate[0])

    ours = weights_of(model)
    shapes = {theirs: tuple(ours[key].shape) for key, theirs in foreign_keys.items()}
    # the last layer is a 1x1 convolution there, a linear layer here
    shapes[foreign_keys["projection.weight"]] += (1, 1)
    if layout.projection_bias:
        shapes[layout.projection_bias] = (model.config.embedding_size,)
    trainers = " or ".join(layout.trainer for layout in LAYOUTS)
    check_layout(state_dict, shapes, source, f"a MobileFaceNet of {trainers} (compared with {layout.trainer})")

    weights = {key: state_dict[theirs].view_as(ours[key]) for key, theirs in foreign_keys.items()}
    if layout.projection_bias:
        # BatchNorm subtracts the mean: W x + b with mean m is W x with mean m - b
        weights["norm.running_mean"] = weights["norm.running_mean"] - state_dict[layout.projection_bias]
    fill(model, weights)
    return layout, model


__all__ = ["convert_mobilefacenet"]
