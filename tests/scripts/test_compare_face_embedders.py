"""Face embedders beside each other: pairs, gray crops, several embedders together."""

import numpy as np
import pytest
import torch
from PIL import Image

from hfembed.errors import InputError
from scripts.compare_face_embedders import random_pairs, to_gray, together


def test_the_cosine_of_embeddings_together_is_the_mean_of_their_cosines():
    generator = np.random.default_rng(0)
    parts = [generator.normal(size=(5, size)) for size in (4, 7)]
    unit = [part / np.linalg.norm(part, axis=1, keepdims=True) for part in parts]
    joined = together(parts)
    joined /= np.linalg.norm(joined, axis=1, keepdims=True)
    np.testing.assert_allclose(joined @ joined.T, sum(part @ part.T for part in unit) / 2, atol=1e-12)


def test_pairs_are_half_genuine_and_none_twice():
    people = np.repeat(np.arange(10), 4)
    a, b, same = random_pairs(people, 30)
    assert len(a) == 60 and same.sum() == 30 and len(set(zip(a.tolist(), b.tolist(), strict=True))) == 60
    assert ((people[a] == people[b]) == same).all() and (a != b).all()
    with pytest.raises(InputError, match="60 genuine pairs, fewer than 61"):
        random_pairs(people, 61)


def test_gray_is_pillows_gray():
    color = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    gray = to_gray(torch.from_numpy(color).permute(2, 0, 1)[None])
    expected = np.asarray(Image.fromarray(color).convert("L")).astype(int)
    assert gray.shape == (1, 3, 9, 7) and np.abs(gray[0].numpy().astype(int) - expected).max() <= 1
