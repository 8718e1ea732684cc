"""word2vec as its users see it: lookups, queries, saving, loading by others, and its loss by hand."""

import re
import shutil

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from transformers import AutoModel, AutoModelForPreTraining, AutoTokenizer, pipeline

from hfembed.checkpoint.loading import load_word2vec
from hfembed.errors import InputError
from hfembed.models import folder_replacing
from hfembed.models.word2vec.configuration_word2vec import Word2VecConfig
from hfembed.models.word2vec.modeling_word2vec import Word2VecForPreTraining, Word2VecModel
from hfembed.models.word2vec.vocabulary_word2vec import TextRules, UnknownWordError, Vocabulary
from tests.contract import ModelContract

WORDS = ["the", "king", "queen", "man", "woman", "приве́т", "naïve", "猫", "new_york"]


def make_vectors(rows=9, size=6):
    return np.random.default_rng(0).normal(size=(rows, size)).astype(np.float32)


def make_model(**rules):
    counts = np.arange(90, 0, -10)
    return Word2VecModel.from_vectors(Vocabulary(WORDS, counts, TextRules(**rules)), make_vectors())


class TestWord2Vec(ModelContract):
    base_class = Word2VecModel
    auto_classes = {AutoModel: Word2VecModel}
    typo = ("embeding_size", "embedding_size")
    impossible = {"architecture": "glove", "window": 0, "negative": -1, "embedding_size": "100", "sample": -0.1}

    def config(self):
        return Word2VecConfig(vocab_size=20, embedding_size=6, architecture="cbow", window=3)

    def inputs(self, config, batch_size=3):
        ids = torch.randint(0, config.vocab_size, (batch_size, 5), generator=torch.Generator().manual_seed(0))
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def test_unknown_words_and_padding_are_skipped(tmp_path):
    model = make_model()
    model.save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    batch = tokenizer(["king zebra queen", "猫", "zebra"], padding=True, return_tensors="pt")
    output = AutoModel.from_pretrained(tmp_path)(**batch)
    assert output.last_hidden_state.shape == (3, 3, 6)
    torch.testing.assert_close(output.pooler_output[0], model.vector(["king", "queen"]).mean(dim=0))
    torch.testing.assert_close(output.pooler_output[1], model.vector("猫"))
    assert output.pooler_output[2].abs().max() == 0
    texts = ["king zebra queen", "猫", "zebra", ["king", "queen"]]
    torch.testing.assert_close(model.document_vectors(texts)[:3], output.pooler_output)


def test_words_counts_and_rules_travel_with_the_weights(tmp_path):
    rules = {"lowercase": True, "word_pattern": r"\w+", "phrases": ((("new", "york"),),)}
    model = make_model(**rules)
    whole = Word2VecForPreTraining(model.config, model.vocabulary)
    for saved in (model, whole):
        saved.save_pretrained(tmp_path)
        for loaded in (Word2VecModel.from_pretrained(tmp_path), type(saved).from_pretrained(tmp_path)):
            assert loaded.vocabulary.words == WORDS
            assert loaded.vocabulary.counts.tolist() == list(range(90, 0, -10))
            assert loaded.vocabulary.rules == TextRules(**rules)
    assert type(AutoModelForPreTraining.from_pretrained(tmp_path)) is Word2VecForPreTraining


@pytest.mark.parametrize("pattern", [None, r"\w+"])
def test_tokenizer_makes_words_as_the_corpus_was_made(tmp_path, pattern):
    phrases = ((("new", "york"), ("york", "times")), (("new_york", "city"),))
    words = ["new_york", "york_times", "times", "new_york_city", "naïve", "a", "york"]
    vocabulary = Vocabulary(words, None, TextRules(True, pattern, phrases))
    vocabulary.save(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    text = "New  York times New York City a\nYork times nai\u0308ve"
    assert tokenizer.tokenize(text) == ["new_york", "times", "new_york_city", "a", "york_times", "naïve"]
    assert [words[row] for row in vocabulary.encode([text])[0]] == tokenizer.tokenize(text)
    assert tokenizer.convert_tokens_to_ids(words) == list(range(len(words)))


def test_a_vocabulary_with_the_special_names_keeps_them():
    tokenizer = Vocabulary(["[UNK]", "a"]).to_tokenizer()
    assert tokenizer("a [UNK] b").input_ids[:2] == [1, 0] and tokenizer.unk_token_id == 2


def test_queries_agree_with_gensim():
    from gensim.models import KeyedVectors

    words = [f"w{number}" for number in range(300)]
    vectors = make_vectors(300, 20)
    theirs = KeyedVectors(20)
    theirs.add_vectors(words, vectors)
    ours = Word2VecModel.from_vectors(Vocabulary(words), vectors)

    def same(first, second):
        assert [word for word, _ in first] == [word for word, _ in second]
        np.testing.assert_allclose([score for _, score in first], [score for _, score in second], atol=1e-5)

    same(ours.most_similar("w3", topn=20), theirs.most_similar("w3", topn=20))
    composed = (["w3", ("w4", 0.5), vectors[7]], ["w5"])
    same(ours.most_similar(*composed), theirs.most_similar(*composed))
    same(ours.most_similar("w3", restrict_vocab=50), theirs.most_similar("w3", restrict_vocab=50))
    same(ours.analogy("w1", "w2", "w3", 10), theirs.most_similar(["w2", "w3"], ["w1"]))
    same(ours.analogy("w1", "w2", "w3", 10, "3cosmul"), theirs.most_similar_cosmul(["w2", "w3"], ["w1"]))
    assert ours.doesnt_match(words[:9]) == theirs.doesnt_match(words[:9])
    assert ours.similarity("w1", "w2") == pytest.approx(theirs.similarity("w1", "w2"), abs=1e-6)
    batch = ours.most_similar_batch([["w1", "w2"], "w3"], [["w4"], None], topn=5)
    same(batch[0], theirs.most_similar(["w1", "w2"], ["w4"], topn=5))
    same(batch[1], theirs.most_similar("w3", topn=5))
    half = Word2VecModel.from_vectors(Vocabulary(words), vectors.astype(np.float16))
    assert half.most_similar("w3")[0][0] == theirs.most_similar("w3")[0][0]


def test_more_answers_than_words():
    model = make_model()
    assert len(model.most_similar("king", topn=100)) == len(WORDS) - 1


def test_search_over_several_chunks(monkeypatch):
    model = make_model()
    expected = model.most_similar("king", topn=5)
    monkeypatch.setattr("hfembed.models.word2vec.word_vectors._CHUNK_ROWS", 2)
    found = model.most_similar("king", topn=5)
    assert [word for word, _ in found] == [word for word, _ in expected]
    assert [score for _, score in found] == pytest.approx([score for _, score in expected])


def write_data(weight, values):
    weight.data.copy_(values)


def write_numpy(weight, values):
    weight.detach().numpy()[:] = values.numpy()


def write_by_fused_optimizer(weight, values):
    weight.grad = weight.detach() - values
    torch.optim.SGD([weight], lr=1.0, fused=True).step()


@pytest.mark.parametrize("write", [write_data, write_numpy, write_by_fused_optimizer])
def test_neighbors_follow_the_vectors_however_these_are_written(write):
    model = make_model()
    model.most_similar("king")
    values = model.embeddings.weight.detach() * torch.linspace(0.1, 3, len(WORDS))[:, None]
    values[2] = values[1] * 7
    write(model.embeddings.weight, values)
    [(word, cosine)] = model.most_similar("king", top_k=1)
    assert word == "queen" and cosine == pytest.approx(1)


def test_gensims_ways_to_ask():
    model = make_model()
    assert model["king"].equal(model.vector("king")) and model[["king", "queen"]].shape == (2, 6)
    assert "king" in model and "zebra" not in model and 5 not in model
    assert len(model) == len(WORDS) and model
    assert model.most_similar("king", topn=3) == model.most_similar("king", top_k=3)
    assert "9 words: the, king, queen" in repr(model) and "6 dimensions" in repr(model)
    assert not len(Word2VecModel(Word2VecConfig())) and Word2VecModel(Word2VecConfig())


def test_similarity_is_a_matrix_and_pairwise_are_the_pairs():
    model = make_model()
    matrix = model.similarity(["king", "queen"], ["man", "woman", "the"])
    assert matrix.shape == (2, 3)
    assert matrix[1, 2].item() == pytest.approx(model.similarity("queen", "the"), abs=1e-6)
    pairs = model.similarity_pairwise(["king", "queen"], ["man", "woman"])
    torch.testing.assert_close(pairs, matrix[[0, 1], [0, 1]])
    one = model.similarity_pairwise("king", "queen")
    assert one.tolist() == pytest.approx([model.similarity("king", "queen")], abs=1e-6)
    with pytest.raises(ValueError, match="2 and 1 words"):
        model.similarity_pairwise(["king", "queen"], ["man"])


@pytest.mark.parametrize("query", [[0.1] * 6, 3, b"king", [b"king"], [["king"]], [None], {"king"}])
def test_what_is_no_query_is_refused(query):
    with pytest.raises(TypeError, match="words and vectors"):
        make_model().most_similar(query)


def test_queries_of_impossible_vectors_and_words_are_refused():
    model = make_model()
    with pytest.raises(ValueError, match="shape"):
        model.most_similar(np.zeros(5))
    with pytest.raises(ValueError, match="not finite"):
        model.most_similar(np.full(6, np.nan))
    for query in ([("king", float("nan"))], [("king", float("inf"))]):
        with pytest.raises(ValueError, match="weight of the query is not finite"):
            model.most_similar(query)
    for positive, negative in ((np.zeros(6), None), ("king", "king"), ([("king", 0.0)], None)):
        with pytest.raises(ValueError, match="adds up to zero"):
            model.most_similar(positive, negative)
    for call in (lambda: model.vector(3), lambda: model.doesnt_match("king queen"), lambda: model["king", 4]):
        with pytest.raises(TypeError):
            call()
    with pytest.raises(ValueError, match="top_k"):
        model.most_similar("king", top_k=0)
    with pytest.raises(TypeError, match="text"):
        model.document_vectors("king queen")


def test_double_precision(tmp_path):
    vectors = make_vectors().astype(np.float64)
    model = Word2VecModel.from_vectors(Vocabulary(WORDS, np.arange(90, 0, -10)), vectors)
    expected = make_model()
    for first, second in (
        (model.most_similar("king"), expected.most_similar("king")),
        (
            model.most_similar(["king", make_vectors()[3]], ["man"]),
            expected.most_similar(["king", vectors[3]], ["man"]),
        ),
        (model.analogy("the", "king", "man", 3, "3cosmul"), expected.analogy("the", "king", "man", 3, "3cosmul")),
    ):
        assert [word for word, _ in first] == [word for word, _ in second]
        assert [score for _, score in first] == pytest.approx([score for _, score in second], abs=1e-6)
    for weighting in ("mean", "tf-idf", "sif"):
        documents = ["king queen", "man the"]
        ours = model.document_vectors(documents, weighting)
        assert ours.dtype == torch.float64
        torch.testing.assert_close(ours.float(), expected.document_vectors(documents, weighting), atol=1e-6, rtol=0)
    model.save_pretrained(tmp_path)
    assert Word2VecModel.from_pretrained(tmp_path, dtype=torch.float64).numpy_vectors().tobytes() == (
        vectors.astype(np.float32).tobytes()
    )


@pytest.mark.parametrize("weighting", ["tf-idf", "sif"])
def test_one_document_has_a_vector(weighting):
    model = make_model()
    for documents in (["king queen"], ["king queen"] * 2):
        vectors = model.document_vectors(documents, weighting)
        cosine = torch.cosine_similarity(vectors[0], model.document_vectors(["king queen"])[0], dim=0)
        assert cosine > 0.9


def test_a_vector_that_is_not_finite_is_refused_by_name(tmp_path):
    vectors = make_vectors()
    vectors[2, 3] = np.nan
    with pytest.raises(ValueError, match="'queen'"):
        Word2VecModel.from_vectors(Vocabulary(WORDS), vectors)
    model = make_model()
    with torch.no_grad():
        model.embeddings.weight[2, 3] = float("inf")
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="'queen'"):
        Word2VecModel.from_pretrained(tmp_path)


def test_words_of_one_run_are_not_put_under_the_vectors_of_another(tmp_path):
    model = make_model()
    model.save_pretrained(tmp_path / "a")
    other = Word2VecModel.from_vectors(model.vocabulary, make_vectors() + 0.001)
    other.save_pretrained(tmp_path / "b")
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        assert Word2VecModel.from_pretrained(tmp_path / "a", dtype=dtype).dtype == dtype
    shutil.copy(tmp_path / "b" / "model.safetensors", tmp_path / "a" / "model.safetensors")
    with pytest.raises(ValueError, match="saved with other vectors"):
        Word2VecModel.from_pretrained(tmp_path / "a")
    shutil.copy(tmp_path / "b" / "vocab_counts.safetensors", tmp_path / "a")
    Word2VecModel.from_pretrained(tmp_path / "a")
    renamed = Word2VecModel.from_vectors(Vocabulary(["a", *WORDS[1:]], model.vocabulary.counts), make_vectors())
    renamed.save_pretrained(tmp_path / "c")
    shutil.copy(tmp_path / "c" / "tokenizer.json", tmp_path / "a")
    with pytest.raises(ValueError, match="do not belong together"):
        Word2VecModel.from_pretrained(tmp_path / "a")


def test_folders_of_earlier_releases_load(tmp_path):
    model = make_model()
    model.save_pretrained(tmp_path)
    rules = {"lowercase": "false", "word_pattern": "null", "phrases": "[]"}
    save_file({"counts": model.vocabulary.counts}, tmp_path / "vocab_counts.safetensors", {"size": "9", **rules})
    assert Word2VecModel.from_pretrained(tmp_path).vocabulary.words == WORDS


def test_a_stale_index_of_shards_does_not_matter(tmp_path):
    make_model().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-00001-of-00002.safetensors"}}')
    assert load_word2vec(tmp_path, "cpu").vocabulary.words == WORDS
    assert Word2VecModel.from_pretrained(tmp_path, device="cpu").device.type == "cpu"


@pytest.mark.parametrize("file", ["tokenizer.json", "vocab_counts.safetensors"])
def test_damaged_words_are_one_line_for_a_command(tmp_path, file):
    make_model().save_pretrained(tmp_path)
    (tmp_path / file).write_bytes((tmp_path / file).read_bytes()[:50])
    with pytest.raises(InputError, match=re.escape(file)) as caught:
        load_word2vec(tmp_path, "cpu")
    assert "\n" not in str(caught.value)


class TestSaving:
    def test_other_files_stay_and_files_of_an_earlier_save_go(self, tmp_path):
        folder = tmp_path / "model"
        (folder / "checkpoints").mkdir(parents=True)
        (folder / "checkpoints" / "rows").write_text("kept")
        (folder / "results.json").write_text("{}")
        (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-00001.safetensors"}}')
        make_model().save_pretrained(folder)
        assert (folder / "checkpoints" / "rows").read_text() == "kept" and (folder / "results.json").is_file()
        assert not (folder / "model.safetensors.index.json").exists()
        assert Word2VecModel.from_pretrained(folder).vocabulary.words == WORDS
        assert [entry.name for entry in tmp_path.iterdir()] == ["model"]

    def test_a_save_that_fails_leaves_the_old_folder(self, tmp_path, monkeypatch):
        make_model().save_pretrained(tmp_path / "model")
        before = {file.name: file.read_bytes() for file in (tmp_path / "model").iterdir()}
        other = Word2VecModel.from_vectors(Vocabulary(["a", "b"]), make_vectors(2))
        monkeypatch.setattr(Vocabulary, "save", lambda *arguments: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            other.save_pretrained(tmp_path / "model")
        assert {file.name: file.read_bytes() for file in (tmp_path / "model").iterdir()} == before
        assert [entry.name for entry in tmp_path.iterdir()] == ["model"]

    @pytest.mark.parametrize("where", ["no exchange", "current folder"])
    def test_where_folders_cannot_be_exchanged(self, tmp_path, monkeypatch, where):
        make_model().save_pretrained(tmp_path / "model")
        if where == "current folder":
            monkeypatch.chdir(tmp_path / "model")
        monkeypatch.setattr(folder_replacing, "_exchange", lambda *paths: False)
        Word2VecModel.from_vectors(Vocabulary(["a", "b"]), make_vectors(2)).save_pretrained(tmp_path / "model")
        assert len(Word2VecModel.from_pretrained(tmp_path / "model")) == 2
        assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


def test_unknown_words_are_named_with_similar_spellings():
    with pytest.raises(UnknownWordError, match="'quen'.*'queen'") as caught:
        make_model().most_similar("quen")
    assert isinstance(caught.value, KeyError) and "\n" not in str(caught.value)
    with pytest.raises(KeyError, match="'KING'.*'king'"):
        make_model().similarity("KING", "man")


def test_document_weights():
    model = make_model()
    documents = ["the king", "the queen", "the the man unheard"]
    vectors = {word: model.vector(word) for word in WORDS}
    weighted = model.document_vectors(documents, "tf-idf")
    expected = (vectors["the"] + (np.log(4 / 2) + 1) * vectors["king"]) / 2  # 'the' is everywhere: weight 1
    torch.testing.assert_close(weighted[0], expected.float())
    sif = model.document_vectors(documents, "sif")
    share = dict(zip(WORDS, np.arange(90, 0, -10) / 450, strict=True))
    raw = torch.stack(
        [sum(1e-3 / (1e-3 + share[word]) * vectors[word] for word in text) / len(text) for text in
         (["the", "king"], ["the", "queen"], ["the", "the", "man"])]
    )  # fmt: skip
    first = torch.linalg.svd(raw)[2][0]
    torch.testing.assert_close(sif, raw - torch.outer(raw @ first, first), atol=1e-6, rtol=1e-3)
    again = model.document_vectors(documents[:1], "sif", fitted_on=documents)
    torch.testing.assert_close(again[0], sif[0], atol=1e-6, rtol=1e-3)


def test_other_libraries_load_the_folder(tmp_path):
    model = make_model()
    model.save_pretrained(tmp_path)
    features = pipeline("feature-extraction", str(tmp_path))("king queen")
    np.testing.assert_array_equal(np.array(features[0], dtype=np.float32), model.vector(["king", "queen"]).numpy())
    sentence_transformers = pytest.importorskip("sentence_transformers")
    encoder = sentence_transformers.SentenceTransformer(str(tmp_path), device="cpu")
    texts = ["king zebra queen", "猫", "zebra [PAD] king"]  # unknown words do not count in the mean
    np.testing.assert_allclose(encoder.encode(texts), model.document_vectors(texts).numpy(), atol=1e-6)


class TestLoss:
    def model(self, **fields):
        torch.manual_seed(0)
        model = Word2VecForPreTraining(Word2VecConfig(vocab_size=9, embedding_size=4, **fields))
        assert model.context_embeddings.weight.abs().max() == 0
        assert 0.15 < model.word2vec.embeddings.weight.abs().max() <= 0.25
        torch.nn.init.normal_(model.word2vec.embeddings.weight)
        torch.nn.init.normal_(model.context_embeddings.weight)
        return model

    def batch(self):
        return {
            "center_ids": torch.tensor([1, 2]),
            "context_ids": torch.tensor([[0, 3, 0], [4, 5, 1]]),
            "context_mask": torch.tensor([[True, True, False], [True, True, True]]),
        }

    def test_skip_gram_by_hand(self):
        model = self.model()
        rows = model.word2vec.embeddings.weight.detach().double().numpy()
        outputs = model.context_embeddings.weight.detach().double().numpy()
        negatives = torch.randint(0, 9, (2, 3, 2), generator=torch.Generator().manual_seed(1))
        loss, pairs = 0.0, 0
        d_rows, d_outputs = np.zeros_like(rows), np.zeros_like(outputs)
        for center, context, mask, noise in zip(*self.batch().values(), negatives, strict=True):
            for word, exists, drawn in zip(context, mask, noise, strict=True):
                if not exists:
                    continue
                pairs += 1
                for target, label in ((center, 1), *((row, 0) for row in drawn)):
                    score = rows[word] @ outputs[target]
                    loss -= np.log(1 / (1 + np.exp(-score if label else score)))
                    error = 1 / (1 + np.exp(-score)) - label
                    d_rows[word] += error * outputs[target]
                    d_outputs[target] += error * rows[word]
        result = model(**self.batch(), negative_ids=negatives)
        result.loss.backward()
        assert result.loss.item() == pytest.approx(loss, rel=1e-5)
        np.testing.assert_allclose(model.word2vec.embeddings.weight.grad, d_rows, atol=1e-5)
        np.testing.assert_allclose(model.context_embeddings.weight.grad, d_outputs, atol=1e-5)
        mean = model(**self.batch(), negative_ids=negatives, reduction="mean").loss.item()
        assert mean == pytest.approx(loss / pairs, rel=1e-5)
        shared = model(**self.batch(), negative_ids=negatives[:, 0]).loss
        each = model(**self.batch(), negative_ids=negatives[:, :1].expand(-1, 3, -1)).loss
        torch.testing.assert_close(shared, each)

    @pytest.mark.parametrize("mean", [True, False])
    def test_cbow_spreads_its_error_as_gensim(self, mean):
        model = self.model(architecture="cbow", cbow_mean=mean)
        rows, outputs = model.word2vec.embeddings.weight.detach(), model.context_embeddings.weight.detach()
        negatives = torch.tensor([[7, 8], [6, 7]])
        model(**self.batch(), negative_ids=negatives).loss.backward()
        hidden = rows[[4, 5, 1]].mean(dim=0) if mean else rows[[4, 5, 1]].sum(dim=0)
        error = sum(
            (torch.sigmoid(hidden @ outputs[target]) - label) * outputs[target]
            for target, label in ((2, 1), (6, 0), (7, 0))
        )
        expected = error if mean else error / 3
        torch.testing.assert_close(model.word2vec.embeddings.weight.grad[4], expected)

    def test_weights_leave_noise_words_out(self):
        model = self.model()
        negatives = torch.tensor([[7, 8], [6, 7]])
        weighted = model(**self.batch(), negative_ids=negatives, negative_weights=torch.tensor([[1.0, 0], [1, 0]]))
        torch.testing.assert_close(weighted.loss, model(**self.batch(), negative_ids=negatives[:, :1]).loss)


def test_vocabulary_weights_are_gensims():
    from gensim.models import Word2Vec

    counts = {"a": 1000, "b": 300, "c": 40, "d": 5}
    theirs = Word2Vec(min_count=1, sample=1e-2, vector_size=4)
    theirs.build_vocab_from_freq(counts)
    ours = Vocabulary.from_counts(counts)
    probabilities = theirs.wv.expandos["sample_int"] / (2**32 - 1)
    np.testing.assert_allclose(ours.keep_probabilities(1e-2), probabilities, rtol=1e-6)
    noise = np.diff(theirs.cum_table, prepend=0) / theirs.cum_table[-1]
    np.testing.assert_allclose(ours.negative_sampling_weights(0.75), noise, rtol=1e-6)


def test_vocabulary_refuses_a_word_twice():
    with pytest.raises(ValueError, match="'a'.*twice"):
        Vocabulary(["a", "b", "a"]).index  # noqa: B018
