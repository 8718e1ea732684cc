"""The model card of a face embedder."""

from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from hfembed.hub.page import Checkpoint, fill

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


def render_face_card(checkpoint: Checkpoint) -> ModelCard:
    """Fill the template.

    Raises:
        InputError: The notes beside the checkpoint lack something the card needs.
    """
    protocols = {name: details for name, details in checkpoint.evaluations.items() if name.startswith("lfw_")}
    data = ModelCardData(
        library_name="hfembed",
        pipeline_tag="image-feature-extraction",
        license="other",
        license_name="as-the-training-data",
        license_link="#training-data",
        tags=["hfembed", "face-recognition", "face-verification"],
        model_name=checkpoint.name,
        eval_results=[result for name, details in protocols.items() for result in _results(name, details)] or None,
    )
    return fill(
        "face_embedder.md.jinja",
        checkpoint,
        data,
        protocols={name: {**details, "rows": _rows(details)} for name, details in protocols.items()},
        pictures=checkpoint.pictures(_PICTURES),
    )


def _rows(details: dict[str, Any]) -> list[tuple[str, str]]:
    """(figure, value with its uncertainty) for the table, the floors last."""
    figures = details["figures"]
    rows = []
    for figure, (label, _) in _LFW_FIGURES.items():
        if figure not in figures:
            continue
        text = f"{figures[figure]:.2f} %"
        if figure == "accuracy" and "standard_error" in figures:
            text += f" +- {figures['standard_error']:.2f} (standard error)"
        interval = details.get("tar_at_far", {}).get(figure.removeprefix("tar_at_far_"), {}).get("interval_95")
        if interval:
            text += f" ({interval[0]:.1f} to {interval[1]:.1f})"
        rows.append((label, text))
    for floor, floor_figures in details.get("floors", {}).get("rows", {}).items():
        accuracy = next(value for figure, value in floor_figures.items() if figure.endswith("_accuracy"))
        rows.append((f"floor: {floor.replace('_', ' ')}, accuracy", f"{accuracy:.2f} %"))
    return rows


def _results(name: str, details: dict[str, Any]) -> list[EvalResult]:
    """The figures as the Hub's model-index."""
    return [
        EvalResult(
            task_type="image-feature-extraction",
            task_name="face verification",
            dataset_type="lfw",
            dataset_name=f"Labeled Faces in the Wild ({name.removeprefix('lfw_')})",
            metric_type=metric_type,
            metric_name=label,
            metric_value=round(details["figures"][figure], 2),
        )
        for figure, (label, metric_type) in _LFW_FIGURES.items()
        if figure in details["figures"]
    ]
