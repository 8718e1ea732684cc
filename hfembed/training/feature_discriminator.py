"""A discriminator that judges images by the features of a frozen network."""

from collections.abc import Sequence
from typing import Self

import torch
from torch import nn

_PLACES = 14  # at most, across and down, that are judged by themselves


class FeatureDiscriminator(nn.Module):
    """Tell photos from generated images by what a frozen network sees in them, place by place, at several scales.

    Sauer, Chitta, Müller and Geiger, "Projected GANs Converge Faster", 2021, without their random mixing of channels
    and scales. It need not learn what edges, eyes and mouths are: a few hundred steps make it useful. Groups of
    channels are normalized within an image, so ranks need not exchange statistics.

    Args:
        features: Images (B, C, H, W) in [0, 1] -> a map (B, channels, h, w) for each layer; its weights stay as they
            are.
        shapes: (channels, h, w) of the maps.
        width: Channels of a head, a multiple of 8.
    """

    def __init__(self, features: nn.Module, shapes: Sequence[tuple[int, int, int]], width: int = 64) -> None:
        super().__init__()
        self.features = features.requires_grad_(False).eval()
        self.heads = nn.ModuleList(_head(*shape, width) for shape in shapes)

    def train(self, mode: bool = True) -> Self:
        """Switch the heads; the features' batch normalization stays in eval mode."""
        super().train(mode)
        self.features.eval()
        return self

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images (B, C, H, W) in [0, 1] -> logits (B, places of all scales), high for photos."""
        maps = self.features(images)
        return torch.cat([head(part).flatten(1) for head, part in zip(self.heads, maps, strict=True)], dim=1)


def _head(channels: int, height: int, width: int, head_width: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(channels, head_width, 1), nn.LeakyReLU(0.2)]
    while max(height, width) > _PLACES:
        layers += [nn.Conv2d(head_width, head_width, 4, 2, 1), nn.GroupNorm(8, head_width), nn.LeakyReLU(0.2)]
        height, width = height // 2, width // 2
    layers += [nn.Conv2d(head_width, head_width, 3, padding=1), nn.GroupNorm(8, head_width), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Conv2d(head_width, 1, 1))
