"""Autoencoders small enough for tests, with weights that make their latents matter."""

import torch

from hfembed.models.appearance_autoencoder.configuration_appearance_autoencoder import AppearanceAutoencoderConfig
from hfembed.models.appearance_autoencoder.modeling_appearance_autoencoder import AppearanceAutoencoderModel
from hfembed.models.conv_autoencoder.configuration_conv_autoencoder import ConvAutoencoderConfig
from hfembed.models.conv_autoencoder.image_processing_conv_autoencoder import ConvAutoencoderImageProcessor
from hfembed.models.conv_autoencoder.modeling_conv_autoencoder import ConvAutoencoderModel
from hfembed.models.restoration_autoencoder.configuration_restoration_autoencoder import RestorationAutoencoderConfig
from hfembed.models.restoration_autoencoder.modeling_restoration_autoencoder import RestorationAutoencoderModel

SIZE = 16


TINY = {"num_channels": 1, "image_size": [SIZE, SIZE], "patch_size": 2, "widths": [8, 8], "latent_channels": 2}


def tiny_autoencoder(seed=0, **options):
    torch.manual_seed(seed)
    return ConvAutoencoderModel(ConvAutoencoderConfig(**(TINY | options))).eval()


def tiny_restoration(seed=0, **options):
    torch.manual_seed(seed)
    return RestorationAutoencoderModel(RestorationAutoencoderConfig(**(TINY | options))).eval()


def tiny_appearance(seed=0, **options):
    torch.manual_seed(seed)
    settings = {"blocks_per_level": 0, "latent_channels": 9, "warp_latents": 4, "warp_grid": 3}
    return AppearanceAutoencoderModel(AppearanceAutoencoderConfig(**(TINY | settings | options))).eval()


def save_tiny_autoencoder(folder, make=tiny_autoencoder, **options):
    model = make(**options)
    model.save_pretrained(folder)
    color = "gray" if model.config.num_channels == 1 else "rgb"
    ConvAutoencoderImageProcessor(size=SIZE, color=color).save_pretrained(folder)
    return model


def smooth_images(count, channels=1, size=SIZE, seed=0):
    """(count, channels, size, size) in [0, 1], smooth as photos are."""
    coarse = torch.rand(count, channels, 4, 4, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, size=(size, size), mode="bilinear")
