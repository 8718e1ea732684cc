"""Configuration of YuNet."""

from dataclasses import field
from typing import ClassVar

from huggingface_hub.dataclasses import strict

from hfembed.models.config_fields import check_sizes
from hfembed.models.face_detector_config import DetectorConfig

# pixels of the smallest face that the network finds reliably
SMALLEST_FACE = 20


@strict
class YuNetConfig(DetectorConfig):
    r"""Configuration of `YuNetModel` (Wu, Peng, Yu 2023).

    The defaults are the network called "n". `widths=[16, 32, 64, 64, 64, 64], head_units=0` is "s", which OpenCV
    ships.

    Args:
        min_face_size (`float`, *optional*, defaults to 20):
            Side of the smallest face looked for, in pixels of the photo as it is searched (see `max_image_size`), at
            least 10. The network finds faces from about 20 pixels: other photos are resized, and the time grows with
            the inverse square.
        max_image_size (`int`, *optional*, defaults to 1280):
            `detect` shrinks photos whose longer side has more pixels to this before it searches them. `None` searches
            every photo at full size.
        widths (`list[int]`, *optional*, defaults to `[16, 64, 64, 64, 64, 64]`):
            Channels of the six stages; the last three, whose feature maps are searched, have the same.
        head_units (`int`, *optional*, defaults to 1):
            Separable convolutions between each searched feature map and its outputs.
        score_threshold (`float`, *optional*, defaults to 0.6):
            Score from which on a face is reported, in [0, 1].
        nms_threshold (`float`, *optional*, defaults to 0.3):
            Intersection over union above which the weaker of two faces is dropped.
        max_candidates (`int`, *optional*, defaults to 5000):
            Highest-scoring boxes of a photo that are compared with each other.

    Raises:
        ValueError: A field that does not exist, named together with the nearest one that does.
        StrictDataclassError: A value of the wrong type, or an impossible one.
    """

    model_type: ClassVar[str] = "hfembed_yunet"

    min_face_size: float | int = 20
    widths: list[int] = field(default_factory=lambda: [16, 64, 64, 64, 64, 64])
    head_units: int = 1
    score_threshold: float = 0.6
    nms_threshold: float = 0.3
    max_candidates: int = 5000

    def validate_sizes(self) -> None:
        """Reject networks that cannot be, or that no machine can hold."""
        if not 10 <= self.min_face_size <= 1000:
            raise ValueError(f"min_face_size must lie between 10 and 1000 pixels, got {self.min_face_size}")
        check_sizes(self, {"widths": 4096, "max_candidates": 100_000})
        if len(self.widths) != 6 or len(set(self.widths[3:])) != 1:
            raise ValueError(f"widths must be six numbers, the last three alike, got {self.widths}")
        if not 0 <= self.head_units <= 16:
            raise ValueError(f"head_units must lie between 0 and 16, got {self.head_units}")

    def validate_thresholds(self) -> None:
        """Reject thresholds outside [0, 1]."""
        for name in ("score_threshold", "nms_threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}")

    @property
    def search_scale(self) -> float:
        """What photos are resized by, so that the smallest face has 20 pixels."""
        return SMALLEST_FACE / self.min_face_size


__all__ = ["YuNetConfig"]
