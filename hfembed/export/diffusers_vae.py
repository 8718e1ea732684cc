"""An autoencoder -> a folder that diffusers' AutoencoderKL loads."""

import json
from pathlib import Path

from safetensors.torch import save_file

from hfembed.atomic import atomic_folder
from hfembed.errors import InputError
from hfembed.models.autoencoder_base import AutoencoderModelBase
from hfembed.models.conv_autoencoder.kl_network import name_in_diffusers
from hfembed.models.conv_autoencoder.modeling_conv_autoencoder import ConvAutoencoderModel


def export_diffusers_vae(model: AutoencoderModelBase, folder: str | Path, scaling_factor: float = 1.0) -> None:
    """Write config.json and the weights as diffusers names them.

    Args:
        scaling_factor: What pipelines multiply latents by: one over their standard deviation.

    Raises:
        InputError: diffusers has no such network.
        OSError: The folder cannot be written.
    """
    config = model.config
    if not isinstance(model, ConvAutoencoderModel) or config.architecture != "autoencoder_kl":
        raise InputError(f"diffusers has no network like this {type(model).__name__}; autoencoder_kl is one it has")
    if config.patch_size != 1 or not config.is_convolutional or not config.variational:
        raise InputError("diffusers' AutoencoderKL has patch_size 1, a grid of latents, and is variational")
    levels = len(config.widths)
    settings = {
        "_class_name": "AutoencoderKL",
        "in_channels": config.num_channels,
        "out_channels": config.num_channels,
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "block_out_channels": config.widths,
        "layers_per_block": config.blocks_per_level,
        "latent_channels": config.latent_channels,
        "norm_num_groups": config.norm_groups,
        "sample_size": config.image_size[0],
        "scaling_factor": scaling_factor,
        "use_quant_conv": config.quant_conv,
        "use_post_quant_conv": config.quant_conv,
        "mid_block_add_attention": config.attention,
    }
    weights = {name_in_diffusers(name): tensor.contiguous() for name, tensor in model.state_dict().items()}
    with atomic_folder(folder) as unfinished:
        save_file(weights, unfinished / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
        (unfinished / "config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
