"""The atlas against averaging the area behind each pixel."""

import pytest
import torch
from torch.nn.functional import adaptive_avg_pool2d

from hfembed.models.face_detector.photo_atlas import AreaResampling, PhotoAtlas, normalize


def smooth_photos(*sizes):
    """A different colour slope in each photo: any right resampling of it is known exactly."""
    photos = []
    for number, (height, width) in enumerate(sizes):
        y, x = torch.arange(height).view(-1, 1) + 0.5, torch.arange(width) + 0.5
        photos.append(torch.stack([(x + 0 * y) / 2, (y + 0 * x) / 2, 100.0 + 20 * number + 0 * (x + y)]))
    return photos


def test_windows_of_photos_of_different_sizes_show_what_is_there():
    atlas = PhotoAtlas(smooth_photos((90, 200), (201, 151), (33, 40)))
    photo = torch.tensor([0, 1, 2, 1, 0])
    edges = torch.tensor(
        [[0, 0, 200, 90], [20, 30, 140, 180], [3, 4, 30, 31], [10, 10, 34, 34], [63.5, 20.25, 131.0, 80.0]]
    )
    crops = atlas.crops(photo, edges.float(), 24) * 128 + 127.5
    for crop, number, (left, top, right, bottom) in zip(crops, photo.tolist(), edges.tolist(), strict=True):
        inside = slice(2, 22)  # at a photo's edge, half a pixel of a small copy is repeated
        x = left + (torch.arange(24) + 0.5) * (right - left) / 24
        y = top + (torch.arange(24) + 0.5) * (bottom - top) / 24
        torch.testing.assert_close(crop[0, inside, inside], (x / 2).expand(24, 24)[inside, inside], rtol=0, atol=0.05)
        torch.testing.assert_close(
            crop[1, inside, inside], (y / 2)[:, None].expand(24, 24)[inside, inside], rtol=0, atol=0.05
        )
        torch.testing.assert_close(crop[2], torch.full((24, 24), 100.0 + 20 * number), rtol=0, atol=0.01)


@pytest.mark.parametrize("scale", [0.5, 0.25, 0.3, 0.15])
def test_levels_are_the_photo_shrunk(scale):
    atlas = PhotoAtlas(smooth_photos((90, 200), (201, 151)))
    height, width = atlas.level_size(201, 151, scale)
    assert height % 2 == width % 2 == 0 and height >= 201 * scale and width >= 151 * scale
    levels = atlas.levels(torch.tensor([1, 0]), torch.tensor([scale, scale]), height, width) * 128 + 127.5
    inside = slice(1, int(151 * scale) - 1)
    x = (torch.arange(width) + 0.5) / scale / 2
    torch.testing.assert_close(levels[0, 0, 3, inside], x[inside], rtol=0, atol=0.05)
    # beyond the smaller photo its edge is repeated, not the next photo on the sheet
    torch.testing.assert_close(levels[1, 2], torch.full((height, width), 100.0), rtol=0, atol=0.01)


def test_both_ways_of_resampling_nearly_agree():
    generator = torch.Generator().manual_seed(0)
    blobs = torch.rand(1, 3, 12, 14, generator=generator) * 255
    photo = torch.nn.functional.interpolate(blobs, (180, 210), mode="bicubic")[0].clamp(0, 255)
    edges = torch.tensor([[0, 0, 180, 180], [50, 60, 110, 120], [100, 100, 175, 175]])
    atlas, area = (
        kind([photo]).crops(torch.zeros(3).long(), edges.float(), 24) for kind in (PhotoAtlas, AreaResampling)
    )
    assert (atlas - area).abs().mean() < 0.1 * normalize(photo).std()


def test_area_means_are_those_of_adaptive_pooling():
    generator = torch.Generator().manual_seed(0)
    # decoded photos have their channels last in memory, others may not
    photos = [
        torch.randint(0, 256, (97, 130, 3), dtype=torch.uint8, generator=generator).permute(2, 0, 1),
        torch.randint(0, 256, (3, 61, 20), dtype=torch.uint8, generator=generator),
    ]
    area = AreaResampling(photos)
    levels = area.levels(torch.tensor([0, 1]), torch.tensor([0.2, 0.2]), 19, 13)
    for level, photo in zip(levels, photos, strict=True):
        torch.testing.assert_close(level, adaptive_avg_pool2d(normalize(photo), (19, 13)), rtol=0, atol=1e-6)
    edges = torch.tensor([[0, 0, 130, 97], [20, 30, 81, 60], [5, 1, 6, 2], [0, 2, 20, 61]])
    number = torch.tensor([0, 0, 0, 1])
    crops = area.crops(number, edges.float(), 24)
    for crop, photo, (left, top, right, bottom) in zip(crops, number.tolist(), edges.tolist(), strict=True):
        expected = adaptive_avg_pool2d(normalize(photos[photo])[:, top:bottom, left:right], 24)
        torch.testing.assert_close(crop, expected, rtol=0, atol=1e-6)
