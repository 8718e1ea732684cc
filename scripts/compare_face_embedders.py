"""Face embedders on LFW's View 2 beside each other and together, and what gray photos cost them.

python scripts/compare_face_embedders.py outputs/sface outputs/dlib --images lfw-a.tgz --pairs pairs.txt \
    --detector outputs/yunet --color-faces celeba299/aligned_112x112.tgz --output outputs/compare_faces

Faces are found once. Each embedder aligns them to its own template; together, a pair's score is the mean of their
cosines. With color photos of people at hand (crops on the standard template), the same random pairs are also verified
in color and in gray. Speed is that of embedding alone, per second of CPU time on one thread, after
`optimize_for_inference`.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hfembed.checkpoint.loading import load_face_detector, load_face_embedder
from hfembed.checkpoint.results import provenance, write_results
from hfembed.errors import InputError, exit_on_input_error
from hfembed.faces.data.aligned_faces import AlignedFaces
from hfembed.faces.data.faces import FaceSource, load_faces
from hfembed.faces.evaluation import verification
from hfembed.faces.evaluation.embedding import embed_aligned
from hfembed.faces.evaluation.lfw import LfwVerification

FARS = ("0.1", "0.01", "0.001")


def random_pairs(people: Sequence[int], count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As many genuine as impostor pairs of photos, none twice.

    Args:
        people: The person of each photo.
        count: Pairs of each kind.

    Returns:
        Rows of the first and of the second photos, (2 count,), and whether they show the same person.

    Raises:
        InputError: There are fewer pairs of a kind.
    """
    labels = np.asarray(people)
    a, b = np.triu_indices(len(labels), 1)
    same = labels[a] == labels[b]
    generator = np.random.default_rng(seed)
    chosen = []
    for kind in (True, False):
        rows = np.flatnonzero(same == kind)
        if len(rows) < count:
            raise InputError(f"{len(rows)} {'genuine' if kind else 'impostor'} pairs, fewer than {count}")
        chosen.append(generator.choice(rows, count, replace=False))
    rows = np.concatenate(chosen)
    return a[rows], b[rows], same[rows]


def to_gray(pixels: torch.Tensor) -> torch.Tensor:
    """Color crops (N, 3, H, W) uint8 -> the same in gray, by the weights that JPEG and Pillow use."""
    weights = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    return (pixels * weights).sum(1, keepdim=True).round().to(torch.uint8).expand(-1, 3, -1, -1)


def accuracies(embeddings: np.ndarray, pairs: tuple[np.ndarray, np.ndarray, np.ndarray]) -> dict[str, float]:
    """Ten-fold accuracy of pairs, in percent, with its standard error; the threshold comes from the other folds."""
    a, b, same = pairs
    scores = np.einsum("pd,pd->p", embeddings[a], embeddings[b])
    result = verification.k_fold_accuracy(scores, same, np.arange(len(same)) % 10)
    return {"accuracy": 100 * result.mean, "standard_error": 100 * result.standard_error}


def together(embeddings: Sequence[np.ndarray]) -> np.ndarray:
    """Embeddings (N, D1 + D2 + ...) whose cosine is the mean of the parts' cosines."""
    return np.concatenate([part / np.linalg.norm(part, axis=1, keepdims=True) for part in embeddings], axis=1)


def measure_on_lfw(lfw: LfwVerification, models: dict[str, Any], rows: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Fill the rows; returns the photos that failed."""
    failures: dict[str, str] = {}
    embedded = []
    for name, (model, processor) in models.items():
        crops = lfw.aligned(processor)
        failures |= crops.failures
        start = time.process_time()
        embedded.append(embed_aligned(model, processor, crops.pixels))
        rows[name]["photos_per_second"] = len(crops.files) / (time.process_time() - start)
    if len(models) > 1:
        seconds = sum(1 / rows[name]["photos_per_second"] for name in models)
        rows["mean of cosines"]["photos_per_second"] = 1 / seconds
        embedded.append(together(embedded))
    for row, embeddings in zip(rows.values(), embedded, strict=True):
        result = lfw.result(embeddings, crops._replace(failures=failures))
        row |= {key.removeprefix(f"{lfw.name}_"): value for key, value in result.metrics.items()}
        row["thresholds"] = result.thresholds
    return failures


@exit_on_input_error
def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="face embedders")
    parser.add_argument("--images", help="LFW; without it only color and gray are compared")
    parser.add_argument("--pairs", help="pairs.txt")
    found = parser.add_mutually_exclusive_group()
    found.add_argument("--detector", help="a face detector")
    found.add_argument("--landmarks", help="JSON: file -> five points")
    parser.add_argument("--mirror", choices=("none", "sum", "concatenate"), help="default: the checkpoints'")
    parser.add_argument("--color-faces", help="color crops on the standard template, a folder per person")
    parser.add_argument("--faces-per-person", type=int, default=6)
    parser.add_argument("--output", type=Path, required=True, help="folder for results.json")
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    models = {}
    for name in arguments.models:
        model, processor = load_face_embedder(name, "cpu")
        model.config.mirror = arguments.mirror or model.config.mirror
        models[Path(name).name] = (model.optimize_for_inference(), processor)
    names = [*models, "mean of cosines"] if len(models) > 1 else list(models)
    rows: dict[str, dict[str, Any]] = {name: {} for name in names}
    failures: dict[str, str] = {}
    if arguments.images:
        detector = load_face_detector(arguments.detector, "cpu")[0] if arguments.detector else None
        lfw = LfwVerification(arguments.images, arguments.pairs, arguments.landmarks, detector=detector)
        failures = measure_on_lfw(lfw, models, rows)
    if arguments.color_faces:
        source = FaceSource(arguments.color_faces, aligned="arcface_112", max_photos=arguments.faces_per_person)
        faces = load_faces(source)
        pairs = random_pairs(faces["label"][:], 3000)
        pixels = [torch.as_tensor(AlignedFaces(faces, processor).pixels()) for _, processor in models.values()]
        for color, change in (("color", lambda crops: crops), ("gray", to_gray)):
            parts = [
                embed_aligned(model, processor, change(crops))
                for (model, processor), crops in zip(models.values(), pixels, strict=True)
            ]
            for name, embeddings in zip(names, [*parts, together(parts)], strict=False):
                rows[name][color] = accuracies(embeddings, pairs)

    for name, row in rows.items():
        print(name)
        if arguments.images:
            far = ", ".join(f"{row['thresholds']['far'][far]:.3f}" for far in FARS if far in row["thresholds"]["far"])
            print(f"  LFW {row['accuracy']:.2f} +- {row['standard_error']:.2f} %, EER {row['eer']:.2f} %, ", end="")
            print(f"thresholds at FAR {', '.join(FARS)}: {far}; {row['photos_per_second']:.0f} photos/s")
        for color in ("color", "gray"):
            if color in row:
                print(f"  {color} {row[color]['accuracy']:.2f} +- {row[color]['standard_error']:.2f} %")
    files = {"images": arguments.images, "pairs": arguments.pairs, "landmarks": arguments.landmarks}
    files |= {"color_faces": arguments.color_faces}
    metrics = {
        f"compare_faces_{name.replace(' ', '_')}": row["accuracy"] for name, row in rows.items() if arguments.images
    }
    details = {"rows": rows, "failures": failures, "mirror": arguments.mirror, "detector": arguments.detector}
    write_results(arguments.output, "compare_faces", metrics, details | provenance(files))


if __name__ == "__main__":
    main()
