"""Verification sets of aligned crops, and who is one person: lfw, calfw, cplfw, cfp_fp, cfp_ff, agedb_30 and others.

They come as insightface's `.bin` files, or as data sets with a row per pair (`image1`, `image2`, `target`), one split
per set. A `.bin` file is a pickle of two lists, the encoded crops and a bool per pair. Nothing of it is run: the names
that it may use stand for the three readers below, which take bytes and nothing else, and any other name is refused.
"""

import io
import pickle
import pickletools
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from datasets import Dataset, Features, Image, Value, concatenate_datasets

from hfembed.errors import InputError, first_line
from hfembed.faces.data.face_sources import splits_of
from hfembed.faces.data.lfw import LfwPairs, consecutive_folds, load_lfw
from hfembed.models.face_embedder.image_processing_face_embedder import template_for_size
from hfembed.models.image_opening import image_errors, open_image

FOLDS = 10
_MAX_SETS = 100
MAX_BYTES = 2**31  # insightface's largest, of 14,000 crops, have about 100 MB

# what numpy arrays, bytes, lists, tuples and bools are written with; others reserve memory for what they claim, or
# build what takes long to compare
_OPCODES = frozenset(
    "PROTO FRAME STOP MARK PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET LONG_BINGET GLOBAL STACK_GLOBAL REDUCE BUILD "
    "LIST EMPTY_LIST APPEND APPENDS TUPLE EMPTY_TUPLE TUPLE1 TUPLE2 TUPLE3 NONE NEWTRUE NEWFALSE "
    "INT BININT BININT1 BININT2 LONG LONG1 STRING BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8 "
    "UNICODE BINUNICODE SHORT_BINUNICODE".split()
)


class PairSet(NamedTuple):
    """A set in the shape that `LfwVerification` takes.

    Attributes:
        faces: Columns `image` and `file` ("pair_0001_a").
        pairs: With ten consecutive folds.
        landmarks: File -> five (x, y) where the crop's alignment put them.
    """

    faces: Dataset
    pairs: LfwPairs
    landmarks: dict[str, list[list[float]] | None]


def read_pair_sets(source: str | Path) -> dict[str, PairSet]:
    """Read the sets that a source holds: name -> set.

    Args:
        source: insightface's `.bin` file, or a folder of such files; Parquet files, their folder, or a Hub
            repository, all of its splits or, as "owner/name:split" and "folder:split", one.

    Raises:
        InputError: There is no such source, or it holds no pairs; see also `read_pair_set`.
    """
    text, split = str(source), None
    path = Path(text)
    if not path.exists() and ":" in text and "://" not in text:
        text, _, split = text.rpartition(":")
        path = Path(text)
    if path.suffix == ".bin" or (path.is_file() and path.suffix != ".parquet"):
        return {path.stem: read_pair_set(path)}
    files = sorted(path.glob("*.bin")) if path.is_dir() else []
    if files:
        chosen = [file for file in files if split in (None, file.stem)]
        if not chosen:
            held = ", ".join(file.stem for file in files)
            raise InputError(f"{path} has no pair set '{split}'; choose one of {held}")
        return {file.stem: read_pair_set(file) for file in chosen}
    if path.is_file():
        return {path.stem: _of_table(load_lfw(path, "pairs"), path)}
    splits = [split] if split else splits_of(text)
    if len(splits) > _MAX_SETS:
        raise InputError(f"{text} has {len(splits)} splits: name one, as {text}:{splits[0]}")
    return {name: _of_table(load_lfw(text, "pairs", split=name), f"{text}:{name}") for name in splits}


def _of_table(table: Dataset, source: str | Path) -> PairSet:
    """A set in the schema `image_a`, `image_b`, `same`, `fold`."""
    same, fold = np.array(table["same"][:]), np.array(table["fold"][:])
    if len(same) < FOLDS:
        raise InputError(f"{source} has {len(same)} pairs; expected {FOLDS} or more")
    sides = []
    landmarks: dict[str, list[list[float]] | None] = {}
    for side in "ab":
        files = [f"pair_{pair + 1:04}_{side}" for pair in range(len(same))]
        crops = table.select_columns(f"image_{side}").rename_column(f"image_{side}", "image")
        stored = crops.cast_column("image", Image(decode=False))
        landmarks |= {file: _landmarks(row["image"]) for file, row in zip(files, stored, strict=True)}
        sides.append(crops.add_column("file", files))
    names = [side["file"][:] for side in sides]
    return PairSet(concatenate_datasets(sides), LfwPairs(names[0], names[1], same, fold, view=2), landmarks)


def _landmarks(crop: Any) -> list[list[float]] | None:
    """Where the alignment put the five points; None for what is no image: its pair is an error that is reported."""
    try:
        with image_errors(crop):
            photo, _ = open_image(crop)
            return template_for_size(photo.height, photo.width)
    except ValueError:
        return None


def read_pair_set(source: str | Path) -> PairSet:
    """Read insightface's `.bin` file, without running anything that it names.

    Pair i is crops 2i and 2i + 1. The folds are insightface's: ten runs of consecutive pairs, the first ones longer by
    one where the number does not divide.

    Raises:
        InputError: The file is missing, too large, damaged, names anything but an array of bytes, or has fewer than
            ten pairs.
    """
    crops, same = _unpickled(Path(source))
    if len(crops) != 2 * len(same) or len(same) < FOLDS:
        raise InputError(
            f"{source} has {len(crops)} crops and {len(same)} answers; expected {FOLDS} or more, and two crops each"
        )
    files = [f"pair_{pair + 1:04}_{side}" for pair in range(len(same)) for side in "ab"]
    landmarks = {file: _landmarks(crop) for file, crop in zip(files, crops, strict=True)}
    columns = {"image": [{"bytes": crop, "path": None} for crop in crops], "file": files}
    faces = Dataset.from_dict(columns, features=Features({"image": Image(), "file": Value("string")}))
    pairs = LfwPairs(files[::2], files[1::2], np.array(same), consecutive_folds(len(same), FOLDS), view=2)
    return PairSet(faces, pairs, landmarks)


def _unpickled(source: Path) -> tuple[list[bytes], list[bool]]:
    try:
        if source.stat().st_size > MAX_BYTES:
            raise InputError(f"{source} has more than {MAX_BYTES:,} bytes: no set of pairs is that large")
        content = source.read_bytes()
    except OSError as error:
        raise InputError(f"{source} cannot be read: {error.strerror}") from error
    try:
        for opcode, _, position in pickletools.genops(content):
            if opcode.name not in _OPCODES:
                raise InputError(f"byte {position} is {opcode.name}, which none is written with")
        found = _BytesUnpickler(io.BytesIO(content), encoding="bytes").load()
    except InputError as error:
        raise InputError(f"{source} is not a set of pairs: {error}") from error
    except Exception as error:  # a damaged pickle can raise anything; nothing of it ran
        raise InputError(f"{source} is damaged, or not insightface's .bin file: {first_line(error)}") from error
    if not (isinstance(found, tuple | list) and len(found) == 2 and all(isinstance(part, list) for part in found)):
        raise InputError(f"{source} is not a set of pairs: expected a list of crops and a list of bools")
    crops: list[Any] = [crop.data if isinstance(crop, _Array) else crop for crop in found[0]]
    for number, crop in enumerate(crops):
        if not isinstance(crop, bytes):
            raise InputError(f"{source}: crop {number} is not bytes but {type(crop).__name__}")
    if sum(map(len, crops)) > len(content):
        raise InputError(f"{source} has {len(content):,} bytes, and its crops together more: it repeats them")
    for number, answer in enumerate(found[1]):
        if not isinstance(answer, bool):
            raise InputError(f"{source}: answer {number} is not a bool but {type(answer).__name__}")
    return crops, found[1]


class _Type:
    """In place of `numpy.dtype`: its name and no more."""

    def __init__(self, name: Any = None, *_: Any) -> None:
        self.name = name

    def __setstate__(self, state: Any) -> None:
        pass  # byte order and alignment: of single bytes there are none


class _Array:
    """In place of `numpy.ndarray`: the content of an array of uint8 that is one row or column."""

    data: bytes | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, _, data = state
        if not (isinstance(kind, _Type) and kind.name in ("u1", b"u1") and isinstance(data, bytes)):
            raise InputError("it holds an array of something else than bytes")
        if shape not in ((len(data),), (len(data), 1)):
            raise InputError(f"it holds an array of {len(data)} bytes that claims to be of another shape")
        self.data = data


# Python's own machine: the one in C reserves memory for whatever number of entries a file claims
class _BytesUnpickler(pickle._Unpickler):  # type: ignore[name-defined]
    def find_class(self, module: str, name: str) -> Any:
        if module == "numpy" and name in ("ndarray", "dtype"):
            return {"ndarray": _Array, "dtype": _Type}[name]
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return lambda *_: _Array()
        raise InputError(f"it names {module}.{name}, which no set of pairs needs; nothing of it was run")
