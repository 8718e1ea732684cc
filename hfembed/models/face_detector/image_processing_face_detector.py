"""Photos of any kind to upright RGB pixels, for `FaceDetectorModel`."""

from hfembed.models.photo_image_processor import Photo, PhotoImageProcessor, PhotoSource


class FaceDetectorImageProcessor(PhotoImageProcessor):
    """Decodes photos for `FaceDetectorModel`; everything is as in `PhotoImageProcessor`."""


__all__ = ["FaceDetectorImageProcessor", "Photo", "PhotoSource"]
