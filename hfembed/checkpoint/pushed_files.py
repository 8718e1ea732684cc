"""Which files belong to a model: a push and an export take these, and no other file of the folder."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

from transformers.dynamic_module_utils import get_relative_import_files

from hfembed.checkpoint.checkpoint import Checkpoint
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
    WORD_FILES,
)
from hfembed.checkpoint.fingerprint import weight_files
from hfembed.checkpoint.json_notes import read_json
from hfembed.checkpoint.redaction import redact
from hfembed.errors import InputError

# JSON that is read by people and by us; the paths of this machine in it are cut to their last part
_NOTES = (CONFIG_FILE, PROCESSOR_FILE, TRAINING_FILE, RESULTS_FILE)
_IMAGE_MODEL = (PROCESSOR_FILE, PEOPLE_FILE, STATISTICS_FILE)
# the last three are for sentence-transformers, 1_Pooling of models that older versions saved
_WORD_MODEL = (*WORD_FILES, "modules.json", "sentence_bert_config.json", "1_Pooling/config.json")
_PICTURE = re.compile(r"!\[[^\]]*\]\(([\w-][\w.-]*\.(?:png|jpe?g|gif|webp))\)")


def model_files(checkpoint: Checkpoint, card: str) -> dict[str, Path | bytes]:
    """List what belongs to a model.

    By family: config, weights, processor or words, people.txt, latent statistics, results.json, training.json, the
    card, the pictures that the card shows, the code that config.json names, and the same of a detector in `detector/`.

    Args:
        checkpoint: A complete one.
        card: The card to go with it.

    Returns:
        Path in the repository -> local file, or its content.

    Raises:
        InputError: A note is damaged, or a file is a link that leads out of the folder.
    """
    folder, name = checkpoint.folder, checkpoint.name
    weights = [path.name for path in weight_files(folder, name)]
    family = _WORD_MODEL if checkpoint.config.get("model_type") == "hfembed_word2vec" else _IMAGE_MODEL
    names = [*weights, *([INDEX_FILE] if len(weights) > 1 else []), *family, *_NOTES, *_PICTURE.findall(card)]
    files: dict[str, Path | bytes] = {CARD_FILE: card.encode()}
    for file in sorted(set(names)):
        if (folder / file).is_file():
            files[file] = _content(folder, file, name)
    for path in _code_files(folder, name):
        files[path.name] = path
    if checkpoint.detector is not None:
        detector = checkpoint.detector
        card_file = detector.folder / CARD_FILE
        inner = model_files(detector, card_file.read_text(encoding="utf-8") if card_file.is_file() else "")
        files |= {f"{DETECTOR_FOLDER}/{file}": content for file, content in inner.items() if content}
    return files


def _content(folder: Path, file: str, name: str) -> Path | bytes:
    path = folder / file
    real, home = path.resolve(), folder.resolve()
    # in the Hub's cache a snapshot's files are links to the repository's blobs
    if not real.is_relative_to(home) and not (home.parent.name == "snapshots" and real.parent.name == "blobs"):
        raise InputError(f"{name}: {file} is a link that leads out of the folder; put the file itself there")
    if file not in _NOTES:
        return path
    content = read_json(path, name)
    published = redact(content)
    return path if published == content else (json.dumps(published, indent=2) + "\n").encode()


def _code_files(folder: Path, name: str) -> list[Path]:
    """The code of an exported model: the modules that `auto_map` names, and the siblings that these import."""
    references: list[Any] = []
    for place in (folder, folder / DETECTOR_FOLDER):
        for path in (place / CONFIG_FILE, place / PROCESSOR_FILE):
            auto_map = read_json(path, name).get("auto_map") if path.is_file() else None
            references += auto_map.values() if isinstance(auto_map, dict) else []
    modules = {str(reference).partition(".")[0] for reference in references}
    start = [folder / f"{module}.py" for module in modules if re.fullmatch(r"\w+", module)]
    found = {path for file in start if file.is_file() for path in with_siblings(file)}
    return sorted(path for path in found if not path.is_symlink())


def with_siblings(file: Path) -> set[Path]:
    """A file of code, and those in its folder that it imports."""
    imported = {Path(path) for path in get_relative_import_files(str(file))}
    return {file, *(path for path in imported if path.parent == file.parent and path.is_file())}


def copy_model(checkpoint: Checkpoint, folder: Path) -> None:
    """Copy what belongs to a model into a folder, and nothing else.

    Raises:
        InputError: As `model_files`.
        OSError: A file cannot be written.
    """
    card = checkpoint.folder / CARD_FILE
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    for file, content in model_files(checkpoint, text).items():
        target = folder / file
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Path):
            shutil.copyfile(content, target)
        elif content:
            target.write_bytes(content)
