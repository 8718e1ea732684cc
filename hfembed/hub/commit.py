"""Files -> one commit on a branch of the Hub: all of it or nothing, and none where nothing changes."""

import hashlib
import logging
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.hf_api import RepoSibling
from huggingface_hub.utils import validate_repo_id

from hfembed.errors import InputError, first_line
from hfembed.hub.card_marker import is_as_pushed
from hfembed.hub.errors import hub_errors, is_passing

logger = logging.getLogger(__name__)

_ATTEMPTS = 4
_CARD = "README.md"


@dataclass(frozen=True)
class Pushed:
    """What a push left on the Hub.

    Attributes:
        url: The page of the repository, at the branch.
        commit: The branch's head.
        changed: Whether this push made it; not where the branch held the same files already.
        private: Whether the repository is private.
        removed: Stale files that this push removed.
        kept_card: Whether a card that was edited on the Hub was kept.
    """

    url: str
    commit: str
    changed: bool
    private: bool = False
    removed: tuple[str, ...] = ()
    kept_card: bool = False


def commit_files(
    files: Mapping[str, Path | bytes],
    repo_id: str,
    *,
    message: str,
    repo_type: str = "model",
    private: bool | None = None,
    private_if_new: bool = False,
    revision: str | None = None,
    tag: str | None = None,
    token: str | None = None,
    is_stale: Callable[[str], bool] = lambda path: False,
    overwrite_card: bool = False,
) -> Pushed:
    """Put files on a branch in one commit, whose parent is the head that was compared with.

    The large files travel first; the branch moves when all have arrived. So whoever reads the branch sees the old
    files or the new ones, whenever this is interrupted, and the same call again continues where it stopped.

    Args:
        files: Path in the repository -> local file, or its content.
        repo_id: "owner/name". Made where it does not exist.
        message: The commit's title.
        repo_type: "model" or "dataset".
        private: Make a new repository private. An existing public one is then refused.
        private_if_new: Make a new repository private unless `private` says otherwise.
        revision: The branch, made from main where it does not exist; None means main.
        tag: Also give the commit this tag.
        token: Instead of this machine's.
        is_stale: Whether a file that is there and not in `files` is removed with this commit.
        overwrite_card: Replace a README.md that was edited there since hfembed pushed it; it is kept otherwise, and
            said.

    Returns:
        Where the files are now.

    Raises:
        InputError: No token, no right, an impossible name, a tag that names another commit, a public repository where
            a private one is asked for, or somebody else's commit meanwhile.
        HubUnavailableError: The Hub cannot be reached, or fails again and again.
        OSError: A file cannot be read.
    """
    api = HfApi(token=token)
    branch = revision or "main"
    with hub_errors(repo_id, revision, token):
        private_repo = True if private is None and private_if_new else private
        api.create_repo(repo_id, repo_type=repo_type, private=private_repo, exist_ok=True)
        _make_branch(api, repo_id, repo_type, branch)
        operations = {path: CommitOperationAdd(path, content) for path, content in files.items()}
        head, changed = "", False
        for attempt in range(_ATTEMPTS):
            # a commit whose answer was lost shows here as nothing left to do
            info = api.repo_info(repo_id, repo_type=repo_type, revision=branch, files_metadata=True)
            if private and not info.private:
                raise InputError(
                    f"{repo_id} exists and is public; make it private on its page, or choose another name"
                )
            head = str(info.sha)
            present = {sibling.rfilename: sibling for sibling in getattr(info, "siblings", None) or []}
            kept_card = not overwrite_card and _is_edited(api, repo_id, repo_type, head, files, present)
            todo: list[CommitOperationAdd | CommitOperationDelete] = [
                operation
                for path, operation in operations.items()
                if not is_same(files[path], present.get(path)) and not (path == _CARD and kept_card)
            ]
            stale = tuple(path for path in present if path not in files and is_stale(path))
            todo += map(CommitOperationDelete, stale)
            _check_tag(api, repo_id, repo_type, tag, None if todo else head)
            if not todo:
                break
            try:
                head = api.create_commit(
                    repo_id, todo, commit_message=message, repo_type=repo_type, revision=branch, parent_commit=head
                ).oid
                changed = True
                break
            except Exception as error:
                if not is_passing(error) or attempt + 1 == _ATTEMPTS:
                    raise
                logger.warning("the push to %s failed (%s); trying again", repo_id, first_line(error))
                time.sleep(2**attempt)
        if tag is not None:
            api.create_tag(repo_id, tag=tag, revision=head, repo_type=repo_type, exist_ok=True)
    if kept_card:
        logger.warning(
            "%s: README.md was edited there and is kept; --overwrite-card (overwrite_card=True) replaces it", repo_id
        )
    kind = "" if repo_type == "model" else f"{repo_type}s/"
    tree = "" if branch == "main" else f"/tree/{branch}"
    url = f"{api.endpoint}/{kind}{repo_id}{tree}"
    return Pushed(url, head, changed, bool(info.private), stale if changed else (), kept_card)


def _is_edited(
    api: HfApi,
    repo_id: str,
    repo_type: str,
    head: str,
    files: Mapping[str, Path | bytes],
    present: Mapping[str, RepoSibling],
) -> bool:
    """Whether the card on the Hub is another than ours and not the one that hfembed pushed last."""
    if _CARD not in files or _CARD not in present or is_same(files[_CARD], present[_CARD]):
        return False
    with tempfile.TemporaryDirectory() as folder:
        path = api.hf_hub_download(repo_id, _CARD, repo_type=repo_type, revision=head, local_dir=folder)
        return not is_as_pushed(Path(path).read_text(encoding="utf-8", errors="replace"))


def full_name(repo_id: str, token: str | None = None) -> str:
    """The repository's name with its owner, who is the token's where the name has none.

    Args:
        repo_id: "owner/name" or "name".
        token: Instead of this machine's.

    Returns:
        "owner/name".

    Raises:
        InputError: There is no token, the Hub does not know it, or the name is impossible.
        HubUnavailableError: The Hub cannot be reached.
    """
    if not (token or get_token()):
        raise InputError(f"pushing to {repo_id} needs a token: log in with `hf auth login`, or set HF_TOKEN")
    with hub_errors(repo_id, token=token):
        validate_repo_id(repo_id)
        return repo_id if "/" in repo_id else f"{HfApi(token=token).whoami()['name']}/{repo_id}"


def _make_branch(api: HfApi, repo_id: str, repo_type: str, branch: str) -> None:
    if branch == "main":
        return
    refs = api.list_repo_refs(repo_id, repo_type=repo_type)
    if any(tag.name == branch for tag in refs.tags):
        raise InputError(f"{branch} is a tag of {repo_id}, and tags do not move: push to a branch")
    if all(known.name != branch for known in refs.branches):
        api.create_branch(repo_id, branch=branch, repo_type=repo_type, exist_ok=True)


def _check_tag(api: HfApi, repo_id: str, repo_type: str, tag: str | None, commit: str | None) -> None:
    """Refuse a tag that names another commit, before anything is uploaded."""
    if tag is None:
        return
    for known in api.list_repo_refs(repo_id, repo_type=repo_type).tags:
        if known.name == tag and known.target_commit != commit:
            raise InputError(f"{repo_id} has a tag {tag} already, of another version: choose another tag")


def is_same(content: Path | bytes, present: RepoSibling | None) -> bool:
    """Whether a file on the Hub has this content: by sha256 for large files, by git's hash for the others.

    Args:
        content: The content, or the file that has it.
        present: What `HfApi.repo_info(..., files_metadata=True)` says of the file there; None where there is none.

    Returns:
        Whether they are equal.

    Raises:
        OSError: The file cannot be read.
    """
    if present is None:
        return False
    size = len(content) if isinstance(content, bytes) else content.stat().st_size
    if size != present.size:
        return False
    if present.lfs is not None:
        return _digest(hashlib.sha256(), content) == present.lfs.sha256
    return _digest(hashlib.sha1(b"blob %d\0" % size), content) == present.blob_id


def _digest(digest: "hashlib._Hash", content: Path | bytes) -> str:
    if isinstance(content, bytes):
        digest.update(content)
    else:
        with content.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
