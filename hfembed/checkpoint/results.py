"""results.json: the figures beside a checkpoint, with all it takes to get them again."""

import hashlib
import json
import platform
import shlex
import sys
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import hfembed
from hfembed.atomic import atomic_write
from hfembed.errors import InputError

RESULTS_FILE = "results.json"


def write_results(folder: str | Path, name: str, metrics: dict[str, float], details: dict[str, Any]) -> Path:
    """Put one evaluation into the folder's results.json, whole or not at all.

    The metrics stand at the top level, the details under `name`. What an earlier run of the same evaluation left (all
    keys that start with `name`) is replaced; results of other evaluations stay.

    Args:
        folder: Where results.json is, or will be.
        name: The evaluation, such as "lfw_view2".
        metrics: Figure -> value. Keys start with `name`, or `details` lists them all under "figures".
        details: How they came about.

    Returns:
        The path of the file.

    Raises:
        InputError: The folder's results.json is not a JSON object.
        OSError: The file cannot be written; an earlier one is left as it was.
    """
    path = Path(folder) / RESULTS_FILE
    earlier = read_results(folder)
    replaced = {key for key in earlier if key.startswith(name)} | set(earlier.get(name, {}).get("figures", []))
    kept = {key: value for key, value in earlier.items() if key not in replaced}
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps({**kept, **metrics, name: details}, indent=2, allow_nan=False) + "\n")
    return path


def read_results(folder: str | Path) -> dict[str, Any]:
    """What stands in the folder's results.json; empty where there is none.

    Args:
        folder: Where results.json may be.

    Returns:
        Its content.

    Raises:
        InputError: It is not a JSON object.
    """
    path = Path(folder) / RESULTS_FILE
    if not path.exists():
        return {}
    try:
        results = json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}): move it away to write new results") from None
    if not isinstance(results, dict):
        raise InputError(f"{path} is not a JSON object: move it away to write new results")
    return results


def provenance(files: dict[str, str | Path | None]) -> dict[str, Any]:
    """When, by what command, on which data and with which versions.

    Args:
        files: Role -> file or folder; a file's sha256 is taken, a folder only named, None left out.

    Returns:
        For the details of `write_results`.
    """
    return {
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "files": {role: _identify(Path(path)) for role, path in files.items() if path is not None},
        "versions": {
            "hfembed": hfembed.__version__,
            "python": platform.python_version(),
            **{package: version(package) for package in ("torch", "transformers", "numpy", "pillow", "scikit-learn")},
        },
    }


def _identify(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {"name": path.name}
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return {"name": path.name, "sha256": digest.hexdigest()}
