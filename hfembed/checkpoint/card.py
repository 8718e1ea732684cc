"""Model cards: every number in them is read from the results.json and training.json beside the checkpoint."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard

from hfembed.atomic import atomic_write
from hfembed.checkpoint.card_data import Checkpoint
from hfembed.checkpoint.conv_autoencoder_card import render_autoencoder_card
from hfembed.checkpoint.face_detector_card import render_detector_card
from hfembed.checkpoint.face_embedder_card import render_face_card
from hfembed.checkpoint.face_swap_card import render_swap_card
from hfembed.checkpoint.results import read_results
from hfembed.checkpoint.word2vec_card import render_word_card
from hfembed.errors import InputError

CARD_FILE = "README.md"
CONFIG_FILE = "config.json"
TRAINING_FILE = "training.json"

_CARDS: dict[str, Callable[[Checkpoint], ModelCard]] = {
    "hfembed_face_embedder": render_face_card,
    "hfembed_face_detector": render_detector_card,
    "hfembed_conv_autoencoder": render_autoencoder_card,
    "hfembed_appearance_autoencoder": render_autoencoder_card,
    "hfembed_restoration_autoencoder": render_autoencoder_card,
    "hfembed_face_swap": render_swap_card,
    "hfembed_word2vec": render_word_card,
}


def write_card(folder: str | Path) -> Path:
    """Write the README.md of a checkpoint's folder from its config.json, training.json and results.json.

    Args:
        folder: The checkpoint's folder. Without results.json the card claims no results.

    Returns:
        The path of the card.

    Raises:
        InputError: The folder holds no model of ours, or one of its JSON files is damaged or lacks something.
        OSError: The card cannot be written.
    """
    path = Path(folder) / CARD_FILE
    text = render_card(folder)
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def render_card(folder: str | Path, repo_id: str | None = None) -> str:
    """The card that `write_card` writes.

    Args:
        folder: The checkpoint's folder.
        repo_id: The repository that the card's code loads the model from; the folder's name where there is none.

    Returns:
        The card's text.

    Raises:
        InputError: As `write_card`.
    """
    folder = Path(folder)
    if not (folder / CONFIG_FILE).is_file():
        raise InputError(f"{folder} holds no model to write a card for: there is no {CONFIG_FILE} in it")
    config = _read_json(folder / CONFIG_FILE)
    render = _CARDS.get(config.get("model_type"))
    if render is None:
        raise InputError(f"{folder}: there is no card for models of type {config.get('model_type')}")
    training = _read_json(folder / TRAINING_FILE) if (folder / TRAINING_FILE).exists() else {}
    card = render(Checkpoint(folder, config, training, read_results(folder), repo_id))
    return str(card).rstrip() + "\n"


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}): write it again") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} is not a JSON object: write it again")
    return content
