"""Faces without names, grouped by person."""

import csv
from pathlib import Path

import numpy as np
from jinja2 import Environment, PackageLoader
from PIL import Image
from sklearn.cluster import AgglomerativeClustering

from hfembed.atomic import atomic_folder
from hfembed.errors import InputError
from hfembed.faces.detection import FaceCrops
from hfembed.faces.projection_plot import draw_map, lay_out

MAX_FACES = 20_000  # all pairs are compared: 3 GB
GROUPS_FILE = "groups.csv"


def group_embeddings(embeddings: np.ndarray, threshold: float) -> np.ndarray:
    """Group embeddings by agglomerative clustering: two groups join while their mean cosine is high enough.

    Average linkage (Sokal, Michener 1958): one good pair joins nobody, as it would with single linkage, where two
    people become one by a chain of bad photos.

    Args:
        embeddings: (N, D) float, unit length.
        threshold: Mean cosine between the faces of two groups from which on they are one person.

    Returns:
        (N,) int, the group of each face: 0 is the largest; equally large ones by their first face.

    Raises:
        InputError: There are more than 20,000 faces.
    """
    if len(embeddings) > MAX_FACES:
        raise InputError(f"{len(embeddings):,} faces: grouping compares all pairs and takes at most {MAX_FACES:,}")
    if len(embeddings) < 2:
        return np.zeros(len(embeddings), dtype=np.int64)
    clustering = AgglomerativeClustering(
        n_clusters=None, metric="cosine", linkage="average", distance_threshold=1 - threshold
    )
    found = clustering.fit_predict(np.asarray(embeddings, dtype=np.float32))
    _, first, place, size = np.unique(found, return_index=True, return_inverse=True, return_counts=True)
    order = np.lexsort((first, -size))
    number = np.empty(len(order), dtype=np.int64)
    number[order] = np.arange(len(order))
    return number[place]


def choose_threshold(thresholds: dict | None, far: float | None = None) -> float:
    """The cosine that joins groups, from what a checkpoint knows about its scores.

    Args:
        thresholds: `FaceEmbedderConfig.thresholds`.
        far: False accept rate; None stands for 1e-3.

    Returns:
        The threshold.

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
    """Refuse to write groups where something else is.

    Raises:
        InputError: The folder holds something else.
    """
    folder = Path(folder)
    if folder.exists() and not (folder / GROUPS_FILE).is_file() and (folder.is_file() or any(folder.iterdir())):
        raise InputError(f"{folder} holds something else than groups of faces: give a new folder")


def write_groups(faces: FaceCrops, groups: np.ndarray, output: str | Path, map_method: str | None = "t-sne") -> None:
    """Write contact sheets: index.html, a page and pictures a group, a map of all faces, groups.csv.

    Args:
        faces: The faces.
        groups: (N,) int, from `group_embeddings`.
        output: A folder that is new, empty, or was written by this function, which is then replaced.
        map_method: "t-sne", "umap" or "pca" for map.png; None for no map.

    Raises:
        InputError: The folder holds something else.
        OSError: The folder cannot be written.
    """
    output = Path(output)
    check_output(output)
    pages = Environment(loader=PackageLoader("hfembed.faces", "."), autoescape=True)  # file names may hold anything
    with atomic_folder(output) as folder:
        sheets = []
        for group in range(int(groups.max()) + 1):
            name = f"group_{group + 1:03d}"
            (folder / name).mkdir()
            members = []
            for row in np.flatnonzero(groups == group):
                picture = f"{row:05d}.png"
                Image.fromarray(faces.crops[row].squeeze()).save(folder / name / picture)
                others = (groups == group) & (np.arange(len(groups)) != row)
                mean = float((faces.embeddings[others] @ faces.embeddings[row]).mean()) if others.any() else None
                members.append({"picture": picture, "file": faces.files[row], "mean_cosine": mean})
            sheet = {"name": name, "members": members}
            page = pages.get_template("group.html.jinja").render(sheet)
            (folder / name / "index.html").write_text(page, encoding="utf-8")
            sheets.append(sheet)
        has_map = map_method is not None and len(groups) >= 4
        if has_map:
            draw_map(lay_out(faces.embeddings, map_method), faces.crops, groups, folder / "map.png")
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
