"""A repository on the Hub -> a folder in the cache: files of one commit, each as it was pushed."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from huggingface_hub import HfApi, constants, snapshot_download

from hfembed.errors import InputError
from hfembed.hub.commit import is_same
from hfembed.hub.errors import hub_errors, is_passing

logger = logging.getLogger(__name__)


def download_files(
    repo_id: str,
    patterns: Sequence[str],
    *,
    repo_type: str = "model",
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    check_names: Callable[[list[str]], None] = lambda names: None,
) -> Path:
    """Download files of one commit and compare each with the Hub's hash.

    Without a network, or with HF_HUB_OFFLINE, what was fetched before is taken.

    Args:
        repo_id: "owner/name".
        patterns: Which files, as of `fnmatch`.
        repo_type: "model" or "dataset".
        revision: Branch, tag or commit; None means main.
        token: Instead of this machine's.
        cache_dir: Instead of the Hub's cache under HF_HOME.
        local_files_only: Do not contact the Hub.
        check_names: Called with the names of all files in the repository; may refuse them.

    Returns:
        The folder of the commit in the cache; it does not exist if no file matches.

    Raises:
        InputError: There is no such repository or revision, no right to read it, nothing in the cache, or a file is
            not what was pushed.
        HubUnavailableError: The Hub cannot be reached and nothing is in the cache.
        OSError: The disk is full.
    """
    with hub_errors(repo_id, revision, token, is_push=False):
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
            _verify(HfApi(token=token), repo_id, repo_type, folder, check_names)
    return folder


def _verify(
    api: HfApi, repo_id: str, repo_type: str, snapshot: Path, check_names: Callable[[list[str]], None]
) -> None:
    """Compare the fetched files with the Hub's hashes; one that differs leaves the cache, to be fetched again."""
    try:
        info = api.repo_info(repo_id, repo_type=repo_type, revision=snapshot.name, files_metadata=True)
    except Exception as error:
        if not is_passing(error):
            raise
        if not constants.is_offline_mode():
            logger.warning("the Hub cannot be reached: using the last download of %s", repo_id)
        return
    siblings = getattr(info, "siblings", None) or []
    check_names([sibling.rfilename for sibling in siblings])
    for sibling in siblings:
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
