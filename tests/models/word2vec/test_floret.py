"""floret's variant: hashes against MurmurHash3 in plain Python and floret's, one table everywhere, its file."""

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from hfembed.convert.floret import convert_floret
from hfembed.convert.word2vec import convert_word2vec_file
from hfembed.errors import InputError
from hfembed.export.floret import export_floret
from hfembed.export.gensim import export_gensim_model
from hfembed.export.spacy import export_spacy
from hfembed.models.word2vec.configuration_word2vec import Word2VecConfig
from hfembed.models.word2vec.modeling_word2vec import Word2VecForPreTraining, Word2VecModel
from hfembed.models.word2vec.subwords import FLORET_SEED, hash_ngrams
from hfembed.models.word2vec.vocabulary_word2vec import TextRules, Vocabulary
from hfembed.words.data.corpora import prepare_corpus
from hfembed.words.training.engine import EngineSettings, train_word2vec
from hfembed.words.training.recipe import Word2VecTrainingConfig, start_model
from hfembed.words.training.subword_table import SubwordTable
from tests.models.word2vec.test_subwords import gradient_at_king

WORDS = ["king", "queen", "приве́т", "猫", "</s>"]
OTHERS = ["kings", "x", "猫😀x", "<s>", "a-word-of-more-than-16-bytes", "ana" * 30]
SIZE, BUCKETS, HASHES = 6, 50, 2
TABLE = np.random.default_rng(0).normal(size=(BUCKETS, SIZE)).astype(np.float32)


def murmur3(content: bytes, seed: int = FLORET_SEED) -> list[int]:
    """Four 32-bit parts of MurmurHash3 x64 128, after the public reference in C++."""
    mask, c1, c2 = (1 << 64) - 1, 0x87C37B91114253D5, 0x4CF5AD432745937F

    def rotate(x, bits):
        return (x << bits | x >> 64 - bits) & mask

    def finish(x):
        x = (x ^ x >> 33) * 0xFF51AFD7ED558CCD & mask
        x = (x ^ x >> 33) * 0xC4CEB9FE1A85EC53 & mask
        return x ^ x >> 33

    h1 = h2 = seed
    whole = len(content) // 16 * 16
    for start in range(0, whole, 16):
        k1, k2 = (int.from_bytes(content[start + at : start + at + 8], "little") for at in (0, 8))
        h1 ^= rotate(k1 * c1 & mask, 31) * c2 & mask
        h1 = ((rotate(h1, 27) + h2) * 5 + 0x52DCE729) & mask
        h2 ^= rotate(k2 * c2 & mask, 33) * c1 & mask
        h2 = ((rotate(h2, 31) + h1) * 5 + 0x38495AB5) & mask
    tail = content[whole:]
    h2 ^= rotate(int.from_bytes(tail[8:], "little") * c2 & mask, 33) * c1 & mask
    h1 ^= rotate(int.from_bytes(tail[:8], "little") * c1 & mask, 31) * c2 & mask
    h1, h2 = h1 ^ len(content), h2 ^ len(content)
    h1 = h1 + h2 & mask
    h1, h2 = finish(h1), finish(h1 + h2 & mask)
    h1 = h1 + h2 & mask
    h2 = h1 + h2 & mask
    return [h1 & 0xFFFFFFFF, h1 >> 32, h2 & 0xFFFFFFFF, h2 >> 32]


def strings_of(word, smallest, largest):
    """The whole word and its n-grams."""
    word = f"<{word}>"
    ngrams = [
        word[start : start + size]
        for start in range(len(word))
        for size in range(smallest, min(largest, len(word) - start) + 1)
        if size > 1 or 0 < start < len(word) - 1  # a boundary alone is none
    ]
    return [word, *ngrams]


def rows_of(word, smallest=2, largest=4, buckets=BUCKETS, hash_count=HASHES):
    return [h % buckets for s in strings_of(word, smallest, largest) for h in murmur3(s.encode())[:hash_count]]


def by_hand(word):
    return TABLE[rows_of(word)].mean(axis=0)


def make_model(**rules) -> Word2VecModel:
    config = Word2VecConfig(
        vocab_size=len(WORDS), embedding_size=SIZE, subwords=(2, 4), buckets=BUCKETS, hash_count=HASHES
    )
    model = Word2VecModel(config, Vocabulary(WORDS, np.arange(50, 0, -10), TextRules(**rules)))
    with torch.no_grad():
        model.ngram_embeddings.weight.copy_(torch.tensor(TABLE))
    return model


@pytest.mark.parametrize(("smallest", "largest", "hash_count"), [(3, 6, 1), (1, 2, 2), (2, 2, 3), (4, 9, 4)])
def test_hashes_of_words_and_ngrams(smallest, largest, hash_count):
    words = [*WORDS, *OTHERS, ""]
    offsets, hashes = hash_ngrams(words, smallest, largest, 50_000, hash_count)
    for word, begin, end in zip(words, offsets[:-1], offsets[1:], strict=True):
        assert hashes[begin:end].tolist() == rows_of(word, smallest, largest, 50_000, hash_count), word
    assert hash_ngrams([], smallest, largest, 9, hash_count)[1].shape == (0,)


def test_known_hashes():
    # floret 0.10.5: hashCount=2, bucket=50000, minn=maxn=4
    assert hash_ngrams(["кот"], 4, 4, 50_000, 2)[1].tolist() == [48056, 12029, 3204, 24913, 29329, 32157]


def test_vectors_of_known_and_unknown_words():
    model = make_model(lowercase=True)
    words = [*WORDS, *OTHERS]
    np.testing.assert_allclose(model.vector(words), [by_hand(word) for word in words], atol=1e-6)
    np.testing.assert_allclose(model.word_vectors(), [by_hand(word) for word in WORDS], atol=1e-6)
    np.testing.assert_allclose(model.vector("KINGS"), by_hand("kings"), atol=1e-6)
    assert "zzz" in model and "zzz" not in model.vocabulary
    vectors = torch.tensor(np.array([by_hand(word) for word in ["kings", *WORDS]]))
    cosines = torch.nn.functional.cosine_similarity(vectors[:1], vectors[1:]).tolist()
    best = int(np.argmax(cosines))
    assert model.most_similar("kings", top_k=1)[0] == (WORDS[best], pytest.approx(cosines[best], abs=1e-6))
    np.testing.assert_allclose(model.document_vectors(["king x"])[0], (by_hand("king") + by_hand("x")) / 2, atol=1e-6)


def test_saved_and_used_by_tokenizer_pipeline_and_sentence_transformers(tmp_path):
    make_model().save_pretrained(tmp_path)
    loaded = Word2VecModel.from_pretrained(tmp_path)
    assert loaded.config.hash_count == HASHES and torch.equal(loaded.vector(OTHERS), make_model().vector(OTHERS))
    assert sum(parameter.numel() for parameter in loaded.parameters()) == TABLE.size, "words have no rows"
    tokenizer, model = AutoTokenizer.from_pretrained(tmp_path), AutoModel.from_pretrained(tmp_path)
    output = model(**tokenizer(["king x kings", "queen"], padding=True, return_tensors="pt"))
    expected = [by_hand(word) for word in ("king", "x", "kings")]
    np.testing.assert_allclose(output.last_hidden_state[0].detach(), expected, atol=1e-6)
    from sentence_transformers import SentenceTransformer

    embeddings = SentenceTransformer(str(tmp_path), device="cpu").encode(["king x kings"])
    np.testing.assert_allclose(embeddings[0], np.mean(expected, axis=0), atol=1e-6)
    with torch.no_grad():
        model.ngram_embeddings.weight.mul_(2)
    model.save_pretrained(tmp_path / "other")
    (tmp_path / "model.safetensors").write_bytes((tmp_path / "other" / "model.safetensors").read_bytes())
    with pytest.raises(ValueError, match="saved with other vectors"):
        Word2VecModel.from_pretrained(tmp_path)


def test_the_table_that_engines_train_is_the_models():
    table = SubwordTable.of(make_model())
    for row, word in enumerate(WORDS):
        rows = table.rows[table.offsets[row] : table.offsets[row + 1]]
        assert rows.tolist() == rows_of(word) and table.scale[row] == pytest.approx(1 / len(rows))


def test_reference_loss_reaches_every_row_undivided():
    inputs = make_model()
    model = Word2VecForPreTraining(inputs.config, inputs.vocabulary)
    model.word2vec.load_state_dict(inputs.state_dict())
    with torch.no_grad():
        model.context_embeddings.weight.normal_()
    error = gradient_at_king(model, by_hand("king"))
    expected = np.zeros_like(TABLE)
    np.add.at(expected, rows_of("king"), error)
    np.testing.assert_allclose(model.word2vec.ngram_embeddings.weight.grad, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("engine", ["torch", "numba"])
def test_training_resumes_goes_on_and_finds_word_forms(engine, tmp_path):
    rng = np.random.default_rng(0)
    stems = ["".join(rng.choice(list("abcdefghijklmnop"), 6)) for _ in range(40)]  # eight of each of five topics
    lines = [
        " ".join(
            stems[8 * topic + stem] + ["", "ing", "er"][ending] for stem, ending in rng.integers((8, 3), size=(10, 2))
        )
        for topic in rng.integers(5, size=2500)
    ]
    corpus = prepare_corpus(lines, tmp_path, min_count=1)
    recipe = Word2VecTrainingConfig(
        corpus="text", embedding_size=16, subwords=[3, 5], buckets=1000, hash_count=2, engine=engine, sample=0.0
    )
    assert recipe.model_config(3).hash_count == 2
    settings = EngineSettings(
        engine=engine, epochs=3, learning_rate=0.02, num_threads=1, checkpoint_every=40_000, keep_checkpoints=9
    )
    whole, resumed = start_model(recipe, corpus), start_model(recipe, corpus)
    start = whole.word2vec.ngram_embeddings.weight.clone()
    train_word2vec(whole, corpus, settings, checkpoint_folder=tmp_path / "c", show_progress=False)
    for later in sorted((tmp_path / "c").iterdir())[1:]:
        later.rename(tmp_path / later.name)
    train_word2vec(resumed, corpus, settings, checkpoint_folder=tmp_path / "c", resume=True, show_progress=False)
    model, table = whole.word2vec, whole.word2vec.ngram_embeddings.weight
    assert torch.equal(table, resumed.word2vec.ngram_embeddings.weight) and not torch.equal(table, start)
    forms = [stem + "ed" for stem in stems]  # not in the text
    nearest = [answers[0][0][:6] for answers in model.most_similar_batch(forms, top_k=1)]
    assert [stems.index(stem) // 8 for stem in nearest] == [row // 8 for row in range(40)]
    whole.save_pretrained(tmp_path / "model")
    recipe.init_from = str(tmp_path / "model")
    more = start_model(recipe, prepare_corpus([*lines, "drinkable " * 9], tmp_path, min_count=1))
    assert torch.equal(more.word2vec.ngram_embeddings.weight, table), "training goes on with the table"


def test_floret_file_both_ways(tmp_path):
    model = make_model()
    for name in ("a.floret", "a.floret.gz"):
        export_floret(model, tmp_path / name)
        (tmp_path / "words.txt").write_text("\n".join(WORDS), encoding="utf-8")
        convert_floret(tmp_path / name, tmp_path / name.replace(".", "_"), tmp_path / "words.txt")
        loaded = Word2VecModel.from_pretrained(tmp_path / name.replace(".", "_"))
        assert loaded.vocabulary.words == WORDS and torch.equal(loaded.vector(OTHERS), model.vector(OTHERS))
    bare = Word2VecModel.from_floret(tmp_path / "a.floret")
    assert torch.equal(bare.vector(WORDS), model.vector(WORDS)) and bare.most_similar("x") == []
    with pytest.raises(InputError, match="hfembed convert floret"):
        convert_word2vec_file(tmp_path / "a.floret", tmp_path / "out")
    plain = Word2VecModel(Word2VecConfig(vocab_size=1, embedding_size=2), Vocabulary(["a"]))
    with pytest.raises(ValueError, match="hash_count"):
        plain.to_floret(tmp_path / "b.floret")
    model.save_pretrained(tmp_path / "model")
    with pytest.raises(InputError, match="hash_count 2"):
        export_gensim_model(tmp_path / "model", tmp_path / "gensim")
    with pytest.raises(ValueError, match="hash_count 2"):
        model.to_fasttext(tmp_path / "a.bin")


@pytest.mark.parametrize(
    ("line", "changed", "message"),
    [
        (0, "50 6 2 4 2 7 < >", "seed"),
        (0, "50 6 2 4 2 2166136261 [ ]", "boundaries"),
        (0, "50 6 2 4 9 2166136261 < >", "impossible settings"),
        (0, "50 6 5 4 2 2166136261 < >", "impossible settings"),
        (0, "99999999 6 2 4 2 2166136261 < >", "more than it can hold"),
        (0, "51 6 2 4 2 2166136261 < >", "ends after 50 of the 51"),
        (0, "50 6", "settings of floret"),
        (3, "77 1 2 3 4 5 6", "row 2 has the number '77'"),
        (3, "2 1 2 3 4 5", "line 4"),
        (3, "2 1 2 nan 4 5 6", "not finite"),
    ],
)
def test_damaged_files_are_refused_by_name(tmp_path, line, changed, message):
    make_model().to_floret(tmp_path / "a.floret")
    lines = (tmp_path / "a.floret").read_text().split("\n")
    lines[line] = changed
    (tmp_path / "a.floret").write_text("\n".join(lines))
    with pytest.raises(ValueError, match=f"a.floret.*{message}"):
        Word2VecModel.from_floret(tmp_path / "a.floret")


@pytest.mark.parametrize(
    "fields",
    [
        {"hash_count": 2}, {"subwords": [3, 6], "hash_count": 0}, {"subwords": [3, 6], "hash_count": 5},
        {"subwords": [3, 6], "hash_count": 2, "ngram_rows": 5},
    ],
)  # fmt: skip
def test_impossible_settings_are_refused(fields):
    with pytest.raises(Exception, match="hash_count"):
        Word2VecConfig(**fields)


def test_floret_agrees(tmp_path):
    floret = pytest.importorskip("floret")
    (tmp_path / "text.txt").write_text("the cat sat on the mat with the приве́т\n" * 50)
    theirs = floret.train_unsupervised(
        str(tmp_path / "text.txt"), mode="floret", hashCount=HASHES, bucket=BUCKETS, minn=2, maxn=4, dim=SIZE,
        minCount=1, verbose=0,
    )  # fmt: skip
    theirs.save_floret_vectors(str(tmp_path / "theirs.floret"))
    ours = Word2VecModel.from_floret(tmp_path / "theirs.floret")
    words = ["cat", "приве́т", *OTHERS]
    expected = np.array([theirs.get_word_vector(word) for word in words])
    np.testing.assert_allclose(ours.vector(words), expected, rtol=1e-4, atol=1e-5)  # it writes five digits


def test_spacy_agrees(tmp_path):
    spacy = pytest.importorskip("spacy")
    model = make_model(lowercase=True)
    export_spacy(model, tmp_path / "vocab")
    nlp = spacy.blank("ru")
    nlp.vocab.from_disk(tmp_path / "vocab")
    for word in ("king", "x", "ana" * 30):
        np.testing.assert_allclose(nlp(word.upper())[0].vector, by_hand(word), atol=1e-6)
