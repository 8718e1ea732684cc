"""Morphs by landmarks: shape by points, texture by latents."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from hfembed.errors import InputError
from hfembed.images.morphing import align_photo, halfway, midpoint_sharpness, morph
from hfembed.models.conv_autoencoder.image_processing_conv_autoencoder import ConvAutoencoderImageProcessor
from hfembed.models.face_embedder.image_processing_face_embedder import template_for_size

SIZE = 16


class Same:
    """An 'autoencoder' whose latents are the image."""

    device = torch.device("cpu")
    config = SimpleNamespace(stride=1)

    def encode(self, images):
        return images

    def decode(self, latents):
        return latents


def test_points_move_with_a_morph_where_its_code_alone_fades():
    y, x = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")

    def spot(point):
        return torch.exp(-0.5 * ((x - point[0]) ** 2 + (y - point[1]) ** 2) / 4)[None]

    corners = [[1.0, 1.0], [SIZE - 2.0, 1.0], [1.0, SIZE - 2.0]]
    points = torch.tensor([[[5.0, 6.0], *corners], [[9.0, 8.0], *corners]])
    a, b = (spot(own[0]) for own in points)
    model = Same()
    faded, moved = morph(model, a, b, 5), morph(model, a, b, 5, points=points)
    for frames in (faded, moved):
        assert torch.allclose(frames[[0, -1]], torch.stack([a, b]), atol=1e-3)
    wanted = spot([7.0, 7.0])
    assert (moved[2] - wanted).square().mean() < 0.1 * (faded[2] - wanted).square().mean()
    middles = halfway(model, a[None], b[None], points=points[:, None])
    assert torch.allclose(middles[0], moved[2], atol=1e-5)
    assert torch.allclose(halfway(model, a[None], b[None])[0], faded[2], atol=1e-5)
    assert midpoint_sharpness(moved) > midpoint_sharpness(faded)


class Framed:
    """A detector that knows where the face is."""

    def __init__(self, points):
        self.points = points

    def detect(self, photos):
        return [SimpleNamespace(landmarks=torch.as_tensor(self.points)[None].float()) for _ in photos]


@pytest.mark.parametrize("crop_fraction", [1.0, 0.5])
def test_a_photo_is_framed_as_its_model_wants_it_and_its_landmarks_with_it(crop_fraction):
    template = np.asarray(template_for_size(112, 112))
    points = 2 * template + np.array([30, 20])  # upright, twice as large
    pixels = np.zeros((280, 300, 3), dtype=np.uint8)
    for column, row in points.round().astype(int):
        pixels[row - 3 : row + 4, column - 3 : column + 4] = 255
    processor = ConvAutoencoderImageProcessor(size=[112, 112], crop_fraction=crop_fraction)
    image, found = align_photo(processor, Framed(points), Image.fromarray(pixels))
    assert image.shape == (3, 112, 112) and found.shape == (5, 2)
    if crop_fraction == 1:
        assert np.allclose(found, template, atol=1e-3)
    inside = [point for point in found.round().long().tolist() if 0 <= min(point) and max(point) < 112]
    assert len(inside) >= 3
    for column, row in inside:
        assert image[0, row, column] > 0.9


def test_a_photo_without_a_face_is_named():
    detector = SimpleNamespace(detect=lambda photos: [SimpleNamespace(landmarks=torch.zeros(0, 5, 2))])
    with pytest.raises(InputError, match="no face was found in a.jpg: use another photo or --detector"):
        align_photo(ConvAutoencoderImageProcessor(size=[8, 8]), detector, Image.new("RGB", (20, 20)), "a.jpg")
