"""Configuration of the face swap model."""

from dataclasses import field
from typing import Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict

from hfembed.models.config_fields import check_sizes
from hfembed.models.face_swap_config import SwapConfig

_MAX_STAGES = 12
_MAX_RESIDUAL_BLOCKS = 64
_MAX_DENSE_WEIGHTS = 2**31


@strict
class FaceSwapConfig(SwapConfig):
    r"""Configuration of `FaceSwapModel`: one encoder, one decoder per person.

    Args:
        people (`list[str]`, *optional*, defaults to `["a", "b"]`):
            Names of the people, in the order of their decoders. One name alone makes a decoder for everybody, to
            start others from.
        image_size (`int`, *optional*, defaults to 64):
            Side of the square input and output in pixels; a multiple of 2 to the number of `encoder_widths`.
        num_channels (`int`, *optional*, defaults to 3):
            Color channels: 3, or 1 for gray.
        encoder_widths (`list[int]`, *optional*, defaults to `[32, 64, 128, 256]`):
            Channels after each stage of the encoder; each halves height and width.
        bottleneck (`str`, *optional*, defaults to `"dense"`):
            `"dense"`: two linear layers with `latent_size` numbers in between. `"convolution"`: `latent_size` channels
            at each position of the encoder's last map.
        latent_size (`int`, *optional*, defaults to 256):
            Numbers (dense) or channels (convolution) of the latent code.
        decoder_widths (`list[int]`, *optional*, defaults to `[128, 64, 32, 32]`):
            Channels after each stage of a decoder; each doubles height and width. The same number as `encoder_widths`.
        residual_blocks (`int`, *optional*, defaults to 1):
            Residual blocks after each stage of a decoder but the last.
        predict_mask (`bool`, *optional*, defaults to `False`):
            Decoders also output a face mask.
        dssim_weight (`float`, *optional*, defaults to 0.5):
            Weight of structural dissimilarity in the training loss, in [0, 1]; the rest is the mean absolute error.
        mask_weight (`float`, *optional*, defaults to 0.2):
            Weight of the mask's mean absolute error in the training loss.

    Raises:
        ValueError: A field that does not exist, named together with the nearest one that does. Fields of a
            config.json written by another version of transformers are let through, unless they look like a typo.
        StrictDataclassError: A value of the wrong type, or an impossible one.

    Example:
        ```python
        config = FaceSwapConfig(people=["anna", "bert"], image_size=64, latent_size=128)
        ```
    """

    model_type: ClassVar[str] = "hfembed_face_swap"

    people: list[str] | tuple[str, ...] = field(default_factory=lambda: ["a", "b"])
    encoder_widths: list[int] | tuple[int, ...] = field(default_factory=lambda: [32, 64, 128, 256])
    bottleneck: Literal["dense", "convolution"] = "dense"
    latent_size: int = 256
    decoder_widths: list[int] | tuple[int, ...] = field(default_factory=lambda: [128, 64, 32, 32])
    residual_blocks: int = 1
    predict_mask: bool = False
    dssim_weight: float | int = 0.5
    mask_weight: float | int = 0.2

    def __post_init__(self, **kwargs: Any) -> None:
        for name in ("encoder_widths", "decoder_widths"):
            setattr(self, name, list(getattr(self, name)))
        super().__post_init__(**kwargs)

    @property
    def map_size(self) -> int:
        """Height and width of the encoder's last map."""
        return self.image_size // 2 ** len(self.encoder_widths)

    def validate_people(self) -> None:
        """Reject an empty list, and two decoders of one name."""
        if not self.people:
            raise ValueError("people must be 1 name or more, one per decoder, got none")
        super().validate_people()

    def validate_shapes(self) -> None:
        """Refuse sizes that no network can have."""
        for name in ("encoder_widths", "decoder_widths"):
            if not 1 <= len(getattr(self, name)) <= _MAX_STAGES:
                raise ValueError(f"{name} must be channels of 1 to {_MAX_STAGES} stages, got {getattr(self, name)}")
        widths = {"encoder_widths": 16_384, "decoder_widths": 16_384}
        check_sizes(self, widths | {"image_size": 4096, "latent_size": 65_536})
        if len(self.encoder_widths) != len(self.decoder_widths):
            raise ValueError(
                "decoder_widths and encoder_widths must have the same length: "
                f"{len(self.decoder_widths)} stages cannot undo {len(self.encoder_widths)}"
            )
        stride = 2 ** len(self.encoder_widths)
        if self.image_size < stride or self.image_size % stride:
            raise ValueError(
                f"image_size must be a multiple of {stride} for {len(self.encoder_widths)} stages, got "
                f"{self.image_size}"
            )
        if self.image_size < 11 and self.dssim_weight:
            raise ValueError(f"image_size must be at least 11, SSIM's window, got {self.image_size}")
        weights = self.encoder_widths[-1] * self.map_size**2 * self.latent_size
        if self.bottleneck == "dense" and weights > _MAX_DENSE_WEIGHTS:
            raise ValueError(f"latent_size {self.latent_size} makes a dense layer of {weights:,} weights")
        if not 0 <= self.residual_blocks <= _MAX_RESIDUAL_BLOCKS:
            raise ValueError(f"residual_blocks must lie in [0, {_MAX_RESIDUAL_BLOCKS}], got {self.residual_blocks}")

    def validate_weights(self) -> None:
        """Refuse weights of the loss outside their range."""
        if not 0 <= self.dssim_weight <= 1:
            raise ValueError(f"dssim_weight must lie in [0, 1], got {self.dssim_weight}")
        if self.mask_weight < 0:
            raise ValueError(f"mask_weight must not be negative, got {self.mask_weight}")


__all__ = ["FaceSwapConfig"]
