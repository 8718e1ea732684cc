"""The YuNet weights of libfacedetection.train and of OpenCV, as a face detector folder."""

from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from hfembed.atomic import check_destination
from hfembed.convert.batch_norms import convolution, norm_shapes
from hfembed.convert.foreign_checkpoint import check_layout, find_file, read_state_dict, reading, write_checkpoint
from hfembed.convert.onnx_graph import OnnxGraph, Weights, under
from hfembed.models.yunet.configuration_yunet import YuNetConfig
from hfembed.models.yunet.image_processing_yunet import YuNetImageProcessor
from hfembed.models.yunet.modeling_yunet import STRIDES, YuNetModel

LAYOUT = "a YuNet of ShiqiYu/libfacedetection.train"
TRAINER, ZOO = "ShiqiYu/libfacedetection.train", "opencv/opencv_zoo"
# where the weights come from -> license, and what else to know
_SOURCES = {
    TRAINER: ("apache-2.0", "That repository is under the Apache License 2.0 and trains on WIDER FACE."),
    ZOO: ("mit", f"That model is under the MIT license; {TRAINER} trained it on WIDER FACE."),
}
# the original has a head for each of these, we have one for all 16 numbers
_HEADS = ("cls", "obj", "bbox", "kps")


def convert_yunet(source: str, destination: str | Path, overwrite: bool = False) -> YuNetModel:
    """Turn a YuNet, as torch.save's `.pth` or as ONNX, into a folder that `from_pretrained` reads.

    Both published sizes, "n" and "s", are known by their weights; OpenCV's block-quantized ONNX is dequantized.

    Raises:
        InputError: The source cannot be read, or is another network.
    """
    check_destination(destination, overwrite)
    file = find_file(source)
    with reading(source, "YuNet"):
        theirs = _read_onnx(file, str(file)) if file.suffix == ".onnx" else read_state_dict(file)
        config = _config(theirs)
        model = YuNetModel(config).eval()
        model.load_state_dict(_translate(theirs, config, str(file)))
    # the zoo's model is an s, of which the trainer publishes no ONNX file
    layout = ZOO if file.suffix == ".onnx" and not config.head_units else TRAINER
    license, note = _SOURCES[layout]
    write_checkpoint(destination, model, YuNetImageProcessor(), [file], layout, note, license)
    return model


def _config(theirs: Weights) -> YuNetConfig:
    widths = [
        theirs[name].shape[0]
        for name in (
            "backbone.model0.conv1.weight",
            *(f"backbone.model{stage}.conv2.conv1.weight" for stage in range(1, 6)),
        )
        if name in theirs
    ]
    shared = [key for key in theirs if key.startswith("bbox_head.multi_level_share_convs.0.")]
    units = len({key.split(".")[3] for key in shared})
    # what is no YuNet is reported as the difference from the default one
    return YuNetConfig(widths=widths, head_units=units) if len(widths) == 6 else YuNetConfig()


def _convolutions(config: YuNetConfig) -> Iterator[tuple[str, list[tuple[str, str | None]]]]:
    """Our convolution -> the original's, each with the BatchNorm behind it; several are one beside the other."""

    def unit(ours: str, *theirs: str, norm: bool = True) -> Iterator[tuple[str, list[tuple[str, str | None]]]]:
        yield f"{ours}.pointwise", [(f"{name}.conv1", None) for name in theirs]
        yield f"{ours}.depthwise", [(f"{name}.conv2", f"{name}.bn" if norm else None) for name in theirs]

    yield "stem", [("backbone.model0.conv1", "backbone.model0.bn1")]
    yield from unit("stages.0", "backbone.model0.conv2")
    for stage in range(1, 6):
        for half in (0, 1):
            yield from unit(f"stages.{stage}.{half}", f"backbone.model{stage}.conv{half + 1}")
    for level in range(3):
        yield from unit(f"laterals.{level}", f"neck.lateral_convs.{level}")
        for number in range(config.head_units):
            yield from unit(f"heads.{level}.{number}", f"bbox_head.multi_level_share_convs.{level}.{number}")
        heads = (f"bbox_head.multi_level_{name}.{level}" for name in _HEADS)
        yield from unit(f"heads.{level}.{config.head_units}", *heads, norm=False)


def _translate(theirs: Weights, config: YuNetConfig, source: str) -> Weights:
    ours = {key: value.shape for key, value in YuNetModel(config).state_dict().items()}
    is_folded = not any(key.endswith("running_mean") for key in theirs)  # ONNX files are
    shapes: dict[str, tuple[int, ...]] = {}
    weights: Weights = {}
    for name, sources in _convolutions(config):
        outputs = [1, 1, 4, 10] if len(sources) > 1 else [ours[f"{name}.weight"][0]]
        for (conv, norm), count in zip(sources, outputs, strict=True):
            shapes |= {f"{conv}.weight": (count, *ours[f"{name}.weight"][1:]), f"{conv}.bias": (count,)}
            if norm is not None and not is_folded:
                shapes |= norm_shapes(norm, count)
    check_layout(theirs, shapes, source, LAYOUT)
    for name, sources in _convolutions(config):
        parts = [convolution(theirs, conv, None if is_folded else norm) for conv, norm in sources]
        weights[f"{name}.weight"], weights[f"{name}.bias"] = (torch.cat(part) for part in zip(*parts, strict=True))
    weights["stem.weight"] = weights["stem.weight"].flip(1)  # it was trained on BGR
    return weights


def _read_onnx(file: Path, source: str) -> Weights:
    """The weights by the names of a `.pth`, read from the outputs back to the input."""
    graph = OnnxGraph(file, source, "YuNet")
    weights: Weights = {}

    def before(name: str, *kinds: str) -> str:
        return graph.node(name, " or ".join(kinds), *kinds).input[0]

    def conv(name: str) -> tuple[Weights, str]:
        node = graph.node(name, "a convolution", "Conv")
        return {"weight": graph.constant(node, 1), "bias": graph.constant(node, 2)}, node.input[0]

    def unit(name: str) -> tuple[Weights, str]:
        second, name = conv(before(name, "Relu") if graph.kind(name) == "Relu" else name)
        first, name = conv(name)
        return under("conv1", first) | under("conv2", second), name

    def head(output: str) -> tuple[Weights, str]:
        if output not in graph.outputs:
            raise graph.error(f"it has no output '{output}'")
        name = output
        while graph.kind(name) in ("Sigmoid", "Reshape", "Transpose", "Identity"):
            name = before(name, "Sigmoid", "Reshape", "Transpose")
        return unit(name)

    def read(prefix: str, read_layer: Callable[[str], tuple[Weights, str]], name: str) -> str:
        layer, name = read_layer(name)
        weights.update(under(prefix, layer))
        return name

    head_units = 0
    for level, stride in enumerate(STRIDES):
        for output in _HEADS:
            name = read(f"bbox_head.multi_level_{output}.{level}", head, f"{output}_{stride}")
        units: list[Weights] = []
        # behind the coarsest map's lateral layer comes the trunk at once, elsewhere a sum
        while graph.kind(name) == "Relu" and (level < 2 or len(units) <= head_units):
            layer, name = unit(name)
            units.append(layer)
        if not units:
            raise graph.error(f"a {graph.kind(name)} where a lateral layer should be")
        weights |= under(f"neck.lateral_convs.{level}", units.pop())
        head_units = len(units)
        for number, layer in enumerate(reversed(units)):
            weights |= under(f"bbox_head.multi_level_share_convs.{level}.{number}", layer)
    for stage in (5, 4, 3, 2, 1):
        name = read(f"backbone.model{stage}.conv2", unit, name)
        name = read(f"backbone.model{stage}.conv1", unit, name)
        name = name if stage == 2 else before(name, "MaxPool")
    name = read("backbone.model0.conv2", unit, name)
    read("backbone.model0.conv1", conv, before(name, "Relu"))
    return weights


__all__ = ["convert_yunet"]
