"""Converted YuNets against the original network, as torch layers under its own names and by onnxruntime."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import AutoImageProcessor, AutoModel

from hfembed.convert.yunet import convert_yunet
from hfembed.errors import InputError
from tests.convert.detections import as_pixels, assert_same_faces, non_maximum_suppression, real_photos
from tests.convert.foreign_networks import Reference, StateDict, convert

SIZES = {"n": ([16, 64, 64, 64, 64, 64], 1), "s": ([16, 32, 64, 64, 64, 64], 0)}
HEADS = {"cls": 1, "obj": 1, "bbox": 4, "kps": 10}


def random_weights(size):
    torch.manual_seed(0)
    widths, shared = SIZES[size]
    state = StateDict()

    def conv(key, out_channels, in_channels, side, norm=None):
        state.conv(key, out_channels, in_channels, side, side)
        state[f"{key}.bias"] = 0.1 * torch.randn(out_channels)
        if norm:
            state.norm(norm, out_channels)

    def unit(key, out_channels, in_channels, norm=True):
        conv(f"{key}.conv1", out_channels, in_channels, 1)
        conv(f"{key}.conv2", out_channels, 1, 3, f"{key}.bn" if norm else None)

    conv("backbone.model0.conv1", widths[0], 3, 3, "backbone.model0.bn1")
    unit("backbone.model0.conv2", widths[0], widths[0])
    for stage in range(1, 6):
        unit(f"backbone.model{stage}.conv1", widths[stage - 1], widths[stage - 1])
        unit(f"backbone.model{stage}.conv2", widths[stage], widths[stage - 1])
    for level in range(3):
        unit(f"neck.lateral_convs.{level}", 64, 64)
        for number in range(shared):
            unit(f"bbox_head.multi_level_share_convs.{level}.{number}", 64, 64)
        for head, numbers in HEADS.items():
            unit(f"bbox_head.multi_level_{head}.{level}", numbers, 64, norm=False)
    return dict(state)


def original(layers, x, shared):
    """The network in terms of `layers.conv`, `pool`, `up` and `add`: head_stride -> map."""

    def unit(x, key, norm=True):
        x = layers.conv(x, f"{key}.conv1")
        return layers.conv(x, f"{key}.conv2", f"{key}.bn" if norm else None)

    def stage(x, number):
        return unit(unit(x, f"backbone.model{number}.conv1"), f"backbone.model{number}.conv2")

    x = unit(layers.conv(x, "backbone.model0.conv1", "backbone.model0.bn1", stride=2), "backbone.model0.conv2")
    x = stage(stage(layers.pool(x), 1), 2)
    maps = []
    for number in (3, 4, 5):
        x = stage(layers.pool(x), number)
        maps.append(x)
    for level in (2, 1, 0):
        if level < 2:
            maps[level] = layers.add(maps[level], layers.up(maps[level + 1]))
        maps[level] = unit(maps[level], f"neck.lateral_convs.{level}")
    outputs = {}
    for level, stride in enumerate((8, 16, 32)):
        for number in range(shared):
            maps[level] = unit(maps[level], f"bbox_head.multi_level_share_convs.{level}.{number}")
        for head in HEADS:
            outputs[f"{head}_{stride}"] = unit(maps[level], f"bbox_head.multi_level_{head}.{level}", norm=False)
    return outputs


class TorchLayers:
    """Batch normalization behind the convolutions, as it was trained."""

    def __init__(self, state):
        self.reference = Reference(state)

    def conv(self, x, key, norm=None, stride=1):
        x = self.reference.conv(x, key, stride)
        return F.relu(self.reference.norm(x, norm)) if norm else x

    pool = staticmethod(lambda x: F.max_pool2d(x, 2))
    up = staticmethod(lambda x: x.repeat_interleave(2, 2).repeat_interleave(2, 3))
    add = staticmethod(torch.add)


class OnnxLayers:
    """The nodes of an ONNX file, the batch normalization in the convolutions' weights, under names without meaning."""

    def __init__(self, state, quantized):
        self.state, self.quantized = state, quantized
        self.nodes, self.initializers = [], []

    def node(self, kind, *inputs, **attributes):
        from onnx import helper

        output = f"value{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def constant(self, array):
        from onnx import numpy_helper

        name = f"constant{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def conv(self, x, key, norm=None, stride=1):
        weight, bias = self.state[f"{key}.weight"], self.state[f"{key}.bias"]
        if norm:
            scale = self.state[f"{norm}.weight"] / (self.state[f"{norm}.running_var"] + 1e-5).sqrt()
            weight = weight * scale[:, None, None, None]
            bias = (bias - self.state[f"{norm}.running_mean"]) * scale + self.state[f"{norm}.bias"]
        side = weight.shape[-1]
        groups = 1 if side == 1 or stride == 2 else len(weight)
        name = self.constant(weight.numpy())
        if self.quantized and side == 1:
            name = self.quantize(weight.numpy())
        attributes = {"kernel_shape": [side] * 2, "pads": [side // 2] * 4, "strides": [stride] * 2, "group": groups}
        x = self.node("Conv", x, name, self.constant(bias.numpy()), **attributes)
        return self.node("Relu", x) if norm else x

    def quantize(self, weight):
        """As OpenCV's block quantization writes it: rows of integers in blocks, brought back to their shape."""
        rows = weight.reshape(len(weight), -1)
        block = min(16, rows.shape[1])
        blocks = rows.reshape(len(rows), -1, block)
        scales = np.abs(blocks).max(2) / 127
        integers = np.rint(blocks / scales[:, :, None]).astype(np.int8).reshape(rows.shape)
        inputs = (self.constant(array) for array in (integers, scales, np.zeros_like(scales, dtype=np.int8)))
        back = self.node("DequantizeLinear", *inputs, axis=1, block_size=block)
        return self.node("Reshape", back, self.constant(np.array(weight.shape, dtype=np.int64)))

    def pool(self, x):
        return self.node("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])

    def up(self, x):
        return self.node("Resize", x, "", self.constant(np.array([1, 1, 2, 2], dtype=np.float32)))

    def add(self, a, b):
        return self.node("Add", a, b)

    def save(self, file, outputs):
        from onnx import TensorProto, helper, save

        for output, value in outputs.items():
            flat = self.node("Transpose", value, perm=[0, 2, 3, 1])
            self.nodes.append(
                helper.make_node("Sigmoid" if output[:3] in ("cls", "obj") else "Identity", [flat], [output])
            )
        given = helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, None, None])
        made = [helper.make_tensor_value_info(output, TensorProto.FLOAT, None) for output in outputs]
        graph = helper.make_graph(self.nodes, "yunet", [given], made, self.initializers)
        save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)]), file)


def write_onnx(file, state, shared, quantized=False):
    layers = OnnxLayers(state, quantized)
    layers.save(file, original(layers, "input", shared))
    return file


@torch.no_grad()
def difference(model, outputs, pixels):
    """The largest difference of a model's maps for RGB pixels from the original's for BGR."""
    found = {}
    for stride, maps in zip((8, 16, 32), model.predict(pixels), strict=True):
        parts = maps.split(list(HEADS.values()), 1)
        found |= {f"{head}_{stride}": part for head, part in zip(HEADS, parts, strict=True)}
    scale = max(value.abs().max().item() for value in outputs.values())
    return max((found[name] - value).abs().max().item() for name, value in outputs.items()) / scale


@pytest.mark.parametrize("size", SIZES)
@torch.no_grad()
def test_the_converted_network_gives_the_original_numbers(size, tmp_path):
    state = random_weights(size)
    torch.save({"state_dict": state, "meta": {"epoch": 640}}, tmp_path / "yunet.pth")
    assert "YuNet" in convert("yunet", tmp_path / "yunet.pth", tmp_path / "detector")
    model = AutoModel.from_pretrained(tmp_path / "detector").eval()
    assert (model.config.widths, model.config.head_units) == SIZES[size]
    pixels = torch.rand(2, 3, 64, 96)
    expected = original(TorchLayers(state), pixels.flip(1), SIZES[size][1])
    assert difference(model, expected, pixels) < 1e-5
    assert AutoImageProcessor.from_pretrained(tmp_path / "detector").max_pixels > 0
    card = (tmp_path / "detector" / "README.md").read_text()
    assert "yunet.pth" in card and "Apache" in card and "from hfembed import YuNetModel" in card


@pytest.mark.parametrize("size", SIZES)
@torch.no_grad()
def test_an_onnx_file_is_the_same_network_whatever_its_nodes_are_called(size, tmp_path):
    pytest.importorskip("onnx")
    state = random_weights(size)
    model = convert_yunet(write_onnx(tmp_path / "yunet.onnx", state, SIZES[size][1]), tmp_path / "float")
    assert (model.config.widths, model.config.head_units) == SIZES[size]
    license = {"s": "mit", "n": "apache-2.0"}[size]  # of OpenCV's model zoo, and of those who trained it
    assert f"license: {license}" in (tmp_path / "float" / "README.md").read_text()
    pixels = torch.rand(1, 3, 64, 96)
    expected = original(TorchLayers(state), pixels.flip(1), SIZES[size][1])
    assert difference(model, expected, pixels) < 1e-5
    file = write_onnx(tmp_path / "int8.onnx", state, SIZES[size][1], quantized=True)
    assert 1e-5 < difference(convert_yunet(file, tmp_path / "int8"), expected, pixels) < 0.1


def test_bad_sources_are_named(tmp_path):
    pytest.importorskip("onnx")
    state = random_weights("s")

    def refused(file, match):
        with pytest.raises(InputError, match=match):
            convert_yunet(file, tmp_path / "detector")
        assert not (tmp_path / "detector").exists()

    torch.save({"state_dict": state | {"neck.lateral_convs.1.conv1.weight": torch.zeros(1)}}, tmp_path / "a.pth")
    refused(tmp_path / "a.pth", r"a.pth is not a YuNet .*neck.lateral_convs.1.conv1.weight \(1,\) instead of")
    torch.save({"fc.weight": torch.zeros(1)}, tmp_path / "b.pth")
    refused(tmp_path / "b.pth", r"b.pth is not a YuNet .*1 unexpected \(fc.weight\)")
    layers = OnnxLayers(state, quantized=False)
    outputs = original(layers, "input", 0)
    layers.save(tmp_path / "c.onnx", {name: value for name, value in outputs.items() if name != "obj_16"})
    refused(tmp_path / "c.onnx", "c.onnx is no YuNet: it has no output 'obj_16'")
    layers = OnnxLayers(state, quantized=False)
    layers.save(tmp_path / "d.onnx", dict.fromkeys(outputs, "input"))
    refused(tmp_path / "d.onnx", "d.onnx is no YuNet: a graph input where")


def decoded(session, photo, score_threshold):
    """Faces of a photo by onnxruntime, decoded position by position."""
    height, width = photo.shape[:2]
    padded = np.zeros((1, 3, -(-height // 32) * 32, -(-width // 32) * 32), np.float32)
    padded[0, :, :height, :width] = photo[:, :, ::-1].transpose(2, 0, 1)
    names = [output.name for output in session.get_outputs()]
    outputs = dict(zip(names, session.run(None, {"input": padded}), strict=True))
    faces = []
    for stride in (8, 16, 32):
        columns = padded.shape[3] // stride
        cls, obj, bbox, kps = (outputs[f"{head}_{stride}"][0] for head in HEADS)
        for place in range(len(cls)):
            score = float((cls[place, 0] * obj[place, 0]) ** 0.5)
            if score >= score_threshold:
                row, column = divmod(place, columns)
                x, y, half_width, half_height = (
                    (column + bbox[place, 0]) * stride,
                    (row + bbox[place, 1]) * stride,
                    np.exp(bbox[place, 2]) * stride / 2,
                    np.exp(bbox[place, 3]) * stride / 2,
                )
                points = (kps[place].reshape(5, 2) + [column, row]) * stride
                faces.append((score, [x - half_width, y - half_height, x + half_width, y + half_height], points))
    return faces


@pytest.mark.data
@pytest.mark.parametrize("file", ["yunet_n.pth", "yunet_n_dynamic.onnx"])
def test_faces_in_real_photos_are_onnxruntimes(file, research_data, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    folder = research_data / "weights" / "yunet"
    model = convert_yunet(folder / file, tmp_path / "detector")
    session = onnxruntime.InferenceSession(folder / "yunet_n_dynamic.onnx", providers=["CPUExecutionProvider"])
    photos = real_photos(research_data, 8)
    found = model.detect_in([as_pixels(photo) for photo in photos])
    assert sum(len(faces.scores) for faces in found) >= 8
    for photo, faces in zip(photos, found, strict=True):
        expected = non_maximum_suppression(decoded(session, photo, model.config.score_threshold), 0.3)
        assert_same_faces(faces, expected, pixels=0.5, scores=1e-4)
