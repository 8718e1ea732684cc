"""What a gallery of very many people costs beside finding and embedding the faces: listing, checking, indexing.

python scripts/benchmark_gallery.py --people 100000 --photos 2 --output benchmark_gallery.json

The folders are made here, a directory per person, and `read_gallery` reads them with an analyzer that costs nothing:
each photo has one face with an embedding drawn at random. Memory is the peak of the process beyond its imports.
"""

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hfembed.atomic import atomic_write
from hfembed.errors import exit_on_input_error
from hfembed.faces.face_analyzer import AnalyzedPhoto, Face
from hfembed.faces.photo_folders import read_gallery
from hfembed.faces.quality import FaceQuality
from hfembed.index.origin import Origin


class FreeAnalyzer:
    """Stands in for a `FaceAnalyzer`; every photo has a face."""

    origin = Origin()

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension

    def stream(self, photos: Sequence[Path], *_: Any, **__: Any) -> Iterator[AnalyzedPhoto]:
        """A face per photo, its embedding drawn at random."""
        generator = np.random.default_rng(0)
        quality = FaceQuality(*(1.0 for _ in FaceQuality._fields))
        for photo in photos:
            embedding = generator.standard_normal(self.dimension, dtype=np.float32)
            embedding /= np.linalg.norm(embedding)
            yield AnalyzedPhoto(str(photo), [Face(np.zeros(4), np.zeros((5, 2)), quality, embedding)])


def make_folders(folder: Path, people: int, photos: int) -> None:
    """A directory per person; nobody opens the photos."""
    for person in range(people):
        directory = folder / "people" / f"person {person:07}"
        directory.mkdir(parents=True)
        for number in range(photos):
            (directory / f"{number}.jpg").write_bytes(b"\xff\xd8\xff\xd9")


@exit_on_input_error
def main() -> None:
    """Make, read, save; print and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=100_000)
    parser.add_argument("--photos", type=int, default=2, help="of each")
    parser.add_argument("--dimension", type=int, default=512)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    imports = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    with tempfile.TemporaryDirectory() as temporary:
        make_folders(Path(temporary), arguments.people, arguments.photos)
        began, cpu = time.perf_counter(), time.process_time()
        analyzer: Any = FreeAnalyzer(arguments.dimension)
        index, summary = read_gallery(analyzer, Path(temporary) / "people", show_progress_bar=False)
        read = {"read_seconds": time.perf_counter() - began, "read_cpu_seconds": time.process_time() - cpu}
        began = time.perf_counter()
        index.save_pretrained(Path(temporary) / "index")
        saved = time.perf_counter() - began
    assert len(index) == summary.faces == arguments.people * arguments.photos
    results = {
        "people": arguments.people,
        "photos": summary.photos,
        **{name: round(value, 1) for name, value in read.items()},
        "save_seconds": round(saved, 1),
        "peak_mb_beyond_imports": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - imports),
    }
    print(json.dumps(results, indent=1))  # noqa: T201
    if arguments.output:
        with atomic_write(arguments.output) as file:
            file.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
