"""A plot of embeddings in the plane: pictures lie near those that are similar to them."""

import importlib.util
from pathlib import Path
from typing import Literal

import numpy as np
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from hfembed.atomic import atomic_write
from hfembed.errors import InputError

ProjectionMethod = Literal["t-sne", "umap", "pca"]

_NAMED = 40  # groups with a name on the plot


def check_method(method: ProjectionMethod) -> None:
    """Refuse a projection that cannot be made here, before the work.

    Raises:
        InputError: umap-learn is not installed.
    """
    if method == "umap" and importlib.util.find_spec("umap") is None:
        raise InputError('umap-learn is not installed: pip install "hfembed[map]", or choose t-sne')


def project(embeddings: np.ndarray, method: ProjectionMethod = "t-sne", seed: int = 0) -> np.ndarray:
    """Project embeddings to the plane.

    Args:
        embeddings: (N, D) float, N at least 4.
        method: "t-sne" (van der Maaten, Hinton 2008), "umap" (McInnes et al. 2018; needs umap-learn), or "pca".

    Returns:
        (N, 2) float.

    Raises:
        InputError: Too few embeddings, an unknown method, or umap-learn is not installed.
    """
    if len(embeddings) < 4:
        raise InputError(f"a projection needs at least 4 embeddings, got {len(embeddings)}")
    if method == "pca":
        return PCA(2, random_state=seed).fit_transform(embeddings)
    if method == "t-sne":
        perplexity = min(30, (len(embeddings) - 1) / 3)
        return TSNE(2, perplexity=perplexity, metric="cosine", random_state=seed).fit_transform(embeddings)
    if method == "umap":
        check_method(method)
        from umap import UMAP

        neighbors = min(15, len(embeddings) - 1)
        # a spectral start needs more points than it finds neighbors
        start = "spectral" if len(embeddings) > 15 else "random"
        return UMAP(n_neighbors=neighbors, metric="cosine", init=start, random_state=seed).fit_transform(embeddings)
    raise InputError(f"unknown method {method!r}; expected t-sne, umap or pca")


def plot_projection(positions: np.ndarray, pictures: np.ndarray, groups: np.ndarray, path: str | Path) -> None:
    """Draw pictures at their positions, framed in their group's color, with a name over each of the largest groups.

    Args:
        positions: (N, 2) float.
        pictures: (N, H, W, C) uint8.
        groups: (N,) int; groups of one have a gray frame.

    Raises:
        OSError: The file cannot be written.
    """
    figure = Figure(figsize=(14, 14))
    axes = figure.add_axes((0.03, 0.03, 0.94, 0.94))
    axes.set_axis_off()
    axes.scatter(positions[:, 0], positions[:, 1], s=0)  # sets the limits
    height = 14 * 72 / max(14.0, 1.6 * len(positions) ** 0.5)  # of a picture, in points
    sizes = np.bincount(groups)
    for position, picture, group in zip(positions, pictures, groups, strict=True):
        color = "#bbbbbb" if sizes[group] == 1 else f"C{group % 10}"
        image = OffsetImage(picture.squeeze(), zoom=height / picture.shape[0], cmap="gray")
        frame = {"edgecolor": color, "linewidth": 2, "boxstyle": "square,pad=0"}
        axes.add_artist(AnnotationBbox(image, tuple(position), pad=0, bboxprops=frame))
    for group in sizes.argsort(kind="stable")[::-1][:_NAMED]:
        if sizes[group] > 1:
            own = positions[groups == group]
            axes.annotate(
                f"group_{group + 1:03d}",
                own[own[:, 1].argmax()],
                xytext=(0, height / 2 + 4),
                textcoords="offset points",
                ha="center",
                color=f"C{group % 10}",
                weight="bold",
            )
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=100)
