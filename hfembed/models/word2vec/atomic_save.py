"""Replace a folder in a single step, so that it never holds the vectors of one save and the words of another."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hfembed.models.folder_replacing import replace_folder


@contextmanager
def atomic_save(folder: str | Path, written: tuple[str, ...]) -> Iterator[Path]:
    """Yield a temporary folder; put it in the place of `folder`, with the other files there, when the block ends well.

    A folder that cannot be replaced (a mount point, the current folder, a parent without write permission) gets its
    files one by one; loading checks that vectors and words belong together.

    Args:
        written: Patterns of the names that a save may write; earlier files of such names are not kept.
    """
    folder = Path(folder).resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    in_place = folder.is_mount() or Path.cwd().is_relative_to(folder) or not os.access(folder.parent, os.W_OK)
    temporary = Path(tempfile.mkdtemp(prefix=".saving.", dir=folder if in_place else folder.parent))

    def not_kept(path: str, names: list[str]) -> set[str]:
        if Path(path) != folder:
            return set()
        return {name for name in names if any(Path(name).match(pattern) for pattern in written)}

    try:
        yield temporary
        if in_place:
            for name in not_kept(str(folder), os.listdir(folder)) - set(os.listdir(temporary)):
                shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink()
            for file in temporary.iterdir():
                file.replace(folder / file.name)
        else:
            if folder.exists():
                shutil.copytree(
                    folder, temporary, symlinks=True, ignore=not_kept, copy_function=_link, dirs_exist_ok=True
                )
            replace_folder(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except (OSError, NotImplementedError):  # another disk, or Windows
        shutil.copy2(source, target, follow_symlinks=False)
