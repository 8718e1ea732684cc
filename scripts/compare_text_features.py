"""Features for a text classifier, side by side: bags of words, n-grams, tf-idf, mean word vectors, and both together.

    python scripts/compare_text_features.py --model MODEL --dataset ag_news --output outputs/features.json
    python scripts/compare_text_features.py --model MODEL --train train.csv --test test.csv --label_column topic

Every row is a linear classifier (logistic regression) on other features; the table gives its accuracy on texts it has
not seen, the number of features, and the seconds it took to make them and to fit.
"""

import argparse
import json
import time
from pathlib import Path

import datasets
import numpy as np
from scipy import sparse
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from hfembed.atomic import atomic_write
from hfembed.checkpoint.loading import load_word2vec
from hfembed.errors import InputError, exit_on_input_error

READERS = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}


def load_texts(arguments: argparse.Namespace) -> tuple[list[str], list, list[str], list]:
    """Texts and labels to fit on and to test on; without a test part a fifth is held out."""
    if arguments.dataset:
        parts = datasets.load_dataset(arguments.dataset)
    else:
        suffix = Path(arguments.train).suffix
        if suffix not in READERS:
            raise InputError(f"{arguments.train} ends in none of {', '.join(READERS)}")
        options = {"sep": "\t"} if suffix == ".tsv" else {}
        files = {"train": arguments.train} | ({"test": arguments.test} if arguments.test else {})
        parts = datasets.load_dataset(READERS[suffix], data_files=files, **options)
    columns = parts["train"].column_names
    for column in (arguments.text_column, arguments.label_column):
        if column not in columns:
            raise InputError(
                f"there is no column {column!r} but {columns}: name it with --text_column, --label_column"
            )
    texts, labels = (list(parts["train"][column]) for column in (arguments.text_column, arguments.label_column))
    if "test" in parts:
        held_out = [list(parts["test"][column]) for column in (arguments.text_column, arguments.label_column)]
        return texts, labels, *held_out
    texts, test_texts, labels, test_labels = train_test_split(
        texts, labels, test_size=0.2, random_state=arguments.seed, stratify=labels
    )
    return texts, labels, test_texts, test_labels


def make_feature_sets(arguments: argparse.Namespace) -> dict:
    """Name -> function of (texts to fit on, texts to test on) that returns both feature matrices."""
    model = load_word2vec(arguments.model, arguments.device)
    # a model of folded text folds it itself; for the others it is done here
    fold = arguments.lowercase and not model.vocabulary.rules.lowercase

    def bag(vectorizer_class, **options):
        def features(train, test):
            vectorizer = vectorizer_class(min_df=2, max_features=arguments.max_features, **options)
            return vectorizer.fit_transform(train), vectorizer.transform(test)

        return features

    def vectors(weighting):
        def features(train, test):
            prepared = [[text.lower() if fold else text for text in texts] for texts in (train, test)]
            both = [
                model.document_vectors(texts, weighting, fitted_on=prepared[0]).cpu().numpy() for texts in prepared
            ]
            scaler = StandardScaler().fit(both[0])
            return tuple(scaler.transform(matrix) for matrix in both)

        return features

    def together(first, second):
        def features(train, test):
            pairs = zip(first(train, test), second(train, test), strict=True)
            # scaled vectors have rows of length sqrt(D), tf-idf rows of length 1
            return tuple(
                sparse.hstack([one, sparse.csr_matrix(other / np.sqrt(other.shape[1]))]).tocsr()
                for one, other in pairs
            )

        return features

    sets = {
        "bag of words": bag(CountVectorizer),
        "bag of words and pairs": bag(CountVectorizer, ngram_range=(1, 2)),
        "tf-idf": bag(TfidfVectorizer, sublinear_tf=True),
        "tf-idf of words and pairs": bag(TfidfVectorizer, sublinear_tf=True, ngram_range=(1, 2)),
        "word vectors, mean": vectors("mean"),
        "word vectors, tf-idf weighted": vectors("tf-idf"),
    }
    if model.vocabulary.counts is not None:
        sets["word vectors, SIF"] = vectors("sif")
    sets["tf-idf and word vectors"] = together(sets["tf-idf"], sets["word vectors, mean"])
    return sets


@exit_on_input_error
def main() -> None:
    """Compare and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="checkpoint folder or Hub id of word vectors")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--dataset", help="Hub id of a labeled text set")
    source.add_argument("--train", help="file to fit on: .csv, .tsv, .jsonl, .parquet")
    parser.add_argument("--test", help="file to test on; default: a fifth of --train")
    parser.add_argument("--text_column", default="text")
    parser.add_argument("--label_column", default="label")
    parser.add_argument("--max_features", type=int, default=200_000, help="most frequent words and pairs kept")
    parser.add_argument(
        "--lowercase", action=argparse.BooleanOptionalAction, default=True, help="for the word vectors"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--output", help="also write the table as JSON")
    arguments = parser.parse_args()

    train, train_labels, test, test_labels = load_texts(arguments)
    print(f"{len(train)} texts to fit on, {len(test)} to test on, {len(set(train_labels))} labels")
    print(f"{'features':32} {'accuracy':>9} {'number':>8} {'make s':>7} {'fit s':>7}")
    rows = []
    for name, make in make_feature_sets(arguments).items():
        start = time.perf_counter()
        fitted, tested = make(train, test)
        made = time.perf_counter()
        classifier = LogisticRegression(max_iter=1000).fit(fitted, train_labels)
        done = time.perf_counter()
        accuracy = 100 * classifier.score(tested, test_labels)
        rows.append(
            {
                "features": name,
                "accuracy": accuracy,
                "number": fitted.shape[1],
                "make_seconds": made - start,
                "fit_seconds": done - made,
            }
        )
        print(f"{name:32} {accuracy:8.2f}% {fitted.shape[1]:8d} {made - start:7.2f} {done - made:7.2f}")
    if arguments.output:
        with atomic_write(arguments.output) as temporary:
            temporary.write_text(json.dumps({"model": arguments.model, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
