"""Average linkage of unit vectors without a matrix of all distances.

Of unit vectors the mean cosine of all pairs between two groups is the product of the groups' means, and groups whose
mean cosine reaches a threshold have at least one pair that does. So only groups that such a pair connects are
compared, by their means: the groups are those of the full matrix, in memory for the vectors and those pairs.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np
from scipy import sparse

from hfembed.errors import InputError
from hfembed.index.approximate import import_faiss

EXACT = 200_000  # from here on, pairs are sought among each vector's nearest alone
MOST_PAIRS = 100_000_000
_NEAREST = 64
_ROWS, _COLUMNS = 2048, 8192  # of the matrix of cosines, at a time
_ROUNDING = 1e-6


def average_linkage(
    vectors: np.ndarray, threshold: float, apart: Sequence[Sequence[int]] = (), pairs: sparse.csr_array | None = None
) -> np.ndarray:
    """Join groups while the largest mean cosine of two is at least a threshold (UPGMA; Sokal, Michener 1958).

    By chains of nearest neighbors, which join what joining the nearest two again and again joins (Murtagh: "A survey
    of recent advances in hierarchical clustering algorithms", 1983).

    Args:
        vectors: (N, D) float, unit length.
        apart: Rows that no group may hold two of.
        pairs: (N, N), symmetric: which rows may be compared; None finds all pairs that reach the threshold.

    Returns:
        (N,) int64: the first row of each row's group.

    Raises:
        InputError: The threshold joins more than 100,000,000 pairs.
    """
    graph = similar_pairs(vectors, threshold) if pairs is None else pairs
    sums = np.array(vectors, dtype=np.float64 if vectors.size < 10_000_000 else np.float32)
    sizes = np.ones(len(vectors))
    root = np.arange(len(vectors))
    neighbors: list[np.ndarray] = np.split(graph.indices, graph.indptr[1:-1])
    enemies: dict[int, set[int]] = {}
    for rows in apart:
        for a, b in combinations(rows, 2):
            enemies.setdefault(a, set()).add(b)
            enemies.setdefault(b, set()).add(a)
    is_done = np.zeros(len(vectors), dtype=bool)

    def roots(rows: np.ndarray) -> np.ndarray:
        while not np.array_equal(above := root[rows], rows):
            rows = above
        return rows

    def similarity(group: int, others: np.ndarray) -> np.ndarray:
        return sums[others] @ sums[group] / (sizes[others] * sizes[group])

    def nearest(group: int) -> tuple[int, float]:
        candidates = np.unique(roots(neighbors[group]))
        candidates = candidates[(candidates != group) & ~is_done[candidates]]
        if group in enemies:
            foes = roots(np.fromiter(enemies[group], dtype=np.int64))
            candidates = candidates[~np.isin(candidates, foes)]
        neighbors[group] = candidates
        if not len(candidates):
            return group, -np.inf
        similarities = similarity(group, candidates)
        best = int(similarities.argmax())
        return int(candidates[best]), float(similarities[best])

    for first in range(len(vectors)):
        while not is_done[root[first]] and root[first] == first:
            chain = [first]
            while chain:
                group = chain[-1]
                other, best = nearest(group)
                if best < threshold - _ROUNDING:
                    is_done[group] = True  # joining others brings nobody nearer to it
                    chain.pop()
                elif len(chain) > 1 and similarity(group, np.array(chain[-2:-1]))[0] >= best - _ROUNDING:
                    chain, kept, gone = chain[:-2], *sorted((group, chain[-2]))
                    root[gone] = kept
                    sums[kept] += sums[gone]
                    sizes[kept] += sizes[gone]
                    neighbors[kept] = np.concatenate([neighbors[kept], neighbors[gone]])
                    neighbors[gone] = neighbors[gone][:0]
                    if foes := enemies.pop(gone, None):
                        enemies[kept] = enemies.get(kept, set()) | foes
                else:
                    chain.append(other)
    return roots(root)


def similar_pairs(vectors: np.ndarray, threshold: float) -> sparse.csr_array:
    """Which pairs of rows have a cosine of at least a threshold.

    Args:
        vectors: (N, D) float, unit length. Up to 200,000 are all compared; of more, each with its 64 nearest as faiss
            finds them.

    Returns:
        (N, N) bool, symmetric, the diagonal empty.

    Raises:
        InputError: There are more than 100,000,000 such pairs, or faiss is needed and not installed.
    """
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    found, count = [], 0
    for rows, columns in (_all_pairs if len(vectors) <= EXACT else _nearest_pairs)(vectors, threshold - 1e-5):
        found.append(np.stack([rows, columns]).astype(np.int32))
        count += len(rows)
        if count > MOST_PAIRS:
            raise InputError(
                f"more than {MOST_PAIRS:,} pairs of {len(vectors):,} faces reach a cosine of {threshold:g}: "
                "take a higher threshold"
            )
    rows, columns = np.concatenate(found, axis=1)
    one_way = sparse.coo_array((np.ones(len(rows), dtype=bool), (rows, columns)), (len(vectors), len(vectors))).tocsr()
    return (one_way + one_way.T).tocsr()


def _all_pairs(vectors: np.ndarray, threshold: float) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for row in range(0, len(vectors), _ROWS):
        for column in range(row, len(vectors), _COLUMNS):
            cosines = vectors[row : row + _ROWS] @ vectors[column : column + _COLUMNS].T
            rows, columns = np.nonzero(cosines >= threshold)
            later = columns + column > rows + row
            yield rows[later] + row, columns[later] + column


def _nearest_pairs(vectors: np.ndarray, threshold: float) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    faiss = import_faiss(
        f"{len(vectors):,} faces are more than the {EXACT:,} that are all compared, and faiss, which finds the "
        "nearest of each, is not installed"
    )
    lists = round(4 * len(vectors) ** 0.5)
    index = faiss.index_factory(vectors.shape[1], f"IVF{lists},Flat", faiss.METRIC_INNER_PRODUCT)
    faiss.ParameterSpace().set_index_parameter(index, "nprobe", 32)
    index.train(vectors[:: max(1, len(vectors) // (64 * lists))])
    index.add(vectors)
    for row in range(0, len(vectors), _COLUMNS):
        cosines, columns = index.search(vectors[row : row + _COLUMNS], _NEAREST + 1)
        rows = np.arange(row, row + len(cosines))[:, None].repeat(_NEAREST + 1, 1)
        is_pair = (cosines >= threshold) & (columns >= 0) & (columns != rows)
        yield rows[is_pair], columns[is_pair]
