"""The distance of local contrasts against its definition, written down naively."""

import pytest
import torch

from hfembed.models.local_contrast import contrast_distance


def naive_contrast(image, top, left):
    total = 0.0
    for row in range(top, top + 8):
        for column in range(left, left + 8):
            for channel in image:
                here = channel[row, column]
                total += (channel[row + 1, column] - here) ** 2 + (channel[row, column + 1] - here) ** 2
    return (total / (64 * len(image)) + 0.01**2) ** 0.5


def test_it_is_the_mean_difference_of_windows():
    x, y = torch.rand(2, 2, 3, 18, 22, generator=torch.Generator().manual_seed(0)).unbind()
    places = [(top, left) for top in range(0, 10, 4) for left in range(0, 14, 4)]
    expected = [
        sum(abs(naive_contrast(a, *place) - naive_contrast(b, *place)) for place in places) / len(places)
        for a, b in zip(x.double().numpy(), y.double().numpy(), strict=True)
    ]
    torch.testing.assert_close(contrast_distance(x, y).tolist(), expected, rtol=1e-5, atol=1e-6)


def test_blur_is_farther_than_the_same_contrast_elsewhere():
    image = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    blurred = torch.nn.functional.avg_pool2d(image, 3, 1, 1)
    assert contrast_distance(image, image).item() == 0
    assert contrast_distance(blurred, image) > 5 * contrast_distance(image.flip(3), image)


def test_flat_images_have_a_finite_slope_and_small_ones_are_refused():
    flat = torch.full((1, 3, 16, 16), 0.5, requires_grad=True)
    contrast_distance(flat, torch.rand(1, 3, 16, 16)).sum().backward()
    assert flat.grad.isfinite().all()
    with pytest.raises(ValueError, match="more than 8 pixels"):
        contrast_distance(torch.rand(1, 3, 8, 16), torch.rand(1, 3, 8, 16))
