import numpy as np
import pytest
import torch

from hfembed.images.interpolation import even_shares, gradient_energy, linear_path, spherical_path


def latents(seed=0, shape=(8, 2, 2)):
    return torch.randn(2, *shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("path", [linear_path, spherical_path])
def test_paths_start_and_end_where_they_should(path):
    a, b = latents()
    points = path(a, b, even_shares(5))
    assert points.shape == (5, 8, 2, 2)
    assert torch.equal(points[0], a) and torch.allclose(points[-1], b, atol=1e-6)
    with pytest.raises(ValueError, match="at least 2"):
        path(a, b, even_shares(1))
    with pytest.raises(ValueError, match="shape"):
        path(a, b[:4], even_shares(3))


def test_the_straight_line_is_even():
    a, b = latents()
    assert torch.allclose(linear_path(a, b, even_shares(5))[2], (a + b) / 2, atol=1e-6)


def test_the_circle_is_scipys_and_keeps_its_distance():
    from scipy.spatial import geometric_slerp

    a, b = (v / v.norm() for v in latents(shape=(6,)).double())
    points = spherical_path(a, b, even_shares(7))
    assert np.allclose(points, geometric_slerp(a.numpy(), b.numpy(), np.linspace(0, 1, 7)), atol=1e-5)
    long = spherical_path(2 * a, 4 * b, even_shares(5))
    assert torch.allclose(long.norm(dim=1), torch.tensor([2, 2.5, 3, 3.5, 4]).double(), atol=1e-5)


def test_a_center_moves_with_the_latents():
    a, b = latents()
    center = torch.full_like(a, 5.0)
    assert torch.allclose(
        spherical_path(a + 5, b + 5, even_shares(4), center), spherical_path(a, b, even_shares(4)) + 5, atol=1e-4
    )


def test_latents_in_one_direction_and_in_opposite_ones():
    a, _ = latents()
    assert torch.allclose(spherical_path(a, 3 * a, even_shares(3)), linear_path(a, 3 * a, even_shares(3)), atol=1e-6)
    assert torch.equal(spherical_path(a * 0, a, even_shares(3)), linear_path(a * 0, a, even_shares(3)))
    with pytest.raises(ValueError, match="opposite"):
        spherical_path(a, -a, even_shares(3))


def test_gradient_energy_sees_ghosts():
    a, b = torch.rand(2, 1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    assert gradient_energy((a + b) / 2) < 0.6 * torch.minimum(gradient_energy(a), gradient_energy(b))
    ramp = torch.arange(8.0).expand(1, 1, 8, 8)
    assert gradient_energy(ramp).item() == pytest.approx(1)
