"""Photos of any kind to upright RGB pixels, for `RetinaFaceModel`."""

from hfembed.models.photo_image_processor import PhotoImageProcessor


class RetinaFaceImageProcessor(PhotoImageProcessor):
    """Decodes photos for `RetinaFaceModel`; everything is as in `PhotoImageProcessor`."""


__all__ = ["RetinaFaceImageProcessor"]
