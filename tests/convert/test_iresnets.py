"""`hfembed convert insightface | adaface | cvlface`: generated files with the keys of the public ones.

Narrow networks stand for the public ones, whose widths are 64 to 512: depths, keys and layers are the same.
"""

from collections import OrderedDict

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoConfig

from hfembed.convert.adaface import convert_adaface, convert_cvlface
from hfembed.convert.insightface import convert_insightface
from hfembed.errors import InputError
from tests.convert.foreign_networks import OnnxFile, Reference, StateDict, check_equal, convert, onnx_forward

DEPTHS = {
    "r18": (2, 2, 2, 2), "r34": (3, 4, 6, 3), "r50": (3, 4, 14, 3), "r100": (3, 13, 30, 3), "r200": (6, 26, 60, 6)
}  # fmt: skip
BOTTLENECK_DEPTHS = {"ir152": (3, 8, 36, 3), "ir200": (3, 24, 36, 3)}
# the deeper ones differ in the number of blocks alone
NAMES = ["r18", *(pytest.param(name, marks=pytest.mark.slow) for name in ("r34", "r50", "r100", "r200"))]
NARROW = (4, 8, 12, 16)
WIDE = (64, 128, 256, 512)


def blocks(depths, widths):
    """Stage, block, channels in and out, stride."""
    before = widths[0]
    for stage, (depth, width) in enumerate(zip(depths, widths, strict=True)):
        for block in range(depth):
            yield stage, block, before, width, 2 if block == 0 else 1
            before = width


def arcface_state_dict(depths, widths=NARROW, embedding_size=20):
    state = StateDict()
    state.conv("conv1", widths[0], 3, 3, 3)
    state.norm("bn1", widths[0])
    state.prelu("prelu", widths[0])
    for stage, block, channels, out, stride in blocks(depths, widths):
        key = f"layer{stage + 1}.{block}"
        state.norm(f"{key}.bn1", channels)
        state.conv(f"{key}.conv1", out, channels, 3, 3)
        state.norm(f"{key}.bn2", out)
        state.prelu(f"{key}.prelu", out)
        state.conv(f"{key}.conv2", out, out, 3, 3)
        state.norm(f"{key}.bn3", out)
        # sums of many blocks would grow without bound
        state[f"{key}.bn3.weight"] *= 0.3
        if stride == 2:
            state.conv(f"{key}.downsample.0", out, channels, 1, 1)
            state.norm(f"{key}.downsample.1", out)
    state.norm("bn2", widths[-1])
    state.linear("fc", embedding_size, widths[-1] * 49)
    state.norm("features", embedding_size)
    return state


def adaface_state_dict(depths, widths=NARROW, embedding_size=20, use_se=False):
    state = StateDict()
    state.conv("input_layer.0", widths[0], 3, 3, 3)
    state.norm("input_layer.1", widths[0])
    state.prelu("input_layer.2", widths[0])
    for index, (_, _, channels, out, _) in enumerate(blocks(depths, widths)):
        key = f"body.{index}"
        if channels != out:
            state.conv(f"{key}.shortcut_layer.0", out, channels, 1, 1)
            state.norm(f"{key}.shortcut_layer.1", out)
        state.norm(f"{key}.res_layer.0", channels)
        state.conv(f"{key}.res_layer.1", out, channels, 3, 3)
        state.norm(f"{key}.res_layer.2", out)
        state.prelu(f"{key}.res_layer.3", out)
        state.conv(f"{key}.res_layer.4", out, out, 3, 3)
        state.norm(f"{key}.res_layer.5", out)
        state[f"{key}.res_layer.5.weight"] *= 0.3
        if use_se:
            state.conv(f"{key}.res_layer.se_block.fc1", out // 16, out, 1, 1)
            state.conv(f"{key}.res_layer.se_block.fc2", out, out // 16, 1, 1)
    state.norm("output_layer.0", widths[-1])
    state.linear("output_layer.3", embedding_size, widths[-1] * 49)
    state.statistics("output_layer.4", embedding_size)
    return state


def bottleneck_state_dict(depths, widths, stem=4, embedding_size=20):
    """AdaFace's IR-152 and IR-200."""
    state = StateDict()
    state.conv("input_layer.0", stem, 3, 3, 3)
    state.norm("input_layer.1", stem)
    state.prelu("input_layer.2", stem)
    channels, index = stem, 0
    for depth, out in zip(depths, widths, strict=True):
        for _ in range(depth):
            key = f"body.{index}"
            if channels != out:
                state.conv(f"{key}.shortcut_layer.0", out, channels, 1, 1)
                state.norm(f"{key}.shortcut_layer.1", out)
            state.norm(f"{key}.res_layer.0", channels)
            state.conv(f"{key}.res_layer.1", out // 4, channels, 1, 1)
            state.norm(f"{key}.res_layer.2", out // 4)
            state.prelu(f"{key}.res_layer.3", out // 4)
            state.conv(f"{key}.res_layer.4", out // 4, out // 4, 3, 3)
            state.norm(f"{key}.res_layer.5", out // 4)
            state.prelu(f"{key}.res_layer.6", out // 4)
            state.conv(f"{key}.res_layer.7", out, out // 4, 1, 1)
            state.norm(f"{key}.res_layer.8", out)
            state[f"{key}.res_layer.8.weight"] *= 0.3
            channels, index = out, index + 1
    state.norm("output_layer.0", widths[-1])
    state.linear("output_layer.3", embedding_size, widths[-1] * 49)
    state.statistics("output_layer.4", embedding_size)
    return state


class Bottlenecks(Reference):
    """AdaFace's network of bottlenecks, whose stages begin with a stride of 2 in the last convolution."""

    def __init__(self, state, depths):
        super().__init__(state)
        self.strides = [2 if block == 0 else 1 for depth in depths for block in range(depth)]

    def __call__(self, x):
        x = self.prelu(self.norm(self.conv(x, "input_layer.0"), "input_layer.1"), "input_layer.2")
        for index, stride in enumerate(self.strides):
            key = f"body.{index}.res_layer"
            y = self.norm(self.conv(self.norm(x, f"{key}.0"), f"{key}.1"), f"{key}.2")
            y = self.norm(self.conv(self.prelu(y, f"{key}.3"), f"{key}.4"), f"{key}.5")
            y = self.norm(self.conv(self.prelu(y, f"{key}.6"), f"{key}.7", stride), f"{key}.8")
            shortcut = f"body.{index}.shortcut_layer"
            if f"{shortcut}.0.weight" in self.state:
                x = self.norm(self.conv(x, f"{shortcut}.0", stride), f"{shortcut}.1")
            x = x + y
        return self.norm(self.linear(self.norm(x, "output_layer.0").flatten(1), "output_layer.3"), "output_layer.4")


class IResNets(Reference):
    """The two spellings of IResNet: 'improved' residual units of Duta et al. 2020, as ArcFace uses them."""

    def __init__(self, state, depths, widths=NARROW):
        super().__init__(state)
        self.blocks = list(blocks(depths, widths))

    def arcface(self, x):
        x = self.prelu(self.norm(self.conv(x, "conv1"), "bn1"), "prelu")
        for stage, block, _, _, stride in self.blocks:
            key = f"layer{stage + 1}.{block}"
            y = self.norm(self.conv(self.norm(x, f"{key}.bn1"), f"{key}.conv1"), f"{key}.bn2")
            y = self.norm(self.conv(self.prelu(y, f"{key}.prelu"), f"{key}.conv2", stride), f"{key}.bn3")
            x = y + (self.norm(self.conv(x, f"{key}.downsample.0", 2), f"{key}.downsample.1") if stride == 2 else x)
        return self.norm(self.linear(self.norm(x, "bn2").flatten(1), "fc"), "features")

    def adaface(self, x):
        x = self.prelu(self.norm(self.conv(x, "input_layer.0"), "input_layer.1"), "input_layer.2")
        for index, (_, _, channels, out, stride) in enumerate(self.blocks):
            key = f"body.{index}"
            y = self.norm(self.conv(self.norm(x, f"{key}.res_layer.0"), f"{key}.res_layer.1"), f"{key}.res_layer.2")
            y = self.conv(self.prelu(y, f"{key}.res_layer.3"), f"{key}.res_layer.4", stride)
            y = self.norm(y, f"{key}.res_layer.5")
            if f"{key}.res_layer.se_block.fc1.weight" in self.state:
                gates = torch.relu(self.conv(y.mean((2, 3), keepdim=True), f"{key}.res_layer.se_block.fc1"))
                y = y * torch.sigmoid(self.conv(gates, f"{key}.res_layer.se_block.fc2"))
            if channels == out:
                # a max pooling over single pixels: every second one where the stride is 2
                x = y + x[:, :, ::stride, ::stride]
            else:
                x = y + self.norm(self.conv(x, f"{key}.shortcut_layer.0", stride), f"{key}.shortcut_layer.1")
        return self.norm(self.linear(self.norm(x, "output_layer.0").flatten(1), "output_layer.3"), "output_layer.4")


@pytest.mark.parametrize("name", NAMES)
def test_arcface_torch(name, tmp_path):
    torch.manual_seed(0)
    state = arcface_state_dict(DEPTHS[name])
    torch.save(OrderedDict(state), tmp_path / "backbone.pth")
    convert("insightface", tmp_path / "backbone.pth", tmp_path / "out")
    check_equal(tmp_path / "out", IResNets(state, DEPTHS[name]).arcface, (112, 112), std=127.5)


@pytest.mark.parametrize("use_se", [False, True])
@pytest.mark.parametrize("name", ["r18", pytest.param("r50", marks=pytest.mark.slow)])
def test_adaface_sees_bgr(name, use_se, tmp_path):
    torch.manual_seed(0)
    widths = (64, 72, 80, 96) if use_se else NARROW
    state = adaface_state_dict(DEPTHS[name], widths, use_se=use_se)
    lightning = {f"model.{key}": value for key, value in state.items()} | {"head.kernel": torch.zeros(20, 7)}
    torch.save({"epoch": 25, "state_dict": lightning}, tmp_path / "adaface.ckpt")
    convert("adaface", tmp_path / "adaface.ckpt", tmp_path / "out")
    check_equal(tmp_path / "out", IResNets(state, DEPTHS[name], widths).adaface, (112, 112), std=127.5, bgr=True)


@pytest.mark.parametrize("layout", ["adaface", "arcface"])
@pytest.mark.parametrize("color", ["RGB", "BGR"])
def test_cvlface_sees_the_colors_its_settings_say(layout, color, tmp_path):
    torch.manual_seed(0)
    make = {"adaface": adaface_state_dict, "arcface": arcface_state_dict}[layout]
    state = make(DEPTHS["r18"])
    # as the repositories on the Hub are laid out
    (tmp_path / "repo" / "pretrained_model").mkdir(parents=True)
    (tmp_path / "repo" / "pretrained_model" / "model.yaml").write_text(f"name: ir18\ncolor_space: '{color}'\n")
    torch.save({f"net.{key}": value for key, value in state.items()}, tmp_path / "repo/pretrained_model/model.pt")
    save_file({f"model.net.{key}": value for key, value in state.items()}, tmp_path / "repo" / "model.safetensors")
    convert("cvlface", tmp_path / "repo", tmp_path / "out")
    forward = getattr(IResNets(state, DEPTHS["r18"]), layout)
    check_equal(tmp_path / "out", forward, (112, 112), std=127.5, bgr=color == "BGR")
    # the weights alone do not tell
    lonely = tmp_path / "model.safetensors"
    lonely.write_bytes((tmp_path / "repo" / "model.safetensors").read_bytes())
    with pytest.raises(InputError, match="say --color"):
        convert_cvlface(str(lonely), tmp_path / "lonely")
    convert("cvlface", lonely, tmp_path / "lonely", "--color", color.lower())
    check_equal(tmp_path / "lonely", forward, (112, 112), std=127.5, bgr=color == "BGR")


@pytest.mark.data
@pytest.mark.parametrize("layout", ["insightface", "adaface"])
def test_on_real_photos(layout, real_crops, tmp_path):
    torch.manual_seed(0)
    arcface = layout == "insightface"
    state = (arcface_state_dict if arcface else adaface_state_dict)(DEPTHS["r18"])
    torch.save(OrderedDict(state), tmp_path / "backbone.pth")
    convert(layout, tmp_path / "backbone.pth", tmp_path / "out")
    network = IResNets(state, DEPTHS["r18"])
    forward = network.arcface if arcface else network.adaface
    check_equal(tmp_path / "out", forward, (112, 112), std=127.5, bgr=not arcface, photos=real_crops)


@pytest.mark.parametrize("name", DEPTHS)
def test_public_sizes_get_the_public_names(name):
    """Checked on the meta device: keys and shapes, no numbers."""
    from hfembed.convert.insightface import _foreign_key
    from hfembed.convert.iresnet import iresnet_config
    from hfembed.models.face_embedder.modeling_face_embedder import FaceEmbedderModel

    config = iresnet_config(DEPTHS[name], WIDE, 49, 512)
    assert config.trunk == f"iresnet{name[1:]}" and config.image_size == [112, 112]
    with torch.device("meta"):
        theirs = arcface_state_dict(DEPTHS[name], WIDE, 512)
        ours = FaceEmbedderModel(config).state_dict()
    assert {_foreign_key(key): value.shape for key, value in ours.items()} == {
        key: value.shape for key, value in theirs.items() if key != "fc.bias"
    }


def test_other_networks_are_refused_with_what_differs(tmp_path):
    torch.manual_seed(0)
    arcface, adaface = arcface_state_dict(DEPTHS["r18"]), adaface_state_dict(DEPTHS["r18"])
    for converter, state, missing in (
        (convert_insightface, arcface, "layer3.1.bn3.bias"),
        (convert_adaface, adaface, "body.5.res_layer.5.bias"),
    ):
        broken = OrderedDict(state)
        del broken[missing]
        broken["classifier.weight"] = torch.zeros(3, 20)
        torch.save(broken, tmp_path / "net.pth")
        with pytest.raises(InputError) as caught:
            converter(str(tmp_path / "net.pth"), tmp_path / "out")
        assert f"1 missing ({missing})" in str(caught.value) and "\n" not in str(caught.value)
        assert "1 unexpected (classifier.weight)" in str(caught.value)
    for converter, state in ((convert_insightface, adaface), (convert_adaface, arcface)):
        torch.save(OrderedDict(state), tmp_path / "net.pth")
        with pytest.raises(InputError, match="is not an IResNet"):
            converter(str(tmp_path / "net.pth"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "depths", [(2, 1, 2, 1), *(pytest.param(depths, marks=pytest.mark.slow) for depths in BOTTLENECK_DEPTHS.values())]
)
def test_adaface_bottlenecks(depths, tmp_path):
    torch.manual_seed(0)
    state = bottleneck_state_dict(depths, (8, 12, 16, 20))
    torch.save({"state_dict": {f"model.{key}": value for key, value in state.items()}}, tmp_path / "ir.ckpt")
    convert("adaface", tmp_path / "ir.ckpt", tmp_path / "out")
    check_equal(tmp_path / "out", Bottlenecks(state, depths), (112, 112), std=127.5, bgr=True)


@pytest.mark.parametrize("name", BOTTLENECK_DEPTHS)
def test_public_bottlenecks_are_known(name):
    """Checked on the meta device: keys and shapes, no numbers."""
    from hfembed.convert.adaface import _foreign_key
    from hfembed.convert.iresnet import iresnet_config
    from hfembed.models.face_embedder.modeling_face_embedder import FaceEmbedderModel

    depths, widths = BOTTLENECK_DEPTHS[name], (256, 512, 1024, 2048)
    config = iresnet_config(depths, widths, 49, 512, bottleneck_stem=64)
    assert config.trunk == ("iresnet152" if name == "ir152" else "iresnet") and config.image_size == [112, 112]
    first_of_stage = [sum(depths[:stage]) for stage in range(4)]
    with torch.device("meta"):
        theirs = bottleneck_state_dict(depths, widths, 64, 512)
        ours = FaceEmbedderModel(config).state_dict()
    shapes = {_foreign_key(key, first_of_stage): value.shape for key, value in ours.items()}
    scaled = {"output_layer.4.weight", "output_layer.4.bias"}  # our last BatchNorm has a scale, theirs has none
    assert {key: shape for key, shape in shapes.items() if key not in scaled} == {
        key: value.shape for key, value in theirs.items() if key != "output_layer.3.bias"
    }


class OnnxIResNet(OnnxFile):
    """The arcface network as exporters write it."""

    def __init__(self, state, depths, fold):
        super().__init__(state)
        self.fold = fold
        x = self.activation(self.conv_norm("data", "conv1", "bn1"), "prelu")
        for stage, block, _, _, stride in blocks(depths, NARROW):
            key = f"layer{stage + 1}.{block}"
            y = self.conv_norm(self.norm(x, f"{key}.bn1"), f"{key}.conv1", f"{key}.bn2")
            y = self.conv_norm(self.activation(y, f"{key}.prelu"), f"{key}.conv2", f"{key}.bn3", stride)
            if stride == 2:
                x = self.conv_norm(x, f"{key}.downsample.0", f"{key}.downsample.1", 2)
            x = self.node("Add", [y, x])
        self.head(x, "bn2", "fc", "features")

    def conv_norm(self, x, conv, norm, stride=1):
        if not self.fold:
            return self.norm(self.conv(x, conv, stride), norm)
        weight, scale = self.state[f"{conv}.weight"], self.state[f"{norm}.weight"]
        scale = scale / torch.sqrt(self.state[f"{norm}.running_var"] + 1e-5)
        bias = self.state[f"{norm}.bias"] - self.state[f"{norm}.running_mean"] * scale
        self.state |= {"folded.weight": weight * scale.view(-1, 1, 1, 1), "folded.bias": bias}
        return self.conv(x, "folded", stride)


@pytest.mark.parametrize("fold", [False, True])
def test_onnx_by_the_order_of_the_graph(fold, tmp_path):
    pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    state = arcface_state_dict(DEPTHS["r18"])
    OnnxIResNet(state, DEPTHS["r18"], fold).save(tmp_path / "w600k.onnx")
    convert("insightface", tmp_path / "w600k.onnx", tmp_path / "out")
    check_equal(tmp_path / "out", onnx_forward(tmp_path / "w600k.onnx"), (112, 112), std=127.5)
    check_equal(tmp_path / "out", IResNets(state, DEPTHS["r18"]).arcface, (112, 112), std=127.5)


def test_onnx_graphs_that_are_no_iresnet_are_refused(tmp_path):
    pytest.importorskip("onnx")
    torch.manual_seed(0)
    graph = OnnxIResNet(arcface_state_dict(DEPTHS["r18"]), DEPTHS["r18"], fold=False)
    changes = {
        "a Relu where": lambda: graph.nodes.__setitem__(8, graph.helper.make_node("Relu", ["value_7"], ["value_8"])),
        "a Sub": lambda: graph.nodes[0].input.__setitem__(0, "centered"),
    }
    before = list(graph.nodes)
    for words, change in changes.items():
        graph.nodes = list(before)
        change()
        if words == "a Sub":
            mean = graph.constant(np.float32(127.5))
            graph.nodes.insert(0, graph.helper.make_node("Sub", ["data", mean], ["centered"]))
        graph.save(tmp_path / "net.onnx")
        with pytest.raises(InputError, match=f"is no IResNet: {words}") as caught:
            convert_insightface(str(tmp_path / "net.onnx"), tmp_path / "out")
        assert "\n" not in str(caught.value)
    (tmp_path / "net.onnx").write_bytes(b"just some text " * 99)
    with pytest.raises(InputError, match="damaged, or no ONNX file"):
        convert_insightface(str(tmp_path / "net.onnx"), tmp_path / "out")


@pytest.mark.attack
def test_an_onnx_file_names_no_other_file_and_runs_in_no_circle(tmp_path):
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    weights = onnx.TensorProto(name="w", data_type=1, dims=[1], data_location=onnx.TensorProto.EXTERNAL)
    weights.external_data.add(key="location", value="../../../etc/passwd")
    image, embedding = (helper.make_tensor_value_info(name, 1, [1]) for name in ("x", "a"))
    nodes = [helper.make_node("Identity", ["a"], ["b"]), helper.make_node("Identity", ["b"], ["a"])]
    for tensors, words in (([weights], "are in another file"), ([], "has a cycle")):
        model = helper.make_model(helper.make_graph(nodes, "g", [image], [embedding], tensors))
        (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
        with pytest.raises(InputError, match=words):
            convert_insightface(str(tmp_path / "net.onnx"), tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["r18", "r50", "r100"])
def test_at_the_public_size(name, tmp_path):
    torch.manual_seed(0)
    state = arcface_state_dict(DEPTHS[name], WIDE, 512)
    torch.save(OrderedDict(state), tmp_path / "backbone.pth")
    convert("insightface", tmp_path / "backbone.pth", tmp_path / "out")
    assert AutoConfig.from_pretrained(tmp_path / "out").trunk == f"iresnet{name[1:]}"
    check_equal(tmp_path / "out", IResNets(state, DEPTHS[name], WIDE).arcface, (112, 112), std=127.5)
