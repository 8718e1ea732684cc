"""`hfembed convert insightface` of vision transformers: generated files with the keys of arcface_torch's."""

from collections import OrderedDict

import pytest
import torch
from transformers import AutoConfig

from hfembed.convert.insightface import convert_insightface
from hfembed.errors import InputError
from tests.convert.foreign_networks import Reference, StateDict, check_equal, convert

SIZES = {"vit_t": (256, 12), "vit_s": (512, 12), "vit_b": (512, 24), "vit_l": (768, 24)}


def vit_state_dict(width, depth, patch=9, side=12, embedding_size=20):
    state = StateDict()
    state["pos_embed"] = 0.5 * torch.randn(1, side * side, width)
    state["mask_token"] = torch.randn(1, 1, width)
    state.conv("patch_embed.proj", width, 3, patch, patch)
    state["patch_embed.proj.bias"] = 0.1 * torch.randn(width)

    def layer_norm(key):
        state[f"{key}.weight"] = 1 + 0.1 * torch.randn(width)
        state[f"{key}.bias"] = 0.1 * torch.randn(width)

    for block in range(depth):
        layer_norm(f"blocks.{block}.norm1")
        layer_norm(f"blocks.{block}.norm2")
        state.linear(f"blocks.{block}.attn.qkv", 3 * width, width, bias=False)
        state.linear(f"blocks.{block}.attn.proj", width, width)
        state.linear(f"blocks.{block}.mlp.fc1", 4 * width, width)
        state.linear(f"blocks.{block}.mlp.fc2", width, 4 * width)
    layer_norm("norm")
    state.linear("feature.0", width, side * side * width, bias=False)
    state.norm("feature.1", width)
    state.linear("feature.2", embedding_size, width, bias=False)
    state.norm("feature.3", embedding_size)
    # where the difference of their epsilon from torch's would be seen
    state["feature.1.running_var"] *= 1e-4
    state["feature.3.running_var"] *= 1e-4
    return state


class ArcFaceVit(Reference):
    """The network without its code: one image, one head, one token after the other."""

    def __init__(self, state, depth, patch=9, heads=8):
        super().__init__(state)
        self.depth, self.patch, self.heads = depth, patch, heads

    def layer_norm(self, x, key):
        x = x - x.mean(-1, keepdim=True)
        x = x / torch.sqrt((x**2).mean(-1, keepdim=True) + 1e-5)
        return x * self.state[f"{key}.weight"] + self.state[f"{key}.bias"]

    def attend(self, x, key):
        queries, keys, values = self.linear(x, f"{key}.qkv").chunk(3, dim=-1)
        size = x.shape[-1] // self.heads
        parts = []
        for head in range(self.heads):
            own = slice(head * size, (head + 1) * size)
            scores = queries[:, own] @ keys[:, own].T / size**0.5
            parts.append(scores.softmax(1) @ values[:, own])
        return self.linear(torch.cat(parts, 1), f"{key}.proj")

    def __call__(self, images):
        return self.norm(self.linear(self.norm(torch.stack([self.merged(i) for i in images]), "feature.1", 2e-5),
                                     "feature.2"), "feature.3", 2e-5)  # fmt: skip

    def merged(self, image):
        weight = self.state["patch_embed.proj.weight"].flatten(1)
        rows, columns = (side // self.patch for side in image.shape[1:])
        patches = [
            image[:, self.patch * y : self.patch * (y + 1), self.patch * x : self.patch * (x + 1)].flatten()
            for y in range(rows)
            for x in range(columns)
        ]
        tokens = torch.stack(patches) @ weight.T + self.state["patch_embed.proj.bias"] + self.state["pos_embed"][0]
        for block in range(self.depth):
            key = f"blocks.{block}"
            tokens = tokens + self.attend(self.layer_norm(tokens, f"{key}.norm1"), f"{key}.attn")
            hidden = self.linear(self.layer_norm(tokens, f"{key}.norm2"), f"{key}.mlp.fc1").clamp(0, 6)
            tokens = tokens + self.linear(hidden, f"{key}.mlp.fc2")
        return self.linear(self.layer_norm(tokens, "norm").flatten(), "feature.0")


@pytest.mark.parametrize(("patch", "side", "size"), [(9, 12, 112), (16, 3, 48)])
def test_arcface_vit(patch, side, size, tmp_path):
    torch.manual_seed(0)
    state = vit_state_dict(16, 2, patch, side)
    torch.save(OrderedDict(state), tmp_path / "model.pt")
    convert("insightface", tmp_path / "model.pt", tmp_path / "out")
    check_equal(tmp_path / "out", ArcFaceVit(state, 2, patch), (size, size), std=127.5)


@pytest.mark.parametrize("name", SIZES)
def test_public_sizes_get_the_public_names(name, monkeypatch, tmp_path):
    """On the meta device: keys and shapes, no numbers."""
    import hfembed.convert.insightface as insightface

    monkeypatch.setattr(insightface, "fill", lambda model, weights: None)
    with torch.device("meta"):
        state = vit_state_dict(*SIZES[name], embedding_size=512)
        state = {key: value for key, value in state.items() if "num_batches" not in key}  # as they are read
        model = insightface.arcface_vit(state, "a.pt")
    assert (model.config.trunk, model.config.image_size, model.config.embedding_size) == (name, [112, 112], 512)


@pytest.mark.slow
def test_at_the_public_size(tmp_path):
    torch.manual_seed(0)
    state = vit_state_dict(*SIZES["vit_t"], embedding_size=512)
    torch.save(OrderedDict(state), tmp_path / "model.pt")
    convert("insightface", tmp_path / "model.pt", tmp_path / "out")
    assert AutoConfig.from_pretrained(tmp_path / "out").trunk == "vit_t"
    check_equal(tmp_path / "out", ArcFaceVit(state, 12), (112, 112), std=127.5)


def test_others_are_refused_with_what_differs(tmp_path):
    torch.manual_seed(0)
    for change, said in (
        ({"blocks.1.attn.qkv.weight": None}, "1 missing|blocks"),
        ({"blocks.0.mlp.fc2.bias": None}, "1 missing .blocks.0.mlp.fc2.bias"),
        ({"cls_token": torch.zeros(1, 1, 16)}, "1 unexpected .cls_token"),
        ({"feature.2.weight": None}, "feature.2.weight"),
        ({"feature.0.weight": torch.zeros(16, 5)}, "of another shape"),
        ({"patch_embed.proj.weight": torch.zeros(12, 3, 9, 9)}, "multiple of num_heads"),
    ):
        state = vit_state_dict(16, 2) | change
        torch.save({key: value for key, value in state.items() if value is not None}, tmp_path / "model.pt")
        with pytest.raises(InputError, match=said) as error:
            convert_insightface(str(tmp_path / "model.pt"), tmp_path / "out")
        assert "\n" not in str(error.value) and "vision transformer of arcface_torch" in str(error.value)
