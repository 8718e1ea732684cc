"""Product-quantized vectors: right decoding, saved as they are, small loss."""

import numpy as np
import pytest
import torch

from hfembed.models.word2vec.modeling_word2vec import Word2VecForPreTraining, Word2VecModel
from hfembed.models.word2vec.vocabulary_word2vec import Vocabulary

WORDS = ["a", "b", "c"]
CODES = np.array([[0, 1], [1, 0], [2, 2]], dtype=np.uint8)
CENTROIDS = np.arange(18, dtype=np.float32).reshape(2, 3, 3)
VECTORS = [[0, 1, 2, 12, 13, 14], [3, 4, 5, 9, 10, 11], [6, 7, 8, 15, 16, 17]]


def test_codes_choose_centroids_and_stay_codes(tmp_path):
    model = Word2VecModel.from_quantized(Vocabulary(WORDS), CODES, CENTROIDS)
    model.save_pretrained(tmp_path)
    for loaded in (model, Word2VecModel.from_pretrained(tmp_path)):
        assert loaded.word_vectors().tolist() == VECTORS and loaded.vector("b").tolist() == VECTORS[1]
        assert loaded(torch.tensor([[2, 7]])).pooler_output.tolist() == [VECTORS[2]]
        assert loaded.config.quantized_parts == 2 and set(loaded.state_dict()) == {
            "embeddings.codes",
            "embeddings.centroids",
        }
    loaded = Word2VecModel.from_pretrained(tmp_path)
    loaded.save_pretrained(tmp_path)
    assert len(loaded) == 3 and loaded.embeddings._decoded is None  # only queries need the whole matrix
    half = Word2VecModel.from_pretrained(tmp_path, dtype=torch.float16)
    assert half.word_vectors().dtype == torch.float16
    with pytest.raises(ValueError, match="inference only"):
        Word2VecForPreTraining.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="beyond the 3 centroids"):
        Word2VecModel.from_quantized(Vocabulary(WORDS), CODES + 1, CENTROIDS)


def test_compression_keeps_the_neighbors(tmp_path):
    rng = np.random.default_rng(0)
    rows = (rng.normal(size=(600, 8)) @ rng.normal(size=(8, 20))).astype(np.float32)  # of 8 dimensions in truth
    model = Word2VecModel.from_vectors(Vocabulary([f"w{i}" for i in range(600)], np.arange(600, 0, -1)), rows)
    small = model.compress(8, 4)
    assert small.config.embedding_size == 8 and small.embeddings.codes.shape == (600, 4)
    pairs = rng.integers(600, size=(2, 200))
    before = model.similarity_pairwise(*[[f"w{i}" for i in side] for side in pairs])
    after = small.similarity_pairwise(*[[f"w{i}" for i in side] for side in pairs])
    assert np.corrcoef(before, after)[0, 1] > 0.98
    with pytest.raises(ValueError, match="parts must divide"):
        model.compress(8, 3)
    with pytest.raises(ValueError, match="between 1 and 20"):
        model.compress(21)
