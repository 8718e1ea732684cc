"""Templates at IJB-C's size: figures against plain loops, seconds and memory of reading and comparing.

python scripts/benchmark_templates.py --output benchmark_templates.json

A set is generated: faces in media in templates of people, with embeddings. A million comparisons are computed again
one by one; then as many as IJB-C has, 15,658,489, are read from a file and measured, in a process of its own.
"""

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from hfembed.atomic import atomic_write
from hfembed.errors import exit_on_input_error
from hfembed.faces.evaluation.templates import evaluate_templates, read_template_set
from hfembed.index.error_rates import rate_label

_POINTS = "38.3 51.7 73.5 51.5 56.0 71.7 41.5 92.4 70.7 92.2"


def write_set(folder: Path, templates: int, pairs: int, dimension: int) -> tuple[np.ndarray, np.ndarray]:
    """Write the lists; embeddings (F, D) and norms (F,) of the faces: two media of two faces per template."""
    generator = np.random.default_rng(0)
    (folder / "meta").mkdir(parents=True)
    of_face = np.repeat(np.arange(templates), 4)
    people = np.arange(templates) // 6
    with (folder / "meta" / "ijbc_face_tid_mid.txt").open("w") as file:
        file.writelines(f"{row}.jpg {of_face[row]} {row // 2}\n" for row in range(len(of_face)))
    with (folder / "meta" / "ijbc_name_5pts_score.txt").open("w") as file:
        file.writelines(f"{row}.jpg {_POINTS} 0.{row % 89 + 10}\n" for row in range(len(of_face)))
    a = generator.integers(0, templates, pairs)
    genuine = np.arange(pairs) < pairs // 800  # about IJB-C's share
    b = np.where(genuine, a // 6 * 6 + generator.integers(0, 6, pairs), generator.integers(0, templates, pairs))
    b = np.minimum(b, templates - 1)
    np.savetxt(folder / "meta" / "ijbc_template_pair_label.txt", np.stack([a, b, people[a] == people[b]], 1), fmt="%d")
    centers = generator.standard_normal((people.max() + 1, dimension), dtype=np.float32)
    embeddings = centers[people[of_face]] + 3 * generator.standard_normal((len(of_face), dimension), dtype=np.float32)
    norms = np.linalg.norm(embeddings, axis=1)
    return embeddings / norms[:, None], norms


def one_by_one(folder: Path, embeddings: np.ndarray) -> dict[float, float]:
    """TAR at FAR of 0.01 and 0.001 in percent, by loops over templates and pairs in float64."""
    tested = read_template_set(folder)
    vectors = []
    for template in range(tested.templates.max() + 1):
        media = [embeddings[4 * template + 2 * side : 4 * template + 2 * side + 2].mean(0) for side in (0, 1)]
        total = (media[0] + media[1]).astype(np.float64)
        vectors.append(total / np.sqrt(total @ total))
    scores = np.array([vectors[a] @ vectors[b] for a, b in tested.pairs.tolist()])
    impostors = np.sort(scores[~tested.same])[::-1]
    return {
        far: 100 * float((scores[tested.same] > impostors[int(far * len(impostors))]).mean()) for far in (1e-2, 1e-3)
    }


def measure(folder: Path) -> dict[str, float]:
    """Read and compare all pairs of a written set."""
    with np.load(folder / "faces.npz") as faces:
        embeddings, norms = faces["embeddings"], faces["norms"]
    before, begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    tested = read_template_set(folder)
    read, cpu = time.perf_counter(), time.process_time()
    metrics, _, _ = evaluate_templates(tested, embeddings, norms)
    return {
        "comparisons": len(tested.pairs),
        "read_seconds": read - begun,
        "compare_seconds": time.perf_counter() - read,
        "compare_cpu_seconds": time.process_time() - cpu,
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "peak_gib_before": before / 2**20,
        "tar_at_far_1e-5": metrics["ijbc_tar_at_far_1e-5"],
    }


@exit_on_input_error
def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("benchmark_templates.json"))
    options = parser.parse_args()
    row: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as temporary:
        small, large = Path(temporary) / "small", Path(temporary) / "large"
        embeddings, norms = write_set(small, 3000, 1_000_000, 128)
        metrics, _, _ = evaluate_templates(read_template_set(small), embeddings, norms)
        for far, expected in one_by_one(small, embeddings).items():
            row |= {
                f"tar_at_far_{far:g}": metrics[f"ijbc_tar_at_far_{rate_label(far)}"],
                f"one_by_one_{far:g}": expected,
            }
        embeddings, norms = write_set(large, 23_124, 15_658_489, 512)
        np.savez(large / "faces.npz", embeddings=embeddings, norms=norms)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            row |= pool.apply(measure, (large,))
    print(json.dumps(row, indent=2))
    with atomic_write(options.output) as written:
        written.write_text(json.dumps(row, indent=2) + "\n")


if __name__ == "__main__":
    main()
