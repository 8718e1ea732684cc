"""Windows against plain loops."""

import math

import torch

from hfembed.models.face_detector.windows import (
    cell_windows,
    clip_windows,
    pyramid_scales,
    shift_windows,
    square_windows,
    suppress_within,
)


def random_windows(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    corner = 60 * torch.rand(count, 2, generator=generator) - 10
    return torch.cat([corner, corner + 5 + 30 * torch.rand(count, 2, generator=generator)], 1)


def test_the_pyramid_ends_with_a_face_as_large_as_the_photo():
    scales = pyramid_scales(100, 300, 20, 0.5)
    assert scales == [0.6, 0.3, 0.15]
    assert pyramid_scales(19, 300, 20, 0.5) == []


def test_cells_squares_and_shifts():
    column, row, scale = torch.tensor([3, 0]), torch.tensor([5, 2]), torch.tensor([0.5, 0.3])
    expected = [
        [(2 * 3 + 1) / 0.5, (2 * 5 + 1) / 0.5, (2 * 3 + 12) / 0.5, (2 * 5 + 12) / 0.5],
        [math.floor(1 / 0.3), math.floor(5 / 0.3), math.floor(12 / 0.3), math.floor(16 / 0.3)],
    ]
    torch.testing.assert_close(cell_windows(column, row, scale), torch.tensor(expected))
    windows = torch.tensor([[10.0, 20.0, 19.0, 40.0]])
    torch.testing.assert_close(square_windows(windows), torch.tensor([[4.5, 20.0, 24.5, 40.0]]))
    shifts = torch.tensor([[0.1, -0.2, 0.0, 0.5]])
    torch.testing.assert_close(shift_windows(windows, shifts, 1), torch.tensor([[11.0, 15.8, 19.0, 50.5]]))
    torch.testing.assert_close(shift_windows(windows, shifts, 0), torch.tensor([[10.9, 16.0, 19.0, 50.0]]))


def test_clipped_windows_are_the_pixels_a_slice_shows():
    photo = torch.arange(30 * 40).view(30, 40)
    windows = random_windows(50)
    edges = clip_windows(windows, torch.tensor([[30, 40]]).expand(50, 2)).long()
    for window, (left, top, right, bottom) in zip(windows.tolist(), edges.tolist(), strict=True):
        columns = [x for x in range(1, 41) if math.trunc(window[0]) <= x <= math.trunc(window[2])]
        rows = [y for y in range(1, 31) if math.trunc(window[1]) <= y <= math.trunc(window[3])]
        expected = photo[[y - 1 for y in rows]][:, [x - 1 for x in columns]]
        assert torch.equal(photo[top : max(bottom, 0), left : max(right, 0)], expected)


def test_suppression_by_the_smaller_window():
    windows, photo = random_windows(60), torch.arange(60) % 3
    scores = torch.rand(60, generator=torch.Generator().manual_seed(1))
    kept = []
    for index in scores.argsort(descending=True).tolist():
        overlaps = []
        for other in kept:
            if photo[other] != photo[index]:
                continue
            a, b = windows[index].tolist(), windows[other].tolist()
            shared = max(min(a[2], b[2]) - max(a[0], b[0]) + 1, 0) * max(min(a[3], b[3]) - max(a[1], b[1]) + 1, 0)
            overlaps.append(shared / min((w[2] - w[0] + 1) * (w[3] - w[1] + 1) for w in (a, b)))
        if all(overlap <= 0.5 for overlap in overlaps):
            kept.append(index)
    assert 3 < len(kept) < 60
    assert suppress_within(windows, scores, photo, 0.5).tolist() == kept
    assert suppress_within(windows[:0], scores[:0], photo[:0], 0.5).tolist() == []
