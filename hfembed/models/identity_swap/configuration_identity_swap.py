"""Configuration of the identity-conditioned face swap model."""

from dataclasses import field
from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict

from hfembed.models.config_fields import check_sizes
from hfembed.models.face_swap_config import SwapConfig

NORM_GROUPS = 8
POINT_CELL = 8  # pixels: side of a square of the map of a landmark
_MAX_BLOCKS = 64


@strict
class IdentitySwapConfig(SwapConfig):
    r"""Configuration of `IdentitySwapModel`: one network for everybody, conditioned on an identity vector.

    Args:
        people (`list[str]`, *optional*, defaults to no one):
            Names of the people whose identity vectors the checkpoint holds; `hfembed add-person` adds more.
        image_size (`int`, *optional*, defaults to 112):
            Side of the square input and output in pixels; a multiple of `patch_size` times 2 for each step from one
            of `widths` to the next.
        num_channels (`int`, *optional*, defaults to 3):
            Color channels: 3, or 1 for gray.
        identity_size (`int`, *optional*, defaults to 128):
            Numbers of an identity vector: those of the face embedders' embeddings together.
        identity_models (`list[str]`, *optional*, defaults to none):
            Fingerprint of the weights of each face embedder that makes identity vectors, in their order.
        patch_size (`int`, *optional*, defaults to 4):
            Squares of this side are folded into channels before the first convolution, and unfolded after the last.
        widths (`list[int]`, *optional*, defaults to `[64, 128]`):
            Channels of each level, multiples of 8; each level has half the height and width of the one before.
        blocks_per_level (`int`, *optional*, defaults to 1):
            Residual blocks of a level on the way down, and on the way up.
        middle_blocks (`int`, *optional*, defaults to 3):
            Residual blocks of the lowest level in between.
        reference_blur (`float`, *optional*, defaults to 0.8):
            Standard deviation, in pixels, of the Gaussian that leaves out the reference's finest detail at the start.
        reference_points (`bool`, *optional*, defaults to `False`):
            Whether a small network finds five landmarks in face and reference, and the reference is moved so that
            its landmarks lie where the face's do.
        correction_blur (`float`, *optional*, defaults to 0):
            Standard deviation, in pixels, of a Gaussian over the learned part of the correction and its mask, in
            which a loss on embeddings otherwise leaves the grid of the folded squares; 0: as they are.
        gray_correction (`bool`, *optional*, defaults to `False`):
            Whether the learned part of the correction is the same for all colors, in which a loss on embeddings
            otherwise leaves tints.
        light_size (`int`, *optional*, defaults to 7):
            Side of the grid of squares whose mean colors, smoothly interpolated, the face keeps: skin and light.
        photos_per_person (`int`, *optional*, defaults to 8):
            Photos of each person that the checkpoint holds, to choose the reference of a face among.

    Raises:
        ValueError: A field that does not exist, named together with the nearest one that does. Fields of a
            config.json written by another version of transformers are let through, unless they look like a typo.
        StrictDataclassError: A value of the wrong type, or an impossible one.

    Example:
        ```python
        config = IdentitySwapConfig(image_size=112, identity_size=128)
        ```
    """

    model_type: ClassVar[str] = "hfembed_identity_swap"

    image_size: int = 112
    identity_size: int = 128
    identity_models: list[str] | tuple[str, ...] = field(default_factory=list)
    patch_size: int = 4
    widths: list[int] | tuple[int, ...] = field(default_factory=lambda: [64, 128])
    blocks_per_level: int = 1
    middle_blocks: int = 3
    reference_blur: float | int = 0.8
    reference_points: bool = False
    correction_blur: float | int = 0.0
    gray_correction: bool = False
    light_size: int = 7
    photos_per_person: int = 8

    def __post_init__(self, **kwargs: Any) -> None:
        for name in ("identity_models", "widths"):
            setattr(self, name, list(getattr(self, name)))
        super().__post_init__(**kwargs)

    def validate_shapes(self) -> None:
        """Refuse sizes that no network can have."""
        limits = {"image_size": 1024, "identity_size": 8192, "patch_size": 32, "widths": 4096}
        limits |= {"photos_per_person": 64, "light_size": 1024}
        check_sizes(self, limits)
        if not 1 <= len(self.widths) <= 8 or any(width % NORM_GROUPS for width in self.widths):
            raise ValueError(f"widths must be multiples of {NORM_GROUPS}, for 1 to 8 levels, got {self.widths}")
        for name in ("blocks_per_level", "middle_blocks"):
            if not 1 <= getattr(self, name) <= _MAX_BLOCKS:
                raise ValueError(f"{name} must lie in [1, {_MAX_BLOCKS}], got {getattr(self, name)}")
        stride = self.patch_size * 2 ** (len(self.widths) - 1)
        if self.image_size % stride:
            raise ValueError(f"image_size must be a multiple of {stride} for this network, got {self.image_size}")
        if self.reference_points and self.image_size % POINT_CELL:
            raise ValueError(
                f"reference_points takes an image_size that is a multiple of {POINT_CELL}, not {self.image_size}"
            )
        if not 0 < self.reference_blur <= 16:
            raise ValueError(f"reference_blur must lie in (0, 16] pixels, got {self.reference_blur}")
        if not 0 <= self.correction_blur <= 16:
            raise ValueError(f"correction_blur must lie in [0, 16] pixels, got {self.correction_blur}")

    def validate_identity_models(self) -> None:
        """Refuse what is not a list of fingerprints."""
        if len(self.identity_models) > 8 or any(len(name) > 128 for name in self.identity_models):
            raise ValueError(f"identity_models must be at most 8 fingerprints, got {self.identity_models}")


__all__ = ["NORM_GROUPS", "POINT_CELL", "IdentitySwapConfig"]
