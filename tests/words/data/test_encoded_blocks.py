"""Preparation by several processes: a killed one goes on, and the result is the same to the byte."""

import os
import shutil
import signal

import numpy as np
import pyarrow as pa
import pytest

from hfembed.words.data import corpora, encoded_blocks
from hfembed.words.data.corpora import prepare_corpus
from hfembed.words.data.encoded_blocks import WordRows, WorkerKilledError, in_parallel


@pytest.fixture
def text(tmp_path, monkeypatch):
    monkeypatch.setattr(corpora, "BLOCK_BYTES", 256)
    words = np.random.default_rng(0).zipf(1.5, size=3000) % 300
    lines = np.split(words, np.sort(np.random.default_rng(1).integers(3000, size=60)))
    path = tmp_path / "text.txt"
    path.write_text("\n".join(" ".join(f"w{word}" for word in line) for line in lines))
    return path


def files_of(corpus):
    names = ("ids.npy", "sentence_ends.npy", "tokenizer.json")
    return [(corpus.folder / name).read_bytes() for name in names] + [corpus.vocabulary.counts.tolist()]


def test_several_processes_give_the_same_bytes(text, tmp_path):
    one = prepare_corpus(text, tmp_path / "one", 2, sentence_length=7, num_threads=1)
    two = prepare_corpus(text, tmp_path / "two", 2, sentence_length=7, num_threads=2)
    assert files_of(one) == files_of(two) and one.num_raw_words == two.num_raw_words


class Killer:
    """A function that logs its calls in a file, by whatever process, and kills the run after a number of them."""

    def __init__(self, function, log, most):
        self.function, self.log, self.most = function, log, most

    def __call__(self, *arguments):
        if self.count() >= self.most:
            raise KeyboardInterrupt  # nothing is cleaned up after it, as after a kill
        with self.log.open("a") as file:
            file.write("x")
        return self.function(*arguments)

    def count(self):
        return len(self.log.read_text()) if self.log.exists() else 0


@pytest.mark.parametrize("num_threads", [1, 2])
def test_a_killed_preparation_goes_on_with_the_next_block(text, tmp_path, monkeypatch, num_threads):
    def prepare(name, most, cache="cache"):
        """The corpus, `None` where it was killed, and how often the function was called."""
        killer = Killer(getattr(encoded_blocks, name), tmp_path / f"{name}-{most}", most)
        with monkeypatch.context() as patch:
            patch.setattr(encoded_blocks, name, killer)
            try:
                threads = {"num_threads": num_threads}
                return prepare_corpus(text, tmp_path / cache, 2, sentence_length=7, **threads), killer.count()
            except KeyboardInterrupt:
                return None, killer.count()

    whole, total = prepare("_encode_block", 1000, "whole")

    def kill_twice(name):
        """How many blocks were done in two runs that were killed; both processes may count the last one."""
        (first, done), (second, more) = prepare(name, 5), prepare(name, 4)
        assert first is None and second is None and 9 <= done + more < 9 + 2 * num_threads
        return done + more

    done = kill_twice("_encode_block")
    corpus, number = prepare("_encode_block", 999)
    # each process may lose the block under way
    assert total - done <= number <= total - done + 2 * num_threads and files_of(corpus) == files_of(whole)

    shutil.rmtree(tmp_path / "cache")
    monkeypatch.setattr(encoded_blocks, "_NOTED", 2)  # each run may lose one more
    done = kill_twice("_cut_sentences")
    monkeypatch.setattr(encoded_blocks, "_encode_block", None)
    monkeypatch.setattr(corpora, "count_words", None)
    corpus, number = prepare("_cut_sentences", 1000)
    assert total - done <= number <= total - done + 2 * (num_threads + 2) and files_of(corpus) == files_of(whole)
    assert len(list((tmp_path / "cache").iterdir())) == 1, "nothing unfinished is left"


def test_a_text_that_changed_is_not_gone_on_with(text, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(encoded_blocks, "_encode_block", Killer(encoded_blocks._encode_block, tmp_path / "log", 3))
        with pytest.raises(KeyboardInterrupt):
            prepare_corpus(text, tmp_path / "cache", 1, num_threads=1)
    text.write_text(text.read_text().replace("w1 ", "other "))
    changed = prepare_corpus(text, tmp_path / "cache", 1)
    assert "other" in changed.vocabulary
    assert files_of(changed) == files_of(prepare_corpus(text, tmp_path / "new", 1))


def test_a_killed_process_is_one_line_and_others_keep_what_they_did(text, tmp_path, monkeypatch):
    with pytest.raises(WorkerKilledError, match="run again to go on"):
        list(in_parallel(lambda number: os.kill(os.getpid(), signal.SIGKILL), [(1,), (2,)], 2))
    assert list(in_parallel(lambda a, b: a * b, [(a, a) for a in range(9)], 3)) == [a * a for a in range(9)]
    with pytest.raises(ZeroDivisionError):
        list(in_parallel(lambda a: 1 // a, [(1,), (0,), (1,)], 2))


def test_rows_of_words(monkeypatch):
    rng = np.random.default_rng(0)
    words = list(dict.fromkeys("".join(rng.choice(list("aбé中🙂z"), size)) for size in rng.integers(40, size=900)))
    asked = [*words[::-1], "other", "zzzzzzzzzzzzzzzz", ""]
    index = {word: row for row, word in enumerate(words)}
    expected = [index.get(word, -1) for word in asked]
    assert WordRows(pa.array(words)).find(pa.array(asked)).tolist() == expected
    assert WordRows(pa.array(words).slice(3)).find(pa.array(asked).slice(2)).tolist() == [
        row - 3 if row >= 3 else -1 for row in expected[2:]
    ]
    assert WordRows(pa.array([], pa.string())).find(pa.array(["a"])).tolist() == [-1]
    # hashes that agree by chance
    monkeypatch.setattr(encoded_blocks, "_hash_words", lambda words: np.arange(len(words)).astype(np.uint64) * 0 + 7)
    assert WordRows(pa.array(words)).find(pa.array(asked)).tolist() == expected
