"""Faces in photos restored: only inside of their ovals, at their own size, holes everywhere."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from hfembed.errors import InputError
from hfembed.images.face_restorer import FaceRestorer
from hfembed.models.face_embedder.image_processing_face_embedder import template_for_size
from tests.images.tiny_autoencoder import SIZE, tiny_autoencoder, tiny_restoration


def landmarks(middle=(60, 50), size=SIZE, degrees=0.0):
    points = np.array(template_for_size(size, size)) - size / 2
    angle = np.radians(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return points @ turn.T + middle


def detector(*faces):
    found = torch.from_numpy(np.array(faces, dtype=np.float64).reshape(-1, 5, 2))
    return SimpleNamespace(detect=lambda pictures: [SimpleNamespace(landmarks=found) for _ in pictures])


def noise(mode="RGB"):
    pixels = np.random.default_rng(0).integers(60, 190, (100, 120, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


class Brighten:
    """Adds a twentieth to every pixel, and 0.7 is what it sees in holes."""

    device = torch.device("cpu")

    def __init__(self, **config):
        settings = {"num_channels": 3, "image_size": [SIZE, SIZE], "inpainting": True, "removes_damage": True}
        self.config = SimpleNamespace(**{**settings, "aligned_faces": True, **config})
        self.seen = 0

    def __call__(self, pixel_values, mask=None):
        self.seen += len(pixel_values)
        brighter = pixel_values + 0.05
        return SimpleNamespace(reconstruction=brighter if mask is None else torch.where(mask, 0.7, brighter))


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("size", [SIZE / 2, SIZE, 3 * SIZE])
def test_a_model_that_corrects_nothing_leaves_the_photo_as_it_is(mode, size):
    model = tiny_restoration(num_channels=3, aligned_faces=True)
    restored, count = FaceRestorer(model, detector(landmarks(size=size, degrees=20)))(noise(mode))
    assert count == 1 and restored.mode == mode and np.array_equal(np.asarray(restored), np.asarray(noise(mode)))


def test_only_the_ovals_change_and_keep_their_detail():
    faces = landmarks((30, 30), 24), landmarks((85, 60), 48, 30)
    restored, count = FaceRestorer(Brighten(), detector(*faces))(noise())
    change = np.asarray(restored).astype(int) - np.asarray(noise())
    assert count == 2 and change[30, 30].tolist() == [13, 13, 13] and change[60, 85].tolist() == [13, 13, 13]
    assert 0 <= change.min() and change.max() == 13
    rows, columns = np.mgrid[:100, :120]
    is_near = (np.hypot(rows - 30, columns - 30) < 24) | (np.hypot(rows - 60, columns - 85) < 45)
    assert not change[~is_near].any()


def test_a_large_face_is_restored_at_its_own_size():
    model = Brighten()
    FaceRestorer(model, detector(landmarks(size=SIZE)))(noise())
    assert model.seen == 2, "one tile and its mirror image"
    model.seen = 0
    FaceRestorer(model, detector(landmarks(size=4 * SIZE)))(noise())
    assert model.seen > 2 * 16


def test_holes_are_filled_everywhere_and_faces_are_restored():
    mask = np.zeros((100, 120), dtype=bool)
    mask[45:55, 55:65] = True  # in the face
    mask[5:15, 5:15] = True
    restored, _ = FaceRestorer(Brighten(), detector(landmarks(size=48)))(noise(), mask)
    pixels, before = np.asarray(restored).astype(int), np.asarray(noise())
    assert np.abs(pixels[5:15, 5:15] - 0.7 * 255).max() <= 1
    assert np.abs(pixels[47:53, 57:63] - 0.7 * 255).max() <= 2
    outside = np.ones_like(mask)
    outside[5:80, 5:100] = False
    assert np.array_equal(pixels[outside], before[outside])


def test_what_cannot_be_restored_is_one_line():
    with pytest.raises(InputError, match="no face was found in a.jpg: --whole"):
        FaceRestorer(Brighten(), detector())(noise(), name="a.jpg")
    with pytest.raises(InputError, match="not trained on aligned faces .*; --whole"):
        FaceRestorer(Brighten(aligned_faces=False), detector())
    for model in (tiny_autoencoder(), tiny_restoration(inpainting=True)):
        with pytest.raises(InputError, match="does not restore photos: train one"):
            FaceRestorer(model, detector())
    with pytest.raises(InputError, match="mask is 90 x 120, the photo 100 x 120"):
        FaceRestorer(Brighten(), detector(landmarks()))(noise(), np.ones((90, 120), dtype=bool))
    with pytest.raises(InputError, match="does not fill holes"):
        FaceRestorer(Brighten(inpainting=False), detector(landmarks()))(noise(), np.eye(100, 120) > 0)
