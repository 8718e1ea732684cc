"""Faces cut out of photos, and what is pasted back."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from hfembed.errors import InputError
from hfembed.faces.face_pasting import align_face, can_be_pasted, find_faces, paste_face
from hfembed.models.face_embedder.image_processing_face_embedder import FaceImageProcessor, template_for_size

SIZE = 32


def landmarks(middle=(60, 50), size=SIZE):
    return np.array(template_for_size(size, size)) - size / 2 + middle


def test_a_correction_is_added_where_the_face_is_and_nothing_else_changes():
    photo = Image.fromarray(np.random.default_rng(0).integers(60, 200, (100, 120, 3), dtype=np.uint8))
    face = align_face(FaceImageProcessor(size=SIZE), photo, landmarks())
    shifted = np.asarray(photo)[34:66, 44:76].astype(int)
    assert np.abs(face.crop[1:-1, 1:-1] - shifted[1:-1, 1:-1]).max() <= 1, "a shift by whole pixels"
    pixels, opacity = np.array(photo), np.ones((SIZE, SIZE))
    paste_face(pixels, face.crop, opacity, face.to_crop, face.crop)
    assert np.array_equal(pixels, np.asarray(photo))
    paste_face(pixels, face.crop + 30.0, opacity, face.to_crop, face.crop)
    change = pixels.astype(int) - np.asarray(photo)
    assert (change[36:64, 46:74] == 30).all()
    change[34:66, 44:76] = 0
    assert not change.any()


def test_detail_finer_than_the_photo_is_averaged():
    """A small face in a crop that is four times finer: of alternating pixels nothing is left, not one of the two."""
    photo = Image.new("RGB", (120, 100), (100, 100, 100))
    face = align_face(FaceImageProcessor(size=4 * SIZE), photo, landmarks())
    checks = 50.0 * (np.indices((4 * SIZE, 4 * SIZE)).sum(0) // 2 % 2 * 2 - 1)
    pixels = np.array(photo)
    paste_face(pixels, face.crop + checks[:, :, None], np.ones_like(checks), face.to_crop, face.crop)
    assert np.abs(pixels[38:62, 48:72].astype(int) - 100).max() <= 3


def test_a_photos_own_detail_is_kept_as_far_as_asked():
    noise = np.random.default_rng(0).integers(60, 200, (100, 120, 3), dtype=np.uint8)
    face = align_face(FaceImageProcessor(size=SIZE), Image.fromarray(noise), landmarks(size=3 * SIZE))
    opacity, middle = np.ones((SIZE, SIZE)), np.s_[30:70, 40:80]
    spread = []
    for kept in (1.0, 0.5, 0.0):
        pixels = noise.copy()
        paste_face(pixels, face.crop, opacity, face.to_crop, face.crop, kept * opacity)
        spread.append(pixels[middle].std())
    plain = noise.copy()
    paste_face(plain, face.crop, opacity, face.to_crop)
    assert np.array_equal(pixels, plain), "without it the face is pasted as it is"
    assert spread[0] == noise[middle].std() and spread[0] > 1.5 * spread[1] > 2 * spread[2]


def test_a_face_found_twice_is_pasted_into_once():
    first, again, neighbor = landmarks((60, 50), 32), landmarks((64, 54), 40), landmarks((84, 50), 32)
    beyond = landmarks((-5, 50), 32)
    found = np.stack([first, again, beyond, neighbor])
    assert can_be_pasted(found, (120, 100)).tolist() == [True, False, False, True]
    assert can_be_pasted(found[:0], (120, 100)).shape == (0,)
    on_the_nose, cheek_to_cheek = landmarks((64, 54), 6), landmarks((60 + 14, 50), 32)
    found = np.stack([on_the_nose, first, cheek_to_cheek])
    assert can_be_pasted(found, (120, 100)).tolist() == [True, True, True]


def test_nobody_found_is_one_line_with_the_way_out():
    detector = SimpleNamespace(detect=lambda pictures: [SimpleNamespace(landmarks=torch.zeros(0, 5, 2))])
    with pytest.raises(InputError, match="no face was found in a.jpg: look again"):
        find_faces(detector, Image.new("RGB", (9, 9)), "a.jpg", "look again")


def test_a_face_beyond_the_edge_is_left_out():
    face = torch.tensor([[2.0, 2], [6, 2], [4, 4], [2, 6], [6, 6]])
    beyond = face - torch.tensor([5.0, 0])
    detector = SimpleNamespace(detect=lambda pictures: [SimpleNamespace(landmarks=torch.stack([beyond, face]))])
    np.testing.assert_array_equal(find_faces(detector, Image.new("RGB", (9, 9)), "a.jpg", ""), face[None])
    detector.detect = lambda pictures: [SimpleNamespace(landmarks=beyond[None])]
    with pytest.raises(InputError, match="no face was found in a.jpg"):
        find_faces(detector, Image.new("RGB", (9, 9)), "a.jpg", "")
