"""Grouping many faces: seconds, memory, and how well the groups are the people.

python scripts/benchmark_grouping.py --faces 200000 --output benchmark_grouping.json

The embeddings are those of benchmark_index.py: generated people with ten photos each, good ones and bad ones. The
groups of a part are compared with those of scipy's average linkage on all its pairs.
"""

import argparse
import json
import resource
import time
from pathlib import Path

import numpy as np
from benchmark_index import clustered_embeddings
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import pdist

from hfembed.atomic import atomic_write
from hfembed.errors import exit_on_input_error
from hfembed.faces.clustering import group_embeddings


def pairwise_f1(groups: np.ndarray, truth: np.ndarray) -> float:
    """F1 of "these two are one person" over all pairs; groups and truth are (N,) int."""

    def pairs(labels: np.ndarray) -> float:
        counts = np.unique(labels, return_counts=True)[1].astype(np.float64)
        return float((counts * (counts - 1) / 2).sum())

    both = pairs(groups.astype(np.int64) * (int(truth.max()) + 1) + truth)
    return 2 * both / (pairs(groups) + pairs(truth))


def peak_bytes() -> int:
    """The most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@exit_on_input_error
def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faces", type=int, default=200_000)
    parser.add_argument("--photos-of-each", type=int, default=10)
    parser.add_argument("--dimension", type=int, default=128)
    parser.add_argument("--part", type=int, default=10_000, help="faces that scipy groups too")
    parser.add_argument("--far", type=float, default=1e-3, help="the threshold is that of this false accept rate")
    parser.add_argument("--output", type=Path, default=Path("benchmark_grouping.json"))
    options = parser.parse_args()
    people = options.faces // options.photos_of_each
    vectors, truth = clustered_embeddings(options.faces, people, options.dimension)
    a, b = np.random.default_rng(0).integers(0, len(vectors), (2, 1_000_000))
    cosines = np.einsum("nd,nd->n", vectors[a], vectors[b])[truth[a] != truth[b]]
    threshold = float(np.quantile(cosines, 1 - options.far))

    part = np.flatnonzero(truth < options.part // options.photos_of_each)
    ours = group_embeddings(vectors[part], threshold)
    theirs = fcluster(linkage(pdist(vectors[part], "cosine"), "average"), 1 - threshold, "distance")
    row = {
        "threshold": threshold,
        "part": len(part),
        "part_f1": pairwise_f1(ours, truth[part]),
        "part_f1_of_scipy": pairwise_f1(theirs, truth[part]),
        "part_f1_between_the_two": pairwise_f1(ours, theirs),
    }
    before, start = peak_bytes(), time.perf_counter()
    groups = group_embeddings(vectors, threshold)
    row |= {
        "faces": len(vectors),
        "people": people,
        "groups": int(groups.max()) + 1,
        "seconds": time.perf_counter() - start,
        "peak_gib": peak_bytes() / 2**30,
        "peak_gib_before": before / 2**30,
        "f1": pairwise_f1(groups, truth),
    }
    print(json.dumps(row, indent=2))
    with atomic_write(options.output) as temporary:
        temporary.write_text(json.dumps(row, indent=2) + "\n")


if __name__ == "__main__":
    main()
