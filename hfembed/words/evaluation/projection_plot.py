"""Projection plots of word vectors, and files for TensorBoard's projector."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from hfembed.atomic import atomic_folder, atomic_write
from hfembed.errors import InputError

_COLORS = ("#1f5fa8", "#b8341b", "#2e7d4f", "#8a5fb0", "#c98a1b", "#3c8d93", "#a84b7a", "#5f5f5f")


def project(vectors: np.ndarray, method: str = "pca", seed: int = 0) -> np.ndarray:
    """Project the directions of vectors, (words, dimensions), onto a plane, (words, 2), by "pca" or "t-sne".

    Raises:
        InputError: Fewer than three words, or an unknown method.
    """
    if len(vectors) < 3:
        raise InputError(f"a projection needs three words or more, not {len(vectors)}")
    units = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    if method == "pca":
        return PCA(n_components=2, random_state=seed).fit_transform(units)
    if method != "t-sne":
        raise InputError(f"method must be 'pca' or 't-sne', not {method!r}")
    perplexity = min(30.0, (len(vectors) - 1) / 3)
    return TSNE(n_components=2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(units)


def plot_words(
    words: Sequence[str],
    vectors: np.ndarray,
    path: str | Path,
    method: str = "pca",
    pairs: Sequence[tuple[str, str]] = (),
    groups: Sequence[int] | None = None,
    title: str = "",
) -> None:
    """Plot a projection of words; pairs (such as country and capital) are joined by a line.

    Args:
        words: The words.
        vectors: float of shape (words, dimensions).
        path: The picture to write; its suffix is the format.
        method: "pca" or "t-sne".
        pairs: Words to join.
        groups: One number per word; words of a group share a color.
        title: The title.

    Raises:
        InputError: Fewer than three words.
        OSError: The file cannot be written.
    """
    points = project(vectors, method)
    figure = Figure(figsize=(9, 7), layout="constrained")
    axes = figure.subplots()
    colors = [_COLORS[group % len(_COLORS)] for group in (groups if groups is not None else [0] * len(words))]
    row = {word: number for number, word in enumerate(words)}
    for first, second in pairs:
        ends = points[[row[first], row[second]]]
        axes.plot(ends[:, 0], ends[:, 1], color="#bbbbbb", linewidth=1, zorder=1)
    axes.scatter(points[:, 0], points[:, 1], s=14, c=colors, zorder=2)
    for word, point, color in zip(words, points, colors, strict=True):
        axes.annotate(
            word, point, xytext=(4, 3), textcoords="offset points", fontsize=9, color=color, parse_math=False
        )
    axes.set(xticks=[], yticks=[], title=title or f"{len(words)} words, {method}")
    axes.spines[["top", "right", "left", "bottom"]].set_color("#dddddd")
    axes.margins(0.1)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=130)


def write_projector(
    words: Sequence[str], vectors: np.ndarray, folder: str | Path, counts: np.ndarray | None = None
) -> None:
    """Write a folder that `tensorboard --logdir FOLDER` shows in its projector.

    Args:
        words: The words; line breaks and tabs in them become spaces.
        vectors: float of shape (words, dimensions).
        folder: The folder to make; an earlier one is replaced.
        counts: int of shape (words,), shown beside the words.

    Raises:
        OSError: The folder cannot be written.
    """
    names = [" ".join(word.split()) for word in words]
    with atomic_folder(folder) as unfinished:
        np.savetxt(unfinished / "vectors.tsv", vectors, fmt="%.6g", delimiter="\t")
        with (unfinished / "words.tsv").open("w", encoding="utf-8") as file:
            if counts is None:  # a single column has no header
                file.writelines(f"{name}\n" for name in names)
            else:
                file.write("word\tcount\n")
                file.writelines(f"{name}\t{count}\n" for name, count in zip(names, counts.tolist(), strict=True))
        (unfinished / "projector_config.pbtxt").write_text(
            'embeddings {\n  tensor_name: "words"\n  tensor_path: "vectors.tsv"\n  metadata_path: "words.tsv"\n}\n'
        )
