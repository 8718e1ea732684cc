"""The model card of word vectors; every number in it is read from the results.json beside the checkpoint."""

from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers import PreTrainedConfig

_PICTURE = "map.png"


def render_word_card(
    folder: Path, template: Path, config: PreTrainedConfig, training: dict[str, Any], results: dict[str, Any]
) -> ModelCard:
    """Fill the template.

    Args:
        folder: The checkpoint's folder.
        template: The card's template.
        config: The checkpoint's configuration.
        training: Contents of training.json, empty where there is none.
        results: Contents of results.json, empty where there is none: the card then claims nothing.

    Returns:
        The card.
    """
    name = training.get("name", folder.resolve().name)
    details = results.get("words", {})
    rows = [
        (test, _rounded(results, test, "accuracy"), "accuracy", f"{sections['total']['asked']} questions asked")
        for test, sections in details.get("analogies", {}).items()
    ] + [
        (test, _rounded(results, test, "spearman"), "Spearman", f"{pairs['pairs']} of {pairs['of']} pairs known")
        for test, pairs in details.get("word_pairs", {}).items()
        if f"words_{test}_spearman" in results
    ]
    evaluated = [
        EvalResult(
            task_type="feature-extraction",
            task_name="word analogies" if metric == "accuracy" else "word similarity",
            dataset_type=test,
            dataset_name=test,
            metric_type=metric.lower(),
            metric_value=value,
        )
        for test, value, metric, _ in rows
    ]
    return ModelCard.from_template(
        ModelCardData(
            library_name="hfembed",
            pipeline_tag="feature-extraction",
            license="other",
            license_name="as-the-training-data",
            license_link="#training-data",
            tags=["hfembed", "word2vec", "word-embeddings", "sentence-transformers"],
            model_name=name,
            eval_results=evaluated or None,
        ),
        template_path=str(template),
        name=name,
        config=config,
        training=training,
        rows=rows,
        details=details,
        picture=_PICTURE if (folder / _PICTURE).exists() else None,
    )


def _rounded(results: dict[str, Any], test: str, figure: str) -> float:
    return round(results[f"words_{test}_{figure}"], 2)
