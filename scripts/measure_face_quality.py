"""Measure the quality of faces on LFW: errors against discarded pairs, reduced photos, calibrated probabilities.

    python scripts/measure_face_quality.py --model outputs/analyzer --images ../shared/data/lfw/lfw-a \
        --pairs ../shared/data/lfw/pairs.txt --output outputs/face_quality

The weights of the quality were fitted on other people (scripts/fit_face_quality.py, CelebA). Writes quality.json and
quality.png. What was measured of the photos is kept in .npz files, for the same command again.
"""

import argparse
import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from hfembed.checkpoint.checkpoint import Checkpoint
from hfembed.checkpoint.json_notes import write_json
from hfembed.checkpoint.results import provenance
from hfembed.faces.data.lfw import LfwPairs, read_pairs
from hfembed.faces.evaluation.plots import save_figure
from hfembed.faces.evaluation.verification import logistic_calibration, roc, tar_at_far, wilson_interval
from hfembed.faces.face_analyzer import FaceAnalyzer
from hfembed.faces.quality import COMPONENTS, norm_reference, overall_quality, tempered_log_odds
from hfembed.index.min_quality import MIN_QUALITY

FACTORS = (2, 4, 6, 8)
WAYS = ("reduced", "reduced, enlarged again")
DISCARDED = np.linspace(0, 0.3, 31)


class Photos:
    """LFW's photos by name, from a folder or an archive."""

    def __init__(self, images: Path, files: set[str]) -> None:
        self.encoded: dict[str, bytes] = {}
        if images.is_dir():
            self.encoded = {file: (images / file).read_bytes() for file in files}
            return
        with tarfile.open(images) as archive:
            for member in archive:
                name = "/".join(member.name.split("/")[-2:])
                if name in files:
                    self.encoded[name] = archive.extractfile(member).read()

    def open(self, file: str, factor: float = 1, way: str = WAYS[0]) -> Image.Image:
        """One photo, reduced by a factor."""
        photo = Image.open(io.BytesIO(self.encoded[file])).convert("RGB")
        small = photo.resize((round(photo.width / factor), round(photo.height / factor)), Image.Resampling.BOX)
        return small if way == WAYS[0] else small.resize(photo.size, Image.Resampling.BICUBIC)


def measure(analyzer: FaceAnalyzer, photos: Iterable[Image.Image]) -> dict[str, np.ndarray]:
    """Components (N,) and embeddings (N, D) of the face nearest to each photo's center; NaN where none was found."""
    crops, assess = [], []
    for source in photos:
        photo = analyzer.detector_processor.open(source, analyzer.detector.config.max_image_size)
        found = analyzer.find([photo])[0]
        crops.append(None)
        assess.append(None)
        if len(found.scores):
            centers = (found.boxes[:, :2] + found.boxes[:, 2:]).numpy() / 2
            nearest = np.linalg.norm(centers - np.array(source.size) / 2, axis=1).argmin()
            score, box, landmarks = (
                values[nearest].numpy() for values in (found.scores, found.boxes, found.landmarks)
            )
            try:
                crops[-1] = analyzer.crop(source, photo, landmarks)
            except ValueError:  # most of the landmarks lie outside the photo: not a face that can be used
                continue
            assess[-1] = analyzer.assess(photo, float(score), box, landmarks, crops[-1])
    usable = [row for row, crop in enumerate(crops) if crop is not None]
    batches = [usable[start : start + 32] for start in range(0, len(usable), 32)]
    embedded, norms = zip(*(analyzer.embed_crops([crops[row] for row in batch]) for batch in batches), strict=True)
    embeddings = np.full((len(crops), embedded[0].shape[1]), np.nan, dtype=np.float32)
    embeddings[usable] = np.concatenate(embedded)
    rows = np.full((len(crops), len(COMPONENTS)), np.nan)
    for row, norm in zip(usable, np.concatenate(norms), strict=True):
        quality = assess[row](float(norm))
        rows[row] = [getattr(quality, name) for name in COMPONENTS]
    return {**dict(zip(COMPONENTS, rows.T, strict=True)), "embedding": embeddings}


def choose_people(pairs: LfwPairs) -> tuple[list[str], np.ndarray, np.ndarray]:
    """One photo of each of 180 people; the 435 pairs of the first 30, and 10,000 pairs of the others."""
    first: dict[str, str] = {}
    for file in pairs.files:
        first.setdefault(file.split("/")[0], file)
    people = np.random.default_rng(0).permutation(sorted(first))[:180]
    a, b = np.triu_indices(30, 1)
    c, d = np.triu_indices(150, 1)
    chosen = np.random.default_rng(1).permutation(len(c))[:10_000]
    return [first[person] for person in people], np.r_[a, c[chosen] + 30], np.r_[b, d[chosen] + 30]


def measure_all(arguments: argparse.Namespace) -> dict[str, dict[str, np.ndarray]]:
    """What `measure` finds in every set of photos; kept in files, since it takes long."""
    pairs = read_pairs(arguments.pairs)
    people, some = choose_people(pairs)[0], pairs.in_folds([0]).files
    factors = np.exp(np.random.default_rng(2).uniform(np.log(1.5), np.log(8), len(some)))
    sets: dict[str, list[tuple]] = {
        f"{factor} {way}": [(file, factor, way) for file in people] for factor in FACTORS for way in WAYS
    }
    sets["mixed"] = [(file, factor, WAYS[1]) for file, factor in zip(some, factors, strict=True)]
    parts = np.array_split(pairs.files, 10)
    sets |= {f"view2_{number}": [(file,) for file in part] for number, part in enumerate(parts)}
    photos = Photos(arguments.images, set(pairs.files))
    analyzer = FaceAnalyzer.from_pretrained(arguments.model, "cpu")
    found = {}
    for name, wanted in sets.items():
        kept = arguments.output / f"{name}.npz"
        if not kept.is_file():
            np.savez(kept, **measure(analyzer, (photos.open(*which) for which in wanted)))
        print(name, flush=True)
        found[name] = dict(np.load(kept))
    whole = [found.pop(f"view2_{number}") for number in range(10)]
    found["view2"] = {name: np.concatenate([part[name] for part in whole]) for name in whole[0]}
    return found


def cosines(faces: dict[str, np.ndarray], a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of the pairs of faces a and b, (P,); NaN where one was not found."""
    return np.einsum("pd,pd->p", faces["embedding"][a].astype(np.float64), faces["embedding"][b])


def quality_of(faces: dict[str, np.ndarray], reference: dict[str, float] | None) -> np.ndarray:
    """(N,), 0 where no face was found."""
    quality = overall_quality(SimpleNamespace(**faces), reference)
    return np.where(np.isnan(faces["score"]), 0, quality)


def error_versus_discard(scores: np.ndarray, worse: np.ndarray, threshold: float) -> list[float]:
    """FNMR in percent of genuine pairs, after the worst were discarded (Grother, Tabassi 2007), by `DISCARDED`."""
    order = np.argsort(worse, kind="stable")
    wrong = (scores < threshold)[order]
    return [100 * float(wrong[round(share * len(wrong)) :].mean()) for share in DISCARDED]


def losses(probability: np.ndarray, same: np.ndarray) -> dict[str, float]:
    """Brier score and log loss."""
    clipped = probability.clip(1e-12, 1 - 1e-12)
    return {
        "brier": float(((probability - same) ** 2).mean()),
        "log_loss": float(-np.log(np.where(same, clipped, 1 - clipped)).mean()),
    }


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    for name in ("--images", "--pairs", "--output"):
        parser.add_argument(name, required=True, type=Path)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    pairs = read_pairs(arguments.pairs)
    found = measure_all(arguments)

    view2 = found["view2"]
    place = {file: number for number, file in enumerate(pairs.files)}
    a, b = (np.array([place[file] for file in files]) for files in (pairs.file_a, pairs.file_b))
    failed = np.isnan(view2["score"][a]) | np.isnan(view2["score"][b])
    scores, same = np.where(failed, -1, cosines(view2, a, b)), pairs.same
    curve = roc(scores, same, failed)
    thresholds = {far: tar_at_far(curve, far).threshold for far in (1e-2, 1e-3)}
    stored = Checkpoint.resolve(arguments.model).thresholds or {}
    reference = stored.get("norm") or norm_reference(view2["norm"][~np.isnan(view2["norm"])])
    # of the checkpoint, as a user has it, and of these pairs
    lenient = {"view2": thresholds[1e-2]}
    if "0.01" in stored.get("far", {}):
        lenient["stored"] = stored["far"]["0.01"]
    quality = quality_of(view2, reference)
    report: dict[str, Any] = {
        "norm": reference,
        "thresholds": {str(far): threshold for far, threshold in thresholds.items()}
        | {"stored": lenient.get("stored")},
        "pairs": {"view2": len(same), "failed": int(failed.sum())},
    }

    # errors against discarded pairs; failed pairs are left out, as the worst by any measure
    genuine = same & ~failed
    measures = {
        "quality": quality,
        "quality without the norm": quality_of(view2, None),
        "norm alone": view2["norm"],
        "score alone": view2["score"],
        "size alone": view2["size"],
        "sharpness alone": view2["sharpness"],
    }
    report["error_versus_discard"] = {
        name: error_versus_discard(scores[genuine], np.minimum(values[a], values[b])[genuine], thresholds[1e-3])
        for name, values in measures.items()
    }
    report["lower_fnmr_after_10_percent"] = {
        name: 100 * (1 - curve[10] / curve[0]) for name, curve in report["error_versus_discard"].items()
    }
    report["clean_photos_let_through"] = 100 * float((quality[~np.isnan(view2["score"])] >= MIN_QUALITY).mean())

    # pairs of different people on reduced photos, at the thresholds for a false accept rate of 1e-2
    _, first, second = choose_people(pairs)
    report["reduced"] = {}
    for way in WAYS:
        for factor in FACTORS:
            faces = found[f"{factor} {way}"]
            is_found = ~np.isnan(faces["score"])
            passes = quality_of(faces, reference) >= MIN_QUALITY
            compared = np.nan_to_num(cosines(faces, first, second), nan=-1)
            row: dict[str, Any] = {"found": int(is_found.sum()), "faces_let_through": int(passes.sum())}
            row["median_size"] = float(np.nanmedian(faces["size"])) if is_found.any() else None
            for kind, is_kind in (("435", np.arange(len(first)) < 435), ("10000", np.arange(len(first)) >= 435)):
                for gate, is_in in (("all", is_found), ("gate", passes)):
                    chosen = is_kind & is_in[first] & is_in[second]
                    count = int(chosen.sum())
                    entry: dict[str, Any] = {"pairs": count}
                    for name, threshold in lenient.items():
                        wrong = int((compared[chosen] >= threshold).sum())
                        interval = [100 * bound for bound in wilson_interval(wrong, count)] if count else None
                        entry[name] = {"false_matches": wrong, "interval_95": interval}
                    row[f"{kind}_{gate}"] = entry
            report["reduced"][f"{factor} x {way}"] = row

    # probabilities: calibrated on the folds 1 to 9, measured on the photos of fold 0, as they are and reduced
    tested = pairs.fold == 0
    train = ~tested & ~failed
    calibration = logistic_calibration(scores[train], same[train])
    some = {file: number for number, file in enumerate(pairs.in_folds([0]).files)}
    mixed, mixed_quality = found["mixed"], quality_of(found["mixed"], reference)
    c, d = (np.array([some[f] for f in np.array(files)[tested]]) for files in (pairs.file_a, pairs.file_b))
    all_scores = np.r_[scores[tested], np.nan_to_num(cosines(mixed, c, d), nan=-1)]
    worse = np.r_[np.minimum(quality[a], quality[b])[tested], np.minimum(mixed_quality[c], mixed_quality[d])]
    labels = np.r_[same[tested], same[tested]]
    usable = np.r_[~failed[tested], ~np.isnan(mixed["score"][c]) & ~np.isnan(mixed["score"][d])]
    log_odds = calibration.slope * all_scores + calibration.intercept
    report["probability"] = {}
    for low, high in ((0, 0.1), (0.1, 0.3), (0.3, 0.6), (0.6, 0.8), (0.8, 1.01), (0, 1.01)):
        chosen = usable & (worse >= low) & (worse < high)
        if chosen.sum() < 20:
            continue
        plain = 1 / (1 + np.exp(-log_odds[chosen]))
        moved = 1 / (1 + np.exp(-tempered_log_odds(log_odds[chosen], worse[chosen])))
        report["probability"][f"{low} to {min(high, 1)}"] = {
            "pairs": int(chosen.sum()),
            "without_quality": losses(plain, labels[chosen]),
            "with_quality": losses(moved, labels[chosen]),
        }

    report |= provenance({"images": arguments.images, "pairs": arguments.pairs})
    write_json(arguments.output / "quality.json", report)
    draw(report, arguments.output / "quality.png")
    print(json.dumps({key: report[key] for key in report if key != "error_versus_discard"}, indent=1))


def draw(report: dict[str, Any], path: Path) -> None:
    """The curves of errors against discarded pairs, and the false matches on reduced photos."""
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, curve in report["error_versus_discard"].items():
        left.plot(100 * DISCARDED, curve, label=name, linewidth=2.4 if name == "quality" else 1.2)
    left.set(xlabel="% of the genuine pairs discarded, worst first", ylabel="FNMR in % at FAR 1e-3", ylim=(0, None))
    left.legend(frameon=False, fontsize=9)
    left.set_title("LFW View 2: errors against discarded pairs", fontsize=10)
    used = "stored" if "stored" in report["reduced"][f"{FACTORS[0]} x {WAYS[0]}"]["10000_all"] else "view2"
    for way, style in zip(WAYS, ("-", "--"), strict=True):
        for gate, color, label in (
            ("all", "#8a8a8a", "all faces found"),
            ("gate", "#1f5fa8", "let through by quality"),
        ):
            rows = [report["reduced"][f"{factor} x {way}"][f"10000_{gate}"] for factor in FACTORS]
            rates = [100 * row[used]["false_matches"] / row["pairs"] if row["pairs"] else np.nan for row in rows]
            right.plot(FACTORS, rates, style, color=color, marker="o", label=f"{way}: {label}")
    right.set(xlabel="times reduced", ylabel="false matches in %, threshold for FAR 1e-2", ylim=(0, None))
    right.set_xticks(FACTORS)
    right.legend(frameon=False, fontsize=9)
    right.set_title("10,000 pairs of different people", fontsize=10)
    for axes in (left, right):
        axes.grid(True, color="#dddddd", linewidth=0.7)
        axes.spines[["top", "right"]].set_visible(False)
    save_figure(figure, path)


if __name__ == "__main__":
    main()
