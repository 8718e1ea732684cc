"""fastText's files: equal to gensim's reader and to fastText's own, quantized ones decoded, damaged ones refused."""

import gzip
import struct

import numpy as np
import pytest
import torch
from gensim.models.fasttext import ft_ngram_hashes, load_facebook_model, load_facebook_vectors
from gensim.test.utils import datapath

from hfembed.convert.fasttext import convert_fasttext
from hfembed.convert.word2vec import convert_word2vec_file
from hfembed.errors import InputError
from hfembed.export.gensim import export_fasttext
from hfembed.models.word2vec.configuration_word2vec import Word2VecConfig
from hfembed.models.word2vec.fasttext_format import MAGIC, read_fasttext
from hfembed.models.word2vec.modeling_word2vec import Word2VecForPreTraining, Word2VecModel
from hfembed.models.word2vec.vocabulary_word2vec import UnknownWordError, Vocabulary

GENSIMS_FILES = [
    "lee_fasttext_new.bin", "crime-and-punishment.bin", "toy-model.bin", "toy-model-pretrained.bin",
    "lee_fasttext.bin", "non_ascii_fasttext.bin", "cp852_fasttext.bin",
]  # fmt: skip
UNKNOWN = ["nightfall", "неизвестное", "猫😀x", "a"]
WORDS = ["the", "слово", "</s>"]
SIZE, BUCKETS = 5, 40


def fasttext_file(quantized=False, with_norms=False, pruned=False, kind=2, version=12, loss=2):
    """A small file of fastText, byte by byte, and its rows: words first, then n-grams."""
    rng = np.random.default_rng(0)
    kept = rng.permutation(BUCKETS)[:9] if pruned else np.arange(BUCKETS)
    number = len(WORDS) + len(kept)
    content = struct.pack("<2i12id", MAGIC, version, SIZE, 5, 1, 1, 5, 1, loss, kind, BUCKETS, 2, 4, 100, 1e-4)
    content += struct.pack("<3i2q", len(WORDS), len(WORDS), 0, 60, len(kept) if pruned else -1)
    for count, word in zip((30, 20, 10), WORDS, strict=True):
        content += word.encode() + b"\0" + struct.pack("<qb", count, 0)
    if pruned:
        content += np.stack([kept, np.arange(len(kept))], axis=1).astype("<i4").tobytes()
    content += struct.pack("<?", quantized)
    if not quantized:
        rows = rng.normal(size=(number, SIZE)).astype("<f4")
        content += struct.pack("<2q", *rows.shape) + rows.tobytes()
    else:  # parts of 2, 2 and 1 numbers
        codes = rng.integers(256, size=(number, 3)).astype(np.uint8)
        centroids = rng.normal(size=SIZE * 256).astype("<f4")
        parts = [
            centroids[:512].reshape(256, 2),
            centroids[512:1024].reshape(256, 2),
            centroids[1024:].reshape(256, 1),
        ]
        rows = np.concatenate([part[codes[:, i]] for i, part in enumerate(parts)], axis=1)
        content += struct.pack("<?2qi", with_norms, number, SIZE, codes.size) + codes.tobytes()
        content += struct.pack("<4i", SIZE, 3, 2, 1) + centroids.tobytes()
        if with_norms:
            norm_codes, norms = rng.integers(256, size=number).astype(np.uint8), rng.random(256).astype("<f4")
            content += norm_codes.tobytes() + struct.pack("<4i", 1, 1, 1, 1) + norms.tobytes()
            rows = rows * norms[norm_codes][:, None]
    output = rng.normal(size=(len(WORDS), SIZE)).astype("<f4")
    content += struct.pack("<?2q", False, *output.shape) + output.tobytes()
    return content, rows, dict(zip(kept.tolist(), range(len(kept)), strict=True)), output


@pytest.mark.parametrize("name", GENSIMS_FILES)
def test_words_and_unknown_words_are_gensims(name):
    theirs = load_facebook_vectors(datapath(name))
    ours = Word2VecModel.from_fasttext(datapath(name))
    words = [
        word for word in theirs.index_to_key if word != "</s>"
    ]  # to which gensim gives n-grams, and fastText none
    assert ours.vocabulary.words == theirs.index_to_key
    np.testing.assert_allclose(ours.vector(words + UNKNOWN), [theirs[word] for word in words + UNKNOWN], atol=1e-6)
    np.testing.assert_array_equal(ours.ngram_embeddings.weight.detach(), theirs.vectors_ngrams)
    assert dict(zip(words, ours.vocabulary.counts, strict=False))[words[0]] == theirs.get_vecattr(words[0], "count")


@pytest.mark.parametrize("name", GENSIMS_FILES[:4])
def test_words_and_unknown_words_are_fasttexts(name):
    fasttext = pytest.importorskip("fasttext")
    theirs = fasttext.load_model(datapath(name))
    ours = Word2VecModel.from_fasttext(datapath(name))
    words = ours.vocabulary.words + UNKNOWN
    np.testing.assert_allclose(ours.vector(words), [theirs.get_word_vector(word) for word in words], atol=1e-6)


def test_a_file_that_fasttext_wrote(tmp_path):
    fasttext = pytest.importorskip("fasttext")
    rng = np.random.default_rng(0)
    lines = [" ".join(f"слово{i}" for i in rng.integers(200, size=12)) for _ in range(800)]
    (tmp_path / "text.txt").write_text("\n".join(lines), encoding="utf-8")
    for _ in range(5):
        try:  # now and then its wheel starts from memory that holds NaN or huge numbers
            theirs = fasttext.train_unsupervised(str(tmp_path / "text.txt"), dim=10, bucket=5000, epoch=1, verbose=0)
        except RuntimeError:
            continue
        if np.abs(theirs.get_input_matrix()).max() < 1000:
            break
    else:
        pytest.skip("fastText does not train here")
    theirs.save_model(str(tmp_path / "model.bin"))
    convert_fasttext(tmp_path / "model.bin", tmp_path / "out")
    ours = Word2VecForPreTraining.from_pretrained(tmp_path / "out")
    assert ours.config.architecture == "skip-gram" and ours.config.subwords == [3, 6]
    words = ours.vocabulary.words + ["словечко", *UNKNOWN]
    np.testing.assert_allclose(ours.word2vec.vector(words), [theirs.get_word_vector(w) for w in words], atol=1e-6)
    np.testing.assert_array_equal(ours.context_embeddings.weight.detach(), theirs.get_output_matrix())


@pytest.mark.parametrize("pruned", [False, True])
@pytest.mark.parametrize("with_norms", [False, True])
def test_quantized_and_pruned_files(tmp_path, with_norms, pruned):
    content, rows, positions, _ = fasttext_file(True, with_norms, pruned)
    (tmp_path / "model.ftz").write_bytes(content)
    model = convert_fasttext(tmp_path / "model.ftz", tmp_path / "out")
    words = [*WORDS, "словами", "then"]
    for loaded in (model, Word2VecModel.from_pretrained(tmp_path / "out")):
        for word in words:
            used = [] if word not in WORDS else [rows[WORDS.index(word)]]
            hashes = [] if word == "</s>" else ft_ngram_hashes(word, 2, 4, BUCKETS)
            used += [rows[len(WORDS) + positions[bucket]] for bucket in hashes if bucket in positions]
            np.testing.assert_allclose(loaded.vector(word), np.mean(used, axis=0), atol=1e-6)
    if pruned:
        letters = "abcdefghijklmnopqrstuvwxyz"
        pruned_away = next(c for c in letters if positions.keys().isdisjoint(ft_ngram_hashes(c, 2, 4, BUCKETS)))
        with pytest.raises(UnknownWordError):
            loaded.vector(pruned_away)
    fasttext = pytest.importorskip("fasttext")
    theirs = fasttext.load_model(str(tmp_path / "model.ftz"))
    np.testing.assert_allclose(model.vector(words), [theirs.get_word_vector(word) for word in words], atol=1e-6)


@pytest.mark.parametrize("name", ["model.bin", datapath("lee_fasttext_new.bin")])
def test_a_file_that_we_write_is_gensims_and_fasttexts(tmp_path, name):
    if name == "model.bin":
        (tmp_path / name).write_bytes(fasttext_file()[0])
        name = tmp_path / name
    whole, path = Word2VecForPreTraining.from_fasttext(name), tmp_path / "written.bin"
    convert_fasttext(name, tmp_path / "folder")
    assert export_fasttext(tmp_path / "folder", path)
    ours = whole.word2vec
    words = [*(word for word in ours.vocabulary.words if word != "</s>"), *UNKNOWN]
    theirs = load_facebook_model(path)
    assert theirs.wv.index_to_key == ours.vocabulary.words and theirs.sg == (whole.config.architecture == "skip-gram")
    np.testing.assert_allclose(ours.vector(words), [theirs.wv[word] for word in words], atol=1e-6)
    np.testing.assert_array_equal(theirs.syn1neg, whole.context_embeddings.weight.detach())
    again = Word2VecForPreTraining.from_fasttext(path)
    assert all(map(torch.equal, again.state_dict().values(), whole.state_dict().values()))
    assert again.config.to_dict() == whole.config.to_dict() and again.vocabulary.counts.tolist() == counts_of(theirs)
    fasttext = pytest.importorskip("fasttext").load_model(str(path))
    np.testing.assert_allclose(ours.vector(words), [fasttext.get_word_vector(word) for word in words], atol=1e-6)


def counts_of(gensims):
    return [gensims.wv.get_vecattr(word, "count") for word in gensims.wv.index_to_key]


def test_words_alone_and_shared_rows_are_written(tmp_path):
    vectors = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
    plain = Word2VecModel.from_vectors(Vocabulary(["a", "b"]), vectors)
    plain.to_fasttext(tmp_path / "plain.bin")
    read = Word2VecModel.from_fasttext(tmp_path / "plain.bin")
    np.testing.assert_array_equal(read.word_vectors(), vectors)
    assert read.vocabulary.counts.tolist() == [1, 1] and "c" not in read
    np.testing.assert_allclose(load_facebook_vectors(tmp_path / "plain.bin")["b"], vectors[1])
    shared = Word2VecModel(Word2VecConfig(vocab_size=2, embedding_size=3, subwords=(2, 3), buckets=50, ngram_rows=5))
    shared.ngram_embeddings.store_buckets(np.array([3, 17, 18, 40]))
    shared.set_vocabulary(Vocabulary(["walk", "tea"], np.array([9, 7])))
    shared.to_fasttext(tmp_path / "shared.bin")
    words = ["walk", "tea", "walked", "teas"]
    np.testing.assert_allclose(Word2VecModel.from_fasttext(tmp_path / "shared.bin").vector(words), shared[words])
    plain.set_vocabulary(Vocabulary(["a", "b\0"]))
    with pytest.raises(ValueError, match="NUL"):
        plain.to_fasttext(tmp_path / "nul.bin")
    (tmp_path / "pruned.ftz").write_bytes(fasttext_file(True, pruned=True)[0])
    with pytest.raises(ValueError, match="pruned"):
        Word2VecModel.from_fasttext(tmp_path / "pruned.ftz").to_fasttext(tmp_path / "pruned.bin")


def test_what_cannot_be_read_is_named(tmp_path):
    path = tmp_path / "model.bin"

    def refuse(content, message, convert=convert_fasttext):
        path.write_bytes(content)
        with pytest.raises(InputError, match=message) as caught:
            convert(path, tmp_path / "out")
        assert str(path) in str(caught.value) and not (tmp_path / "out").exists()

    content = fasttext_file()[0]
    refuse(fasttext_file(kind=3)[0], "supervised")
    refuse(content[:-1], "more than it can hold")
    refuse(content[:60], "it ends too early")
    refuse(content + b"x", "extra data")
    refuse(fasttext_file(version=13)[0], "version 13")
    refuse(content.replace(struct.pack("<2q", 43, SIZE), struct.pack("<2q", 1 << 60, SIZE)), "do not fit a matrix")
    refuse(
        content.replace(struct.pack("<3i", 3, 3, 0), struct.pack("<3i", 1 << 30, 1 << 30, 0)), "more than it can hold"
    )
    refuse(b"2 3\n" + b"a 1 2 3\n" * 20, "its header is none of fastText's")
    refuse(b"\x80\x04" + bytes(100), "a pickle file")
    refuse(content, "a fastText .bin: use hfembed convert fasttext", convert_word2vec_file)
    with pytest.raises(ValueError, match="text classifier"):
        read_fasttext(datapath("pang_lee_polarity_fasttext.bin"))


def test_mutated_files_are_read_or_refused(tmp_path):
    rng = np.random.default_rng(0)
    files = [fasttext_file()[0], fasttext_file(True, True, True)[0]]
    for number in range(300):
        content = bytearray(files[number % 2])
        for _ in range(rng.integers(1, 3)):
            content[rng.integers(min(len(content), 400))] = rng.integers(256)
        (tmp_path / "model.bin").write_bytes(content[: rng.integers(len(content))] if number % 5 == 0 else content)
        try:
            file = read_fasttext(tmp_path / "model.bin")
        except ValueError as error:
            assert "model.bin" in str(error)
        else:
            assert np.isfinite(file.vectors).all()


def test_compressed_files_and_files_to_train_on(tmp_path):
    content, rows, _, output = fasttext_file()
    (tmp_path / "model.bin.gz").write_bytes(gzip.compress(content))
    model = Word2VecForPreTraining.from_fasttext(tmp_path / "model.bin.gz")
    np.testing.assert_array_equal(model.context_embeddings.weight.detach(), output)
    np.testing.assert_array_equal(model.word2vec.embeddings.weight.detach(), rows[: len(WORDS)])
    (tmp_path / "softmax.bin").write_bytes(fasttext_file(loss=3)[0])
    with pytest.raises(ValueError, match="not trained by negative sampling"):
        Word2VecForPreTraining.from_fasttext(tmp_path / "softmax.bin")
    assert "words" in Word2VecModel.from_fasttext(tmp_path / "softmax.bin")
