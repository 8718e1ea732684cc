"""Configuration of RetinaFace."""

from dataclasses import field
from typing import ClassVar

from huggingface_hub.dataclasses import strict

from hfembed.models.config_fields import check_sizes
from hfembed.models.face_detector_config import OneNetworkDetectorConfig


@strict
class RetinaFaceConfig(OneNetworkDetectorConfig):
    r"""Configuration of `RetinaFaceModel` (Deng et al. 2019), with a MobileNet v1 as trunk.

    Args:
        base_width (`int`, *optional*, defaults to 8):
            Channels of the trunk's first convolution; its stages have 8, 16 and 32 times as many. 8 is
            MobileNet-0.25.
        feature_width (`int`, *optional*, defaults to 64):
            Channels of the feature maps that are searched, a multiple of 4.
        negative_slope (`float`, *optional*, defaults to 0.0):
            Slope of the activations below 0.
        min_sizes (`list[list[int]]`, *optional*, defaults to `[[10, 20], [32, 64], [128, 256]]`):
            Sides of the square priors at each position, in pixels, for the strides 8, 16 and 32.
        variances (`list[float]`, *optional*, defaults to `[0.1, 0.2]`):
            What the network's box centers and landmarks, and the logarithms of its box sizes, are multiplied by.
        image_mean (`list[float]`, *optional*, defaults to `[123.0, 117.0, 104.0]`):
            What is subtracted from red, green and blue, in [0, 255].
        nms_threshold (`float`, *optional*, defaults to 0.4):
            See `OneNetworkDetectorConfig`, which has the other fields too.

    Raises:
        ValueError: A field that does not exist, named together with the nearest one that does.
        StrictDataclassError: A value of the wrong type, or an impossible one.
    """

    model_type: ClassVar[str] = "hfembed_retinaface"

    base_width: int = 8
    feature_width: int = 64
    negative_slope: float = 0.0
    min_sizes: list[list[int]] = field(default_factory=lambda: [[10, 20], [32, 64], [128, 256]])
    variances: list[float] = field(default_factory=lambda: [0.1, 0.2])
    image_mean: list[float] = field(default_factory=lambda: [123.0, 117.0, 104.0])
    nms_threshold: float = 0.4

    def validate_sizes(self) -> None:
        """Reject networks that cannot be, or that no machine can hold."""
        check_sizes(self, {"base_width": 128, "feature_width": 4096})
        if self.feature_width % 4:
            raise ValueError(f"feature_width must be a multiple of 4, got {self.feature_width}")

    def validate_priors(self) -> None:
        """Reject priors that no feature map can have."""
        counts = {len(sizes) for sizes in self.min_sizes}
        sides = [side for sizes in self.min_sizes for side in sizes]
        if len(self.min_sizes) != 3 or len(counts) != 1 or not 1 <= counts.pop() <= 16:
            raise ValueError(f"min_sizes must be 1 to 16 sides for each of 3 strides, got {self.min_sizes}")
        if not all(1 <= side <= 65_536 for side in sides):
            raise ValueError(f"min_sizes must lie between 1 and 65,536 pixels, got {self.min_sizes}")
        if len(self.variances) != 2 or min(self.variances) <= 0:
            raise ValueError(f"variances must be two positive numbers, got {self.variances}")

    def validate_pixels(self) -> None:
        """Reject a mean that no picture has, and activations that turn back."""
        if len(self.image_mean) != 3 or not all(0 <= value <= 255 for value in self.image_mean):
            raise ValueError(f"image_mean must be three numbers in [0, 255], got {self.image_mean}")
        if not 0 <= self.negative_slope <= 1:
            raise ValueError(f"negative_slope must lie in [0, 1], got {self.negative_slope}")


__all__ = ["RetinaFaceConfig"]
