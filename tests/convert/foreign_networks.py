"""Foreign networks for the tests: random parameters under their names, and their layers as plain functions.

Where the real files are not at hand, generated ones with exactly their keys and shapes stand for them.
"""

import importlib.util
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import AutoImageProcessor, AutoModel
from typer.testing import CliRunner

from hfembed.cli import app
from hfembed.faces.data.synthetic_faces import make_synthetic_faces


class StateDict(OrderedDict):
    """Random parameters under the names of a trainer."""

    def conv(self, key, out_channels, in_channels, *kernel):
        fan_in = in_channels * kernel[0] * kernel[1]
        self[f"{key}.weight"] = torch.randn(out_channels, in_channels, *kernel) * (2 / fan_in) ** 0.5

    def norm(self, key, channels):
        self[f"{key}.weight"] = 1 + 0.1 * torch.randn(channels)
        self[f"{key}.bias"] = 0.1 * torch.randn(channels)
        self.statistics(key, channels)

    def statistics(self, key, channels):
        self[f"{key}.running_mean"] = 0.1 * torch.randn(channels)
        self[f"{key}.running_var"] = 0.5 + torch.rand(channels)
        self[f"{key}.num_batches_tracked"] = torch.tensor(7)

    def prelu(self, key, channels):
        self[f"{key}.weight"] = 0.5 * torch.rand(channels)

    def linear(self, key, out_features, in_features, bias=True):
        self[f"{key}.weight"] = torch.randn(out_features, in_features) / in_features**0.5
        if bias:
            self[f"{key}.bias"] = 0.1 * torch.randn(out_features)


class Reference:
    """The network as a function of a state dict, written down without its code."""

    def __init__(self, state):
        self.state = state

    def conv(self, x, key, stride=1, padding=None):
        weight = self.state[f"{key}.weight"]
        padding = [side // 2 for side in weight.shape[2:]] if padding is None else padding
        groups = 1 if weight.shape[1] == x.shape[1] else x.shape[1]
        return F.conv2d(x, weight, self.state.get(f"{key}.bias"), stride, padding, groups=groups)

    def norm(self, x, key, eps=1e-5):
        # a vector has no places
        shape = (-1, 1, 1) if x.ndim == 4 else (-1,)
        mean, var = (self.state[f"{key}.{name}"].view(shape) for name in ("running_mean", "running_var"))
        if f"{key}.weight" not in self.state:  # affine=False
            return (x - mean) / torch.sqrt(var + eps)
        weight, bias = (self.state[f"{key}.{name}"].view(shape) for name in ("weight", "bias"))
        return (x - mean) / torch.sqrt(var + eps) * weight + bias

    def prelu(self, x, key):
        return torch.where(x > 0, x, x * self.state[f"{key}.weight"].view(-1, 1, 1))

    def linear(self, x, key):
        y = x @ self.state[f"{key}.weight"].T
        return y + self.state[f"{key}.bias"] if f"{key}.bias" in self.state else y


class OnnxFile:
    """A network as an ONNX file, node by node; with a block size, weights are int8 in blocks along their rows."""

    def __init__(self, state, block_size=None):
        from onnx import helper

        self.helper, self.state, self.block_size = helper, dict(state), block_size
        self.nodes, self.constants = [], []

    def node(self, kind, inputs, **attributes):
        output = f"value_{len(self.nodes)}"
        self.nodes.append(self.helper.make_node(kind, inputs, [output], **attributes))
        return output

    def constant(self, values):
        from onnx import numpy_helper

        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def weight(self, key):
        """As the OpenCV model zoo quantizes: a scale and a zero point for each block, then the weight's own shape."""
        weight = self.state[key].numpy()
        if not self.block_size:
            return self.constant(weight)
        rows = weight.reshape(len(weight), -1)
        block = min(self.block_size, rows.shape[1])
        parts = np.split(rows, range(block, rows.shape[1], block), axis=1)
        low, high = (np.stack([f(part, axis=1) for part in parts], 1) for f in (np.min, np.max))
        scale = np.maximum((high - low) / 255, 1e-8).astype(np.float32)
        zero = np.round(-128 - low / scale).clip(-128, 127)
        wide = [np.repeat(values, block, 1)[:, : rows.shape[1]] for values in (scale, zero)]
        quantized = np.round(rows / wide[0] + wide[1]).clip(-128, 127)
        # the reference sees what the file says
        self.state[key] = torch.from_numpy((quantized - wide[1]) * wide[0]).float().view(weight.shape)
        inputs = [quantized.astype(np.int8), scale, zero.astype(np.int8)]
        x = self.node("DequantizeLinear", list(map(self.constant, inputs)), axis=1, block_size=block)
        return self.node("Reshape", [x, self.constant(np.array(weight.shape))])

    def norm(self, x, key, eps=1e-5):
        names = ("weight", "bias", "running_mean", "running_var")
        inputs = [self.constant(self.state[f"{key}.{name}"]) for name in names]
        return self.node("BatchNormalization", [x, *inputs], epsilon=eps)

    def conv(self, x, key, stride=1, depthwise=False):
        weight = self.state[f"{key}.weight"]
        side, groups = weight.shape[-1], len(weight) if depthwise else 1
        inputs = [x, self.weight(f"{key}.weight")]
        if f"{key}.bias" in self.state:
            inputs.append(self.constant(self.state[f"{key}.bias"]))
        layout = {"kernel_shape": [side, side], "strides": [stride, stride], "pads": [side // 2] * 4}
        return self.node("Conv", inputs, group=groups, **layout)

    def activation(self, x, key):
        return self.node("PRelu", [x, self.constant(self.state[f"{key}.weight"].view(-1, 1, 1))])

    def head(self, x, last, linear, norm):
        x = self.node("Flatten", [self.norm(x, last)], axis=1)
        bias = self.constant(self.state[f"{linear}.bias"])
        self.norm(self.node("Gemm", [x, self.weight(f"{linear}.weight"), bias], transB=1), norm)

    def save(self, path):
        """Write the network, from the input `data` (batch, 3, 112, 112) to what the last node makes."""
        import onnx

        make = self.helper.make_tensor_value_info
        graph = self.helper.make_graph(
            self.nodes,
            "backbone",
            [make("data", onnx.TensorProto.FLOAT, ["batch", 3, 112, 112])],
            [make(self.nodes[-1].output[0], onnx.TensorProto.FLOAT, None)],
            self.constants,
        )
        model = self.helper.make_model(graph, opset_imports=[self.helper.make_opsetid("", 21)], ir_version=10)
        onnx.save(model, path)


def onnx_forward(content):
    """The function that onnxruntime makes of an ONNX file: pixels (B, 3, H, W) -> outputs, one image at a time."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def run(pixels):
        return torch.cat([torch.from_numpy(session.run(None, {"data": image[None].numpy()})[0]) for image in pixels])

    return run


def package_file(package, path):
    """A file in an installed package, which is not imported; without it the test is skipped."""
    spec = importlib.util.find_spec(package)
    for folder in spec.submodule_search_locations if spec else ():
        if (Path(folder) / path).is_file():
            return Path(folder) / path
    pytest.skip(f"the package {package} with its file {path} is not installed")


def convert(source, *arguments):
    """Run `hfembed convert SOURCE ...`; what it printed."""
    result = CliRunner().invoke(app, ["convert", source, *map(str, arguments)])
    assert result.exit_code == 0, result.output or result.exception
    return result.stdout


def synthetic_crops(processor, count=4):
    """Aligned crops (count, H, W, C), uint8, of synthetic faces as the checkpoint's processor makes them."""
    faces = make_synthetic_faces(num_identities=count // 2, photos_per_identity=2, seed=3)
    return np.stack([processor.align(face["image"], face["landmarks"]) for face in faces])


@torch.no_grad()
def check_equal(folder, forward, size, std, bgr=False, photos=None):
    """The folder gives the embeddings of `forward` (normalized pixels -> before unit length).

    Compared on noise and on synthetic faces. The pixels are normalized here without the processor: (x - 127.5) / std,
    channels reversed for BGR.
    """
    model, processor = AutoModel.from_pretrained(folder).eval(), AutoImageProcessor.from_pretrained(folder)
    noise = np.random.default_rng(0).integers(0, 256, (2, *size, 3), dtype=np.uint8)
    crops = synthetic_crops(processor) if photos is None else photos
    # `align` gives the network's order of colors; a crop handed to the processor is in RGB
    crops = crops[..., ::-1] if bgr and photos is None else crops
    images = np.concatenate([noise, crops])
    assert images.shape[1:] == (*size, 3)
    inputs = processor(list(images)).pixel_values
    seen = images[..., ::-1] if bgr else images
    expected = (torch.from_numpy(seen.astype(np.float32)) - 127.5).permute(0, 3, 1, 2) / std
    torch.testing.assert_close(inputs, expected, atol=2e-6, rtol=0)
    features = forward(expected)
    embeddings = model(inputs).embeddings
    assert F.cosine_similarity(features, embeddings).min() > 0.99999
    torch.testing.assert_close(embeddings, F.normalize(features), atol=1e-5, rtol=0)
    torch.testing.assert_close(model(inputs).norms, features.norm(dim=1), rtol=1e-4, atol=0)
    # different faces, different embeddings: the comparison sees more than a constant
    assert torch.pdist(F.normalize(features)).min() > 1e-3
