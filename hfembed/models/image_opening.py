"""Open untrusted images: which formats are read, how large an image may be, and how any pixels become 8 bits."""

import functools
import io
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

# Pillow knows more formats; some of those run other programs (PostScript) or are not photos
IMAGE_FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF", "HEIF")
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx")
MAX_PIXELS = 64_000_000
MAX_FILE_BYTES = 512 << 20


def open_image(source: Any, max_file_bytes: int = MAX_FILE_BYTES) -> tuple[Image.Image, bool]:
    """Open an image without decoding it.

    Args:
        source: A path, an encoded file (bytes or a binary file), the `{"bytes", "path"}` of an undecoded `datasets`
            image, a Pillow image, a uint8, uint16 or float array (height, width[, channels]), or a tensor (channels,
            height, width) or (height, width).
        max_file_bytes: Larger encoded files are refused before they are read.

    Returns:
        The image, and whether it was opened here, so that it may be changed in place and is not decoded yet.

    Raises:
        ValueError: The source is of no supported type, or is too large; see also `image_errors`.
        OSError: The file cannot be read.
    """
    if isinstance(source, Image.Image):
        return source, False
    if isinstance(source, dict):
        source = source["path"] if source.get("bytes") is None else source["bytes"]
    if isinstance(source, str | Path):
        status = Path(source).stat()
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("not a regular file")
        _check_size(status.st_size, max_file_bytes)
        # read at once: a lazily opened path would keep its file open until it is collected
        source = Path(source).read_bytes()
    elif hasattr(source, "read"):
        source = source.read(max_file_bytes + 1)
    if isinstance(source, bytes | bytearray | memoryview):
        _check_size(len(source), max_file_bytes)
        if not len(source):
            raise ValueError("the file is empty")
        return _open_encoded(bytes(source)), True
    if isinstance(source, torch.Tensor):
        source = source.detach().cpu().numpy()
        source = source.transpose(1, 2, 0) if source.ndim == 3 else source
    if not isinstance(source, np.ndarray):
        raise ValueError(f"expected an image, an array, a path or bytes, not {type(source).__name__}")
    return _from_array(source), False


def check_pixels(image: Image.Image, max_pixels: int = MAX_PIXELS) -> None:
    """Refuse an image that would take too much memory; to be called before it is decoded.

    Raises:
        ValueError: It has more than `max_pixels`.
    """
    if image.width * image.height > max_pixels:
        raise ValueError(f"{image.width} x {image.height} pixels, more than max_pixels = {max_pixels:,}")


def to_eight_bit(image: Image.Image, gray: bool | None = None, background: str = "white") -> Image.Image:
    """Decode to mode L or RGB; 16-bit and float values are scaled to 0 ... 255.

    Args:
        gray: True for L, False for RGB, None for whichever the image itself is.
        background: The color that transparent parts are put on.

    Raises:
        ValueError: Floating-point or 32-bit pixels of an unknown range.
    """
    is_gray = image.mode in ("1", "L", "LA")
    if image.mode.startswith("I"):  # Pillow's own conversion would clip instead of scaling
        values = np.asarray(image)
        image = Image.fromarray(
            _integers_to_eight_bit(values) if image.mode == "I" else (values >> 8).astype(np.uint8)
        )
    elif image.mode == "F":
        image = Image.fromarray(_float_to_eight_bit(np.asarray(image)))
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        opaque = Image.new("RGB", image.size, background)
        opaque.paste(image, mask=image.getchannel("A"))
        image = opaque
    wanted = "L" if (is_gray or image.mode == "L" if gray is None else gray) else "RGB"
    return image if image.mode == wanted else image.convert(wanted)


def image_name(source: Any) -> str:
    """What messages call an image: its path where it has one."""
    if isinstance(source, dict):
        source = source.get("path")
    elif not isinstance(source, str | Path):
        # Pillow images have a `filename`, files a `name`
        source = getattr(source, "filename", None) or getattr(source, "name", None)
    if not isinstance(source, str | Path) or not str(source):
        return "image"
    return str(source).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


@contextmanager
def image_errors(source: Any, failure: str = "cannot be read as an image") -> Iterator[None]:
    """Turn whatever Pillow and its plugins raise for a broken image into one `ValueError` that names the image."""
    try:
        yield
    except UnidentifiedImageError as error:
        raise ValueError(f"{image_name(source)}: not an image of a supported format") from error
    # what Pillow and its plugins raise for broken files of one format or another
    except (
        *(OSError, ValueError, SyntaxError, EOFError, TypeError, KeyError, IndexError, OverflowError, MemoryError),
        *(AttributeError, ZeroDivisionError, RuntimeError, Image.DecompressionBombError),
    ) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise ValueError(f"{image_name(source)}: {failure}: {reason}") from error


@functools.cache
def readable_formats() -> tuple[str, ...]:
    """Those of `IMAGE_FORMATS` that this installation decodes; HEIC where pillow-heif is installed."""
    Image.init()
    try:
        from pillow_heif import register_heif_opener  # type: ignore[import-not-found, unused-ignore]

        register_heif_opener()
    except ImportError:
        pass
    return tuple(name for name in IMAGE_FORMATS if name in Image.OPEN)


def _open_encoded(encoded: bytes) -> Image.Image:
    if encoded[4:8] == b"ftyp" and encoded[8:12] in _HEIC_BRANDS and "HEIF" not in readable_formats():
        raise ValueError("HEIC needs the package pillow-heif: pip install 'hfembed[heic]'")
    return Image.open(io.BytesIO(encoded), formats=readable_formats())


def _check_size(size: int, max_file_bytes: int) -> None:
    if size > max_file_bytes:
        raise ValueError(f"{size:,} bytes, more than {max_file_bytes:,}")


def _from_array(pixels: np.ndarray) -> Image.Image:
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    is_float = pixels.dtype.kind == "f"
    if not (is_float or pixels.dtype in (np.uint8, np.uint16)) or pixels.ndim not in (2, 3) or 0 in pixels.shape:
        raise ValueError(f"expected a uint8 array (height, width[, channels]), not {pixels.dtype} {pixels.shape}")
    if is_float:
        pixels = _float_to_eight_bit(pixels)
    elif pixels.ndim == 3 and pixels.dtype == np.uint16:
        pixels = (pixels >> 8).astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(pixels))


def _integers_to_eight_bit(values: np.ndarray) -> np.ndarray:
    """32-bit integers in [0, 255], or else in [0, 65535]."""
    low, high = int(values.min()), int(values.max())
    if not 0 <= low <= high <= 65535:
        raise ValueError(f"32-bit pixels from {low} to {high} have no known range; convert it to 8 bits")
    return (values if high <= 255 else values >> 8).astype(np.uint8)


def _float_to_eight_bit(values: np.ndarray) -> np.ndarray:
    """Values in [0, 1], or else in [0, 255], or else in [0, 65535]."""
    low, high = float(values.min()), float(values.max())
    if not 0 <= low <= high <= 65535:  # NaN too
        raise ValueError(f"floating-point pixels from {low:g} to {high:g} have no known range; convert it to 8 bits")
    scale = 255 if high <= 1 else 1 if high <= 255 else 255 / 65535
    return np.rint(values * scale).astype(np.uint8)
