"""Autoencoders small enough for tests, with weights that make their latents matter."""

import torch

from hfembed.models.conv_autoencoder.configuration_conv_autoencoder import ConvAutoencoderConfig
from hfembed.models.conv_autoencoder.image_processing_conv_autoencoder import ConvAutoencoderImageProcessor
from hfembed.models.conv_autoencoder.modeling_conv_autoencoder import ConvAutoencoderModel

SIZE = 16


def tiny_autoencoder(seed=0, **options):
    torch.manual_seed(seed)
    settings = dict(num_channels=1, image_size=[SIZE, SIZE], patch_size=2, widths=[8, 8], latent_channels=2)
    return ConvAutoencoderModel(ConvAutoencoderConfig(**(settings | options))).eval()


def save_tiny_autoencoder(folder, **options):
    model = tiny_autoencoder(**options)
    model.save_pretrained(folder)
    color = "gray" if model.config.num_channels == 1 else "rgb"
    ConvAutoencoderImageProcessor(size=SIZE, color=color).save_pretrained(folder)
    return model


def smooth_images(count, channels=1, size=SIZE, seed=0):
    """(count, channels, size, size) in [0, 1], smooth as photos are."""
    coarse = torch.rand(count, channels, 4, 4, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, size=(size, size), mode="bilinear")
