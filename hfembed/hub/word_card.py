"""The model card of word vectors."""

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from hfembed.hub.page import Checkpoint, fill

_PICTURES = {"map.png": "Words on a map"}


def render_word_card(checkpoint: Checkpoint) -> ModelCard:
    """Fill the template.

    Raises:
        InputError: The notes beside the checkpoint lack something the card needs.
    """
    details = checkpoint.evaluations.get("words", {})
    figures = details.get("figures", {})
    rows = [
        (test, round(figures[f"{test}_accuracy"], 2), "accuracy", f"{sections['total']['asked']} questions asked")
        for test, sections in details.get("analogies", {}).items()
    ] + [
        (test, round(figures[f"{test}_spearman"], 2), "Spearman", f"{pairs['pairs']} of {pairs['of']} pairs known")
        for test, pairs in details.get("word_pairs", {}).items()
        if f"{test}_spearman" in figures
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
    data = ModelCardData(
        library_name="hfembed",
        pipeline_tag="feature-extraction",
        license="other",
        license_name="as-the-training-data",
        license_link="#training-data",
        tags=["hfembed", "word2vec", "word-embeddings", "sentence-transformers"],
        model_name=checkpoint.name,
        eval_results=evaluated or None,
    )
    return fill(
        "word2vec.md.jinja", checkpoint, data, rows=rows, details=details, pictures=checkpoint.pictures(_PICTURES)
    )
