"""Batch samplers whose order is a pure function of (seed, epoch) and whose samples carry their random key."""

import itertools
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
from torch.utils.data import Sampler

from hfembed.errors import InputError

Key = tuple[int, ...]
"""(epoch, index) or (epoch, index, repetition): names one drawing of one sample, and seeds its augmentation."""


class _ShardedBatchSampler(Sampler[list[Key]]):
    """What both samplers share: epochs, resuming inside one, and each rank's part of a step.

    A step's batch is drawn for all ranks together and cut into equal, contiguous parts, so the union over R ranks
    of step t is what one rank with an R times larger batch sees at step t.
    """

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
        """Steps in a whole epoch, whatever `start_batch` is."""

    @abstractmethod
    def _batches_of_all_ranks(self) -> Iterator[list[Key]]: ...


class KeyedBatchSampler(_ShardedBatchSampler):
    """Every sample once an epoch, in an order that depends on (seed, epoch) alone.

    Args:
        num_samples: Size of the set.
        batch_size: Samples a step of this rank.
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
                "lower the batch size"
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


class IdentityBatchSampler(_ShardedBatchSampler):
    """Batches of P identities with K photos each, as pair and triplet losses need them.

    An epoch has as many steps as fill the number of photos. Identities come in rounds: each round goes through all
    identities in a new order, whole batches only, so that none comes twice in a batch. The photos of an identity
    come in a shuffled circle: K go by at each of its turns, all of them are seen before one comes again, and fewer
    than K photos repeat as evenly as can be. Identities with a single photo make no pair and are left out.

    Args:
        labels: Identity of each photo, (num_photos,) integers.
        identities_per_batch: P, on this rank.
        photos_per_identity: K.
        seed: Seed of the order.
        weighting: "uniform" draws identities equally often; "sqrt" in proportion to the root of their number of
            photos (without repetition inside a batch).
        rank: This process.
        world_size: Number of processes.

    Yields:
        Lists of (epoch, index, repetition) keys, the photos of an identity side by side. `repetition` counts the
        turns of the photo in this epoch: a photo that comes again is augmented anew.

    Raises:
        InputError: Fewer than P identities (over all ranks) with two photos.
    """

    def __init__(
        self,
        labels: Sequence[int] | np.ndarray,
        identities_per_batch: int,
        photos_per_identity: int,
        *,
        seed: int = 0,
        weighting: Literal["uniform", "sqrt"] = "uniform",
        rank: int = 0,
        world_size: int = 1,
    ):
        if photos_per_identity < 2:
            raise ValueError(f"photos_per_identity must be at least 2, not {photos_per_identity}")
        if weighting not in ("uniform", "sqrt"):
            raise ValueError(f'weighting must be "uniform" or "sqrt", not "{weighting}"')
        super().__init__(identities_per_batch * photos_per_identity, True, seed, rank, world_size)
        self.identities_per_batch = identities_per_batch
        self.photos_per_identity = photos_per_identity
        self.weighting = weighting
        labels = np.asarray(labels)
        by_label = np.argsort(labels, kind="stable")
        groups = np.split(by_label, np.flatnonzero(np.diff(labels[by_label])) + 1) if len(labels) else []
        self.photos = [group for group in groups if len(group) >= 2]
        self.num_single_photo_identities = len(groups) - len(self.photos)
        wanted = identities_per_batch * world_size
        if len(self.photos) < wanted:
            raise InputError(
                f"{len(self.photos)} identities with at least two photos do not fill a batch of {wanted} identities "
                "(all ranks together): lower identities_per_batch"
            )

    def __len__(self) -> int:
        return max(1, sum(len(group) for group in self.photos) // (self.batch_size * self.world_size))

    def _batches_of_all_ranks(self) -> Iterator[list[Key]]:
        generator = np.random.default_rng([self.seed, self.epoch])
        circles = [generator.permutation(group).tolist() for group in self.photos]
        position = [0] * len(circles)
        for identities in itertools.islice(self._identities_of_each_step(generator), len(self)):
            batch = []
            for identity in identities:
                circle = circles[identity]
                for turn in range(position[identity], position[identity] + self.photos_per_identity):
                    repetition, place = divmod(turn, len(circle))
                    batch.append((self.epoch, circle[place], repetition))
                position[identity] += self.photos_per_identity
            yield batch

    def _identities_of_each_step(self, generator: np.random.Generator) -> Iterator[list[int]]:
        count = self.identities_per_batch * self.world_size
        if self.weighting == "uniform":
            while True:
                order = generator.permutation(len(self.photos)).tolist()
                for start in range(0, len(order) - count + 1, count):
                    yield order[start : start + count]
        weights = np.sqrt([len(group) for group in self.photos])
        while True:
            # Efraimidis and Spirakis: the smallest exponential waiting times are a weighted draw without repetition
            yield np.argsort(generator.exponential(size=len(weights)) / weights, kind="stable")[:count].tolist()


class PersonBatchSampler(_ShardedBatchSampler):
    """Batches with equally many photos of everybody, on every rank, as models with a decoder a person need them.

    The photos of a person come in a shuffled circle: all of them are seen before one comes again. With few photos a
    pass over them is a step or two, so an epoch has a length of its own.

    Args:
        labels: Person of each photo, (num_photos,) integers.
        batch_size: Samples a step of this rank; a multiple of the number of people.
        num_batches: Steps of an epoch.
        seed: Seed of the order.
        rank: This process.
        world_size: Number of processes.

    Yields:
        Lists of (epoch, index, repetition) keys, one of everybody, then the next of everybody. `repetition` counts the
        turns of the photo in this epoch: a photo that comes again is augmented anew.

    Raises:
        InputError: The batch cannot have equally many photos of everybody.
    """

    def __init__(
        self,
        labels: Sequence[int] | np.ndarray,
        batch_size: int,
        num_batches: int,
        *,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ):
        super().__init__(batch_size, True, seed, rank, world_size)
        labels = np.asarray(labels)
        self.photos = [np.flatnonzero(labels == person) for person in np.unique(labels)]
        if not self.photos or batch_size % len(self.photos):
            raise InputError(
                f"a rank's part of a batch, {batch_size} photos, cannot have equally many of {len(self.photos)} "
                "people: choose a batch_size that divides"
            )
        self.num_batches = num_batches

    def __len__(self) -> int:
        return self.num_batches

    def _batches_of_all_ranks(self) -> Iterator[list[Key]]:
        generator = np.random.default_rng([self.seed, self.epoch])
        circles = [generator.permutation(group).tolist() for group in self.photos]
        turns = self.batch_size * self.world_size // len(self.photos)
        for step in range(self.num_batches):
            batch = []
            for turn in range(step * turns, (step + 1) * turns):
                for circle in circles:
                    repetition, place = divmod(turn, len(circle))
                    batch.append((self.epoch, circle[place], repetition))
            yield batch
