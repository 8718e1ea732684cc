"""`hfembed convert mobilefacenet`: generated files with the keys of both trainers; the real ones where present."""

import json
from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoImageProcessor, AutoModel
from typer.testing import CliRunner

from hfembed.cli import app
from hfembed.convert.mobilefacenet import convert_mobilefacenet
from hfembed.errors import InputError
from tests.convert.foreign_networks import Reference, StateDict

# expansion, channels, blocks, stride: Table 1 of the paper (Chen et al. 2018)
BOTTLENECKS = [(2, 64, 5, 2), (4, 128, 1, 2), (2, 128, 6, 1), (4, 128, 1, 2), (2, 128, 2, 1)]


def blocks():
    """Index, channels in, between and out, stride of the fifteen bottlenecks."""
    index, channels = 0, 64
    for expansion, out, depth, stride in BOTTLENECKS:
        for block in range(depth):
            yield index, channels, channels * expansion, out, stride if block == 0 else 1
            index, channels = index + 1, out


def xiaoccer_state_dict():
    state = StateDict()
    for key, shape in (
        ("conv1", (64, 3, 3, 3)),
        ("dw_conv1", (64, 1, 3, 3)),
        ("conv2", (512, 128, 1, 1)),
        ("linear7", (512, 1, 7, 6)),
        ("linear1", (128, 512, 1, 1)),
    ):
        state.conv(f"{key}.conv", *shape)
        state.norm(f"{key}.bn", shape[0])
        if not key.startswith("linear"):
            state.prelu(f"{key}.prelu", shape[0])
    for index, channels, between, out, _ in blocks():
        key = f"blocks.{index}.conv"
        state.conv(f"{key}.0", between, channels, 1, 1)
        state.norm(f"{key}.1", between)
        state.prelu(f"{key}.2", between)
        state.conv(f"{key}.3", between, 1, 3, 3)
        state.norm(f"{key}.4", between)
        state.prelu(f"{key}.5", between)
        state.conv(f"{key}.6", out, between, 1, 1)
        state.norm(f"{key}.7", out)
    return state


def foamliu_state_dict():
    state = StateDict()
    state.conv("conv1.0", 64, 3, 3, 3)
    state.norm("conv1.1", 64)
    state.conv("dw_conv.depthwise", 64, 1, 3, 3)
    state.norm("dw_conv.bn1", 64)
    state.conv("dw_conv.pointwise", 64, 64, 1, 1)
    state.norm("dw_conv.bn2", 64)
    state.conv("conv2.0", 512, 128, 1, 1)
    state.norm("conv2.1", 512)
    state.conv("gdconv.depthwise", 512, 1, 7, 7)
    state.norm("gdconv.bn", 512)
    state.conv("conv3", 128, 512, 1, 1)
    state["conv3.bias"] = torch.randn(128)
    state.norm("bn", 128)
    for index, channels, between, out, _ in blocks():
        key = f"features.{index}.conv"
        state.conv(f"{key}.0.0", between, channels, 1, 1)
        state.norm(f"{key}.0.1", between)
        state.conv(f"{key}.1.0", between, 1, 3, 3)
        state.norm(f"{key}.1.1", between)
        state.conv(f"{key}.2", out, between, 1, 1)
        state.norm(f"{key}.3", out)
    return state


class MobileFaceNets(Reference):
    """Written from the paper: nothing shared with hfembed."""

    def xiaoccer(self, x):
        def unit(x, key, stride=1):
            return self.prelu(self.norm(self.conv(x, f"{key}.conv", stride), f"{key}.bn"), f"{key}.prelu")

        x = unit(unit(x, "conv1", 2), "dw_conv1")
        for index, channels, _, out, stride in blocks():
            key = f"blocks.{index}.conv"
            y = self.prelu(self.norm(self.conv(x, f"{key}.0"), f"{key}.1"), f"{key}.2")
            y = self.prelu(self.norm(self.conv(y, f"{key}.3", stride), f"{key}.4"), f"{key}.5")
            y = self.norm(self.conv(y, f"{key}.6"), f"{key}.7")
            x = x + y if stride == 1 and channels == out else y
        x = unit(x, "conv2")
        x = self.norm(self.conv(x, "linear7.conv", padding=0), "linear7.bn")
        return self.norm(self.conv(x, "linear1.conv"), "linear1.bn").flatten(1)

    def foamliu(self, x):
        x = F.relu6(self.norm(self.conv(x, "conv1.0", 2), "conv1.1"))
        x = F.relu(self.norm(self.conv(x, "dw_conv.depthwise"), "dw_conv.bn1"))
        x = F.relu(self.norm(self.conv(x, "dw_conv.pointwise"), "dw_conv.bn2"))
        for index, channels, _, out, stride in blocks():
            key = f"features.{index}.conv"
            y = F.relu6(self.norm(self.conv(x, f"{key}.0.0"), f"{key}.0.1"))
            y = F.relu6(self.norm(self.conv(y, f"{key}.1.0", stride), f"{key}.1.1"))
            y = self.norm(self.conv(y, f"{key}.2"), f"{key}.3")
            x = x + y if stride == 1 and channels == out else y
        x = F.relu6(self.norm(self.conv(x, "conv2.0"), "conv2.1"))
        x = self.norm(self.conv(x, "gdconv.depthwise", padding=0), "gdconv.bn")
        return self.norm(self.conv(x, "conv3"), "bn").flatten(1)


# trainer -> state dict, how it is wrapped, image size, mean and std on [0, 1], how the mirror joins in
TRAINERS = {
    "xiaoccer": (
        xiaoccer_state_dict,
        lambda state: {"epoch": 68, "net_state_dict": state},
        (112, 96),
        ([0.5] * 3, [128 / 255] * 3),
        lambda features, mirrored: torch.cat([features, mirrored], 1),
    ),
    "foamliu": (
        foamliu_state_dict,
        lambda state: state,
        (112, 112),
        ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        lambda features, mirrored: features + mirrored,
    ),
}


@pytest.fixture(scope="module", params=TRAINERS)
def converted(request, tmp_path_factory):
    """The trainer's name, the state dict, and the folder made of it by the command."""
    torch.manual_seed(0)
    make, wrap, *_ = TRAINERS[request.param]
    state = make()
    folder = tmp_path_factory.mktemp(request.param)
    torch.save(wrap(OrderedDict(state)), folder / "net.pt")
    result = CliRunner().invoke(app, ["convert", "mobilefacenet", str(folder / "net.pt"), str(folder / "out")])
    assert result.exit_code == 0, result.output
    return request.param, state, folder / "out"


def check_equal(trainer, state, folder, pixels):
    """Embeddings of uint8 `pixels` (B, H, W, C), plain and mirrored, agree with the reference."""
    _, _, size, (mean, std), join = TRAINERS[trainer]
    model, processor = AutoModel.from_pretrained(folder).eval(), AutoImageProcessor.from_pretrained(folder)
    assert tuple(pixels.shape[1:3]) == size
    inputs = processor(list(pixels.numpy())).pixel_values
    expected = (pixels.permute(0, 3, 1, 2) / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    torch.testing.assert_close(inputs, expected, atol=2e-6, rtol=0)
    with torch.no_grad():
        features, mirrored = (getattr(MobileFaceNets(state), trainer)(view) for view in (expected, expected.flip(3)))
        outputs = model(inputs)
    assert F.cosine_similarity(features, outputs.embeddings).min() > 0.9999
    torch.testing.assert_close(outputs.embeddings, F.normalize(features), atol=1e-5, rtol=0)
    torch.testing.assert_close(model.embed(inputs), F.normalize(join(features, mirrored)), atol=1e-5, rtol=0)


def test_the_folder_gives_the_original_networks_embeddings(converted):
    trainer, state, folder = converted
    check_equal(trainer, state, folder, torch.randint(0, 256, (4, *TRAINERS[trainer][2], 3), dtype=torch.uint8))


def test_the_folder_is_whole_and_says_where_it_comes_from(converted):
    _, _, folder = converted
    names = {"config.json", "model.safetensors", "preprocessor_config.json", "training.json", "README.md"}
    assert {path.name for path in folder.iterdir()} == names
    assert {path.name for path in folder.parent.iterdir()} == {"net.pt", "out"}
    source = json.loads((folder / "training.json").read_text())["source"]
    assert "net.pt" in source and source in (folder / "README.md").read_text()


def test_a_taken_destination_is_replaced_only_when_told_to(converted):
    _, _, folder = converted
    with pytest.raises(InputError, match="--overwrite"):
        convert_mobilefacenet(str(folder.parent / "net.pt"), folder)
    before = (folder / "README.md").read_bytes()
    convert_mobilefacenet(str(folder.parent / "net.pt"), folder, overwrite=True)
    assert (folder / "README.md").read_bytes() == before


def test_other_layouts_are_refused_with_what_differs(tmp_path):
    state = xiaoccer_state_dict()
    del state["blocks.14.conv.7.bias"]
    state["linear7.conv.weight"] = torch.zeros(512, 1, 7, 7)
    state["classifier.weight"] = torch.zeros(10, 128)
    torch.save(OrderedDict(state), tmp_path / "net.pt")
    with pytest.raises(InputError) as caught:
        convert_mobilefacenet(str(tmp_path / "net.pt"), tmp_path / "out")
    message = str(caught.value)
    assert "1 missing (blocks.14.conv.7.bias)" in message
    assert "1 unexpected (classifier.weight)" in message
    assert "linear7.conv.weight (512, 1, 7, 7) instead of (512, 1, 7, 6)" in message
    assert "\n" not in message and not (tmp_path / "out").exists()


def write_truncated(path):
    torch.save(OrderedDict(foamliu_state_dict()), path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


BAD_FILES = {
    "damaged": write_truncated,
    "damaged, or was not written by torch.save": lambda path: path.write_bytes(b""),
    "was not written by torch.save": lambda path: path.write_bytes(b"just some text " * 99),
    "more than tensors": lambda path: torch.save(torch.nn.Linear(2, 2), path),
    "no state dict": lambda path: torch.save([torch.zeros(2)], path),
}


@pytest.mark.parametrize("message", BAD_FILES)
def test_bad_files_are_refused_in_one_line(message, tmp_path):
    BAD_FILES[message](tmp_path / "net.pt")
    with pytest.raises(InputError, match=message) as caught:
        convert_mobilefacenet(str(tmp_path / "net.pt"), tmp_path / "out")
    assert "net.pt" in str(caught.value) and "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["net.pt"]


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match="nowhere.pt: no such file"):
        convert_mobilefacenet(str(tmp_path / "nowhere.pt"), tmp_path / "out")


@pytest.mark.data
@pytest.mark.parametrize(
    ("trainer", "file"),
    [("xiaoccer", "mobilefacenet_xiaoccer/068.ckpt"), ("foamliu", "mobilefacenet_foamliu/mobilefacenet.pt")],
)
def test_the_public_files_on_real_crops(trainer, file, research_data, real_crops, tmp_path):
    path = research_data / "weights" / file
    convert_mobilefacenet(str(path), tmp_path / "out")
    state = torch.load(path, map_location="cpu", weights_only=True)
    margin = (112 - TRAINERS[trainer][2][1]) // 2
    pixels = torch.from_numpy(real_crops)[:, :, margin : 112 - margin]
    check_equal(trainer, state.get("net_state_dict", state), tmp_path / "out", pixels.contiguous())
