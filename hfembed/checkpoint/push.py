"""A checkpoint's folder -> a repository on the Hub, in one commit."""

import fnmatch
from pathlib import Path

from hfembed.checkpoint.card import render_card
from hfembed.checkpoint.files import CARD_FILE, DETECTOR_FOLDER
from hfembed.checkpoint.validation import check_checkpoint
from hfembed.hub.commit import Pushed, commit_files, full_name

# what a training run keeps beside its model
NOT_SHARED = ("checkpoints", "best", "events.out.tfevents*")
# files that a loader could take for a part of the new model, were they left from an older one
_PARTS_OF_A_MODEL = (
    "*.safetensors", "*.safetensors.index.json", "config.json", "preprocessor_config.json", "tokenizer.json",
    "tokenizer_config.json", "results.json", "training.json", "*.py", *(f"*{suffix}" for suffix in (".bin", ".pt")),
)  # fmt: skip


def push_folder(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    tag: str | None = None,
    token: str | None = None,
    commit_message: str = "Upload model",
) -> Pushed:
    """Share a checkpoint: check that it is whole, and put it on the Hub in one commit.

    The same folder again makes no commit. Interrupted at any moment, the branch holds the old model or the new one.
    A card that was not edited by hand is sent with the repository's name in its code; one that is missing is made.
    Training checkpoints, hidden files and logs stay here.

    Args:
        folder: A folder for `from_pretrained`.
        repo_id: "owner/name", or "name" for one of the token's owner. Made where it does not exist.
        private: Make a new repository private. An existing public one is then refused.
        revision: The branch, made where it does not exist; None means main.
        tag: Also give the commit this tag.
        token: Instead of this machine's.
        commit_message: The commit's title.

    Returns:
        Where the model is now.

    Raises:
        InputError: The folder is no whole checkpoint, or the Hub refuses: token, rights, name, tag.
        HubUnavailableError: The Hub cannot be reached, or fails again and again; push later.
        OSError: A file cannot be read.
    """
    folder = Path(folder)
    check_checkpoint(folder)
    if (folder / DETECTOR_FOLDER).is_dir():
        check_checkpoint(folder / DETECTOR_FOLDER)
    repo_id = full_name(repo_id, token)
    files: dict[str, Path | bytes] = {
        path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if _is_shared(path, folder)
    }
    card = folder / CARD_FILE
    if not card.exists() or card.read_text(encoding="utf-8") == render_card(folder):
        files[CARD_FILE] = render_card(folder, repo_id).encode()
    return commit_files(
        files,
        repo_id,
        message=commit_message,
        private=private,
        revision=revision,
        tag=tag,
        token=token,
        is_stale=_is_part_of_a_model,
    )


def _is_part_of_a_model(path: str) -> bool:
    # folders other than the detector's are other people's
    name = path.removeprefix(f"{DETECTOR_FOLDER}/")
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in _PARTS_OF_A_MODEL) and "/" not in name


def _is_shared(path: Path, folder: Path) -> bool:
    parts = path.relative_to(folder).parts
    if not path.is_file() or any(part.startswith(".") for part in parts):
        return False
    return not any(fnmatch.fnmatchcase(part, pattern) for part in parts for pattern in NOT_SHARED)
