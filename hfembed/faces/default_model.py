"""The face model that is taken where none is named: fetched and converted once, then kept in the cache."""

import functools
import hashlib
import json
import logging
import os
import tempfile
from pathlib import Path
from typing import Any

from filelock import FileLock
from huggingface_hub import constants

from hfembed.atomic import atomic_folder
from hfembed.checkpoint.checkpoint import Checkpoint
from hfembed.checkpoint.json_notes import read_json, write_json
from hfembed.convert.get_checkpoint import get_checkpoint
from hfembed.convert.known_checkpoints import KNOWN_CHECKPOINTS
from hfembed.errors import InputError

logger = logging.getLogger(__name__)

MODEL_VARIABLE = "HFEMBED_FACE_MODEL"
DETECTOR, EMBEDDER = "yunet", "sface"

_NOTE = "default_model.json"
_LAYOUT = 2  # raised when the same files are to be converted again


def resolve_face_model(
    name: str | Path | Checkpoint | None = None, *, revision: str | None = None, subfolder: str = "", **hub: Any
) -> Checkpoint:
    """Find the face analyzer that is named, by the caller or by HFEMBED_FACE_MODEL; otherwise the default one.

    Args:
        name, revision, subfolder: See `Checkpoint.resolve`.
        **hub: token, cache_dir, local_files_only of `Checkpoint.resolve`.

    Raises:
        InputError: There is no such model; or none is named, and the default one is neither installed nor on a Hub
            that can be reached.
        OSError: The cache cannot be written.
    """
    named = name or os.environ.get(MODEL_VARIABLE)
    if named:
        try:
            return Checkpoint.resolve(named, revision=revision, subfolder=subfolder, **hub)
        except InputError as error:
            if name:
                raise
            raise type(error)(f"{MODEL_VARIABLE}: {error}") from error
    if revision or subfolder:
        raise InputError(f"revision and subfolder ({revision or subfolder}) need the name of a model")
    folder = default_folder()
    if not _is_complete(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not _is_complete(folder):  # another process may have made it meanwhile
                _make(folder, hub)
    _say_what_it_is()
    return Checkpoint(str(folder), folder)


def default_folder() -> Path:
    """Where the default model is kept, under HF_HOME; another one for other files and thresholds."""
    files = [source.files for name in (DETECTOR, EMBEDDER) for source in KNOWN_CHECKPOINTS[name].sources]
    content = hashlib.sha256(json.dumps([_LAYOUT, files, KNOWN_CHECKPOINTS[EMBEDDER].thresholds]).encode()).hexdigest()
    return Path(constants.HF_ASSETS_CACHE) / "hfembed" / f"{DETECTOR}-{EMBEDDER}-{content[:12]}"


def is_default(checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint is the default one in the cache, which nothing may be written into."""
    return checkpoint.folder == default_folder()


def describe() -> str:
    """What the default model is, its licenses and its LFW figure, in one line."""
    parts = [KNOWN_CHECKPOINTS[name] for name in (DETECTOR, EMBEDDER)]
    names = " and ".join(f"{part.title.partition(',')[0]} ({part.license})" for part in parts)
    figure = parts[1].lfw
    return f"{names}, LFW {figure}" if figure else names


@functools.cache
def _say_what_it_is() -> None:
    logger.warning(
        "default face model: %s; --model, or --detector where there is one, or %s names another",
        describe(),
        MODEL_VARIABLE,
    )


def _is_complete(folder: Path) -> bool:
    try:
        return _fingerprints(folder) == read_json(folder / _NOTE)
    except (InputError, OSError):  # not there yet, or damaged
        return False


def _fingerprints(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != _NOTE)
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _make(folder: Path, hub: dict[str, Any]) -> None:
    from hfembed.faces.face_analyzer import compose_analyzer  # which takes its default from here

    with tempfile.TemporaryDirectory() as temporary:
        for name in (DETECTOR, EMBEDDER):
            get_checkpoint(KNOWN_CHECKPOINTS[name], Path(temporary) / name, **hub)
        with atomic_folder(folder) as made:
            compose_analyzer(Path(temporary) / DETECTOR, Path(temporary) / EMBEDDER, made)
            write_json(made / _NOTE, _fingerprints(made))


__all__ = ["MODEL_VARIABLE", "resolve_face_model"]
