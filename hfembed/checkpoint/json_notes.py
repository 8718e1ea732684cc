"""Read and write the JSON files of a checkpoint; nothing in them is trusted."""

import json
import math
from pathlib import Path
from typing import Any, NoReturn

from hfembed.atomic import atomic_write
from hfembed.errors import InputError

MAX_BYTES = 64 << 20  # a config with the names of a million people has 30 MB


def read_json(path: Path, name: str | None = None) -> dict[str, Any]:
    """Read a JSON object, strictly: bounded in size and depth, every number finite.

    Args:
        path: The file.
        name: The checkpoint it belongs to, for messages; its folder by default.

    Raises:
        InputError: The file is missing, too large, not JSON or not a JSON object.
    """
    name = name or str(path.parent)
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise InputError(f"{name}: {path.name} has {size >> 20} MB, more than any such file; remove or restore it")
        content = json.loads(path.read_bytes(), parse_constant=_refuse, parse_float=_finite)
    except FileNotFoundError:
        raise InputError(f"{name} lacks {path.name}") from None
    except RecursionError:
        raise InputError(f"{name}: {path.name} is nested too deeply; remove or restore it") from None
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{name}: {path.name} is not JSON ({error}); remove or restore it") from None
    if not isinstance(content, dict):
        raise InputError(f"{name}: {path.name} is not a JSON object; remove or restore it")
    return content


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON object, atomically.

    Raises:
        InputError: A number in it is not finite.
        OSError: The file cannot be written; an earlier one is left as it was.
    """
    try:
        text = json.dumps(content, indent=2, allow_nan=False)
    except ValueError as error:
        raise InputError(f"{path}: not written, a number in it is not finite ({error})") from error
    with atomic_write(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} is out of range")
    return number
