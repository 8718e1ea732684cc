"""Models with subwords as their users see them: unknown words in every query, saving, loading by others, gensim."""

import numpy as np
import pytest
import torch
from gensim.models.fasttext import FastText, ft_ngram_hashes
from transformers import AutoModel, AutoTokenizer, pipeline

from hfembed.models.word2vec.configuration_word2vec import Word2VecConfig
from hfembed.models.word2vec.modeling_word2vec import Word2VecForPreTraining, Word2VecModel
from hfembed.models.word2vec.subwords import hash_ngrams
from hfembed.models.word2vec.vocabulary_word2vec import TextRules, UnknownWordError, Vocabulary

WORDS = ["king", "queen", "приве́т", "猫", "new_york", "</s>"]
SIZE, BUCKETS = 6, 50
ROWS = np.random.default_rng(0).normal(size=(len(WORDS), SIZE)).astype(np.float32)
NGRAMS = np.random.default_rng(1).normal(size=(BUCKETS, SIZE)).astype(np.float32)


def make_model(smallest=2, largest=4, **rules):
    vocabulary = Vocabulary(WORDS, np.arange(60, 0, -10), TextRules(**rules))
    return Word2VecModel.from_vectors(
        vocabulary, ROWS.copy(), NGRAMS.copy(), subwords=[smallest, largest], buckets=BUCKETS
    )


def by_hand(word, smallest=2, largest=4):
    used = [ROWS[WORDS.index(word)]] if word in WORDS else []
    if word != "</s>":
        used += [NGRAMS[bucket] for bucket in ft_ngram_hashes(word, smallest, largest, BUCKETS)]
    return np.mean(used, axis=0)


@pytest.mark.parametrize(("smallest", "largest"), [(3, 6), (1, 2), (2, 2), (4, 9)])
def test_hashes_are_gensims(smallest, largest):
    words = ["a", "приве́т", "猫😀x", "", "<s>", "naïve", "word", "ab", "ana" * 9]
    offsets, hashes = hash_ngrams(words, smallest, largest, 2_000_000)
    for word, begin, end in zip(words, offsets[:-1], offsets[1:], strict=True):
        assert hashes[begin:end].tolist() == ft_ngram_hashes(word, smallest, largest, 2_000_000), word
    assert hash_ngrams(["</s>", "word"], smallest, largest, 9)[0][1] == 0
    assert hash_ngrams([], smallest, largest, 9)[1].shape == (0,)


def test_a_vector_is_the_mean_of_all_rows_of_a_word():
    model = make_model()
    words = [*WORDS, "kings", "котёнок"]
    np.testing.assert_allclose(model.vector(words), [by_hand(word) for word in words], atol=1e-6)
    np.testing.assert_allclose(model.word_vectors(), [by_hand(word) for word in WORDS], atol=1e-6)
    with torch.no_grad():
        model.ngram_embeddings.weight.mul_(2)  # seen at the next query
    assert not np.allclose(model.vector("king"), by_hand("king"))


def test_unknown_words_in_every_query():
    model = make_model()
    assert "kings" in model and "kings" not in model.vocabulary and len(model) == len(WORDS)
    vectors = torch.tensor(np.array([by_hand(word) for word in [*WORDS, "kings"]]))
    cosines = torch.nn.functional.cosine_similarity(vectors[-1:], vectors[:-1]).tolist()
    best = max(range(len(WORDS)), key=lambda row: cosines[row])
    assert model.most_similar("kings", top_k=1)[0] == (WORDS[best], pytest.approx(cosines[best], abs=1e-6))
    assert model.similarity("kings", "king") == pytest.approx(cosines[0], abs=1e-6)
    answer = model.most_similar(["queen", "kings"], ["king"], top_k=6)
    assert "queen" not in dict(answer) and "king" not in dict(answer)
    assert model.analogy("king", "kings", "queen", 3)[0] == pytest.approx(answer[0])
    assert model.doesnt_match(["kings", "king", "猫猫"]) in ("kings", "king", "猫猫")
    document = model.document_vectors(["king  kings 猫", ["kings"]])
    np.testing.assert_allclose(document[0], (by_hand("king") + by_hand("kings") + by_hand("猫")) / 3, atol=1e-6)
    np.testing.assert_allclose(document[1], by_hand("kings"), atol=1e-6)
    for weighting in ("sif", "tf-idf"):
        assert model.document_vectors(["king kings", "猫"], weighting, fitted_on=["queens", "king"]).isfinite().all()
    longer = make_model(6, 6)
    with pytest.raises(UnknownWordError, match="'kin' is not in the vocabulary; did you mean 'king'"):
        longer.vector("kin")  # too short for an n-gram
    assert longer.document_vectors(["kin"]).abs().max() == 0
    np.testing.assert_allclose(make_model(lowercase=True).vector("KINGS"), by_hand("kings"), atol=1e-6)


def test_tokenizer_pipeline_and_sentence_transformers_know_unknown_words(tmp_path):
    make_model(word_pattern=r"\w+").save_pretrained(tmp_path)
    tokenizer, model = AutoTokenizer.from_pretrained(tmp_path), AutoModel.from_pretrained(tmp_path)
    texts = ["king, kings! 猫猫猫", "queen"]
    output = model(**tokenizer(texts, padding=True, return_tensors="pt"))
    expected = [by_hand(word) for word in ("king", "kings", "猫猫猫")]
    np.testing.assert_allclose(output.last_hidden_state[0].detach(), expected, atol=1e-6)
    assert output.last_hidden_state[1, 1:].abs().max() == 0
    np.testing.assert_allclose(output.pooler_output[0].detach(), np.mean(expected, axis=0), atol=1e-6)
    cut = tokenizer(texts[0], truncation=True, max_length=2, return_tensors="pt")
    np.testing.assert_allclose(model(**cut).last_hidden_state[0].detach(), expected[:2], atol=1e-6)
    features = pipeline("feature-extraction", model=str(tmp_path), tokenizer=str(tmp_path))(texts, batch_size=2)
    np.testing.assert_allclose(np.array(features[0])[0, :3], expected, atol=1e-6)
    from sentence_transformers import SentenceTransformer

    embeddings = SentenceTransformer(str(tmp_path), device="cpu").encode(texts)
    np.testing.assert_allclose(embeddings[0], np.mean(expected, axis=0), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_saved_and_loaded_is_the_same(tmp_path, dtype):
    model = make_model().to(dtype)
    model.save_pretrained(tmp_path)
    loaded = Word2VecModel.from_pretrained(tmp_path)
    assert loaded.dtype == dtype and loaded.config.subwords == [2, 4] and loaded.config.buckets == BUCKETS
    assert torch.equal(loaded.vector(["king", "kings"]), model.vector(["king", "kings"]))
    torch.testing.assert_close(model.vector("kings").float(), torch.tensor(by_hand("kings")), atol=0.02, rtol=0.02)


def test_buckets_that_share_a_row_of_zeros(tmp_path):
    used = np.unique(hash_ngrams(WORDS, 2, 4, BUCKETS)[1])
    rows = np.concatenate([NGRAMS[used], np.zeros((1, SIZE), np.float32)])
    positions = np.full(BUCKETS, len(used))
    positions[used] = np.arange(len(used))
    model = Word2VecModel.from_vectors(
        Vocabulary(WORDS, np.arange(60, 0, -10)), ROWS.copy(), rows, positions, subwords=(2, 4), buckets=BUCKETS
    )
    model.save_pretrained(tmp_path)
    model = Word2VecModel.from_pretrained(tmp_path)
    np.testing.assert_allclose(model.vector(WORDS), [by_hand(word) for word in WORDS], atol=1e-6)
    dense = model.to_keyed_vectors()
    np.testing.assert_allclose(model.vector("xkingqz"), dense["xkingqz"], atol=1e-6)
    batch = {
        "input_ids": torch.tensor([[7]]),
        "ngram_ids": torch.tensor(hash_ngrams(["xkingqz"], 2, 4, BUCKETS)[1]) + 1,
    }
    output = model(batch["input_ids"], ngram_ids=batch["ngram_ids"].view(1, 1, -1))
    torch.testing.assert_close(output.pooler_output[0], model.vector("xkingqz"))
    model.ngram_embeddings.positions[3] = 999
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="positions"):
        Word2VecModel.from_pretrained(tmp_path)


def test_gensim_both_ways_and_training_goes_on_there():
    corpus = [["king", "queen", "kings", "queens"], ["cat", "dog", "cats"]] * 20
    theirs = FastText(corpus, vector_size=8, min_count=1, bucket=200, min_n=2, max_n=4, sg=1, epochs=1, seed=1)
    ours = Word2VecForPreTraining.from_gensim(theirs)
    words = [*theirs.wv.index_to_key, "kingdom"]
    np.testing.assert_allclose(ours.word2vec.vector(words), [theirs.wv[word] for word in words], atol=1e-6)
    back = ours.to_gensim()
    assert type(back) is FastText
    np.testing.assert_array_equal(back.wv["kingdom"], theirs.wv["kingdom"])
    np.testing.assert_array_equal(
        back.syn1neg[back.wv.key_to_index["cat"]], theirs.syn1neg[theirs.wv.key_to_index["cat"]]
    )
    back.train(corpus, total_examples=len(corpus), epochs=1)
    assert not np.array_equal(back.wv["kingdom"], theirs.wv["kingdom"])
    vectors = Word2VecModel.from_keyed_vectors(ours.word2vec.to_keyed_vectors())
    assert torch.equal(vectors.vector(words), ours.word2vec.vector(words))


@pytest.mark.parametrize(
    "fields",
    [
        {"subwords": [0, 3]}, {"subwords": [4, 3]}, {"subwords": [3]}, {"subwords": [3, 999]}, {"subwords": "3-6"},
        {"subwords": [3, 6], "buckets": 0}, {"subwords": [3, 6], "buckets": 10**12}, {"ngram_rows": 5},
        {"subwords": [3, 6], "buckets": 10, "ngram_rows": 12},
    ],
)  # fmt: skip
def test_impossible_subwords_are_refused(fields):
    with pytest.raises(Exception, match="subwords|buckets|ngram_rows"):
        Word2VecConfig(**fields)


def gradient_at_king(model, hidden):
    """By hand, after `backward`: the loss's gradient by the hidden vector of word 0, with word 1 and two others."""
    context = model.context_embeddings.weight.detach().numpy()
    model(torch.tensor([1]), torch.tensor([[0]]), torch.tensor([[3, 4]])).loss.backward()
    return sum(
        (1 / (1 + np.exp(-hidden @ context[row])) - label) * context[row] for row, label in ((1, 1), (3, 0), (4, 0))
    )


def test_reference_loss_reaches_every_row_undivided():
    model = Word2VecForPreTraining(
        Word2VecConfig(vocab_size=len(WORDS), embedding_size=SIZE, subwords=(2, 4), buckets=BUCKETS),
        Vocabulary(WORDS, np.arange(60, 0, -10)),
    )
    with torch.no_grad():
        model.word2vec.embeddings.weight.copy_(torch.tensor(ROWS))
        model.word2vec.ngram_embeddings.weight.copy_(torch.tensor(NGRAMS))
        model.context_embeddings.weight.normal_()
    error = gradient_at_king(model, by_hand("king"))
    expected = np.zeros_like(NGRAMS)
    for bucket in ft_ngram_hashes("king", 2, 4, BUCKETS):
        expected[bucket] += error
    np.testing.assert_allclose(model.word2vec.embeddings.weight.grad[0], error, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(model.word2vec.ngram_embeddings.weight.grad, expected, rtol=1e-4, atol=1e-6)
