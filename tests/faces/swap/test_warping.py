"""Warped inputs and aligned targets: what is undone is the local distortion alone, and draws belong to their key."""

import numpy as np
import pytest
import torch

from hfembed.faces.swap.warping import WarpedPairs

STILL = {"warp": 0.0, "rotation": 0.0, "zoom": 0.0, "shift": 0.0, "mirror": 0.0}


def smooth(count=4, size=32, channels=3):
    """Crops whose values rise evenly, so that a place can be read off a value."""
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    step = 192 // size
    values = torch.stack([step * x, step * y, step * (size - y)][:channels]) + 40
    return values.to(torch.uint8).expand(count, channels, size, size).clone()


def keys(count=4):
    return [(3, index) for index in range(count)]


def test_switched_off_it_changes_nothing():
    pixels = smooth()
    inputs, targets, masks = WarpedPairs(**STILL)(pixels, keys())
    torch.testing.assert_close(inputs, pixels / 255, atol=2e-6, rtol=0)
    assert torch.equal(inputs, targets) and masks is None


def test_without_a_warp_inputs_are_their_targets():
    inputs, targets, _ = WarpedPairs(warp=0.0)(smooth(), keys())
    assert torch.equal(inputs, targets)
    assert not torch.allclose(targets, smooth() / 255, atol=0.01)


def test_the_target_keeps_shapes_and_the_input_does_not():
    # on crops whose values are coordinates, a similarity leaves straight ramps straight; a local warp bends them
    inputs, targets, _ = WarpedPairs(**STILL | {"warp": 5 / 256})(smooth(size=64), keys())
    middle = np.s_[:, :, 10:-10, 10:-10]

    def bend(images):
        return images[middle].diff(n=2, dim=3).abs().mean().item()

    assert bend(targets) < 0.01 * bend(inputs)
    # the two agree as well as a similarity can: no shift is left between them
    difference = (inputs - targets)[middle].mean(dim=(2, 3)).abs()
    assert difference.mean() < 0.5 * (inputs - targets)[middle].abs().mean()


def test_a_sample_is_its_keys_alone():
    pairs = WarpedPairs(seed=5, brightness=0.2, tint=0.1, saturation=0.3)
    pixels = smooth(6) + torch.arange(6, dtype=torch.uint8).view(-1, 1, 1, 1)
    sample_keys = [(1, 4), (1, 2, 1), (2, 4), (1, 2), (0, 0), (7, 5)]
    inputs, targets, _ = pairs(pixels, sample_keys)
    for row in range(6):
        alone = pairs(pixels[row : row + 1], [sample_keys[row]])
        assert torch.equal(alone[0][0], inputs[row]) and torch.equal(alone[1][0], targets[row])
    other = WarpedPairs(seed=6)(pixels, sample_keys)[0]
    assert not torch.allclose(other, WarpedPairs(seed=5)(pixels, sample_keys)[0], atol=0.01)


def test_switching_one_operation_off_leaves_the_draws_of_the_others():
    with_shift = WarpedPairs(**STILL | {"mirror": 0.5, "shift": 1e-6})(smooth(16), keys(16))[0]
    mirrored = WarpedPairs(**STILL | {"mirror": 0.5})(smooth(16), keys(16))[0]
    torch.testing.assert_close(with_shift, mirrored, atol=1e-3, rtol=0)
    flipped = (mirrored[:, 0, 0, 0] > mirrored[:, 0, 0, -1]).sum().item()
    assert 2 <= flipped <= 14


def test_cuts_the_middle_out_of_crops_with_a_margin():
    pixels = smooth(size=40)
    inputs, targets, _ = WarpedPairs(output_size=32, **STILL)(pixels, keys())
    torch.testing.assert_close(targets, pixels[:, :, 4:-4, 4:-4] / 255, atol=2e-6, rtol=0)
    assert torch.equal(inputs, targets)


def test_masks_move_with_the_targets():
    pixels = smooth(channels=1)
    pairs = WarpedPairs(rotation=30.0)
    _, targets, masks = pairs(pixels, keys(), masks=pixels)
    torch.testing.assert_close(masks, targets, atol=1e-6, rtol=0)


@pytest.mark.parametrize("field", [{"nodes": 1}, {"mirror": 2}, {"warp": -1}, {"zoom": 1}, {"tint": -0.1}])
def test_impossible_values_are_named(field):
    with pytest.raises(ValueError, match=next(iter(field))):
        WarpedPairs(**field)
