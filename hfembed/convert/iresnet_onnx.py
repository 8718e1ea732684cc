"""An ONNX graph that is an IResNet -> a face embedder, by the order of the graph: its names mean nothing."""

from pathlib import Path

from hfembed.convert.iresnet import iresnet_config
from hfembed.convert.onnx_graph import OnnxLayers, Weights, under
from hfembed.models.face_embedder.modeling_face_embedder import FaceEmbedderModel


def read_iresnet_onnx(file: Path, source: str) -> FaceEmbedderModel:
    """Read the graph backwards, from the embedding to the image.

    Exporters fold some BatchNorms into the convolutions before them; those become BatchNorms that only shift.
    """
    graph = _IResNetGraph(file, source, "IResNet")
    weights, name = graph.head()
    blocks: list[Weights] = []
    while not graph.is_stem(name):
        block, name = graph.block(name)
        blocks.insert(0, block)
    stem, name = graph.stem(name)
    if name not in graph.inputs:
        raise graph.error(f"a {graph.kind(name)} comes before the first convolution")
    weights |= under("trunk.stem", stem)

    # a stage begins where the shortcut convolves
    depths: list[int] = []
    widths: list[int] = []
    for block in blocks:
        if "shortcut.0.weight" in block or not depths:
            depths.append(0)
            widths.append(len(block["conv2.weight"]))
        weights |= under(f"trunk.stages.{len(depths) - 1}.{depths[-1]}", block)
        depths[-1] += 1
    embedding_size, features = weights["projection.weight"].shape
    if not widths or features % widths[-1] or "shortcut.0.weight" not in blocks[0]:
        raise graph.error(f"it has {len(blocks)} residual blocks, of widths {widths}")
    model = FaceEmbedderModel(iresnet_config(depths, widths, features // widths[-1], embedding_size))
    graph.fill(model, weights)
    return model


class _IResNetGraph(OnnxLayers):
    def is_stem(self, name: str) -> bool:
        return self.node(name, "a residual sum or the stem", "Add", "PRelu").op_type == "PRelu"

    def stem(self, name: str) -> tuple[Weights, str]:
        slope, name = self.activation(name)
        weight, norm, stride, name = self.conv_norm(name)
        if stride != 1:
            raise self.error(f"its first convolution has stride {stride}")
        return {"0.weight": weight} | under("1", norm) | {"2.weight": slope}, name

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
        weights |= under("norm1", norm1) | under("norm2", norm2) | under("norm3", norm3)
        strides = [stride1, stride2]
        if shortcut != before:
            conv, norm, stride, shortcut = self.conv_norm(shortcut)
            weights |= {"shortcut.0.weight": conv} | under("shortcut.1", norm)
            strides.append(stride)
        if shortcut != before or strides not in ([1, 1], [1, 2, 2]):
            raise self.error(f"a block with strides {strides}, or another shortcut")
        return weights, before

    def _is_pointwise(self, name: str) -> bool:
        return self.conv_norm(name)[0].shape[-1] == 1
