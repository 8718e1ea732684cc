"""Mutated index folders and compressed faces."""

import json

import numpy as np
import pytest
import torch

from hfembed.images.compression import LatentCodec
from hfembed.images.latent_statistics import LatentStatistics, encode_images
from hfembed.index.embedding_index import EmbeddingIndex
from tests.fuzz.fuzzing import fuzz, mutate_bytes, mutate_json_text, put
from tests.images.tiny_autoencoder import smooth_images, tiny_autoencoder


def test_index_folders(tmp_path):
    vectors = torch.nn.functional.normalize(torch.randn(6, 8, generator=torch.Generator().manual_seed(0)))
    index = EmbeddingIndex(model="somebody/faces")
    index.add(vectors, list("aabbcc"))
    folder = tmp_path / "index"
    index.save_pretrained(folder)
    contents = {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}

    def try_case(rng):
        name = sorted(contents)[rng.integers(len(contents))]
        is_json = name.endswith(".json") and rng.random() < 0.8
        mutated = mutate_json_text(json.loads(contents[name]), rng) if is_json else mutate_bytes(contents[name], rng)
        put(folder / name, mutated)
        try:
            found = EmbeddingIndex.from_pretrained(folder)
            assert len(found.labels) == len(found)
            assert np.isfinite(found.search(vectors[:1], 1).scores).all()
        finally:
            put(folder / name, contents[name])

    assert fuzz("index", 400, try_case)["refused"]


def test_compressed_faces():
    pytest.importorskip("constriction")
    model = tiny_autoencoder()
    images = smooth_images(30)
    codec = LatentCodec(model, LatentStatistics.fit(model, encode_images(model, images), 2, 0))
    content = codec.compress(images[0])
    whole = codec.decompress(content)

    def try_case(rng):
        assert torch.isfinite(codec.decompress(mutate_bytes(content, rng))).all()

    fuzz("compressed face", 500, try_case)
    assert torch.equal(codec.decompress(content), whole)
