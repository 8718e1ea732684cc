"""That the Triton kernels compile; apart from test_kernels.py, where they are interpreted."""

import pytest


@pytest.mark.parametrize("architecture", ["skip-gram", "cbow"])
def test_the_kernels_compile_for_a_gpu_that_is_not_there(architecture, monkeypatch, tmp_path):
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget

    from hfembed.words.training import kernel_triton

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernel = kernel_triton.train_skip_gram if architecture == "skip-gram" else kernel_triton.train_cbow
    constants = {"SUBWORDS": True, "SIZE": 20, "CHUNK": 64, "N": 32, "WINDOW": 5, "SHRINK": True, "NEGATIVE": 5}
    constants |= {"CAP": 1.5, "PRECISION": "tf32"} | ({"MEAN": True} if architecture == "cbow" else {})
    types = dict.fromkeys(("words", "sentences", "counter", "alias", "parts"), "*i32") | {"offsets": "*i64"}
    types |= {"vocab_size": "i32", "seed": "i32", "first_rate": "fp32", "last_rate": "fp32"}
    types |= dict.fromkeys(constants, "constexpr")
    signature = {name: types.get(name, "*fp32") for name in kernel.arg_names}
    places = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    source = triton.compiler.ASTSource(fn=kernel, signature=signature, constexprs=places)
    options = {"num_warps": kernel_triton.NUM_WARPS, "num_stages": 1}
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    assert compiled.metadata.shared < 227 * 1024  # what a multiprocessor has
    assert len(compiled.asm["cubin"]) > 1000
