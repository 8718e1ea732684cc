"""Reload word vectors trained on Lee's news articles, show what they have learned, and hand them to gensim.

python scripts/show_word_vectors.py outputs/quickstart/words

gensim carries the articles with its package, and 50 more whose likeness people have rated (Lee et al. 2005): how well
cosines between articles follow those ratings says what the vectors are worth, against bag-of-words on the same text.
"""

import argparse
from pathlib import Path

import numpy as np
from gensim.models import KeyedVectors
from gensim.test.utils import datapath
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer

from hfembed.checkpoint.card import write_card
from hfembed.checkpoint.loading import load_word2vec
from hfembed.checkpoint.results import provenance, write_results
from hfembed.errors import exit_on_input_error
from hfembed.export.gensim import export_word2vec_format
from hfembed.words.evaluation.report import draw_words

WORDS = ("police", "israeli", "taliban", "cricket", "fire", "qantas")
ODD_ONE_OUT = ("wicket", "test", "cricket", "union")


def read_articles(name: str) -> list[str]:
    """Read the articles of a file, one per line."""
    return Path(datapath(name)).read_text(encoding="latin-1").splitlines()


def agreement(features: np.ndarray, ratings: np.ndarray) -> float:
    """Pearson correlation x 100 of cosines with people's ratings, over the pairs of articles.

    Args:
        features: (articles, dimensions).
        ratings: (articles, articles), the upper triangle counts.
    """
    units = features / np.linalg.norm(features, axis=1, keepdims=True).clip(min=1e-12)
    pairs = np.triu_indices(len(units), k=1)
    return 100 * float(np.corrcoef((units @ units.T)[pairs], ratings[pairs])[0, 1])


@exit_on_input_error
def main() -> None:
    """Reload, ask, measure, draw, and let gensim read the vectors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="checkpoint folder")
    folder = Path(parser.parse_args().model)
    model = load_word2vec(str(folder), "cpu")

    print(f"\nwords near to each other, of {len(model.vocabulary)}")
    for word, found in zip(WORDS, model.most_similar_batch(WORDS, top_k=5), strict=True):
        print(f"  {word:10} {', '.join(name for name, _ in found)}")
    print(f"  which one does not fit? {', '.join(ODD_ONE_OUT)}: {model.doesnt_match(ODD_ONE_OUT)}")

    train, rated = read_articles("lee_background.cor"), read_articles("lee.cor")
    ratings = np.loadtxt(datapath("similarities0-1.txt"))
    figures = {}
    for name, vectorizer in (("bag_of_words", CountVectorizer()), ("tf_idf", TfidfVectorizer())):
        figures[name] = agreement(vectorizer.fit(train).transform(rated).toarray(), ratings)
    for weighting in ("mean", "sif"):
        vectors = model.document_vectors(rated, weighting, fitted_on=train)
        figures[f"vectors_{weighting}"] = agreement(vectors.numpy(), ratings)
    print(f"\n{'correlation of article similarity with human ratings (Pearson x 100)':64}")
    for name, value in figures.items():
        print(f"  {name.replace('_', ' '):62}{value:.1f}")
    metrics = {f"lee_{name}": value for name, value in figures.items()}
    write_results(folder, "lee", metrics, {"articles": len(rated), **provenance({})}, model)

    near = [name for word in WORDS for name, _ in model.most_similar(word, top_k=5)]
    draw_words(model, [*WORDS, *near], folder / "map.png")
    file = folder / "vectors.bin"
    export_word2vec_format(model, file, binary=True)
    theirs = KeyedVectors.load_word2vec_format(file, binary=True)
    ours = [name for name, _ in model.most_similar(WORDS[0])]
    same = ours == [name for name, _ in theirs.most_similar(WORDS[0])]
    print(f"\ngensim reads {file}: {len(theirs)} words, neighbors of '{WORDS[0]}' {'the same' if same else 'DIFFER'}")
    write_card(folder)
    print(f"the map: {folder}/map.png; the model's card: {folder}/README.md")


if __name__ == "__main__":
    main()
