"""Error rates by group of people: is a model as good for each of them?"""

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from hfembed.errors import InputError
from hfembed.faces.evaluation.verification import wilson_interval

MAX_NAMES = 10_000_000

ALL = "all"  # the row of all pairs


class Groups(NamedTuple):
    """Which photos belong to which group.

    Attributes:
        of: "Person/Person_0001.jpg" -> the names of its groups.
    """

    names: list[str]
    of: dict[str, set[str]]


def read_groups(files: Sequence[str | Path], photos: Sequence[str]) -> Groups:
    """Read lists of photos, one file per group, named by the file: `male_names.txt` is the group "male".

    A line is a photo, with or without its person's folder: "Ann_Lee_0001.jpg" or "Ann_Lee/Ann_Lee_0001.jpg".

    Args:
        photos: Those that matter; others in the lists are ignored.

    Raises:
        InputError: A file cannot be read, names none of the photos, or has the name of another.
    """
    by_name = {PurePosixPath(photo).name: photo for photo in photos}
    names: list[str] = []
    of: dict[str, set[str]] = {photo: set() for photo in photos}
    for file in files:
        try:
            with Path(file).open(encoding="utf-8") as opened:
                lines = [line.strip() for _, line in zip(range(MAX_NAMES), opened, strict=False)]
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{file} cannot be read as a list of photos: {error}") from error
        name = Path(file).stem.removesuffix("_names")
        if name == ALL:
            raise InputError(f"{file}: '{ALL}' stands for all pairs; name the file otherwise")
        if name in names:
            raise InputError(f"{file}: two files for the group '{name}'; a group is named by its file")
        found = {by_name[short] for line in lines if (short := PurePosixPath(line).name) in by_name}
        if not found:
            raise InputError(f"{file} names none of the {len(photos)} photos; a line is such as {photos[0]}")
        names.append(name)
        for photo in found:
            of[photo].add(name)
    return Groups(names, of)


def rates_by_group(
    accepted: np.ndarray,
    same: np.ndarray,
    failed: np.ndarray,
    photos_a: Sequence[str],
    photos_b: Sequence[str],
    groups: Groups,
) -> dict[str, Any]:
    """Accuracy, FMR and FNMR of each group, in percent, with 95 % Wilson intervals over pairs.

    A pair counts for a group where both of its photos are in that group and in no other. A failed pair is a wrong
    decision: a false non-match, or where the people differ wrong in the accuracy alone.

    Args:
        accepted: (P,) bool, decided to be one person.
        same: (P,) bool.
        failed: (P,) bool.

    Returns:
        "rows": group, and "all" for all pairs -> its figures, None where there is no pair; "pairs_across_groups":
        "a, b" -> the figures of pairs of one photo each; "left_out": pairs and photos in no or several groups.
    """
    accepted = accepted & ~failed
    only = {photo: next(iter(found)) if len(found) == 1 else None for photo, found in groups.of.items()}
    group_a = np.array([only[photo] for photo in photos_a], dtype=object)
    group_b = np.array([only[photo] for photo in photos_b], dtype=object)

    def rates(chosen: np.ndarray) -> dict[str, Any]:
        genuine, impostor = chosen & same, chosen & ~same
        right = np.where(same, accepted, ~accepted & ~failed)
        return {
            "genuine": int(genuine.sum()),
            "impostor": int(impostor.sum()),
            **_rate("accuracy", right[chosen]),
            **_rate("fmr", accepted[impostor]),
            **_rate("fnmr", ~accepted[genuine]),
        }

    everywhere = np.ones(len(same), dtype=bool)
    rows = {ALL: rates(everywhere)}
    rows |= {name: rates((group_a == name) & (group_b == name)) for name in groups.names}
    across = {}
    for number, first in enumerate(groups.names):
        for second in groups.names[number + 1 :]:
            mixed = ((group_a == first) & (group_b == second)) | ((group_a == second) & (group_b == first))
            if mixed.any():
                across[f"{first}, {second}"] = rates(mixed)
    unclear = np.array([None in pair for pair in zip(group_a, group_b, strict=True)])
    tested = sorted({*photos_a, *photos_b})
    left_out = {
        "pairs": int(unclear.sum()),
        "photos_in_none": [photo for photo in tested if not groups.of[photo]],
        "photos_in_several": [photo for photo in tested if len(groups.of[photo]) > 1],
    }
    return {"interval": "Wilson, 95 %, over pairs", "rows": rows, "pairs_across_groups": across, "left_out": left_out}


def _rate(name: str, is_so: np.ndarray) -> dict[str, Any]:
    if not len(is_so):
        return {name: None, f"{name}_interval_95": None}
    low, high = wilson_interval(int(is_so.sum()), len(is_so))
    return {name: 100 * float(is_so.mean()), f"{name}_interval_95": [100 * low, 100 * high]}


def summary_of_groups(details: Mapping[str, Any]) -> list[str]:
    """The figures of `rates_by_group`, with the threshold, as lines to print."""
    lines = [f"  by group, at cosine {details['threshold']:.3f} ({details['interval']}):"]
    for name, row in {**details["rows"], **details["pairs_across_groups"]}.items():
        parts = [f"{figure} {rate_text(row, key)}" for key, figure in RATES.items() if row[key] is not None]
        lines.append(f"    {name}: {', '.join(parts)} ({row['genuine']:,} + {row['impostor']:,} pairs)")
    left_out = details["left_out"]
    if left_out["pairs"]:
        none, several = left_out["photos_in_none"], left_out["photos_in_several"]
        lines.append(
            f"    left out: {left_out['pairs']} pairs, for {len(none)} photos in no group, {len(several)} in several: "
            + ", ".join([*none, *several][:5])
            + (", ..." if len(none) + len(several) > 5 else "")
        )
    return lines


RATES = {"accuracy": "accuracy", "fmr": "FMR", "fnmr": "FNMR"}


def rate_text(row: Mapping[str, Any], key: str) -> str:
    """A rate with its interval, such as "0.52 (0.31 to 0.87) %"."""
    if row[key] is None:
        return "no pairs"
    low, high = row[f"{key}_interval_95"]
    return f"{row[key]:.2f} ({low:.2f} to {high:.2f}) %"
