"""An ONNX graph that is an IResNet -> a face embedder, by the order of the graph: its names mean nothing."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from hfembed.convert.foreign_checkpoint import fill
from hfembed.convert.iresnet import EPS, iresnet_config, unscaled_norm
from hfembed.errors import InputError
from hfembed.models.face_embedder.modeling_face_embedder import FaceEmbedderModel

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_PASSING = ("Identity", "Dropout", "Cast")

Weights = dict[str, torch.Tensor]


def read_iresnet_onnx(file: Path, source: str) -> FaceEmbedderModel:
    """Read the graph backwards, from the embedding to the image.

    Exporters fold some BatchNorms into the convolutions before them; those become BatchNorms that only shift.
    """
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError as error:
        raise InputError('reading an .onnx file needs onnx: pip install "hfembed[onnx]"') from error
    try:
        # the names of files that an ONNX file may give for its weights are not followed
        graph = _Graph(onnx.load(file, load_external_data=False), source)
    except DecodeError as error:
        raise InputError(f"{source} is damaged, or no ONNX file: fetch it again") from error

    weights, name = graph.head()
    blocks: list[Weights] = []
    while not graph.is_stem(name):
        block, name = graph.block(name)
        blocks.insert(0, block)
    stem, name = graph.stem(name)
    if name not in graph.inputs:
        raise InputError(f"{source} is no IResNet: a {graph.kind(name)} comes before the first convolution")
    weights |= {f"trunk.stem.{key}": value for key, value in stem.items()}

    # a stage begins where the shortcut convolves
    depths: list[int] = []
    widths: list[int] = []
    for block in blocks:
        if "shortcut.0.weight" in block or not depths:
            depths.append(0)
            widths.append(len(block["conv2.weight"]))
        weights |= {f"trunk.stages.{len(depths) - 1}.{depths[-1]}.{key}": value for key, value in block.items()}
        depths[-1] += 1
    embedding_size, features = weights["projection.weight"].shape
    if not widths or features % widths[-1] or "shortcut.0.weight" not in blocks[0]:
        raise InputError(f"{source} is no IResNet: it has {len(blocks)} residual blocks, of widths {widths}")
    model = FaceEmbedderModel(iresnet_config(depths, widths, features // widths[-1], embedding_size))
    try:
        fill(model, weights)
    except RuntimeError as error:
        raise InputError(f"{source} is no IResNet: {str(error).splitlines()[-1].strip()}") from error
    return model


class _Graph:
    """What comes before what; each method takes the name of a value and returns weights and the value before."""

    def __init__(self, model: "ModelProto", source: str) -> None:
        from onnx import numpy_helper

        self.source = source
        self.output = model.graph.output[0].name
        self.producers = {output: node for node in model.graph.node for output in node.output}
        self.steps = 20 * len(model.graph.node)  # more than a way back takes
        constants = {tensor.name: tensor for tensor in model.graph.initializer}
        constants |= {
            node.output[0]: attribute.t
            for node in model.graph.node
            if node.op_type == "Constant"
            for attribute in node.attribute
            if attribute.name == "value"
        }
        outside = sorted(name for name, tensor in constants.items() if tensor.data_location == tensor.EXTERNAL)
        if outside:
            raise InputError(f"{source}: the weights '{outside[0]}' are in another file; export it with its weights")
        self.constants = {
            name: torch.from_numpy(numpy_helper.to_array(tensor).copy()) for name, tensor in constants.items()
        }
        self.inputs = {value.name for value in model.graph.input} - self.constants.keys()

    def kind(self, name: str) -> str:
        node = self.producers.get(name)
        return "graph input" if node is None else node.op_type

    def node(self, name: str, place: str, *kinds: str) -> "NodeProto":
        """The node that makes a value, those that only pass it on left out."""
        while self.kind(name) in _PASSING:
            name = self.producers[name].input[0]
            self.step()
        self.step()
        if self.kind(name) not in kinds:
            raise InputError(f"{self.source} is no IResNet: a {self.kind(name)} where {place} should be")
        return self.producers[name]

    def step(self) -> None:
        """Count the way back through the graph, which in a damaged one may be a circle."""
        self.steps -= 1
        if self.steps < 0:
            raise InputError(f"{self.source} is no IResNet: its graph has a cycle")

    def constant(self, name: str) -> torch.Tensor:
        if name not in self.constants:
            raise InputError(f"{self.source} is no IResNet: the weights '{name}' are not in the file")
        return self.constants[name].float()

    def norm(self, name: str) -> tuple[Weights, str]:
        node = self.node(name, "a BatchNormalization", "BatchNormalization")
        scale, bias, mean, variance = map(self.constant, node.input[1:5])
        eps = _attributes(node).get("epsilon", 1e-5)
        return {"weight": scale, "bias": bias, "running_mean": mean, "running_var": variance + (eps - EPS)}, (
            node.input[0]
        )

    def conv_norm(self, name: str) -> tuple[torch.Tensor, Weights, int, str]:
        """A convolution and its BatchNorm, folded or not: weight, BatchNorm, stride, the value before."""
        node = self.node(name, "a convolution", "Conv", "BatchNormalization")
        norm = None
        if node.op_type == "BatchNormalization":
            norm, name = self.norm(name)
            node = self.node(name, "a convolution", "Conv")
        weight = self.constant(node.input[1])
        bias = self.constant(node.input[2]) if len(node.input) > 2 else torch.zeros(len(weight))
        if norm is None:
            norm = unscaled_norm(len(weight), bias)
        else:
            norm["running_mean"] = norm["running_mean"] - bias
        attributes = _attributes(node)
        stride = attributes.get("strides", [1, 1])[0]
        side = weight.shape[-1]
        if attributes.get("group", 1) != 1 or list(attributes.get("pads", [0] * 4)) != [side // 2] * 4:
            raise InputError(f"{self.source} is no IResNet: a convolution in groups, or padded otherwise")
        return weight, norm, stride, node.input[0]

    def activation(self, name: str) -> tuple[torch.Tensor, str]:
        node = self.node(name, "a PRelu", "PRelu")
        return self.constant(node.input[1]).flatten(), node.input[0]

    def head(self) -> tuple[Weights, str]:
        """From the embedding back to the last block."""
        name = self.output
        node = self.node(name, "the embedding's BatchNormalization or linear layer", "BatchNormalization", "Gemm")
        norm = None
        if node.op_type == "BatchNormalization":
            norm, name = self.norm(name)
            node = self.node(name, "the linear layer", "Gemm")
        attributes = _attributes(node)
        if attributes.get("transA", 0) or attributes.get("alpha", 1.0) != 1 or attributes.get("beta", 1.0) != 1:
            raise InputError(f"{self.source} is no IResNet: its last layer is no plain linear one")
        matrix = self.constant(node.input[1])
        matrix = matrix if attributes.get("transB", 0) else matrix.T.contiguous()
        bias = self.constant(node.input[2]) if len(node.input) > 2 else torch.zeros(len(matrix))
        if norm is None:
            norm = unscaled_norm(len(matrix), bias)
        else:
            norm["running_mean"] = norm["running_mean"] - bias
        name = self.node(node.input[0], "a Flatten", "Flatten", "Reshape").input[0]
        last, name = self.norm(name)
        return {"projection.weight": matrix} | _under("norm", norm) | _under("trunk.norm", last), name

    def is_stem(self, name: str) -> bool:
        return self.node(name, "a residual sum or the stem", "Add", "PRelu").op_type == "PRelu"

    def stem(self, name: str) -> tuple[Weights, str]:
        slope, name = self.activation(name)
        weight, norm, stride, name = self.conv_norm(name)
        if stride != 1:
            raise InputError(f"{self.source} is no IResNet: its first convolution has stride {stride}")
        return {"0.weight": weight} | _under("1", norm) | {"2.weight": slope}, name

    def block(self, name: str) -> tuple[Weights, str]:
        """BatchNorm, convolution, BatchNorm, PReLU, convolution, BatchNorm, plus the shortcut."""
        sides = list(self.node(name, "a residual sum", "Add").input)
        if self.kind(sides[0]) in ("Add", "PRelu") or self._is_pointwise(sides[0]):
            sides.reverse()
        branch, shortcut = sides
        conv2, norm3, stride2, name = self.conv_norm(branch)
        slope, name = self.activation(name)
        conv1, norm2, stride1, name = self.conv_norm(name)
        norm1, before = self.norm(name)
        weights = {"conv1.weight": conv1, "activation.weight": slope, "conv2.weight": conv2}
        weights |= _under("norm1", norm1) | _under("norm2", norm2) | _under("norm3", norm3)
        strides = [stride1, stride2]
        if shortcut != before:
            conv, norm, stride, shortcut = self.conv_norm(shortcut)
            weights |= {"shortcut.0.weight": conv} | _under("shortcut.1", norm)
            strides.append(stride)
        if shortcut != before or strides not in ([1, 1], [1, 2, 2]):
            raise InputError(f"{self.source} is no IResNet: a block with strides {strides}, or another shortcut")
        return weights, before

    def _is_pointwise(self, name: str) -> bool:
        return self.conv_norm(name)[0].shape[-1] == 1


def _attributes(node: "NodeProto") -> dict[str, Any]:
    from onnx import helper

    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def _under(prefix: str, weights: Weights) -> Weights:
    return {f"{prefix}.{name}": value for name, value in weights.items()}
