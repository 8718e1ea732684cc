"""Phrases against word2phrase's rules written out slowly."""

from collections import Counter

import numpy as np
import pytest

from hfembed.errors import InputError
from hfembed.words.data import corpora, phrases
from hfembed.words.data.corpora import prepare_corpus
from hfembed.words.data.phrases import learn_phrases


def random_lines(seed=0, number=400):
    rng = np.random.default_rng(seed)
    lines = []
    for _ in range(number):
        words = list(
            rng.choice(list("abcdefgh"), size=rng.integers(1, 9), p=[0.3, 0.2, 0.1, 0.1, 0.1, 0.1, 0.05, 0.05])
        )
        if rng.random() < 0.4:
            words += ["new", "york", "times"][: rng.integers(2, 4)]
        lines.append(words)
    return lines


def join_slowly(words, pairs):
    joined, at = [], 0
    while at < len(words):
        if tuple(words[at : at + 2]) in pairs:
            joined.append("_".join(words[at : at + 2]))
            at += 2
        else:
            joined.append(words[at])
            at += 1
    return joined


def learn_slowly(lines, threshold, min_count, discount):
    words = Counter(word for line in lines for word in line)
    pairs = Counter(pair for line in lines for pair in zip(line, line[1:], strict=False))
    total = sum(words.values())
    return {
        (a, b)
        for (a, b), count in pairs.items()
        if min(count, words[a], words[b]) >= min_count and (count - discount) / words[a] / words[b] * total > threshold
    }


@pytest.mark.parametrize("block_bytes", [300, 1 << 20])
def test_same_as_word2phrase_slowly(tmp_path, monkeypatch, block_bytes):
    monkeypatch.setattr(corpora, "BLOCK_BYTES", block_bytes)
    lines = random_lines()
    text = [" ".join(line) for line in lines]
    found = learn_phrases(text, thresholds=(1.2, 1.1), min_count=3, discount=2)
    expected, joined = [], lines
    for threshold in (1.2, 1.1):
        expected.append(learn_slowly(joined, threshold, 3, 2))
        joined = [join_slowly(line, expected[-1]) for line in joined]
    assert [set(pairs) for pairs in found] == expected
    assert ("new", "york") in expected[0] and any("_" in a for a, _ in expected[1])
    corpus = prepare_corpus(text, tmp_path, min_count=1, phrases=found)
    words = np.array(corpus.vocabulary.words)
    assert words[corpus.ids].tolist() == [word for line in joined for word in line]
    # the tokenizer joins text at use as the corpus was joined
    start = 0
    for line, end in zip(text, corpus.sentence_ends, strict=True):
        assert corpus.vocabulary.encode([line])[0].tolist() == corpus.ids[start:end].tolist()
        start = end


def test_rare_pairs_go_when_there_are_too_many(monkeypatch):
    monkeypatch.setattr(phrases, "_MAX_PAIRS", 20)
    monkeypatch.setattr(phrases, "_PENDING_PAIRS", 5)
    assert ("new", "york") in learn_phrases([" ".join(line) for line in random_lines()], (1.2,), 3, 2)[0]


def test_an_iterator_is_refused():
    with pytest.raises(InputError, match="several passes"):
        learn_phrases(iter(["a b"]))


def test_no_phrases_are_none():
    assert learn_phrases(["a b c", "d e f"]) == ()
