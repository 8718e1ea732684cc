import numpy as np
import pytest

from hfembed.errors import InputError
from hfembed.faces.data.samplers import IdentityBatchSampler, PersonBatchSampler
from hfembed.training.samplers import KeyedBatchSampler

LABELS = np.repeat(np.arange(12), [1, 2, 3, 4, 5, 6, 7, 8, 2, 2, 30, 1])


def steps(sampler, epoch=0, start_batch=0):
    sampler.set_epoch(epoch, start_batch)
    return list(sampler)


def make(kind, size, **kwargs):
    if kind == "keyed":
        return KeyedBatchSampler(103, size * 3, **kwargs)
    return IdentityBatchSampler(LABELS, size, 3, weighting=kind, **kwargs)


def test_every_sample_comes_once_an_epoch():
    sampler = KeyedBatchSampler(10, 4, drop_last=False)
    batches = steps(sampler, epoch=3)
    assert [len(batch) for batch in batches] == [4, 4, 2] and len(sampler) == 3
    assert sorted(index for batch in batches for _, index in batch) == list(range(10))
    assert {epoch for batch in batches for epoch, _ in batch} == {3}


@pytest.mark.parametrize("kind", ["keyed", "uniform", "sqrt"])
def test_order_depends_on_seed_and_epoch_alone(kind):
    assert steps(make(kind, 2, seed=5), epoch=2) == steps(make(kind, 2, seed=5), epoch=2)
    indices = [
        [key[1] for batch in steps(make(kind, 2, seed=s), epoch=e) for key in batch]
        for s, e in [(5, 2), (5, 3), (6, 2)]
    ]
    assert indices[0] != indices[1] and indices[0] != indices[2]


@pytest.mark.parametrize("kind", ["keyed", "uniform", "sqrt"])
def test_ranks_share_the_batch_of_one_rank(kind):
    whole = steps(make(kind, 4, seed=1), epoch=1)
    ranks = [steps(make(kind, 2, seed=1, rank=rank, world_size=2), epoch=1) for rank in range(2)]
    assert len(make(kind, 4)) == len(make(kind, 2, world_size=2)) == len(whole)
    assert [a + b for a, b in zip(*ranks, strict=True)] == whole


@pytest.mark.parametrize("kind", ["keyed", "uniform", "sqrt"])
def test_resuming_inside_an_epoch_continues_it(kind):
    assert steps(make(kind, 2), epoch=4, start_batch=3) == steps(make(kind, 2), epoch=4)[3:]
    sampler = make(kind, 2)
    steps(sampler, epoch=0, start_batch=3)
    assert len(steps(sampler, epoch=1)) == len(sampler), "the next epoch starts at its beginning"


@pytest.mark.parametrize("weighting", ["uniform", "sqrt"])
def test_batches_hold_p_identities_with_k_photos(weighting):
    sampler = IdentityBatchSampler(LABELS, 4, 3, weighting=weighting)
    assert sampler.num_single_photo_identities == 2
    for epoch in range(5):
        for batch in steps(sampler, epoch):
            groups = [batch[start : start + 3] for start in range(0, 12, 3)]
            identities = [{int(LABELS[index]) for _, index, _ in group} for group in groups]
            assert all(len(labels) == 1 for labels in identities)
            assert len(set.union(*identities)) == 4
            assert len(set(batch)) == len(batch), "no key twice: a repeated photo is augmented anew"
            for group, labels in zip(groups, identities, strict=True):
                photos = np.count_nonzero(LABELS == labels.pop())
                assert len({index for _, index, _ in group}) == min(photos, 3)


def test_all_photos_of_an_identity_come_before_one_comes_again():
    sampler = IdentityBatchSampler(np.repeat([0, 1], 9), 2, 3)
    batches = steps(sampler)
    assert len(batches) == 3
    assert sorted(index for batch in batches for _, index, _ in batch) == list(range(18))


def test_large_identities_come_more_often_when_weighted():
    sampler = IdentityBatchSampler(np.repeat([0, 1, 2], [100, 4, 4]), 1, 2, weighting="sqrt")
    drawn = [LABELS_ for epoch in range(20) for batch in steps(sampler, epoch) for LABELS_ in [batch[0][1] < 100]]
    assert np.mean(drawn) == pytest.approx(10 / 14, abs=0.05)


def test_too_small_a_set_is_refused_in_one_line():
    with pytest.raises(InputError, match="lower the batch size"):
        KeyedBatchSampler(7, 4, world_size=2)
    with pytest.raises(InputError, match="10 identities with at least two photos do not fill a batch of 12"):
        IdentityBatchSampler(LABELS, 6, 2, world_size=2)
    with pytest.raises(ValueError, match="drop_last"):
        KeyedBatchSampler(8, 4, world_size=2, drop_last=False)


def test_everybody_has_equally_many_photos_in_every_batch_of_every_rank():
    labels = np.repeat([0, 1, 2], [5, 2, 9])
    whole = steps(PersonBatchSampler(labels, 12, 7, seed=3), epoch=2)
    ranks = [steps(PersonBatchSampler(labels, 6, 7, seed=3, rank=rank, world_size=2), epoch=2) for rank in range(2)]
    assert [a + b for a, b in zip(*ranks, strict=True)] == whole and len(whole) == 7
    for batch in [*ranks[0], *ranks[1]]:
        assert [labels[index] for _, index, _ in batch] == [0, 1, 2] * 2
    drawn = [key for batch in whole for key in batch]
    assert len(set(drawn)) == len(drawn) == 84, "a photo that comes again has another key"
    first_round = [index for _, index, _ in drawn if labels[index] == 2][:9]
    assert sorted(first_round) == list(range(7, 16)), "all are seen before one comes again"
    assert steps(PersonBatchSampler(labels, 12, 7, seed=3), epoch=2, start_batch=4) == whole[4:]
    assert steps(PersonBatchSampler(labels, 12, 7, seed=3), epoch=3) != whole


def test_a_batch_that_cannot_hold_everybody_equally_is_refused():
    with pytest.raises(InputError, match="8 photos.*3 people"):
        PersonBatchSampler([0, 1, 2], 8, 1)
