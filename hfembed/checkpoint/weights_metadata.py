"""What a safetensors file says of itself: its format, and which package and model it comes from."""

import json
import shutil
import struct
from pathlib import Path

from safetensors import SafetensorError, safe_open

from hfembed.atomic import atomic_write
from hfembed.errors import InputError
from hfembed.version import __version__

_LENGTH = struct.Struct("<Q")  # a file begins with the length of its JSON header
_ALIGNMENT = 8


def read_weights_metadata(file: str | Path) -> dict[str, str]:
    """Read a safetensors file's metadata, without its tensors.

    Args:
        file: The file.

    Returns:
        `format` ("pt": written by torch) and, of files marked by this package, `hfembed_version` and `model_type`.

    Raises:
        InputError: It is no safetensors file, or damaged.
    """
    try:
        with safe_open(file, framework="pt") as opened:
            return dict(opened.metadata() or {})
    except SafetensorError as error:
        raise InputError(f"{file} is damaged, or no safetensors file ({error}): fetch it again") from error


def mark_weights(file: str | Path, model_type: str) -> None:
    """Say in a safetensors file which package and which family of models it comes from; tensors stay as they are.

    Args:
        file: The file; replaced by one with a longer header.
        model_type: As in config.json.

    Raises:
        InputError: It is no safetensors file, or damaged.
        OSError: It cannot be written; it is left as it was.
    """
    metadata = read_weights_metadata(file) | {"hfembed_version": __version__, "model_type": model_type}
    with open(file, "rb") as source, atomic_write(file) as temporary, temporary.open("wb") as target:
        (length,) = _LENGTH.unpack(source.read(_LENGTH.size))
        header = json.loads(source.read(length)) | {"__metadata__": metadata}
        encoded = json.dumps(header, separators=(",", ":")).encode()
        # tensors begin at a multiple of eight bytes, as the format asks for
        encoded += b" " * (-(len(encoded) + _LENGTH.size) % _ALIGNMENT)
        target.write(_LENGTH.pack(len(encoded)) + encoded)
        shutil.copyfileobj(source, target)
