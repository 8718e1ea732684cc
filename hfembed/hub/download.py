"""A repository on the Hub -> a folder in the cache: files of one commit, each as it was pushed."""

import logging
import re
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import HfApi, constants, snapshot_download

from hfembed.checkpoint.validation import refuse_pickles
from hfembed.errors import InputError
from hfembed.hub.commit import is_same
from hfembed.hub.errors import hub_errors, is_passing

logger = logging.getLogger(__name__)

# pickled weights, other programs' formats and code stay on the Hub
_WANTED = ("*.json", "*.safetensors", "*.txt")


def find_checkpoint(
    checkpoint: str | Path,
    *,
    revision: str | None = None,
    subfolder: str = "",
    token: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> Path:
    """The folder with a checkpoint's files, fetched from the Hub where it is not a folder already.

    Everything comes from one commit, and every file is compared with the hash that the Hub has for it. Without a
    network, or with HF_HUB_OFFLINE, what was fetched before is taken.

    Args:
        checkpoint: A folder, "owner/name", or "owner/name@revision".
        revision: Branch, tag or commit; None means main.
        subfolder: Where in the repository or folder the model is.
        token: Instead of this machine's.
        cache_dir: Instead of the Hub's cache under HF_HOME.
        local_files_only: Do not ask the Hub.

    Returns:
        The folder.

    Raises:
        InputError: There is no such folder, repository or revision, no right to read it, nothing in the cache, or a
            file that is not what was pushed.
        HubUnavailableError: The Hub cannot be reached and nothing is in the cache.
        OSError: The disk is full.
    """
    if Path(checkpoint).is_dir():
        return _inside(Path(checkpoint), subfolder, str(checkpoint))
    repo_id, _, named = str(checkpoint).partition("@")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo_id):
        raise InputError(f"{checkpoint}: no such folder, and no name on the Hub, which is written owner/name")
    revision = revision or named or None
    wanted = [f"{subfolder}/{pattern}" for pattern in _WANTED] if subfolder else list(_WANTED)
    folder = find_files(
        repo_id,
        wanted,
        revision=revision,
        token=token,
        cache_dir=cache_dir,
        local_files_only=local_files_only,
    )
    return _inside(folder, subfolder, repo_id)


def find_files(
    repo_id: str,
    patterns: Sequence[str],
    *,
    repo_type: str = "model",
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> Path:
    """Fetch files of one commit and compare each with the Hub's hash.

    Args:
        repo_id: "owner/name".
        patterns: Which files, as of `fnmatch`.
        repo_type: "model" or "dataset".
        revision: Branch, tag or commit; None means main.
        token: Instead of this machine's.
        cache_dir: Instead of the Hub's cache under HF_HOME.
        local_files_only: Do not ask the Hub.

    Returns:
        The folder of the commit in the cache; not there where no file fits.

    Raises:
        InputError: As `find_checkpoint`.
        HubUnavailableError: As `find_checkpoint`.
        OSError: As `find_checkpoint`.
    """
    with hub_errors(repo_id, revision, token):
        folder = Path(
            snapshot_download(
                repo_id,
                repo_type=repo_type,
                revision=revision,
                allow_patterns=list(patterns),
                cache_dir=cache_dir,
                local_files_only=local_files_only,
                token=token,
            )
        )
        if not local_files_only:
            _verify(HfApi(token=token), repo_id, repo_type, folder)
    return folder


def _verify(api: HfApi, repo_id: str, repo_type: str, snapshot: Path) -> None:
    """Compare the fetched files with the Hub's hashes; one that differs leaves the cache, to be fetched again."""
    try:
        info = api.repo_info(repo_id, repo_type=repo_type, revision=snapshot.name, files_metadata=True)
    except Exception as error:
        if not is_passing(error):
            raise
        if not constants.is_offline_mode():
            logger.warning("the Hub cannot be reached: %s is taken as it was fetched last", repo_id)
        return
    if repo_type == "model":
        refuse_pickles([sibling.rfilename for sibling in info.siblings], repo_id)
    for sibling in info.siblings:
        file = snapshot / sibling.rfilename
        if file.exists() and not is_same(file, sibling):
            _remove(file)
            raise InputError(
                f"{repo_id}: {sibling.rfilename} is not what was pushed (truncated or altered on its way); it was "
                "removed from the cache, so load it again"
            )


def _remove(link: Path) -> None:
    """Remove a file of the cache, which is a link to the content, or to a link to it."""
    while link.is_symlink():
        target = link.parent / link.readlink()
        link.unlink()
        link = target
    link.unlink(missing_ok=True)


def _inside(folder: Path, subfolder: str, name: str) -> Path:
    if not (folder / subfolder).is_dir():
        raise InputError(f"{name} has no folder {subfolder}" if subfolder else f"{name} holds no model")
    return folder / subfolder
