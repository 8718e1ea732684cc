"""Peak memory of autoencoders: training with and without gradient checkpointing, large images whole and in tiles.

python scripts/benchmark_autoencoder_memory.py --output benchmark_autoencoder_memory.json

`architecture: autoencoder_kl`, f8, 16 to 64 wide, with attention, trains batches of 8 images of 256 x 256. It, without
attention, and a plain network like that of the recipe autoencoder_f8_112 reconstruct one image of `--size`. Each case
runs in a process of its own; its peak is the operating system's count of resident memory, which includes the
libraries. Times are CPU time; of a training's steps the fastest counts.
"""

import argparse
import json
import multiprocessing
import resource
import time
from pathlib import Path
from typing import Any

import torch

from hfembed.atomic import atomic_write
from hfembed.errors import exit_on_input_error
from hfembed.images.tiling import decode_in_tiles, encode_in_tiles
from hfembed.models.conv_autoencoder.configuration_conv_autoencoder import ConvAutoencoderConfig
from hfembed.models.conv_autoencoder.modeling_conv_autoencoder import ConvAutoencoderModel

_KL = {
    "architecture": "autoencoder_kl", "patch_size": 1, "widths": [16, 32, 64, 64], "norm_groups": 16,
    "blocks_per_level": 2, "latent_channels": 4,
}  # fmt: skip
_PATCHES = {"patch_size": 8, "widths": [128], "blocks_per_level": 2, "latent_channels": 20}


def make_model(**fields: Any) -> ConvAutoencoderModel:
    """A network of random weights, on one thread."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return ConvAutoencoderModel(ConvAutoencoderConfig(**fields)).to(memory_format=torch.channels_last)  # type: ignore[call-arg]


def train(is_checkpointed: bool, size: int = 256, batch_size: int = 8, steps: int = 3) -> dict[str, float]:
    """Images per second of forward and backward passes, and the peak of memory."""
    model = make_model(image_size=[size, size], **_KL).train()
    if is_checkpointed:
        model.checkpoint_blocks()
    images = torch.rand(batch_size, 3, size, size).contiguous(memory_format=torch.channels_last)
    seconds = []
    for _ in range(steps):
        start = time.process_time()
        model(images).loss.backward()
        seconds.append(time.process_time() - start)
    return {"images_per_second": batch_size / min(seconds), "peak_mb": peak_mb()}


@torch.no_grad()
def reconstruct(fields: dict[str, Any], is_tiled: bool, size: int) -> dict[str, float]:
    """Seconds to encode and decode one image, and the peak of memory."""
    model = make_model(**fields).eval()
    image = torch.rand(1, 3, size, size)
    start = time.process_time()
    if is_tiled:
        decode_in_tiles(model, encode_in_tiles(model, image))
    else:
        model.decode(model.encode(image))
    return {"seconds": time.process_time() - start, "peak_mb": peak_mb()}


def peak_mb() -> float:
    """The most resident memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@exit_on_input_error
def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=4096, help="side of the large image")
    parser.add_argument("--only", default="", help="measure the cases whose name contains this")
    parser.add_argument("--output", type=Path, help="JSON file")
    arguments = parser.parse_args()
    cases: dict[str, tuple[Any, ...]] = {
        "train": (train, False),
        "train, gradient checkpointing": (train, True),
    }
    for name, fields in {"patches": _PATCHES, "autoencoder_kl": _KL | {"attention": False}}.items():
        for way in ("whole", "in tiles"):
            cases[f"reconstruct, {name}, {way}"] = (reconstruct, fields, way == "in tiles", arguments.size)
    results = {}
    for name, (function, *values) in cases.items():
        if arguments.only not in name:
            continue
        with multiprocessing.get_context("spawn").Pool(1) as process:
            results[name] = process.apply(function, values)
        print(f"{name:44}" + "".join(f"{key}: {value:.2f}  " for key, value in results[name].items()), flush=True)
    if arguments.output:
        with atomic_write(arguments.output) as temporary:
            temporary.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
