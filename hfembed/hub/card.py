"""Model cards: every number in them is read from the results.json beside the checkpoint."""

import json
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers import AutoConfig

from hfembed.atomic import atomic_write
from hfembed.errors import InputError
from hfembed.evaluation.results import RESULTS_FILE
from hfembed.hub.word_card import render_word_card

TEMPLATES = Path(__file__).parent / "templates"
TRAINING_FILE = "training.json"

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


def write_card(folder: str | Path) -> Path:
    """Write the README.md of a checkpoint's folder from its config.json, training.json and results.json.

    Args:
        folder: The checkpoint's folder. Without results.json the card claims no results.

    Returns:
        The path of the card.

    Raises:
        InputError: The folder holds no model of ours, or one of its JSON files is damaged.
        OSError: The card cannot be written.
    """
    folder = Path(folder)
    try:
        config = AutoConfig.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise InputError(f"{folder} holds no model to write a card for: {str(error).splitlines()[0]}") from error
    template = TEMPLATES / f"{config.model_type.removeprefix('hfembed_')}.md.jinja"
    if not template.exists():
        raise InputError(f"there is no card template for models of type {config.model_type}")
    training = _read_json(folder / TRAINING_FILE)
    results = _read_json(folder / RESULTS_FILE)
    if config.model_type == "hfembed_word2vec":
        return _write(folder, render_word_card(folder, template, config, training, results))
    name = training.get("name", folder.resolve().name)
    card = ModelCard.from_template(
        ModelCardData(
            library_name="hfembed",
            pipeline_tag="image-feature-extraction",
            license="other",
            license_name="as-the-training-data",
            license_link="#training-data",
            tags=["hfembed", "face-recognition", "face-verification"],
            model_name=name,
            eval_results=_eval_results(results) or None,
        ),
        template_path=str(template),
        name=name,
        config=config,
        training=training,
        recipe=yaml.safe_dump(training["recipe"], sort_keys=False).strip() if "recipe" in training else "",
        protocols=_protocols(results),
        pictures={file: text for file, text in _PICTURES.items() if (folder / file).exists()},
    )
    return _write(folder, card)


def _write(folder: Path, card: ModelCard) -> Path:
    path = folder / "README.md"
    with atomic_write(path) as temporary:
        temporary.write_text(str(card).rstrip() + "\n", encoding="utf-8")
    return path


def _read_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}): write it again") from None


def _protocols(results: dict[str, Any]) -> list[dict[str, Any]]:
    """The evaluations in results.json, each with its rows of (figure, text)."""
    protocols = []
    for name, details in results.items():
        if not isinstance(details, dict):
            continue
        rows = []
        for figure, (label, _) in _LFW_FIGURES.items():
            if f"{name}_{figure}" not in results:
                continue
            text = f"{results[f'{name}_{figure}']:.2f} %"
            if figure == "accuracy" and f"{name}_standard_error" in results:
                text += f" +- {results[f'{name}_standard_error']:.2f} (standard error)"
            interval = details.get("tar_at_far", {}).get(figure.removeprefix("tar_at_far_"), {}).get("interval_95")
            if interval:
                text += f" ({interval[0]:.1f} to {interval[1]:.1f})"
            rows.append((label, text))
        floors = [
            (floor.replace("_", " "), f"{figures[f'{name}_accuracy']:.2f} %")
            for floor, figures in details.get("floors", {}).get("rows", {}).items()
        ]
        protocols.append({**details, "name": name, "rows": rows, "floors": floors})
    return protocols


def _eval_results(results: dict[str, Any]) -> list[EvalResult]:
    """The figures as the Hub's model-index."""
    return [
        EvalResult(
            task_type="image-feature-extraction",
            task_name="face verification",
            dataset_type="lfw",
            dataset_name=f"Labeled Faces in the Wild ({protocol['name'].removeprefix('lfw_')})",
            metric_type=metric_type,
            metric_name=label,
            metric_value=round(results[f"{protocol['name']}_{figure}"], 2),
        )
        for protocol in _protocols(results)
        for figure, (label, metric_type) in _LFW_FIGURES.items()
        if f"{protocol['name']}_{figure}" in results
    ]
