"""Outputs are written whole or not at all: to a temporary name beside the target, then renamed."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hfembed.errors import InputError


def check_destination(path: str | Path, overwrite: bool) -> None:
    """Refuse a folder to write that is taken; to be called before any work is done.

    Args:
        path: The folder.
        overwrite: It may be replaced.

    Raises:
        InputError: It holds something, and may not be replaced.
    """
    path = Path(path)
    is_taken = path.is_file() or (path.is_dir() and any(path.iterdir()))
    if is_taken and not overwrite:
        raise InputError(f"{path} exists already: choose another folder, or replace it with --overwrite")


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the target's folder; rename it to `path` when the block ends without an error.

    Args:
        path: The file to write. Its folder is made when missing.

    Yields:
        The temporary path, with the same suffix as `path` (libraries choose a format by it).

    Raises:
        OSError: The disk is full or the folder cannot be written; an earlier file under `path` is left as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=path.suffix, dir=path.parent)
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes files private; the result gets the permissions an ordinary open() would give
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder; put it in the place of `path` when the block ends without an error.

    Args:
        path: The folder to write. An earlier one is replaced only once the new one is complete.

    Yields:
        The temporary folder, on the same file system as `path`.

    Raises:
        OSError: The disk is full or the parent cannot be written; an earlier folder is left as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o777 & ~umask)
        if path.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{path.name}.old.", dir=path.parent))
            path.rename(old / path.name)
            temporary.rename(path)
            shutil.rmtree(old)
        else:
            temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
