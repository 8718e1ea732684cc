"""Configuration of YuNet."""

from dataclasses import field
from typing import ClassVar

from huggingface_hub.dataclasses import strict

from hfembed.models.config_fields import check_sizes
from hfembed.models.face_detector_config import OneNetworkDetectorConfig


@strict
class YuNetConfig(OneNetworkDetectorConfig):
    r"""Configuration of `YuNetModel` (Wu, Peng, Yu 2023).

    The defaults are the network called "n". `widths=[16, 32, 64, 64, 64, 64], head_units=0` is "s", which OpenCV
    ships. How photos are searched: see `OneNetworkDetectorConfig`.

    Args:
        widths (`list[int]`, *optional*, defaults to `[16, 64, 64, 64, 64, 64]`):
            Channels of the six stages; the last three, whose feature maps are searched, have the same.
        head_units (`int`, *optional*, defaults to 1):
            Separable convolutions between each searched feature map and its outputs.

    Raises:
        ValueError: A field that does not exist, named together with the nearest one that does.
        StrictDataclassError: A value of the wrong type, or an impossible one.
    """

    model_type: ClassVar[str] = "hfembed_yunet"

    widths: list[int] = field(default_factory=lambda: [16, 64, 64, 64, 64, 64])
    head_units: int = 1

    def validate_sizes(self) -> None:
        """Reject networks that cannot be, or that no machine can hold."""
        check_sizes(self, {"widths": 4096})
        if len(self.widths) != 6 or len(set(self.widths[3:])) != 1:
            raise ValueError(f"widths must be six numbers, the last three alike, got {self.widths}")
        if not 0 <= self.head_units <= 16:
            raise ValueError(f"head_units must lie between 0 and 16, got {self.head_units}")


__all__ = ["YuNetConfig"]
