"""Untrusted photos: the one way to open them, and the one way to find them in a folder."""

import logging
import os
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any, Literal

from PIL import Image, ImageOps

from hfembed.errors import InputError
from hfembed.models.image_opening import (
    IMAGE_FORMATS,
    MAX_PIXELS,
    check_pixels,
    image_errors,
    open_image,
    to_eight_bit,
)

__all__ = [
    "IMAGE_FORMATS",
    "MAX_PIXELS",
    "PHOTO_SUFFIXES",
    "PhotoListing",
    "check_photos",
    "find_photos",
    "open_photo",
    "utf8_name",
]

logger = logging.getLogger(__name__)

PHOTO_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm"),
    *(".avif", ".heic", ".heif", ".jp2"),
)
# what operating systems, archivers and network drives put beside photos; hidden files begin with a dot
_FOREIGN_FOLDERS = ("@eadir", "__macosx", "#recycle", "$recycle.bin")
_NAMED_AT_MOST = 5


def open_photo(
    source: Any,
    *,
    max_pixels: int = MAX_PIXELS,
    mode: Literal["RGB", "L"] | None = "RGB",
    background: Literal["white", "black"] = "white",
) -> Image.Image:
    """Decode a photo, upright.

    Args:
        source: A path, an encoded file (bytes or a binary file), the `{"bytes", "path"}` of an undecoded `datasets`
            image, a Pillow image, or an array; see `hfembed.models.image_opening.open_image`.
        max_pixels: Larger photos are refused before they are decoded.
        mode: "RGB" or "L"; None for L where the photo itself is gray.
        background: The color that transparent parts are put on: black for a mask, in which white is what is chosen.

    Returns:
        The decoded image: EXIF orientation applied, 16-bit and float values scaled to 8 bits, nothing transparent.

    Raises:
        InputError: The photo cannot be read; one line that names it.
    """
    try:
        with image_errors(source):
            image, _ = open_image(source)
            check_pixels(image, max_pixels)
            return to_eight_bit(ImageOps.exif_transpose(image), None if mode is None else mode == "L", background)
    except ValueError as error:
        raise InputError(str(error)) from error


@dataclass
class PhotoListing:
    """The photos of a folder.

    Attributes:
        folder: The folder.
        photos: Their paths, sorted; each begins with `folder`.
        skipped: Reason -> the files and folders left out for it, relative to `folder`.
    """

    folder: Path
    photos: list[Path] = field(default_factory=list)
    skipped: dict[str, list[str]] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """The photos relative to the folder, as text that UTF-8 files can hold."""
        return [utf8_name(photo.relative_to(self.folder)) for photo in self.photos]

    def summary(self) -> str:
        """One line that counts and names what was skipped; empty where nothing was."""
        parts = []
        for reason, files in sorted(self.skipped.items()):
            named = ", ".join(files[:_NAMED_AT_MOST]) + (", ..." if len(files) > _NAMED_AT_MOST else "")
            parts.append(f"{len(files)} {reason} ({named})")
        return f"{utf8_name(self.folder)}: skipped {'; '.join(parts)}" if parts else ""


def check_photos(*photos: str | Path) -> None:
    """Refuse a mistyped photo before any model is loaded.

    Raises:
        InputError: There is no such file, or it is a folder.
    """
    for photo in photos:
        if not Path(photo).exists():
            raise InputError(f"{utf8_name(photo)}: no such file")
        if Path(photo).is_dir():
            raise InputError(f"{utf8_name(photo)} is a folder, not a photo")


def find_photos(folder: str | Path, *, follow_links: bool = True) -> PhotoListing:
    """Find all photos in a folder and below, by their suffix.

    Hidden files and folders (`.thumbs`, `._x.jpg`) and those of archivers and network drives (`@eaDir`, `__MACOSX`)
    are left out. Links are followed, each folder once per way to it. What else is left out is logged in one line.

    Args:
        folder: Where to look.
        follow_links: False leaves out links that lead out of the folder.

    Returns:
        The photos, and what was skipped.

    Raises:
        InputError: There is no such folder, it is a file, or there is no photo in it.
    """
    listing = PhotoListing(Path(folder))
    if listing.folder.is_file():
        raise InputError(f"{utf8_name(folder)} is a file, not a folder of photos")
    if not listing.folder.is_dir():
        raise InputError(f"{utf8_name(folder)}: no such folder")
    root = os.path.realpath(folder)

    def skip(path: Path, reason: str) -> None:
        listing.skipped.setdefault(reason, []).append(utf8_name(path.relative_to(listing.folder)))

    def look_into(parent: Path, real_parents: tuple[str, ...]) -> None:
        try:
            names = sorted(name for name in os.listdir(parent) if not is_hidden(name))
        except OSError:
            return skip(parent, "unreadable folders")
        for path in (parent / name for name in names):
            is_photo = path.suffix.lower() in PHOTO_SUFFIXES
            target = os.path.realpath(path)
            if path.is_dir():
                if target in real_parents:
                    skip(path, "links to a folder that they lie in")
                elif follow_links or _is_within(target, root):
                    look_into(path, (*real_parents, target))
                else:
                    skip(path, "links out of the folder")
            elif not is_photo:
                skip(path, "files without the suffix of a photo")
            elif not path.is_file():
                skip(path, "broken links" if path.is_symlink() else "special files")
            elif follow_links or _is_within(target, root):
                listing.photos.append(path)
            else:
                skip(path, "links out of the folder")

    look_into(listing.folder, (root,))
    listing.photos.sort()
    if not listing.photos:
        raise InputError(
            f"{utf8_name(folder)} contains no photos ({', '.join(PHOTO_SUFFIXES)})"
            + "".join(f"; {line}" for line in listing.summary().split(": ", 1)[1:])
        )
    if listing.skipped:
        logger.warning("%s", listing.summary())
    return listing


def is_hidden(name: str) -> bool:
    """Whether a file's or folder's own name says that it is not for users."""
    return name.startswith(".") or name.lower() in _FOREIGN_FOLDERS


def utf8_name(path: str | PurePath) -> str:
    r"""A path as text that Parquet and JSON can hold: bytes that are not UTF-8 become `\xe9`."""
    name = path.as_posix() if isinstance(path, PurePath) else path
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _is_within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)
