"""Layers and checks that the autoencoder families share: encoder, decoder, bottlenecks, loss."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import ModelOutput

from hfembed.models.autoencoder_config import AutoencoderConfig
from hfembed.models.device_loading import DeviceLoading
from hfembed.models.local_contrast import contrast_distance
from hfembed.models.structural_similarity import multiscale_structural_similarity, structural_similarity


@dataclass
class AutoencoderOutput(ModelOutput):
    """Output of the autoencoders.

    Args:
        loss (`torch.FloatTensor`, *optional*): In training, and whenever targets are given.
        reconstruction (`torch.FloatTensor` of shape `(batch_size, num_channels, height, width)`): In [0, 1] up to
            overshoot, which is not clipped.
        latents (`torch.FloatTensor` of shape `(batch_size, latent_channels, h, w)`): What was decoded.
        pooler_output (`torch.FloatTensor` of shape `(batch_size, latent_channels * h * w)`): The latents, flat (of a
            variational model the mean): an embedding of the image.
        reconstruction_loss (`torch.FloatTensor`, *optional*): The part of the loss that compares images.
        divergence (`torch.FloatTensor`, *optional*): Of a variational model: Kullback-Leibler divergence from the
            standard normal, in nats per image, mean over the batch.
        rate (`torch.FloatTensor`, *optional*): In the training of a model that rounds: bits per pixel, mean over the
            batch.
        codebook_loss (`torch.FloatTensor`, *optional*): Of a model with a codebook: mean squared distance between the
            encoder's latents and the vectors that replace them.
    """

    loss: torch.Tensor | None = None
    reconstruction: torch.Tensor | None = None
    latents: torch.Tensor | None = None
    pooler_output: torch.Tensor | None = None
    reconstruction_loss: torch.Tensor | None = None
    divergence: torch.Tensor | None = None
    rate: torch.Tensor | None = None
    codebook_loss: torch.Tensor | None = None


class ZeroConv2d(nn.Conv2d):
    """A convolution that is initialized to zero, so that a new correction changes nothing."""


class ResidualBlock(GradientCheckpointingLayer):
    """Two 3 x 3 convolutions with a shortcut; without normalization, so that images do not depend on their batch."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Feature map (B, channels, h, w) -> the same shape."""
        residual = self.conv1(F.silu(hidden))
        residual = self.conv2(F.silu(residual))
        return hidden + residual


def _level(config: AutoencoderConfig, width: int) -> nn.Sequential:
    return nn.Sequential(*(ResidualBlock(width) for _ in range(config.blocks_per_level)))


class Encoder(nn.Module):
    """Fold patches into channels, then levels of residual blocks, each half as large as the one before."""

    def __init__(self, config: AutoencoderConfig, extra_channels: int = 0) -> None:
        super().__init__()
        widths = config.widths
        self.fold = nn.PixelUnshuffle(config.patch_size)
        self.conv_in = nn.Conv2d(
            (config.num_channels + extra_channels) * config.patch_size**2, widths[0], 3, padding=1
        )
        self.levels = nn.ModuleList(_level(config, width) for width in widths)
        self.downsamplers = nn.ModuleList(
            nn.Conv2d(width, next_width, 4, stride=2, padding=1)
            for width, next_width in zip(widths[:-1], widths[1:], strict=True)
        )

    def forward(self, pixel_values: torch.Tensor) -> list[torch.Tensor]:
        """Images (B, channels, H, W) in [0, 1] -> the feature map of each level, the smallest last."""
        hidden = self.conv_in(self.fold(pixel_values - 0.5))
        maps = [self.levels[0](hidden)]
        for downsample, level in zip(self.downsamplers, list(self.levels)[1:], strict=True):
            maps.append(level(downsample(maps[-1])))
        return maps


class Decoder(nn.Module):
    """The encoder's mirror: levels of residual blocks, each twice as large as the last, then channels to patches."""

    def __init__(self, config: AutoencoderConfig, output: type[nn.Conv2d] = nn.Conv2d) -> None:
        super().__init__()
        widths = config.widths[::-1]
        self.levels = nn.ModuleList(_level(config, width) for width in widths)
        self.upsamplers = nn.ModuleList(
            nn.Conv2d(width, 4 * next_width, 3, padding=1)
            for width, next_width in zip(widths[:-1], widths[1:], strict=True)
        )
        self.grow = nn.PixelShuffle(2)
        self.conv_out = output(widths[-1], config.num_channels * config.patch_size**2, 3, padding=1)
        self.unfold = nn.PixelShuffle(config.patch_size)

    def forward(self, hidden: torch.Tensor, skipped: list[torch.Tensor] | None = None) -> torch.Tensor:
        """Decode the last feature map; 0 is mid-gray.

        Args:
            hidden: (B, widths[-1], h, w).
            skipped: The encoder's larger feature maps, largest first, added at each level.

        Returns:
            (B, num_channels, H, W).
        """
        hidden = self.levels[0](hidden)
        for number, (upsample, level) in enumerate(zip(self.upsamplers, list(self.levels)[1:], strict=True)):
            hidden = self.grow(upsample(F.silu(hidden)))
            if skipped is not None:
                hidden = hidden + skipped[-1 - number]
            hidden = level(hidden)
        return self.unfold(self.conv_out(F.silu(hidden)))


class ConvBottleneck(nn.Module):
    """Squares of the last feature map to latents and back, by convolutions whose squares do not overlap."""

    def __init__(self, config: Any, codes: int) -> None:
        super().__init__()
        size, width = config.bottleneck_size, config.widths[-1]
        self.to_latents = nn.Conv2d(width, codes, size, stride=size)
        self.from_latents = nn.ConvTranspose2d(config.latent_channels, width, size, stride=size)

    def encode(self, hidden: torch.Tensor) -> torch.Tensor:
        """(B, widths[-1], h, w) -> (B, codes, h / size, w / size)."""
        return self.to_latents(hidden)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """(B, latent_channels, h / size, w / size) -> (B, widths[-1], h, w)."""
        return self.from_latents(latents)


class DenseBottleneck(nn.Module):
    """The whole last feature map to one latent vector and back, by linear layers."""

    def __init__(self, config: Any, codes: int) -> None:
        super().__init__()
        height, width = (side // config.map_stride for side in config.image_size)
        self.map_shape = (config.widths[-1], height, width)
        self.to_latents = nn.Linear(config.widths[-1] * height * width, codes)
        self.from_latents = nn.Linear(config.latent_channels, config.widths[-1] * height * width)

    def encode(self, hidden: torch.Tensor) -> torch.Tensor:
        """(B, widths[-1], h, w) -> (B, codes, 1, 1)."""
        return self.to_latents(hidden.flatten(1))[:, :, None, None]

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """(B, latent_channels, 1, 1) -> (B, widths[-1], h, w)."""
        return self.from_latents(latents.flatten(1)).unflatten(1, self.map_shape)


def make_bottleneck(config: Any, codes: int) -> ConvBottleneck | DenseBottleneck:
    """The bottleneck that a config names, whose encoder gives this many channels."""
    return DenseBottleneck(config, codes) if config.bottleneck == "dense" else ConvBottleneck(config, codes)


class AutoencoderModelBase(DeviceLoading, PreTrainedModel):
    """What the autoencoder families have in common."""

    config: AutoencoderConfig
    config_class = AutoencoderConfig
    base_model_prefix = "autoencoder"
    main_input_name = "pixel_values"
    input_modalities = ["image"]
    accepts_loss_kwargs = False
    supports_gradient_checkpointing = True
    _no_split_modules = []

    def __init__(self, config: AutoencoderConfig) -> None:
        # by name: as remote code, a config's class may be another copy of the same
        if config.model_type != self.config_class.model_type:
            raise ValueError(
                f"{type(self).__name__} cannot be built from a {type(config).__name__}, model_type "
                f"'{config.model_type}': load it by AutoModel.from_pretrained"
            )
        super().__init__(config)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, ZeroConv2d):
            for parameter in module.parameters():
                init.zeros_(parameter)
        elif isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            # by fan-in; a transposed convolution without overlap has that of a linear layer, its input channels
            fan_in = module.weight.shape[0] if isinstance(module, nn.ConvTranspose2d) else module.weight[0].numel()
            init.normal_(module.weight, std=fan_in**-0.5)
            if module.bias is not None:
                init.zeros_(module.bias)
        else:
            super()._init_weights(module)

    def reconstruction_loss(self, reconstruction: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The config's weighted sum of losses between images.

        Args:
            reconstruction: (B, num_channels, H, W).
            targets: (B, num_channels, H, W) in [0, 1].

        Returns:
            Scalar, float32.
        """
        reconstruction, targets = reconstruction.float(), targets.float()
        loss = reconstruction.new_zeros(())
        for name, weight in self.config.loss_weights.items():
            if name == "mean_squared":
                value = F.mse_loss(reconstruction, targets)
            elif name == "mean_absolute":
                value = F.l1_loss(reconstruction, targets)
            elif name == "ssim":
                value = 1 - structural_similarity(reconstruction, targets).mean()
            elif name == "contrast":
                value = contrast_distance(reconstruction, targets).mean()
            else:
                value = 1 - multiscale_structural_similarity(reconstruction, targets).mean()
            loss = loss + weight * value
        return loss

    def checkpoint_blocks(self) -> None:
        """Compute residual blocks again in the backward pass, instead of keeping their maps.

        Raises:
            ValueError: The model has no blocks that can be.
        """
        # transformers renames it, and will remove the old name
        enable = getattr(self, "activation_checkpointing_enable", None) or self.gradient_checkpointing_enable
        enable()

    def check_pixel_values(self, pixel_values: torch.Tensor) -> None:
        """Reject images that this model cannot take.

        Args:
            pixel_values: (B, C, H, W).

        Raises:
            ValueError: They have other channels, or a size that the stride does not divide.
        """
        config = self.config
        if pixel_values.ndim != 4 or pixel_values.shape[1] != config.num_channels:
            kind = "gray" if config.num_channels == 1 else "color"
            raise ValueError(
                f"pixel_values must be (batch, {config.num_channels}, height, width) for this {kind} model, got "
                f"{tuple(pixel_values.shape)}; use the model's image processor"
            )
        height, width = pixel_values.shape[2:]
        if not config.takes_any_size and [height, width] != config.image_size:
            raise ValueError(
                f"this model takes {config.image_size[0]} x {config.image_size[1]} images only, got "
                f"{height} x {width}; resize them with its image processor"
            )
        if height % config.stride or width % config.stride or not height or not width:
            raise ValueError(
                f"height and width must be multiples of {config.stride} for this model, got {height} x {width}; "
                "resize, crop or pad the images"
            )

    @property
    def last_layer(self) -> torch.Tensor | None:
        """Weights of the convolution that images come from, where a discriminator's pull is weighed; None without."""
        return None

    def encode(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Encode images to latents, in the families that have some.

        Raises:
            ValueError: The model reconstructs from its encoder's feature maps too.
        """
        raise ValueError(f"a {type(self).__name__} has no latents that an image could be decoded from; call the model")

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Decode latents to images; errors as `encode`."""
        return self.encode(latents)

    def check_latents(self, latents: torch.Tensor) -> None:
        """Reject latents that this model cannot decode.

        Raises:
            ValueError: They have another shape.
        """
        channels = self.config.latent_shape[0]
        is_vector = not self.config.is_convolutional
        if latents.ndim != 4 or latents.shape[1] != channels or (is_vector and latents.shape[2:] != (1, 1)):
            expected = f"(batch, {channels}, 1, 1)" if is_vector else f"(batch, {channels}, h, w)"
            raise ValueError(f"latents must be {expected} for this model, got {tuple(latents.shape)}")


__all__ = ["AutoencoderModelBase", "AutoencoderOutput"]
