"""Save a model into a folder: killed at any moment, the folder holds the old model or the new one."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hfembed.checkpoint.files import (
    CARD_FILE,
    CONFIG_FILE,
    DETECTOR_FOLDER,
    INDEX_FILE,
    PEOPLE_FILE,
    PROCESSOR_FILE,
    RESULTS_FILE,
    STATISTICS_FILE,
    TRAINING_FILE,
    WEIGHTS_FILE,
    WORD_FILES,
)
from hfembed.checkpoint.fingerprint import fingerprint_weights
from hfembed.checkpoint.json_notes import read_json, write_json
from hfembed.errors import InputError
from hfembed.hub.card_marker import is_generated

# a complete new model inside its folder, until its files are moved to their places
_SAVED = ".saved"
_UNFINISHED = ".saving."
_MANIFEST = "manifest.json"
_PARTS = (WEIGHTS_FILE, INDEX_FILE, PROCESSOR_FILE, PEOPLE_FILE, *WORD_FILES)
_NOTES = (TRAINING_FILE, RESULTS_FILE, STATISTICS_FILE)


def save_checkpoint(folder: str | Path, write: Callable[[Path], object], same_model: bool = False) -> None:
    """Write a model and what belongs to it, in the place of the folder's earlier model.

    The new files are written beside the old ones and then moved. While they move, the folder has no config.json, so
    that nobody loads a mixture; `Checkpoint.resolve` finishes what a kill interrupted. Other files of the folder stay;
    an earlier model's results, training notes, latent statistics and generated card leave with it.

    Args:
        folder: Made where it does not exist.
        write: Writes the new files into the folder it is given: model, processor or words, notes. Notes get the
            fingerprint of the new weights unless they carry one.
        same_model: The new weights are those that the notes and thresholds were measured with, perhaps without their
            classification head. Thresholds of other weights are dropped otherwise.

    Raises:
        OSError: The folder cannot be written; the earlier model is left as it was.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    finish_save(folder)
    for left in folder.glob(f"{_UNFINISHED}*"):
        shutil.rmtree(left, ignore_errors=True)
    temporary = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=folder))
    try:
        write(temporary)
        _stamp_notes(temporary, same_model)
        new = [path.relative_to(temporary).as_posix() for path in _files(temporary)]
        kept = _NOTES if _is_same(folder, temporary) else ()
        write_json(temporary / _MANIFEST, {"kept": [*new, *kept]})
        for path in _files(temporary):
            with path.open("rb") as file:
                os.fsync(file.fileno())
        temporary.rename(folder / _SAVED)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    finish_save(folder)


def finish_save(folder: Path) -> None:
    """Move a saved model's files to their places, where a save was killed before it did.

    Raises:
        OSError: The folder cannot be written.
    """
    saved = folder / _SAVED
    if not (saved / _MANIFEST).is_file():
        return
    kept = read_json(saved / _MANIFEST).get("kept", [])
    files = [path for path in _files(saved) if path.name != _MANIFEST]
    # without its config.json a folder is nobody's model; the outer one comes last
    configs = [path for path in (saved / DETECTOR_FOLDER / CONFIG_FILE, saved / CONFIG_FILE) if path in files]
    for path in configs:
        (folder / path.relative_to(saved)).unlink(missing_ok=True)
    for path in [path for path in files if path not in configs] + configs[:-1]:
        _move(path, folder / path.relative_to(saved))
    for config in configs:
        for stale in _stale_files((folder / config.relative_to(saved)).parent):
            if stale.relative_to(folder).as_posix() not in kept:
                stale.unlink(missing_ok=True)
    for path in configs[-1:]:
        _move(path, folder / path.relative_to(saved))
    shutil.rmtree(saved, ignore_errors=True)


def _stale_files(folder: Path) -> Iterator[Path]:
    """Parts and notes that an earlier model may have left."""
    yield from (folder / name for name in (*_PARTS, *_NOTES))
    yield from folder.glob("model-*.safetensors")
    card = folder / CARD_FILE
    if card.is_file() and is_generated(card.read_text(encoding="utf-8", errors="replace")):
        yield card


def _stamp_notes(folder: Path, same_model: bool) -> None:
    """Give the new notes the fingerprint of the new weights; those that carry another one keep it, or are dropped."""
    weights = fingerprint_weights(folder)

    def stamped(note: dict[str, Any]) -> dict[str, Any]:
        return {**note, "weights": weights} if same_model or "weights" not in note else note

    if (folder / TRAINING_FILE).is_file():
        write_json(folder / TRAINING_FILE, stamped(read_json(folder / TRAINING_FILE)))
    if (folder / RESULTS_FILE).is_file():
        results = read_json(folder / RESULTS_FILE)
        write_json(
            folder / RESULTS_FILE,
            {key: stamped(value) if isinstance(value, dict) else value for key, value in results.items()},
        )
    config = read_json(folder / CONFIG_FILE)
    thresholds = config.get("thresholds")
    if isinstance(thresholds, dict) and thresholds.get("weights", weights) != weights:
        write_json(folder / CONFIG_FILE, {**config, "thresholds": stamped(thresholds) if same_model else None})


def _is_same(old: Path, new: Path) -> bool:
    try:
        return fingerprint_weights(old) == fingerprint_weights(new)
    except InputError:  # no earlier model, or a damaged one
        return False


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def _move(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        source.replace(target)
    except FileNotFoundError:  # another process finished the same save
        if not target.exists():
            raise
