"""Corpora against a dozen lines of Python that do the same slowly."""

import bz2
import gzip
import lzma
import tracemalloc
import unicodedata
from collections import Counter

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hfembed.errors import InputError
from hfembed.words.data import corpora, encoded_blocks
from hfembed.words.data.corpora import prepare_corpus
from hfembed.words.data.vocabulary import Vocabulary, merge_vocabularies

TEXT = "the cat sat\n\n  on the\tmat \nthe dog\r\nsat on the cat on\n" * 3 + "the end"


def encode_slowly(lines, min_count, sentence_length=10_000):
    """Words, counts, ids and sentence ends of lists of words, one list per line."""
    counts = Counter(word for line in lines for word in line)
    words = sorted((word for word in counts if counts[word] >= min_count), key=lambda word: (-counts[word], word))
    index = {word: number for number, word in enumerate(words)}
    ids, ends = [], []
    for line in lines:
        for start in range(0, len(line), sentence_length):
            ids += [index[word] for word in line[start : start + sentence_length] if word in index]
            if ids and (not ends or ends[-1] != len(ids)):
                ends.append(len(ids))
    return words, [counts[word] for word in words], ids, ends


def assert_is(corpus, expected):
    words, counts, ids, ends = expected
    assert corpus.vocabulary.words == words
    assert corpus.vocabulary.counts.tolist() == counts
    assert corpus.ids.dtype == np.int32 and corpus.ids.tolist() == ids and corpus.num_words == len(ids)
    assert corpus.sentence_ends.dtype == np.int64 and corpus.sentence_ends.tolist() == ends


@pytest.mark.parametrize("block_bytes", [16, 37, 1 << 20])
@pytest.mark.parametrize("sentence_length", [2, 10_000])
@pytest.mark.parametrize("form", ["lines", "one line"])
def test_same_as_slowly(tmp_path, monkeypatch, block_bytes, sentence_length, form):
    monkeypatch.setattr(corpora, "BLOCK_BYTES", block_bytes)
    text = TEXT if form == "lines" else " ".join(TEXT.split())
    (tmp_path / "text.txt").write_text(text)
    corpus = prepare_corpus(tmp_path / "text.txt", tmp_path, min_count=3, sentence_length=sentence_length)
    assert_is(corpus, encode_slowly([line.split() for line in text.split("\n")], 3, sentence_length))
    assert corpus.num_raw_words == len(text.split())


def test_every_source_gives_the_same(tmp_path):
    expected = encode_slowly([line.split() for line in TEXT.split("\n")], 2)
    folder = tmp_path / "texts"
    folder.mkdir()
    sources = [
        tmp_path / "a.txt",
        tmp_path / "a.gz",
        tmp_path / "a.xz",
        tmp_path / "a.bz2",
        tmp_path / "a.zst",
        folder,
    ]
    raw = TEXT.encode()
    zstandard = pa.compress(raw, codec="zstd", asbytes=True)
    for path, content in zip(
        sources, (raw, gzip.compress(raw), lzma.compress(raw), bz2.compress(raw), zstandard), strict=False
    ):
        path.write_bytes(content)
    first, second = TEXT[: TEXT.index("dog") - 5], TEXT[TEXT.index("dog") - 4 :]
    (folder / "1.txt").write_text(first)
    (folder / "2.txt").write_text(second)
    pq.write_table(pa.table({"text": [first, second, None], "n": [1, 2, 3]}), tmp_path / "a.parquet")
    dataset = datasets.Dataset.from_dict({"body": [first, second]})
    for source in (*sources, tmp_path / "a.parquet", [folder / "1.txt", folder / "2.txt"], [first, second]):
        assert_is(prepare_corpus(source, tmp_path / "cache", min_count=2), expected)
    for source in (dataset, dataset.to_iterable_dataset()):
        assert_is(prepare_corpus(source, tmp_path / "cache", min_count=2, column="body"), expected)


def test_several_columns_and_a_limit_by_words(tmp_path, monkeypatch):
    rows = {"title": ["a b", None], "text": ["c d e", "f g h"], "n": [1, 2]}
    pq.write_table(pa.table(rows), tmp_path / "a.parquet")
    dataset = datasets.Dataset.from_dict(rows)
    lines = [["a", "b"], ["c", "d", "e"], ["f", "g", "h"]]
    for source in (tmp_path / "a.parquet", dataset, dataset.to_iterable_dataset()):
        corpus = prepare_corpus(source, tmp_path / "cache", min_count=1, column="title,text")
        assert_is(corpus, encode_slowly(lines, 1))
        with pytest.raises(InputError, match="no column 'body'"):
            prepare_corpus(source, tmp_path / "cache", min_count=1, column="title,body")
    monkeypatch.setattr(corpora, "BLOCK_BYTES", 4)
    for number in (1, 2, 4, 8, 9):
        corpus = prepare_corpus(tmp_path / "a.parquet", tmp_path, 1, column="title,text", max_words=number)
        assert [corpus.vocabulary.words[row] for row in corpus.ids] == list("abcdefgh")[:number]


def test_any_script(tmp_path):
    lines = ["Мама мыла Раму мама", "我 爱 北京 我", "na\u0308\u0131ve na\u0308\u0131ve ΣΑΣ σασ", "a\u00a0b\u3000b a"]
    corpus = prepare_corpus(lines, tmp_path, min_count=1)
    normal = [unicodedata.normalize("NFC", line).split() for line in lines]
    assert_is(corpus, encode_slowly(normal, 1))
    folded = prepare_corpus(lines, tmp_path, min_count=1, lowercase=True)
    assert folded.vocabulary.counts[folded.vocabulary["мама"]] == 2
    assert folded.vocabulary.counts[folded.vocabulary["σασ"]] == 2
    for text, start, end in zip(lines, [0, *folded.sentence_ends], folded.sentence_ends, strict=False):
        assert folded.vocabulary.encode([text])[0].tolist() == folded.ids[start:end].tolist(), (
            "as the tokenizer does it"
        )


def test_word_pattern(tmp_path):
    corpus = prepare_corpus(["Don't stop, (now)!", "stop. now"], tmp_path, 1, lowercase=True, word_pattern=r"[a-z']+")
    assert_is(corpus, encode_slowly([["don't", "stop", "now"], ["stop", "now"]], 1))


def test_max_vocab_size_and_given_vocabulary(tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    corpus = prepare_corpus(tmp_path / "text.txt", tmp_path, min_count=1, max_vocab_size=2)
    assert corpus.vocabulary.words == ["the", "on"]
    given = prepare_corpus(tmp_path / "text.txt", tmp_path, vocabulary=Vocabulary(["cat", "zebra", "the"]))
    assert set(given.ids.tolist()) == {0, 2} and given.vocabulary.words == ["cat", "zebra", "the"]


def test_an_unchanged_source_is_not_read_again(tmp_path, monkeypatch):
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    first = prepare_corpus(path, tmp_path / "cache", min_count=2)
    with monkeypatch.context() as patch:
        patch.setattr(corpora, "encode_blocks", None)
        assert prepare_corpus(path, tmp_path / "cache", min_count=2).fingerprint == first.fingerprint
    assert prepare_corpus(path, tmp_path / "cache", min_count=3).fingerprint != first.fingerprint
    path.write_text(TEXT + " more more")
    assert "more" in prepare_corpus(path, tmp_path / "cache", min_count=2).vocabulary
    assert sorted(entry.name for entry in (tmp_path / "cache").iterdir()) == sorted(
        entry.name for entry in (tmp_path / "cache").iterdir() if (entry / "corpus.json").is_file()
    ), "nothing temporary is left"


def test_more_words_than_are_counted_at_once(tmp_path, monkeypatch):
    lines = [f"w{number} w{number % 700} common" for number in range(3000)]
    monkeypatch.setattr(corpora, "BLOCK_BYTES", 4096)
    whole = prepare_corpus(lines, tmp_path, min_count=4)
    monkeypatch.setattr(encoded_blocks, "_COUNTED_AT_ONCE", 500)
    monkeypatch.setattr(encoded_blocks, "_PENDING_WORDS", 100)
    shares = prepare_corpus(lines, tmp_path, min_count=4)
    assert shares.vocabulary.words == whole.vocabulary.words
    assert_is(shares, encode_slowly([line.split() for line in lines], 4))


def test_bad_sources_are_one_line(tmp_path):
    (tmp_path / "latin.txt").write_bytes("der Bär".encode("latin1"))
    (tmp_path / "cut.gz").write_bytes(gzip.compress(b"text " * 999)[:-9])
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "bytes.txt").write_bytes(b"x" * (20 << 20))
    pq.write_table(pa.table({"body": ["a"]}), tmp_path / "a.parquet")
    (tmp_path / "folder").mkdir()
    for source, message in {
        "latin.txt": "not UTF-8.*'der B'",
        "cut.gz": "cannot be read to its end",
        "empty.txt": "no word 5 times",
        "bytes.txt": "is it text",
        "a.parquet": r"no column 'text' but \['body'\]",
        "folder": "has no file ending in",
        "missing.txt": "no such file or folder",
    }.items():
        with pytest.raises(InputError, match=message) as caught:
            prepare_corpus(tmp_path / source, tmp_path / "cache")
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "cache").exists() or not list((tmp_path / "cache").iterdir())


def test_memory_does_not_grow_with_the_text(tmp_path, monkeypatch):
    monkeypatch.setattr(corpora, "BLOCK_BYTES", 1 << 16)

    def peak(repeats):
        path = tmp_path / f"{repeats}.txt"
        path.write_text(" ".join(f"word{number % 997}" for number in range(20_000)) * repeats)
        tracemalloc.start()
        pa_before = pa.total_allocated_bytes()
        prepare_corpus(path, tmp_path, num_threads=1)
        assert pa.total_allocated_bytes() - pa_before < 1 << 20
        return tracemalloc.get_traced_memory()[1], tracemalloc.stop()

    assert peak(40)[0] < 1.5 * peak(4)[0]


def test_merged_vocabulary_keeps_the_old_rows():
    old = Vocabulary(["a", "b", "c"], np.array([5, 3, 1]))
    merged, rows = merge_vocabularies(old, Vocabulary(["d", "c"], np.array([9, 4])))
    assert merged.words == ["d", "a", "c", "b"] and merged.counts.tolist() == [9, 5, 5, 3]
    assert rows.tolist() == [-1, 0, 2, 1]
