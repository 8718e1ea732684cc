"""An ONNX file as a graph that converters walk through, its weights checked and dequantized."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hfembed.convert.batch_norms import EPS, unscaled_norm
from hfembed.convert.foreign_checkpoint import fill
from hfembed.errors import InputError
from hfembed.models.face_embedder.modeling_face_embedder import FaceEmbedderModel

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

Weights = dict[str, torch.Tensor]

_MAX_BYTES = 2 << 30  # of a protobuf message
_MAX_RANK = 8
_PASSING = ("Identity", "Dropout", "Cast")
# nodes on the way from a stored tensor to the weights that a layer uses; more of them are no quantized weights
_WEIGHT_STEPS = 8


class OnnxGraph:
    """What comes before what in an ONNX file, and its weights as float tensors.

    Files that an ONNX file names for its weights are not followed.

    Args:
        file: The .onnx file.
        source: The file's name in messages.
        layout: What the file should hold, in messages: `"IResNet"`.

    Attributes:
        nodes: The graph's nodes, in its order.
        inputs: Names of the graph's inputs that are no weights.
        outputs: Names of the graph's outputs, in its order.

    Raises:
        InputError: The file is larger than 2 GiB, damaged, no ONNX file, or has its weights in another file.
    """

    def __init__(self, file: Path, source: str, layout: str) -> None:
        self.source, self.layout = source, layout
        graph = _load(file, source).graph
        self.nodes = list(graph.node)
        self.outputs = [value.name for value in graph.output]
        if not self.outputs:
            raise self.error("it has no output")
        self._producers = {output: node for node in self.nodes for output in node.output}
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        self._tensors |= {
            node.output[0]: attribute.t
            for node in self.nodes
            if node.op_type == "Constant" and node.output
            for attribute in node.attribute
            if attribute.name == "value"
        }
        outside = sorted(name for name, tensor in self._tensors.items() if tensor.data_location == tensor.EXTERNAL)
        if outside:
            raise InputError(f"{source}: the weights '{outside[0]}' are in another file; export it with its weights")
        self.inputs = {value.name for value in graph.input} - self._tensors.keys()
        self._steps = 20 * len(self.nodes) + 20  # more than a way back through the graph takes
        # numbers handed out: weights used by many layers could fill the memory from a small file
        self._numbers = 4 * file.stat().st_size

    def error(self, reason: str) -> InputError:
        """The error that says why the file is not of the layout."""
        return InputError(f"{self.source} is no {self.layout}: {reason}")

    def attributes(self, node: "NodeProto") -> dict[str, Any]:
        """A node's attributes by name."""
        from onnx import helper

        return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}

    def kind(self, name: str) -> str:
        """The type of the node that makes a value, or `"graph input"`."""
        node = self._producers.get(name)
        return "graph input" if node is None else node.op_type

    def node(self, name: str, place: str, *kinds: str) -> "NodeProto":
        """The node of one of these types that makes a value; Identity, Dropout and Cast are passed over.

        Raises:
            InputError: Another node makes it (`place` says what was expected), it is too short of inputs, or the graph
                has a cycle.
        """
        while self.kind(name) in _PASSING:
            name = self._input(self._producers[name], 0)
            self._step()
        self._step()
        if self.kind(name) not in kinds:
            raise self.error(f"a {self.kind(name)} where {place} should be")
        return self._producers[name]

    def _input(self, node: "NodeProto", index: int) -> str:
        if index >= len(node.input) or not node.input[index]:
            raise self.error(f"a {node.op_type} with {len(node.input)} inputs")
        return node.input[index]

    def _step(self) -> None:
        self._steps -= 1
        if self._steps < 0:
            raise self.error("its graph has a cycle")

    def constant(self, node: "NodeProto", index: int) -> torch.Tensor:
        """A node's input that is stored in the file: float32, dequantized where DequantizeLinear makes it.

        Raises:
            InputError: It is not stored in the file, damaged, or not finite.
        """
        name = self._input(node, index)
        array = self._array(name)
        self._numbers -= array.size
        if self._numbers < 0:
            raise self.error("its layers have more weights than the file can hold")
        weights = torch.from_numpy(np.array(array, dtype=np.float32))
        if not torch.isfinite(weights).all():
            raise InputError(f"{self.source}: the weights contain non-finite numbers, in '{name}'")
        return weights

    def _array(self, name: str) -> np.ndarray:
        steps: list[NodeProto] = []
        while name not in self._tensors:
            node = self._producers.get(name)
            known = ("Identity", "Cast", "Reshape", "Transpose", "DequantizeLinear")
            if node is None or node.op_type not in known or len(steps) == _WEIGHT_STEPS:
                raise self.error(f"the weights '{name}' are not in the file")
            steps.append(node)
            name = self._input(node, 0)
        array = self._stored(name)
        for node in reversed(steps):
            attributes = self.attributes(node)
            try:
                if node.op_type == "DequantizeLinear":
                    array = self._dequantized(node, array, attributes)
                elif node.op_type == "Reshape":
                    shape = self._stored(self._input(node, 1)).astype(np.int64).flatten().tolist()
                    array = array.reshape([array.shape[at] if side == 0 else side for at, side in enumerate(shape)])
                elif node.op_type == "Transpose":
                    array = array.transpose(attributes.get("perm"))
            except (ValueError, IndexError) as error:
                raise InputError(f"{self.source} is damaged: {node.op_type} of '{name}': {error}") from error
        return array

    def _stored(self, name: str) -> np.ndarray:
        from onnx import TensorProto, numpy_helper

        if name not in self._tensors:
            raise self.error(f"the weights '{name}' are not in the file")
        tensor = self._tensors[name]
        if tensor.data_type in (TensorProto.STRING, TensorProto.COMPLEX64, TensorProto.COMPLEX128):
            raise InputError(f"{self.source} is damaged: '{name}' are no numbers")
        if len(tensor.dims) > _MAX_RANK or any(side < 0 for side in tensor.dims):
            raise InputError(f"{self.source} is damaged: '{name}' has the shape {list(tensor.dims[:_MAX_RANK])}")
        try:
            return numpy_helper.to_array(tensor)
        # a type that does not exist, fewer numbers than the shape says
        except (TypeError, ValueError, KeyError) as error:
            raise InputError(f"{self.source} is damaged: '{name}' {list(tensor.dims)}: {error}") from error

    def _dequantized(self, node: "NodeProto", array: np.ndarray, attributes: dict[str, Any]) -> np.ndarray:
        """(array - zero point) * scale; both given per tensor, per channel of an axis, or per block along it."""
        scale = self._stored(self._input(node, 1)).astype(np.float32)
        axis = range(array.ndim)[attributes.get("axis", 1)] if scale.ndim else 0
        block = attributes.get("block_size", 0)
        with_zero = len(node.input) > 2 and node.input[2]
        zero = self._stored(node.input[2]).astype(np.float32) if with_zero else np.zeros_like(scale)
        if zero.shape != scale.shape:
            raise ValueError(f"zero points {zero.shape} for scales {scale.shape}")

        def spread(values: np.ndarray) -> np.ndarray:
            if values.ndim == 1:
                values = values.reshape([-1 if at == axis else 1 for at in range(array.ndim)])
            if values.ndim != array.ndim or values.shape[axis] in (1, array.shape[axis]):
                return values
            length, blocks = array.shape[axis], values.shape[axis]
            if any(side not in (1, array.shape[at]) for at, side in enumerate(values.shape) if at != axis):
                raise ValueError(f"scales {scale.shape} for weights {array.shape}")
            side = block or -(-length // max(blocks, 1))
            if side < 1 or blocks != -(-length // side):
                raise ValueError(f"{blocks} blocks of {side} along an axis of {length}")
            return np.repeat(values, min(side, length), axis).take(range(length), axis)

        scales = spread(scale)
        if np.broadcast_shapes(scales.shape, array.shape) != array.shape:
            raise ValueError(f"scales {scale.shape} for weights {array.shape}")
        return (array.astype(np.float32) - spread(zero)) * scales


class OnnxLayers(OnnxGraph):
    """Layers of face embedders, read backwards: from a value's name to a layer's weights and the value before it."""

    def norm(self, name: str) -> tuple[Weights, str]:
        """A BatchNorm: parameters and statistics by name, the variance as for our epsilon."""
        node = self.node(name, "a BatchNormalization", "BatchNormalization")
        scale, bias, mean, variance = (self.constant(node, index) for index in range(1, 5))
        eps = self.attributes(node).get("epsilon", 1e-5)
        if not isinstance(eps, float) or not 0 <= eps < 1:
            raise self.error(f"a BatchNormalization with epsilon {eps}")
        norm = {"weight": scale, "bias": bias, "running_mean": mean, "running_var": variance + (eps - EPS)}
        return norm, node.input[0]

    def conv_norm(self, name: str, depthwise: bool = False) -> tuple[torch.Tensor, Weights, int, str]:
        """A convolution padded to its own size and its BatchNorm, folded or not: weight, BatchNorm, stride."""
        node = self.node(name, "a convolution", "Conv", "BatchNormalization")
        norm = None
        if node.op_type == "BatchNormalization":
            norm, name = self.norm(name)
            node = self.node(name, "a convolution", "Conv")
        weight = self.constant(node, 1)
        norm = self._with_bias(node, norm, len(weight))
        attributes = self.attributes(node)
        if weight.ndim != 4 or weight.shape[2] != weight.shape[3]:
            raise self.error(f"a convolution of shape {tuple(weight.shape)}")
        padding = list(attributes.get("pads", [0] * 4))
        strides, dilations = (list(attributes.get(key, [1, 1])) for key in ("strides", "dilations"))
        if (
            attributes.get("group", 1) != (len(weight) if depthwise else 1)
            or padding != [weight.shape[-1] // 2] * 4
            or attributes.get("auto_pad", b"NOTSET") != b"NOTSET"
            or strides[:1] * 2 != strides
            or dilations != [1, 1]
        ):
            raise self.error("a convolution in other groups, or padded, strided or dilated otherwise")
        return weight, norm, strides[0], node.input[0]

    def activation(self, name: str) -> tuple[torch.Tensor, str]:
        """A PReLU: its slopes."""
        node = self.node(name, "a PRelu", "PRelu")
        return self.constant(node, 1).flatten(), node.input[0]

    def head(self) -> tuple[Weights, str]:
        """From the embedding back to the trunk's last BatchNorm: BatchNorm, linear layer, flattening, BatchNorm."""
        name = self.outputs[0]
        node = self.node(name, "the embedding's BatchNormalization or linear layer", "BatchNormalization", "Gemm")
        norm = None
        if node.op_type == "BatchNormalization":
            norm, name = self.norm(name)
            node = self.node(name, "the linear layer", "Gemm")
        attributes = self.attributes(node)
        matrix = self.constant(node, 1)
        plain = attributes.get("transA", 0) == 0 and attributes.get("alpha", 1.0) == attributes.get("beta", 1.0) == 1
        if matrix.ndim != 2 or not plain:
            raise self.error("its last layer is no plain linear one")
        matrix = matrix if attributes.get("transB", 0) else matrix.T.contiguous()
        norm = self._with_bias(node, norm, len(matrix))
        name = self.node(node.input[0], "a Flatten", "Flatten", "Reshape").input[0]
        last, name = self.norm(name)
        return {"projection.weight": matrix} | under("norm", norm) | under("trunk.norm", last), name

    def fill(self, model: FaceEmbedderModel, weights: Weights) -> None:
        """Give a model its weights.

        Raises:
            InputError: They are not its own.
        """
        try:
            fill(model, weights)
        except RuntimeError as error:
            raise self.error(str(error).splitlines()[-1].strip()) from error

    def _with_bias(self, node: "NodeProto", norm: Weights | None, channels: int) -> Weights:
        bias = self.constant(node, 2) if len(node.input) > 2 else torch.zeros(channels)
        if norm is None:
            return unscaled_norm(channels, bias)
        if norm["running_mean"].shape != bias.shape:
            raise self.error(f"a bias {tuple(bias.shape)} before a BatchNorm {tuple(norm['running_mean'].shape)}")
        # BatchNorm subtracts the mean: W x + b with mean m is W x with mean m - b
        return norm | {"running_mean": norm["running_mean"] - bias}


def under(prefix: str, weights: Weights) -> Weights:
    """The same weights with names below a module's."""
    return {f"{prefix}.{name}": value for name, value in weights.items()}


def _load(file: Path, source: str) -> "ModelProto":
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError as error:
        raise InputError('reading an .onnx file needs onnx: pip install "hfembed[onnx]"') from error
    if file.stat().st_size > _MAX_BYTES:
        raise InputError(f"{source} has {file.stat().st_size:,} bytes, more than an ONNX file can have")
    try:
        return onnx.load(file, load_external_data=False)
    except DecodeError as error:
        raise InputError(f"{source} is damaged, or no ONNX file: fetch it again") from error


__all__ = ["OnnxGraph", "OnnxLayers", "Weights", "under"]
