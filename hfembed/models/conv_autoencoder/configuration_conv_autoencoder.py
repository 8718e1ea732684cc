"""Everything a convolutional autoencoder is built from and trained for, in one config.json."""

import difflib
import math
from dataclasses import field, fields
from typing import Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

# keys that transformers and the Hub write into a config.json, or pass to a config, besides its declared fields
_FOREIGN_KEYS = {
    "auto_map",
    "attn_implementation",
    "custom_pipelines",
    "experts_implementation",
    "model_type",
    "per_layer_config",
    "quantization_config",
    "tie_word_embeddings",
}
RECONSTRUCTION_LOSSES = ("mean_squared", "mean_absolute", "ssim", "ms_ssim")


@strict
class ConvAutoencoderConfig(PreTrainedConfig):
    r"""Configuration of `ConvAutoencoderModel`.

    The first layer folds patches of `patch_size` x `patch_size` pixels into channels, every further level halves
    height and width, and the bottleneck reads the last map. All layers are convolutions, unless `bottleneck` is
    `"dense"`, so that images of any size that `stride` divides go through.

    Args:
        num_channels (`int`, *optional*, defaults to 3):
            Channels of the images: 3, or 1 for grey.
        image_size (`list[int]`, *optional*, defaults to `[64, 64]`):
            Height and width the model is made for. A convolutional model takes others too, a dense one does not.
        patch_size (`int`, *optional*, defaults to 2):
            Side of the patches that the first layer folds into channels; 1 works at full resolution.
        widths (`list[int]`, *optional*, defaults to `[32, 64, 128, 128]`):
            Channels of each level; the second and every further level halve height and width.
        blocks_per_level (`int`, *optional*, defaults to 1):
            Residual blocks at each level, in the encoder as in the decoder.
        bottleneck (`str`, *optional*, defaults to `"conv"`):
            `"conv"`; `"dense"`: one linear layer over the whole map; or `"warp"`: a smooth warp and a linear code,
            fitted by least squares from what the encoder says of the warp, with no convolutional decoder. The last two
            are for images of `image_size` only.
        bottleneck_size (`int`, *optional*, defaults to 1):
            Side of the squares of the last map that one place of a convolutional latent grid sees. As large as the
            map, the latent of an image of `image_size` is one vector, and a larger image a grid of them.
        latent_channels (`int`, *optional*, defaults to 8):
            Channels C of the latents (B, C, h, w).
        warp_latents (`int`, *optional*, defaults to 16):
            How many of the latents describe the warp, where `bottleneck` is `"warp"`.
        warp_grid (`int`, *optional*, defaults to 8):
            Points, across and down, between which the warp is interpolated.
        refinement_steps (`int`, *optional*, defaults to 2):
            Gauss-Newton steps of the fit, where `bottleneck` is `"warp"`.
        code_filters (`bool`, *optional*, defaults to `False`):
            Where `bottleneck` is `"warp"`: besides what its basis can draw, the code takes in what filters of its own
            see in the rest. For codes that are to be good by another measure than the squared error.
        variational (`bool`, *optional*, defaults to `False`):
            The encoder gives a Gaussian for each latent number, and its mean for use (Kingma and Welling, 2014).
        kl_weight (`float`, *optional*, defaults to 1e-4):
            Weight of the Kullback-Leibler divergence from the standard normal, in nats per pixel value of the image.
        free_bits (`float`, *optional*, defaults to 0.0):
            Nats of divergence, for each latent number and averaged over the batch, that cost nothing (Kingma et al.,
            "Improved Variational Inference with Inverse Autoregressive Flow", 2016, eq. 15).
        latent_penalty (`str`, *optional*, defaults to `"none"`):
            `"none"`, `"l1"` (mean absolute latent) or `"l2"` (mean squared latent).
        latent_penalty_weight (`float`, *optional*, defaults to 1e-4):
            Weight of the penalty.
        skip_connections (`bool`, *optional*, defaults to `False`):
            For denoising: the encoder's maps are handed to the decoder, and the network predicts the correction that
            is added to its input (Ronneberger et al., 2015; Zhang et al., 2017). Such a model cannot decode latents.
        inpainting (`bool`, *optional*, defaults to `False`):
            Images come with a mask of holes. These are filled by their conditional mean under a Gaussian over images
            of `image_size`, and the network, which sees the mask, predicts the correction inside of them. Needs
            `skip_connections`.
        loss_weights (`dict[str, float]`, *optional*, defaults to `{"mean_squared": 1.0}`):
            What `forward`'s loss sums, with weights: `"mean_squared"`, `"mean_absolute"`, `"ssim"` (one minus SSIM),
            `"ms_ssim"` (one minus MS-SSIM).

    Raises:
        ValueError: A field that does not exist, named together with the nearest one that does. Fields of a
            config.json written by another version of transformers are let through, unless they look like a typo.
        StrictDataclassError: A value of the wrong type, or an impossible one.

    Example:
        ```python
        config = ConvAutoencoderConfig(num_channels=1, widths=[32, 64, 128], latent_channels=4)
        config.num_latents  # numbers in the latent of an image of image_size
        ```
    """

    model_type: ClassVar[str] = "hfembed_conv_autoencoder"

    num_channels: int = 3
    image_size: list[int] | tuple[int, ...] = field(default_factory=lambda: [64, 64])
    patch_size: int = 2
    widths: list[int] | tuple[int, ...] = field(default_factory=lambda: [32, 64, 128, 128])
    blocks_per_level: int = 1
    bottleneck: Literal["conv", "dense", "warp"] = "conv"
    bottleneck_size: int = 1
    latent_channels: int = 8
    warp_latents: int = 16
    warp_grid: int = 8
    refinement_steps: int = 2
    code_filters: bool = False
    variational: bool = False
    kl_weight: float | int = 1e-4
    free_bits: float | int = 0.0
    latent_penalty: Literal["none", "l1", "l2"] = "none"
    latent_penalty_weight: float | int = 1e-4
    skip_connections: bool = False
    inpainting: bool = False
    loss_weights: dict[str, Any] = field(default_factory=lambda: {"mean_squared": 1.0})

    def __post_init__(self, **kwargs: Any) -> None:
        # every config.json names the transformers that wrote it, a config built in code does not
        from_file = self.transformers_version is not None
        names = {member.name for member in fields(self)}
        if from_file:
            names -= {member.name for member in fields(PreTrainedConfig)}
        for name in kwargs:
            if name.startswith("_") or name in _FOREIGN_KEYS or name in dir(PreTrainedConfig):
                continue
            nearest = difflib.get_close_matches(name, sorted(names), n=1, cutoff=0.8 if from_file else 0.0)
            if nearest:
                raise ValueError(f"ConvAutoencoderConfig has no field '{name}'; did you mean '{nearest[0]}'?")
        self.image_size = list(self.image_size)
        self.widths = list(self.widths)
        super().__post_init__(**kwargs)

    @property
    def is_convolutional(self) -> bool:
        """Whether images of other sizes than `image_size` go through."""
        return self.bottleneck == "conv"

    @property
    def map_stride(self) -> int:
        """Pixels between the places of the encoder's last map."""
        return self.patch_size * 2 ** (len(self.widths) - 1)

    @property
    def stride(self) -> int:
        """What an image's height and width must be multiples of."""
        return self.map_stride * (self.bottleneck_size if self.is_convolutional else 1)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, h, w) of the latents of an image of `image_size`."""
        if not self.is_convolutional:
            return self.latent_channels, 1, 1
        height, width = self.image_size
        return self.latent_channels, height // self.stride, width // self.stride

    @property
    def num_latents(self) -> int:
        """Numbers in the latent of an image of `image_size`."""
        return math.prod(self.latent_shape)

    def validate_shapes(self) -> None:
        """Refuse sizes that no network can have."""
        if self.num_channels not in (1, 3):
            raise ValueError(f"num_channels must be 3 (colour) or 1 (grey), got {self.num_channels}")
        if not self.widths or min(self.widths) < 1:
            raise ValueError(f"widths must be the positive channels of at least one level, got {self.widths}")
        for name in ("patch_size", "bottleneck_size", "latent_channels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.blocks_per_level < 0:
            raise ValueError(f"blocks_per_level must not be negative, got {self.blocks_per_level}")
        if len(self.image_size) != 2 or min(self.image_size) < 1:
            raise ValueError(f"image_size must be [height, width] in pixels, got {self.image_size}")
        if any(side % self.stride for side in self.image_size):
            raise ValueError(f"image_size {self.image_size} must be multiples of the stride, {self.stride}")

    def validate_warp(self) -> None:
        """Refuse warps that leave nothing to the code, or do not go with what else the model is to be."""
        if self.bottleneck != "warp":
            if self.code_filters:
                raise ValueError('code_filters needs the bottleneck "warp"')
            return
        if not 0 < self.warp_latents < self.latent_channels:
            raise ValueError(f"warp_latents must be some of the {self.latent_channels} latent_channels, not all")
        if self.warp_grid < 2 or self.refinement_steps < 1:
            raise ValueError("warp_grid must be at least 2, refinement_steps at least 1")
        if self.variational or self.skip_connections:
            raise ValueError('bottleneck "warp" fits its latents: it cannot be variational or have skip_connections')
        if any(side % 2 for side in self.image_size):
            raise ValueError(f'bottleneck "warp" needs even sides, not image_size {self.image_size}')

    def validate_inpainting(self) -> None:
        """Refuse an inpainting model that predicts something else than a correction."""
        if self.inpainting and not self.skip_connections:
            raise ValueError("inpainting needs skip_connections: the network corrects what stands in the holes")

    def validate_objective(self) -> None:
        """Refuse losses that do not exist or cannot be."""
        for name, weight in self.loss_weights.items():
            if name not in RECONSTRUCTION_LOSSES:
                raise ValueError(f"loss_weights: unknown loss '{name}'; known: {', '.join(RECONSTRUCTION_LOSSES)}")
            if not isinstance(weight, (int, float)) or weight < 0:
                raise ValueError(f"loss_weights: the weight of {name} must be a number from 0 up, got {weight!r}")
        if not any(self.loss_weights.values()):
            raise ValueError("loss_weights must give at least one loss a weight above 0")
        for name in ("kl_weight", "free_bits", "latent_penalty_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")


__all__ = ["ConvAutoencoderConfig"]
