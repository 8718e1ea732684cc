"""Faces without names, grouped by person."""

import csv
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader
from PIL import Image

from hfembed.atomic import atomic_folder
from hfembed.errors import InputError
from hfembed.faces.average_linkage import average_linkage
from hfembed.faces.detection import FaceCrops
from hfembed.faces.projection_plot import ProjectionMethod, plot_projection, project

MAX_FACES = 2_000_000
_ON_MAP = 5000  # faces, evenly taken from all
GROUPS_FILE = "groups.csv"


def group_embeddings(embeddings: np.ndarray, threshold: float, photos: Sequence[str] | None = None) -> np.ndarray:
    """Group embeddings by agglomerative clustering with average linkage (Sokal, Michener 1958).

    Two groups are joined while their mean cosine is high enough. One good pair joins nobody, unlike with single
    linkage, where two people become one by a chain of bad photos. Two faces of one photo are two people: groups that
    hold them are never joined.

    Args:
        embeddings: (N, D) float, unit length.
        photos: The photo of each face; by default all are of different ones.

    Returns:
        (N,) int, the group of each face: 0 is the largest; groups of one size are in the order of their first face.

    Raises:
        InputError: There are more than 2,000,000 faces, an embedding or the threshold is not finite, the threshold
            joins more than 100,000,000 pairs, or above 200,000 faces faiss is not installed.
    """
    check_count(len(embeddings))
    if not (np.isfinite(embeddings).all() and np.isfinite(threshold)):
        raise InputError("an embedding or the threshold is not finite, so there are no groups")
    if len(embeddings) < 2:
        return np.zeros(len(embeddings), dtype=np.int64)
    faces_of: dict[str, list[int]] = {}
    for face, photo in enumerate(photos or ()):
        faces_of.setdefault(photo, []).append(face)
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    found = average_linkage(unit, threshold, [together for together in faces_of.values() if len(together) > 1])
    _, first, position, size = np.unique(found, return_index=True, return_inverse=True, return_counts=True)
    order = np.lexsort((first, -size))
    number = np.empty(len(order), dtype=np.int64)
    number[order] = np.arange(len(order))
    return number[position]


def check_count(faces: int) -> None:
    """Refuse more faces than can be grouped; for as many photos, before the work.

    Raises:
        InputError: There are more than 2,000,000.
    """
    if faces > MAX_FACES:
        raise InputError(f"{faces:,} faces are too many to group: at most {MAX_FACES:,}; group a part of them")


def choose_threshold(thresholds: dict[str, Any] | None, far: float | None = None) -> float:
    """The cosine that joins groups, from a checkpoint's thresholds.

    Args:
        far: False accept rate; None means 1e-3.

    Raises:
        InputError: The checkpoint has none for this rate.
    """
    wanted = 1e-3 if far is None else far
    by_far = {float(rate): cosine for rate, cosine in (thresholds or {}).get("far", {}).items()}
    if wanted not in by_far:
        known = ", ".join(f"{rate:g}" for rate in sorted(by_far)) or "none"
        raise InputError(
            f"the model has no threshold for a false accept rate of {wanted:g} (it has: {known}): give --threshold, "
            "or measure it with hfembed evaluate ... --store-thresholds"
        )
    return by_far[wanted]


def check_output(folder: str | Path) -> None:
    """Refuse to write groups where something else is; to be called before any work is done.

    Raises:
        InputError: The folder contains other files.
    """
    folder = Path(folder)
    if folder.is_file():
        raise InputError(f"{folder} is a file; name a folder for the groups")
    others = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    ours = rf"{GROUPS_FILE}|index\.html|map\.png|group_\d{{3,}}"
    others = sorted(name for name in others if not re.fullmatch(ours, name))
    if others:
        raise InputError(f"{folder} is not a folder of groups (contains {others[0]}); choose another folder")


def write_groups(
    faces: FaceCrops, groups: np.ndarray, output: str | Path, map_method: ProjectionMethod | None = "t-sne"
) -> None:
    """Write contact sheets: index.html, one page of pictures per group, a plot of all faces, groups.csv.

    Args:
        groups: (N,) int, from `group_embeddings`.
        map_method: "t-sne", "umap" or "pca" for map.png; None for no plot.

    Raises:
        InputError: The folder contains other files.
        OSError: The folder cannot be written.
    """
    output = Path(output)
    check_output(output)
    pages = Environment(loader=PackageLoader("hfembed.faces", "."), autoescape=True)  # file names may hold anything
    with atomic_folder(output) as folder:
        sheets: list[dict[str, Any]] = []
        by_group = np.split(np.argsort(groups, kind="stable"), np.cumsum(np.bincount(groups))[:-1])
        for group, rows in enumerate(by_group):
            name = f"group_{group + 1:03d}"
            (folder / name).mkdir()
            members: list[dict[str, Any]] = []
            total = faces.embeddings[rows].sum(0, dtype=np.float64)
            for row in rows:
                picture = f"{row:05d}.png"
                Image.fromarray(faces.crops[row].squeeze()).save(folder / name / picture)
                own = faces.embeddings[row].astype(np.float64)
                mean = float((total - own) @ own) / (len(rows) - 1) if len(rows) > 1 else None
                members.append({"picture": picture, "file": faces.files[row], "mean_cosine": mean})
            sheet: dict[str, Any] = {"name": name, "members": members}
            page = pages.get_template("group.html.jinja").render(sheet)
            (folder / name / "index.html").write_text(page, encoding="utf-8")
            sheets.append(sheet)
        has_map = len(groups) >= 4 and map_method is not None
        if has_map and map_method is not None:
            shown = np.unique(np.linspace(0, len(groups) - 1, min(_ON_MAP, len(groups))).round().astype(int))
            places = project(faces.embeddings[shown], map_method)
            plot_projection(places, faces.crops[shown], groups[shown], folder / "map.png")
        alone = sum(len(sheet["members"]) == 1 for sheet in sheets)
        title = f"{len(groups):,} faces: {len(sheets) - alone:,} groups, {alone:,} faces alone"
        page = pages.get_template("groups.html.jinja").render(
            sheets=sheets, title=title, alone=alone, failures=faces.failures, has_map=has_map
        )
        (folder / "index.html").write_text(page, encoding="utf-8")
        with (folder / GROUPS_FILE).open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(["file", "group", "picture"])
            for sheet in sheets:
                table.writerows(
                    [m["file"], sheet["name"], f"{sheet['name']}/{m['picture']}"] for m in sheet["members"]
                )
