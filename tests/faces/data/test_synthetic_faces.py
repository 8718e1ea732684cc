import numpy as np
import pytest
import torch

from hfembed.faces.data.aligned_faces import AlignedFaces
from hfembed.faces.data.synthetic_faces import make_synthetic_faces, make_synthetic_pairs
from hfembed.models.face_embedder.image_processing_face_embedder import FaceImageProcessor


def test_the_schema_is_lfws():
    faces = make_synthetic_faces(3, 2, image_size=48)
    assert faces.column_names == ["image", "label", "file", "landmarks"]
    assert faces["label"][:] == [0, 0, 1, 1, 2, 2] and faces.features["label"].num_classes == 3
    assert faces["file"][3] == "Person_0001/Person_0001_0002.jpg"
    assert faces[0]["image"].size == (48, 48) and faces[0]["image"].mode == "RGB"
    left, right, nose, left_mouth, right_mouth = np.array(faces["landmarks"][:]).transpose(1, 0, 2)
    assert (left[:, 0] < right[:, 0]).all() and (left_mouth[:, 0] < right_mouth[:, 0]).all()
    assert (left[:, 1] < nose[:, 1]).all() and (nose[:, 1] < left_mouth[:, 1]).all()
    assert (np.array(faces["landmarks"][:]) > 0).all() and (np.array(faces["landmarks"][:]) < 48).all()


def pixels(faces):
    return [np.asarray(photo) for photo in faces["image"]]


def test_a_photo_depends_on_seed_person_and_number_alone():
    few, many = make_synthetic_faces(2, 3, seed=4, image_size=32), make_synthetic_faces(5, 3, seed=4, image_size=32)
    assert all(np.array_equal(a, b) for a, b in zip(pixels(few), pixels(many)[:6], strict=True))
    assert few._fingerprint == make_synthetic_faces(2, 3, seed=4, image_size=32)._fingerprint
    other = make_synthetic_faces(2, 3, seed=5, image_size=32)
    assert other._fingerprint != few._fingerprint and not np.array_equal(pixels(other)[0], pixels(few)[0])


def test_folds_share_nobody_and_halves_are_the_same_person():
    faces, pairs = make_synthetic_pairs(20, 4, image_size=32, num_folds=5, pairs_per_fold=10)
    assert len(faces) == 80 and len(pairs) == 50 and set(pairs.files) <= set(faces["file"][:])
    people = [(a.split("/")[0], b.split("/")[0]) for a, b in zip(pairs.file_a, pairs.file_b, strict=True)]
    assert [a == b for a, b in people] == pairs.same.tolist()
    assert all(a != b for a, b in zip(pairs.file_a, pairs.file_b, strict=True))
    of_fold = [{p for pair, f in zip(people, pairs.fold, strict=True) if f == fold for p in pair} for fold in range(5)]
    assert sum(map(len, of_fold)) == len(set().union(*of_fold))
    assert all(pairs.same[pairs.fold == fold].mean() == 0.5 for fold in range(5))
    with pytest.raises(ValueError, match="every fold"):
        make_synthetic_pairs(21, 4, num_folds=5)


def accuracy(vectors, files, pairs):
    """Verification by cosine, at the best threshold of these very pairs: an upper bound."""
    row = {file: number for number, file in enumerate(files)}
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    scores = (vectors[[row[f] for f in pairs.file_a]] * vectors[[row[f] for f in pairs.file_b]]).sum(1)
    return max(((scores > threshold) == pairs.same).mean() for threshold in scores)


def test_pixels_and_an_untrained_network_fail():
    """What makes them worth training on. (That a trained network succeeds is what `make quickstart` shows.)"""
    faces, pairs = make_synthetic_pairs()
    aligned = AlignedFaces(faces, FaceImageProcessor(size=48), show_progress=False)
    crops = torch.stack([aligned[0, row]["pixels"] for row in range(len(aligned))]).float()
    crops -= crops.mean(dim=0)
    assert accuracy(crops.flatten(1).numpy(), aligned.files, pairs) < 0.66
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(3, 32, 3, 2), torch.nn.BatchNorm2d(32), torch.nn.ReLU(), torch.nn.Conv2d(32, 64, 3, 2)]
    with torch.no_grad():
        features = torch.nn.Sequential(*layers, torch.nn.AdaptiveAvgPool2d(6), torch.nn.Flatten())(crops).numpy()
    assert accuracy(features - features.mean(axis=0), aligned.files, pairs) < 0.68
