"""The discriminator that a recipe names: of pixels, or of a face network's features."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import nn

from hfembed.faces.perceptual_networks import load_features
from hfembed.training.adversarial_config import AdversarialTrainingConfig
from hfembed.training.feature_discriminator import FeatureDiscriminator
from hfembed.training.patch_discriminator import PatchDiscriminator


def make_discriminator(
    config: AdversarialTrainingConfig, num_channels: int, image_size: Sequence[int]
) -> nn.Module | None:
    """The recipe's discriminator of images (B, num_channels, *image_size), None where it has none.

    Raises:
        InputError: There is no such network or layer, or the Hub cannot be reached.
    """
    if not config.discriminator_weight:
        return None
    discriminator: nn.Module
    if not config.discriminator_network:
        discriminator = PatchDiscriminator(num_channels, config.discriminator_width)
    else:
        features = load_features(config.path(config.discriminator_network), config.discriminator_layers)
        with torch.no_grad():
            maps = features(torch.zeros(1, num_channels, *image_size))
        shapes = [cast(tuple[int, int, int], tuple(part.shape[1:])) for part in maps]
        discriminator = FeatureDiscriminator(features, shapes, config.discriminator_width)
    return discriminator.to(memory_format=torch.channels_last)  # type: ignore[call-arg]
