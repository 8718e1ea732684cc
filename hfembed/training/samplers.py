"""Batch samplers whose order is a pure function of (seed, epoch) and whose samples carry their random key."""

import itertools
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from torch.utils.data import Sampler

from hfembed.errors import InputError

Key = tuple[int, ...]
"""(epoch, index) or (epoch, index, repetition): names one drawing of one sample, and seeds its augmentation."""


class ShardedBatchSampler(Sampler[list[Key]]):
    """Base of the keyed samplers: epochs, resuming inside one, and each rank's part of a step.

    A step's batch is drawn for all ranks together and cut into equal, contiguous parts, so the union over R ranks
    of step t is what one rank with an R times larger batch sees at step t.
    """

    # what a resumed run must have in common with the earlier one, besides its recipe
    identity: Mapping[str, Any] = {}  # noqa: RUF012

    def __init__(self, batch_size: int, drop_last: bool, seed: int, rank: int, world_size: int):
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must lie in [0, world_size), not {rank} of {world_size}")
        self.batch_size = batch_size
        self.drop_last = drop_last
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        self.start_batch = 0

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None:
        """Choose the epoch the next iteration draws.

        Args:
            epoch: Number of the epoch, from 0.
            start_batch: Batches to leave out at its start, without drawing their data: the place to resume at.
        """
        self.epoch = epoch
        self.start_batch = start_batch

    def __iter__(self) -> Iterator[list[Key]]:
        first = self.rank * self.batch_size
        for batch in itertools.islice(self._batches_of_all_ranks(), self.start_batch, None):
            yield batch[first : first + self.batch_size]

    @abstractmethod
    def __len__(self) -> int:
        """Steps in a full epoch, whatever `start_batch` is."""

    @abstractmethod
    def _batches_of_all_ranks(self) -> Iterator[list[Key]]: ...


class KeyedBatchSampler(ShardedBatchSampler):
    """Every sample once per epoch, in an order that depends on (seed, epoch) alone.

    Args:
        num_samples: Size of the set.
        batch_size: Samples per step of this rank.
        seed: Seed of the order.
        shuffle: False keeps the order of the set.
        drop_last: Leave out the last, smaller batch. With more than one rank it must be, or ranks would disagree.
        rank: This process.
        world_size: Number of processes.

    Yields:
        Lists of (epoch, index) keys.

    Raises:
        InputError: The set is smaller than one batch of all ranks.
    """

    def __init__(
        self,
        num_samples: int,
        batch_size: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        drop_last: bool = True,
        rank: int = 0,
        world_size: int = 1,
    ):
        super().__init__(batch_size, drop_last, seed, rank, world_size)
        if world_size > 1 and not drop_last:
            raise ValueError("drop_last=False is possible with one rank only: the last batch cannot be shared equally")
        if drop_last and num_samples < batch_size * world_size:
            raise InputError(
                f"{num_samples} samples do not fill one batch of {batch_size * world_size} (all ranks together): "
                "lower the batch size (--batch_size)"
            )
        self.num_samples = num_samples
        self.shuffle = shuffle

    def __len__(self) -> int:
        whole, rest = divmod(self.num_samples, self.batch_size * self.world_size)
        return whole if self.drop_last or rest == 0 else whole + 1

    def _batches_of_all_ranks(self) -> Iterator[list[Key]]:
        order = np.arange(self.num_samples)
        if self.shuffle:
            np.random.default_rng([self.seed, self.epoch]).shuffle(order)
        size = self.batch_size * self.world_size
        for step in range(len(self)):
            yield [(self.epoch, index) for index in order[step * size : (step + 1) * size].tolist()]
