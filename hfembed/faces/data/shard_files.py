"""Files of shards: on this machine, or where fsspec reaches (s3://, gs://, hf://), read as they are needed."""

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from fsspec.core import url_to_fs

from hfembed.errors import InputError, first_line
from hfembed.faces.data.shard_manifest import MANIFEST_FILE, read_manifest
from hfembed.faces.data.webdataset_tars import MAX_SHARDS, expand_braces

# memory:// is fsspec's own, for tests
_REMOTE = re.compile(r"(s3|gs|hf|memory)://.")
_SUFFIXES = (".tar", ".parquet")
_MAX_BYTES = 64 << 30  # of a shard
_MAX_MANIFEST_BYTES = 64 << 20
_FREE_BYTES = 1 << 30  # left on the disk beside a shard's copy


def is_remote(source: str) -> bool:
    """Whether a source is a URL that fsspec reads."""
    return _REMOTE.match(source) is not None


@contextmanager
def _reaching(url: str) -> Iterator[None]:
    """Turn the errors of storage, which are of any kind, into one line that names the URL."""
    try:
        yield
    except (InputError, MemoryError):
        raise
    except ImportError as error:
        raise InputError(f"{url}: {first_line(error)}") from error
    except Exception as error:
        reason = "there is no such file" if isinstance(error, FileNotFoundError) else first_line(error)
        raise InputError(f"{url} cannot be read: {reason}") from error


def list_remote(source: str) -> list[str]:
    """The Parquet files and tars that a URL means: one of them, a folder, a pattern, braces.

    Raises:
        InputError: There are none or too many, or the place cannot be reached.
    """
    protocol = source.partition("://")[0]
    found: list[str] = []
    listed: dict[str, set[str]] = {}
    with _reaching(source):
        for url in expand_braces(source):
            files, path = url_to_fs(url)
            if "*" in path:
                paths = files.glob(path)
            elif path.endswith(_SUFFIXES):
                # a listing, which fsspec keeps, in place of a request for each file
                folder = path.rpartition("/")[0]
                if folder not in listed:
                    listed[folder] = {name.lstrip("/") for name in files.ls(folder, detail=False)}
                if path.lstrip("/") not in listed[folder]:
                    raise InputError(f"{url} does not exist")
                paths = [path]
            else:
                paths = [name for name in files.find(path) if name.endswith(_SUFFIXES)]
            found += [f"{protocol}://{name.lstrip('/')}" for name in sorted(paths)]
    if not found:
        raise InputError(f"{source} has no shards: tars or Parquet files")
    if len(found) > MAX_SHARDS:
        raise InputError(f"{source} stands for {len(found):,} shards, more than {MAX_SHARDS:,}")
    return found


def folder_of(file: str) -> str:
    """The folder that a file lies in, of a path or a URL."""
    return file.rpartition("/")[0] if is_remote(file) else str(Path(file).parent)


def size_of(file: str) -> int:
    """Bytes of a file.

    Raises:
        InputError: It is not there, too large, or does not say its size.
    """
    if not is_remote(file):
        return Path(file).stat().st_size
    with _reaching(file):
        files, path = url_to_fs(file)
        size = files.info(path)["size"]
    if not isinstance(size, int) or size > _MAX_BYTES:
        raise InputError(f"{file} has {size} bytes, more than {_MAX_BYTES:,}")
    return size


@contextmanager
def open_shard(file: str) -> Iterator[Any]:
    """What pyarrow opens: the path, or a file that fetches the ranges that are read."""
    if not is_remote(file):
        yield file
        return
    with _reaching(file):
        files, path = url_to_fs(file)
        opened = files.open(path, "rb")
    with cast(IO[bytes], opened):
        yield opened


@contextmanager
def local_copy(file: str) -> Iterator[Path]:
    """The path of a file, or of a copy that is removed afterwards.

    Raises:
        InputError: It cannot be fetched, or the disk has no room for it.
    """
    if not is_remote(file):
        yield Path(file)
        return
    size = size_of(file)
    with tempfile.TemporaryDirectory(prefix="hfembed-shard-") as folder:
        if (free := shutil.disk_usage(folder).free) < size + _FREE_BYTES:
            raise InputError(f"{file}: no room for its {size:,} bytes in {folder}: {free:,} are free (set TMPDIR)")
        copy = Path(folder) / file.rpartition("/")[2]
        with _reaching(file):
            files, path = url_to_fs(file)
            files.get_file(path, str(copy))
        if copy.stat().st_size != size:
            raise InputError(f"{file}: {copy.stat().st_size:,} bytes came, not {size:,}")
        yield copy


def manifest_of(file: str) -> dict[str, Any]:
    """`manifest.json` beside a shard, as `read_manifest` gives it; {} where there is none.

    Raises:
        InputError: It is damaged or too large.
    """
    if not is_remote(file):
        return read_manifest(Path(file).parent)
    manifest = f"{folder_of(file)}/{MANIFEST_FILE}"
    with _reaching(manifest):
        files, path = url_to_fs(manifest)
        if not files.exists(path):
            return {}
    if size_of(manifest) > _MAX_MANIFEST_BYTES:
        raise InputError(f"{manifest} has {size_of(manifest):,} bytes, more than {_MAX_MANIFEST_BYTES:,}")
    with local_copy(manifest) as copy:
        return read_manifest(copy.parent)
