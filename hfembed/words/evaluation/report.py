"""Reports on word vectors: results.json with a summary, composed words, a projection plot."""

import re
from collections.abc import Sequence
from pathlib import Path

from hfembed.checkpoint.results import provenance, write_results
from hfembed.errors import InputError
from hfembed.models.word2vec.modeling_word2vec import Word2VecModel
from hfembed.models.word2vec.vocabulary_word2vec import UnknownWordError
from hfembed.words.evaluation.projection_plot import plot_words, write_projector
from hfembed.words.evaluation.word_tests import WordTests


def report_words(tests: WordTests, model: Word2VecModel, folder: str | Path) -> tuple[dict[str, float], str]:
    """Run the tests and write them into the results.json of a folder; the figures, and a summary line per test.

    Raises:
        InputError: The folder's results.json is damaged.
        OSError: It cannot be written.
    """
    unknown = None if model.config.subwords is None else model.unknown_vectors
    metrics, details = tests.details(model.require_vocabulary().words, model.word_vectors(), unknown)
    details |= {"vocab_size": len(model.require_vocabulary()), "embedding_size": model.config.embedding_size}
    write_results(folder, "words", metrics, {**details, **provenance({**tests.files})}, model)
    lines = []
    for name, sections in details["analogies"].items():
        total = sections["total"]
        lines.append(
            f"{name}: {metrics[f'words_{name}_accuracy']:.2f} % ({total['correct']} of {total['asked']} asked, "
            f"{total['unknown']} with unknown words)"
        )
        for category, part in details.get("analogy_categories", {}).get(name, {}).items():
            accuracy = metrics[f"words_{name}_{category}_accuracy"]
            lines.append(f"  {category}: {accuracy:.2f} % ({part['correct']} of {part['asked']} asked)")
    for name, pairs in details["word_pairs"].items():
        if f"words_{name}_average_precision" in metrics:
            lines.append(
                f"{name}: average precision {metrics[f'words_{name}_average_precision']:.2f} % ({pairs['pairs']} of "
                f"{pairs['of']} pairs; {metrics[f'words_{name}_outside_vocabulary']:.1f} % with words outside the "
                "vocabulary)"
            )
        elif f"words_{name}_spearman" in metrics:
            lines.append(
                f"{name}: Spearman {metrics[f'words_{name}_spearman']:.2f}, Pearson "
                f"{metrics[f'words_{name}_pearson']:.2f} ({pairs['pairs']} of {pairs['of']} pairs)"
            )
        else:
            lines.append(f"{name}: no correlation, {pairs['pairs']} of {pairs['of']} pairs are known")
    for name, groups in details.get("outliers", {}).items():
        total = groups["total"]
        if total["asked"]:
            lines.append(
                f"{name}: outlier position {metrics[f'words_{name}_opp']:.2f} %, detected "
                f"{metrics[f'words_{name}_accuracy']:.2f} % ({total['asked']} asked, {total['unknown']} unknown)"
            )
        else:
            lines.append(f"{name}: too few words are known")
    for name, test in details.get("associations", {}).items():
        known = f"({sum(test['known'])} of {sum(test['of'])} words)"
        if f"words_{name}_effect_size" in metrics:
            one, other, with_one, with_other = test["sets"]
            lines.append(
                f"{name}: {one} with {with_one} and {other} with {with_other}, effect size "
                f"{metrics[f'words_{name}_effect_size']:.2f}, p {metrics[f'words_{name}_p_value']:.2g} {known}"
            )
        else:
            lines.append(f"{name}: too few words are known {known}")
    return metrics, "\n".join(lines)


def parse_composition(text: str, model: Word2VecModel) -> tuple[list[str], list[str]]:
    """Words to add and to subtract: 'czech+currency', 'king - man + woman'; a text that is a word stands for itself.

    Raises:
        InputError: A word without a vector.
    """
    rules, vocabulary = model.require_vocabulary().rules, model.require_vocabulary()
    if text not in vocabulary:
        text = rules.normalize_word(text)
    if text in vocabulary:
        return [text], []
    signs: dict[str, list[str]] = {"+": [], "-": []}
    parts = re.split(r"\s*([+-])\s*", text.strip().lstrip("+"))
    if len(parts) > 1 and parts[0] and "+" not in parts and any(part not in vocabulary for part in parts[::2]):
        parts = [text]  # an unknown word with a hyphen, not a difference
    for sign, word in zip(["+", *parts[1::2]], parts[::2], strict=True):
        if word:
            signs[sign].append(word)
    try:
        for word in signs["+"] + signs["-"]:
            model.vector(word)
    except UnknownWordError as error:
        raise InputError(str(error)) from None
    return signs["+"], signs["-"]


def draw_words(
    model: Word2VecModel,
    words: Sequence[str],
    path: str | Path,
    method: str = "pca",
    projector: str | Path | None = None,
) -> None:
    """Plot words, with pairs given as 'france:paris' joined by a line, and write the projector's folder if given.

    Raises:
        InputError: A word that is not in the vocabulary, or fewer than three words.
        OSError: The picture cannot be written.
    """
    pairs = [
        (text.partition(":")[0], text.partition(":")[2])
        for text in words
        if ":" in text and text not in model.require_vocabulary()
    ]
    single = [text for text in words if ":" not in text or text in model.require_vocabulary()]
    names = list(dict.fromkeys([*single, *(word for pair in pairs for word in pair)]))
    try:
        vectors = model.vector(names).float().numpy()
    except UnknownWordError as error:
        raise InputError(str(error)) from None
    groups = [1 if any(word == pair[1] for pair in pairs) else 0 for word in names]
    plot_words(names, vectors, path, method, pairs, groups)
    if projector is not None:
        write_projector(
            model.require_vocabulary().words, model.numpy_vectors(), projector, model.require_vocabulary().counts
        )
