"""Outputs are written atomically: under a temporary name beside the target, then renamed."""

import functools
import os
import platform
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hfembed.errors import InputError
from hfembed.models.folder_replacing import current_umask, replace_folder


def check_destination(path: str | Path, overwrite: bool = False, *inputs: str | Path) -> None:
    """Refuse a folder that cannot be written or must not be replaced; to be called before any work is done.

    One that is or contains one of the inputs is not replaced even with `overwrite`.
    """
    path = Path(path)
    _check_keeps(path, inputs)
    exists = path.is_file() or (path.is_dir() and any(path.iterdir()))
    if exists and not overwrite:
        raise InputError(f"{path} already exists; pass --overwrite to replace it")
    _check_parent(path)


def check_writable(path: str | Path, *inputs: str | Path) -> None:
    """Refuse a file that cannot be written; to be called before any work is done.

    An earlier one is replaced, unless it is one of the inputs.
    """
    if Path(path).is_dir():
        raise InputError(f"{path} is a folder; name a file to write")
    _check_keeps(Path(path), inputs)
    _check_parent(Path(path))


def check_output_folder(path: str | Path) -> None:
    """Refuse a folder that files cannot be written into; to be called before any work is done."""
    _check_parent(Path(path) / "file")


def _check_keeps(path: Path, inputs: Iterable[str | Path]) -> None:
    for file in map(Path, inputs):  # a name on the Hub is no path that exists
        if path.exists() and file.exists() and any(map(path.samefile, (file.resolve(), *file.resolve().parents))):
            raise InputError(f"{path} would replace the input {file}; choose another output")


def _check_parent(path: Path) -> None:
    parent = next(folder for folder in path.absolute().parents if folder.exists())
    if not parent.is_dir():
        raise InputError(f"{path} cannot be written: {parent} is not a folder")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise InputError(f"{path} cannot be written: no permission to write in {parent}")


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the target's folder; rename it to `path` when the block ends without an error.

    The folder is made when missing. The temporary path has the same suffix as `path`: libraries choose a format by it.

    Raises:
        OSError: The disk is full or the folder cannot be written; an earlier file under `path` is left as it was.
    """
    path = Path(path)
    _prepare(path.parent)
    descriptor, name = tempfile.mkstemp(prefix=_prefix(), suffix=path.suffix, dir=path.parent)
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~current_umask())
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder; put it in the place of `path` when the block ends without an error.

    An earlier folder is replaced only once the new one is complete.

    Raises:
        OSError: The disk is full or the parent cannot be written; an earlier folder is left as it was.
    """
    path = Path(path)
    _prepare(path.parent)
    temporary = Path(tempfile.mkdtemp(prefix=_prefix(), dir=path.parent))
    try:
        yield temporary
        replace_folder(temporary, path)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)  # a file stood in the folder's place


def _prefix() -> str:
    """Says which process writes a temporary file, so that the next one knows what a killed process left."""
    return f".hfembed-{platform.node()}-{os.getpid()}-"


def _prepare(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(folder.resolve(), os.getpid())


@functools.cache
def _remove_leftovers(folder: Path, process: int) -> None:
    """Remove what killed processes of this machine were writing in a folder; once per folder and process."""
    if os.name != "posix":
        return
    prefix = f".hfembed-{platform.node()}-"
    for entry in folder.iterdir():
        number = entry.name.removeprefix(prefix).partition("-")[0]
        if entry.name.startswith(prefix) and number.isdigit() and not is_running(int(number)):
            with suppress(OSError):
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def is_running(process: int) -> bool:
    """Whether there is a process of this number on this machine; assumed to be where that cannot be asked."""
    if os.name != "posix":
        return True  # os.kill would end it there
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
