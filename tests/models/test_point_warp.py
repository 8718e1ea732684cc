"""Images warped by points: what was at a point is where it was wanted, and the rest stays."""

import torch
import torch.nn.functional as F

from hfembed.models.point_warp import warp_points


def smooth(batch_size=2, size=64):
    generator = torch.Generator().manual_seed(0)
    return F.interpolate(torch.rand(batch_size, 3, 9, 9, generator=generator), (size, size), mode="bicubic")


def test_what_was_at_a_point_is_where_it_was_wanted():
    images = smooth()
    points = torch.tensor([[20, 22], [43, 21], [32, 33], [24, 45], [41, 44]]).expand(2, -1, -1)
    wanted = points + torch.tensor([[2, 1], [-2, 0], [0, 3], [1, -2], [3, 0]])
    warped = warp_points(images, points, wanted)
    for (x, y), (to_x, to_y) in zip(points[0].tolist(), wanted[0].tolist(), strict=True):
        torch.testing.assert_close(warped[:, :, to_y, to_x], images[:, :, y, x], atol=0.02, rtol=0)
    corner = (slice(None), slice(None), slice(0, 4), slice(0, 4))
    torch.testing.assert_close(warped[corner], images[corner], atol=0.05, rtol=0)


def test_points_that_are_where_they_are_wanted_move_nothing():
    images, points = smooth(), torch.tensor([[[20.0, 22.0], [43.0, 21.0]]]).expand(2, -1, -1)
    torch.testing.assert_close(warp_points(images, points, points), images, atol=1e-4, rtol=0)


def test_points_in_one_place_do_not_tear_the_image_apart():
    images, points = smooth(), torch.tensor([[[20.0, 22.0], [20.0, 22.0]]]).expand(2, -1, -1)
    warped = warp_points(images, points, points + torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
    assert warped.isfinite().all() and (warped - images).abs().mean() < 0.1
