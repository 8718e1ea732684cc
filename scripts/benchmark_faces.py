"""Speed on a CPU from photo to embedding: detecting, aligning, embedding, mining. Prints ratios, writes JSON.

python scripts/benchmark_faces.py outputs/mobilefacenet --images lfw-a/ --output benchmark_faces.json
python scripts/benchmark_faces.py outputs/mobilefacenet --images lfw-a/ --detector outputs/mtcnn \
    --original facenet-pytorch/ --part detection --part photos

`--original` is a clone of timesler/facenet-pytorch, whose MTCNN, one photo after the other, detection is compared
with. `--detector` may be repeated for "photos"; all look for faces from `--min-face-size`. All parts take one thread
but "photos", the whole way from files to embeddings, which takes two cores.

The variants take turns, round by round, and the figures are medians of CPU time: other load on the machine then
disturbs all of them alike. Absolute figures are this machine's; the ratios are what carries over.
"""

import argparse
import contextlib
import io
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from interleaving import interleaved
from PIL import Image

from hfembed.atomic import atomic_write
from hfembed.checkpoint.loading import load_face_detector, load_face_embedder
from hfembed.errors import InputError, exit_on_input_error
from hfembed.faces.face_analyzer import FaceAnalyzer
from hfembed.models.detected_faces import FaceDetector
from hfembed.models.face_detector.area_resampling import AreaResampling
from hfembed.models.face_detector.modeling_face_detector import FaceDetectorModel
from hfembed.models.face_embedder.image_processing_face_embedder import similarity_transform
from hfembed.models.face_embedder.triplet_mining import semi_hard_triplets, squared_distances
from hfembed.models.photo_image_processor import PhotoImageProcessor


def embedding_rows(model_folder: str, batch_size: int, rounds: int) -> dict[str, dict[str, float]]:
    """The plain eager forward, `embed`, and `embed` of the model optimized for inference."""
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


def detection_rows(
    detector: FaceDetector, original: Path | None, photos: list[Image.Image], batch_size: int, rounds: int
) -> dict[str, dict[str, float]]:
    """The detector one by one and in batches, and the network's first implementation."""
    pixels = [torch.from_numpy(np.array(photo)).permute(2, 0, 1) for photo in photos]
    batches = [slice(start, start + batch_size) for start in range(0, len(photos), batch_size)]
    variants: dict[str, Callable[[], list[torch.Tensor]]] = {
        "ours, one by one": lambda: [detector.detect_in([photo])[0].landmarks for photo in pixels],
        "ours, batches": lambda: [faces.landmarks for batch in batches for faces in detector.detect_in(pixels[batch])],
    }
    if original is not None:
        mtcnn = original_detector(original, detector.config.min_face_size)

        def one_by_one() -> list[torch.Tensor]:
            found = [mtcnn.detect(photo, landmarks=True)[2] for photo in photos]
            return [torch.zeros(0, 5, 2) if points is None else torch.tensor(points.astype(float)) for points in found]

        def in_batches() -> None:
            for batch in batches:
                mtcnn.detect(photos[batch], landmarks=True)

        variants = {"original, one by one": one_by_one} | variants
        if len({photo.size for photo in photos}) == 1:
            variants["original, batches"] = in_batches
    seconds = interleaved(variants, rounds)
    reference = next(iter(variants))
    expected = variants[reference]()
    rows = {}
    for name, run in variants.items():
        rows[f"detection: {name}"] = row = {
            "images_per_second": len(photos) / seconds[name],
            "ratio": seconds[reference] / seconds[name],
        }
        if name != "original, batches":
            found = run()
            distances = [
                (points - place).norm(dim=1).mean().item() if len(points) else float("inf")
                for place, points in (
                    (one, nearest(one, points)) for ones, points in zip(expected, found, strict=True) for one in ones
                )
            ]
            row["faces"] = sum(map(len, found))
            row["found_of_the_first_row"] = sum(distance < 10 for distance in distances)
            row["median_landmark_distance"] = statistics.median(distances)
    stages = stage_rows(detection_stages(detector), variants["ours, batches"], len(photos))
    return rows | {f"detection: batches, stage: {name}": row for name, row in stages.items()}


def nearest(place: torch.Tensor, faces: torch.Tensor) -> torch.Tensor:
    """Of faces (n, 5, 2) the one nearest to a place (5, 2); (0, 2) where there are none."""
    if not len(faces):
        return faces.new_zeros(0, 2)
    return faces[(faces - place).norm(dim=2).mean(1).argmin()]


def stage_rows(
    stages: dict[str, tuple[object, str]], run: Callable[[], object], count: int
) -> dict[str, dict[str, float]]:
    """Where the CPU time of a run over `count` photos goes: stages are methods that do not call each other."""
    seconds = dict.fromkeys(stages, 0.0)

    def timed(name: str, function: Callable) -> Callable:
        def timing(*arguments: object, **named: object) -> object:
            start = time.process_time()
            result = function(*arguments, **named)
            seconds[name] += time.process_time() - start
            return result

        return timing

    with contextlib.ExitStack() as watched:
        for name, (owner, method) in stages.items():
            watched.enter_context(patch.object(owner, method, timed(name, getattr(owner, method))))
        start = time.process_time()
        run()
        whole = time.process_time() - start
    seconds["boxes, suppression, the rest"] = whole - sum(seconds.values())
    return {
        name: {"milliseconds_a_photo": 1000 * spent / count, "share": spent / whole} for name, spent in seconds.items()
    }


def detection_stages(detector: FaceDetector) -> dict[str, tuple[object, str]]:
    """The stages of a detector, for `stage_rows`."""
    if not isinstance(detector, FaceDetectorModel):
        return {"detection network": (detector, "predict")}
    return {
        "pixels to float32": (AreaResampling, "__init__"),
        "levels of the pyramid": (AreaResampling, "levels"),
        "proposal network": (detector.proposal, "forward"),
        "windows for the others": (AreaResampling, "crops"),
        "refinement network, 24 x 24 windows": (detector.refinement, "forward"),
        "landmark network, 48 x 48 windows": (detector.landmark, "forward"),
    }


def original_detector(folder: Path, min_face_size: float) -> torch.nn.Module:
    """The MTCNN of a clone of timesler/facenet-pytorch."""
    if not (folder / "models" / "mtcnn.py").exists():
        raise InputError(f"{folder} is no clone of timesler/facenet-pytorch: it has no models/mtcnn.py")
    sys.path.insert(0, str(folder))
    from models.mtcnn import MTCNN

    return MTCNN(min_face_size=min_face_size, keep_all=True, device="cpu").eval()


def load_detector(folder: str, min_face_size: float | None) -> FaceDetector:
    """A detector that looks for faces from a size; its own by default."""
    detector, _ = load_face_detector(folder, "cpu")
    detector.change_search(min_face_size=min_face_size)
    return detector


def photo_rows(
    model_folder: str,
    detectors: dict[str, FaceDetector],
    original: Path | None,
    photos: list[bytes],
    batch_size: int,
    rounds: int,
    cpu_time: bool = False,
) -> dict[str, dict[str, float]]:
    """From files of mixed sizes to embeddings: photo by photo, and the analyzer with each detector.

    On two cores, by the clock; or with one thread, by CPU time, where other work disturbs the cores.
    """
    embedder, processor = load_face_embedder(model_folder, "cpu")
    analyzers = {
        name: FaceAnalyzer(detector, PhotoImageProcessor(), embedder, processor)
        for name, detector in detectors.items()
    }
    detector = next(iter(detectors.values()))
    mtcnn = None if original is None else original_detector(original, detector.config.min_face_size)

    def one_by_one() -> int:
        faces = 0
        for photo in photos:
            image = Image.open(io.BytesIO(photo)).convert("RGB")
            if mtcnn is None:
                landmarks = detector.detect(image)[0].landmarks.numpy()
            else:
                landmarks = mtcnn.detect(image, landmarks=True)[2]
            for points in [] if landmarks is None else landmarks:
                try:
                    pixels = processor(image, landmarks=points.astype(float), return_tensors="pt").pixel_values
                except ValueError:  # landmarks outside the photo, where the analyzer notes an error
                    continue
                views = [pixels] if embedder.config.mirror == "none" else [pixels, pixels.flip(3)]
                for view in views:
                    embedder(view)
                faces += 1
        return faces

    cores = 1 if cpu_time else 2
    torch.set_num_threads(cores)
    with torch.inference_mode():
        variants: dict[str, Callable[[], int]] = {"one by one": one_by_one}
        for name, analyzer in analyzers.items():
            variants[f"FaceAnalyzer, {name}"] = lambda analyzer=analyzer: sum(
                len(photo.faces) for photo in analyzer(photos, "all", batch_size, num_threads=cores, min_quality=0.0)
            )
        seconds = interleaved(variants, rounds, time.process_time if cpu_time else time.perf_counter)
        counts = {name: run() for name, run in variants.items()}
    torch.set_num_threads(1)
    rows = {
        f"photos of mixed sizes to embeddings: {name}": {
            "photos_per_second": len(photos) / seconds[name],
            "ratio": seconds["one by one"] / seconds[name],
            "faces": counts[name],
        }
        for name in variants
    }
    for label, analyzer in analyzers.items():
        stages = (
            {"decoding": (analyzer.detector_processor, "open")}
            | detection_stages(analyzer.detector)
            | {"alignment": (analyzer, "crop"), "embedding": (analyzer, "embed_crops")}
        )
        spent = stage_rows(
            stages,
            lambda analyzer=analyzer: analyzer(photos, "all", batch_size, num_threads=1, min_quality=0.0),
            len(photos),
        )
        rows |= {f"FaceAnalyzer, {label}, one thread, stage: {name}": row for name, row in spent.items()}
    return rows


def of_mixed_sizes(photos: list[Image.Image]) -> list[bytes]:
    """JPEGs of the photos at 0.8 to 2.4 times their size."""
    files = []
    for number, photo in enumerate(photos):
        scale = (0.8, 1.0, 1.6, 2.4)[number % 4]
        file = io.BytesIO()
        photo.resize((round(photo.width * scale), round(photo.height * scale))).save(file, "JPEG", quality=90)
        files.append(file.getvalue())
    return files


PARTS = ("mining", "embedding", "alignment", "detection", "photos")


@exit_on_input_error
def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="checkpoint folder")
    parser.add_argument("--images", type=Path, help="folder of JPEG photos; without it, only mining and embedding")
    parser.add_argument(
        "--detector", action="append", help="checkpoint folder of a face detector; without it, no detection"
    )
    parser.add_argument("--cpu-time", action="store_true", help="photos: one thread, CPU time, not two cores' clock")
    parser.add_argument("--min-face-size", type=float, help="smallest face to look for, in pixels")
    parser.add_argument("--original", type=Path, help="clone of timesler/facenet-pytorch to compare detection with")
    parser.add_argument("--part", choices=PARTS, action="append", help="only this part; may repeat")
    parser.add_argument("--photos", type=int, default=200, help="how many photos to take")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--output", type=Path, help="JSON file")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    parts = arguments.part or PARTS
    rounds, batch_size = arguments.rounds, arguments.batch_size

    results: dict[str, dict[str, float]] = {}
    if "mining" in parts:
        results["semi-hard mining, B = 1,800"] = mining_row(rounds)
    if "embedding" in parts:
        results |= embedding_rows(arguments.model, batch_size, rounds)
    if arguments.images:
        files = sorted(arguments.images.rglob("*.jpg"))
        if not files:
            raise InputError(f"{arguments.images} holds no .jpg files")
        # spread over the folder: neighbors often show one person
        files = files[:: max(len(files) // arguments.photos, 1)][: arguments.photos]
        if "alignment" in parts:
            results |= alignment_rows(arguments.model, [file.read_bytes() for file in files], rounds)
        if arguments.detector:
            photos = [Image.open(file).convert("RGB") for file in files]
            detectors = {
                Path(folder).name: load_detector(folder, arguments.min_face_size) for folder in arguments.detector
            }
            if "detection" in parts:
                results |= detection_rows(
                    next(iter(detectors.values())), arguments.original, photos, batch_size, rounds
                )
            if "photos" in parts:
                mixed = of_mixed_sizes(photos)
                results |= photo_rows(
                    arguments.model, detectors, arguments.original, mixed, batch_size, rounds, arguments.cpu_time
                )
    for name, row in results.items():
        print(f"{name:80}" + "  ".join(f"{figure} {value:.3g}" for figure, value in row.items()))
    if arguments.output:
        with atomic_write(arguments.output) as temporary:
            temporary.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
