"""Convolutional autoencoder: images to a few numbers and back; plain, variational, or for denoising."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput

from .configuration_conv_autoencoder import ConvAutoencoderConfig
from .gaussian_fill import GaussianFill
from .reconstruction_losses import (
    mean_absolute_error,
    mean_squared_error,
    multiscale_structural_similarity,
    structural_similarity,
)
from .warped_linear_code import WarpedLinearCode

# the encoder's log variances are kept where exp() of them, and their gradients, are harmless
_LOG_VARIANCE_RANGE = (-30.0, 20.0)


@dataclass
class ConvAutoencoderOutput(ModelOutput):
    """Output of `ConvAutoencoderModel`.

    Args:
        loss (`torch.FloatTensor`, *optional*): Reconstruction loss, divergence and penalty; in training, and whenever
            targets are given.
        reconstruction (`torch.FloatTensor` of shape `(batch_size, num_channels, height, width)`): In [0, 1] up to
            overshoot, which is not clipped.
        latents (`torch.FloatTensor` of shape `(batch_size, latent_channels, h, w)`): What was decoded.
        pooler_output (`torch.FloatTensor` of shape `(batch_size, latent_channels * h * w)`): The latents, flat (of a
            variational model the mean): an embedding of the image.
        reconstruction_loss (`torch.FloatTensor`, *optional*): The part of the loss that compares images.
        divergence (`torch.FloatTensor`, *optional*): Of a variational model: Kullback-Leibler divergence from the
            standard normal, in nats an image, mean over the batch.
    """

    loss: torch.FloatTensor | None = None
    reconstruction: torch.FloatTensor | None = None
    latents: torch.FloatTensor | None = None
    pooler_output: torch.FloatTensor | None = None
    reconstruction_loss: torch.FloatTensor | None = None
    divergence: torch.FloatTensor | None = None


class ZeroConv2d(nn.Conv2d):
    """A convolution that starts at zero, so that a new correction changes nothing."""


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions around a shortcut; no normalisation, so that an image's size and its batch do not matter.

    Args:
        channels: Channels in and out.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Map (B, channels, h, w) -> the same shape."""
        residual = self.conv1(F.silu(hidden))
        residual = self.conv2(F.silu(residual))
        return hidden + residual


class Encoder(nn.Module):
    """Patches to channels, then levels of residual blocks, each half as large as the one before.

    Args:
        config: What to build.
    """

    def __init__(self, config: ConvAutoencoderConfig) -> None:
        super().__init__()
        widths = config.widths
        self.fold = nn.PixelUnshuffle(config.patch_size)
        planes = config.num_channels + (1 if config.inpainting else 0)
        self.conv_in = nn.Conv2d(planes * config.patch_size**2, widths[0], 3, padding=1)
        self.levels = nn.ModuleList(
            nn.Sequential(*(ResidualBlock(width) for _ in range(config.blocks_per_level))) for width in widths
        )
        self.downsamplers = nn.ModuleList(
            nn.Conv2d(widths[level], widths[level + 1], 4, stride=2, padding=1) for level in range(len(widths) - 1)
        )

    def forward(self, pixel_values: torch.Tensor) -> list[torch.Tensor]:
        """Images (B, num_channels, H, W) in [0, 1], with a mask as one more channel for inpainting -> a map of each
        level, the smallest last.
        """
        hidden = self.fold(pixel_values - 0.5)
        hidden = self.conv_in(hidden)
        maps = [self.levels[0](hidden)]
        for downsample, level in zip(self.downsamplers, self.levels[1:], strict=True):
            hidden = downsample(maps[-1])
            maps.append(level(hidden))
        return maps


class Decoder(nn.Module):
    """The encoder's mirror: levels of residual blocks, each twice as large as the last, then channels to patches.

    Args:
        config: What to build. With `skip_connections` the encoder's maps are added at each level.
    """

    def __init__(self, config: ConvAutoencoderConfig) -> None:
        super().__init__()
        widths = config.widths[::-1]
        self.levels = nn.ModuleList(
            nn.Sequential(*(ResidualBlock(width) for _ in range(config.blocks_per_level))) for width in widths
        )
        self.upsamplers = nn.ModuleList(
            nn.Conv2d(widths[level], 4 * widths[level + 1], 3, padding=1) for level in range(len(widths) - 1)
        )
        self.grow = nn.PixelShuffle(2)
        conv = ZeroConv2d if config.skip_connections else nn.Conv2d
        self.conv_out = conv(widths[-1], config.num_channels * config.patch_size**2, 3, padding=1)
        self.unfold = nn.PixelShuffle(config.patch_size)

    def forward(self, hidden: torch.Tensor, skipped: list[torch.Tensor] | None = None) -> torch.Tensor:
        """The last map (B, widths[-1], h, w), and the encoder's larger maps -> (B, num_channels, H, W), 0 is grey."""
        hidden = self.levels[0](hidden)
        for number, (upsample, level) in enumerate(zip(self.upsamplers, self.levels[1:], strict=True)):
            hidden = self.grow(upsample(F.silu(hidden)))
            if skipped is not None:
                hidden = hidden + skipped[-1 - number]
            hidden = level(hidden)
        hidden = self.conv_out(F.silu(hidden))
        return self.unfold(hidden)


class ConvBottleneck(nn.Module):
    """Squares of the last map to latents and back, by convolutions whose squares do not overlap.

    Args:
        config: What to build; a variational encoder gives twice the channels, means and log variances.
    """

    def __init__(self, config: ConvAutoencoderConfig) -> None:
        super().__init__()
        size, width = config.bottleneck_size, config.widths[-1]
        codes = config.latent_channels * (2 if config.variational else 1)
        self.to_latents = nn.Conv2d(width, codes, size, stride=size)
        self.from_latents = nn.ConvTranspose2d(config.latent_channels, width, size, stride=size)

    def encode(self, hidden: torch.Tensor) -> torch.Tensor:
        """(B, widths[-1], h, w) -> (B, codes, h / size, w / size)."""
        return self.to_latents(hidden)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """(B, latent_channels, h / size, w / size) -> (B, widths[-1], h, w)."""
        return self.from_latents(latents)


class DenseBottleneck(nn.Module):
    """The whole last map to one latent vector and back, by linear layers.

    Args:
        config: What to build.
    """

    def __init__(self, config: ConvAutoencoderConfig) -> None:
        super().__init__()
        height, width = (side // config.map_stride for side in config.image_size)
        codes = config.latent_channels * (2 if config.variational else 1)
        self.map_shape = (config.widths[-1], height, width)
        self.to_latents = nn.Linear(config.widths[-1] * height * width, codes)
        self.from_latents = nn.Linear(config.latent_channels, config.widths[-1] * height * width)

    def encode(self, hidden: torch.Tensor) -> torch.Tensor:
        """(B, widths[-1], h, w) -> (B, codes, 1, 1)."""
        return self.to_latents(hidden.flatten(1))[:, :, None, None]

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """(B, latent_channels, 1, 1) -> (B, widths[-1], h, w)."""
        return self.from_latents(latents.flatten(1)).unflatten(1, self.map_shape)


class WarpBottleneck(nn.Module):
    """The last map to the start of a warp; the code that fits the image best, and the image of a code.

    Args:
        config: What to build.
    """

    def __init__(self, config: ConvAutoencoderConfig) -> None:
        super().__init__()
        height, width = (side // config.map_stride for side in config.image_size)
        self.to_warp = nn.Linear(config.widths[-1] * height * width, config.warp_latents)
        self.code = WarpedLinearCode(
            config.num_channels,
            config.image_size,
            config.latent_channels,
            config.warp_latents,
            config.warp_grid,
            config.code_filters,
        )


class ConvAutoencoderModel(PreTrainedModel):
    """Encoder, bottleneck, decoder. Images are in [0, 1].

    Args:
        config: What to build.
    """

    config: ConvAutoencoderConfig
    base_model_prefix = "autoencoder"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    model_tags = ["hfembed", "autoencoder"]
    accepts_loss_kwargs = False
    _no_split_modules = []

    def __init__(self, config: ConvAutoencoderConfig) -> None:
        super().__init__(config)
        if config.inpainting:
            self.fill = GaussianFill(config.num_channels, config.image_size)
        self.encoder = Encoder(config)
        if config.bottleneck == "warp":
            self.bottleneck = WarpBottleneck(config)
        else:
            self.bottleneck = DenseBottleneck(config) if config.bottleneck == "dense" else ConvBottleneck(config)
            self.decoder = Decoder(config)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, ZeroConv2d):
            init.zeros_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            # by fan-in; a transposed convolution without overlap has that of a linear layer, its input channels
            fan_in = module.weight.shape[0] if isinstance(module, nn.ConvTranspose2d) else module.weight[0].numel()
            init.normal_(module.weight, std=fan_in**-0.5)
            init.zeros_(module.bias)
        elif isinstance(module, GaussianFill):
            init.constant_(module.mean, 0.5)
            init.copy_(module.precision, torch.eye(len(module.precision)))
            init.zeros_(module.count)
        elif isinstance(module, WarpedLinearCode):
            for parameter, value in zip(
                (module.mean, module.basis, module.fields), module.starting_values(), strict=True
            ):
                init.copy_(parameter, value)
            if module.filters is not None:
                init.zeros_(module.filters)
        else:
            super()._init_weights(module)

    def forward(
        self,
        pixel_values: torch.Tensor,
        targets: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
    ) -> ConvAutoencoderOutput:
        """Reconstruct a batch of images. A variational model draws its latents in training, and else takes their mean.

        Args:
            pixel_values: (batch_size, num_channels, height, width) in [0, 1], from the image processor.
            targets: What to reconstruct, of the same shape: the clean images of corrupted `pixel_values`. In training
                `pixel_values` themselves unless given.
            mask: (batch_size, 1, height, width) bool, for an inpainting model: true where images have holes. Without
                it there are none. What lies outside of holes stays as it is, so that the loss is that of the holes.

        Returns:
            ConvAutoencoderOutput.

        Raises:
            ValueError: The images have other channels, or a size that the stride does not divide; the mask has
                another size, or the model is not made for one.
        """
        self.check_pixel_values(pixel_values)
        if self.config.inpainting:
            mask = self._checked_mask(pixel_values, mask)
            # in training the images are those that the fill was measured on
            pixel_values = self.fill(pixel_values, mask, targets if self.training else None)
            maps = self.encoder(torch.cat([pixel_values, mask], dim=1).to(self.dtype))
        elif mask is not None:
            raise ValueError("this autoencoder knows of no masks: train one with inpainting")
        else:
            maps = self.encoder(pixel_values.to(self.dtype))
        if self.config.bottleneck == "warp":
            return self._forward_warped(pixel_values, maps[-1], targets)
        codes = self.bottleneck.encode(maps[-1])
        mean, log_variance = self._mean_and_log_variance(codes)
        latents = self.sample(mean, log_variance) if self.config.variational and self.training else mean
        hidden = self.bottleneck.decode(latents)
        if self.config.skip_connections:
            reconstruction = pixel_values + self.decoder(hidden + maps[-1], maps[:-1])
            if self.config.inpainting:
                reconstruction = torch.where(mask, reconstruction, pixel_values)
        else:
            reconstruction = 0.5 + self.decoder(hidden)
        output = ConvAutoencoderOutput(reconstruction=reconstruction, latents=latents, pooler_output=mean.flatten(1))
        if targets is None and self.training:
            targets = pixel_values
        if targets is not None:
            output.reconstruction_loss = self.reconstruction_loss(reconstruction, targets)
            output.loss = output.reconstruction_loss
            if self.config.variational:
                per_latent = kl_divergence(mean, log_variance).mean(0)
                output.divergence = per_latent.sum()
                # nats an image are spread over its values, to be of the size of a mean squared error
                costs = per_latent.clamp(min=self.config.free_bits).sum() / targets[0].numel()
                output.loss = output.loss + self.config.kl_weight * costs
            if self.config.latent_penalty != "none":
                values = latents.float()
                penalty = values.abs().mean() if self.config.latent_penalty == "l1" else values.square().mean()
                output.loss = output.loss + self.config.latent_penalty_weight * penalty
        return output

    def _forward_warped(
        self, pixel_values: torch.Tensor, hidden: torch.Tensor, targets: torch.Tensor | None
    ) -> ConvAutoencoderOutput:
        """`forward` from the encoder's last map on. At the latents of least squares the error has no slope.

        So mean, basis and fields learn from the reconstruction at the fitted latents as if these were given, and the
        encoder learns to say the fitted warp at once.
        """
        warp = self.bottleneck.to_warp(hidden.flatten(1)).float()
        fitted = self._fit(pixel_values, warp)
        reconstruction = self.bottleneck.code.decode(fitted)
        latents = fitted[:, :, None, None]
        output = ConvAutoencoderOutput(reconstruction=reconstruction, latents=latents, pooler_output=fitted)
        if targets is None and self.training:
            targets = pixel_values
        if targets is not None:
            output.reconstruction_loss = self.reconstruction_loss(reconstruction, targets)
            distance = (warp - fitted[:, : warp.shape[1]].detach()).square().sum(1).mean()
            output.loss = output.reconstruction_loss + distance / targets[0].numel()
        return output

    def _fit(self, pixel_values: torch.Tensor, warp: torch.Tensor) -> torch.Tensor:
        """Images, and where their warp starts, to latents (B, latent_channels)."""
        code = self.bottleneck.code
        fitted = code.fit(pixel_values, warp.detach(), self.config.refinement_steps, coarse=self.training)
        return code.refit(fitted, pixel_values) if self.training or self.config.code_filters else fitted

    def encode(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Images to latents; of a variational model, their mean.

        Args:
            pixel_values: (B, num_channels, H, W) in [0, 1].

        Returns:
            (B, latent_channels, H / stride, W / stride); (B, latent_channels, 1, 1) where the bottleneck is dense or a
            warp.

        Raises:
            ValueError: The images have other channels, or a size that the stride does not divide; or the model is
                one for inpainting.
        """
        self.check_pixel_values(pixel_values)
        if self.config.inpainting:
            raise ValueError("an inpainting autoencoder takes images with their mask: call the model itself")
        hidden = self.encoder(pixel_values.to(self.dtype))[-1]
        if self.config.bottleneck == "warp":
            return self._fit(pixel_values, self.bottleneck.to_warp(hidden.flatten(1)))[:, :, None, None]
        return self._mean_and_log_variance(self.bottleneck.encode(hidden))[0]

    def encode_distribution(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Images to the Gaussians of a variational model; draw from them with `sample`.

        Args:
            pixel_values: (B, num_channels, H, W) in [0, 1].

        Returns:
            Mean and logarithm of the variance, each of the latents' shape.

        Raises:
            ValueError: The model is not variational; or see `encode`.
        """
        if not self.config.variational:
            raise ValueError("this autoencoder is not variational: its latents have no distribution, use encode()")
        self.check_pixel_values(pixel_values)
        codes = self.bottleneck.encode(self.encoder(pixel_values.to(self.dtype))[-1])
        return self._mean_and_log_variance(codes)

    @staticmethod
    def sample(
        mean: torch.Tensor, log_variance: torch.Tensor, generator: torch.Generator | None = None
    ) -> torch.Tensor:
        """Draw latents, differentiable in mean and variance (Kingma and Welling, 2014, section 2.4).

        Args:
            mean: (B, C, h, w), from `encode_distribution`.
            log_variance: Of the same shape.
            generator: Where the randomness comes from; torch's own by default.

        Returns:
            (B, C, h, w).
        """
        noise = torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)
        return mean + torch.exp(0.5 * log_variance) * noise

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents to images.

        Args:
            latents: (B, latent_channels, h, w).

        Returns:
            (B, num_channels, h * stride, w * stride), in [0, 1] up to overshoot, which is not clipped.

        Raises:
            ValueError: The latents have another shape, or the model needs the encoder's maps beside them.
        """
        if self.config.skip_connections:
            raise ValueError(
                "an autoencoder with skip connections reconstructs from its encoder's maps, not from latents alone; "
                "call the model on images, or train one without skip_connections"
            )
        channels, height, width = self.config.latent_shape
        dense = not self.config.is_convolutional
        if latents.ndim != 4 or latents.shape[1] != channels or (dense and latents.shape[2:] != (1, 1)):
            sides = (height, width) if dense else ("h", "w")
            raise ValueError(
                f"latents must be (batch, {channels}, {sides[0]}, {sides[1]}) for this model, got "
                f"{tuple(latents.shape)}"
            )
        if self.config.bottleneck == "warp":
            return self.bottleneck.code.decode(latents.flatten(1))
        return 0.5 + self.decoder(self.bottleneck.decode(latents.to(self.dtype)))

    def reconstruction_loss(self, reconstruction: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The config's sum of losses between images.

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
                value = mean_squared_error(reconstruction, targets)
            elif name == "mean_absolute":
                value = mean_absolute_error(reconstruction, targets)
            elif name == "ssim":
                value = 1 - structural_similarity(reconstruction, targets).mean()
            else:
                value = 1 - multiscale_structural_similarity(reconstruction, targets).mean()
            loss = loss + weight * value
        return loss

    def check_pixel_values(self, pixel_values: torch.Tensor) -> None:
        """Refuse images that this model cannot take.

        Args:
            pixel_values: (B, C, H, W).

        Raises:
            ValueError: They have other channels, or a size that the stride does not divide.
        """
        config = self.config
        if pixel_values.ndim != 4 or pixel_values.shape[1] != config.num_channels:
            kind = "grey" if config.num_channels == 1 else "colour"
            raise ValueError(
                f"pixel_values must be (batch, {config.num_channels}, height, width) for this {kind} model, got "
                f"{tuple(pixel_values.shape)}; its image processor makes them so"
            )
        height, width = pixel_values.shape[2:]
        part = "inpainting" if config.inpainting else f"a {config.bottleneck} bottleneck"
        if (config.inpainting or not config.is_convolutional) and [height, width] != config.image_size:
            raise ValueError(
                f"{part} takes {config.image_size[0]} x {config.image_size[1]} images only, "
                f"got {height} x {width}; resize them with its image processor"
            )
        if height % config.stride or width % config.stride or not height or not width:
            raise ValueError(
                f"height and width must be multiples of {config.stride} for this model, got {height} x {width}; "
                "resize, crop or pad the images"
            )

    @staticmethod
    def _checked_mask(pixel_values: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        shape = (len(pixel_values), 1, *pixel_values.shape[2:])
        if mask is None:
            return torch.zeros(shape, dtype=torch.bool, device=pixel_values.device)
        if mask.shape != shape or mask.dtype != torch.bool:
            raise ValueError(f"mask must be bool {shape} for these images, got {mask.dtype} {tuple(mask.shape)}")
        return mask

    def _mean_and_log_variance(self, codes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        if not self.config.variational:
            return codes, None
        mean, log_variance = codes.chunk(2, dim=1)
        return mean, log_variance.clamp(*_LOG_VARIANCE_RANGE)


def kl_divergence(mean: torch.Tensor, log_variance: torch.Tensor) -> torch.Tensor:
    """Divergence of Gaussians from the standard normal: Kingma and Welling, 2014, appendix B, for each latent number.

    Args:
        mean: Any shape.
        log_variance: The same shape.

    Returns:
        The same shape, float32, in nats.
    """
    mean, log_variance = mean.float(), log_variance.float()
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)


__all__ = ["ConvAutoencoderModel", "ConvAutoencoderOutput", "kl_divergence"]
