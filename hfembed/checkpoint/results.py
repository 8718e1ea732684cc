"""results.json: the figures beside a checkpoint, with all it takes to get them again."""

import hashlib
import platform
import shlex
import sys
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from hfembed.checkpoint.checkpoint import Checkpoint, without_evaluation
from hfembed.checkpoint.files import RESULTS_FILE
from hfembed.checkpoint.json_notes import write_json
from hfembed.version import __version__


def write_results(
    folder: str | Path,
    name: str,
    metrics: dict[str, float],
    details: dict[str, Any],
    measured: str | Path | Checkpoint | PreTrainedModel | None = None,
) -> Path:
    """Put one evaluation into the folder's results.json, atomically.

    The metrics stand at the top level, the details under `name`, with the fingerprint of the weights that were
    measured. An earlier run of the same evaluation is replaced; other evaluations of the same weights stay.

    Args:
        folder: Where results.json is, or will be.
        name: The evaluation, such as "lfw_view2".
        metrics: Figure -> value. Keys start with `name`, or `details` lists them all under "figures".
        details: How they came about.
        measured: The checkpoint that was measured, or a model that was loaded from one.

    Returns:
        The path of the file.

    Raises:
        InputError: The folder's results.json is damaged, or a figure is not finite.
        OSError: The file cannot be written; an earlier one is left as it was.
    """
    folder = Path(folder)
    stamp = None if measured is None else weights_stamp(measured)
    if stamp is not None:
        details = {**details, "weights": stamp}
    write_json(folder / RESULTS_FILE, {**without_evaluation(read_results(folder), name), **metrics, name: details})
    return folder / RESULTS_FILE


def weights_stamp(measured: str | Path | Checkpoint | PreTrainedModel) -> str | None:
    """The fingerprint of a checkpoint's weights; None of a model that was not loaded from one."""
    checkpoint = measured.__dict__.get("checkpoint") if isinstance(measured, PreTrainedModel) else measured
    return None if checkpoint is None else Checkpoint.resolve(checkpoint).fingerprint


def read_results(folder: str | Path) -> dict[str, Any]:
    """The contents of the folder's results.json, without evaluations of other weights; empty where there is none.

    Raises:
        InputError: It is damaged.
    """
    return Checkpoint(str(folder), Path(folder)).results


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
            "hfembed": __version__,
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
