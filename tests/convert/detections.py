"""Detections of original networks, decoded and thinned out in plain numpy."""

import io
import tarfile

import numpy as np
import torch
from PIL import Image


def real_photos(research_data, count):
    """RGB photos in the wild, (height, width, 3) uint8, of different sizes."""
    photos = []
    with tarfile.open(research_data / "celeba299" / "raw_sample.tgz") as archive:
        for member in archive:
            if member.name.endswith(".jpg") and len(photos) < count:
                photo = Image.open(io.BytesIO(archive.extractfile(member).read())).convert("RGB")
                photo.thumbnail((640, 640))
                photos.append(np.array(photo))
    return photos


def non_maximum_suppression(faces, threshold):
    """Faces [(score, box, landmarks)], the highest score first, without those that overlap a better one."""
    kept = []
    for score, box, landmarks in sorted(faces, key=lambda face: -face[0]):
        if all(intersection_over_union(box, other) <= threshold for _, other, _ in kept):
            kept.append((score, box, landmarks))
    return kept


def intersection_over_union(a, b):
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def assert_same_faces(found, expected, pixels, scores):
    """`DetectedFaces` against [(score, box, landmarks)]."""
    assert len(found.scores) == len(expected)
    for number, (score, box, landmarks) in enumerate(expected):
        assert abs(float(found.scores[number]) - score) <= scores
        assert np.abs(found.boxes[number].numpy() - box).max() <= pixels
        assert np.abs(found.landmarks[number].numpy() - landmarks).max() <= pixels


def as_pixels(photo):
    return torch.from_numpy(photo).permute(2, 0, 1)
