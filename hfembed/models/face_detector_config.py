"""What the configs of all face detectors have in common."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from hfembed.models.config_fields import check_fields

MIN_IMAGE_SIZE = 12
MAX_IMAGE_SIZE = 16_384


@strict
class DetectorConfig(PreTrainedConfig):
    """Base of the face detectors' configs.

    Args:
        max_image_size (`int`, *optional*, defaults to 1280):
            `detect` shrinks photos whose longer side has more pixels to this before it searches them. `None` searches
            every photo at full size.
        turned (`bool`, *optional*, defaults to `False`):
            `detect` searches photos in which it finds no upright face for certain turned by 90, 180 and 270 degrees
            too, and returns the faces of the turn with the best one: for photos that lie on their side or stand on
            their head and have no EXIF orientation that says so.

    Raises:
        ValueError: A field that does not exist, named together with the nearest one that does.
        StrictDataclassError: A value of the wrong type, or an impossible one.
    """

    max_image_size: int | None = 1280
    turned: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        check_fields(self, kwargs)
        super().__post_init__(**kwargs)

    def validate_max_image_size(self) -> None:
        """Reject photos too small for any face."""
        if self.max_image_size is not None and not MIN_IMAGE_SIZE <= self.max_image_size <= MAX_IMAGE_SIZE:
            raise ValueError(
                f"max_image_size must lie between {MIN_IMAGE_SIZE} and {MAX_IMAGE_SIZE:,} pixels, or be None, "
                f"got {self.max_image_size}"
            )


__all__ = ["DetectorConfig"]
