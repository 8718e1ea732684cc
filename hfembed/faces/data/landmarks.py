"""JSON files about photos: five landmarks of each, or lists of names."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hfembed.atomic import atomic_write
from hfembed.errors import InputError

MAX_BYTES = 2 << 30


def read_landmarks(path: str | Path) -> dict[str, np.ndarray | None]:
    """Read a JSON file of landmarks, {"Person/Person_0001.jpg": [[x, y] * 5] or null, ...}.

    Returns:
        file -> (5, 2) float64 in pixels of the photo, or None where no face was found.

    Raises:
        InputError: The file or one entry cannot be understood, or a number is not finite.
    """
    entries = read_json(path, "landmarks")
    if not isinstance(entries, dict):
        raise InputError(f'{path}: expected {{"Person/photo.jpg": five [x, y] or null}}')
    landmarks: dict[str, np.ndarray | None] = {}
    for file, points in entries.items():
        if points is None:
            landmarks[file] = None
            continue
        landmarks[file] = five_points(points, f'{path}: "{file}" has no five finite [x, y] landmarks')
    return landmarks


def write_landmarks(path: str | Path, landmarks: Mapping[str, np.ndarray | None]) -> None:
    """Write what `read_landmarks` reads, a line per photo, to a hundredth of a pixel.

    Raises:
        OSError: The file cannot be written; an earlier one is left as it was.
    """
    lines = (
        f"{json.dumps(file)}: {json.dumps(None if points is None else np.round(points, 2).tolist())}"
        for file, points in landmarks.items()
    )
    with atomic_write(path) as temporary:
        temporary.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def five_points(points: Any, complaint: str) -> np.ndarray:
    """Untrusted points as (5, 2) float64, finite.

    Raises:
        InputError: They are not that; it says `complaint`.
    """
    try:
        found = np.array(points, dtype=np.float64)
    except (ValueError, TypeError, OverflowError):
        found = np.empty(0)
    if found.shape != (5, 2) or not np.isfinite(found).all():
        raise InputError(complaint)
    return found


def read_json(path: str | Path, what: str) -> Any:
    """Read an untrusted JSON file.

    Raises:
        InputError: The file is missing, too large, not JSON, or nested too deeply.
    """
    try:
        if Path(path).stat().st_size > MAX_BYTES:
            raise InputError(f'"{path}" is larger than {MAX_BYTES:,} bytes; too large for {what}')
        return json.loads(Path(path).read_bytes())
    except RecursionError as error:
        raise InputError(f'"{path}" cannot be read as {what}: nested too deeply') from error
    except (OSError, ValueError) as error:
        raise InputError(f'"{path}" cannot be read as {what}: {error}') from error
