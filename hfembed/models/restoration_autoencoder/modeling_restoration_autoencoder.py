"""Restoration autoencoder: a convolutional network with skip connections that removes damage or fills holes."""

from typing import cast

import torch
from torch import nn
from transformers import initialization as init

from hfembed.models.autoencoder_base import (
    AutoencoderModelBase,
    AutoencoderOutput,
    Decoder,
    Encoder,
    ResidualBlock,
    ZeroConv2d,
    make_bottleneck,
)

from .configuration_restoration_autoencoder import RestorationAutoencoderConfig
from .gaussian_fill import GaussianFill
from .smooth_fill import smooth_fill

_PIXEL_SCALE = 2.0  # of pixels in [-1, 1]; larger ones are canceled sooner, but at high learning rates silu dies


class RestorationAutoencoderModel(AutoencoderModelBase):
    """Predict the correction of damaged images. Images are in [0, 1].

    The encoder's feature maps are added to the decoder's (Ronneberger et al., "U-Net", 2015), whose output is added to
    the input (Zhang et al., "Beyond a Gaussian Denoiser", 2017). An inpainting model adds its correction to the
    conditional mean of the pixels in the holes, or to the image whose holes are filled from their borders (`fill`).

    A new model that removes damage shows its last layer the pixels: the first channels are the folded image's, the
    next their negatives (silu(x) - silu(-x) = x), and blocks and upsamplers add nothing yet. That layer learns a
    filter in a few dozen steps; of pixels mixed by random convolutions it would have to cancel noise by unmixing them.
    """

    config: RestorationAutoencoderConfig
    config_class = RestorationAutoencoderConfig
    model_tags = ["hfembed", "image-restoration"]

    def __init__(self, config: RestorationAutoencoderConfig) -> None:
        super().__init__(config)
        if not config.removes_damage:
            self.fill = GaussianFill(config.num_channels, config.image_size)
        self.encoder = Encoder(config, extra_channels=1 if config.inpainting else 0)
        self.bottleneck = make_bottleneck(config, config.latent_channels)
        self.decoder = Decoder(config, output=ZeroConv2d)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, GaussianFill):
            init.constant_(module.mean, 0.5)
            init.copy_(module.precision, torch.eye(len(module.precision)))
            init.zeros_(module.count)
        else:
            super()._init_weights(module)
        if self.config.removes_damage:
            if module is self.encoder.conv_in:
                init.copy_(module.weight, _passing_pixels(module.weight))
            elif any(module is addition for addition in self._additions()):
                init.zeros_(cast(nn.Conv2d, module).weight)

    def _additions(self) -> list[nn.Module]:
        """The convolutions whose output is added to a feature map."""
        blocks = [block.conv2 for block in self.modules() if isinstance(block, ResidualBlock)]
        return [*blocks, *self.decoder.upsamplers]

    def start_from_images(self, pixel_values: torch.Tensor) -> None:
        """Measure a model's Gaussian, if it has one, on images (N, C, H, W) in [0, 1], before training."""
        if not self.config.removes_damage:
            self.fill.start_from_images(pixel_values)

    def forward(
        self,
        pixel_values: torch.Tensor,
        targets: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
    ) -> AutoencoderOutput:
        """Restore a batch of images.

        Args:
            pixel_values: (batch_size, num_channels, height, width) in [0, 1], from the image processor.
            mask: (batch_size, 1, height, width) bool, for an inpainting model: true where images have holes. Without
                it there are none. With the fill "gaussian", what lies outside of holes stays as it is, so that the
                loss is that of the holes.

        Returns:
            AutoencoderOutput; `latents` are the bottleneck's and cannot be decoded alone.

        Raises:
            ValueError: The images have other channels, or a size that the stride does not divide; the mask has
                another size, or the model is not made for one; training without targets.
        """
        self.check_pixel_values(pixel_values)
        if targets is None and self.training:
            raise ValueError("training needs targets, the clean images: the network's input would be its own target")
        if self.config.inpainting:
            mask = self._checked_mask(pixel_values, mask)
            if self.config.removes_damage:
                pixel_values = smooth_fill(pixel_values, mask)
            else:
                # in training the images are those that the fill was measured on
                pixel_values = self.fill(pixel_values, mask, targets if self.training else None)
            maps = self.encoder(torch.cat([pixel_values, mask], dim=1).to(self.dtype))
        elif mask is not None:
            raise ValueError("this model does not take masks: train one with inpainting")
        else:
            maps = self.encoder(pixel_values.to(self.dtype))
        latents = self.bottleneck.encode(maps[-1])
        reconstruction = pixel_values + self.decoder(self.bottleneck.decode(latents) + maps[-1], maps[:-1])
        if mask is not None and not self.config.removes_damage:
            reconstruction = torch.where(mask, reconstruction, pixel_values)
        output = AutoencoderOutput(reconstruction=reconstruction, latents=latents, pooler_output=latents.flatten(1))
        if targets is not None:
            output.reconstruction_loss = output.loss = self.reconstruction_loss(reconstruction, targets)
        return output

    @staticmethod
    def _checked_mask(pixel_values: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        shape = (len(pixel_values), 1, *pixel_values.shape[2:])
        if mask is None:
            return torch.zeros(shape, dtype=torch.bool, device=pixel_values.device)
        if mask.shape != shape or mask.dtype != torch.bool:
            raise ValueError(f"mask must be bool {shape} for these images, got {mask.dtype} {tuple(mask.shape)}")
        return mask


def _passing_pixels(weight: torch.Tensor) -> torch.Tensor:
    """A convolution (out, in, 3, 3) whose first channels are its input's, enlarged, and the next their negatives."""
    weight = _PIXEL_SCALE * weight
    passed = min(weight.shape[1], len(weight) // 2)
    weight[: 2 * passed] = 0
    for channel in range(passed):
        weight[channel, channel, 1, 1] = _PIXEL_SCALE
        weight[passed + channel, channel, 1, 1] = -_PIXEL_SCALE
    return weight


__all__ = ["RestorationAutoencoderModel"]
