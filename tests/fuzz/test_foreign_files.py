"""Mutated foreign files against their converters."""

import json

import numpy as np
import pytest

from hfembed.convert.foreign_checkpoint import reading
from hfembed.convert.navec import convert_navec
from hfembed.convert.static import convert_static
from tests.convert.test_navec import write_navec
from tests.convert.test_static import make_unigram, make_wordpiece, write_model2vec
from tests.fuzz.fuzzing import fuzz, mutate_bytes, mutate_json, put


def test_navec(tmp_path):
    content = write_navec(tmp_path / "whole.tar").read_bytes()

    def try_case(rng):
        model = convert_navec(put(tmp_path / "navec.tar", mutate_bytes(content, rng)), tmp_path / "out")
        assert np.isfinite(model.word_vectors()).all()

    assert fuzz("navec", 150, try_case)["refused"]


@pytest.mark.parametrize("make", [make_wordpiece, make_unigram])
@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_static_embeddings(tmp_path, make, name):
    folder = write_model2vec(tmp_path / "folder", make())
    content = (folder / name).read_bytes()

    def try_case(rng):
        if name == "tokenizer.json" and rng.random() < 0.8:
            put(folder / name, json.dumps(mutate_json(json.loads(content), rng)).encode())
        else:
            put(folder / name, mutate_bytes(content, rng))
        assert convert_static(folder, tmp_path / "out").model.word_vectors().isfinite().all()

    assert fuzz(f"static {name}", 150, try_case)["refused"]


def test_onnx_graphs(tmp_path):
    pytest.importorskip("onnx")
    import onnx

    from hfembed.convert.onnx_graph import OnnxLayers
    from tests.convert.test_onnx_graph import QUANTIZED, save

    _, scale_shape, axis, block_size = QUANTIZED["blocks of rows"]
    tensors = [
        onnx.numpy_helper.from_array(np.ones((6, 128), np.int8), "q"),
        onnx.numpy_helper.from_array(np.full(scale_shape, 0.5, np.float32), "s"),
    ]
    nodes = [
        onnx.helper.make_node("DequantizeLinear", ["q", "s"], ["w"], axis=axis, block_size=block_size),
        onnx.helper.make_node("Gemm", ["image", "w"], ["out"], transB=1),
    ]
    content = save(tmp_path / "whole.onnx", nodes, tensors).read_bytes()

    def try_case(rng):
        with reading("net.onnx", "network"):
            graph = OnnxLayers(put(tmp_path / "net.onnx", mutate_bytes(content, rng)), "net.onnx", "network")
            assert np.isfinite(graph.constant(graph.node("out", "a layer", "Gemm"), 1).numpy()).all()

    assert fuzz("onnx", 500, try_case)["refused"]
