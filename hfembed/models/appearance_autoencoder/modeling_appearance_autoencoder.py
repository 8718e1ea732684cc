"""Appearance autoencoder: an active appearance model, fitted by least squares from a warp that an encoder predicts."""

import torch
from torch import nn
from transformers import initialization as init

from hfembed.models.autoencoder_base import AutoencoderModelBase, AutoencoderOutput, Decoder, Encoder, ZeroConv2d

from .configuration_appearance_autoencoder import AppearanceAutoencoderConfig
from .warped_linear_code import WarpedLinearCode


class WarpBottleneck(nn.Module):
    """The last feature map to the start of a warp; and the warped linear code."""

    def __init__(self, config: AppearanceAutoencoderConfig) -> None:
        super().__init__()
        if config.warp_latents:
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


class DetailNetwork(nn.Module):
    """Add to drawn images what their code has no numbers for: a U-Net (Ronneberger et al. 2015), zero at first."""

    def __init__(self, config: AppearanceAutoencoderConfig) -> None:
        super().__init__()
        self.encoder = Encoder(config)
        self.decoder = Decoder(config, output=ZeroConv2d)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images (B, C, H, W) -> the same shape."""
        maps = self.encoder(images.to(self.decoder.conv_out.weight.dtype))
        return images + self.decoder(maps[-1], maps[:-1])


class AppearanceAutoencoderModel(AutoencoderModelBase):
    """Images as a smooth warp of a linear code (Cootes et al., "Active Appearance Models", 2001).

    A convolutional encoder predicts the warp; a few Gauss-Newton steps from there find warp and code of least squared
    error. With `warp_latents: 0` it is a linear code, as of principal components, and with `detail` a U-Net corrects
    what is drawn; otherwise there is no convolutional decoder. Images are in [0, 1].
    """

    config: AppearanceAutoencoderConfig
    config_class = AppearanceAutoencoderConfig
    model_tags = ["hfembed", "autoencoder", "active-appearance-model"]

    def __init__(self, config: AppearanceAutoencoderConfig) -> None:
        super().__init__(config)
        if config.warp_latents:
            self.encoder = Encoder(config)
        self.bottleneck = WarpBottleneck(config)
        self.detail = DetailNetwork(config) if config.detail else None
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if not isinstance(module, WarpedLinearCode):
            super()._init_weights(module)
            return
        parameters = [module.mean, module.basis, *([] if module.fields is None else [module.fields])]
        for parameter, value in zip(parameters, module.starting_values(), strict=True):
            init.copy_(parameter, value)
        if module.filters is not None:
            init.zeros_(module.filters)

    @property
    def last_layer(self) -> torch.Tensor | None:
        """Weights of the detail network's last convolution; None without."""
        return None if self.detail is None else self.detail.decoder.conv_out.weight

    def start_from_images(self, pixel_values: torch.Tensor) -> None:
        """Initialize the linear code from principal components of images (N, C, H, W) in [0, 1], before training."""
        self.bottleneck.code.start_from_images(pixel_values)

    def forward(self, pixel_values: torch.Tensor, targets: torch.Tensor | None = None) -> AutoencoderOutput:
        """Fit and reconstruct a batch of images.

        The gradient vanishes at the least-squares solution. So mean, basis and fields learn from the reconstruction
        with the fitted latents as constants, and the encoder learns to predict the fitted warp.

        Args:
            pixel_values: (batch_size, num_channels, height, width) in [0, 1], from the image processor.
            targets: What to reconstruct, of the same shape. In training `pixel_values` themselves unless given.

        Raises:
            ValueError: The images have other channels or another size.
        """
        warp, fitted = self._fit(pixel_values)
        reconstruction = self._draw(fitted)
        output = AutoencoderOutput(
            reconstruction=reconstruction, latents=fitted[:, :, None, None], pooler_output=fitted
        )
        if targets is None and self.training:
            targets = pixel_values
        if targets is not None:
            output.reconstruction_loss = self.reconstruction_loss(reconstruction, targets)
            output.loss = output.reconstruction_loss
            if warp is not None:
                distance = (warp - fitted[:, : warp.shape[1]].detach()).square().sum(1).mean()
                output.loss = output.loss + distance / targets[0].numel()
        return output

    def encode(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Fit latents to images.

        Args:
            pixel_values: (B, num_channels, H, W) in [0, 1].

        Returns:
            (B, latent_channels, 1, 1), float32: the warp's numbers, then the linear code's.

        Raises:
            ValueError: The images have other channels or another size.
        """
        return self._fit(pixel_values)[1][:, :, None, None]

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Decode latents to images.

        Args:
            latents: (B, latent_channels, 1, 1).

        Returns:
            (B, num_channels, H, W), float32, in [0, 1] up to overshoot, which is not clipped.

        Raises:
            ValueError: The latents have another shape.
        """
        self.check_latents(latents)
        return self._draw(latents.flatten(1))

    def _draw(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents (B, latent_channels) -> images."""
        drawn = self.bottleneck.code.decode(latents)
        return drawn if self.detail is None else self.detail(drawn)

    def _fit(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor]:
        """The predicted warp (B, warp_latents), and the fitted latents (B, latent_channels)."""
        self.check_pixel_values(pixel_values)
        code = self.bottleneck.code
        if not self.config.warp_latents:
            return None, code.project(pixel_values)
        warp = self.bottleneck.to_warp(self.encoder(pixel_values.to(self.dtype))[-1].flatten(1)).float()
        fitted = code.fit(pixel_values, warp.detach(), self.config.refinement_steps, coarse=self.training)
        if self.training or self.config.code_filters:
            fitted = code.refit(fitted, pixel_values)
        return warp, fitted


__all__ = ["AppearanceAutoencoderModel"]
