"""What the configs of all autoencoder families have in common."""

import math
from dataclasses import field
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import CONFIG_MAPPING, PreTrainedConfig

from hfembed.models.config_fields import check_fields, check_sizes

RECONSTRUCTION_LOSSES = ("mean_squared", "mean_absolute", "ssim", "ms_ssim", "contrast")

# one family held all three until they were separated; a config.json of that time says which it is by these fields
_PLAIN, _APPEARANCE, _RESTORATION = (f"hfembed_{name}_autoencoder" for name in ("conv", "appearance", "restoration"))
_WARP_FIELDS = {"warp_latents", "warp_grid", "refinement_steps", "code_filters"}
_PLAIN_FIELDS = {"variational", "kl_weight", "free_bits", "latent_penalty", "latent_penalty_weight"}
_RESTORATION_FIELDS = {"skip_connections", "inpainting"}


def upgrade_config(content: dict[str, Any]) -> dict[str, Any]:
    """Translate a config.json that was written when one family held plain, appearance and restoration models.

    Raises:
        ValueError: A variational model with skip connections, which no family supports any more.
    """
    if content.get("model_type") != _PLAIN:
        return content
    if content.get("bottleneck") == "warp":
        if content.get("variational") or content.get("skip_connections"):
            raise ValueError(
                'bottleneck "warp" cannot be variational or have skip_connections: its latents are fitted'
            )
        dropped = _PLAIN_FIELDS | _RESTORATION_FIELDS | {"bottleneck", "bottleneck_size"}
        return _without(content, dropped) | {"model_type": _APPEARANCE}
    if content.get("skip_connections"):
        if content.get("variational"):
            raise ValueError("config.json: a variational model with skip_connections is not supported")
        dropped = _PLAIN_FIELDS | _WARP_FIELDS | {"skip_connections"}
        return _without(content, dropped) | {"model_type": _RESTORATION}
    unused = {name for name in _RESTORATION_FIELDS | {"code_filters"} if not content.get(name)}
    return _without(content, unused | _WARP_FIELDS - {"code_filters"})


def _without(content: dict[str, Any], names: set[str]) -> dict[str, Any]:
    return {name: value for name, value in content.items() if name not in names}


@strict
class AutoencoderConfig(PreTrainedConfig):
    """Base of the autoencoders' configs: the images, the encoder's levels, the size of the latents, the loss.

    Args:
        num_channels (`int`, *optional*, defaults to 3):
            Channels of the images: 3, or 1 for gray.
        image_size (`list[int]`, *optional*, defaults to `[64, 64]`):
            Height and width of the images.
        patch_size (`int`, *optional*, defaults to 2):
            Side of the patches that the first layer folds into channels; 1 works at full resolution.
        widths (`list[int]`, *optional*, defaults to `[32, 64, 128, 128]`):
            Channels of each level; the second and every further level halve height and width.
        blocks_per_level (`int`, *optional*, defaults to 1):
            Residual blocks at each level, in the encoder as in a decoder.
        latent_channels (`int`, *optional*, defaults to 8):
            Channels of the latents.
        loss_weights (`dict[str, float]`, *optional*, defaults to `{"mean_squared": 1.0}`):
            Weights of the losses that `forward` sums: `"mean_squared"`, `"mean_absolute"`, `"ssim"` (one minus SSIM),
            `"ms_ssim"` (one minus MS-SSIM), `"contrast"` (difference of local contrasts: sharp instead of smooth).

    Raises:
        ValueError: A field that does not exist, named together with the nearest one that does. Fields of a
            config.json written by another version of transformers are let through, unless they look like a typo.
        StrictDataclassError: A value of the wrong type, or an impossible one.
    """

    num_channels: int = 3
    image_size: list[int] | tuple[int, ...] = field(default_factory=lambda: [64, 64])
    patch_size: int = 2
    widths: list[int] | tuple[int, ...] = field(default_factory=lambda: [32, 64, 128, 128])
    blocks_per_level: int = 1
    latent_channels: int = 8
    loss_weights: dict[str, Any] = field(default_factory=lambda: {"mean_squared": 1.0})

    def __post_init__(self, **kwargs: Any) -> None:
        check_fields(self, kwargs)
        self.image_size = list(self.image_size)
        self.widths = list(self.widths)
        super().__post_init__(**kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Build the config of a config.json; one from before the families were separated gives its family's."""
        content = upgrade_config(config_dict)
        model_type = content.get("model_type", cls.model_type)
        if content is not config_dict and model_type != cls.model_type and model_type in CONFIG_MAPPING:
            return CONFIG_MAPPING[model_type].from_dict(content, **kwargs)
        return super().from_dict(content, **kwargs)

    @property
    def is_convolutional(self) -> bool:
        """Whether the latents are a grid, not a vector."""
        return True

    @property
    def takes_any_size(self) -> bool:
        """Whether images of other sizes than `image_size` are accepted."""
        return self.is_convolutional

    @property
    def map_stride(self) -> int:
        """Pixels between the positions of the encoder's last feature map."""
        return self.patch_size * 2 ** (len(self.widths) - 1)

    @property
    def stride(self) -> int:
        """What an image's height and width must be multiples of."""
        return self.map_stride

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, h, w) of the latents of an image of `image_size`."""
        if not self.is_convolutional:
            return self.latent_channels, 1, 1
        height, width = self.image_size
        return self.latent_channels, height // self.stride, width // self.stride

    @property
    def num_latents(self) -> int:
        """How many numbers the latent of an image of `image_size` has."""
        return math.prod(self.latent_shape)

    def validate_shapes(self) -> None:
        """Reject sizes that no network can have."""
        if self.num_channels not in (1, 3):
            raise ValueError(f"num_channels must be 3 (color) or 1 (gray), got {self.num_channels}")
        if not self.widths or min(self.widths) < 1:
            raise ValueError(f"widths must be the positive channels of at least one level, got {self.widths}")
        for name in ("patch_size", "latent_channels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.blocks_per_level <= 64:
            raise ValueError(f"blocks_per_level must lie between 0 and 64, got {self.blocks_per_level}")
        if len(self.widths) > 12:
            raise ValueError(f"widths must be of at most 12 levels, got {len(self.widths)}")
        check_sizes(self, {"widths": 2**13, "patch_size": 64, "latent_channels": 2**17, "image_size": 2**14})
        if len(self.image_size) != 2 or min(self.image_size) < 1:
            raise ValueError(f"image_size must be [height, width] in pixels, got {self.image_size}")
        if self.stride < 1 or any(side % self.stride for side in self.image_size):
            raise ValueError(f"image_size {self.image_size} must be multiples of the stride, {self.stride}")

    def validate_loss_weights(self) -> None:
        """Reject losses that do not exist, and weights that are not finite or negative."""
        for name, weight in self.loss_weights.items():
            if name not in RECONSTRUCTION_LOSSES:
                raise ValueError(f"loss_weights: unknown loss '{name}'; known: {', '.join(RECONSTRUCTION_LOSSES)}")
            if not isinstance(weight, (int, float)) or not 0 <= weight < math.inf:
                raise ValueError(f"loss_weights: the weight of {name} must be a number from 0 up, got {weight!r}")
        if not any(self.loss_weights.values()):
            raise ValueError("loss_weights must give at least one loss a weight above 0")


__all__ = ["AutoencoderConfig"]
