import pytest
import torch

from hfembed.training.loop import choose_precision


@pytest.mark.parametrize(
    ("instructions", "used", "precision"),
    [
        ({"avx512_bf16": True}, "AVX512", "bf16"),
        ({"amx_bf16": True}, "AVX512", "bf16"),
        ({"avx2": True, "avx512_bf16": False}, "AVX2", "no"),
        ({"avx512_bf16": True}, "AVX2", "no"),  # ATEN_CPU_CAPABILITY=avx2
    ],
)
def test_auto_precision_is_bf16_where_the_cpu_has_instructions_for_it(monkeypatch, instructions, used, precision):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: used)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: None)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: instructions)
    assert choose_precision() == precision
