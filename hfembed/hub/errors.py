"""What went wrong between here and the Hub, in one line."""

import errno
import importlib
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import get_token
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from hfembed.errors import InputError, first_line

# the client that this version of huggingface_hub speaks HTTP with: httpx, and httpx2 from 2.0 on
_client = next(kind.__module__ for kind in HfHubHTTPError.__mro__ if kind.__module__.startswith("httpx"))
TransportError: type[Exception] = importlib.import_module(_client.partition(".")[0]).TransportError


class HubUnavailableError(InputError):
    """The Hub cannot be reached or cannot answer now; nothing is wrong with the input."""


@contextmanager
def hub_errors(
    repo_id: str, revision: str | None = None, token: str | None = None, is_push: bool = True
) -> Iterator[None]:
    """Turn what the Hub's libraries raise into an `InputError` of one line; anything else passes.

    Args:
        repo_id: The repository that was asked for.
        revision: Its branch, tag or commit.
        token: The token that was used, if not the one of this machine.
        is_push: Whether something was to be changed there, or else fetched.

    Raises:
        InputError: The name, the revision, the token or the rights are at fault.
        HubUnavailableError: No network, or a Hub that is overloaded.
        OSError: The disk is full.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        line = explain(error, repo_id, revision, token, is_push)
        if line is None:
            raise
        raise (HubUnavailableError if is_passing(error) else InputError)(line) from error


def causes(error: BaseException) -> Iterator[BaseException]:
    """The exception and what it came from: transformers wraps what the Hub's client raises."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


def is_passing(error: BaseException) -> bool:
    """Whether the same call may succeed later."""
    return any(
        isinstance(cause, TransportError | OfflineModeIsEnabled)
        or (isinstance(cause, HfHubHTTPError) and _status(cause) in (408, 429, 500, 502, 503, 504))
        for cause in causes(error)
    )


def explain(
    error: BaseException, repo_id: str, revision: str | None = None, token: str | None = None, is_push: bool = True
) -> str | None:
    """One line about what the Hub's libraries raised; None for anything else.

    Args:
        error: The exception.
        repo_id: The repository that was asked for.
        revision: Its branch, tag or commit.
        token: The token that was used, if not the one of this machine.
        is_push: As for `hub_errors`.
    """
    for cause in causes(error):
        line = _line(cause, repo_id, revision, token or get_token(), is_push)
        if line is not None:
            return line
    return None


def _line(error: BaseException, repo_id: str, revision: str | None, token: str | None, is_push: bool) -> str | None:
    log_in = "log in with `hf auth login`, or set HF_TOKEN"
    match error:
        case GatedRepoError():
            way_out = "ask for access on its page" if token else f"ask for access on its page and {log_in}"
            return f"{repo_id} is gated: {way_out}"
        case RevisionNotFoundError():
            return f"{repo_id} has no branch, tag or commit '{revision or 'main'}'"
        case RepositoryNotFoundError():
            if token:
                return f"{repo_id}: there is no such repository on the Hub, or your token may not see it"
            return f"{repo_id}: there is no such repository on the Hub; if it is private, {log_in}"
        case LocalEntryNotFoundError() if isinstance(error.__cause__, OfflineModeIsEnabled | None):
            return (
                f"{repo_id}: no such folder; as a Hub id it is not in the cache of this machine, or not all of it: "
                "load it once with a network"
            )
        case EntryNotFoundError() if not isinstance(error, LocalEntryNotFoundError):
            return f"{repo_id}: a file is missing there ({first_line(error)})"
        case HFValidationError():
            return f"'{repo_id}' is not a valid repo id; expected 'owner/name' of letters, digits, '-', '_' and '.'"
        case OfflineModeIsEnabled():
            return f"{repo_id} was not looked up: HF_HUB_OFFLINE is set"
        case _ if _is_disk_full(error):
            return f"the disk is full; free some space and fetch {repo_id} again (HF_HOME says where it goes)"
        case OSError() if str(error).startswith("Consistency check failed"):
            return f"{repo_id}: a file was not downloaded completely ({first_line(error)}); load it again"
        case HfHubHTTPError() if _status(error) == 401:
            return f"{repo_id}: the Hub does not know your token; {log_in}"
        case HfHubHTTPError() if _status(error) == 403:
            return f"{repo_id}: your token may not write there; make one with the right to write, then {log_in}"
        case HfHubHTTPError() if _status(error) == 412:
            return f"{repo_id} was changed by somebody else during the push; look at their commit, then push again"
        case HfHubHTTPError() if _status(error) == 429:
            return f"{repo_id}: the Hub has had too many requests; wait a few minutes"
        case HfHubHTTPError() if _status(error) >= 500:
            return f"{repo_id}: the Hub fails now ({_status(error)}); try again later"
        case TransportError():
            rest = f"{repo_id} is unchanged" if is_push else f"and there is no folder {repo_id}"
            return f"the Hub cannot be reached ({first_line(error)}); {rest}"
    return None


def _is_disk_full(error: BaseException) -> bool:
    # hf_xet is Rust: its errors carry the number in their text
    numbers = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return any(
        (isinstance(error, OSError) and error.errno == number) or f"(os error {number})" in str(error)
        for number in numbers
    )


def _status(error: HfHubHTTPError) -> int:
    return error.response.status_code
