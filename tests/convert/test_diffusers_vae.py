"""diffusers' AutoencoderKL into our folder and back, against diffusers itself."""

import json

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor
from typer.testing import CliRunner

from hfembed.checkpoint.loading import load_autoencoder
from hfembed.cli import app
from hfembed.convert.diffusers_vae import convert_diffusers_vae
from hfembed.errors import InputError

STABLE_DIFFUSION = {"latent_channels": 4}
FLUX = {"latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False, "shift_factor": 0.1159}


def make_vae(folder, **fields):
    torch.manual_seed(0)
    settings = {
        "block_out_channels": (16, 32, 32), "layers_per_block": 2, "norm_num_groups": 8, "sample_size": 64,
        "down_block_types": ("DownEncoderBlock2D",) * 3, "up_block_types": ("UpDecoderBlock2D",) * 3,
    }  # fmt: skip
    vae = AutoencoderKL(**settings | fields).eval()
    with torch.no_grad():
        for weight in vae.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    vae.save_pretrained(folder)
    return vae


@pytest.mark.parametrize("fields", [STABLE_DIFFUSION, FLUX, {"mid_block_add_attention": False}])
def test_both_ways_the_network_is_the_same(fields, tmp_path):
    vae = make_vae(tmp_path / "vae", **fields)
    command = ["convert", "diffusers-vae", str(tmp_path / "vae"), str(tmp_path / "ours")]
    done = CliRunner().invoke(app, command, catch_exceptions=False)
    assert done.exit_code == 0 and "f4" in done.output
    model, processor = load_autoencoder(tmp_path / "ours", "cpu")
    assert model.config.image_size == [64, 64]
    assert type(AutoImageProcessor.from_pretrained(tmp_path / "ours")) is type(processor)
    images = torch.rand(2, 3, 64, 96)  # not of the size it says: any multiple of the stride
    with torch.no_grad():
        theirs = vae.encode(2 * images - 1).latent_dist
        mean, log_variance = model.encode_distribution(images)
        torch.testing.assert_close(mean, theirs.mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(log_variance, theirs.logvar, rtol=1e-4, atol=1e-5)
        decoded = vae.decode(theirs.mean).sample
        torch.testing.assert_close(2 * model.decode(theirs.mean) - 1, decoded, rtol=1e-4, atol=1e-5)
    back = ["export", "diffusers-vae", str(tmp_path / "ours"), str(tmp_path / "back"), "--scaling-factor", "0.5"]
    assert CliRunner().invoke(app, back, catch_exceptions=False).exit_code == 0
    again = AutoencoderKL.from_pretrained(tmp_path / "back").eval()
    assert again.config.scaling_factor == 0.5
    with torch.no_grad():
        torch.testing.assert_close(again.decode(theirs.mean).sample, decoded, rtol=0, atol=0)


def test_attention_by_convolutions_as_early_files_have_it(tmp_path):
    make_vae(tmp_path / "vae")
    convert_diffusers_vae(str(tmp_path / "vae"), tmp_path / "new")
    file = tmp_path / "vae" / "diffusion_pytorch_model.safetensors"
    earlier = {}
    for name, tensor in load_file(file).items():
        for new, old in {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}.items():
            if f".{new}." in name:
                name, tensor = name.replace(f".{new}.", f".{old}."), tensor[..., None, None].squeeze(-1)
                tensor = tensor[..., None] if name.endswith("weight") else tensor.flatten()
        earlier[name] = tensor.contiguous()
    save_file(earlier, file)
    convert_diffusers_vae(str(tmp_path / "vae"), tmp_path / "old")
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("new", "old")]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"_class_name": "AutoencoderTiny"}, "unsupported network 'AutoencoderTiny'; expected AutoencoderKL"),
        ({"down_block_types": ["AttnDownEncoderBlock2D"] * 3}, "unsupported blocks"),
        ({"layers_per_block": 1}, "unexpected"),
        ({"block_out_channels": [10**9, 32, 32]}, "widths"),
        ({"norm_num_groups": "8"}, "norm_num_groups must be of type int"),
        ({"sample_size": 30}, "multiples of the stride"),
        (None, "config.json is missing"),
    ],
)
def test_other_networks_and_damaged_configs_are_refused(changes, words, tmp_path):
    make_vae(tmp_path / "vae")
    config = tmp_path / "vae" / "config.json"
    if changes is None:
        config.unlink()
    else:
        config.write_text(json.dumps(json.loads(config.read_text()) | changes))
    with pytest.raises(InputError, match=words) as caught:
        convert_diffusers_vae(str(tmp_path / "vae"), tmp_path / "ours")
    assert "\n" not in str(caught.value) and not (tmp_path / "ours").exists()
