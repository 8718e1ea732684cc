"""An index of millions: memory and time to fill, save, open, remove; approximate search beside the exact one.

python scripts/benchmark_large_index.py --vectors 5000000 --output benchmark_large_index.json

Each step is a process of its own, so that its peak memory is its own; what the imports take is taken off. The
embeddings are those of benchmark_index.py, made part by part.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hfembed import EmbeddingIndex
from hfembed.atomic import atomic_write
from hfembed.errors import exit_on_input_error

_PART = 65_536
_PHOTOS_OF_EACH = 10


def _memory(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"the system tells no {name}")


def embeddings(count: int, dimension: int) -> Iterator[tuple[np.ndarray, list[str]]]:
    """Parts of (n, D) float32 and their labels; a person's photos stand `people` rows apart, as in a real gallery."""
    people = count // _PHOTOS_OF_EACH
    centers = torch.empty(people, dimension, dtype=torch.float16)
    spectrum = torch.arange(1, dimension + 1).rsqrt()
    generator = torch.Generator().manual_seed(0)
    for part in centers.split(_PART):
        part.copy_(_directions(len(part), spectrum, generator))
    for start in range(0, count, _PART):
        owners = torch.arange(start, min(start + _PART, count)) % people
        fraction = 0.3 + 0.65 * torch.rand(len(owners), 1, generator=generator)
        photos = centers[owners].float() * fraction.sqrt()
        photos += _directions(len(owners), spectrum, generator) * (1 - fraction).sqrt()
        yield photos.numpy(), [f"person {owner}" for owner in owners.tolist()]


def _directions(count: int, spectrum: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(count, len(spectrum), generator=generator) * spectrum)


def fill(folder: Path, count: int, dimension: int) -> dict[str, Any]:
    """Add all and save."""
    for _ in zip(embeddings(count, dimension), range(3), strict=False):
        pass  # what making them takes is not the index's
    before = _memory("VmHWM")
    index = EmbeddingIndex("int8")
    row = 0
    seconds = 0.0
    for vectors, labels in embeddings(count, dimension):
        files = [f"{label}/{row + number}.jpg" for number, label in enumerate(labels)]
        row += len(labels)
        begun = time.perf_counter()
        index.add(vectors, labels, files)
        seconds += time.perf_counter() - begun
    added, begun = _memory("VmHWM"), time.perf_counter()
    index.save_pretrained(folder)
    return {
        "add_seconds": seconds,
        "add_peak_beyond_imports": added - before,
        "save_seconds": time.perf_counter() - begun,
        "save_peak_beyond_imports": _memory("VmHWM") - before,
        "file_bytes": sum(path.stat().st_size for path in folder.iterdir()),
    }


def change(folder: Path, count: int, dimension: int) -> dict[str, Any]:
    """Open, remove, add one."""
    before, begun = _memory("VmHWM"), time.perf_counter()
    index = EmbeddingIndex.from_pretrained(folder)
    opened, begun_to_remove = time.perf_counter(), time.perf_counter()
    index.remove("person 77")
    removed = time.perf_counter()
    index.remove("person 78")
    again = time.perf_counter()
    vectors, labels = next(embeddings(10 * _PART, dimension))
    begun_to_add = time.perf_counter()
    index.add(vectors[:1], labels[:1])
    return {
        "open_seconds": opened - begun,
        "remove_seconds": removed - begun_to_remove,
        "remove_another_seconds": again - removed,
        "first_add_seconds": time.perf_counter() - begun_to_add,
        "change_peak_beyond_imports": _memory("VmHWM") - before,
    }


def approximate(folder: Path, count: int, dimension: int) -> dict[str, Any]:
    """Train, then search exactly and approximately in turn."""
    index, exactly = (EmbeddingIndex.from_pretrained(folder) for _ in range(2))
    people = count // _PHOTOS_OF_EACH
    queries = next(embeddings(count, dimension))[0][: min(500, people)]
    queries = torch.nn.functional.normalize(torch.from_numpy(queries))
    generator = torch.Generator().manual_seed(7)
    spectrum = torch.arange(1, dimension + 1).rsqrt()
    queries = 0.9 * queries + 0.44 * _directions(len(queries), spectrum, generator)
    exact = {size: [] for size in (1, 64)}  # type: dict[int, list[float]]
    quick = {size: [] for size in (1, 64)}  # type: dict[int, list[float]]
    expected = exactly.nearest(queries, 1)[1][:, 0]
    begun = time.perf_counter()
    index.build_approximate()
    row: dict[str, Any] = {"build_seconds": time.perf_counter() - begun}
    for round_ in range(5):
        for size in (1, 64):
            asked = queries[round_ * size : round_ * size + size]
            for searched, times in ((exactly, exact), (index, quick)):
                begun = time.perf_counter()
                searched.nearest(asked, 1)
                times[size].append(time.perf_counter() - begun)
    found = index.nearest(queries, 1)[1][:, 0]
    index.save_pretrained(folder)
    for size in (1, 64):
        row |= {f"exact_ms_for_{size}": 1e3 * min(exact[size]), f"approximate_ms_for_{size}": 1e3 * min(quick[size])}
        row[f"ratio_for_{size}"] = min(exact[size]) / min(quick[size])
    row["recall_at_1_of_exact"] = float((found == expected).mean())
    row["bytes_per_vector"] = (folder / "approximate.safetensors").stat().st_size / count
    return row


STEPS = {"fill": fill, "change": change, "approximate": approximate}


@exit_on_input_error
def main() -> None:
    """Run the steps, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", type=int, default=5_000_000)
    parser.add_argument("--dimension", type=int, default=128)
    parser.add_argument("--folder", type=Path, help="where the index is written; default: a temporary folder")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, default=Path("benchmark_large_index.json"))
    options = parser.parse_args()
    if options.step:
        print(json.dumps(STEPS[options.step](options.folder, options.vectors, options.dimension)))
        return
    row: dict[str, Any] = {"vectors": options.vectors, "dimension": options.dimension}
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary) / "index"
        size = ("--vectors", str(options.vectors), "--dimension", str(options.dimension))
        for step in STEPS:
            command = [sys.executable, __file__, "--step", step, "--folder", str(folder), *size]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            row |= json.loads(done.stdout.splitlines()[-1])
            print(json.dumps(row, indent=2), flush=True)
    with atomic_write(options.output) as written:
        written.write_text(json.dumps(row, indent=2) + "\n")


if __name__ == "__main__":
    main()
