"""Labeled Faces in the Wild: the photos from anywhere, the pairs of View 1 and View 2.

Huang, Ramesh, Berg and Learned-Miller, "Labeled Faces in the Wild", 2007.
"""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import datasets
import numpy as np
import pyarrow as pa

from hfembed.errors import InputError
from hfembed.faces.data.face_sources import (
    PAIR_COLUMNS,
    Photos,
    assemble,
    find_column,
    open_source,
    read_photos,
    sorted_names,
)
from hfembed.faces.data.landmarks import read_landmarks
from hfembed.faces.data.person_folders import download
from hfembed.hub.dataset import PhotoFeature

# name -> (URL, SHA-256): the public mirror, as scikit-learn lists it
LFW_FILES = {
    "lfw": (
        "https://ndownloader.figshare.com/files/5976018",
        "055f7d9c632d7370e6fb4afc7468d40f970c34a80d4c6f50ffec63f5a8d536c0",
    ),
    "lfw-funneled": (
        "https://ndownloader.figshare.com/files/5976015",
        "b47c8422c8cded889dc5a13418c4bc2abbda121092b3533a83306f90d900100a",
    ),
    "pairs.txt": (
        "https://ndownloader.figshare.com/files/5976006",
        "ea42330c62c92989f9d7c03237ed5d591365e89b3e649747777b70e692dc1592",
    ),
    "pairsDevTrain.txt": (
        "https://ndownloader.figshare.com/files/5976012",
        "1d454dada7dfeca0e7eab6f65dc4e97a6312d44cf142207be28d688be92aabfa",
    ),
    "pairsDevTest.txt": (
        "https://ndownloader.figshare.com/files/5976009",
        "7cb06600ea8b2814ac26e946201cdb304296262aad67d046a16a7ec85d0ff87c",
    ),
}

# the names that public data sets of pairs use
SAME_COLUMNS = ("same", "is_same", "issame", "target", "label", "pair")


@dataclass(frozen=True)
class LfwPairs:
    """Pairs of photos to tell apart.

    Attributes:
        file_a: "Person/Person_0001.jpg" of the first photos, (num_pairs,).
        same: (num_pairs,) bool: the same person.
        fold: (num_pairs,) int64: 0 to 9 in View 2; 0 throughout in View 1.
        view: 1 (for choosing models) or 2 (for reporting, ten folds).
    """

    file_a: list[str]
    file_b: list[str]
    same: np.ndarray
    fold: np.ndarray
    view: int

    def __len__(self) -> int:
        return len(self.file_a)

    def in_folds(self, folds: Collection[int]) -> "LfwPairs":
        """The pairs of these folds alone, for a model that was trained on people of the others.

        Raises:
            InputError: One of the folds has no pairs.
        """
        empty = sorted(set(folds) - set(self.fold.tolist()))
        if empty:
            raise InputError(f"the pairs have no fold {empty[0]}; they have {sorted(set(self.fold.tolist()))}")
        chosen = np.flatnonzero(np.isin(self.fold, list(folds)))
        return LfwPairs(
            [self.file_a[pair] for pair in chosen],
            [self.file_b[pair] for pair in chosen],
            self.same[chosen],
            self.fold[chosen],
            self.view,
        )

    @property
    def files(self) -> list[str]:
        """Every photo in the pairs once, sorted."""
        return sorted({*self.file_a, *self.file_b})


def read_pairs(source: str | Path) -> LfwPairs:
    """Read pairs.txt (View 2), pairsDevTrain.txt or pairsDevTest.txt (View 1).

    View 2 starts with "10 300": ten folds, each 300 pairs of one person ("Person 1 4"), then 300 of two ("Person 3
    Other 1"). View 1 starts with "1100": this many pairs of one person, then as many of two. The photos need not exist
    in any source; an evaluation counts those as errors.

    Raises:
        InputError: Names the line that cannot be understood.
    """
    path = _downloaded(source)
    try:
        lines = [line.split() for line in Path(path).read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f'"{path}" cannot be read as pairs: {error}') from error
    while lines and not lines[-1]:
        lines.pop()
    header = lines[0] if lines else []
    if len(header) not in (1, 2) or not all(word.isdecimal() and int(word) for word in header):
        raise InputError(f'{path}, line 1: expected "10 300" (View 2) or one number of pairs (View 1)')
    folds, each = (int(header[0]), int(header[1])) if len(header) == 2 else (1, int(header[0]))
    if len(lines) - 1 != folds * 2 * each:
        raise InputError(f"{path}: line 1 announces {folds * 2 * each} pairs, found {len(lines) - 1}")
    file_a, file_b, same, fold = [], [], [], []
    for number, words in enumerate(lines[1:]):
        expect_same = number // each % 2 == 0
        if len(words) == 3 and expect_same:
            words = [words[0], words[1], words[0], words[2]]
        elif len(words) != 4 or expect_same:
            wanted = "a person and two photo numbers" if expect_same else "two people, each with a photo number"
            raise InputError(f'{path}, line {number + 2}: expected {wanted}, not "{" ".join(words)}"')
        if not (words[1].isdecimal() and words[3].isdecimal()):
            raise InputError(f'{path}, line {number + 2}: photo numbers are whole numbers, not "{" ".join(words)}"')
        file_a.append(photo_name(words[0], int(words[1])))
        file_b.append(photo_name(words[2], int(words[3])))
        same.append(expect_same)
        fold.append(number // (2 * each))
    return LfwPairs(file_a, file_b, np.array(same), np.array(fold), view=len(header))


def photo_name(person: str, number: int) -> str:
    """LFW's name of a photo: "Person/Person_0001.jpg"."""
    return f"{person}/{person}_{number:04d}.jpg"


def lfw_people_in_folds(pairs: LfwPairs, folds: Collection[int]) -> set[str]:
    """The people in the pairs of some folds: to be left out of the training of a model tested there."""
    inside = np.isin(pairs.fold, list(folds))
    return {
        file.split("/")[0]
        for files in (pairs.file_a, pairs.file_b)
        for file, chosen in zip(files, inside, strict=True)
        if chosen
    }


def load_lfw(
    source: str | Path,
    config: Literal["identities", "pairs"] = "identities",
    *,
    pairs: str | Path | LfwPairs | None = None,
    landmarks: str | Path | None = None,
    split: str | None = None,
    follow_links: bool = True,
) -> datasets.Dataset:
    """Load LFW in the schema of `load_faces`.

    To measure a model take `config="identities"` and `read_pairs`: each photo is then decoded once. "pairs" repeats
    the photos of every pair, as data sets on the Hub do.

    Args:
        source: An archive (lfw.tgz, lfw-funneled.tgz, LFW-a, a zip), the unpacked folder, a URL with
            "#sha256=...", one of the names "lfw" and "lfw-funneled" (downloaded and checked), or a Hub repository.
        pairs: For "pairs": a file for `read_pairs`, or its result. Not needed where the source is a set of pairs
            itself; its folds are then consecutive tenths, as is the custom.

    Raises:
        InputError: A file is malformed; one line says which and why.
    """
    if config not in ("identities", "pairs"):
        raise ValueError(f'config must be "identities" or "pairs", not "{config}"')
    source = _downloaded(source)
    if config == "pairs" and pairs is None:
        return _hub_pairs(source, split)
    photos = read_photos(source, split=split, follow_links=follow_links)
    if photos.files is None:
        raise InputError(f'"{source}" has no file names; LFW identifies photos by them')
    given = photos.files.to_pylist()
    names = [re.fullmatch(r"(.+)_(\d+)", PurePosixPath(file).stem) for file in given]
    for file, name in zip(given, names, strict=True):
        if name is None:
            raise InputError(f'"{source}": "{file}" is not named as in LFW, Person_0001.jpg')
    # from the name alone: Hub repositories spell people with spaces, or keep all photos in one folder
    people = [name[1] for name in names if name]
    files = [photo_name(name[1], int(name[2])) for name in names if name]
    photos = Photos(photos.table, pa.array(files), pa.array(people).dictionary_encode(), photos.landmarks)
    points = None if landmarks is None else read_landmarks(landmarks)
    identities = assemble(photos, sorted_names(people), landmarks=points)
    if config == "identities" or pairs is None:
        return identities
    read = pairs if isinstance(pairs, LfwPairs) else read_pairs(pairs)
    rows = datasets.Dataset.from_generator(
        _pair_rows, gen_kwargs={"identities": identities, "pairs": read}, features=_PAIR_FEATURES
    )
    # features that come from the cache of `datasets` are its own
    return rows.cast_column("image_a", PhotoFeature()).cast_column("image_b", PhotoFeature())


_PAIR_FEATURES = datasets.Features(
    {
        "image_a": PhotoFeature(),
        "image_b": PhotoFeature(),
        "same": datasets.Value("bool"),
        "fold": datasets.Value("int64"),
        "file_a": datasets.Value("string"),
        "file_b": datasets.Value("string"),
    }
)


def _pair_rows(identities: datasets.Dataset, pairs: LfwPairs) -> Iterator[dict[str, object]]:
    row_of = {file: row for row, file in enumerate(identities["file"][:])}
    stored = identities.select_columns("image").cast_column("image", datasets.Image(decode=False))
    for file_a, file_b, same, fold in zip(pairs.file_a, pairs.file_b, pairs.same, pairs.fold, strict=True):
        images = [stored[row_of[file]]["image"] if file in row_of else None for file in (file_a, file_b)]
        yield {
            "image_a": images[0],
            "image_b": images[1],
            "same": bool(same),
            "fold": int(fold),
            "file_a": file_a,
            "file_b": file_b,
        }


def _hub_pairs(source: str | Path, split: str | None) -> datasets.Dataset:
    table = open_source(source, split=split, config="pairs")
    columns = table.column_names
    found = [(a, b) for a, b in PAIR_COLUMNS if a in columns and b in columns]
    if not found:
        raise InputError(f'"{source}" has no image pairs (columns: {", ".join(columns)}); pass the pairs file too')
    same_column = find_column(columns, SAME_COLUMNS, "whether a pair is of one person", source)
    answers = table[same_column][:]
    strange = next((row for row, answer in enumerate(answers) if answer not in (0, 1)), None)
    if strange is not None:
        raise InputError(
            f'"{source}": column {same_column} has {answers[strange]!r} at row {strange}; expected 0 or 1'
        )
    same = [bool(answer) for answer in answers]
    fold = table["fold"][:] if "fold" in columns else consecutive_folds(len(same)).tolist()
    files = {name: table[name][:] if name in columns else [None] * len(same) for name in ("file_a", "file_b")}
    table = table.select_columns(found[0]).rename_columns(dict(zip(found[0], ("image_a", "image_b"), strict=True)))
    for name, values in {"same": same, "fold": fold, **files}.items():
        table = table.add_column(name, values, feature=_PAIR_FEATURES[name])
    return table.cast(_PAIR_FEATURES)


def consecutive_folds(pairs: int, folds: int = 10) -> np.ndarray:
    """(pairs,) int64: runs of consecutive pairs, the first ones longer by one where the number does not divide."""
    return np.repeat(np.arange(folds), [len(part) for part in np.array_split(np.empty(pairs), folds)])


def _downloaded(source: str | Path) -> str | Path:
    if str(source) in LFW_FILES and not Path(source).exists():
        return download(*LFW_FILES[str(source)])
    return source
