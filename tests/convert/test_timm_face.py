"""`hfembed convert timm-face`: folders as timm itself writes them, with the arguments of the public checkpoints."""

import json

import pytest
import timm
import torch
from timm.models import save_for_hf
from transformers import AutoModel

from hfembed.convert.timm_face import convert_timm_face
from hfembed.errors import InputError
from tests.convert.foreign_networks import check_equal, convert

# architecture, its arguments, number of weights in the trainer's table
PUBLIC = {
    "vit_tiny": ("vit_tiny_patch16_224", {"patch_size": 8, "img_size": 112}, 5_512_640),
    "vit_small_gap": (
        "vit_small_patch16_224",
        {"patch_size": 8, "img_size": 112, "patch_drop_rate": 0.1, "class_token": False, "global_pool": "avg"},
        21_640_832,
    ),
    "convnext_atto": ("convnext_atto", {"patch_size": 2}, 3_543_952),
    "convnext_nano": ("convnext_nano", {"patch_size": 2, "drop_path_rate": 0.1}, 15_303_712),
}


def write_checkpoint(folder, architecture, arguments, safe_serialization=True):
    torch.manual_seed(0)
    network = timm.create_model(architecture, num_classes=512, **arguments).eval()
    # heads start near zero: embeddings of any size, and biases that are not lost unnoticed
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "head" in name:
                parameter.normal_(0, 0.1)
    save_for_hf(network, folder, model_args=arguments, safe_serialization=safe_serialization)
    return network


@pytest.mark.parametrize(
    ("name", "safe_serialization"),
    [
        ("vit_tiny", True),
        ("convnext_atto", False),
        *(pytest.param(name, True, marks=pytest.mark.slow) for name in ("vit_small_gap", "convnext_nano")),
    ],
)
def test_the_head_is_the_embedding(name, safe_serialization, tmp_path):
    architecture, arguments, weights = PUBLIC[name]
    network = write_checkpoint(tmp_path / "repo", architecture, arguments, safe_serialization)
    assert sum(parameter.numel() for parameter in network.parameters()) == weights
    convert("timm-face", tmp_path / "repo", tmp_path / "out")
    check_equal(tmp_path / "out", network, (112, 112), std=127.5)
    model = AutoModel.from_pretrained(tmp_path / "out")
    assert model.config.embedding_size == 512 and model.config.trunk == f"timm/{architecture}"


@pytest.mark.data
def test_on_real_photos(real_crops, tmp_path):
    architecture, arguments, _ = PUBLIC["vit_tiny"]
    network = write_checkpoint(tmp_path / "repo", architecture, arguments)
    convert("timm-face", tmp_path / "repo", tmp_path / "out")
    check_equal(tmp_path / "out", network, (112, 112), std=127.5, photos=real_crops)


def test_what_is_no_timm_face_is_refused(tmp_path):
    repo = tmp_path / "repo"
    write_checkpoint(repo, "test_vit", {"img_size": 32})
    settings = json.loads((repo / "config.json").read_text())

    def refused(words, **changes):
        (repo / "config.json").write_text(json.dumps(settings | changes))
        with pytest.raises(InputError, match=words) as caught:
            convert_timm_face(str(repo), tmp_path / "out")
        assert "\n" not in str(caught.value)

    refused("no architecture 'resnet18x'", architecture="resnet18x")
    refused("embedding_size must lie", num_classes=0)
    refused("lacks an architecture", num_classes="512")
    refused("model_args must be an object", model_args=[1])
    for hostile in ({"pretrained": True}, {"checkpoint_path": "/etc/passwd"}, {"pretrained_cfg": {"url": "http://x"}}):
        refused(f"'{next(iter(hostile))}' is not allowed", model_args=settings.get("model_args", {}) | hostile)
    refused(r"head.weight \(512, 64\) instead of \(128, 64\)", num_classes=128)
    refused(r"pos_embed \(1, 5, 64\) instead of", model_args=settings["model_args"] | {"img_size": 64})
    refused("cannot be built", model_args=settings["model_args"] | {"no_such_argument": 1})
    (repo / "config.json").write_text("{")
    with pytest.raises(InputError, match="is not JSON"):
        convert_timm_face(str(repo), tmp_path / "out")
    (repo / "config.json").unlink()
    with pytest.raises(InputError, match="no config.json of timm"):
        convert_timm_face(str(repo / "model.safetensors"), tmp_path / "out")
    assert not (tmp_path / "out").exists()
