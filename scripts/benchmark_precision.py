"""What a face embedder loses and gains in other number formats, compiled, and in onnxruntime; on one CPU thread.

python scripts/benchmark_precision.py outputs/mobilefacenet --images lfw-a.tgz --pairs pairsDevTest.txt \
    --landmarks landmarks.json --output benchmark_precision.json

Each variant embeds the same aligned photos without their mirror: cosine to float32's embeddings (mean and lowest),
accuracy on LFW's View 1 at its own best threshold, and speed as a multiple of float32's `embed`, from the median CPU
time of rounds in which the variants take turns. Absolute speeds are this machine's.
"""

import argparse
import json
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from hfembed.atomic import atomic_write
from hfembed.checkpoint.loading import load_face_embedder
from hfembed.errors import exit_on_input_error
from hfembed.export.onnx import export_onnx
from hfembed.faces.evaluation.lfw import LfwVerification

Embed = Callable[[torch.Tensor], torch.Tensor]  # pixels (B, C, H, W) float32 -> unit embeddings (B, D) float32


def torch_variants(checkpoint: str) -> dict[str, Embed]:
    """The model as it is loaded, in other dtypes, quantised and compiled."""

    def load(dtype: torch.dtype = torch.float32):
        model, _ = load_face_embedder(checkpoint, "cpu")
        model.config.mirror = "none"
        return model.to(dtype)

    model, optimized = load(), load().optimize_for_inference()
    with warnings.catch_warnings():
        # torch's own quantization is deprecated in favor of torchao's
        warnings.simplefilter("ignore")
        int8 = torch.ao.quantization.quantize_dynamic(load(), {nn.Linear}, dtype=torch.qint8)
    compiled = torch.compile(load())

    def autocast(pixels: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return model.embed(pixels)

    return {
        "float32, embed": model.embed,
        "float32, optimize_for_inference": optimized.embed,
        "float32, torch.compile": lambda pixels: compiled(pixels).embeddings,
        "bfloat16 weights": load(torch.bfloat16).embed,
        "bfloat16 autocast": autocast,
        "float16 weights": load(torch.float16).embed,
        "int8 dynamic (linear layers)": int8.embed,
    }


def onnx_variants(checkpoint: str, folder: str) -> dict[str, Embed]:
    """The exported file, and the same with int8 weights, run by onnxruntime."""
    import onnxruntime
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model, processor = load_face_embedder(checkpoint, "cpu")
    model.config.mirror = "none"
    model.save_pretrained(f"{folder}/model")
    processor.save_pretrained(f"{folder}/model")
    export_onnx(f"{folder}/model", f"{folder}/float32.onnx")
    quantize_dynamic(f"{folder}/float32.onnx", f"{folder}/int8.onnx", weight_type=QuantType.QUInt8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1

    def runner(file: str) -> Embed:
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        return lambda pixels: torch.from_numpy(session.run(None, {"pixel_values": pixels.numpy()})[0])

    return {
        "float32, onnxruntime": runner(f"{folder}/float32.onnx"),
        "int8 dynamic, onnxruntime": runner(f"{folder}/int8.onnx"),
    }


def speeds(variants: dict[str, Embed], pixels: torch.Tensor, rounds: int) -> dict[str, float]:
    """Median seconds of each variant; they take turns, after one round to warm up (and to compile)."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for round_ in range(rounds + 1):
        for name, embed in variants.items():
            start = time.process_time()
            embed(pixels)
            if round_:
                seconds[name].append(time.process_time() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


@exit_on_input_error
def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="a face embedder")
    parser.add_argument("--images", required=True, help="LFW")
    parser.add_argument("--pairs", required=True, help="pairsDevTest.txt")
    parser.add_argument("--landmarks")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    _, processor = load_face_embedder(arguments.checkpoint, "cpu")
    lfw = LfwVerification(arguments.images, arguments.pairs, arguments.landmarks, num_workers=0)
    crops = lfw.aligned(processor)
    usable = torch.tensor([file not in crops.failures for file in crops.files])
    rows = {}
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        variants = torch_variants(arguments.checkpoint) | onnx_variants(arguments.checkpoint, folder)
        batch = processor.normalize(crops.pixels[: arguments.batch_size])
        seconds = speeds(variants, batch, arguments.rounds)
        reference = None
        for name, embed in variants.items():
            # whole batches: a compiled model would compile again for the rest
            padded = torch.cat([crops.pixels, crops.pixels[: -len(crops.pixels) % arguments.batch_size]])
            parts = [embed(processor.normalize(part)).float() for part in padded.split(arguments.batch_size)]
            embeddings = torch.cat(parts)[: len(crops.pixels)]
            reference = embeddings if reference is None else reference
            cosines = torch.cosine_similarity(embeddings[usable], reference[usable])
            result = lfw.result(embeddings.numpy().astype(np.float32), crops)
            rows[name] = {
                "mean_cosine": cosines.mean().item(),
                "lowest_cosine": cosines.min().item(),
                "accuracy": result.metrics[lfw.primary_metric],
                "images_per_second": arguments.batch_size / seconds[name],
                "speed": seconds["float32, embed"] / seconds[name],
            }
            print(f"{name:34}" + "".join(f"  {key} {value:.4f}" for key, value in rows[name].items()), flush=True)
    report = {
        "checkpoint": arguments.checkpoint,
        "photos": int(usable.sum()),
        "metric": lfw.primary_metric,
        "rows": rows,
    }
    with atomic_write(arguments.output) as temporary:
        temporary.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
