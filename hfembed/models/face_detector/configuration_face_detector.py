"""Configuration of the face detector."""

from dataclasses import field
from typing import ClassVar

from huggingface_hub.dataclasses import strict

from hfembed.models.face_detector_config import DetectorConfig


@strict
class FaceDetectorConfig(DetectorConfig):
    r"""Configuration of `FaceDetectorModel`, the MTCNN cascade (Zhang et al. 2016).

    Args:
        min_face_size (`float`, *optional*, defaults to 40):
            Side of the smallest face looked for, in pixels of the photo as it is searched (see `max_image_size`), at
            least 12. The time grows with its inverse square.
        max_image_size (`int`, *optional*, defaults to 1280):
            `detect` shrinks photos whose longer side has more pixels to this before it searches them. `None` searches
            every photo at full size.
        pyramid_factor (`float`, *optional*, defaults to 0.709):
            Scale of each level of the pyramid relative to the one before, in (0, 0.95].
        score_thresholds (`list[float]`, *optional*, defaults to `[0.6, 0.7, 0.7]`):
            Scores from which on the proposal, the refinement and the landmark network keep a window, in [0, 1].
        nms_thresholds (`list[float]`, *optional*, defaults to `[0.5, 0.7, 0.7, 0.7]`):
            Overlap above which the weaker of two windows is dropped: within a level, among all proposals, among
            refined windows (intersection over union), among faces (intersection over the smaller one).

    Raises:
        ValueError: A field that does not exist, named together with the nearest one that does.
        StrictDataclassError: A value of the wrong type, or an impossible one.

    Example:
        ```python
        config = FaceDetectorConfig(min_face_size=20)
        ```
    """

    model_type: ClassVar[str] = "hfembed_face_detector"

    min_face_size: float | int = 40
    pyramid_factor: float = 0.709
    score_thresholds: list[float] = field(default_factory=lambda: [0.6, 0.7, 0.7])
    nms_thresholds: list[float] = field(default_factory=lambda: [0.5, 0.7, 0.7, 0.7])

    def validate_sizes(self) -> None:
        """Refuse faces too small for the networks, and pyramids of hundreds of levels."""
        if self.min_face_size < 12:
            raise ValueError(f"min_face_size is at least 12 pixels, got {self.min_face_size}")
        if not 0 < self.pyramid_factor <= 0.95:
            raise ValueError(f"pyramid_factor must lie in (0, 0.95], got {self.pyramid_factor}")

    def validate_thresholds(self) -> None:
        """Refuse thresholds of a wrong number or outside [0, 1]."""
        for name, count in (("score_thresholds", 3), ("nms_thresholds", 4)):
            values = getattr(self, name)
            if len(values) != count or not all(0 <= value <= 1 for value in values):
                raise ValueError(f"{name} are {count} numbers in [0, 1], got {values}")


__all__ = ["FaceDetectorConfig"]
