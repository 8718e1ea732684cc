"""Measure a face embedder by identification on a set of people: `hfembed evaluate identification`."""

import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from hfembed.checkpoint.checkpoint import Checkpoint
from hfembed.checkpoint.results import provenance, read_results, write_results
from hfembed.errors import InputError
from hfembed.faces.evaluation.identification import (
    blufr,
    compare_all,
    cumulative_match,
    detection_and_identification,
    draw_blufr_trials,
    first_photos,
    identify,
    megaface,
    people_interval,
    ratio_interval,
)
from hfembed.faces.evaluation.people_embeddings import PeopleEmbeddings
from hfembed.faces.evaluation.plots import plot_cmc, plot_det, plot_roc
from hfembed.faces.evaluation.verification import far_is_carried, tar_at_far
from hfembed.index.error_rates import rate_label

NAME = "identification"
RANKS = (1, 5, 10)
PAIR_FARS = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
MAX_RANK = 20
_DISTRACTORS_AT_A_TIME = 4096
_NAMED_AT_MOST = 10


def report_identification(
    photos: PeopleEmbeddings,
    output: str | Path,
    data: str,
    checkpoint: Checkpoint,
    distractors: np.ndarray | None = None,
    data_files: dict[str, str | Path | None] | None = None,
) -> dict[str, Any]:
    """Run every protocol that the data carries; write results.json, cmc.png, det.png and identification_roc.png.

    Args:
        distractors: (M, D) float, photos of other people, for MegaFace's challenge 1.
        data_files: Role -> data file, to be named with its sha256.

    Returns:
        What was written into results.json: figures in percent, the details under "identification"; and, not written,
        the thresholds of all pairs under "thresholds".

    Raises:
        InputError: Nobody has two photos.
        OSError: The folder cannot be written.
    """
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    read_results(output)  # what cannot be written at the end should fail before the work
    begun = time.perf_counter()
    embeddings, files, people, failures = photos
    names, count = np.array(people), Counter(people)
    several = np.array([count[person] > 1 for person in people])
    if not several.any():
        raise InputError(f"{data}: nobody has two photos, so nobody can be found again")
    first = first_photos(files, people)
    metrics: dict[str, float] = {}
    details: dict[str, Any] = {
        "protocol": "closed set, open set, all pairs; undetected and unreadable photos count as errors",
        "data": data,
        "model": checkpoint.name,
        "units": "percent; thresholds are cosine similarities; intervals are 95 %, by bootstrap over people",
        "photos": {"all": len(files), "people": len(count), "failed": len(failures)},
    }

    probes = ~first  # of people with two or more photos
    curves = {}
    for title, key, gallery in (
        ("people with two or more photos", "", first & several),
        ("everybody", "all_people_", first),
    ):
        found = identify(embeddings[gallery], names[gallery], embeddings[probes], names[probes])
        curves[f"{title} ({gallery.sum():,})"] = match = cumulative_match(found, MAX_RANK)
        ranks = {str(rank): 100 * float(match[rank - 1]) for rank in RANKS}
        metrics |= {f"{key}rank_{rank}": value for rank, value in ranks.items()}
        details[f"closed_set_{key or 'several_photos_'}".rstrip("_")] = {
            "gallery": f"the first photo of {title}",
            "gallery_people": int(gallery.sum()),
            "probes": int(probes.sum()),
            "rank": ranks,
            "rank_1_interval": _percent(people_interval(found.rank == 1, names[probes])),
        }

    pairs = compare_all(embeddings, people)
    curve = pairs.histogram.roc()
    details["all_pairs"] = {"genuine": curve.genuine, "impostor": curve.impostors, "verification_rate": {}}
    for far in PAIR_FARS:
        if far_is_carried(far, curve.impostors):
            point = tar_at_far(curve, far)
            accepted = np.bincount(
                pairs.genuine_person, weights=pairs.genuine_scores >= point.threshold, minlength=len(count)
            )
            label = rate_label(far)
            metrics[f"vr_at_far_{label}"] = 100 * point.tar
            details["all_pairs"]["verification_rate"][label] = {
                "rate": 100 * point.tar,
                "interval": _percent(ratio_interval(accepted, pairs.genuine_trials)),
                "threshold": point.threshold,
            }

    _open_set(embeddings, names, several, first, metrics, details)
    if distractors is not None:
        _megaface(embeddings[several], names[several], distractors, metrics, details)
    details["failures"] = dict(sorted(failures.items()))
    details["seconds"] = round(time.perf_counter() - begun, 1)
    details |= provenance(data_files or {})

    plot_cmc(curves, output / "cmc.png", f"{data}: closed-set identification")
    plot_det({"this model": curve}, output / "det.png", f"{data}: all {curve.genuine + curve.impostors:,} pairs")
    plot_roc({"this model": curve}, output / "identification_roc.png", f"{data}: all pairs")
    metrics = {f"{NAME}_{figure}": float(value) for figure, value in metrics.items()}
    write_results(output, NAME, metrics, details, checkpoint)
    return {**metrics, NAME: details, "thresholds": pairs.histogram.thresholds(f"{data}, all pairs")}


def _open_set(
    embeddings: np.ndarray,
    names: np.ndarray,
    several: np.ndarray,
    first: np.ndarray,
    metrics: dict[str, float],
    details: dict[str, Any],
) -> None:
    """BLUFR where there are people enough for it, else half of the people against the other half."""
    try:
        trials = draw_blufr_trials(names)
    except InputError as error:
        details["blufr"] = {"left_out": str(error)}
    else:
        verified, identified = blufr(embeddings, names, trials)
        details["blufr"] = {
            "protocol": f"{len(trials)} trials, own draws (seed 0), not the authors' lists; mean - standard deviation",
            "verification_rate_at_far_1e-3": _trials(verified),
            "dir_at_far_1e-2_rank_1": _trials(identified),
        }
        metrics["blufr_vr_at_far_1e-3"] = details["blufr"]["verification_rate_at_far_1e-3"]["mean_minus_sd"]
        metrics["blufr_dir_at_far_1e-2"] = details["blufr"]["dir_at_far_1e-2_rank_1"]["mean_minus_sd"]

    candidates = np.unique(names[several])
    enrolled = np.isin(names, candidates[::2])
    gallery = first & enrolled
    found = identify(embeddings[gallery], names[gallery], embeddings[~gallery], names[~gallery])
    details["open_set"] = {
        "gallery": "the first photo of every second person (by name) with two or more; strangers: everybody else",
        "gallery_people": int(gallery.sum()),
        "strangers_probes": int((~found.mated).sum()),
        "dir": {},
    }
    for far in (0.1, 0.01, 0.001):
        if far_is_carried(far, int((~found.mated).sum())):
            result = detection_and_identification(found, far)
            label = rate_label(far)
            metrics[f"dir_at_far_{label}"] = 100 * result.rate
            details["open_set"]["dir"][label] = {
                "rate": 100 * result.rate,
                "interval": _percent(people_interval(result.hits, names[~gallery][found.mated])),
                "threshold": result.threshold,
            }


def _megaface(
    probes: np.ndarray, people: np.ndarray, distractors: np.ndarray, metrics: dict[str, float], details: dict[str, Any]
) -> None:
    blocks = np.array_split(distractors, -(-len(distractors) // _DISTRACTORS_AT_A_TIME))
    usable = int((~np.isnan(distractors[:, 0])).sum())
    sizes = sorted({size for size in (10, 100, 1000, 10_000, 100_000, 1_000_000) if size <= usable} | {usable})
    result = megaface(probes, people, blocks, sizes)
    details["megaface"] = {
        "protocol": "challenge 1: each photo of a person in turn is the only mate among N distractors",
        "searches": len(result.person),
        "rank_1": {str(size): 100 * rate for size, rate in result.rank_1.items()},
        "rank_1_interval": {
            str(size): _percent(people_interval(hits, result.person)) for size, hits in result.hits.items()
        },
        "tar_at_far_1e-6": None if result.tar is None else 100 * result.tar,
    }
    metrics[f"megaface_rank_1_of_{usable}"] = 100 * result.rank_1[usable]


def summary(report: dict[str, Any]) -> str:
    """The figures of `report_identification` as lines to print."""
    details = report[NAME]
    photos = details["photos"]
    lines = [f"{details['data']}: {photos['all']:,} photos of {photos['people']:,} people, {photos['failed']} failed"]
    named = list(details["failures"].items())[:_NAMED_AT_MOST]
    lines += [f"  {file}: {reason}" for file, reason in named]
    if photos["failed"] > len(named):
        lines.append(f"  and {photos['failed'] - len(named)} more, in results.json")
    for key in ("closed_set_several_photos", "closed_set_all_people"):
        part = details[key]
        low, high = part["rank_1_interval"]
        ranks = ", ".join(f"rank-{rank} {value:.2f}" for rank, value in part["rank"].items())
        lines.append(
            f"  {part['gallery']} ({part['gallery_people']:,}), {part['probes']:,} probes: {ranks} % "
            f"(rank-1 {low:.1f} to {high:.1f})"
        )
    for far, point in details["all_pairs"]["verification_rate"].items():
        low, high = point["interval"]
        lines.append(f"  all pairs: VR {point['rate']:.2f} % ({low:.1f} to {high:.1f}) at FAR {far}")
    for far, point in details["open_set"]["dir"].items():
        low, high = point["interval"]
        lines.append(f"  open set: DIR {point['rate']:.2f} % ({low:.1f} to {high:.1f}) at FAR {far}")
    if "protocol" in details["blufr"]:
        for figure in ("verification_rate_at_far_1e-3", "dir_at_far_1e-2_rank_1"):
            part = details["blufr"][figure]
            lines.append(
                f"  BLUFR, own draws: {figure.replace('_', ' ')}: {part['mean']:.2f} % - sd {part['sd']:.2f} = "
                f"{part['mean_minus_sd']:.2f} %"
            )
    for size, rate in details.get("megaface", {}).get("rank_1", {}).items():
        lines.append(f"  MegaFace, {int(size):,} distractors: rank-1 {rate:.2f} %")
    lines.append(f"  {details['seconds']} s without embedding")
    return "\n".join(lines)


def _trials(rates: np.ndarray) -> dict[str, Any]:
    mean, deviation = float(rates.mean()), float(rates.std(ddof=1))
    return {
        "mean": 100 * mean,
        "sd": 100 * deviation,
        "mean_minus_sd": 100 * (mean - deviation),
        "trials": (100 * rates).tolist(),
    }


def _percent(interval: tuple[float, float]) -> list[float]:
    return [100 * end for end in interval]
