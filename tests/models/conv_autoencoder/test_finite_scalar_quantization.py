"""Finite scalar quantization: which levels there are, and what the gradient does."""

import pytest
import torch

from hfembed.models.conv_autoencoder.finite_scalar_quantization import level_steps, quantize


@pytest.mark.parametrize("count", [2, 3, 5, 8, 256])
def test_every_level_is_reached_and_no_other(count):
    codes = torch.linspace(-9, 9, 200_001)[:, None, None, None]
    (step,) = level_steps([count])
    found = (quantize(codes, [count]) / step).unique()
    assert found.tolist() == list(range(-(count // 2), (count + 1) // 2))
    assert quantize(torch.zeros(1, 1, 1, 1), [count]).item() == 0, "0 is a level, and the middle"


def test_each_channel_has_its_levels():
    codes = torch.tensor([9.0, 9.0]).view(1, 2, 1, 1)
    assert quantize(codes, [3, 4]).flatten().tolist() == [1.0, 0.5]


def test_the_gradient_is_that_without_rounding():
    codes = torch.tensor([0.3, -0.7], dtype=torch.float64).view(1, 2, 1, 1).requires_grad_()
    quantize(codes, [5, 5]).sum().backward()
    half = 2 * (1 + 1e-3)
    expected = half / 2 * (1 - torch.tanh(codes.detach()) ** 2)
    torch.testing.assert_close(codes.grad, expected, rtol=1e-6, atol=0)


def test_levels_are_told_apart_in_bfloat16():
    levels = quantize(torch.randn(1, 1, 99, 99).bfloat16(), [255])
    steps = levels.float() * 127
    assert levels.dtype == torch.bfloat16 and (steps - steps.round()).abs().max() <= 0.25
