"""Similar-image search: how often the nearest other photo shows the same person."""

import numpy as np
import pytest
import torch

from hfembed.errors import InputError
from scripts.compare_image_embeddings import same_person_at_1


def test_it_is_the_brute_force_loop():
    generator = torch.Generator().manual_seed(0)
    people = [f"p{number}" for number in torch.randint(0, 25, (80,), generator=generator).tolist()]
    centers = {name: torch.randn(6, generator=generator) for name in sorted(set(people))}
    vectors = torch.stack([centers[name] for name in people]) + 0.9 * torch.randn(80, 6, generator=generator)
    unit = (vectors / vectors.norm(dim=1, keepdim=True)).numpy()
    right, asked = 0, 0
    for i, name in enumerate(people):
        if people.count(name) > 1:
            similarity = unit @ unit[i]
            similarity[i] = -2
            right += people[int(np.argmax(similarity))] == name
            asked += 1
    assert 20 < 100 * right / asked < 95
    assert same_person_at_1(vectors, people) == pytest.approx(100 * right / asked)


def test_duplicates_find_each_other_and_loners_are_not_asked():
    vectors = torch.tensor([[1.0, 0], [1.0, 0], [0.6, 0.8]])
    assert same_person_at_1(vectors, ["a", "a", "b"]) == 100
    vectors[1, 1] = 0.01
    assert same_person_at_1(vectors, ["a", "b", "a"]) == 0
    with pytest.raises(InputError, match="two photos"):
        same_person_at_1(vectors, ["a", "b", "c"])
