"""Fit the weights of the quality of a face, on photos of people as they are and damaged.

    python scripts/fit_face_quality.py --model outputs/analyzer --images ../shared/data/celeba299/aligned_112x112 \
        --leave-out ../shared/data/celeba299/suspect_faces.json ../shared/data/celeba299/lfw_overlap.json

A face is as good as it is likely to match other, undamaged photos of its person at the threshold for a false accept
rate of 1e-3. Prints what the constants of hfembed/faces/quality.py are, up to the draw of the damage: log
odds, weights, the exponent of the tempered probability. People who may be in LFW are left out, so that
scripts/measure_face_quality.py measures on others.
"""

import argparse
import io
import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from measure_face_quality import measure, quality_of
from PIL import Image
from scipy.optimize import minimize, minimize_scalar

from hfembed.faces.evaluation.verification import logistic_calibration
from hfembed.faces.face_analyzer import FaceAnalyzer
from hfembed.faces.quality import norm_reference, shortfalls

KINDS = ("reduce", "reduce", "enlarge", "enlarge", "cut", "cut", "noise", "jpeg", "dark", "turn")


def on_canvas(crop: Image.Image) -> Image.Image:
    """An aligned crop in the middle of a picture of twice its size; its edges go on, so that a detector can see it."""
    across, down = crop.width // 2, crop.height // 2
    return Image.fromarray(np.pad(np.asarray(crop.convert("RGB")), ((down, down), (across, across), (0, 0)), "edge"))


def damage(photo: Image.Image, kind: str, generator: np.random.Generator) -> Image.Image:
    """A worse copy of a photo of `on_canvas`."""
    width, height = photo.size
    if kind in ("reduce", "enlarge"):
        factor = np.exp(generator.uniform(np.log(1.5), np.log(9)))
        small = photo.resize((round(width / factor), round(height / factor)), Image.Resampling.BOX)
        return small if kind == "reduce" else small.resize(photo.size, Image.Resampling.BICUBIC)
    if kind == "jpeg":
        encoded = io.BytesIO()
        photo.save(encoded, "JPEG", quality=int(generator.integers(3, 25)))
        return Image.open(encoded).convert("RGB")
    if kind == "cut":
        share, side = generator.uniform(0, 0.6), generator.integers(0, 4)
        box = [0, 0, width, height]
        edges = (66 + share * 80, 60 + share * 100, width - 66 - share * 80, height - 50 - share * 100)
        box[side] = round(edges[side])
        return photo.crop(box)
    if kind == "turn":
        return photo.rotate(180)
    pixels = np.asarray(photo, dtype=np.float32)
    if kind == "dark":
        pixels = 255 * (pixels / 255) ** generator.uniform(2, 6)
        spread = 4.0
    else:
        spread = generator.uniform(10, 60)
    noisy = pixels + generator.normal(0, spread, pixels.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def fit_weights(lacking: np.ndarray, matched: np.ndarray) -> np.ndarray:
    """Logistic regression with weights of at least 0, drawn to 2 where the photos say nothing about them.

    Args:
        lacking: (N, K), what each component lacks.
        matched: (N,), fraction of the other photos of the person that the face matches.

    Returns:
        (1 + K,), the log odds of a face that lacks nothing, and what each component takes off them.
    """

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        log_odds = weights[0] - lacking @ weights[1:]
        error = 1 / (1 + np.exp(-log_odds)) - matched
        value = (np.logaddexp(0, -log_odds) * matched + np.logaddexp(0, log_odds) * (1 - matched)).mean()
        slope = np.r_[error.mean(), -(error[:, None] * lacking).mean(0)]
        away = weights[1:] - 2
        return value + 0.01 * (away**2).mean(), slope + 0.02 * np.r_[0, away / len(away)]

    start = np.r_[3.0, np.ones(lacking.shape[1])]
    bounds = [(None, None)] + [(0, None)] * lacking.shape[1]
    return minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds).x


def left_out(files: Sequence[Path]) -> set[str]:
    """The "person/photo" and the people that lists name; of those with a cosine to an LFW person the nearer ones."""
    names = set()
    for file in files:
        for entry in json.loads(file.read_text()):
            if "file" in entry:
                names.add(entry["file"])
            elif entry["cosine"] > 0.55:
                names.add(entry["identity"])
    return names


def main() -> None:
    """Measure the photos, fit, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--leave-out", type=Path, nargs="*", default=[])
    parser.add_argument("--photos", type=int, default=4, help="Of each person.")
    arguments = parser.parse_args()
    skipped, generator = left_out(arguments.leave_out), np.random.default_rng(0)
    files: list[Path] = []
    for person in sorted(path for path in arguments.images.iterdir() if path.name not in skipped):
        kept = [file for file in sorted(person.iterdir()) if f"{person.name}/{file.name}" not in skipped]
        files += kept[: arguments.photos]
    clean = [on_canvas(Image.open(file)) for file in files]
    damaged = [damage(photo, KINDS[generator.integers(len(KINDS))], generator) for photo in clean]
    analyzer = FaceAnalyzer.from_pretrained(arguments.model, "cpu")
    faces = measure(analyzer, clean + damaged)

    is_clean = np.arange(2 * len(files)) < len(files)
    file = np.tile(np.arange(len(files)), 2)
    person = np.array([path.parent.name for path in files])[file]
    found = ~np.isnan(faces["score"])
    # as the analyzer has it from its own thresholds
    stored = (analyzer.embedder.config.thresholds or {}).get("norm")
    reference = stored or norm_reference(faces["norm"][found & is_clean])
    embeddings = np.nan_to_num(faces["embedding"])
    scores = embeddings @ embeddings[: len(files)].T  # of every face with every clean one
    other = (file[:, None] != file[None, : len(files)]) & found[:, None] & found[None, : len(files)]
    same = person[:, None] == person[None, : len(files)]
    threshold = np.quantile(scores[: len(files)][(other & ~same)[: len(files)]], 1 - 1e-3)
    mates = (other & same).sum(1)
    usable = mates > 0
    matched = ((scores >= threshold) & other & same).sum(1)[usable] / mates[usable]
    print(f"{usable.sum()} faces of {len(np.unique(person))} people, threshold {threshold:.3f}, norm {reference}")
    quality = SimpleNamespace(**{name: values[usable] for name, values in faces.items()})
    for used in (None, reference):
        lacking = shortfalls(quality, used)
        weights = fit_weights(np.stack(list(lacking.values()), 1), matched)
        rounded = {name: round(float(weight), 1) for name, weight in zip(lacking, weights[1:], strict=True)}
        print(f"log odds {weights[0]:.1f}, weights {rounded}")

    # the tempered probability, on pairs of a clean and any face, with the weights of the package
    overall = quality_of(faces, reference)
    worse = np.minimum(overall[:, None], overall[None, : len(files)])
    genuine = np.argwhere(other & same)
    impostor = np.argwhere(other & ~same)
    impostor = impostor[generator.permutation(len(impostor))[: len(genuine)]]
    chosen = tuple(np.concatenate([genuine, impostor]).T)
    pair_scores, pair_same, pair_worse = scores[chosen], same[chosen], worse[chosen]
    is_good = is_clean[chosen[0]]
    calibration = logistic_calibration(pair_scores[is_good], pair_same[is_good])
    log_odds = calibration.slope * pair_scores + calibration.intercept

    def log_loss(exponent: float) -> float:
        signed = np.where(pair_same, 1, -1) * log_odds * pair_worse**exponent
        return float(np.logaddexp(0, -signed).mean())

    best = minimize_scalar(log_loss, bounds=(0, 5), method="bounded").x
    print(f"exponent {best:.2f}: log loss {log_loss(best):.4f}, without quality {log_loss(0):.4f}")


if __name__ == "__main__":
    main()
