import math

import pytest
import torch

from hfembed.models.conv_autoencoder.entropy_network import EntropyNetwork, likelihood, rounding_step, step_deviation


def varied_network(shape, seed=0):
    torch.manual_seed(seed)
    network = EntropyNetwork(shape, hidden=8)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return network


@pytest.mark.parametrize("channels", [1, 2, 3, 8, 20])
def test_stages_code_every_number_once(channels):
    network = EntropyNetwork((channels, 3, 4))
    seen = torch.zeros(channels, 3, 4)
    for stage in network.stages():
        seen[stage.first : stage.last] += network.colors[stage.color]
    assert seen.eq(1).all()
    assert all(last - first <= max(1, first) for first, last in network.bounds), "no group is larger than all before"


def test_a_number_is_predicted_from_earlier_stages_alone():
    network = varied_network((5, 4, 4)).double()
    latents = torch.randn(1, 5, 4, 4, dtype=torch.float64)
    steps, quality = torch.full((1, 1, 1, 1), 0.5, dtype=torch.float64), torch.tensor([14.0], dtype=torch.float64)
    rounded, _ = network(latents, steps, quality)
    stages = list(network.stages())
    for number in range(len(stages)):
        changed = latents.clone()
        for later in stages[number:]:
            own = network.colors[later.color].expand(later.last - later.first, -1, -1)
            changed[0, later.first : later.last][own] += 3.0
        again, _ = network(changed, steps, quality)
        for earlier in stages[:number]:
            own = slice(earlier.first, earlier.last)
            where = network.colors[earlier.color]
            assert torch.equal(again[0, own][:, where], rounded[0, own][:, where])


def test_rounding_moves_a_number_by_half_a_step_and_its_gradient_passes():
    network = varied_network((3, 4, 4))
    latents = torch.randn(2, 3, 4, 4, requires_grad=True)
    steps = torch.tensor([0.25, 1.0]).view(2, 1, 1, 1)
    rounded, bits = network(latents, steps, torch.tensor([12.0, 16.0]))
    assert ((rounded - latents).abs() <= steps / 2 + 1e-5).all() and bits.shape == (2,) and (bits > 0).all()
    bits.sum().backward()
    assert latents.grad.abs().sum() > 0 and all(p.grad is not None for p in network.parameters())
    levels, _ = network(latents, steps, torch.tensor([16.0, 16.0]), are_levels=True)
    assert torch.equal(levels, latents)


def test_likelihoods_sum_to_one_and_keep_their_tails():
    deviation = torch.tensor([0.1, 1.0, 30.0], dtype=torch.float64)[:, None]
    whole = torch.arange(-300, 301, dtype=torch.float64) - 0.3
    assert likelihood(whole, deviation).sum(1) == pytest.approx(1, abs=1e-9)
    assert likelihood(torch.tensor(9.0, dtype=torch.float64), torch.tensor(1.0)) == pytest.approx(
        0.5 * (math.erfc(8.5 / 2**0.5) - math.erfc(9.5 / 2**0.5)), rel=1e-6
    )
    assert step_deviation(torch.tensor([-100.0, 3.0])).tolist() == pytest.approx([0.1, 64.01**0.5], rel=1e-3)


def test_a_quality_moves_a_pixel_by_what_it_says():
    assert rounding_step(torch.tensor([16.0, 18.0]), 400).tolist() == pytest.approx([20 / 256, 20 / 512])
