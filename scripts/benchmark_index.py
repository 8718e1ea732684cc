"""Exact nearest neighbors among a million embeddings: EmbeddingIndex against faiss Flat and numpy.

python scripts/benchmark_index.py --output benchmark_index.json

The embeddings are generated, clustered as those of a face embedder are: people with ten photos each, good photos and
bad ones, a falling spectrum. The queries are further photos of the same people, so that there is a right answer:
recall@1 is the fraction of queries whose nearest vector is their person's. The variants take turns, round by round;
the fastest round counts, for other work on the machine only ever slows. faiss: pip install "hfembed[index]".
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from hfembed import EmbeddingIndex
from hfembed.atomic import atomic_write
from hfembed.errors import InputError, exit_on_input_error

Search = Callable[[np.ndarray], np.ndarray]  # queries (Q, D) -> rows (Q, k)


def clustered_embeddings(count: int, people: int, dimension: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors (count, D) float32 and the person of each, (count,): row i is a photo of person i % people.

    Person and photo both are drawn from a normal distribution whose standard deviations fall as 1 / sqrt(axis). The
    person's fraction of a photo, from 0.3 to 0.95, is its quality: two photos have the mean cosine
    sqrt(fraction * fraction).
    """
    generator = torch.Generator().manual_seed(seed)
    spectrum = torch.arange(1, dimension + 1).rsqrt()

    def directions(number: int) -> torch.Tensor:
        drawn = torch.randn(number, dimension, generator=generator) * spectrum
        return torch.nn.functional.normalize(drawn, out=drawn)

    centers = directions(people)
    vectors = torch.empty(count, dimension)
    person = torch.arange(count) % people
    for part, owners in zip(vectors.split(65_536), person.split(65_536), strict=True):
        fraction = 0.3 + 0.65 * torch.rand(len(part), 1, generator=generator)
        part.copy_(centers[owners] * fraction.sqrt() + directions(len(part)) * (1 - fraction).sqrt())
        torch.nn.functional.normalize(part, out=part)
    return vectors.numpy(), person.numpy()


def numpy_search(vectors: np.ndarray, k: int) -> Search:
    """One matrix product, then the k largest of each row."""

    def search(queries: np.ndarray) -> np.ndarray:
        scores = queries @ vectors.T
        rows = np.argpartition(scores, -k, axis=1)[:, -k:]
        order = np.take_along_axis(scores, rows, 1).argsort(axis=1)[:, ::-1]
        return np.take_along_axis(rows, order, 1)

    return search


def faiss_search(vectors: np.ndarray, k: int, threads: int) -> Search:
    """IndexFlatIP of faiss."""
    try:
        import faiss
    except ImportError:
        raise InputError(
            'faiss is not installed: pip install "hfembed[index]", or leave it out (--without-faiss)'
        ) from None
    faiss.omp_set_num_threads(threads)
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    return lambda queries: index.search(queries, k)[1]


def our_search(index: EmbeddingIndex, k: int) -> Search:
    """EmbeddingIndex.nearest."""
    return lambda queries: index.nearest(queries, k)[1]


@exit_on_input_error
def main() -> None:
    """Fill the indexes, let them take turns, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", type=int, default=1_000_000)
    parser.add_argument("--people", type=int, default=100_000)
    parser.add_argument("--dimension", type=int, default=512)
    parser.add_argument("--top-k", type=int, default=10)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16, 256], help="queries at a time")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--recall-queries", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--without-faiss", action="store_true")
    parser.add_argument("--output", type=Path, help="JSON file")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    threadpool_limits(arguments.threads)

    count, asked = arguments.vectors, max(arguments.recall_queries, *arguments.batches)
    vectors, person = clustered_embeddings(count + asked, arguments.people, arguments.dimension)
    queries, query_person = vectors[count:], person[count:]
    vectors, person = vectors[:count], person[:count]

    searches = {"numpy": numpy_search(vectors, arguments.top_k)}
    sizes = {"numpy": vectors.nbytes}
    if not arguments.without_faiss:
        searches["faiss Flat"] = faiss_search(vectors, arguments.top_k, arguments.threads)
        sizes["faiss Flat"] = vectors.nbytes
    for precision in ("float32", "float16", "int8"):
        index = EmbeddingIndex(precision)
        for start in range(0, count, 65_536):
            part = vectors[start : start + 65_536]
            index.add(part, ["x"] * len(part))
        searches[f"EmbeddingIndex {precision}"] = our_search(index, arguments.top_k)
        sizes[f"EmbeddingIndex {precision}"] = index.nbytes

    seconds: dict[str, dict[int, list[float]]] = {name: {size: [] for size in arguments.batches} for name in searches}
    for _ in range(arguments.rounds):
        for size in arguments.batches:
            for name, search in searches.items():
                for repeat in range(5 if size == 1 else 1):
                    batch = queries[repeat : repeat + size]
                    begun = time.perf_counter()
                    search(batch)
                    seconds[name][size].append(time.perf_counter() - begun)

    results = {}
    asked_rows = {
        name: np.concatenate([search(part) for part in np.array_split(queries[: arguments.recall_queries], 4)])
        for name, search in searches.items()
    }
    exact = asked_rows["EmbeddingIndex float32"]
    for name, found in asked_rows.items():
        results[name] = {
            "megabytes": sizes[name] / 1e6,
            **{f"ms_for_{size}": 1e3 * min(times) for size, times in seconds[name].items()},
            **{f"median_ms_for_{size}": 1e3 * float(np.median(times)) for size, times in seconds[name].items()},
            "recall_at_1": 100 * float((person[found[:, 0]] == query_person[: len(found)]).mean()),
            "same_first_as_float32": 100 * float((found[:, 0] == exact[:, 0]).mean()),
        }
    columns = ["MB", *(f"ms for {size}" for size in arguments.batches), "recall@1", "same first"]
    print(f"| {count:,} x {arguments.dimension} | " + " | ".join(columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for name, row in results.items():
        times = " | ".join(f"{row[f'ms_for_{size}']:.0f}" for size in arguments.batches)
        recalls = f"{row['recall_at_1']:.2f} | {row['same_first_as_float32']:.2f}"
        print(f"| {name} | {row['megabytes']:.0f} | {times} | {recalls} |")
    if arguments.output:
        settings = {name: value for name, value in vars(arguments).items() if name != "output"}
        with atomic_write(arguments.output) as temporary:
            temporary.write_text(json.dumps({"results": results, "settings": settings}, indent=2) + "\n")


if __name__ == "__main__":
    main()
