"""Checkpoints from before the autoencoders were separated into families, config.json as it was written then."""

import json

import pytest
import torch
from transformers import AutoConfig, AutoModel

from hfembed.checkpoint.loading import load_autoencoder
from hfembed.checkpoint.validation import read_config
from hfembed.errors import InputError
from hfembed.models.appearance_autoencoder.modeling_appearance_autoencoder import AppearanceAutoencoderModel
from hfembed.models.conv_autoencoder.modeling_conv_autoencoder import ConvAutoencoderModel
from hfembed.models.restoration_autoencoder.modeling_restoration_autoencoder import RestorationAutoencoderModel
from tests.conftest import REPOSITORY
from tests.images.tiny_autoencoder import (
    save_tiny_autoencoder,
    smooth_images,
    tiny_appearance,
    tiny_autoencoder,
    tiny_restoration,
)

# every field of the common config, as model_cards/*/config.json have it
OLD_CONFIG = {
    "architectures": ["ConvAutoencoderModel"],
    "blocks_per_level": 1,
    "bottleneck": "conv",
    "bottleneck_size": 1,
    "code_filters": False,
    "dtype": "float32",
    "free_bits": 0.0,
    "image_size": [16, 16],
    "inpainting": False,
    "kl_weight": 0.0001,
    "latent_channels": 2,
    "latent_penalty": "none",
    "latent_penalty_weight": 0.0001,
    "loss_weights": {"mean_squared": 1.0},
    "model_type": "hfembed_conv_autoencoder",
    "num_channels": 1,
    "patch_size": 2,
    "refinement_steps": 2,
    "skip_connections": False,
    "transformers_version": "5.24.0",
    "variational": False,
    "warp_grid": 8,
    "warp_latents": 16,
    "widths": [8, 8],
}
WARP = {"bottleneck": "warp", "blocks_per_level": 0, "latent_channels": 9, "warp_latents": 4, "warp_grid": 3}
CASES = {
    "plain": (ConvAutoencoderModel, tiny_autoencoder, {}, {}),
    "variational": (ConvAutoencoderModel, tiny_autoencoder, {"variational": True}, {"variational": True}),
    "warp": (AppearanceAutoencoderModel, tiny_appearance, {}, WARP),
    "code_filters": (
        AppearanceAutoencoderModel,
        tiny_appearance,
        {"code_filters": True},
        WARP | {"code_filters": True},
    ),
    "denoise": (RestorationAutoencoderModel, tiny_restoration, {}, {"skip_connections": True}),
    "inpaint": (
        RestorationAutoencoderModel,
        tiny_restoration,
        {"inpainting": True},
        {"skip_connections": True, "inpainting": True},
    ),
}


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_an_old_checkpoint_gives_its_family_and_the_same_outputs(name, tmp_path):
    model_class, make, fields, old_fields = CASES[name]
    model = save_tiny_autoencoder(tmp_path, make, **fields)
    (tmp_path / "config.json").write_text(json.dumps(OLD_CONFIG | old_fields))
    images = smooth_images(3)
    expected = model(images).reconstruction
    for loaded in (
        AutoModel.from_pretrained(tmp_path),
        model_class.from_pretrained(tmp_path),
        load_autoencoder(str(tmp_path), "cpu")[0],
    ):
        assert type(loaded) is model_class and type(loaded.config) is model_class.config_class
        torch.testing.assert_close(loaded.eval()(images).reconstruction, expected, rtol=0, atol=1e-6)
    loaded.save_pretrained(tmp_path / "again")
    again = json.loads((tmp_path / "again" / "config.json").read_text())
    assert again["model_type"] == model_class.config_class.model_type
    assert not {"skip_connections", "code_filters" if make is not tiny_appearance else "bottleneck"} & again.keys()


def test_the_published_configs_are_of_their_families():
    families = {
        "denoise": "hfembed_restoration_autoencoder",
        "inpaint": "hfembed_restoration_autoencoder",
        "autoencoder_64": "hfembed_appearance_autoencoder",
        "autoencoder_128": "hfembed_appearance_autoencoder",
        "autoencoder_256": "hfembed_appearance_autoencoder",
        "autoencoder_128_identity": "hfembed_appearance_autoencoder",
    }
    for name, model_type in families.items():
        folder = REPOSITORY / "model_cards" / name
        assert read_config(folder).model_type == AutoConfig.from_pretrained(folder).model_type == model_type


def test_the_old_class_says_how_to_load_what_is_no_longer_its_own(tmp_path):
    save_tiny_autoencoder(tmp_path, tiny_appearance)
    (tmp_path / "config.json").write_text(json.dumps(OLD_CONFIG | WARP))
    with pytest.raises(ValueError, match=r"hfembed_appearance_autoencoder.*AutoModel\.from_pretrained"):
        ConvAutoencoderModel.from_pretrained(tmp_path)


def test_what_no_family_supports_is_one_line(tmp_path):
    save_tiny_autoencoder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(OLD_CONFIG | {"skip_connections": True, "variational": True}))
    with pytest.raises(InputError, match="variational model with skip_connections"):
        load_autoencoder(str(tmp_path), "cpu")
