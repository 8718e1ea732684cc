"""`hfembed convert static` against sentence-transformers on folders that it wrote, and in model2vec's layout."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, StaticEmbedding
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from hfembed import Word2VecModel
from hfembed.convert.static import convert_static
from hfembed.errors import InputError
from hfembed.export.static import export_static
from hfembed.models.word2vec.vocabulary_word2vec import TextRules, Vocabulary

WORDS = ["the", "walk", "ing", "中", "!", "déjà", "walks"]


def make_wordpiece():
    tokens = ["[PAD]", "[UNK]", *WORDS, "##ing", "##s", "Walk", "un-broken"]
    tokenizer = Tokenizer(models.WordPiece({t: i for i, t in enumerate(tokens)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(["[PAD]", "[UNK]"])
    return tokenizer


def make_unigram():
    scored = [("<unk>", 0.0), *((f"▁{word}", -3.0) for word in WORDS), ("ing", -2.0), ("▁walking", -9.0), ("▁", -2.0)]
    tokenizer = Tokenizer(models.Unigram(scored, unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    return tokenizer


def make_wordlevel():
    tokenizer = Tokenizer(models.WordLevel({t: i for i, t in enumerate([*WORDS, "[UNK]"])}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


def write_model2vec(folder, tokenizer=None, **tensors):
    tokenizer = tokenizer or make_wordpiece()
    rng = np.random.default_rng(0)
    size = tokenizer.get_vocab_size()
    mapping, weights = torch.from_numpy(rng.integers(4, size=size)), torch.from_numpy(rng.random(size))
    embeddings = torch.from_numpy(rng.normal(size=(4, 6)).astype(np.float32))
    folder.mkdir(parents=True)
    tensors = {"embeddings": embeddings, "mapping": mapping, "weights": weights} | tensors
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, folder / "model.safetensors")
    tokenizer.save(str(folder / "tokenizer.json"))
    modules = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.StaticEmbedding"}]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "config.json").write_text(json.dumps({"normalize": True}))
    return folder


@pytest.mark.parametrize(
    ("make", "words", "pieces", "differences"),
    [
        (make_wordpiece, WORDS, 4, ()),
        (make_unigram, WORDS, 3, ("Metaspace",)),  # 'walking' is split there
        (make_wordlevel, WORDS, 0, ()),
    ],
)
@pytest.mark.parametrize("modules", [1, 2])
def test_words_have_the_vectors_of_sentence_transformers(tmp_path, make, words, pieces, differences, modules):
    torch.manual_seed(0)
    embedding = StaticEmbedding(make(), embedding_dim=5)
    theirs = SentenceTransformer(modules=[embedding, Normalize()][:modules], device="cpu")
    theirs.save(str(tmp_path / "theirs"))
    done = convert_static(tmp_path / "theirs", tmp_path / "ours")
    assert (done.pieces, done.differences) == (pieces, (*differences, *["Normalize"] * (modules - 1)))
    ours = Word2VecModel.from_pretrained(tmp_path / "ours")
    assert ours.vocabulary.words == words
    texts = [*words, "the walk walks"]
    if make is make_wordpiece:
        texts += ["Walk the  walks!", "!! the 中walk"]
    expected, found = theirs.encode(texts), ours.document_vectors(texts).numpy()
    if modules == 2:
        found = found / np.linalg.norm(found, axis=1, keepdims=True)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_text_is_split_as_bert_splits_it(tmp_path):
    words = convert_static(write_model2vec(tmp_path / "theirs"), tmp_path / "ours").model.require_vocabulary()
    theirs, rng = make_wordpiece(), np.random.default_rng(0)
    for _ in range(300):
        text = "".join(rng.choice(list("aбÉ1中_-'^$+`~|<>=[]\\.,!?«»—… \t€№")) for _ in range(12))
        expected = theirs.pre_tokenizer.pre_tokenize_str(theirs.normalizer.normalize_str(text))
        assert words.split([text])[0] == [word for word, _ in expected]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int8])
@pytest.mark.parametrize("without", [(), ("weights",), ("weights", "mapping")])
def test_model2vec_with_mapping_and_weights(tmp_path, dtype, without):
    embeddings = torch.randn(13 if "mapping" in without else 4, 6).mul(20).to(dtype)
    folder = write_model2vec(tmp_path / "theirs", embeddings=embeddings, **dict.fromkeys(without))
    done = convert_static(folder, tmp_path / "ours")
    assert done.differences == ("Normalize",) and done.pieces == 4
    if dtype == torch.int8 and "weights" in without:  # sentence-transformers reads none
        mapping = load_file(folder / "model.safetensors").get("mapping", torch.arange(13))
        expected = embeddings[mapping].float()
    else:
        expected = StaticEmbedding.load(str(folder)).embedding.weight.detach().float()
    ids = [make_wordpiece().token_to_id(word) for word in WORDS]
    np.testing.assert_allclose(done.model.vector(WORDS).float(), expected[ids], rtol=1e-6)


@pytest.mark.parametrize("rules", [TextRules(), TextRules(True, r"[\w-]+"), TextRules(True, r"\w+", fold_yo=True)])
def test_round_trip(tmp_path, rules):
    words = ["ещё", "cafe\u0301", "Walk", "[PAD]", "[UNK]"]
    vectors = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float16)
    export_static(Word2VecModel.from_vectors(Vocabulary(words, rules=rules), vectors), tmp_path / "static")
    done = convert_static(tmp_path / "static", tmp_path / "back")
    back = Word2VecModel.from_pretrained(tmp_path / "back")
    assert back.vocabulary.words == [words[0], "caf\u00e9", *words[2:]]  # text is NFC
    assert back.vocabulary.rules == rules and done.differences == () and done.pieces == 0
    np.testing.assert_array_equal(back.word_vectors(), vectors)


def test_folders_that_are_refused(tmp_path):
    def refused(folder, message):
        with pytest.raises(InputError, match=message):
            convert_static(folder, tmp_path / "out")
        assert not (tmp_path / "out").exists()

    infinite = torch.full((4, 6), torch.inf)
    changes = {
        "not finite|non-finite": {"embeddings": infinite}, "'mapping' is of": {"mapping": torch.ones(13)},
        "rows from 9 to 9 of 4": {"mapping": torch.full((13,), 9)}, "rows from -1": {"mapping": torch.full((13,), -1)},
        "'weights' has the shape": {"weights": torch.ones(3)}, "of 4": {"mapping": None},
        "holds no static embedding, but": {"bert.weight": torch.ones(1)},
        r"'embeddings' has the shape": {"embeddings": torch.ones(4)}, "is of torch.int32": {
            "embeddings": torch.ones(4, 6, dtype=torch.int32)
        },
    }  # fmt: skip
    for number, (message, change) in enumerate(changes.items()):
        refused(write_model2vec(tmp_path / str(number), **change), message)
    pieces = Tokenizer(models.BPE({"a": 0}, []))
    refused(write_model2vec(tmp_path / "bpe", pieces), "type 'BPE'.*expected WordLevel")
    folder = write_model2vec(tmp_path / "damaged")
    (folder / "modules.json").write_text(json.dumps([{"type": "sentence_transformers.models.Transformer"}]))
    refused(folder, "a module 'Transformer'")
    (folder / "modules.json").unlink()
    (folder / "tokenizer.json").write_text("{")
    refused(folder, "damaged, or no folder of a static embedding")
    (folder / "tokenizer.json").unlink()
    refused(folder, "has no tokenizer.json")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    refused(folder, "save it as safetensors")
    refused(tmp_path / "missing", "no such file")
