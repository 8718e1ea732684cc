"""The model card of a face embedder."""

from typing import Any

from huggingface_hub import EvalResult, ModelCard

from hfembed.checkpoint.card_data import CardNotes, Table, dataset_revision, fill

# figure in results.json -> (its name in the card, metric type on the Hub)
_LFW_FIGURES = {
    "accuracy": ("accuracy", "accuracy"),
    "auc": ("area under the ROC curve", "roc_auc"),
    "eer": ("equal error rate", "eer"),
    "tar_at_far_1e-1": ("TAR at FAR 1e-1", "tar_at_far"),
    "tar_at_far_1e-2": ("TAR at FAR 1e-2", "tar_at_far"),
    "tar_at_far_1e-3": ("TAR at FAR 1e-3", "tar_at_far"),
}
_PICTURES = {
    "roc.png": "ROC curve",
    "mistakes.png": "The most confident mistakes",
    "neighbours.png": "Nearest neighbours",
}


def render_face_card(notes: CardNotes) -> ModelCard:
    """Fill the template.

    Raises:
        InputError: The notes beside the checkpoint lack something the card needs.
    """
    lfw = {name: details for name, details in notes.evaluations.items() if name.startswith("lfw_")}
    data = notes.card_data(
        "image-feature-extraction",
        ["face-recognition", "face-verification"],
        [result for name, details in lfw.items() for result in _results(name, details)],
    )
    tables = {
        name: Table(_about(details), _rows(details), details) if name in lfw else notes.table(name, {})
        for name, details in notes.evaluations.items()
    }
    return fill(
        "face_embedder.md.jinja",
        notes,
        data,
        tables=tables,
        pictures=notes.pictures(_PICTURES),
        has_detector=notes.has_detector,
    )


def _about(details: dict[str, Any]) -> str:
    images, pairs = details["images"], details["pairs"]
    return (
        f"{details['protocol']}; regime: {details['regime']}; mirror: {details['mirror']}.\n"
        f"{images['failed']} of {images['named']} images failed and make {pairs['failed']} pairs errors."
    )


def _interval(details: dict[str, Any], figure: str) -> list[float] | None:
    """The 95 % interval of a TAR."""
    return details.get("tar_at_far", {}).get(figure.removeprefix("tar_at_far_"), {}).get("interval_95")


def _rows(details: dict[str, Any]) -> list[tuple[str, str]]:
    """(figure, value with its uncertainty), the floors last."""
    figures = details["figures"]
    rows = []
    for figure, (label, _) in _LFW_FIGURES.items():
        if figure not in figures:
            continue
        text = f"{figures[figure]:.2f} %"
        if figure == "accuracy" and "standard_error" in figures:
            text += f" +- {figures['standard_error']:.2f} (standard error)"
        interval = _interval(details, figure)
        if interval:
            text += f" ({interval[0]:.1f} to {interval[1]:.1f})"
        rows.append((label, text))
    for floor, floor_figures in details.get("floors", {}).get("rows", {}).items():
        accuracy = next(value for figure, value in floor_figures.items() if figure.endswith("_accuracy"))
        rows.append((f"floor: {floor.replace('_', ' ')}, accuracy", f"{accuracy:.2f} %"))
    return rows


def _results(name: str, details: dict[str, Any]) -> list[EvalResult]:
    """The figures as the Hub's model-index."""
    figures = details["figures"]
    results = []
    for figure, (label, metric_type) in _LFW_FIGURES.items():
        if figure not in figures:
            continue
        confidence: dict[str, Any] = {}
        if figure == "accuracy" and "standard_error" in figures:
            confidence["standard_error"] = round(figures["standard_error"], 2)
        if interval := _interval(details, figure):
            confidence["interval_95"] = [round(bound, 1) for bound in interval]
        results.append(
            EvalResult(
                task_type="image-feature-extraction",
                task_name="face verification",
                dataset_type="lfw",
                dataset_name=f"Labeled Faces in the Wild ({name.removeprefix('lfw_')})",
                dataset_config=name.removeprefix("lfw_"),
                dataset_split="test",
                dataset_revision=dataset_revision(details, "images", "pairs"),
                metric_type=metric_type,
                metric_name=label,
                metric_value=round(figures[figure], 2),
                metric_args=confidence or None,
            )
        )
    return results
