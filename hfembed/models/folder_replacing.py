"""Put a finished folder in the place of another in a single step."""

import ctypes
import os
import shutil
import tempfile
from pathlib import Path

_EXCHANGE = 2  # RENAME_EXCHANGE of Linux's renameat2
_CURRENT_FOLDER = -100  # AT_FDCWD


def replace_folder(temporary: Path, folder: Path) -> None:
    """Rename a temporary folder to `folder`, which need not exist, on the same file system.

    Where the system can exchange two names, an earlier folder is then under the temporary name. Elsewhere it is
    renamed first, and a kill in between leaves it aside.
    """
    temporary.chmod(0o777 & ~current_umask())
    share_files(temporary)
    try:
        temporary.rename(folder)
    except OSError:  # it exists; looking first would miss a folder that another process makes meanwhile
        if not folder.exists():
            raise
        if not _exchange(temporary, folder):
            aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.old.", dir=folder.parent))
            folder.rename(aside / folder.name)
            temporary.rename(folder)
            shutil.rmtree(aside)


def share_files(folder: Path) -> None:
    """Give files the permissions that an ordinary open() would give: safetensors makes its own private."""
    for file in folder.rglob("*.safetensors"):
        if not file.is_symlink():
            file.chmod(0o666 & ~current_umask())


def current_umask() -> int:
    """Temporary files are private; the result gets the permissions that an ordinary open() would give."""
    umask = os.umask(0)
    os.umask(umask)
    return umask


def _exchange(first: Path, second: Path) -> bool:
    """Exchange two names in one step; False where the system cannot."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    return rename(_CURRENT_FOLDER, os.fsencode(first), _CURRENT_FOLDER, os.fsencode(second), _EXCHANGE) == 0


__all__ = ["current_umask", "replace_folder", "share_files"]
