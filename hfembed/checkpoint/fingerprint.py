"""The files with a checkpoint's weights: which they are, what is in them, and their fingerprint."""

import functools
import hashlib
import json
import re
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from hfembed.checkpoint.files import INDEX_FILE, WEIGHTS_FILE
from hfembed.checkpoint.json_notes import read_json
from hfembed.errors import InputError, first_line

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")

_BLOCK = 1 << 20


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies in a safetensors file.

    Attributes:
        file: The file.
        dtype: As safetensors writes it: "F32".
        shape: Its shape.
        begin: First byte.
        end: One past the last byte.
    """

    file: Path
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    def blocks(self) -> Iterator[bytes]:
        """Its bytes, a megabyte at a time."""
        with self.file.open("rb") as file:
            file.seek(self.begin)
            left = self.end - self.begin
            while left:
                block = file.read(min(left, _BLOCK))
                if not block:
                    raise InputError(f"{self.file} is truncated or damaged; write or fetch it again")
                left -= len(block)
                yield block


def weight_files(folder: Path, name: str | None = None) -> list[Path]:
    """The files that `from_pretrained` reads weights from: one, or the shards that the index names.

    Raises:
        InputError: There are none, they are pickled, or the index is damaged or names a path.
    """
    name = name or str(folder)
    if (folder / WEIGHTS_FILE).is_file():
        return [folder / WEIGHTS_FILE]  # as in transformers, an index beside it counts for nothing
    if not (folder / INDEX_FILE).is_file():
        refuse_pickles([file.name for file in folder.iterdir()] if folder.is_dir() else [], name)
        raise InputError(f"{name} lacks {WEIGHTS_FILE}")
    weight_map = read_json(folder / INDEX_FILE, name).get("weight_map")
    shards: list[Any] = list(weight_map.values()) if isinstance(weight_map, dict) and weight_map else [None]
    for shard in shards:
        if not isinstance(shard, str) or not re.fullmatch(r"[\w-][\w.-]*\.safetensors", shard):
            raise InputError(f"{name}: {INDEX_FILE} names {shard!r}, not a file of weights; save it again")
        if not (folder / shard).is_file():
            raise InputError(f"{name} lacks {shard}")
    return [folder / shard for shard in sorted(set(shards))]


def refuse_pickles(files: Iterable[str], name: str) -> None:
    """Refuse a checkpoint whose weights are in pickle files, and not in safetensors too.

    Raises:
        InputError: That is so.
    """
    files = sorted(files)
    pickled = [file for file in files if file.endswith(PICKLES)]
    if pickled and not any(file.endswith(".safetensors") for file in files):
        raise InputError(
            f"{name} has its weights in {pickled[0]}; pickle files are not loaded: `hfembed convert` reads some"
        )


def stored_tensors(file: Path, name: str | None = None) -> dict[str, StoredTensor]:
    """Read where the tensors of a safetensors file lie, from its header alone.

    Raises:
        InputError: The file is truncated or damaged.
    """
    _, tensors = _read_header(file, name)
    return tensors


def file_metadata(file: Path, name: str | None = None) -> dict[str, str]:
    """Read the metadata in the header of a safetensors file.

    Raises:
        InputError: The file is truncated or damaged.
    """
    metadata, _ = _read_header(file, name)
    return metadata


def fingerprint_weights(folder: Path, name: str | None = None) -> str:
    """The sha256 of the weights: names, types, shapes and bytes of all tensors, in whatever files they lie.

    Raises:
        InputError: There are no weights, or they are damaged.
    """
    files = weight_files(folder, name)
    return _fingerprint(tuple((file, (status := file.stat()).st_size, status.st_mtime_ns) for file in files))


@functools.lru_cache(maxsize=64)
def _fingerprint(files: tuple[tuple[Path, int, int], ...]) -> str:
    tensors = {key: tensor for file, _, _ in files for key, tensor in stored_tensors(file).items()}
    digest = hashlib.sha256()
    for key, tensor in sorted(tensors.items()):
        digest.update(json.dumps([key, tensor.dtype, tensor.shape]).encode())
        for block in tensor.blocks():
            digest.update(block)
    return digest.hexdigest()


def _read_header(file: Path, name: str | None) -> tuple[dict[str, str], dict[str, StoredTensor]]:
    try:
        with safe_open(file, "numpy"), file.open("rb") as opened:  # safetensors checks the layout
            (length,) = struct.unpack("<Q", opened.read(8))
            header: dict[str, Any] = json.loads(opened.read(length))
    except (SafetensorError, ValueError, RecursionError, struct.error, OSError) as error:
        label = f"{name}: {file.name}" if name else str(file)
        raise InputError(f"{label} is truncated or damaged ({first_line(error)}); write or fetch it again") from error
    metadata = header.pop("__metadata__", None) or {}
    start = 8 + length
    return metadata, {
        key: StoredTensor(file, entry["dtype"], tuple(entry["shape"]), *(start + at for at in entry["data_offsets"]))
        for key, entry in header.items()
    }
