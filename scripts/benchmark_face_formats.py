"""What reading large sets of faces costs: RecordIO, webdataset and Parquet, to the first step of training and beyond.

python scripts/benchmark_face_formats.py --folder outputs/formats --photos 200000 --people 20000
python scripts/benchmark_face_formats.py --folder outputs/formats --photos 1000000 --people 100000 --steps 1 \
    --formats rec webdataset parquet
python scripts/benchmark_face_formats.py --folder outputs/formats --photos 200000 --people 20000 --steps 2000 \
    --batch-size 32 --formats rec webdataset parquet --only-training --streaming

The photos are small JPEGs, 112 x 112, each with its number in a comment, so that no two are alike. The RecordIO file
is written here, by the description of the format alone. "raw" reads the same bytes at the same offsets by `os.pread`.
The first step is timed from the start of the process to the first line of the training log, imports included; memory
is the peak of the process (VmHWM, which counts pages of mapped files too) less what the imports took; with
--streaming also that of the processes that decode, sampled over the run (RssAnon).
"""

import argparse
import contextlib
import hashlib
import io
import itertools
import json
import os
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from hfembed.atomic import atomic_folder
from hfembed.errors import exit_on_input_error
from hfembed.faces.data.face_stream import FaceStream, ShardRing, StreamBatchSampler
from hfembed.faces.data.record_io import read_record_images
from hfembed.faces.data.shard_readers import open_shards
from hfembed.models.face_embedder.image_processing_face_embedder import FaceImageProcessor

MAGIC = 0xCED7230A
# runs the training and reports its own memory; "imports" are what any training would load
TRAINING = """
import json, sys, time
def peak():
    return next(int(line.split()[1]) / 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
import timm, accelerate
from hfembed.faces.training.train import main
imports = peak()
sys.argv = ["train", *sys.argv[1:]]
main(sys.argv[1:])
print("PEAK", json.dumps({"imports_mb": round(imports), "beyond_imports_mb": round(peak() - imports)}))
"""


def jpegs(count: int) -> Iterator[bytes]:
    """Different photos of about 3 kB."""
    generator = np.random.default_rng(0)
    bases = []
    for _ in range(64):
        coarse = generator.integers(0, 255, (14, 14, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(coarse).resize((112, 112), Image.Resampling.BICUBIC).save(file, "JPEG", quality=85)
        bases.append(file.getvalue())
    for number in range(count):
        base = bases[number % len(bases)]
        comment = b"\xff\xfe" + struct.pack(">H", 10) + struct.pack(">Q", number)
        yield base[:2] + comment + base[2:]


def write_records(folder: Path, photos: int, people: int) -> str:
    """Insightface's layout. Returns the sha256 of all photos, one after the other."""
    digest = hashlib.sha256()
    offsets = []
    with atomic_folder(folder) as temporary, (temporary / "train.rec").open("wb") as file:

        def record(key: int, flag: int, label: float, rest: bytes) -> None:
            data = struct.pack("<IfQQ", flag, label, key, 0) + rest
            offsets.append((key, file.tell()))
            file.write(struct.pack("<II", MAGIC, len(data)) + data + bytes(-len(data) % 4))

        record(0, 2, 0.0, struct.pack("<ff", photos + 1, photos + people + 1))
        edges = np.linspace(0, photos, people + 1).astype(int)
        labels = np.repeat(np.arange(people), np.diff(edges))
        for number, encoded in enumerate(jpegs(photos)):
            digest.update(encoded)
            record(number + 1, 0, float(labels[number]), encoded)
        for person in range(people):
            record(photos + 1 + person, 2, 0.0, struct.pack("<ff", edges[person] + 1, edges[person + 1] + 1))
        (temporary / "train.idx").write_text("".join(f"{key}\t{offset}\n" for key, offset in offsets))
        (temporary / "property").write_text(f"{people},112,112")
        (temporary / "sha256").write_text(digest.hexdigest())
    return digest.hexdigest()


def measure_reading(folder: Path, accesses: int = 100_000) -> dict[str, object]:
    """Opening, one after the other, and at random beside raw reads of the same bytes."""
    began, cpu = time.perf_counter(), time.process_time()
    images = read_record_images(folder / "train.rec")
    opened, opened_cpu = time.perf_counter() - began, time.process_time() - cpu
    digest = hashlib.sha256()
    began = time.perf_counter()
    for row in range(len(images)):
        digest.update(images.encoded(row))
    in_order = time.perf_counter() - began
    rows = np.random.default_rng(1).integers(0, len(images), accesses).tolist()
    records, numbers = images.records, images.numbers
    speeds: dict[str, list[float]] = {"raw": [], "records": [], "images": []}
    file = os.open(folder / "train.rec", os.O_RDONLY)
    places = [(int(images.records.sizes[numbers[row]]), int(images.records.starts[numbers[row]])) for row in rows]
    own = [int(numbers[row]) for row in rows]
    for _ in range(5):  # in turn, as the machine is shared
        began = time.perf_counter()
        for size, start in places:
            os.pread(file, size, start)
        speeds["raw"].append(accesses / (time.perf_counter() - began))
        began = time.perf_counter()
        for number in own:
            records[number]
        speeds["records"].append(accesses / (time.perf_counter() - began))
        began = time.perf_counter()
        for row in rows:
            images.encoded(row)
        speeds["images"].append(accesses / (time.perf_counter() - began))
    best = {name: max(values) for name, values in speeds.items()}
    return {
        "photos": len(images),
        "bytes": (folder / "train.rec").stat().st_size,
        "open_seconds": round(opened, 2),
        "open_cpu_seconds": round(opened_cpu, 2),
        "equal_to_the_bit": digest.hexdigest() == (folder / "sha256").read_text(),
        "in_order_photos_per_second": round(len(images) / in_order),
        "random_per_second": {name: round(value) for name, value in best.items()},
        "records_to_raw": round(best["records"] / best["raw"], 2),
        "images_to_raw": round(best["images"] / best["raw"], 2),
    }


def measure_stream(source: Path) -> dict[str, object]:
    """CPU seconds to the first batch of 128 and to resume near the end; crops and stored photos per CPU second."""

    def since(began: float) -> float:
        return round(time.process_time() - began, 2)

    began = time.process_time()
    shards = open_shards(str(source))
    assert shards is not None
    ring = ShardRing(shards, seed=0, buffer=10_000)
    opened = since(began)
    sampler = StreamBatchSampler(ring.num_photos, 128)
    stream = FaceStream(ring, FaceImageProcessor(size=[112, 112]), 0, sampler)
    batches = iter(sampler)
    stream.__getitems__(next(batches))
    first = since(began)
    began = time.process_time()
    for keys in itertools.islice(batches, 30):
        stream.__getitems__(keys)
    decoded = 30 * 128 / since(began)
    lane = sampler.lane(0)[0]
    groups = ring.groups(0, lane, 0)
    next(groups)  # fills the buffer
    began = time.process_time()
    for _ in itertools.islice(groups, 20_000):
        pass
    stored = 20_000 / since(began)
    began = time.process_time()
    next(ring.groups(0, lane, lane.size - 20_000))
    return {
        "open_cpu_seconds": opened,
        "first_batch_cpu_seconds": first,
        "crops_per_cpu_second": round(decoded),
        "stored_photos_per_cpu_second": round(stored),
        "resume_near_the_end_cpu_seconds": since(began),
    }


def anonymous_megabytes(process: int) -> list[float]:
    """Memory of its own, of a process and of each of its children."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    found = []
    for number in (process, *children):
        lines = Path(f"/proc/{number}/status").read_text().splitlines()
        found += [int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon")]
    return found


def measure_training(
    source: Path, output: Path, steps: int, workers: int, streaming: bool = False, batch_size: int = 128
) -> dict[str, object]:
    """Seconds to the first step, and the peak of memory."""
    recipe = {
        "train_images": f"[{source}]",
        "output_dir": output,
        "trunk": "iresnet",
        "trunk_arguments": "{depths: [1, 1, 1, 1], widths: [8, 16, 32, 64], stem_width: 8}",
        "embedding_size": 64,
        "head": "cosface",
        "batch_size": batch_size,
        "max_steps": steps,
        "log_every": 1,
        "checkpoint_every": 0,
        "evaluate_every": 0,
        "num_workers": workers,
        "num_threads": 1,
        "mixed_precision": "no",
        "trackers": "[]",
        "streaming": streaming,
    }
    arguments = [word for name, value in recipe.items() for word in (f"--{name}", str(value))]
    log = output / "training_log.jsonl"
    errors = tempfile.TemporaryFile("w+")
    began = time.time()
    process = subprocess.Popen(
        [sys.executable, "-c", TRAINING, *arguments, "--overwrite"],
        stdout=subprocess.PIPE,
        stderr=errors,  # a pipe that nobody empties would stop the training
        text=True,
        env=os.environ | {"ACCELERATE_USE_CPU": "true", "HF_DATASETS_CACHE": str(source.parent / "cache")},
    )
    first = None
    memory: dict[int, list[float]] = {}
    while process.poll() is None:
        if first is None and log.exists() and log.stat().st_mtime >= began and log.read_text():
            first = time.time() - began
        if streaming and first is not None:
            step = len(log.read_bytes().splitlines())
            if step % 100 == 0 and step not in memory:
                with contextlib.suppress(OSError):
                    memory[step] = [round(megabytes) for megabytes in anonymous_megabytes(process.pid)]
        time.sleep(0.05)
    printed, _ = process.communicate()
    peaks = [line for line in printed.splitlines() if line.startswith("PEAK ")]
    if process.returncode or not peaks:
        errors.seek(0)
        raise SystemExit(errors.read()[-4000:])
    speeds = [json.loads(line).get("images_per_second") for line in log.read_text().splitlines()]
    found: dict[str, object] = {"steps": steps, "first_step_seconds": None if first is None else round(first, 1)}
    if streaming:
        found["anonymous_mb_by_step"] = memory
    return found | json.loads(peaks[0][5:]) | {"images_per_second": float(np.median([s for s in speeds if s]))}


@exit_on_input_error
def main() -> None:
    """Write what is not there yet, measure, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="for the sets; those that lie there are kept")
    parser.add_argument("--photos", type=int, default=200_000)
    parser.add_argument("--people", type=int, default=20_000)
    parser.add_argument("--steps", type=int, default=0, help="train this many steps from each format; 0: only read")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--formats", nargs="+", default=["rec"], choices=["rec", "webdataset", "parquet"])
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--streaming", action="store_true", help="train from streams")
    parser.add_argument("--only-training", action="store_true", help="do not measure reading by itself")
    arguments = parser.parse_args()
    sets = arguments.folder / f"{arguments.photos}_of_{arguments.people}"
    if not (sets / "rec").is_dir():
        write_records(sets / "rec", arguments.photos, arguments.people)
    results: dict[str, object] = {}
    if not arguments.only_training:
        results["reading"] = measure_reading(sets / "rec")
    for kind in arguments.formats:
        source = sets / kind
        if not source.is_dir():
            began = time.perf_counter()
            subprocess.run(
                [sys.executable, "-m", "hfembed.cli", "convert-dataset", sets / "rec", source, "--to", kind],
                check=True,
            )
            results[f"convert_to_{kind}_seconds"] = round(time.perf_counter() - began, 1)
        if arguments.streaming:
            results[f"stream_{kind}"] = measure_stream(source)
        if arguments.steps:
            results[kind] = measure_training(
                *(source, sets / f"run_{kind}", arguments.steps, arguments.workers),
                *(arguments.streaming, arguments.batch_size),
            )
    print(json.dumps(results, indent=1))  # noqa: T201


if __name__ == "__main__":
    main()
