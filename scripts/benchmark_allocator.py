"""What training on a CPU gains when it keeps the memory that it frees, and what that costs; on one thread.

python scripts/benchmark_allocator.py --output benchmark_allocator.json

A MobileFaceNet and the network of the recipe autoencoder_vector_112 take training steps on random images, each in a
process that gives its memory back as glibc does, and in one that keeps it (`hfembed.allocator`), by turns. Times are
the median CPU time of a step, memory is the peak of resident memory, page faults are those of a step.
"""

import argparse
import json
import multiprocessing
import resource
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from interleaving import interleaved

from hfembed.allocator import keep_freed_memory
from hfembed.atomic import atomic_write
from hfembed.errors import exit_on_input_error
from hfembed.models.appearance_autoencoder.configuration_appearance_autoencoder import AppearanceAutoencoderConfig
from hfembed.models.appearance_autoencoder.modeling_appearance_autoencoder import AppearanceAutoencoderModel
from hfembed.models.face_embedder.configuration_face_embedder import FaceEmbedderConfig
from hfembed.models.face_embedder.modeling_face_embedder import FaceEmbedderForClassification

_VECTOR = {
    "image_size": [112, 112], "latent_channels": 512, "warp_latents": 0, "code_filters": True, "detail": True,
    "patch_size": 4, "widths": [64, 128], "loss_weights": {"mean_absolute": 1.0, "contrast": 3.0},
}  # fmt: skip
_FACE = {"image_size": [112, 112], "trunk": "mobilefacenet", "num_labels": 1000}


def face_batch() -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """A MobileFaceNet that tells 1,000 people apart, and 64 faces."""
    batch = {"pixel_values": torch.rand(64, 3, 112, 112), "labels": torch.randint(0, 1000, (64,))}
    return FaceEmbedderForClassification(FaceEmbedderConfig(**_FACE)), batch  # type: ignore[call-arg]


def autoencoder_batch() -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """The network of autoencoder_vector_112, and 16 images."""
    batch = {"pixel_values": torch.rand(16, 3, 112, 112)}
    return AppearanceAutoencoderModel(AppearanceAutoencoderConfig(**_VECTOR)), batch  # type: ignore[call-arg]


_CASES: dict[str, Callable[[], tuple[torch.nn.Module, dict[str, torch.Tensor]]]] = {
    "mobilefacenet, 64 faces": face_batch,
    "autoencoder_vector_112, 16 images": autoencoder_batch,
}


def train(case: str, is_kept: bool, pipe: Connection) -> None:
    """Take a step whenever asked; answer CPU seconds so far, page faults so far, and the peak of memory in MB."""
    if is_kept:
        keep_freed_memory()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, batch = _CASES[case]()
    optimizer = torch.optim.AdamW(model.train().parameters())
    while pipe.recv():
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        usage = resource.getrusage(resource.RUSAGE_SELF)
        pipe.send((time.process_time(), usage.ru_minflt, usage.ru_maxrss / 1024))


def measure(case: str, rounds: int) -> dict[str, Any]:
    """Milliseconds and page faults of a step, and the peak of memory, of both ways."""
    context = multiprocessing.get_context("spawn")
    pipes, used = {}, {"returned": (0.0, 0, 0.0), "kept": (0.0, 0, 0.0)}
    for way in used:
        pipes[way], end = context.Pipe()
        context.Process(target=train, args=(case, way == "kept", end), daemon=True).start()

    def step(way: str) -> None:
        pipes[way].send(True)
        used[way] = pipes[way].recv()

    ways = {way: partial(step, way) for way in used}
    interleaved(ways, 2)  # to warm up: the optimizer's state is made
    before = dict(used)
    seconds = interleaved(ways, rounds, clock=lambda: sum(time for time, _, _ in used.values()))
    for pipe in pipes.values():
        pipe.send(False)
    return {
        way: {
            "milliseconds": 1000 * seconds[way],
            "page_faults": (used[way][1] - before[way][1]) / (rounds + 1),
            "peak_mb": used[way][2],
        }
        for way in used
    } | {"speed": seconds["returned"] / seconds["kept"]}


@exit_on_input_error
def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="steps of each way")
    parser.add_argument("--output", type=Path, help="JSON file")
    arguments = parser.parse_args()
    report = {}
    for case in _CASES:
        report[case] = measure(case, arguments.rounds)
        for way in ("returned", "kept"):
            print(f"{case:36}{way:10}" + "".join(f"  {key} {value:,.0f}" for key, value in report[case][way].items()))
        print(f"{case:36}{report[case]['speed']:.2f} times as fast", flush=True)
    if arguments.output:
        with atomic_write(arguments.output) as temporary:
            temporary.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
