"""A config.json of a stranger chooses an architecture, and nothing else: no request, no file, no code."""

import json
import socket

import PIL.Image
import pytest
import torch
from transformers import AutoConfig, AutoModel
from typer.testing import CliRunner

from hfembed import (
    ConvAutoencoderConfig,
    FaceDetectorConfig,
    FaceDetectorImageProcessor,
    FaceDetectorModel,
    FaceEmbedderConfig,
    FaceEmbedderModel,
    FaceImageProcessor,
    FaceSwapConfig,
    IdentitySwapConfig,
    RetinaFaceConfig,
    YuNetConfig,
)
from hfembed.checkpoint.validation import read_config
from hfembed.cli import app
from hfembed.errors import InputError

URL = "http://127.0.0.1:9/weights.safetensors"
TIMM = {"trunk": "timm/test_resnet"}
pytestmark = pytest.mark.attack


@pytest.fixture(autouse=True)
def no_requests(monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError(f"a config.json made a connection: {arguments}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "model"
    torch.manual_seed(0)
    arguments = {"depths": [1], "widths": [8]}
    config = FaceEmbedderConfig(
        trunk="iresnet", trunk_arguments=arguments, image_size=[8, 8], embedding_size=4, num_labels=2
    )
    FaceEmbedderModel(config).save_pretrained(folder)
    FaceImageProcessor(size=8).save_pretrained(folder)
    return folder


def edited(checkpoint, tmp_path, fields):
    folder = tmp_path / "model"
    folder.mkdir()
    for file in checkpoint.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | fields))
    return folder


def files_under(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def trunk(name, **arguments):
    return {"trunk": name, "trunk_arguments": arguments}


# what a config.json asks for -> what the error must name
ATTACKS = {
    "issue 14 A1": (
        trunk("timm/resnet18", pretrained=True, cache_dir="/tmp/x", pretrained_cfg_overlay={"url": URL}),
        "pretrained",
    ),
    "pretrained": (trunk("timm/test_resnet", pretrained=True), "pretrained"),
    "cache folder": (trunk("timm/test_resnet", cache_dir="/tmp/x"), "cache_dir"),
    "pretrained_cfg": (trunk("timm/test_resnet", pretrained_cfg={"file": "/etc/passwd"}), "pretrained_cfg"),
    "overlay": (trunk("timm/test_resnet", pretrained_cfg_overlay={"hf_hub_id": "a/b"}), "pretrained_cfg_overlay"),
    "checkpoint_path": (trunk("timm/test_resnet", checkpoint_path="/etc/passwd"), "checkpoint_path"),
    "url": (trunk("timm/test_resnet", url=URL), "url"),
    "file": (trunk("timm/test_resnet", file="/etc/passwd"), "file"),
    "hub id": (trunk("timm/test_resnet", hf_hub_id="a/b"), "hf_hub_id"),
    "another spelling": (trunk("timm/test_resnet", Pretrained=True), "Pretrained"),
    "scripted": (trunk("timm/test_resnet", scriptable=True), "scriptable"),
    "nested": (trunk("timm/test_resnet", act_layer={"pretrained": True}), "act_layer"),
    "a path as value": (trunk("timm/test_resnet", act_layer="/tmp/x"), "act_layer"),
    "a path in a list": (trunk("timm/test_resnet", layers=[1, "/tmp/x"]), "layers"),
    "a lower trunk": (trunk("mobilefacenet", pretrained=True), "pretrained"),
    "trunk of the Hub": ({"trunk": "timm/hf-hub:timm/resnet18.a1_in1k", "trunk_arguments": {}}, "hf-hub"),
    "its old spelling": ({"trunk": "timm/hf_hub:timm/resnet18.a1_in1k", "trunk_arguments": {}}, "hf_hub"),
    "trunk of a folder": ({"trunk": "timm/local-dir:/tmp/x", "trunk_arguments": {}}, "local-dir"),
    "trunk with a path": ({"trunk": "timm/../resnet18", "trunk_arguments": {}}, "timm/"),
    "kernel of the Hub": ({"attn_implementation": "kernels-community/flash-attn"}, "attn_implementation"),
    "the same, private": ({"_attn_implementation": "a/b@main:f"}, "_attn_implementation"),
    "quantizer": ({"quantization_config": {"quant_method": "bitsandbytes_4bit"}}, "quantization_config"),
    "other weights": ({"transformers_weights": "../other.safetensors"}, "transformers_weights"),
}


@pytest.mark.parametrize("fields", ATTACKS.values(), ids=ATTACKS)
def test_nothing_that_a_config_names_is_followed(fields, checkpoint, tmp_path):
    folder = edited(checkpoint, tmp_path, fields[0])
    before = files_under(tmp_path)
    for loader in (AutoConfig, AutoModel):
        with pytest.raises(Exception, match=fields[1]):
            loader.from_pretrained(folder)
    assert files_under(tmp_path) == before


@pytest.mark.parametrize("command", ["verify", "push"])
def test_commands_refuse_it_in_one_line(command, checkpoint, tmp_path):
    folder = edited(checkpoint, tmp_path, ATTACKS["issue 14 A1"][0])
    if command == "verify":
        FaceDetectorModel(FaceDetectorConfig()).save_pretrained(folder / "detector")
        FaceDetectorImageProcessor().save_pretrained(folder / "detector")
    photo = tmp_path / "a.png"
    PIL.Image.new("RGB", (8, 8)).save(photo)
    verify = ["verify", str(photo), str(photo), "--model", str(folder)]
    arguments = {"verify": verify, "push": ["push", str(folder), "a/b"]}
    before = files_under(tmp_path)
    done = CliRunner().invoke(app, arguments[command])
    assert done.exit_code == 1 and "'pretrained' is not allowed" in str(done.exception), done.output
    assert "\n" not in str(done.exception)
    assert files_under(tmp_path) == before


ABSURD = {
    "blocks": (trunk("iresnet", depths=[10**9], widths=[8]), "depths"),
    "channels": (trunk("iresnet", depths=[1], widths=[10**9]), "widths"),
    "all of them": (trunk("iresnet", depths=[100, 100], widths=[16_384, 16_384]), "weights"),
    "negative": (trunk("iresnet", depths=[-1], widths=[8]), "depths"),
    "stem": (trunk("iresnet", depths=[1], widths=[8], stem_width=10**12), "stem_width"),
    "timm's blocks": (trunk("timm/test_vit", depth=10**8), "depth"),
    "embedding": ({"embedding_size": 10**12}, "embedding_size"),
    "image": ({"image_size": [10**6, 10**6]}, "image_size"),
    "people": ({"num_labels": 10**10}, "num_labels"),
    "people without names": ({"num_people": 10**10, "id2label": None, "label2id": None}, "num_people"),
    "more than 64 bits": ({"embedding_size": 10**400}, "embedding_size"),
    "not a number": ({"scale": float("nan")}, "scale"),
    "infinite": ({"triplet_margin": float("inf")}, "triplet_margin"),
    "infinite in a list": ({"thresholds": {"data": "x", "impostors": 9, "accuracy": float("inf")}}, "thresholds"),
    "an unknown key": ({"_other": [float("nan")]}, "_other"),
}


@pytest.mark.parametrize("fields", ABSURD.values(), ids=ABSURD)
def test_absurd_numbers_are_refused_before_anything_is_allocated(fields, checkpoint, tmp_path):
    folder = edited(checkpoint, tmp_path, fields[0])
    with pytest.raises(Exception, match=fields[1]):
        AutoModel.from_pretrained(folder)


@pytest.mark.parametrize("dtype", ["load", 0, "os", "Tensor", "int8", ["float32"]])
@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
def test_a_dtype_is_a_floating_point_type_of_torch(dtype, name, checkpoint, tmp_path):
    folder = edited(checkpoint, tmp_path, {name: dtype})
    with pytest.raises(InputError, match="dtype"):
        read_config(folder)


@pytest.mark.parametrize("labels", [3, "Ann", ["Ann", "Bo"], {"x": "Ann"}])
def test_labels_are_a_mapping_from_numbers(labels, checkpoint, tmp_path):
    with pytest.raises(InputError, match="no possible model"):
        read_config(edited(checkpoint, tmp_path, {"id2label": labels}))


def test_a_timm_network_of_allowed_arguments_that_no_machine_holds_is_refused():
    config = FaceEmbedderConfig(
        **trunk("timm/test_vit", depth=12, embed_dim=16_384, num_heads=64), image_size=[160, 160]
    )
    with pytest.raises(ValueError, match="weights"):
        FaceEmbedderModel(config)


def test_a_config_changed_after_it_was_made_is_checked_again():
    config = FaceEmbedderConfig(**TIMM, image_size=[32, 32])
    config.trunk_arguments["checkpoint_path"] = "/etc/passwd"
    with pytest.raises(ValueError, match="checkpoint_path"):
        FaceEmbedderModel(config)


def test_deep_nesting_is_refused(checkpoint, tmp_path):
    nested = 0
    for _ in range(50):
        nested = [nested]
    folder = edited(checkpoint, tmp_path, {"trunk_arguments": {"depths": nested, "widths": [8]}})
    with pytest.raises(Exception, match="levels deep"):
        AutoConfig.from_pretrained(folder)


@pytest.mark.parametrize(
    ("config_class", "fields"),
    [
        (FaceDetectorConfig, {"min_face_size": float("nan")}),
        (FaceDetectorConfig, {"pyramid_factor": 0.9999999}),
        (YuNetConfig, {"score_threshold": float("nan")}),
        (YuNetConfig, {"widths": [10**9] * 6}),
        (YuNetConfig, {"widths": []}),
        (YuNetConfig, {"head_units": 10**9}),
        (YuNetConfig, {"max_candidates": 10**9}),
        (RetinaFaceConfig, {"base_width": 10**9}),
        (RetinaFaceConfig, {"feature_width": 10**9}),
        (RetinaFaceConfig, {"min_sizes": [[10] * 10**4] * 3}),
        (RetinaFaceConfig, {"min_sizes": [[0], [1], [2]]}),
        (RetinaFaceConfig, {"variances": [float("inf"), 0.2]}),
        (ConvAutoencoderConfig, {"widths": [10**9]}),
        (ConvAutoencoderConfig, {"widths": [8] * 40}),
        (ConvAutoencoderConfig, {"blocks_per_level": 10**9}),
        (ConvAutoencoderConfig, {"latent_channels": 10**9}),
        (FaceSwapConfig, {"mask_weight": float("nan")}),
        (FaceSwapConfig, {"latent_size": 10**9}),
        (FaceSwapConfig, {"image_size": 2**12, "latent_size": 10**4}),
        (FaceSwapConfig, {"residual_blocks": 10**9}),
        (FaceSwapConfig, {"encoder_widths": [10**9] * 4}),
        (IdentitySwapConfig, {"identity_size": 10**9}),
        (IdentitySwapConfig, {"patch_size": 10**9}),
        (IdentitySwapConfig, {"reference_blur": 1e9}),
        (IdentitySwapConfig, {"middle_blocks": 10**9}),
    ],
)
def test_the_other_families_refuse_absurd_numbers(config_class, fields):
    with pytest.raises(Exception, match=next(iter(fields)).replace("image_size", "latent_size")):
        config_class(**fields)


def test_ordinary_arguments_still_shape_a_timm_trunk():
    config = FaceEmbedderConfig(**trunk("timm/test_vit", img_size=32, patch_size=8, class_token=False,
                                        global_pool="avg"), image_size=[32, 32], embedding_size=4)  # fmt: skip
    model = FaceEmbedderModel(config).eval()
    assert model(torch.zeros(1, 3, 32, 32)).embeddings.shape == (1, 4)
