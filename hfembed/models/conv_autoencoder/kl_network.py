"""The network of diffusers' AutoencoderKL: GroupNorm residual blocks, attention at the lowest map.

Esser et al., "Taming Transformers for High-Resolution Image Synthesis", 2021; Rombach et al., "High-Resolution Image
Synthesis with Latent Diffusion Models", 2022. Modules are named as in diffusers, so that its checkpoints load by name.
With a `patch_size` above 1, which diffusers does not have, patches are folded into channels first.
"""

import torch
import torch.nn.functional as F
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from .configuration_conv_autoencoder import ConvAutoencoderConfig


def _norm(config: ConvAutoencoderConfig, channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(config.norm_groups, channels, eps=1e-6)


class _ResidualBlock(GradientCheckpointingLayer):
    def __init__(self, config: ConvAutoencoderConfig, in_channels: int, channels: int) -> None:
        super().__init__()
        self.norm1 = _norm(config, in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.norm2 = _norm(config, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        if in_channels != channels:
            self.conv_shortcut = nn.Conv2d(in_channels, channels, 1)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        residual = self.conv1(F.silu(self.norm1(hidden)))
        residual = self.conv2(F.silu(self.norm2(residual)))
        return residual + (self.conv_shortcut(hidden) if hasattr(self, "conv_shortcut") else hidden)


class _Attention(nn.Module):
    """Self-attention over the positions of a map, with one head."""

    def __init__(self, config: ConvAutoencoderConfig, channels: int) -> None:
        super().__init__()
        self.group_norm = _norm(config, channels)
        self.to_q, self.to_k, self.to_v = (nn.Linear(channels, channels) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        positions = self.group_norm(hidden).flatten(2).transpose(1, 2)
        attended = F.scaled_dot_product_attention(self.to_q(positions), self.to_k(positions), self.to_v(positions))
        return hidden + self.to_out[0](attended).transpose(1, 2).reshape(hidden.shape)


class _MidBlock(nn.Module):
    def __init__(self, config: ConvAutoencoderConfig, channels: int) -> None:
        super().__init__()
        self.attentions = nn.ModuleList([_Attention(config, channels)] if config.attention else [])
        self.resnets = nn.ModuleList(_ResidualBlock(config, channels, channels) for _ in range(2))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        hidden = self.resnets[0](hidden)
        for attention in self.attentions:
            hidden = attention(hidden)
        return self.resnets[1](hidden)


class _Downsampler(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.conv(F.pad(hidden, (0, 1, 0, 1)))


class _Upsampler(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.conv(F.interpolate(hidden, scale_factor=2.0, mode="nearest"))


class _Level(nn.Module):
    """Residual blocks at one resolution, then the step to the next one, except at the last level."""

    def __init__(
        self, config: ConvAutoencoderConfig, in_channels: int, channels: int, blocks: int, step: str, is_last: bool
    ) -> None:
        super().__init__()
        inputs = [in_channels, *[channels] * (blocks - 1)]
        self.resnets = nn.ModuleList(_ResidualBlock(config, width, channels) for width in inputs[:blocks])
        if not is_last and step == "down":
            self.downsamplers = nn.ModuleList([_Downsampler(channels)])
        if not is_last and step == "up":
            self.upsamplers = nn.ModuleList([_Upsampler(channels)])

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        for block in self.resnets:
            hidden = block(hidden)
        for step in (*getattr(self, "downsamplers", ()), *getattr(self, "upsamplers", ())):
            hidden = step(hidden)
        return hidden


class KLEncoder(nn.Module):
    """Images to the last feature map, normalized and activated."""

    def __init__(self, config: ConvAutoencoderConfig) -> None:
        super().__init__()
        widths = config.widths
        self.fold = nn.PixelUnshuffle(config.patch_size)
        self.conv_in = nn.Conv2d(config.num_channels * config.patch_size**2, widths[0], 3, padding=1)
        self.down_blocks = nn.ModuleList(
            _Level(config, widths[max(n - 1, 0)], width, config.blocks_per_level, "down", n == len(widths) - 1)
            for n, width in enumerate(widths)
        )
        self.mid_block = _MidBlock(config, widths[-1])
        self.conv_norm_out = _norm(config, widths[-1])

    def forward(self, pixel_values: torch.Tensor) -> list[torch.Tensor]:
        """Images (B, channels, H, W) in [0, 1] -> the map (B, widths[-1], h, w), the only one of a list."""
        hidden = self.conv_in(self.fold(2 * pixel_values - 1))
        for level in self.down_blocks:
            hidden = level(hidden)
        return [F.silu(self.conv_norm_out(self.mid_block(hidden)))]


class KLDecoder(nn.Module):
    """The last feature map to images; a level has one residual block more than the encoder's."""

    def __init__(self, config: ConvAutoencoderConfig) -> None:
        super().__init__()
        widths = config.widths[::-1]
        self.mid_block = _MidBlock(config, widths[0])
        self.up_blocks = nn.ModuleList(
            _Level(config, widths[max(n - 1, 0)], width, config.blocks_per_level + 1, "up", n == len(widths) - 1)
            for n, width in enumerate(widths)
        )
        self.conv_norm_out = _norm(config, widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], config.num_channels * config.patch_size**2, 3, padding=1)
        self.unfold = nn.PixelShuffle(config.patch_size)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Map (B, widths[-1], h, w) -> (B, num_channels, H, W); 0 is mid-gray."""
        hidden = self.mid_block(hidden)
        for level in self.up_blocks:
            hidden = level(hidden)
        return 0.5 * self.unfold(self.conv_out(F.silu(self.conv_norm_out(hidden))))


class KLBottleneck(nn.Module):
    """The last feature map to latents of the same height and width, and back."""

    def __init__(self, config: ConvAutoencoderConfig, codes: int) -> None:
        super().__init__()
        latents, width = config.latent_channels, config.widths[-1]
        self.conv_out = nn.Conv2d(width, codes, 3, padding=1)
        self.quant_conv = nn.Conv2d(codes, codes, 1) if config.quant_conv else nn.Identity()
        self.post_quant_conv = nn.Conv2d(latents, latents, 1) if config.quant_conv else nn.Identity()
        self.conv_in = nn.Conv2d(latents, width, 3, padding=1)

    def encode(self, hidden: torch.Tensor) -> torch.Tensor:
        """(B, widths[-1], h, w) -> (B, codes, h, w)."""
        return self.quant_conv(self.conv_out(hidden))

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """(B, latent_channels, h, w) -> (B, widths[-1], h, w)."""
        return self.conv_in(self.post_quant_conv(latents))


# beginnings of names in diffusers that are others here: the convolutions around the latents belong to the bottleneck
_RENAMED = {
    "encoder.conv_out.": "bottleneck.conv_out.",
    "quant_conv.": "bottleneck.quant_conv.",
    "post_quant_conv.": "bottleneck.post_quant_conv.",
    "decoder.conv_in.": "bottleneck.conv_in.",
}


def name_in_diffusers(name: str) -> str:
    """What diffusers' AutoencoderKL calls a weight of this network."""
    for theirs, ours in _RENAMED.items():
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return name
