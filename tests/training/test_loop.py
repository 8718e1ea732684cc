import pytest
import torch

from hfembed.training.loop import choose_precision


@pytest.mark.parametrize(
    ("instructions", "precision"),
    [({"avx512_bf16": True}, "bf16"), ({"amx_bf16": True}, "bf16"), ({"avx2": True, "avx512_bf16": False}, "no")],
)
def test_auto_precision_is_bf16_where_the_cpu_has_instructions_for_it(monkeypatch, instructions, precision):
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: None)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: instructions)
    assert choose_precision() == precision
