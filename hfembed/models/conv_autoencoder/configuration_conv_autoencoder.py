"""Configuration of a plain or variational convolutional autoencoder."""

import math
from dataclasses import field
from typing import Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict

from hfembed.models.autoencoder_config import AutoencoderConfig

# fields of this config until the family was split: what to say to code that still passes them
_MOVED = {
    "skip_connections": "RestorationAutoencoderConfig",
    "inpainting": "RestorationAutoencoderConfig",
    "warp_latents": "AppearanceAutoencoderConfig",
    "warp_grid": "AppearanceAutoencoderConfig",
    "refinement_steps": "AppearanceAutoencoderConfig",
    "code_filters": "AppearanceAutoencoderConfig",
}


@strict
class ConvAutoencoderConfig(AutoencoderConfig):
    r"""Configuration of `ConvAutoencoderModel`.

    The first layer folds patches of `patch_size` x `patch_size` pixels into channels, every further level halves
    height and width, and the bottleneck reads the last feature map. All layers are convolutions, unless `bottleneck`
    is `"dense"`, so that images of any size that `stride` divides are accepted.

    Further fields, and errors: see `AutoencoderConfig`.

    Args:
        architecture (`str`, *optional*, defaults to `"plain"`):
            `"plain"`, small and without normalization; or `"autoencoder_kl"`, the network of diffusers' AutoencoderKL:
            GroupNorm residual blocks and attention at the lowest map, for color images of 64 to 512 pixels.
        norm_groups (`int`, *optional*, defaults to 32):
            Of `"autoencoder_kl"`: groups of GroupNorm; all of `widths` must be multiples of it.
        attention (`bool`, *optional*, defaults to `True`):
            Of `"autoencoder_kl"`: attention between the two residual blocks at the lowest map.
        quant_conv (`bool`, *optional*, defaults to `False`):
            Of `"autoencoder_kl"` with a latent grid: 1 x 1 convolutions around the latents, which many checkpoints of
            diffusers have.
        image_size (`list[int]`, *optional*, defaults to `[64, 64]`):
            Height and width the model is made for. A convolutional model accepts others too, a dense one does not.
        bottleneck (`str`, *optional*, defaults to `"conv"`):
            `"conv"`, or `"dense"`: one linear layer over the whole feature map, for images of `image_size` only.
        bottleneck_size (`int`, *optional*, defaults to 1):
            Side of the squares of the last feature map that one position of a convolutional latent grid sees. As large
            as the map, the latent of an image of `image_size` is one vector, and a larger image a grid of them.
        latent_channels (`int`, *optional*, defaults to 8):
            Channels C of the latents (B, C, h, w).
        variational (`bool`, *optional*, defaults to `False`):
            The encoder predicts a Gaussian for each latent number; its mean is used (Kingma and Welling, 2014).
        kl_weight (`float`, *optional*, defaults to 1e-4):
            Weight of the Kullback-Leibler divergence from the standard normal, in nats per pixel value of the image.
        free_bits (`float`, *optional*, defaults to 0.0):
            Nats of divergence, for each latent number and averaged over the batch, that cost nothing (Kingma et al.,
            "Improved Variational Inference with Inverse Autoregressive Flow", 2016, eq. 15).
        quantizer (`str`, *optional*, defaults to `"none"`):
            `"none"`; `"fsq"`: each latent number is rounded to one of a few levels, in training too (Mentzer et al.,
            "Finite Scalar Quantization: VQ-VAE Made Simple", 2023); `"vq"`: the latent vector of each position is the
            nearest one of a learned codebook (van den Oord et al., "Neural Discrete Representation Learning", 2017);
            or `"rounding"`: in training latents are rounded to whole steps of a quality that is drawn for each image,
            and what they cost under a learned entropy model is a part of the loss (Balle et al., "Variational Image
            Compression with a Scale Hyperprior", 2018). For compression: the decoder learns to live with what
            rounding loses. Not with `variational` or a `latent_penalty`; `"rounding"` needs a latent grid.
        quantizer_levels (`list[int]`, *optional*, defaults to `[8]`):
            Of `"fsq"`: levels of each latent channel, 2 to 256; one number is that of all channels.
        codebook_size (`int`, *optional*, defaults to 1024):
            Of `"vq"`: vectors of the codebook, 2 to 65,536. Those that are never the nearest are not learned.
        commitment_weight (`float`, *optional*, defaults to 0.25):
            Of `"vq"`: weight of the mean squared distance that the encoder keeps to the codebook, beta of eq. 3.
        rate_weight (`float`, *optional*, defaults to 0.1):
            Of `"rounding"`: weight of the bits per pixel in the loss, at the middle of `qualities`; at other qualities
            it is proportional to the squared step.
        qualities (`list[int]`, *optional*, defaults to `[13, 19]`):
            Of `"rounding"`: the lowest and the highest quality of the training, 0 to 40; adding 2 halves the step.
        latent_penalty (`str`, *optional*, defaults to `"none"`):
            `"none"`, `"l1"` (mean absolute latent) or `"l2"` (mean squared latent).
        latent_penalty_weight (`float`, *optional*, defaults to 1e-4):
            Weight of the penalty.

    Example:
        ```python
        config = ConvAutoencoderConfig(num_channels=1, widths=[32, 64, 128], latent_channels=4)
        config.num_latents  # how many numbers the latent of an image of image_size has
        ```
    """

    model_type: ClassVar[str] = "hfembed_conv_autoencoder"

    architecture: Literal["plain", "autoencoder_kl"] = "plain"
    norm_groups: int = 32
    attention: bool = True
    quant_conv: bool = False
    bottleneck: Literal["conv", "dense"] = "conv"
    bottleneck_size: int = 1
    variational: bool = False
    kl_weight: float | int = 1e-4
    free_bits: float | int = 0.0
    quantizer: Literal["none", "fsq", "vq", "rounding"] = "none"
    quantizer_levels: list[int] = field(default_factory=lambda: [8])
    codebook_size: int = 1024
    commitment_weight: float | int = 0.25
    rate_weight: float | int = 0.1
    qualities: list[int] = field(default_factory=lambda: [13, 19])
    latent_penalty: Literal["none", "l1", "l2"] = "none"
    latent_penalty_weight: float | int = 1e-4

    def __post_init__(self, **kwargs: Any) -> None:
        for name in _MOVED.keys() & kwargs.keys():
            raise ValueError(f"ConvAutoencoderConfig has no field '{name}': it belongs to {_MOVED[name]}")
        super().__post_init__(**kwargs)

    @property
    def is_convolutional(self) -> bool:
        """Whether the latents are a grid, not a vector."""
        return self.bottleneck == "conv"

    @property
    def stride(self) -> int:
        """What an image's height and width must be multiples of."""
        return self.map_stride * (self.bottleneck_size if self.is_convolutional else 1)

    @property
    def levels(self) -> list[int]:
        """Levels of each latent channel of a quantized model; empty without them."""
        if self.quantizer != "fsq":
            return []
        return self.quantizer_levels * (self.latent_channels if len(self.quantizer_levels) == 1 else 1)

    def validate_objective(self) -> None:
        """Reject impossible bottlenecks and quantizers, and negative weights."""
        if self.quantizer != "none" and (self.variational or self.latent_penalty != "none"):
            raise ValueError(
                "a quantizer bounds the latents by itself: leave variational and latent_penalty out with it"
            )
        if self.quantizer == "fsq":
            if len(self.levels) != self.latent_channels or not all(2 <= count <= 256 for count in self.levels):
                raise ValueError(
                    f"quantizer_levels must be one number from 2 to 256, or one of each of the {self.latent_channels} "
                    f"latent_channels, got {self.quantizer_levels}"
                )
        if not 2 <= self.codebook_size <= 65_536:
            raise ValueError(f"codebook_size must be from 2 to 65536, got {self.codebook_size}")
        if self.quantizer == "rounding":
            if (
                not self.is_convolutional
                or len(self.qualities) != 2
                or not 0 <= self.qualities[0] <= self.qualities[1] <= 40
            ):
                raise ValueError(
                    'quantizer "rounding" needs bottleneck "conv" and qualities [lowest, highest] from 0 to 40, got '
                    f"{self.bottleneck}, {self.qualities}"
                )
        if self.bottleneck_size < 1:
            raise ValueError(f"bottleneck_size must be at least 1, got {self.bottleneck_size}")
        if self.architecture == "autoencoder_kl":
            if self.norm_groups < 1 or any(width % self.norm_groups for width in self.widths):
                raise ValueError(f"widths {self.widths} must be multiples of norm_groups, {self.norm_groups}")
            if self.blocks_per_level < 1:
                raise ValueError("blocks_per_level must be at least 1 for autoencoder_kl, got 0")
            if self.bottleneck_size != 1:
                raise ValueError(f"bottleneck_size must be 1 for autoencoder_kl, got {self.bottleneck_size}")
            if self.quant_conv and self.bottleneck == "dense":
                raise ValueError("quant_conv is of a latent grid; leave it out with the dense bottleneck")
        for name in ("kl_weight", "free_bits", "latent_penalty_weight", "rate_weight", "commitment_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be a number from 0 up, got {getattr(self, name)}")


__all__ = ["ConvAutoencoderConfig"]
