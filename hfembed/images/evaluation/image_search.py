"""Similar-image search: how often the nearest other photo shows the same person."""

from collections.abc import Sequence

import numpy as np
import torch

from hfembed.errors import InputError
from hfembed.index.embedding_index import EmbeddingIndex


def same_person_at_1(embeddings: torch.Tensor | np.ndarray, people: Sequence[str]) -> float:
    """Leave-one-out: every photo of somebody with at least two is searched among all the others.

    Args:
        embeddings: (N, D), compared by cosine.
        people: N names.

    Returns:
        Percent of these photos whose nearest other photo shows the same person.

    Raises:
        InputError: Nobody has two photos.
    """
    _, number, counts = np.unique(np.asarray(people), return_inverse=True, return_counts=True)
    queries = np.flatnonzero(counts[number] > 1)
    if not len(queries):
        raise InputError("nobody has two photos: there is nobody to find again")
    index = EmbeddingIndex()
    index.add(embeddings, list(people))
    embeddings = torch.as_tensor(np.asarray(embeddings))
    _, rows = index.nearest(embeddings[torch.from_numpy(queries)], top_k=2)
    # a photo is its own nearest, unless a duplicate comes first
    others = np.where(rows[:, 0] == queries, rows[:, 1], rows[:, 0])
    return float(100 * (number[others] == number[queries]).mean())
