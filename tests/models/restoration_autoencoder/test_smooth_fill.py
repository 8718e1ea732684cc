"""Holes filled from their borders."""

import numpy as np
import torch

from hfembed.models.restoration_autoencoder.smooth_fill import smooth_fill


def pull_push(image, known):
    """Written down once more: a loop over squares, for one channel of a side of a power of two."""
    size = len(image)
    if size == 1:
        return image if known[0, 0] else np.full((1, 1), 0.5)
    total, count = np.zeros((size // 2, size // 2)), np.zeros((size // 2, size // 2))
    for row in range(size):
        for column in range(size):
            total[row // 2, column // 2] += known[row, column] * image[row, column]
            count[row // 2, column // 2] += known[row, column]
    mean = total / np.maximum(count, 1e-9)
    coarse = pull_push(mean, np.minimum(count, 1))
    places = (np.arange(size) + 0.5) / 2 - 0.5
    rows = np.stack([np.interp(places, np.arange(size // 2), column) for column in coarse.T], axis=1)
    larger = np.stack([np.interp(places, np.arange(size // 2), row) for row in rows])
    return known * image + (1 - known) * larger


def test_it_is_pull_push():
    generator = torch.Generator().manual_seed(0)
    images, mask = torch.rand(3, 2, 16, 16, generator=generator), torch.rand(3, 1, 16, 16, generator=generator) < 0.6
    filled = smooth_fill(images, mask)
    for image, hole, result in zip(images, mask, filled, strict=True):
        for channel, expected in zip(image, result, strict=True):
            known = (~hole[0]).double().numpy()
            np.testing.assert_allclose(expected, pull_push(channel.double().numpy(), known), atol=1e-5)


def test_any_size_any_hole_and_nothing_outside_of_it():
    images, mask = torch.rand(2, 3, 37, 50), torch.zeros(2, 1, 37, 50, dtype=torch.bool)
    mask[:, :, 5:20, 9:30] = True
    filled = smooth_fill(images, mask)
    outside = ~mask.expand_as(images)
    assert torch.equal(filled[outside], images[outside])
    assert 0 <= filled.min() and filled.max() <= 1
    assert torch.allclose(smooth_fill(torch.full_like(images, 0.3), mask), torch.tensor(0.3))
    gray = smooth_fill(images, mask | True)
    assert torch.allclose(gray, torch.tensor(0.5)), "where nothing is known"
    assert torch.equal(smooth_fill(images, mask & False), images)
