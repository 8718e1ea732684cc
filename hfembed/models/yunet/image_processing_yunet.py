"""Photos of any kind to upright RGB pixels, for `YuNetModel`."""

from hfembed.models.photo_image_processor import PhotoImageProcessor


class YuNetImageProcessor(PhotoImageProcessor):
    """Decodes photos for `YuNetModel`; everything is as in `PhotoImageProcessor`."""


__all__ = ["YuNetImageProcessor"]
