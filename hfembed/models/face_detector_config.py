"""What the configs of all face detectors have in common."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from hfembed.models.config_fields import check_fields, check_sizes

MIN_IMAGE_SIZE = 12
MAX_IMAGE_SIZE = 16_384
# pixels of the smallest face that such a network finds reliably
SMALLEST_FACE = 20


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


@strict
class OneNetworkDetectorConfig(DetectorConfig):
    """Base of the configs of detectors that are one convolutional network.

    Args:
        min_face_size (`float`, *optional*, defaults to 20):
            Side of the smallest face looked for, in pixels of the photo as it is searched (see `max_image_size`), at
            least 10. The networks find faces from about 20 pixels: other photos are resized, and the time grows with
            the inverse square.
        score_threshold (`float`, *optional*, defaults to 0.6):
            Score from which on a face is reported, in [0, 1].
        nms_threshold (`float`, *optional*, defaults to 0.3):
            Intersection over union above which the weaker of two faces is dropped, in [0, 1].
        max_candidates (`int`, *optional*, defaults to 5000):
            Highest-scoring boxes of a photo that are compared with each other.
    """

    min_face_size: float | int = SMALLEST_FACE
    score_threshold: float = 0.6
    nms_threshold: float = 0.3
    max_candidates: int = 5000

    def validate_search(self) -> None:
        """Reject faces too small, thresholds outside [0, 1] and more candidates than fit into memory."""
        if not 10 <= self.min_face_size <= 1000:
            raise ValueError(f"min_face_size must lie between 10 and 1000 pixels, got {self.min_face_size}")
        for name in ("score_threshold", "nms_threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}")
        check_sizes(self, {"max_candidates": 100_000})

    @property
    def search_scale(self) -> float:
        """What photos are resized by, so that the smallest face has 20 pixels."""
        return SMALLEST_FACE / self.min_face_size


__all__ = ["DetectorConfig", "OneNetworkDetectorConfig"]
