"""ONNX files: quantized weights as onnxruntime dequantizes them; damaged and hostile files are refused by name."""

import numpy as np
import pytest

from hfembed.convert.onnx_graph import OnnxGraph
from hfembed.errors import InputError

onnx = pytest.importorskip("onnx")
helper, numpy_helper, TensorProto = onnx.helper, onnx.numpy_helper, onnx.TensorProto


def save(path, nodes, tensors, outputs=("out",)):
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, None)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    path.write_bytes(model.SerializeToString())
    return path


def read_input(path):
    """The weights of the graph's last node."""
    graph = OnnxGraph(path, "net.onnx", "network")
    return graph.constant(graph.nodes[-1], 1)


# shape, scale's shape, axis, block size
QUANTIZED = {
    "per tensor": ((6, 4, 3, 3), (), 1, 0),
    "per output channel": ((6, 4, 3, 3), (6,), 0, 0),
    "per input channel": ((6, 4, 3, 3), (4,), 1, 0),
    "from the end": ((6, 9), (9,), -1, 0),
    "blocks of rows": ((6, 128), (6, 2), 1, 64),
    "one block": ((6, 9), (6, 1), 1, 9),
    "a last block that is not full": ((6, 10), (6, 3), 1, 4),
    "blocks along the outputs": ((8, 5), (2, 5), 0, 4),
    "blocks of a bias": ((128,), (2,), 0, 64),
}


@pytest.mark.parametrize("case", QUANTIZED)
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_weights_are_dequantized_as_onnxruntime_does(case, dtype, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    shape, scale_shape, axis, block_size = QUANTIZED[case]
    generator = np.random.default_rng(0)
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    quantized = generator.integers(low, high, shape, dtype=dtype, endpoint=True)
    scale = generator.uniform(0.001, 0.1, scale_shape).astype(np.float32)
    zero = generator.integers(low, high, scale_shape, dtype=dtype, endpoint=True)
    tensors = [
        numpy_helper.from_array(np.asarray(value), name)
        for name, value in (("q", quantized), ("s", scale), ("z", zero), ("shape", np.array([-1, *shape[1:]])))
    ]
    layout = {"axis": axis} | ({"block_size": block_size} if block_size else {})
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["w"], **layout),
        helper.make_node("Reshape", ["w", "shape"], ["reshaped"]),
        helper.make_node("Sum", ["reshaped", "reshaped"], ["out"]),
    ]
    path = save(tmp_path / "net.onnx", nodes, tensors, outputs=("out", "reshaped"))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    expected = session.run(["reshaped"], {})[0] if not session.get_inputs() else None
    if expected is None:
        expected = session.run(["reshaped"], {"image": np.zeros(1, np.float32)})[0]
    np.testing.assert_allclose(read_input(path), expected, rtol=1e-6)


def test_the_block_size_may_be_left_to_the_shapes(tmp_path):
    quantized = np.arange(20, dtype=np.int8).reshape(2, 10)
    scale = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
    tensors = [numpy_helper.from_array(quantized, "q"), numpy_helper.from_array(scale, "s")]
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s"], ["w"], axis=1),
        helper.make_node("Sum", ["image", "w"], ["out"]),
    ]
    found = read_input(save(tmp_path / "net.onnx", nodes, tensors))
    np.testing.assert_allclose(found, quantized * np.repeat(scale, 4, 1)[:, :10])


def sum_of(name="w"):
    return [helper.make_node("Sum", ["image", name], ["out"])]


def tensor(dims, name="w", data_type=TensorProto.FLOAT, content=b"\0" * 16):
    return TensorProto(name=name, data_type=data_type, dims=dims, raw_data=content)


def dequantized(scale_dims, block_size):
    layout = {"axis": 1, "block_size": block_size}
    nodes = [helper.make_node("DequantizeLinear", ["q", "s"], ["w"], **layout), *sum_of()]
    size = 4 * int(np.prod(scale_dims))
    scale = tensor(scale_dims, "s", content=b"\0" * size)
    return nodes, [tensor([4, 4], "q", TensorProto.INT8), scale]


HOSTILE = {
    "huge": (sum_of(), [tensor([1 << 40, 1 << 20])], "is damaged: 'w'"),
    "negative": (sum_of(), [tensor([-1])], "is damaged: 'w' has the shape"),
    "short": (sum_of(), [tensor([5])], "is damaged: 'w'"),
    "of many dimensions": (sum_of(), [tensor([1] * 9)], "has the shape"),
    "of no type": (sum_of(), [tensor([4], data_type=99)], "is damaged: 'w'"),
    "text": (sum_of(), [tensor([4], data_type=TensorProto.STRING)], "no numbers"),
    "not finite": (sum_of(), [tensor([1], content=b"\0\0\xc0\x7f")], "non-finite numbers, in 'w'"),
    "absent": (sum_of("nothing"), [], "'nothing' are not in the file"),
    "computed": ([helper.make_node("Exp", ["v"], ["w"]), *sum_of()], [tensor([4], "v")], "'w' are not in the file"),
    "circular": ([helper.make_node("Identity", ["w"], ["w"]), *sum_of()], [], "'w' are not in the file"),
    "of no input": ([helper.make_node("Sum", ["image"], ["out"])], [], "a Sum with 1 inputs"),
    "reshaped to more": (
        [helper.make_node("Reshape", ["v", "to"], ["w"]), *sum_of()],
        [tensor([4], "v"), numpy_helper.from_array(np.array([1 << 40, 1 << 20]), "to")],
        "Reshape of 'v'",
    ),
    "scaled by more": (*dequantized((4, 8), 1), "DequantizeLinear of 'q'"),
    "scaled in blocks by more": (*dequantized((100_000, 2), 2), "DequantizeLinear of 'q'"),
    "in endless blocks": (*dequantized((4, 2), 1 << 62), "DequantizeLinear of 'q'"),
    "in negative blocks": (*dequantized((4, 2), -1), "DequantizeLinear of 'q'"),
}


@pytest.mark.attack
@pytest.mark.parametrize("weights", HOSTILE)
def test_hostile_weights_are_refused_in_one_line(weights, tmp_path):
    nodes, tensors, words = HOSTILE[weights]
    path = save(tmp_path / "net.onnx", nodes, tensors)
    with pytest.raises(InputError, match=words) as caught:
        read_input(path)
    assert str(caught.value).startswith("net.onnx") and "\n" not in str(caught.value)


@pytest.mark.attack
def test_a_small_file_gives_no_endless_weights(tmp_path):
    path = save(tmp_path / "net.onnx", sum_of(), [numpy_helper.from_array(np.zeros(1000, np.float32), "w")])
    graph = OnnxGraph(path, "net.onnx", "network")
    with pytest.raises(InputError, match="more weights than the file can hold"):
        for _ in range(100):
            graph.constant(graph.nodes[-1], 1)


def test_a_truncated_file_is_named(tmp_path):
    path = save(tmp_path / "net.onnx", sum_of(), [numpy_helper.from_array(np.zeros(1000, np.float32), "w")])
    content = path.read_bytes()
    for length in (len(content) - 1, len(content) // 2, 10):
        path.write_bytes(content[:length])
        with pytest.raises(InputError, match="net.onnx is (damaged|no network)"):
            read_input(path)
