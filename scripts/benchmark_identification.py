"""What identification costs: MegaFace's challenge 1 with a million distractors, streamed; and how well grouping does.

python scripts/benchmark_identification.py --output benchmark_identification.json
python scripts/benchmark_identification.py --distractors 0 --index outputs/lfw_index

The distractors are generated unit vectors, block by block: uniform on the sphere, they distract nobody, so the rank-1
rate says nothing about a model. What is measured is time and memory. With `--index`, an EmbeddingIndex of photos of
known people, a thousand of them are grouped without their names and the groups compared with the people by B-cubed
precision and recall (Bagga, Baldwin 1998).
"""

import argparse
import json
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from hfembed import EmbeddingIndex
from hfembed.atomic import atomic_write
from hfembed.errors import exit_on_input_error
from hfembed.faces.clustering import group_embeddings
from hfembed.faces.evaluation.identification import megaface

BLOCK = 4096


def unit_vectors(count: int, dimension: int, seed: int) -> Iterator[np.ndarray]:
    """Blocks of unit vectors; block b is a function of (seed, b)."""
    for number, start in enumerate(range(0, count, BLOCK)):
        generator = np.random.default_rng((seed, number))
        block = generator.standard_normal((min(BLOCK, count - start), dimension), dtype=np.float32)
        yield block / np.linalg.norm(block, axis=1, keepdims=True)


def peak_megabytes() -> float:
    """Most memory this process ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def megaface_cost(distractors: int, people: int, photos: int, dimension: int) -> dict[str, float]:
    """Seconds and memory of challenge 1 with this many distractors."""
    [centers] = unit_vectors(people, dimension, seed=1)
    probes = np.repeat(centers, photos, axis=0)
    probes = probes + np.concatenate(list(unit_vectors(len(probes), dimension, seed=2)))
    names = [str(person) for person in np.repeat(np.arange(people), photos)]
    before = peak_megabytes()
    drawn = time.process_time()
    for _ in unit_vectors(distractors, dimension, seed=3):
        pass
    drawing = time.process_time() - drawn
    wall, cpu = time.perf_counter(), time.process_time()
    result = megaface(probes, names, unit_vectors(distractors, dimension, seed=3))
    return {
        "probes": len(probes),
        "searches": len(result.person),
        "distractors": result.distractors,
        "seconds": time.perf_counter() - wall,
        "cpu_seconds": time.process_time() - cpu,
        "cpu_seconds_of_that_for_drawing": drawing,
        "more_megabytes_at_the_peak": peak_megabytes() - before,
        "megabytes_of_all_distractors": distractors * dimension * 4 / 1e6,
    }


def grouping_quality(folder: str, threshold: float, people: int, seed: int = 0) -> dict[str, float]:
    """B-cubed precision, recall and F of the groups of this many people's photos, in percent."""
    index = EmbeddingIndex.load(folder)
    chosen = np.random.default_rng(seed).permutation(index.names)[:people]
    labels = np.array(index.labels)
    rows = np.isin(labels, chosen)
    begun = time.process_time()
    groups = group_embeddings(index.vectors().numpy()[rows], threshold)
    seconds = time.process_time() - begun
    _, person = np.unique(labels[rows], return_inverse=True)
    together = np.zeros((person.max() + 1, groups.max() + 1))
    np.add.at(together, (person, groups), 1)
    precision = (together**2 / together.sum(0)).sum() / len(person)
    recall = (together**2 / together.sum(1, keepdims=True)).sum() / len(person)
    return {
        "photos": len(person),
        "people": len(chosen),
        "groups": int(groups.max()) + 1,
        "threshold": threshold,
        "precision": 100 * precision,
        "recall": 100 * recall,
        "f": 200 * precision * recall / (precision + recall),
        "cpu_seconds": seconds,
    }


@exit_on_input_error
def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--distractors", type=int, default=1_000_000, help="0 leaves MegaFace out")
    parser.add_argument("--people", type=int, default=80, help="who are searched for")
    parser.add_argument("--photos", type=int, default=5, help="of each of them")
    parser.add_argument("--dimension", type=int, default=512)
    parser.add_argument("--index", help="EmbeddingIndex of known people, to group; left out without it")
    parser.add_argument("--group-people", type=int, default=1000)
    parser.add_argument("--threshold", type=float, default=0.452, help="mean cosine that joins groups")
    parser.add_argument("--output", type=Path, help="JSON file")
    arguments = parser.parse_args()
    results = {}
    if arguments.distractors:
        results["megaface"] = megaface_cost(
            arguments.distractors, arguments.people, arguments.photos, arguments.dimension
        )
    if arguments.index:
        results["grouping"] = grouping_quality(arguments.index, arguments.threshold, arguments.group_people)
    for name, row in results.items():
        print(f"{name}: " + ", ".join(f"{figure} {value:.4g}" for figure, value in row.items()))
    if arguments.output:
        with atomic_write(arguments.output) as temporary:
            temporary.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
