"""What a face embedder loses and gains in other number formats, compiled, and in onnxruntime; on one CPU thread.

python scripts/benchmark_precision.py outputs/mobilefacenet --images lfw-a.tgz --pairs pairsDevTest.txt \
    --landmarks landmarks.json --calibration-faces celeba299/aligned_112x112.tgz --output benchmark_precision.json

Each variant embeds the same aligned photos without their mirror: cosine to float32's embeddings (mean and lowest),
accuracy on LFW's View 1 at its own best threshold, and speed as a multiple of float32's `embed`, from the median CPU
time of rounds in which the variants take turns. Absolute speeds are this machine's. bfloat16 is left out where the CPU
does not compute in it; static int8 is calibrated on aligned crops of other people.
"""

import argparse
import functools
import json
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from interleaving import interleaved
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import nn

from hfembed.atomic import atomic_write
from hfembed.checkpoint.loading import load_face_embedder
from hfembed.errors import exit_on_input_error
from hfembed.export.onnx import export_onnx
from hfembed.faces.data.aligned_faces import AlignedFaces
from hfembed.faces.data.faces import FaceSource, load_faces
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

    def autocast(pixels: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return model.embed(pixels)

    compiled = torch.compile(load())
    variants = {
        "float32, embed": model.embed,
        "float32, plain forward": lambda pixels: model(pixels).embeddings,
        "float32, optimize_for_inference": optimized.embed,
        "float32, torch.compile": lambda pixels: compiled(pixels).embeddings,
        "float16 weights": load(torch.float16).embed,
        "int8 dynamic (linear layers)": int8.embed,
    }
    instructions = torch.cpu.get_capabilities()
    if instructions.get("avx512_bf16") or instructions.get("amx_bf16"):
        variants |= {
            "bfloat16, optimize_for_inference": load().optimize_for_inference(torch.bfloat16).embed,
            "bfloat16 weights": load(torch.bfloat16).embed,
            "bfloat16 autocast": autocast,
        }
    else:
        print("bfloat16: not measured, this CPU does not compute in it")
    return variants


class Calibration(CalibrationDataReader):
    """Normalized crops, one batch at a time, as onnxruntime's static quantization asks for them."""

    def __init__(self, pixels: torch.Tensor) -> None:
        self.batches = iter(pixels.split(8))

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next batch; None after the last."""
        batch = next(self.batches, None)
        return None if batch is None else {"pixel_values": batch.numpy()}


def onnx_variants(checkpoint: str, folder: str, calibration: torch.Tensor | None) -> dict[str, Embed]:
    """The exported file, and the same with its convolutions in int8, run by onnxruntime."""
    model, processor = load_face_embedder(checkpoint, "cpu")
    model.config.mirror = "none"
    model.save_pretrained(f"{folder}/model")
    processor.save_pretrained(f"{folder}/model")
    export_onnx(f"{folder}/model", f"{folder}/float32.onnx")
    quantize_dynamic(f"{folder}/float32.onnx", f"{folder}/dynamic.onnx", weight_type=QuantType.QUInt8)
    files = {"float32, onnxruntime": f"{folder}/float32.onnx", "int8 dynamic, onnxruntime": f"{folder}/dynamic.onnx"}
    if calibration is not None:
        # onnxruntime folds BatchNorm here, as it does when it runs the file
        quant_pre_process(f"{folder}/float32.onnx", f"{folder}/folded.onnx", skip_symbolic_shape=True)
        quantize_static(
            f"{folder}/folded.onnx",
            f"{folder}/static.onnx",
            Calibration(calibration),
            op_types_to_quantize=["Conv", "Gemm", "MatMul"],
            per_channel=True,
            # without VNNI, sums of two products of eight bits each would saturate
            reduce_range=not torch.cpu.get_capabilities().get("avx512_vnni", False),
        )
        files["int8 static, onnxruntime"] = f"{folder}/static.onnx"
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1

    def runner(file: str) -> Embed:
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        return lambda pixels: torch.from_numpy(session.run(None, {"pixel_values": pixels.numpy()})[0])

    return {name: runner(file) for name, file in files.items()}


@exit_on_input_error
def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="a face embedder")
    parser.add_argument("--images", required=True, help="LFW")
    parser.add_argument("--pairs", required=True, help="pairsDevTest.txt")
    parser.add_argument("--landmarks")
    parser.add_argument("--variants", nargs="+", default=[], help="only those with one of these words in their names")
    parser.add_argument("--calibration-faces", help="aligned crops of other people, for static int8")
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
        calibration = None
        if arguments.calibration_faces:
            faces = load_faces(FaceSource(arguments.calibration_faces, aligned="arcface_112", max_photos=1))
            kept = torch.as_tensor(AlignedFaces(faces.select(range(64)), processor).pixels())
            calibration = processor.normalize(kept)
        variants = torch_variants(arguments.checkpoint)
        variants |= onnx_variants(arguments.checkpoint, folder, calibration)
        first = next(iter(variants))  # what the others are compared with
        for name in list(variants):
            if arguments.variants and name != first and not any(word in name for word in arguments.variants):
                del variants[name]
        batch = processor.normalize(crops.pixels[: arguments.batch_size])
        runs = {name: functools.partial(embed, batch) for name, embed in variants.items()}
        seconds = interleaved(runs, arguments.rounds)
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
