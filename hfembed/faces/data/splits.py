"""Splits that do not depend on the order of the rows: by person, or by the photos of each person."""

import hashlib
from collections import defaultdict

import datasets

from hfembed.errors import InputError, counted


def split_people(dataset: datasets.Dataset, share: float, seed: int = 0) -> tuple[datasets.Dataset, datasets.Dataset]:
    """Split so that nobody is on both sides.

    Who goes where depends on the names and the seed, not on the order of rows or on how many photos somebody has.
    Both sides get labels of their own, numbered anew.

    Args:
        share: Fraction of the people for the second side, in (0, 1).

    Raises:
        InputError: One side would be empty.
    """
    names = dataset.features["label"].names
    labels = dataset["label"][:]
    people = sorted({names[label] for label in labels}, key=lambda name: _draw(seed, name))
    count = round(share * len(people))
    if not 0 < count < len(people):
        raise InputError(
            f"a held-out share of {share:g} leaves one side of the split empty (people: {len(people)}); pass another, "
            "such as --held-out-share 0.5 (0 where nobody need be held out), or photos of more people"
        )
    second = set(people[:count])
    return (
        _select_people(dataset, [row for row, label in enumerate(labels) if names[label] not in second]),
        _select_people(dataset, [row for row, label in enumerate(labels) if names[label] in second]),
    )


def hold_out_photos(
    dataset: datasets.Dataset, share: float = 0.0, train_photos: int = 0, seed: int = 0
) -> tuple[datasets.Dataset, datasets.Dataset]:
    """Hold out photos of everybody, to measure identification on.

    Which photos depends on their file names and the seed alone. Everybody keeps at least one photo on each side.

    Args:
        share: Hold out this fraction of each person's photos, in (0, 1); or

    Raises:
        InputError: Somebody has too few photos.
    """
    if bool(share) == bool(train_photos):
        raise ValueError("give share or train_photos, and not both")
    if not 0 <= share < 1 or train_photos < 0:
        raise ValueError(f"share must lie in (0, 1) and train_photos be positive, not {share} and {train_photos}")
    files, labels = dataset["file"][:], dataset["label"][:]
    rows_of: dict[int, list[int]] = defaultdict(list)
    for row in sorted(range(len(files)), key=lambda row: _draw(seed, files[row])):
        rows_of[labels[row]].append(row)
    kept, held_out = [], []
    for label, rows in rows_of.items():
        count = train_photos or max(min(round((1 - share) * len(rows)), len(rows) - 1), 1)
        if len(rows) <= count:
            name = dataset.features["label"].names[label]
            raise InputError(
                f"{name} has {counted(len(rows), 'photo')}, too few to hold one out: add photos, raise min_photos, "
                f"or leave {name} out"
            )
        kept += rows[:count]
        held_out += rows[count:]
    return dataset.select(sorted(kept)), dataset.select(sorted(held_out))


def _draw(seed: int, name: str) -> bytes:
    """A random number of the name's own."""
    return hashlib.sha256(f"{seed}/{name}".encode()).digest()


def _select_people(dataset: datasets.Dataset, rows: list[int]) -> datasets.Dataset:
    chosen = dataset.select(rows)
    labels = chosen["label"][:]
    number = {label: new for new, label in enumerate(sorted(set(labels)))}
    feature = datasets.ClassLabel(names=[dataset.features["label"].names[label] for label in number])
    columns = dataset.column_names
    chosen = chosen.remove_columns("label").add_column("label", [number[label] for label in labels], feature=feature)
    return chosen.select_columns(columns)
