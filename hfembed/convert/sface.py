"""SFace of the OpenCV model zoo, from its ONNX files (float, or int8 by blocks), as a face embedder folder."""

import math
from pathlib import Path

from hfembed.atomic import check_destination
from hfembed.convert.foreign_checkpoint import find_file, reading, write_checkpoint
from hfembed.convert.onnx_graph import OnnxLayers, Weights, under
from hfembed.models.face_embedder.configuration_face_embedder import FaceEmbedderConfig
from hfembed.models.face_embedder.image_processing_face_embedder import FaceImageProcessor
from hfembed.models.face_embedder.modeling_face_embedder import FaceEmbedderModel

LAYOUT = "SFace of the OpenCV model zoo"
TRAINER = "opencv/opencv_zoo, models/face_recognition_sface"
NOTE = (
    "OpenCV's model zoo gives the file under the Apache-2.0 license and names Yaoyao Zhong (SFace, 2021) as its "
    "author; it does not say which faces the network was trained on."
)


def convert_sface(source: str, destination: str | Path, overwrite: bool = False) -> FaceEmbedderModel:
    """Turn OpenCV's face_recognition_sface .onnx file into a folder that `from_pretrained` reads."""
    check_destination(destination, overwrite)
    file = find_file(source)
    with reading(source, LAYOUT):
        model, processor = _read(OnnxSFace(file, source, LAYOUT))
    write_checkpoint(destination, model, processor, [file], TRAINER, NOTE, "apache-2.0")
    return model


class OnnxSFace(OnnxLayers):
    """The graph read backwards; it begins with the normalization of the pixels."""

    def layer(self, name: str, depthwise: bool = False) -> tuple[Weights, str]:
        slope, name = self.activation(name)
        weight, norm, _, name = self.conv_norm(name, depthwise)
        return {"conv.weight": weight} | under("norm", norm) | {"activation.weight": slope}, name

    def scalar(self, name: str, kind: str) -> tuple[float, str]:
        node = self.node(name, f"a {kind} with a number", kind)
        value = self.constant(node, 1)
        if value.numel() != 1:
            raise self.error(f"{kind} with {tuple(value.shape)} numbers instead of one")
        return value.item(), node.input[0]


def _read(graph: OnnxSFace) -> tuple[FaceEmbedderModel, FaceImageProcessor]:
    weights, name = graph.head()
    embedding_size = len(weights["projection.weight"])
    model = FaceEmbedderModel(FaceEmbedderConfig(trunk="sface", embedding_size=embedding_size))
    for number, stage in reversed(list(enumerate(model.trunk.stages))):
        for index in reversed(range(len(stage))):
            for part in ("pointwise", "depthwise"):
                layer, name = graph.layer(name, depthwise=part == "depthwise")
                weights |= under(f"trunk.stages.{number}.{index}.{part}", layer)
    stem, name = graph.layer(name)
    weights |= under("trunk.stem", stem)
    scale, name = graph.scalar(name, "Mul")
    mean, name = graph.scalar(name, "Sub")
    if name not in graph.inputs:
        raise graph.error(f"a {graph.kind(name)} comes before the normalization of the pixels")
    if not math.isfinite(1 / (scale or math.inf)) or not scale > 0:
        raise graph.error(f"it multiplies pixels by {scale}")
    graph.fill(model, weights)
    return model, FaceImageProcessor(image_mean=mean / 255, image_std=1 / (scale * 255))


__all__ = ["convert_sface"]
