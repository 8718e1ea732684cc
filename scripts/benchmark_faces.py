"""Speed of a face embedder on one CPU thread: embedding, decoding and aligning, mining. Prints ratios, writes JSON.

python scripts/benchmark_faces.py outputs/mobilefacenet --images lfw-a/ --output benchmark_faces.json

The variants take turns, round by round, and the figures are medians of CPU time: other load on the machine then
disturbs all of them alike. Absolute figures are this machine's; the ratios are what carries over.
"""

import argparse
import io
import json
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from hfembed.atomic import atomic_write
from hfembed.errors import InputError, exit_on_input_error
from hfembed.loading import load_face_embedder
from hfembed.mining import semi_hard_triplets, squared_distances
from hfembed.models.face_embedder.image_processing_face_embedder import similarity_transform


def interleaved(variants: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median CPU seconds of each variant; they take turns, after one round to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for round_ in range(rounds + 1):
        for name, run in variants.items():
            start = time.process_time()
            run()
            if round_:
                seconds[name].append(time.process_time() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


def embedding_rows(model_folder: str, batch_size: int, rounds: int) -> dict[str, dict[str, float]]:
    """The plain eager forward, `embed`, and `embed` of the model optimised for inference."""
    model, _ = load_face_embedder(model_folder, "cpu")
    model.config.mirror = "none"  # one forward each
    optimized = model.optimize_for_inference()
    pixels = torch.rand(batch_size, model.config.num_channels, *model.config.image_size) * 2 - 1
    variants = {
        "plain forward": lambda: model(pixels).embeddings,
        "embed": lambda: model.embed(pixels),
        "embed, optimize_for_inference": lambda: optimized.embed(pixels),
    }
    with torch.inference_mode():
        expected = variants["plain forward"]()
        differences = {name: (run() - expected).abs().max().item() for name, run in variants.items()}
        seconds = interleaved(variants, rounds)
    return {
        name: {
            "images_per_second": batch_size / seconds[name],
            "ratio": seconds["plain forward"] / seconds[name],
            "largest_difference": differences[name],
        }
        for name in variants
    }


def alignment_rows(model_folder: str, photos: list[bytes], rounds: int) -> dict[str, dict[str, float]]:
    """Encoded photo -> aligned crop: ours, and Pillow's plain open, convert, transform."""
    _, processor = load_face_embedder(model_folder, "cpu")
    size = (processor.size["width"], processor.size["height"])
    rows = {}
    for name, scale in (("as they are", 1), ("four times as large", 4)):
        encoded, places = [], []
        for photo in photos:
            image = Image.open(io.BytesIO(photo)).convert("RGB")
            side = min(image.size) * scale
            file = io.BytesIO()
            image.resize((image.width * scale, image.height * scale)).save(file, "JPEG", quality=90)
            encoded.append(file.getvalue())
            # a face as large in the photo as LFW's are
            template = np.asarray(processor.template) / np.array(size)
            places.append((template * 0.45 + 0.275) * side)

        def pillow(encoded: list[bytes] = encoded, places: list[np.ndarray] = places) -> None:
            for photo, points in zip(encoded, places, strict=True):
                matrix = similarity_transform(np.asarray(processor.template), points)
                image = Image.open(io.BytesIO(photo)).convert("RGB")
                coefficients = matrix.flatten().tolist()
                np.array(image.transform(size, Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR))

        def ours(encoded: list[bytes] = encoded, places: list[np.ndarray] = places) -> None:
            for photo, points in zip(encoded, places, strict=True):
                processor.align(photo, points)

        seconds = interleaved({"Pillow": pillow, "ours": ours}, rounds)
        rows[f"decode and align, photos {name}"] = {
            "images_per_second": len(photos) / seconds["ours"],
            "ratio": seconds["Pillow"] / seconds["ours"],
        }
    return rows


def mining_row(rounds: int) -> dict[str, float]:
    """Semi-hard mining of FaceNet's batch: 1,800 embeddings of 45 people."""
    labels = torch.arange(45).repeat_interleave(40)
    embeddings = torch.nn.functional.normalize(torch.randn(1800, 128) + torch.randn(45, 128)[labels])

    def mine() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return semi_hard_triplets(squared_distances(embeddings), labels, 0.2)

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    anchors, _, _ = mine()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    seconds = interleaved({"mine": mine}, rounds)
    return {"seconds": seconds["mine"], "peak_megabytes": peak / 1024, "triplets": len(anchors)}


@exit_on_input_error
def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="checkpoint folder")
    parser.add_argument("--images", type=Path, help="folder of JPEG photos to decode and align; left out without it")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--output", type=Path, help="JSON file")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)

    results: dict[str, dict[str, float]] = {"semi-hard mining, B = 1,800": mining_row(arguments.rounds)}
    results |= embedding_rows(arguments.model, arguments.batch_size, arguments.rounds)
    if arguments.images:
        files = sorted(arguments.images.rglob("*.jpg"))[:200]
        if not files:
            raise InputError(f"{arguments.images} holds no .jpg files")
        results |= alignment_rows(arguments.model, [file.read_bytes() for file in files], arguments.rounds)
    for name, row in results.items():
        print(f"{name:48}" + "  ".join(f"{figure} {value:.3g}" for figure, value in row.items()))
    if arguments.output:
        with atomic_write(arguments.output) as temporary:
            temporary.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
