"""Convolutional autoencoder: images to a few numbers and back; plain or variational."""

import torch
import torch.nn.functional as F
from transformers import initialization as init

from hfembed.models.autoencoder_base import (
    AutoencoderModelBase,
    AutoencoderOutput,
    ConvBottleneck,
    Decoder,
    Encoder,
    ResidualBlock,
    make_bottleneck,
)

from .configuration_conv_autoencoder import ConvAutoencoderConfig
from .entropy_network import EntropyNetwork, GroupNetwork, rounding_step
from .finite_scalar_quantization import quantize
from .kl_network import KLBottleneck, KLDecoder, KLEncoder
from .vector_quantization import VectorQuantizer

# the encoder's log variances are kept where exp() of them, and their gradients, are harmless
_LOG_VARIANCE_RANGE = (-30.0, 20.0)
_START_NOISE = 0.01  # variance of latents drawn at a linear start, as a fraction of the mean variance of pixels
_START_BATCH = 64  # images that a start encodes at once


class ConvAutoencoderModel(AutoencoderModelBase):
    """Encoder, bottleneck, decoder. Images are in [0, 1]."""

    config: ConvAutoencoderConfig
    config_class = ConvAutoencoderConfig
    model_tags = ["hfembed", "autoencoder"]

    def __init__(self, config: ConvAutoencoderConfig) -> None:
        super().__init__(config)
        is_plain = config.architecture == "plain"
        self.encoder = Encoder(config) if is_plain else KLEncoder(config)
        # a variational encoder gives means and log variances
        codes = config.latent_channels * (2 if config.variational else 1)
        has_plain_bottleneck = is_plain or config.bottleneck == "dense"
        self.bottleneck = make_bottleneck(config, codes) if has_plain_bottleneck else KLBottleneck(config, codes)
        self.decoder = Decoder(config) if is_plain else KLDecoder(config)
        self.entropy = EntropyNetwork(config.latent_shape) if config.quantizer == "rounding" else None
        self.vector_quantizer = (
            VectorQuantizer(config.codebook_size, config.latent_channels) if config.quantizer == "vq" else None
        )
        self.post_init()

    @property
    def last_layer(self) -> torch.Tensor:
        """Weights of the decoder's last convolution."""
        return self.decoder.conv_out.weight

    @torch.no_grad()
    def _init_weights(self, module: torch.nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, GroupNetwork):  # at first, each channel nearly follows one Gaussian
            for parameter in (module.write.weight, module.quality, module.hidden_at, module.output_at):
                init.normal_(parameter, std=0.01)
        elif isinstance(module, VectorQuantizer):
            init.normal_(module.codebook)

    def forward(self, pixel_values: torch.Tensor, targets: torch.Tensor | None = None) -> AutoencoderOutput:
        """Reconstruct a batch of images. A variational model samples its latents in training, and otherwise takes
        their mean; one that rounds does so in training, each image by a quality that is drawn for it.

        Args:
            pixel_values: (batch_size, num_channels, height, width) in [0, 1], from the image processor.
            targets: What to reconstruct, of the same shape: the clean images of corrupted `pixel_values`. In training
                `pixel_values` themselves unless given.

        Raises:
            ValueError: The images have other channels, or a size that the stride does not divide.
        """
        mean, log_variance = self._encode(pixel_values)
        if self.vector_quantizer is not None:
            mean, codebook_loss, commitment_loss = self.vector_quantizer(mean)
        latents = self.sample(mean, log_variance) if log_variance is not None and self.training else mean
        rate = None
        if self.entropy is not None and self.training:
            latents, rate, costs_of_rate = self._round(latents, pixel_values)
        reconstruction = 0.5 + self.decoder(self.bottleneck.decode(latents))
        output = AutoencoderOutput(reconstruction=reconstruction, latents=latents, pooler_output=mean.flatten(1))
        output.rate = rate
        if targets is None and self.training:
            targets = pixel_values
        if targets is not None:
            output.reconstruction_loss = self.reconstruction_loss(reconstruction, targets)
            output.loss = output.reconstruction_loss
            if log_variance is not None:
                per_latent = kl_divergence(mean, log_variance).mean(0)
                output.divergence = per_latent.sum()
                # nats per image are spread over its values, to be of the size of a mean squared error
                costs = per_latent.clamp(min=self.config.free_bits).sum() / targets[0].numel()
                output.loss = output.loss + self.config.kl_weight * costs
            if rate is not None:
                output.loss = output.loss + self.config.rate_weight * costs_of_rate
            if self.vector_quantizer is not None:
                output.codebook_loss = codebook_loss
                output.loss = output.loss + codebook_loss + self.config.commitment_weight * commitment_loss
            if self.config.latent_penalty != "none":
                values = latents.float()
                penalty = values.abs().mean() if self.config.latent_penalty == "l1" else values.square().mean()
                output.loss = output.loss + self.config.latent_penalty_weight * penalty
        return output

    def encode(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Encode images to latents; of a variational model, their mean; of a quantized one, what they are
        rounded to.

        Args:
            pixel_values: (B, num_channels, H, W) in [0, 1].

        Returns:
            (B, latent_channels, H / stride, W / stride); (B, latent_channels, 1, 1) where the bottleneck is dense.

        Raises:
            ValueError: The images have other channels, or a size that the stride does not divide.
        """
        latents = self._encode(pixel_values)[0]
        return latents if self.vector_quantizer is None else self.vector_quantizer(latents)[0]

    def encode_distribution(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode images to the Gaussians of a variational model; draw from them with `sample`.

        Args:
            pixel_values: (B, num_channels, H, W) in [0, 1].

        Raises:
            ValueError: The model is not variational; or see `encode`.
        """
        mean, log_variance = self._encode(pixel_values)
        if log_variance is None:
            raise ValueError("this autoencoder is not variational: its latents have no distribution, use encode()")
        return mean, log_variance

    @staticmethod
    def sample(
        mean: torch.Tensor, log_variance: torch.Tensor, generator: torch.Generator | None = None
    ) -> torch.Tensor:
        """Draw latents, differentiable in mean and variance (Kingma and Welling, 2014, section 2.4).

        Args:
            mean: (B, C, h, w), from `encode_distribution`.
            generator: Source of the randomness; torch's own by default.

        Returns:
            (B, C, h, w).
        """
        noise = torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)
        return mean + torch.exp(0.5 * log_variance) * noise

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Decode latents to images.

        Args:
            latents: (B, latent_channels, h, w).

        Returns:
            (B, num_channels, h * stride, w * stride), in [0, 1] up to overshoot, which is not clipped.

        Raises:
            ValueError: The latents have another shape.
        """
        self.check_latents(latents)
        return 0.5 + self.decoder(self.bottleneck.decode(latents.to(self.dtype)))

    @torch.no_grad()
    def start_from_patches(self, images: torch.Tensor) -> None:
        """Start as the best linear code of patches, their PCA, from which training finds what is not linear.

        The residual blocks add nothing yet, and of a pair of channels z and -z the decoder's activation is undone:
        silu(z) - silu(-z) = z.

        Args:
            images: (N, num_channels, H, W) in [0, 1].

        Raises:
            ValueError: The network is not a plain one with one level, a grid of latents, and two channels per latent.
        """
        config, codes = self.config, self.config.latent_channels
        if (
            (config.architecture, config.bottleneck, config.bottleneck_size) != ("plain", "conv", 1)
            or len(config.widths) != 1
            or config.widths[0] < 2 * codes
        ):
            raise ValueError(
                "a linear start needs architecture plain, one level, a grid of latents and widths of at least twice "
                f"latent_channels; got {config.architecture}, widths {config.widths}, latent_channels {codes}"
            )
        patches = F.pixel_unshuffle(images - 0.5, config.patch_size).permute(0, 2, 3, 1).flatten(0, 2)
        mean = patches.mean(0)
        variances, directions = torch.linalg.eigh((patches - mean).T @ (patches - mean) / len(patches))
        components = directions.flip(1)[:, :codes]
        identity = torch.eye(codes)
        for block in self.modules():
            if isinstance(block, ResidualBlock):
                block.conv2.weight.zero_()
        read, write = self.encoder.conv_in, self.decoder.conv_out
        assert isinstance(self.bottleneck, ConvBottleneck) and read.bias is not None and write.bias is not None
        read.weight[:codes] = 0
        read.weight[:codes, :, 1, 1] = components.T
        read.bias[:codes] = -components.T @ mean
        to_latents, from_latents = self.bottleneck.to_latents, self.bottleneck.from_latents
        to_latents.weight.zero_()
        to_latents.weight[:codes, :codes, 0, 0] = identity
        assert to_latents.bias is not None
        to_latents.bias[codes:] = torch.log(_START_NOISE * variances.mean())  # of a variational encoder
        from_latents.weight[:, : 2 * codes, 0, 0] = torch.cat([identity, -identity], dim=1)
        write.weight.zero_()
        write.weight[:, : 2 * codes, 1, 1] = torch.cat([components, -components], dim=1)
        write.bias.copy_(mean)
        if self.entropy is not None:
            self.entropy.scale.copy_(variances.flip(0)[:codes, None, None].sqrt())

    @torch.no_grad()
    def start_codebook(self, images: torch.Tensor) -> None:
        """Start the codebook of a model with one as latent vectors of images (N, num_channels, H, W) in [0, 1]."""
        if self.vector_quantizer is not None:
            parts = [self._encode(part)[0] for part in images.split(_START_BATCH)]
            self.vector_quantizer.start_from_latents(torch.cat(parts))

    def _round(self, latents: torch.Tensor, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Rounded latents, bits per pixel, and these weighted by the squared steps."""
        assert self.entropy is not None
        if tuple(latents.shape[1:]) != self.config.latent_shape:
            raise ValueError(
                f"a model that rounds is trained on images of its image_size, {self.config.image_size}, got "
                f"{list(images.shape[2:])}"
            )
        lowest, highest = self.config.qualities
        quality = lowest + (highest - lowest) * torch.rand(len(latents), device=latents.device)
        steps = rounding_step(quality, images[0].numel())[:, None, None, None]
        # bfloat16 has too few digits for means that are many steps away from zero
        with torch.autocast(latents.device.type, enabled=False):
            rounded, bits = self.entropy(latents.float(), steps, quality)
        rates = bits / images[0, 0].numel()
        # the slope of distortion over rate is proportional to the squared step
        weights = torch.exp2((lowest + highest) / 2 - quality)
        return rounded.to(latents.dtype), rates.mean(), (weights * rates).mean()

    def _encode(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Latents before their vector quantization, or mean and log variance of a variational model."""
        self.check_pixel_values(pixel_values)
        codes = self.bottleneck.encode(self.encoder(pixel_values.to(self.dtype))[-1])
        if self.config.quantizer == "fsq":
            return quantize(codes, self.config.levels), None
        if not self.config.variational:
            return codes, None
        mean, log_variance = codes.chunk(2, dim=1)
        return mean, log_variance.clamp(*_LOG_VARIANCE_RANGE)


def kl_divergence(mean: torch.Tensor, log_variance: torch.Tensor) -> torch.Tensor:
    """Divergence of Gaussians from the standard normal: Kingma and Welling, 2014, appendix B, for each latent number.

    Returns:
        The same shape, float32, in nats.
    """
    mean, log_variance = mean.float(), log_variance.float()
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)


__all__ = ["ConvAutoencoderModel", "kl_divergence"]
