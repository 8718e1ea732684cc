"""Photos as files: which there are, and what is on them."""

import io
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from hfembed.errors import InputError

PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


def find_photos(folder: str | Path) -> list[Path]:
    """All photos below a folder, sorted.

    Args:
        folder: Where to look.

    Returns:
        Their paths.

    Raises:
        InputError: There is no such folder, or no photo in it.
    """
    found = sorted(file for file in Path(folder).rglob("*") if file.suffix.lower() in PHOTO_SUFFIXES)
    if not found:
        raise InputError(f"{folder}: no such folder, or no photos in it ({', '.join(PHOTO_SUFFIXES)})")
    return found


def read_upright(photo: str | Path | bytes) -> Image.Image:
    """Decode a photo and apply its EXIF orientation.

    Args:
        photo: Its path, or the encoded file.

    Returns:
        The image, of whatever mode the file has.

    Raises:
        InputError: It cannot be read; names the file.
    """
    name = "a photo" if isinstance(photo, bytes) else photo
    try:
        image = Image.open(io.BytesIO(photo) if isinstance(photo, bytes) else photo)
        image.load()  # now, while its name is known: Pillow decodes late
        return ImageOps.exif_transpose(image)
    except UnidentifiedImageError as error:
        raise InputError(f"{name}: not an image of any known kind") from error
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise InputError(f"{name} cannot be read as a photo: {error}") from error
