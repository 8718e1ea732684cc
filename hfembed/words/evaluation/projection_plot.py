"""Pictures of word vectors: a 2-D map of chosen words, and the files of TensorBoard's projector."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from hfembed.atomic import atomic_folder, atomic_write
from hfembed.errors import InputError

_COLOURS = ("#1f5fa8", "#b8341b", "#2e7d4f", "#8a5fb0", "#c98a1b", "#3c8d93", "#a84b7a", "#5f5f5f")


def project(vectors: np.ndarray, method: str = "pca", seed: int = 0) -> np.ndarray:
    """Lay vectors out in a plane.

    Args:
        vectors: float of shape (words, dimensions); their directions count, not their lengths.
        method: "pca" or "t-sne".
        seed: For t-SNE.

    Returns:
        float of shape (words, 2).

    Raises:
        InputError: Fewer than three words, or a method that does not exist.
    """
    if len(vectors) < 3:
        raise InputError(f"a map needs three words or more, not {len(vectors)}")
    units = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    if method == "pca":
        return PCA(n_components=2, random_state=seed).fit_transform(units)
    if method != "t-sne":
        raise InputError(f"a map is made by 'pca' or 't-sne', not {method!r}")
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
    """Draw a map of words; pairs (country and capital, say) are joined by a line.

    Args:
        words: The words.
        vectors: float of shape (words, dimensions).
        path: The picture file to write; its suffix chooses the format.
        method: "pca" or "t-sne".
        pairs: Words to join.
        groups: A number a word; words of a group share a colour.
        title: Stands above.

    Raises:
        InputError: Fewer than three words.
        OSError: The file cannot be written.
    """
    places = project(vectors, method)
    figure = Figure(figsize=(9, 7), layout="constrained")
    axes = figure.subplots()
    colours = [_COLOURS[group % len(_COLOURS)] for group in (groups if groups is not None else [0] * len(words))]
    row = {word: number for number, word in enumerate(words)}
    for first, second in pairs:
        ends = places[[row[first], row[second]]]
        axes.plot(ends[:, 0], ends[:, 1], color="#bbbbbb", linewidth=1, zorder=1)
    axes.scatter(places[:, 0], places[:, 1], s=14, c=colours, zorder=2)
    for word, place, colour in zip(words, places, colours, strict=True):
        axes.annotate(
            word, place, xytext=(4, 3), textcoords="offset points", fontsize=9, color=colour, parse_math=False
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
        words: The words; a line break or tab in one becomes a blank.
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
            if counts is None:  # a single column has no heading
                file.writelines(f"{name}\n" for name in names)
            else:
                file.write("word\tcount\n")
                file.writelines(f"{name}\t{count}\n" for name, count in zip(names, counts.tolist(), strict=True))
        (unfinished / "projector_config.pbtxt").write_text(
            'embeddings {\n  tensor_name: "words"\n  tensor_path: "vectors.tsv"\n  metadata_path: "words.tsv"\n}\n'
        )
