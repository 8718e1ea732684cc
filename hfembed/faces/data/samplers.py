"""Batches with several photos of each person, as pair and triplet losses and per-person decoders need them."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

from hfembed.errors import InputError
from hfembed.training.samplers import Key, ShardedBatchSampler


class IdentityBatchSampler(ShardedBatchSampler):
    """Batches of P identities with K photos each, as pair and triplet losses need them.

    An epoch has as many steps as fill the number of photos. Identities come in rounds: each round goes through all
    identities in a new order, full batches only, so that none comes twice in a batch. The photos of an identity
    come in a shuffled circle: K go by at each of its turns, all of them are seen before one comes again, and fewer
    than K photos repeat as evenly as can be. Identities with a single photo make no pair and are left out.

    Args:
        labels: Identity of each photo, (num_photos,) integers.
        weighting: "uniform" draws identities equally often; "sqrt" in proportion to the root of their number of
            photos (without repetition inside a batch).

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
            batch: list[Key] = []
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


class PersonBatchSampler(ShardedBatchSampler):
    """Batches with equally many photos of everybody, on every rank, as models with one decoder per person need them.

    The photos of a person come in a shuffled circle: all of them are seen before one comes again. With few photos a
    pass over them is a step or two, so an epoch has a length of its own.

    Args:
        labels: Person of each photo, (num_photos,) integers.

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
            batch: list[Key] = []
            for turn in range(step * turns, (step + 1) * turns):
                for circle in circles:
                    repetition, place = divmod(turn, len(circle))
                    batch.append((self.epoch, circle[place], repetition))
            yield batch
