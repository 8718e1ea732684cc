"""Losses between images: squared, absolute, (multi-scale) structural similarity."""

from hfembed.models.conv_autoencoder.modeling_conv_autoencoder import kl_divergence
from hfembed.models.conv_autoencoder.reconstruction_losses import (
    mean_absolute_error,
    mean_squared_error,
    multiscale_structural_similarity,
    structural_similarity,
)

__all__ = [
    "kl_divergence",
    "mean_absolute_error",
    "mean_squared_error",
    "multiscale_structural_similarity",
    "structural_similarity",
]
