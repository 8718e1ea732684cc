"""Image formats to compare with, at their settings for small files, and what all their files have in common."""

import importlib
import io
from collections.abc import Callable
from typing import NamedTuple

from PIL import Image, features

from hfembed.images.evaluation.reconstruction import write_jpeg


class PhotoFormat(NamedTuple):
    """A format of Pillow or of a plugin.

    Attributes:
        write: (image, quality) -> file.
        overhead: File -> bytes that tell nothing of its pixels: containers, headers and a JPEG's tables.
        qualities: From small files to large ones.
        needs: What to install where the format is missing; empty where it is not.
    """

    write: Callable[[Image.Image, int], bytes]
    overhead: Callable[[bytes], int]
    qualities: tuple[int, ...]
    needs: str = ""


def photo_formats() -> dict[str, PhotoFormat]:
    """Name -> format, the missing ones included."""
    avif = "" if features.check("avif") else "a Pillow with AVIF"
    return {
        "jpeg": PhotoFormat(write_jpeg, _jpeg_overhead, (1, 5, 10, 20, 35, 50, 70)),
        "webp": PhotoFormat(_webp, lambda file: _WEBP_CONTAINER, (0, 2, 5, 10, 20, 35, 50, 70)),
        "avif": PhotoFormat(_avif, _avif_overhead, (0, 5, 10, 20, 30, 45, 60), avif),
        "jxl": PhotoFormat(_jxl, _jxl_overhead, (0, 5, 10, 20, 35, 50, 70), _missing_jxl()),
    }


_WEBP_CONTAINER = 20  # RIFF header and chunk header of a simple lossy file
_JXL_CODESTREAM = b"\xff\x0a"


def _webp(image: Image.Image, quality: int) -> bytes:
    return _save(image.convert("RGB"), "WEBP", quality=quality, method=6)


def _avif(image: Image.Image, quality: int) -> bytes:
    return _save(image.convert("RGB"), "AVIF", quality=quality, speed=2, max_threads=1)


def _jxl(image: Image.Image, quality: int) -> bytes:
    return _save(image.convert("RGB"), "JXL", quality=quality, effort=9, use_container=False, num_threads=1)


def _save(image: Image.Image, name: str, **settings: int) -> bytes:
    file = io.BytesIO()
    image.save(file, name, **settings)
    return file.getvalue()


def _missing_jxl() -> str:
    try:
        importlib.import_module("pillow_jxl")  # registers the format
    except ImportError:
        return "pillow-jxl-plugin"
    return ""


def _jpeg_overhead(file: bytes) -> int:
    """Bytes up to the first coded coefficient: signature, quantization and Huffman tables, headers."""
    start = file.index(b"\xff\xda")
    return start + 2 + int.from_bytes(file[start + 2 : start + 4], "big")


def _avif_overhead(file: bytes) -> int:
    """All but the content of the box of media data (ISO/IEC 14496-12, section 8.1.1)."""
    position = 0
    while position + 8 <= len(file):
        size = int.from_bytes(file[position : position + 4], "big") or len(file) - position
        if file[position + 4 : position + 8] == b"mdat":
            return len(file) - (size - 8)
        position += max(size, 8)
    return 0


def _jxl_overhead(file: bytes) -> int:
    """The signature of a bare code stream."""
    return len(_JXL_CODESTREAM) if file.startswith(_JXL_CODESTREAM) else 0
