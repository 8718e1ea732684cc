"""What ranks make of each other's deltas."""

import numpy as np
import pytest
import torch

from hfembed.words.training.synchronization import FORGETTING, DeltaSynchronizer

NUM_RANKS, VOCAB_SIZE, SIZE = 2, 8, 3


def rows_of(synchronizer: DeltaSynchronizer) -> list[torch.Tensor]:
    return [matrix.rows for matrix in synchronizer.matrices]


def pairs_of(synchronizer: DeltaSynchronizer) -> list[torch.Tensor]:
    return [matrix.pairs for matrix in synchronizer.matrices]


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


def test_frequent_rows_are_synchronized_often_and_all_rows_seldom(synchronizer):
    rounds = (1, 2, 3, 4, 6, 8, 12, 16)
    assert [synchronizer.num_rows(number) for number in rounds] == [2, 4, 2, 8, 4, 8, 8, 8]


@pytest.fixture
def theirs(monkeypatch):
    """What the other rank sends: the same deltas in every round, there when they are waited for."""
    deltas = torch.randn(2, VOCAB_SIZE, SIZE)

    class Work:
        def __init__(self, sums):
            self.sums = sums.view(2, -1, SIZE)

        def wait(self):
            self.sums += deltas[:, : self.sums.shape[1]]

    monkeypatch.setattr(torch.distributed, "all_reduce", lambda sums, async_op: Work(sums))
    return deltas


def combined(share: torch.Tensor, deltas: torch.Tensor, other: torch.Tensor, pairs: torch.Tensor) -> torch.Tensor:
    """Deltas (n, D) by their share, but the ranks' mean in the direction that the other matrix's rows share."""
    direction = torch.nn.functional.normalize((pairs[:, None] * other).sum(0), dim=0)
    along = torch.outer(deltas @ direction, direction)
    return share * (deltas - along) + along / NUM_RANKS


def test_a_round_adds_deltas_and_leaves_other_rows_alone(synchronizer, theirs):
    mine = torch.randn(2, VOCAB_SIZE, SIZE)
    for matrix, delta in zip(rows_of(synchronizer), mine, strict=True):
        matrix += delta
    synchronizer.synchronize(num_words=1000, rate=0.05, num_rows=2)
    synchronizer.finish()
    everything = zip(rows_of(synchronizer), pairs_of(synchronizer), mine, theirs, strict=True)
    for matrix, pairs, own, other in everything:
        share = synchronizer.share(pairs * 1000 * 0.05)[:, None]
        torch.testing.assert_close(matrix[:2], (share * (own + other))[:2])
        torch.testing.assert_close(matrix[2:], own[2:])
        assert share[0] < 1
    # the rows that were left out count the words of both rounds; the others moved no further
    known = [(matrix.synchronized[:2].clone(), matrix.pairs[:2]) for matrix in synchronizer.matrices]
    synchronizer.synchronize(num_words=3000, rate=0.05, num_rows=VOCAB_SIZE)
    synchronizer.finish()
    everything = zip(rows_of(synchronizer), pairs_of(synchronizer), mine, theirs, known[::-1], strict=True)
    for matrix, pairs, own, other, opposite in everything:
        share = synchronizer.share(pairs * 4000 * 0.05)[:, None]
        torch.testing.assert_close(matrix[2:], combined(share, own + other, *opposite)[2:])


def test_ranks_that_all_go_one_way_do_not_overshoot(monkeypatch):
    """Rare rows get the sum of what the ranks learned; in the direction of all inputs each rank learned everything."""
    waiting = []

    class Work:
        def __init__(self, sums):
            self.sums, self.sent = sums, sums.clone()
            waiting.append(self)

        def wait(self):
            self.sums += sum(work.sent for work in waiting[-NUM_RANKS:] if work is not self)

    monkeypatch.setattr(torch.distributed, "all_reduce", lambda sums, async_op: Work(sums))
    torch.manual_seed(0)
    inputs, pairs = torch.randn(VOCAB_SIZE, SIZE) + 10 * torch.ones(SIZE), np.full(VOCAB_SIZE, 1e-9)
    ranks = [
        DeltaSynchronizer([inputs.clone(), torch.zeros(VOCAB_SIZE, SIZE)], [pairs, pairs], NUM_RANKS, VOCAB_SIZE)
        for _ in range(NUM_RANKS)
    ]

    def learn(outputs):  # towards products of 1 with every input
        for _ in range(3):
            outputs -= 0.8 / (SIZE * 100) * ((outputs @ inputs.T - 1) @ inputs) / VOCAB_SIZE

    for _ in range(30):
        for rank in ranks:
            learn(rank.matrices[1].rows)
        for rank in ranks:
            rank.finish()
        for rank in ranks:
            learn(rank.matrices[1].rows)
        for rank in ranks:
            rank.synchronize(1000, 0.05, VOCAB_SIZE)
    for rank in ranks:
        rank.finish()
    alone = torch.zeros(VOCAB_SIZE, SIZE)
    for _ in range(60):
        learn(alone)
    error = (ranks[0].matrices[1].rows @ inputs.T - 1).square().mean()
    assert error < 1.1 * (alone @ inputs.T - 1).square().mean()


def test_deltas_of_other_ranks_arrive_one_round_later_and_own_learning_continues(synchronizer, theirs):
    mine, meanwhile = torch.randn(2, VOCAB_SIZE, SIZE), torch.randn(2, VOCAB_SIZE, SIZE)
    for matrix, delta in zip(rows_of(synchronizer), mine, strict=True):
        matrix += delta
    synchronizer.synchronize(num_words=1000, rate=0.05, num_rows=VOCAB_SIZE)
    for matrix, own in zip(rows_of(synchronizer), mine, strict=True):
        torch.testing.assert_close(matrix, own)
    for matrix, delta in zip(rows_of(synchronizer), meanwhile, strict=True):
        matrix += delta
    synchronizer.synchronize(num_words=1000, rate=0.05, num_rows=VOCAB_SIZE)
    everything = zip(rows_of(synchronizer), pairs_of(synchronizer), mine, meanwhile, theirs, strict=True)
    for place, (matrix, pairs, own, later, other) in enumerate(everything):
        share = synchronizer.share(pairs * 1000 * 0.05)[:, None]
        torch.testing.assert_close(matrix, share * (own + other) + later)
        torch.testing.assert_close(synchronizer.sums[place], later)  # nothing is sent twice
    synchronizer.finish()
    for matrix in synchronizer.matrices:
        assert torch.equal(matrix.rows, matrix.synchronized)


def test_rows_that_words_share_go_with_words_touched_as_often(monkeypatch):
    # the table's rows are in no order: 2, 0, 3, 1 by how often they are touched
    table, words = torch.zeros(4, SIZE), torch.zeros(3, SIZE)
    pairs = [np.array([0.5, 0.0, 0.9, 0.2]), np.array([0.6, 0.3, 0.1])]
    synchronizer = DeltaSynchronizer([table, words], pairs, NUM_RANKS, smallest=1)
    theirs = torch.randn(4, SIZE)

    class Work:
        def __init__(self, sums):
            self.sums = sums

        def wait(self):  # of every row of the table, and nothing of the words
            number = sum(int(touched >= least) for touched in (0.9, 0.5, 0.2, 0.0))
            self.sums.view(-1, SIZE)[:number] += theirs[[2, 0, 3, 1]][:number]

    monkeypatch.setattr(torch.distributed, "all_reduce", lambda sums, async_op: Work(sums))
    mine, later = torch.randn(4, SIZE), torch.randn(4, SIZE)
    table += mine
    least = 0.6
    synchronizer.synchronize(num_words=1000, rate=0.05, num_rows=1)
    table += later
    synchronizer.finish()
    share = synchronizer.share(torch.tensor([0.9 * 50]))
    torch.testing.assert_close(table[2], share * (mine + theirs)[2] + later[2])
    torch.testing.assert_close(table[[0, 1, 3]], (mine + later)[[0, 1, 3]])
    least = 0.3
    synchronizer.synchronize(num_words=1000, rate=0.05, num_rows=2)
    synchronizer.finish()
    share = synchronizer.share(torch.tensor([0.5 * 100]))
    torch.testing.assert_close(table[0], share * (mine + later + theirs)[0])
    torch.testing.assert_close(table[[1, 3]], (mine + later)[[1, 3]])
    least = 0.0
    synchronizer.synchronize(num_words=1000, rate=0.05, num_rows=3)
    synchronizer.finish()
    assert torch.equal(table[synchronizer.matrices[0].order], synchronizer.matrices[0].synchronized)
