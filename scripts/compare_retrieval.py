"""Search texts by word vectors and by bags of words, side by side, on a collection with judged queries.

    python scripts/compare_retrieval.py --documents cran.all.1400 --queries cran.qry --judgments cranqrel \
        --model outputs/words --model outputs/weighted

Documents and queries are in SMART's format (Cranfield and other early collections: `.I` begins a text, `.T` its title,
`.W` its words), queries are numbered in their order, and judgments are lines `query document grade`, of which grades
from 1 to 4 are relevant. Of every way to search: nDCG@10 (a document is relevant or not), mean average precision, and
the share of the relevant documents among the first 100, over the queries that have any.
"""

import argparse
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer

from hfembed.atomic import atomic_write
from hfembed.checkpoint.loading import load_word2vec
from hfembed.errors import InputError, exit_on_input_error

K1, B = 1.2, 0.75  # of BM25, Robertson and Zaragoza 2009
Scores = Callable[[list[str], list[str]], np.ndarray]
"""(documents, queries) -> scores (queries, documents)."""


def read_texts(path: str) -> dict[str, str]:
    """The title and words of every text, by its number."""
    try:
        parts = re.split(r"^\.I\s+(\S+)\s*$", Path(path).read_text(encoding="utf-8"), flags=re.MULTILINE)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}") from None
    texts = {}
    for number, body in zip(parts[1::2], parts[2::2], strict=True):
        fields = re.split(r"^\.([A-Z])\s*$", body, flags=re.MULTILINE)
        texts[number] = " ".join(text for name, text in zip(fields[1::2], fields[2::2], strict=True) if name in "TW")
    if not texts:
        raise InputError(f"{path} has no line '.I number': texts in SMART's format are expected")
    return texts


def read_judgments(path: str, numbers: list[str], num_queries: int) -> np.ndarray:
    """Which documents are relevant, bool (queries, documents)."""
    relevant = np.zeros((num_queries, len(numbers)), dtype=bool)
    place = {number: i for i, number in enumerate(numbers)}
    for row, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), 1):
        try:
            query, document, grade = line.split()
            relevant[int(query) - 1, place[document]] |= 1 <= int(grade) <= 4
        except (ValueError, KeyError, IndexError):
            raise InputError(
                f"{path}, line {row}: {line!r} is not 'query document grade' of this collection"
            ) from None
    return relevant


def search_by_bm25(documents: list[str], queries: list[str]) -> np.ndarray:
    """Okapi BM25 of words of two letters or more."""
    vectorizer = CountVectorizer()
    counts = vectorizer.fit_transform(documents).tocsc().astype(float)
    lengths = np.asarray(counts.sum(axis=1)).ravel()
    frequencies = np.diff(counts.indptr)
    norms = K1 * (1 - B + B * lengths / lengths.mean())
    counts.data = counts.data * (K1 + 1) / (counts.data + norms[counts.indices])
    weights = np.log(1 + (len(documents) - frequencies + 0.5) / (frequencies + 0.5))
    return (vectorizer.transform(queries).multiply(weights) @ counts.T).toarray()


def search_by_tfidf(documents: list[str], queries: list[str]) -> np.ndarray:
    """Cosines of tf-idf bags of words."""
    vectorizer = TfidfVectorizer(sublinear_tf=True)
    return (vectorizer.fit_transform(documents) @ vectorizer.transform(queries).T).T.toarray()


def search_by_vectors(model, weighting: str) -> Scores:
    """Cosines of weighted means of word vectors."""

    def scores(documents: list[str], queries: list[str]) -> np.ndarray:
        found = [
            model.document_vectors(texts, weighting, fitted_on=documents).cpu().numpy()
            for texts in (documents, queries)
        ]
        units = [vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(min=1e-12) for vectors in found]
        return units[1] @ units[0].T

    return scores


def search_by_both(first: Scores, second: Scores) -> Scores:
    """The sum of two scores, each standardized per query."""

    def scores(documents: list[str], queries: list[str]) -> np.ndarray:
        both = (search(documents, queries) for search in (first, second))
        return sum((s - s.mean(axis=1, keepdims=True)) / s.std(axis=1, keepdims=True).clip(min=1e-12) for s in both)

    return scores


def measure(scores: np.ndarray, relevant: np.ndarray) -> dict[str, float]:
    """The figures in percent, means over the queries with relevant documents.

    Args:
        scores: (queries, documents).
        relevant: bool (queries, documents).
    """
    asked = relevant.any(axis=1)
    order = np.argsort(-scores[asked], axis=1, kind="stable")
    hits = np.take_along_axis(relevant[asked], order, axis=1)
    number = hits.sum(axis=1)
    discounts = 1 / np.log2(np.arange(min(10, hits.shape[1])) + 2)
    best = np.array([discounts[: min(n, 10)].sum() for n in number])
    precision = np.cumsum(hits, axis=1) / (np.arange(hits.shape[1]) + 1)
    return {
        "ndcg_at_10": 100 * float((hits[:, :10] @ discounts / best).mean()),
        "map": 100 * float(((precision * hits).sum(axis=1) / number).mean()),
        "recall_at_100": 100 * float((hits[:, :100].sum(axis=1) / number).mean()),
    }


@exit_on_input_error
def main() -> None:
    """Search in every way and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", required=True, help="the texts to search, in SMART's format")
    parser.add_argument("--queries", required=True, help="the queries, likewise")
    parser.add_argument("--judgments", required=True, help="lines 'query document grade'")
    parser.add_argument("--model", action="append", default=[], help="folder or Hub id of word vectors; may repeat")
    parser.add_argument("--output", help="also write the table as JSON")
    arguments = parser.parse_args()

    texts = read_texts(arguments.documents)
    documents, queries = list(texts.values()), list(read_texts(arguments.queries).values())
    relevant = read_judgments(arguments.judgments, list(texts), len(queries))
    ways: dict[str, Scores] = {"BM25": search_by_bm25, "tf-idf": search_by_tfidf}
    for name in arguments.model:
        model = load_word2vec(name, "cpu")
        for weighting in ("mean", "tf-idf", "sif"):
            if weighting != "sif" or model.vocabulary.counts is not None:
                ways[f"{name}, {weighting}"] = search_by_vectors(model, weighting)
                ways[f"BM25 and {name}, {weighting}"] = search_by_both(search_by_bm25, ways[f"{name}, {weighting}"])
    print(f"{len(documents)} documents, {int(relevant.any(axis=1).sum())} queries with relevant ones")
    rows = []
    for name, search in ways.items():
        rows.append({"search": name, **measure(search(documents, queries), relevant)})
        print("  ".join(f"{key} {value:5.1f}" for key, value in rows[-1].items() if key != "search"), name, sep="  ")
    if arguments.output:
        with atomic_write(arguments.output) as temporary:
            temporary.write_text(json.dumps({"rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
