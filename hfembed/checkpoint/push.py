"""A checkpoint's folder -> a repository on the Hub, in one commit."""

import fnmatch
import logging
from pathlib import Path

from hfembed.checkpoint.card import render_card
from hfembed.checkpoint.checkpoint import Checkpoint
from hfembed.checkpoint.files import CARD_FILE, DETECTOR_FOLDER
from hfembed.checkpoint.pushed_files import model_files
from hfembed.checkpoint.saving import finish_save
from hfembed.hub.card_marker import is_generated, mark, unmarked
from hfembed.hub.commit import Pushed, commit_files, full_name

logger = logging.getLogger(__name__)

# a loader could take these for parts of the new model, were they left from an older one
_PARTS_OF_A_MODEL = (
    "*.safetensors", "*.safetensors.index.json", "config.json", "preprocessor_config.json", "tokenizer.json",
    "tokenizer_config.json", "results.json", "training.json", "*.py", "*.bin", "*.pt",
)  # fmt: skip
# older versions sent what training keeps beside its model: the training text, caches, optimizer states
_LEAKS = ("corpus/*", "checkpoints/*", "best/*", "*.npy", "*.npz", "*events.out.tfevents*")
_MODELS_OF_PEOPLE = ("hfembed_face_embedder", "hfembed_face_swap", "hfembed_identity_swap")


def push_folder(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    tag: str | None = None,
    token: str | None = None,
    commit_message: str = "Upload model",
    overwrite_card: bool = False,
) -> Pushed:
    """Share a checkpoint: validate it, and put what belongs to the model on the Hub in one commit.

    `model_files` says what belongs to it. The same folder again makes no commit. Interrupted at any moment, the branch
    holds the old model or the new one. A generated card is sent with the repository's name in its code, and one that
    was edited by hand unchanged.

    Args:
        folder: A folder for `from_pretrained`.
        repo_id: "owner/name", or "name" for one of the token's owner. Made where it does not exist.
        private: Make a new repository private, and refuse an existing public one; False: make it public. By default a
            new repository is private where the model was trained on photos of people.
        revision: The branch, made where it does not exist; None means main.
        tag: Also give the commit this tag.
        token: Instead of this machine's.
        commit_message: The commit's title.
        overwrite_card: Replace a card that was edited on the Hub; it is kept otherwise.

    Returns:
        Where the model is now.

    Raises:
        InputError: The checkpoint is incomplete or damaged, or the Hub refuses: token, rights, name, tag.
        HubUnavailableError: The Hub cannot be reached, or fails again and again; push later.
        OSError: A file cannot be read.
    """
    checkpoint = Checkpoint(str(folder), Path(folder))
    finish_save(checkpoint.folder)
    model_type = checkpoint.validate().model_type
    if checkpoint.detector is not None:
        checkpoint.detector.validate()
    repo_id = full_name(repo_id, token)
    pushed = commit_files(
        model_files(checkpoint, _card(checkpoint, repo_id)),
        repo_id,
        message=commit_message,
        private=private,
        private_if_new=model_type in _MODELS_OF_PEOPLE or bool(checkpoint.training.get("people")),
        revision=revision,
        tag=tag,
        token=token,
        is_stale=lambda path: _is_part_of_a_model(path) or _is_leak(path),
        overwrite_card=overwrite_card,
    )
    leaks = [path for path in pushed.removed if _is_leak(path)]
    if leaks:
        logger.warning(
            "%s: removed %d files that an older version of hfembed sent and that are no part of the model (%s%s); they"
            " are still in the repository's history: squash it (HfApi.super_squash_history) or delete the repository",
            *(repo_id, len(leaks), ", ".join(leaks[:3]), ", ..." if len(leaks) > 3 else ""),
        )
    return pushed


def _card(checkpoint: Checkpoint, repo_id: str) -> str:
    path = checkpoint.folder / CARD_FILE
    generated = render_card(checkpoint.folder, repo_id)
    if not path.exists():
        return generated
    text = path.read_text(encoding="utf-8")
    if is_generated(text) or unmarked(text) == unmarked(render_card(checkpoint.folder)):
        return generated
    return mark(text, "pushed")


def _is_part_of_a_model(path: str) -> bool:
    # folders other than the detector's are other people's
    name = path.removeprefix(f"{DETECTOR_FOLDER}/")
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in _PARTS_OF_A_MODEL) and "/" not in name


def _is_leak(path: str) -> bool:
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in _LEAKS)
