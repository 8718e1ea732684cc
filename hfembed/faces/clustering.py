"""Faces without names, grouped by person."""

import csv
import re
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader
from PIL import Image
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import pdist

from hfembed.atomic import atomic_folder
from hfembed.errors import InputError
from hfembed.faces.detection import FaceCrops
from hfembed.faces.projection_plot import ProjectionMethod, plot_projection, project

MAX_FACES = 20_000  # all pairs are compared: 3 GB
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
        InputError: There are more than 20,000 faces, or an embedding or the threshold is not finite.
    """
    if len(embeddings) > MAX_FACES:
        raise InputError(f"{len(embeddings):,} faces are too many: all pairs are compared, at most {MAX_FACES:,}")
    if not (np.isfinite(embeddings).all() and np.isfinite(threshold)):
        raise InputError("an embedding or the threshold is not finite, so there are no groups")
    if len(embeddings) < 2:
        return np.zeros(len(embeddings), dtype=np.int64)
    distances = pdist(np.asarray(embeddings, dtype=np.float64), "cosine")
    for a, b in () if photos is None else _pairs_of_one_photo(photos):
        # far enough that no mean over two groups that hold the pair comes near any threshold
        distances[len(embeddings) * a - a * (a + 1) // 2 + b - a - 1] = 1e12
    found = fcluster(linkage(distances, "average"), 1 - threshold, "distance")
    _, first, position, size = np.unique(found, return_index=True, return_inverse=True, return_counts=True)
    order = np.lexsort((first, -size))
    number = np.empty(len(order), dtype=np.int64)
    number[order] = np.arange(len(order))
    return number[position]


def _pairs_of_one_photo(photos: Sequence[str]) -> Iterator[tuple[int, int]]:
    faces: dict[str, list[int]] = {}
    for face, photo in enumerate(photos):
        faces.setdefault(photo, []).append(face)
    for together in faces.values():
        yield from combinations(together, 2)


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
        for group in range(int(groups.max()) + 1):
            name = f"group_{group + 1:03d}"
            (folder / name).mkdir()
            members: list[dict[str, Any]] = []
            for row in np.flatnonzero(groups == group):
                picture = f"{row:05d}.png"
                Image.fromarray(faces.crops[row].squeeze()).save(folder / name / picture)
                others = (groups == group) & (np.arange(len(groups)) != row)
                mean = float((faces.embeddings[others] @ faces.embeddings[row]).mean()) if others.any() else None
                members.append({"picture": picture, "file": faces.files[row], "mean_cosine": mean})
            sheet: dict[str, Any] = {"name": name, "members": members}
            page = pages.get_template("group.html.jinja").render(sheet)
            (folder / name / "index.html").write_text(page, encoding="utf-8")
            sheets.append(sheet)
        has_map = len(groups) >= 4 and map_method is not None
        if has_map and map_method is not None:
            plot_projection(project(faces.embeddings, map_method), faces.crops, groups, folder / "map.png")
        page = pages.get_template("groups.html.jinja").render(
            sheets=sheets, faces=len(groups), failures=faces.failures, has_map=has_map
        )
        (folder / "index.html").write_text(page, encoding="utf-8")
        with (folder / GROUPS_FILE).open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(["file", "group", "picture"])
            for sheet in sheets:
                table.writerows(
                    [m["file"], sheet["name"], f"{sheet['name']}/{m['picture']}"] for m in sheet["members"]
                )
