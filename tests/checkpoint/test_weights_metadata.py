"""Marking safetensors files: only the header changes."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from hfembed import __version__
from hfembed.checkpoint.weights_metadata import mark_weights, read_weights_metadata
from hfembed.errors import InputError


def test_the_mark_is_read_back_and_tensors_stay(tmp_path):
    file = tmp_path / "model.safetensors"
    tensors = {"a": torch.randn(3, 5), "b": torch.arange(7, dtype=torch.int8), "c": torch.tensor(1.5)}
    save_file(tensors, file, metadata={"format": "pt"})
    for model_type in ("hfembed_face_embedder", "hfembed_word2vec"):
        mark_weights(file, model_type)
        assert read_weights_metadata(file) == {
            "format": "pt",
            "hfembed_version": __version__,
            "model_type": model_type,
        }
        loaded = load_file(file)
        assert loaded.keys() == tensors.keys()
        assert all(torch.equal(loaded[name], value) for name, value in tensors.items())
        # a header that is not padded would put tensors at odd addresses
        assert (8 + int.from_bytes(file.read_bytes()[:8], "little")) % 8 == 0
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_what_is_no_such_file_is_refused_and_left_alone(tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"just some text " * 9)
    before = file.read_bytes()
    with pytest.raises(InputError, match="model.safetensors is damaged"):
        mark_weights(file, "hfembed_face_embedder")
    assert file.read_bytes() == before
