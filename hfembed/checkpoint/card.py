"""Model cards: every number in them is read from the results.json and training.json beside the checkpoint."""

from collections.abc import Callable
from pathlib import Path

from huggingface_hub import ModelCard

from hfembed.atomic import atomic_write
from hfembed.checkpoint.card_data import CardNotes
from hfembed.checkpoint.checkpoint import Checkpoint
from hfembed.checkpoint.conv_autoencoder_card import render_autoencoder_card
from hfembed.checkpoint.face_detector_card import render_detector_card
from hfembed.checkpoint.face_embedder_card import render_face_card
from hfembed.checkpoint.face_swap_card import render_swap_card
from hfembed.checkpoint.files import CARD_FILE, CONFIG_FILE
from hfembed.checkpoint.word2vec_card import render_word_card
from hfembed.errors import InputError

_CARDS: dict[str, Callable[[CardNotes], ModelCard]] = {
    "hfembed_face_embedder": render_face_card,
    "hfembed_face_detector": render_detector_card,
    "hfembed_conv_autoencoder": render_autoencoder_card,
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
    checkpoint = Checkpoint(str(folder), Path(folder))
    if not (checkpoint.folder / CONFIG_FILE).is_file():
        raise InputError(f"{folder} holds no model to write a card for: there is no {CONFIG_FILE} in it")
    notes = CardNotes(checkpoint, repo_id)
    render = _CARDS.get(str(notes.config.get("model_type")))
    if render is None:
        raise InputError(f"{folder}: there is no card for models of type {notes.config.get('model_type')}")
    return str(render(notes)).rstrip() + "\n"
