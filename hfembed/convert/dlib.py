"""dlib's face recognition ResNet, from its .dat file, as a face embedder folder."""

import math
from pathlib import Path

import numpy as np
import torch

from hfembed.atomic import check_destination
from hfembed.convert.batch_norms import unscaled_norm
from hfembed.convert.foreign_checkpoint import fill, find_file, reading, write_checkpoint
from hfembed.errors import InputError
from hfembed.models.face_embedder.configuration_face_embedder import FaceEmbedderConfig
from hfembed.models.face_embedder.image_processing_face_embedder import FaceImageProcessor
from hfembed.models.face_embedder.modeling_face_embedder import FaceEmbedderModel

TRAINER = "davisking/dlib-models"
NOTE = (
    "dlib_face_recognition_resnet_model_v1 is in the public domain (CC0). Its author trained it on about 3 million "
    "faces of 7,485 people, none of them in LFW: FaceScrub, VGG's faces, and faces from the web. dlib compares its "
    "embeddings by Euclidean distance, not at unit length; here the cosine compares them."
)

_SIDE = 150
_MAX_BYTES = 256 << 20
_MAX_TEXT = 64

# Left eye, right eye, nose, mouth corners in dlib's chip of 150 pixels with padding 0.25: the mean face shape that its
# chips are aligned to has the eyes' centers (means of points 36 to 41 and 42 to 47), the tip of the nose (30) and the
# corners of the mouth (48, 54) here, for pixel centers at whole numbers.
_TEMPLATE = ((47.05, 46.1), (99.98, 46.1), (73.51, 76.06), (49.91, 102.52), (97.11, 102.52))


def convert_dlib(source: str, destination: str | Path, overwrite: bool = False) -> FaceEmbedderModel:
    """Turn dlib_face_recognition_resnet_model_v1.dat into a folder that `from_pretrained` reads."""
    check_destination(destination, overwrite)
    file = find_file(source)
    config = FaceEmbedderConfig(trunk="dlib_resnet29", image_size=[_SIDE, _SIDE], embedding_size=128, bn_neck=False)
    model = FaceEmbedderModel(config)
    if file.stat().st_size > _MAX_BYTES:
        raise InputError(f"{source} has {file.stat().st_size:,} bytes, more than dlib's face recognition network")
    with reading(source, "face recognition network of dlib"):
        mean, std = _read(_DlibFile(file.read_bytes(), source), model)
        processor = FaceImageProcessor(size=_SIDE, template=_TEMPLATE, image_mean=mean, image_std=std)
    write_checkpoint(destination, model, processor, [file], TRAINER, NOTE, "cc0-1.0")
    return model


class _DlibFile:
    """The values of dlib's serialization, one after the other; each is bounded before it is read."""

    def __init__(self, content: bytes, source: str) -> None:
        self.content, self.source, self.position = memoryview(content), source, 0

    def error(self, reason: str) -> InputError:
        return InputError(
            f"{self.source} is damaged, or not dlib's face recognition network: {reason} at byte {self.position:,}"
        )

    def take(self, length: int) -> memoryview:
        if length > len(self.content) - self.position:
            raise self.error("it ends too early,")
        self.position += length
        return self.content[self.position - length : self.position]

    def integer(self) -> int:
        """A byte of the sign and the length, then the magnitude, lowest byte first."""
        control = self.take(1)[0]
        length = control & 0x0F
        if control & 0x70 or not 1 <= length <= 8:
            raise self.error(f"no integer begins with {control}")
        magnitude = int.from_bytes(self.take(length), "little")
        return -magnitude if control & 0x80 else magnitude

    def number(self) -> float:
        mantissa, exponent = self.integer(), self.integer()
        if not -1100 <= exponent <= 1100:  # not finite, or no double
            raise self.error(f"no number has the exponent {exponent}")
        try:
            return math.ldexp(mantissa, exponent)
        except OverflowError as error:
            raise self.error("a number is too large") from error

    def flag(self) -> bool:
        value = bytes(self.take(1))
        if value not in (b"0", b"1"):
            raise self.error(f"no switch is {value!r}")
        return value == b"1"

    def text(self) -> str:
        length = self.integer()
        if not 0 <= length <= _MAX_TEXT:
            raise self.error(f"a name of {length:,} letters")
        return bytes(self.take(length)).decode("ascii", "replace")

    def name(self, *known: str) -> str:
        """The name and version of a layer that follows."""
        name = self.text()
        if name not in known:
            raise self.error(f"'{name}' instead of {' or '.join(known)}")
        return name

    def version(self, *known: int) -> int:
        version = self.integer()
        if version not in known:
            raise self.error(f"version {version} instead of {' or '.join(map(str, known))}")
        return version

    def shape(self) -> list[int]:
        shape = [self.integer() for _ in range(4)]
        if any(not 0 <= side < 1 << 31 for side in shape):
            raise self.error(f"a tensor of shape {shape}")
        return shape

    def alias(self) -> list[int]:
        """The shape of a part of a layer's parameters."""
        self.version(1)
        return self.shape()

    def tensor(self) -> torch.Tensor:
        self.version(2)
        values = np.frombuffer(self.take(4 * math.prod(self.shape())), "<f4")
        if not np.isfinite(values).all():
            raise InputError(f"{self.source}: the weights contain non-finite numbers, before byte {self.position:,}")
        return torch.from_numpy(values.astype(np.float32))

    def parameters(self, tensor: torch.Tensor, *shapes: list[int]) -> list[torch.Tensor]:
        """The parts that a layer's parameters consist of."""
        sizes = [math.prod(shape) for shape in shapes]
        if sum(sizes) != len(tensor):
            raise self.error(f"{len(tensor):,} parameters for shapes {', '.join(map(str, shapes))}")
        return [part.view(shape) for part, shape in zip(tensor.split(sizes), shapes, strict=True)]

    def convolution(self) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
        """Weight, bias, and kernel size, stride and padding, each in y and x."""
        name = self.name("con_4", "con_5", "con_6")
        parameters, filters = self.tensor(), self.integer()
        layout = [self.integer() for _ in range(6)]
        shapes = [self.alias(), self.alias()]
        self.rates()
        if name != "con_4" and not self.flag():
            raise self.error("a convolution without bias")
        if name == "con_6" and self.flag():
            raise self.error("a convolution with an activation of its own")
        weight, bias = self.parameters(parameters, *shapes)
        if len(weight) != filters or bias.numel() != filters:
            raise self.error(f"{len(weight)} weights and {bias.numel()} biases of {filters} filters")
        return weight, bias.flatten(), layout

    def affine(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Factor and shift per channel."""
        name = self.name("affine_", "affine_2")
        parameters = self.tensor()
        gamma, beta = self.parameters(parameters, self.alias(), self.alias())
        self.integer()  # over channels or over numbers: the same for these shapes
        if name == "affine_2" and self.flag():
            raise self.error("an affine layer that is switched off")
        return gamma.flatten(), beta.flatten()

    def linear(self) -> torch.Tensor:
        """The matrix (outputs, inputs) of a linear layer without bias."""
        name = self.name("fc_2", "fc_3")
        outputs, inputs, parameters = self.integer(), self.integer(), self.tensor()
        shapes = [self.alias(), self.alias()]
        self.integer()  # whether it has a bias
        self.rates()
        if name == "fc_3":
            self.flag()
        (weight,) = self.parameters(parameters, shapes[0])
        if weight.numel() != outputs * inputs:
            raise self.error(f"a linear layer of {weight.numel():,} weights")
        return weight.view(inputs, outputs).T.contiguous()

    def rates(self) -> None:
        """How much of the learning rate and weight decay a layer took."""
        for _ in range(4):
            self.number()

    def pooling(self, name: str, *expected: int) -> None:
        self.name(name)
        found = tuple(self.integer() for _ in range(6))
        if found != expected:
            raise self.error(f"{name} with kernel, stride and padding {found} instead of {expected}")

    def relu(self) -> None:
        if self.name("relu_", "relu_2") == "relu_2" and self.flag():
            raise self.error("a ReLU that is switched off")


def _read(file: _DlibFile, model: FaceEmbedderModel) -> tuple[list[float], float]:
    """Fill the model; the mean and deviation of pixels on [0, 1].

    dlib writes the versions of all layers first, from the output to the input, then what the layers hold, from the
    input to the output. Layers that only name a place (tag) or point to one (skip) hold nothing.
    """
    layers = _layers(model)
    file.version(1)
    if file.name("loss_metric_", "loss_metric_2") == "loss_metric_2":
        file.number(), file.number()
    versions = [file.version(1) if kind == "place" else file.version(1, 2, 3) for kind, _ in reversed(layers)][::-1]

    file.name("input_rgb_image_sized")
    mean = [file.number() / 255 for _ in range(3)]
    size = [file.integer(), file.integer()]
    if size != [_SIDE, _SIDE]:
        raise file.error(f"images of {size} pixels")

    weights: dict[str, torch.Tensor] = {}
    for index, ((kind, name), version) in enumerate(zip(layers, versions, strict=True)):
        if kind == "place":
            continue
        if kind == "convolution":
            weight, bias, layout = file.convolution()
            conv = model.get_submodule(name)
            expected = [*conv.kernel_size, *conv.stride, *conv.padding]  # type: ignore[misc]
            if layout != expected:
                raise file.error(f"a convolution with kernel, stride and padding {layout} instead of {expected}")
            weights[f"{name}.weight"] = weight
        elif kind == "affine":
            gamma, beta = file.affine()
            norm = unscaled_norm(len(gamma), beta)
            # gamma (x + bias) + beta
            norm |= {"weight": norm["weight"] * gamma, "running_mean": -bias}
            weights |= {f"{name}.{key}": value for key, value in norm.items()}
        elif kind == "linear":
            matrix = file.linear()
            weights |= {f"{name}.weight": matrix, f"{name}.bias": torch.zeros(len(matrix))}
        elif kind == "relu":
            file.relu()
        elif kind == "sum":
            file.name("add_prev_")
        elif kind == "max":
            file.pooling("max_pool_2", 3, 3, 2, 2, 0, 0)
        else:
            file.pooling("avg_pool_2", *((2, 2, 2, 2, 0, 0) if kind == "average" else (0, 0, 1, 1, 0, 0)))
        # set up, gradient out of date, output and gradient in one place; the gradient and output of the last step
        for _ in range(3):
            file.flag()
        for _ in range(2 if version == 1 else 3):
            file.tensor()
        if index == 0 and version == 3:
            file.integer()
    if file.position != len(file.content):
        raise file.error("more follows")
    try:
        fill(model, weights)
    except RuntimeError as error:
        raise file.error(str(error).splitlines()[-1].strip()) from error
    return mean, 256 / 255


def _layers(model: FaceEmbedderModel) -> list[tuple[str, str]]:
    """What each layer of dlib's network is, and its name here, from the input to the output."""
    layers = [("convolution", "trunk.stem.0"), ("affine", "trunk.stem.1"), ("relu", ""), ("max", "")]
    for number, stage in enumerate(model.trunk.stages):
        for index, block in enumerate(stage):
            name = f"trunk.stages.{number}.{index}"
            layers += [("place", ""), ("convolution", f"{name}.conv1"), ("affine", f"{name}.norm1"), ("relu", "")]
            layers += [("convolution", f"{name}.conv2"), ("affine", f"{name}.norm2")]
            if block.stride == 2:
                layers += [("place", ""), ("place", ""), ("average", "")]
            layers += [("sum", ""), ("relu", "")]
    return [*layers, ("average everything", ""), ("linear", "projection")]


__all__ = ["convert_dlib"]
