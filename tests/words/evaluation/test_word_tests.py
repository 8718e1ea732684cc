"""The same answers as gensim's on the same vectors; results.json and the commands."""

import json
import re
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
        ours = [*ours.values(), total_of(ours.values())]
        assert [(part.correct, part.asked) for part in ours] == counts_of(sections)
        correct += ours[-1].correct
    assert correct or not fold_case, "there must be something to count"


@pytest.mark.data
def test_questions_words_count_as_gensims(research_data):
    path = research_data / "words" / "questions-words.txt"
    sections = read_analogies(path)
    asked = (question for section in sections for question in section.questions)
    words = list(dict.fromkeys(word for a, b, c, d in asked for word in (a, *b, c, *d)))[:300]
    theirs, vectors = make_vectors(4, words=words)
    _, expected = theirs.evaluate_word_analogies(str(path))
    ours = score_analogies(words, vectors, sections)
    assert [(part.correct, part.asked) for part in [*ours.values(), total_of(ours.values())]] == counts_of(expected)


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
    for wrong in ("man woman", "man woman nan", "man woman much"):
        path.write_text(f"word1 word2 score\nking queen 8.5\n{wrong}\n")
        with pytest.raises(InputError, match=f"line 3: '{wrong}' is not two words and a number"):
            read_word_pairs(path)
    with pytest.raises(InputError, match="give analogies, word pairs or outliers"):
        WordTests()


# a file of BATS: some answers are shared, some unknown, one pair has an unknown first answer
BATS = {
    "1_Inflectional/I01 [noun - plural].txt": "car\tcars\nCat\tcats/kitties\ndog\tdogs\nzebra\tzebras\n",
    "1_Inflectional/I02 [verb].txt": "walk walked,went\n\nswim swam\n",
    "2_Lexical/L01 [hypernyms].txt": "cat\tanimal/feline/beast\ndog\tcanine/animal/unheard\nswim\tunheard/walk\n",
}
BATS_WORDS = "animal cat Car cars cats kitties dog dogs walk walked went swim swam feline beast canine CAT".split()


def write_bats(folder):
    for name, text in BATS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def answer_as_vecto(pairs, words, vectors):
    """By vecto's rules: the first word that is neither in the question nor an answer to its first pair."""
    units = {word: vector / np.linalg.norm(vector) for word, vector in zip(words, vectors, strict=True)}
    correct = asked = missing = 0
    for i, (a, first) in enumerate(pairs):
        for j, (b, second) in enumerate(pairs):
            if i == j:
                continue
            if any(word not in units for word in (a, first[0], b, second[0])):
                missing += 1
                continue
            asked += 1
            aim = units[first[0]] - units[a] + units[b]
            ranked = sorted(units, key=lambda word, aim=aim: -float(units[word] @ aim))
            correct += next(word for word in ranked if word not in {a, b, *first}) in second
    return correct, asked, missing


def test_bats_counts_as_vecto(tmp_path):
    folder = write_bats(tmp_path / "BATS_3.0")
    lowercase = list(dict.fromkeys(word.lower() for word in BATS_WORDS))
    answered = 0
    for seed in range(30):
        vectors = np.random.default_rng(seed).normal(size=(len(BATS_WORDS), 4)).astype(np.float32)
        ours = score_analogies(BATS_WORDS, torch.from_numpy(vectors), read_analogies(folder))
        kept = vectors[: len(lowercase)]  # the last word is another spelling of a more frequent one
        for name, text in BATS.items():
            lines = [re.split(r"\s", line.lower(), maxsplit=1) for line in text.splitlines() if line]
            pairs = [(word, re.split("[/,]", answers)) for word, answers in lines]
            result = ours[Path(name).stem]
            assert (result.correct, result.asked, result.unknown) == answer_as_vecto(pairs, lowercase, kept)
            answered += result.correct
    assert answered
    wrong = score_analogies(BATS_WORDS, torch.from_numpy(vectors), read_analogies(folder), unknown_is_wrong=True)
    assert [part.asked for part in wrong.values()] == [12, 2, 6]


def test_bats_and_outliers_in_results_and_card(tmp_path):
    write_bats(tmp_path / "BATS_3.0")
    (tmp_path / "8-8-8_Dataset").mkdir()
    (tmp_path / "8-8-8_Dataset" / "pets.txt").write_text("cat\ndog\nkitties\n\ncar\nswim\nunheard\n")
    analogies, pairs, outliers = list_suite("en", tmp_path)
    assert [path.name for path in (*analogies, *outliers)] == ["BATS_3.0", "8-8-8_Dataset"] and not pairs
    tests = WordTests(analogies, outliers=outliers)
    vectors = np.random.default_rng(3).normal(size=(len(BATS_WORDS), 4)).astype(np.float32)
    model = Word2VecModel.from_vectors(Vocabulary(BATS_WORDS), vectors)
    figures, summary = report_words(tests, model, tmp_path)
    details = json.loads((tmp_path / "results.json").read_text())["words"]
    sections, categories = details["analogies"]["BATS_3.0"], details["analogy_categories"]["BATS_3.0"]
    assert set(categories) == {"1_Inflectional", "2_Lexical"} and len(sections) == 4
    assert sum(part["correct"] for part in categories.values()) == sections["total"]["correct"]
    lexical = sections["L01 [hypernyms]"]
    assert figures["words_BATS_3.0_2_Lexical_accuracy"] == 100 * lexical["correct"] / lexical["asked"]
    assert "  1_Inflectional: " in summary and "8-8-8_Dataset: outlier position" in summary
    assert figures["words_8-8-8_Dataset_unknown"] == pytest.approx(100 / 3)
    model.save_pretrained(tmp_path)
    card = write_card(tmp_path).read_text()
    assert f"| BATS_3.0 2_Lexical, accuracy | {figures['words_BATS_3.0_2_Lexical_accuracy']:.2f} % of 2 |" in card
    opp = figures["words_8-8-8_Dataset_opp"]
    assert f"| 8-8-8_Dataset, outlier position percentage | {opp:.2f} % of 2 outliers |" in card


def test_folders_that_are_not_bats(tmp_path):
    with pytest.raises(InputError, match="not in BATS' layout"):
        read_analogies(tmp_path)
    (write_bats(tmp_path) / "1_Inflectional" / "I03.txt").write_text("car\tcars\nalone\n")
    with pytest.raises(InputError, match=r"I03.txt line 2: .*'alone'"):
        read_analogies(tmp_path)


def test_tagged_words_as_naeval(tmp_path):
    (tmp_path / "russe-hj-test.csv").write_text("word1,word2,sim\nпечь,дом,0.2\nпечь,камин,0.9\nдом,камин,0.4\n")
    (tmp_path / "russian").mkdir()
    simlex = "печь_NOUN\tдом_NOUN\t1.5\nпечь_NOUN\tкамин_NOUN\t8\nдом_NOUN\tкамин_NOUN\t3\n"
    (tmp_path / "russian" / "ru_simlex965_tagged.tsv").write_text(simlex)
    vectors = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.6, 0.8], [0.9, 0.1]])
    tests = WordTests(word_pairs=list_suite("ru", tmp_path)[1])
    tagged = tests(["печь_VERB", "печь_NOUN", "дом_NOUN", "камин_NOUN"], vectors)
    plain = tests(["и", "печь", "дом", "камин"], vectors)
    assert tagged == plain
    assert plain["words_russe-hj-test_spearman"] == plain["words_ru_simlex965_tagged_spearman"] == pytest.approx(100)
    assert plain["words_russe-hj-test_unknown"] == plain["words_ru_simlex965_tagged_unknown"] == 0
    assert "words_russe-hj-test_average_precision" not in plain


@pytest.mark.data
def test_russe_as_naeval_scores_it(research_data):
    """Average precision by scikit-learn over the pairs whose words are both known."""
    from sklearn.metrics import average_precision_score

    for file in sorted((research_data / "words" / "russian").glob("russe-*-test.csv")):
        pairs = read_word_pairs(file)
        words = list(dict.fromkeys(word for pair in pairs for word in pair[:2]))[::2]
        vectors = np.random.default_rng(0).normal(size=(len(words), 8)).astype(np.float32)
        units = dict(zip(words, vectors / np.linalg.norm(vectors, axis=1, keepdims=True), strict=True))
        both = [(units[a] @ units[b], rating) for a, b, rating in pairs if a in units and b in units]
        ours = score_word_pairs(words, torch.from_numpy(vectors), pairs, fold_case=False)
        assert ours.pairs == len(both) > 100
        scores, ratings = np.array(both).T
        assert ours.average_precision == pytest.approx(average_precision_score(ratings, scores), abs=1e-6)


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
