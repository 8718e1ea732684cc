"""Averaging the area behind each pixel, against adaptive pooling."""

import torch
from torch.nn.functional import adaptive_avg_pool2d

from hfembed.models.face_detector.area_resampling import AreaResampling, normalize


def test_area_means_are_those_of_adaptive_pooling():
    generator = torch.Generator().manual_seed(0)
    # decoded photos have their channels last in memory, others may not
    photos = [
        torch.randint(0, 256, (97, 130, 3), dtype=torch.uint8, generator=generator).permute(2, 0, 1),
        torch.randint(0, 256, (3, 61, 20), dtype=torch.uint8, generator=generator),
    ]
    area = AreaResampling(photos)
    levels = area.levels(torch.tensor([0, 1]), 19, 13)
    for level, photo in zip(levels, photos, strict=True):
        torch.testing.assert_close(level, adaptive_avg_pool2d(normalize(photo), (19, 13)), rtol=0, atol=1e-6)
    edges = torch.tensor([[0, 0, 130, 97], [20, 30, 81, 60], [5, 1, 6, 2], [0, 2, 20, 61]])
    number = torch.tensor([0, 0, 0, 1])
    crops = area.crops(number, edges.float(), 24)
    for crop, photo, (left, top, right, bottom) in zip(crops, number.tolist(), edges.tolist(), strict=True):
        expected = adaptive_avg_pool2d(normalize(photos[photo])[:, top:bottom, left:right], 24)
        torch.testing.assert_close(crop, expected, rtol=0, atol=1e-6)
