"""The model card of word vectors."""

from typing import Any

from huggingface_hub import EvalResult, ModelCard

from hfembed.checkpoint.card_data import CardNotes, Table, fill

_PICTURES = {"map.png": "Words on a map"}


def render_word_card(notes: CardNotes) -> ModelCard:
    """Fill the template.

    Raises:
        InputError: The notes beside the checkpoint lack something the card needs.
    """
    details = notes.evaluations.get("words", {})
    measured = _measured(details)
    results = [
        EvalResult(
            task_type="feature-extraction",
            task_name="word analogies" if metric == "accuracy" else "word similarity",
            dataset_type=test,
            dataset_name=test,
            dataset_split="test",
            metric_type=metric,
            metric_value=round(value, 2),
        )
        for test, metric, value, _ in measured
    ]
    rows = [
        (f"{test}, {'accuracy' if metric == 'accuracy' else 'Spearman'}", f"{value:.2f}{note}")
        for test, metric, value, note in measured
    ]
    tables = {"words": Table(_about(details), rows, details)} if rows else {}
    data = notes.card_data("feature-extraction", ["word2vec", "word-embeddings", "sentence-transformers"], results)
    return fill("word2vec.md.jinja", notes, data, tables=tables, pictures=notes.pictures(_PICTURES))


def _about(details: dict[str, Any]) -> str:
    settings = details["settings"]
    return (
        f"Accuracies in percent, correlations x 100, over the {settings['restrict_vocab']} most frequent words "
        f"({settings['method']})."
    )


def _measured(details: dict[str, Any]) -> list[tuple[str, str, float, str]]:
    """(test, metric, value, what it is of)."""
    figures = details.get("figures", {})
    analogies = [
        (test, "accuracy", figures[f"{test}_accuracy"], f" % of {sections['total']['asked']} questions asked")
        for test, sections in details.get("analogies", {}).items()
    ]
    pairs = [
        (test, "spearman", figures[f"{test}_spearman"], f" over {known['pairs']} of {known['of']} pairs")
        for test, known in details.get("word_pairs", {}).items()
        if f"{test}_spearman" in figures
    ]
    return analogies + pairs
