"""A map of embeddings: pictures lie near those that they are alike."""

from pathlib import Path
from typing import Literal

import numpy as np
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from hfembed.atomic import atomic_write
from hfembed.errors import InputError


def lay_out(embeddings: np.ndarray, method: Literal["t-sne", "umap", "pca"] = "t-sne", seed: int = 0) -> np.ndarray:
    """Lay embeddings on a plane.

    Args:
        embeddings: (N, D) float, N at least 4.
        method: "t-sne" (van der Maaten, Hinton 2008), "umap" (McInnes et al. 2018; needs umap-learn), or "pca".
        seed: Of the methods that draw.

    Returns:
        (N, 2) float.

    Raises:
        InputError: Too few embeddings, an unknown method, or umap-learn is not installed.
    """
    if len(embeddings) < 4:
        raise InputError(f"a map needs at least 4 embeddings, got {len(embeddings)}")
    if method == "pca":
        return PCA(2, random_state=seed).fit_transform(embeddings)
    if method == "t-sne":
        perplexity = min(30, (len(embeddings) - 1) / 3)
        return TSNE(2, perplexity=perplexity, metric="cosine", random_state=seed).fit_transform(embeddings)
    if method == "umap":
        try:
            from umap import UMAP
        except ImportError:
            raise InputError('umap-learn is not installed: pip install "hfembed[map]", or take t-sne') from None
        neighbours = min(15, len(embeddings) - 1)
        # a spectral start needs more points than it finds neighbours
        start = "spectral" if len(embeddings) > 15 else "random"
        return UMAP(n_neighbors=neighbours, metric="cosine", init=start, random_state=seed).fit_transform(embeddings)
    raise InputError(f"method '{method}' is none of t-sne, umap, pca")


def draw_map(places: np.ndarray, pictures: np.ndarray, groups: np.ndarray, path: str | Path) -> None:
    """Draw pictures at their places, framed in their group's colour.

    Args:
        places: (N, 2) float.
        pictures: (N, H, W, C) uint8.
        groups: (N,) int; groups of one have a grey frame.
        path: The picture file to write.

    Raises:
        OSError: The file cannot be written.
    """
    figure = Figure(figsize=(14, 14))
    axes = figure.add_axes((0.03, 0.03, 0.94, 0.94))
    axes.set_axis_off()
    axes.scatter(*places.T, s=0)  # sets the limits
    height = 14 * 72 / max(14.0, 1.6 * len(places) ** 0.5)  # of a picture, in points
    sizes = np.bincount(groups)
    for place, picture, group in zip(places, pictures, groups, strict=True):
        colour = "#bbbbbb" if sizes[group] == 1 else f"C{group % 10}"
        image = OffsetImage(picture.squeeze(), zoom=height / picture.shape[0], cmap="gray")
        frame = {"edgecolor": colour, "linewidth": 2, "boxstyle": "square,pad=0"}
        axes.add_artist(AnnotationBbox(image, place, pad=0, bboxprops=frame))
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=100)
