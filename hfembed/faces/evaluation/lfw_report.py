"""Measure a checkpoint on LFW and leave the figures and two pictures in a folder: `hfembed evaluate lfw`."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from hfembed.checkpoint.results import provenance, read_results, write_results
from hfembed.faces.evaluation import verification
from hfembed.faces.evaluation.groups import summary_of_groups
from hfembed.faces.evaluation.lfw import LfwResult, LfwVerification
from hfembed.faces.evaluation.pixel_baselines import pixel_baseline_embeddings
from hfembed.faces.evaluation.plots import Mistake, plot_groups, plot_mistakes, plot_roc
from hfembed.models.face_embedder.image_processing_face_embedder import FaceImageProcessor
from hfembed.training.distributed import is_first_rank


def report_lfw(
    lfw: LfwVerification,
    model: PreTrainedModel,
    processor: FaceImageProcessor,
    output: str | Path,
    baselines: bool = False,
    mistakes: int = 5,
    files: dict[str, str | Path | None] | None = None,
    prefix: str = "",
) -> dict[str, Any]:
    """Measure, write results.json, roc.png, mistakes.png and, where there are groups, groups.png.

    Args:
        baselines: Also score raw pixels and eigenfaces, fitted on the people whom no pair names.
        files: Role -> data file, to be named with its sha256.
        prefix: Of the pictures' names, where several sets share a folder.

    Returns:
        What results.json has of it; on several ranks (`LfwVerification(spread=True)`, called on all) the first one
        writes, and the others get {}.

    Raises:
        InputError: The images, pairs or landmarks are not what they should be.
        OSError: The folder cannot be written.
    """
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    read_results(output)  # what cannot be written at the end should fail before the work
    start = time.perf_counter()
    crops = lfw.aligned(processor)
    aligned = time.perf_counter()
    result = lfw.evaluate(model, processor)
    done = time.perf_counter()
    if lfw.spread and not is_first_rank():
        return {}

    same, failed = result.scorer.pairs.same, result.scorer.failed
    curves = {"this model": verification.roc(result.scores, same, failed)}
    details = {
        "model": str(model.config.name_or_path),
        "mirror": model.config.mirror,
        **result.details,
        "thresholds": result.thresholds,
    }
    if baselines:
        outside = lfw.aligned_outside(processor)
        fitted_on = outside.pixels[[file not in outside.failures for file in outside.files]]
        details["baselines"] = {"fitted_on": f"{len(fitted_on)} images of people whom no pair names", "rows": {}}
        for name, embeddings in pixel_baseline_embeddings(fitted_on, crops.pixels).items():
            baseline_result = lfw.result(embeddings, crops)
            details["baselines"]["rows"][name] = baseline_result.metrics
            curves[name.replace("_", " ")] = verification.roc(baseline_result.scores, same, failed)
    details["seconds"] = {"reading_and_aligning": round(aligned - start, 1), "embedding": round(done - aligned, 1)}
    details |= provenance(files or {})

    accuracy = result.metrics[lfw.primary_metric]
    plot_roc(curves, output / f"{prefix}roc.png", f"{lfw.name}: accuracy {accuracy:.2f} %")
    if "groups" in details:
        title = f"{lfw.name}, at the threshold of the highest accuracy ({details['groups']['threshold']:.3f})"
        plot_groups(details["groups"], output / f"{prefix}groups.png", title)
    draw_mistakes(result, output / f"{prefix}mistakes.png", lambda files: lfw.pixels(files, processor), mistakes)
    write_results(output, lfw.name, result.metrics, details, model)
    return {**result.metrics, lfw.name: details}


def summary(name: str, report: dict[str, Any]) -> str:
    """The figures of `report_lfw` as lines to print; `name` is the protocol's."""
    details = report[name]
    error = f" +- {report[f'{name}_standard_error']:.2f}" if f"{name}_standard_error" in report else ""
    lines = [
        f"{name}: accuracy {report[f'{name}_accuracy']:.2f}{error} %  ({details['protocol']})",
        f"  AUC {report[f'{name}_auc']:.2f} %, EER {report[f'{name}_eer']:.2f} %, mirror: {details['mirror']}",
    ]
    if f"{name}_insightface_accuracy" in report:
        lines.append(
            f"  accuracy by insightface's rule {report[f'{name}_insightface_accuracy']:.3f} +- "
            f"{details['insightface_deviation']:.3f} %"
        )
    for target, point in details["tar_at_far"].items():
        low, high = point["interval_95"]
        lines.append(f"  TAR {point['tar']:.2f} % ({low:.2f} to {high:.2f}) at FAR {target}")
    for target, reason in details["far_not_measurable"].items():
        lines.append(f"  no TAR at FAR {target}: {reason}")
    for baseline, metrics in details.get("baselines", {}).get("rows", {}).items():
        lines.append(f"  baseline, {baseline.replace('_', ' ')}: accuracy {metrics[f'{name}_accuracy']:.2f} %")
    if "groups" in details:
        lines += summary_of_groups(details["groups"])
    failures = details["failures"]
    if failures:
        lines.append(f"  {len(failures)} images failed and make {details['pairs']['failed']} pairs errors:")
        lines += [f"    {file}: {reason}" for file, reason in list(failures.items())[:10]]
        if len(failures) > 10:
            lines.append(f"    and {len(failures) - 10} more, in results.json")
    seconds = details["seconds"]
    lines.append(f"  {seconds['reading_and_aligning']} s reading and aligning, {seconds['embedding']} s embedding")
    return "\n".join(lines)


def draw_mistakes(
    result: LfwResult, path: Path, pixels_of: Callable[[Sequence[str]], dict[str, torch.Tensor]], count: int = 5
) -> None:
    """Draw up to `count` of the most confident mistakes of each kind, at the threshold of the best accuracy."""
    scorer, scores, threshold = result.scorer, result.scores, result.thresholds["accuracy"]
    same, scored = np.asarray(scorer.pairs.same), ~scorer.failed
    rising = np.argsort(scores, kind="stable")

    def mistake(pair: int) -> Mistake:
        a, b = files_a[pair], files_b[pair]
        return Mistake(float(scores[pair]), pixels[a], pixels[b], _caption(a), _caption(b))

    accepted = [pair for pair in rising[::-1] if scored[pair] and not same[pair] and scores[pair] >= threshold]
    rejected = [pair for pair in rising if scored[pair] and same[pair] and scores[pair] < threshold]
    files_a, files_b = scorer.pairs.file_a, scorer.pairs.file_b
    shown = [*accepted[:count], *rejected[:count]]
    pixels = pixels_of([side[pair] for pair in shown for side in (files_a, files_b)])
    plot_mistakes(
        [mistake(pair) for pair in accepted[:count]],
        [mistake(pair) for pair in rejected[:count]],
        path,
        f"The highest-scoring of {len(accepted)} false accepts and {len(rejected)} false rejects "
        f"(cosine similarity; threshold {threshold:.2f})",
    )


def _caption(file: str) -> str:
    return Path(file).stem.replace("_", " ")
