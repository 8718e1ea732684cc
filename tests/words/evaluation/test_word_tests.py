"""The same answers as gensim's on the same vectors; results.json and the commands."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from gensim.models import KeyedVectors

from hfembed.checkpoint.card import write_card
from hfembed.errors import InputError
from hfembed.models.word2vec.modeling_word2vec import Word2VecModel
from hfembed.models.word2vec.vocabulary_word2vec import TextRules, Vocabulary
from hfembed.words.evaluation.projection_plot import plot_words, write_projector
from hfembed.words.evaluation.report import parse_composition, report_words
from hfembed.words.evaluation.word_tests import (
    WordTests,
    average_precision,
    list_suite,
    read_analogies,
    read_word_pairs,
    score_analogies,
    score_word_pairs,
    total_of,
)

QUESTIONS = """: capitals
Athens Greece Paris France
Paris France athens greece
Rome Italy Berlin Germany
a line of the wrong length
: twice
rome italy rome ITALY
unheard of in here
Greece Athens France Paris
"""
WORDS = "Athens greece Greece Paris France rome Italy italy Berlin Germany ROME car automobile gem jewel".split()
PAIRS = (
    "# word, word, rating\ncar\tautomobile\t3.92\ngem\tjewel\t3.84\ngem\tcar\t0.5\nRome\tberlin\t2\nzebra\tcar\t1\n"
)


def make_vectors(size=3, seed=0, words=WORDS):
    vectors = np.random.default_rng(seed).normal(size=(len(words), size)).astype(np.float32)
    theirs = KeyedVectors(size)
    theirs.add_vectors(words, vectors)
    return theirs, torch.from_numpy(vectors)


def counts_of(sections):
    return [(len(part["correct"]), len(part["correct"]) + len(part["incorrect"])) for part in sections]


@pytest.mark.parametrize("restrict_vocab", [300_000, 9])
@pytest.mark.parametrize("fold_case", [True, False])
@pytest.mark.parametrize("unknown_is_wrong", [True, False])
def test_analogies_count_as_gensims(tmp_path, restrict_vocab, fold_case, unknown_is_wrong):
    path = tmp_path / "questions.txt"
    path.write_text(QUESTIONS)
    correct = 0
    for seed in range(40):
        theirs, vectors = make_vectors(seed=seed)
        _, sections = theirs.evaluate_word_analogies(str(path), restrict_vocab, fold_case, unknown_is_wrong)
        ours = score_analogies(WORDS, vectors, read_analogies(path), restrict_vocab, fold_case, unknown_is_wrong)
        ours = [*ours.values(), total_of(ours)]
        assert [(part.correct, part.asked) for part in ours] == counts_of(sections)
        correct += ours[-1].correct
    assert correct or not fold_case, "there must be something to count"


@pytest.mark.data
def test_questions_words_count_as_gensims(research_data):
    path = research_data / "words" / "questions-words.txt"
    sections = read_analogies(path)
    words = list(dict.fromkeys(word for section in sections for asked in section.questions for word in asked))[:300]
    theirs, vectors = make_vectors(4, words=words)
    _, expected = theirs.evaluate_word_analogies(str(path))
    ours = score_analogies(words, vectors, sections)
    assert [(part.correct, part.asked) for part in [*ours.values(), total_of(ours)]] == counts_of(expected)


@pytest.mark.parametrize("unknown_is_zero", [True, False])
@pytest.mark.parametrize("restrict_vocab", [300_000, 14])
def test_word_pairs_correlate_as_gensims(tmp_path, unknown_is_zero, restrict_vocab):
    path = tmp_path / "pairs.txt"
    path.write_text(PAIRS)
    theirs, vectors = make_vectors()
    pearson, spearman, unknown = theirs.evaluate_word_pairs(
        str(path), restrict_vocab=restrict_vocab, dummy4unknown=unknown_is_zero
    )
    ours = score_word_pairs(WORDS, vectors, read_word_pairs(path), restrict_vocab, unknown_is_zero=unknown_is_zero)
    assert ours.pearson == pytest.approx(pearson.statistic, abs=1e-6)
    assert ours.spearman == pytest.approx(spearman.statistic, abs=1e-6)
    assert ours.unknown_share == pytest.approx(unknown)


def test_report(tmp_path):
    (tmp_path / "questions.txt").write_text(QUESTIONS)
    (tmp_path / "sets").mkdir()
    (tmp_path / "sets" / "pairs.txt").write_text(PAIRS)
    (tmp_path / "sets" / "foreign.txt").write_text("ein zwei 3\nvier fünf 6\n")
    tests = WordTests([tmp_path / "questions.txt"], [tmp_path / "sets"])
    _, vectors = make_vectors()
    figures, summary = report_words(tests, Word2VecModel.from_vectors(Vocabulary(WORDS), vectors.numpy()), tmp_path)
    results = json.loads((tmp_path / "results.json").read_text())
    assert tests.primary_metric == "words_questions_accuracy" and tests.primary_metric in results
    assert results["words_pairs_unknown"] == 20 and results["words_foreign_unknown"] == 100
    assert "words_foreign_spearman" not in results and "foreign: no correlation, 0 of 2" in summary
    assert results["words"]["analogies"]["questions"]["total"]["unknown"] == 1
    assert set(results["words"]["files"]) == {"questions", "pairs", "foreign"}
    Word2VecModel.from_vectors(Vocabulary(WORDS), vectors.numpy()).save_pretrained(tmp_path)
    card = write_card(tmp_path).read_text()
    asked = results["words"]["analogies"]["questions"]["total"]["asked"]
    accuracy = results["words_questions_accuracy"]
    assert f"| questions, accuracy | {accuracy:.2f} % of {asked} questions asked |" in card
    assert f"| pairs, Spearman | {results['words_pairs_spearman']:.2f} over 4 of 5 pairs |" in card


def test_files_that_are_no_tests(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("king queen man woman\n")
    with pytest.raises(InputError, match="sections"):
        read_analogies(path)
    with pytest.raises(InputError, match="two words and a number"):
        read_word_pairs(path)
    with pytest.raises(InputError, match="give analogies or word pairs"):
        WordTests()


def test_composed_words():
    words = ["king", "man", "woman", "t-shirt", "c++"]
    rows = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    model = Word2VecModel.from_vectors(Vocabulary(words, rules=TextRules(lowercase=True)), rows)
    assert parse_composition("King - man + woman", model) == (["king", "woman"], ["man"])
    assert parse_composition("t-shirt", model) == (["t-shirt"], [])
    assert parse_composition("c++", model) == (["c++"], [])
    with pytest.raises(InputError, match="'t-shrt'.*'t-shirt'"):
        parse_composition("t-shrt", model)
    ngrams = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    model = Word2VecModel.from_vectors(Vocabulary(words), rows, ngrams, subwords=[2, 3], buckets=9)
    assert parse_composition("kings+man", model) == (["kings", "man"], [])


def test_average_precision_and_words_outside_the_vocabulary(tmp_path):
    # by hand: the related ones are first and third of four
    assert average_precision([1, 0, 1, 0], np.array([0.9, 0.8, 0.7, 0.6])) == pytest.approx((1 + 2 / 3) / 2)
    # of equal scores none comes first
    assert average_precision([1, 0, 1, 0], np.zeros(4)) == pytest.approx(0.5)
    (tmp_path / "russe-test.csv").write_text("word1,word2,sim\na,b,1\na,c,0\na,x,1\n")
    vectors = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])
    tests = WordTests(word_pairs=list_suite("ru", tmp_path)[1])
    metrics = tests(["a", "b", "c"], vectors)
    assert metrics["words_russe-test_average_precision"] == 100
    assert (
        metrics["words_russe-test_unknown"] == metrics["words_russe-test_outside_vocabulary"] == pytest.approx(100 / 3)
    )
    far = torch.tensor([[-1.0, 0.0]])
    metrics = tests(["a", "b", "c"], vectors, lambda words: (far.expand(len(words), 2), torch.ones(len(words))))
    assert metrics["words_russe-test_average_precision"] == pytest.approx(100 * (1 + 2 / 3) / 2)
    assert metrics["words_russe-test_unknown"] == 0
    with pytest.raises(InputError, match="no tests of 'en'"):
        list_suite("en", tmp_path)


def test_map_and_projector(tmp_path):
    _, vectors = make_vectors()
    for method in ("pca", "t-sne"):
        plot_words(WORDS, vectors.numpy(), tmp_path / f"{method}.png", method, [("rome", "Italy")])
        assert (tmp_path / f"{method}.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(InputError, match="three words"):
        plot_words(WORDS[:2], vectors.numpy()[:2], tmp_path / "two.png")
    write_projector(WORDS, vectors.numpy(), tmp_path / "projector", np.arange(len(WORDS)))
    rows = (tmp_path / "projector" / "words.tsv").read_text().splitlines()
    assert rows[0] == "word\tcount" and len(rows) == len(WORDS) + 1
    np.testing.assert_allclose(np.loadtxt(tmp_path / "projector" / "vectors.tsv"), vectors, rtol=1e-5)
    assert Path(tmp_path / "projector" / "projector_config.pbtxt").is_file()
