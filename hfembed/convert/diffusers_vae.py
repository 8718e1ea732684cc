"""An AutoencoderKL of diffusers as an autoencoder folder."""

import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError

from hfembed.atomic import check_destination
from hfembed.checkpoint.json_notes import read_json
from hfembed.convert.foreign_checkpoint import (
    check_layout,
    fill,
    find_beside,
    find_file,
    read_state_dict,
    reading,
    weights_of,
    write_checkpoint,
)
from hfembed.errors import InputError, first_line
from hfembed.models.conv_autoencoder.configuration_conv_autoencoder import ConvAutoencoderConfig
from hfembed.models.conv_autoencoder.image_processing_conv_autoencoder import ConvAutoencoderImageProcessor
from hfembed.models.conv_autoencoder.kl_network import name_in_diffusers
from hfembed.models.conv_autoencoder.modeling_conv_autoencoder import ConvAutoencoderModel

LAYOUT = "AutoencoderKL of diffusers"
_FILES = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
# what the layers of attention were called before diffusers 0.15
_EARLIER = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def convert_diffusers_vae(source: str, destination: str | Path, overwrite: bool = False) -> ConvAutoencoderModel:
    """Turn diffusers' folder of an AutoencoderKL (config.json and weights) into one that `from_pretrained` reads.

    Latents are the network's own: diffusers' pipelines shift and scale them, by the factors in training.json's note.

    Args:
        source: The folder or its file of weights; `<owner>/<name>` or `<owner>/<name>:vae/<file>` on the Hub.

    Raises:
        InputError: A file is missing or damaged, or the network is another one.
    """
    check_destination(destination, overwrite)
    file = find_file(source, _FILES)
    inner = PurePosixPath("" if Path(source).exists() else source.partition(":")[2])
    settings = find_beside(source, file, str(inner.with_name("config.json")) if inner.name else "config.json")
    if settings is None:
        raise InputError(f"{source}: config.json is missing beside {file.name}; take both from diffusers' folder")
    with reading(source, LAYOUT):
        theirs = read_json(settings)
        tensors = dict(_modern(name, tensor.float()) for name, tensor in read_state_dict(file, source).items())
        try:
            config = _config(theirs, str(settings))
        except StrictDataclassError as error:
            raise InputError(f"{settings}: {first_line(error.__cause__ or error)}") from error
        model = ConvAutoencoderModel(config)
        ours = weights_of(model)
        check_layout(tensors, {name_in_diffusers(name): ours[name].shape for name in ours}, source, LAYOUT)
        fill(model, {name: tensors[name_in_diffusers(name)] for name in ours})
    color = "rgb" if config.num_channels == 3 else "gray"
    processor = ConvAutoencoderImageProcessor(size=config.image_size, color=color)
    note = (
        f"In diffusers latents z are ({theirs.get('scaling_factor')}) * (z - ({theirs.get('shift_factor') or 0})); "
        "here they are z. Nothing is known here of the images it was trained on."
    )
    write_checkpoint(destination, model.eval(), processor, [file], LAYOUT, note)
    return model


def _modern(name: str, tensor: torch.Tensor) -> tuple[str, torch.Tensor]:
    """Name and weight as newer files have them: attention was by 1 x 1 convolutions once."""
    found = re.fullmatch(r"(.*attentions\.\d+)\.(\w+)\.(weight|bias)", name)
    if found and found[2] in _EARLIER:
        return f"{found[1]}.{_EARLIER[found[2]]}.{found[3]}", tensor.flatten(1) if tensor.ndim == 4 else tensor
    return name, tensor


def _config(theirs: Mapping[str, Any], settings: str) -> ConvAutoencoderConfig:
    """Our config, by their config.json; whether it describes the tensors is found out by their shapes."""

    def field(name: str, default: Any, kind: type) -> Any:
        value = theirs.get(name, default)
        if type(value) is not kind:
            raise InputError(f"{settings}: {name} must be of type {kind.__name__}, not {value!r}")
        return value

    if theirs.get("_class_name", "AutoencoderKL") != "AutoencoderKL":
        raise InputError(f"{settings}: unsupported network '{theirs['_class_name']}'; expected AutoencoderKL")
    blocks = {*field("down_block_types", [], list), *field("up_block_types", [], list)}
    if blocks - {"DownEncoderBlock2D", "UpDecoderBlock2D"} or field("act_fn", "silu", str) != "silu":
        raise InputError(f"{settings}: unsupported blocks {sorted(blocks)} or activation {theirs.get('act_fn')}")
    channels, quant_conv = field("in_channels", 3, int), field("use_quant_conv", True, bool)
    if channels != field("out_channels", 3, int) or quant_conv != field("use_post_quant_conv", True, bool):
        raise InputError(f"{settings}: unsupported network whose encoder and decoder are not each other's mirror")
    size = field("sample_size", 32, int)
    return ConvAutoencoderConfig(
        architecture="autoencoder_kl",
        num_channels=channels,
        image_size=[size, size],
        patch_size=1,
        widths=field("block_out_channels", [64], list),
        blocks_per_level=field("layers_per_block", 1, int),
        norm_groups=field("norm_num_groups", 32, int),
        attention=field("mid_block_add_attention", True, bool),
        quant_conv=quant_conv,
        latent_channels=field("latent_channels", 4, int),
        variational=True,
    )


__all__ = ["convert_diffusers_vae"]
