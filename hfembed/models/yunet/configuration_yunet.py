"""Configuration of YuNet."""

from dataclasses import field
from typing import ClassVar

from huggingface_hub.dataclasses import strict

from hfembed.models.config_fields import check_sizes
from hfembed.models.face_detector_config import DetectorConfig


@strict
class YuNetConfig(DetectorConfig):
    r"""Configuration of `YuNetModel` (Wu, Peng, Yu 2023).

    The defaults are the network called "n". `widths=[16, 32, 64, 64, 64, 64], head_units=0` is "s", which OpenCV
    ships.

    Args:
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

    widths: list[int] = field(default_factory=lambda: [16, 64, 64, 64, 64, 64])
    head_units: int = 1
    score_threshold: float = 0.6
    nms_threshold: float = 0.3
    max_candidates: int = 5000

    def validate_sizes(self) -> None:
        """Reject networks that cannot be, or that no machine can hold."""
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


__all__ = ["YuNetConfig"]
