"""What ranks make of each other's deltas."""

import numpy as np
import pytest
import torch

from hfembed.training.word2vec.synchronisation import FORGETTING, DeltaSynchronizer

NUM_RANKS, VOCAB_SIZE, SIZE = 2, 8, 3


@pytest.fixture
def synchronizer():
    rows = [torch.zeros(VOCAB_SIZE, SIZE), torch.zeros(VOCAB_SIZE, SIZE)]
    pairs_per_word = [np.logspace(-1, -8, VOCAB_SIZE), np.logspace(-2, -9, VOCAB_SIZE)]
    return DeltaSynchronizer(rows, pairs_per_word, NUM_RANKS, smallest=2)


def test_the_sum_goes_as_far_as_ranks_one_after_the_other(synchronizer):
    # every pair takes a row the same part of its way to the goal, 1; each rank makes half of the pairs
    weights = np.array([0.0, 1e-20, 1e-9, 1e-3, 1.0, 30.0, 300.0, 1e5])
    alone = 1 - np.exp(-weights / FORGETTING / NUM_RANKS)
    in_turn = 1 - np.exp(-weights / FORGETTING)
    shares = synchronizer.share(torch.from_numpy(weights)).numpy()
    np.testing.assert_allclose(shares * NUM_RANKS * alone, in_turn, rtol=1e-6)
    assert shares[:2] == pytest.approx(1)
    assert shares[2] == pytest.approx(1) and shares[-1] == pytest.approx(1 / NUM_RANKS)


def test_frequent_rows_meet_often_and_all_rows_seldom(synchronizer):
    assert [synchronizer.num_rows(meeting) for meeting in range(1, 9)] == [2, 4, 2, 8, 2, 4, 2, 8]


def test_a_meeting_adds_up_and_leaves_other_rows_alone(synchronizer, monkeypatch):
    mine, theirs = torch.randn(VOCAB_SIZE, SIZE), torch.randn(VOCAB_SIZE, SIZE)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda deltas: deltas.add_(theirs[: len(deltas)]))
    for matrix in synchronizer.rows:
        matrix += mine
    synchronizer.synchronize(num_words=1000, rate=0.05, num_rows=2)
    for matrix, pairs in zip(synchronizer.rows, synchronizer.pairs_per_word, strict=True):
        share = synchronizer.share(pairs * 1000 * 0.05)[:, None]
        torch.testing.assert_close(matrix[:2], (share * (mine + theirs))[:2])
        torch.testing.assert_close(matrix[2:], mine[2:])
        assert share[0] < 1
    # the rows that were left out count the words of both meetings; the others moved no further
    synchronizer.synchronize(num_words=3000, rate=0.05, num_rows=VOCAB_SIZE)
    for matrix, pairs in zip(synchronizer.rows, synchronizer.pairs_per_word, strict=True):
        share = synchronizer.share(pairs * 4000 * 0.05)[:, None]
        torch.testing.assert_close(matrix[2:], (share * (mine + theirs))[2:])
