"""Speed and memory of training face embedders, beside a plain loop as arcface_torch has it.

python scripts/benchmark_face_training.py --output training.json
python scripts/benchmark_face_training.py --trunks iresnet50 --classes 1000000 --sample-rate 0.1 --batch-size 512 \
    --mixed-precision bf16 --compile --workers 12 --peak-tflops 989 --output training_gpu.json
python scripts/benchmark_face_training.py --trunks iresnet50 --shards shards/ --workers 12 --output training_jpeg.json

"hfembed" is the training loop of `hfembed train faces`, with its head, collator and accelerate; "plain" is a loop of
its own in this file over the same network: DataLoader, mirrored and normalized crops, autocast, margin, SGD over
network and all class weights, clipping, as recognition/arcface_torch of insightface does it (its Partial FC keeps a
gradient and momentum for all classes, sampled or not). Each runs in a process of its own. Photos are random 112 x 112
crops in memory; with --shards "hfembed" streams and decodes those of a folder.

Images per second are of the time from one step's begin to another's, "per CPU second" of the processor time that the
training process took in between: on a shared machine, and without workers, the latter carries over. "Data wait" is
the part of the time in which the loop waits for the next batch. MFU is the network's and the head's floating-point
operations, three times those of the forward pass, over --peak-tflops; without it over what a product of two
2048 x 2048 matrices (8192 x 8192 on a GPU) reaches here at best, in the same type; on a CPU both per CPU second.
Memory is the peak of the device, or on a CPU that of the process beyond its imports.
"""

import argparse
import itertools
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode

import hfembed.training.loop as loop
from hfembed.atomic import atomic_write
from hfembed.errors import exit_on_input_error
from hfembed.faces.data.face_stream import FaceStream
from hfembed.faces.training.losses import classification_loss
from hfembed.faces.training.recipe import FaceTrainingConfig, make_model, make_processor
from hfembed.faces.training.sharded_head import ShardedHead
from hfembed.faces.training.streaming import make_stream_sampler, open_stream
from hfembed.faces.training.train import make_collator
from hfembed.models.face_embedder.modeling_face_embedder import FaceEmbedderModel
from hfembed.training.config import build_config
from hfembed.training.run import Run
from hfembed.training.samplers import Key, KeyedBatchSampler

SIDE = 112
CROPS_IN_MEMORY = 2048


class Clock:
    """Measures the steps between the warm-up and the last one.

    Args:
        warm_up: Steps that are not measured.
        steps: Steps that are.
    """

    def __init__(self, warm_up: int, steps: int) -> None:
        self.first, self.last = warm_up, warm_up + steps
        self.begun = 0
        self.waits: list[float] = []
        self.marks: dict[int, tuple[float, float]] = {}

    def begin_step(self) -> None:
        """Call at the begin of each step, its batch being there."""
        if self.begun in (self.first, self.last):
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.marks[self.begun] = time.perf_counter(), time.process_time()
        self.begun += 1

    def waiting_for(self, batches: Iterator[Any]) -> Iterator[Any]:
        """The batches, the time that each takes to come being noted."""
        while True:
            began = time.perf_counter()
            batch = next(batches, None)
            if batch is None:
                return
            self.waits.append(time.perf_counter() - began)
            yield batch

    def figures(self, batch_size: int) -> dict[str, float]:
        """Images per second, per CPU second, and the part of the time that was waited for data."""
        (began, cpu_began), (ended, cpu_ended) = self.marks[self.first], self.marks[self.last]
        images = (self.last - self.first) * batch_size
        return {
            "images_per_second": images / (ended - began),
            "images_per_cpu_second": images / max(cpu_ended - cpu_began, 1e-9),
            "data_wait": sum(self.waits[self.first + 1 : self.last + 1]) / (ended - began),
        }


class RandomCrops(Dataset):
    """Random crops, as `AlignedFaces` would give them."""

    def __init__(self, classes: int) -> None:
        generator = np.random.default_rng(0)
        self.pixels = generator.integers(0, 256, (CROPS_IN_MEMORY, 3, SIDE, SIDE), dtype=np.uint8)
        self.labels = generator.integers(classes, size=CROPS_IN_MEMORY)

    def __len__(self) -> int:
        return 1 << 30

    def __getitem__(self, key: Key) -> dict[str, Any]:
        row = key[1] % CROPS_IN_MEMORY
        return {"pixels": torch.from_numpy(self.pixels[row].copy()), "label": int(self.labels[row]), "key": key}


class PlainCrops(RandomCrops):
    """The same as arcface_torch's data set gives them: mirrored at random, normalized, one by one."""

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:  # type: ignore[override]
        pixels = torch.from_numpy(self.pixels[row % CROPS_IN_MEMORY])
        if torch.rand(()) < 0.5:
            pixels = pixels.flip(2)
        return pixels.float().div_(255).sub_(0.5).div_(0.5), int(self.labels[row % CROPS_IN_MEMORY])


def recipe(options: argparse.Namespace, trunk: str, folder: str) -> FaceTrainingConfig:
    """The recipe that both loops train by."""
    streamed = {"streaming": True, "train_images": [options.shards]} if options.shards else {}
    return build_config(
        FaceTrainingConfig,
        {
            "trunk": trunk, "image_size": [SIDE, SIDE], "embedding_size": 512, "head": "cosface", "margin": 0.4,
            "sample_rate": options.sample_rate, "batch_size": options.batch_size, "num_workers": options.workers,
            "num_threads": options.threads, "mixed_precision": options.mixed_precision,
            "augmentation": {"mirror": 0.5}, "learning_rate": 0.01,
            "max_steps": options.warm_up + options.steps + 1, "epochs": 1 << 20,
            "output_dir": folder, "trackers": [], "keep_best": False, "log_every": 1 << 30, **streamed,
        },
    )  # fmt: skip


def with_hfembed(options: argparse.Namespace, trunk: str, folder: str, clock: Clock) -> int:
    """Train by hfembed's loop; the number of classes."""
    if options.compile:
        os.environ["ACCELERATE_DYNAMO_BACKEND"] = "INDUCTOR"
    config = recipe(options, trunk, folder)
    run = Run(config, "faces", loop.make_accelerator(config))
    processor, shard = make_processor(config), loop.shard(config, run.accelerator)
    source = open_stream(config) if options.shards else None
    classes = len(source.people) if source else options.classes
    if source is None:
        dataset, sampler = RandomCrops(classes), KeyedBatchSampler(16 * config.batch_size, **shard)
    else:
        sampler = make_stream_sampler(config, source, shard)
        dataset = FaceStream(source, processor, 0, sampler)
    run.describe_data("Random crops.", "random crops")
    model = make_model(config, list(map(str, range(classes))))
    if not options.no_channels_last:
        model = model.to(memory_format=torch.channels_last)
    head = None
    if config.has_sharded_head:
        head = ShardedHead(model.config, classes, config, config.sample_rate, run.accelerator.device)
    compute = head or classification_loss

    def timed(model: torch.nn.Module, batch: dict[str, Any]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        clock.begin_step()
        return compute(model, batch)

    class TimedLoader(DataLoader):
        def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
            return clock.waiting_for(super().__iter__())

    task = loop.Task(
        model=model,
        processor=processor,
        compute_loss=timed,
        dataset=dataset,
        sampler=sampler,
        collate=make_collator(config, processor),
        head=head,
    )
    # nothing is saved: the last step's time would be that of the disk
    with (
        patch.object(loop, "DataLoader", TimedLoader),
        patch.object(loop.Checkpoints, "save"),
        patch.object(run, "finish"),
    ):
        loop.train(run, task)
    return classes


def with_plain_loop(options: argparse.Namespace, trunk: str, folder: str, clock: Clock) -> int:
    """Train by a loop as arcface_torch's train_v2.py; the number of classes."""
    config = recipe(options, trunk, folder)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(options.threads)
    model_config = make_model(config, ["a", "b"]).config
    network: Any = FaceEmbedderModel(model_config).to(device).train()
    if options.compile:
        network = torch.compile(network)
    weight = torch.nn.Parameter(torch.normal(0, 0.01, (options.classes, 512), device=device))
    optimizer = torch.optim.SGD([*network.parameters(), weight], lr=0.01, momentum=0.9, weight_decay=5e-4)
    loader = DataLoader(
        PlainCrops(options.classes),
        options.batch_size,
        sampler=range(options.batch_size * (options.warm_up + options.steps + 1)),
        num_workers=options.workers,
        pin_memory=device.type == "cuda",
        drop_last=True,
    )
    kind = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(options.mixed_precision)
    for pixels, labels in clock.waiting_for(iter(loader)):
        pixels, labels = pixels.to(device, non_blocking=True), labels.to(device, non_blocking=True)
        clock.begin_step()
        with torch.autocast(device.type, kind) if kind else nullcontext():
            embeddings = network(pixels).embeddings
        rows, columns = weight, labels
        if options.sample_rate < 1:
            chance = torch.rand(options.classes, device=device)
            chance[labels] = 2
            chosen = chance.topk(int(options.sample_rate * options.classes)).indices.sort().values
            rows, columns = weight[chosen], torch.searchsorted(chosen, labels)
        cosines = F.linear(embeddings, F.normalize(rows)).clamp(-1, 1)
        logits = 64 * (cosines - 0.4 * F.one_hot(columns, cosines.shape[1]))
        F.cross_entropy(logits, columns).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5)
        optimizer.step()
        optimizer.zero_grad()
    return options.classes


LOOPS: dict[str, Callable[[argparse.Namespace, str, str, Clock], int]] = {
    "hfembed": with_hfembed,
    "plain": with_plain_loop,
}


def measure(options: argparse.Namespace, trunk: str, name: str) -> dict[str, Any]:
    """One loop over one network, in this process."""
    imports = _peak_of_process()
    clock = Clock(options.warm_up, options.steps)
    with tempfile.TemporaryDirectory() as folder:
        classes = LOOPS[name](options, trunk, folder, clock)
    figures = clock.figures(options.batch_size)
    if torch.cuda.is_available():
        figures["peak_gb"] = torch.cuda.max_memory_allocated() / 1e9
    else:
        figures["peak_gb"] = (_peak_of_process() - imports) / 1e9
    operations = _operations(options, trunk) + 6 * 512 * classes * options.sample_rate
    speed = "images_per_second" if torch.cuda.is_available() else "images_per_cpu_second"
    figures["gflop_per_image"] = operations / 1e9
    figures["tflops"] = figures[speed] * operations / 1e12
    figures["peak_tflops"] = options.peak_tflops or _reached_by_matmul(options) / 1e12
    return {"trunk": trunk, "loop": name, "classes": classes, **figures}


def _peak_of_process() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))


def _operations(options: argparse.Namespace, trunk: str) -> float:
    """Floating-point operations per image of the network, forwards and backwards.

    torch counts the backward pass of grouped convolutions as if they had one group, so that it is twice the forward's.
    """
    model = FaceEmbedderModel(make_model(recipe(options, trunk, "unused"), ["a", "b"]).config)
    pixels = torch.rand(2, 3, SIDE, SIDE)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(pixels)
    return 3 * counter.get_total_flops() / len(pixels)


def _reached_by_matmul(options: argparse.Namespace) -> float:
    """Operations per second of a large product, the best of several."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    kind = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(options.mixed_precision, torch.float32)
    side = 8192 if device == "cuda" else 2048
    matrix = torch.rand(side, side, device=device, dtype=kind)
    clock = time.perf_counter if device == "cuda" else time.process_time
    seconds = []
    for _ in range(5):
        began = clock()
        _ = matrix @ matrix
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(clock() - began)
    return 2 * side**3 / min(seconds)


@exit_on_input_error
def main() -> None:
    """Measure each loop over each network in processes of their own, taking turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trunks", nargs="+", default=["iresnet18", "iresnet50", "iresnet100", "mobilefacenet"])
    parser.add_argument("--loops", nargs="+", choices=LOOPS, default=list(LOOPS))
    parser.add_argument("--classes", type=int, default=10_000)
    parser.add_argument("--sample-rate", type=float, default=1.0)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=50, help="measured, after --warm-up")
    parser.add_argument("--warm-up", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=1, help="the median of them counts")
    parser.add_argument("--mixed-precision", choices=["no", "bf16", "fp16"], default="no")
    parser.add_argument("--compile", action="store_true", help="torch.compile, in both loops")
    parser.add_argument("--no-channels-last", action="store_true", help="of hfembed; the plain loop never has it")
    parser.add_argument("--workers", type=int, default=0, help="processes that make batches")
    parser.add_argument("--threads", type=int, default=0, help="of torch; 0 = its own choice")
    parser.add_argument("--shards", default="", help="stream these photos, in hfembed's loop")
    parser.add_argument("--peak-tflops", type=float, default=0.0, help="of the device, for MFU")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    options.threads = options.threads or torch.get_num_threads()
    rows: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for _, trunk, name in itertools.product(range(options.rounds), options.trunks, options.loops):
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
            rows.setdefault((trunk, name), []).append(process.submit(measure, options, trunk, name).result())
        print(rows[trunk, name][-1], flush=True)
    results = []
    peak = max(row["peak_tflops"] for of_loop in rows.values() for row in of_loop)
    print(
        "| network | loop | images/s | per CPU second | data wait | MFU | peak memory |\n|---|---|---|---|---|---|---|"
    )
    for rounds in rows.values():
        row = {
            key: statistics.median(r[key] for r in rounds) if isinstance(value, float) else value
            for key, value in rounds[0].items()
        }
        row |= {"peak_tflops": peak, "mfu": row["tflops"] / peak}
        results.append(row)
        print(
            f"| {row['trunk']} | {row['loop']} | {row['images_per_second']:.1f} | "
            f"{row['images_per_cpu_second']:.1f} | {row['data_wait']:.1%} | {row['mfu']:.1%} | "
            f"{row['peak_gb']:.2f} GB |"
        )
    settings = {name: str(value) if name == "output" else value for name, value in vars(options).items()}
    with atomic_write(options.output) as temporary:
        temporary.write_text(json.dumps({"settings": settings, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
