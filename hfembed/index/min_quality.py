"""The quality below which faces are set aside unless told otherwise."""

from hfembed.errors import InputError

MIN_QUALITY = 0.6  # `FaceQuality.overall`; what it lets through is measured in docs/photos.md


def check_min_quality(min_quality: float) -> None:
    """Refuse what is no quality.

    Raises:
        InputError: It lies outside [0, 1].
    """
    if not 0 <= min_quality <= 1:
        raise InputError(f"min_quality lies between 0 and 1, got {min_quality}")
