"""Photos of people in the order of their shards: decoded and aligned as they come, none of them looked up.

The photos of an epoch lie on a ring: the shards in an order, and from a place on, that depend on (seed, epoch). Every
lane (a worker process of a rank) has an equal arc of it, reads that arc once, in order, and draws its samples from a
buffer of photos that it has read but not used. Which photo comes when is a function of (seed, epoch, lane) alone: a
resumed run goes on in the middle of an epoch and decodes nothing twice.

What lies on the ring are groups: single photos, or K photos of one person for batches of P people with K photos each.
"""

import hashlib
import itertools
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import datasets
import numpy as np
import torch
from datasets.distributed import split_dataset_by_node

from hfembed.errors import InputError
from hfembed.faces.data.aligned_faces import Cropper
from hfembed.faces.data.shard_readers import FaceShards, StoredPhoto
from hfembed.training.keyed_randomness import keyed_generator
from hfembed.training.samplers import Key, ShardedBatchSampler

if TYPE_CHECKING:
    from hfembed.models.face_embedder.image_processing_face_embedder import FaceImageProcessor

logger = logging.getLogger(__name__)

_TRIES = 1000
_DRAWS = 65536


class Lane(NamedTuple):
    """What one worker process of one rank reads of an epoch.

    Attributes:
        number: Among the lanes of all ranks.
        of: Lanes of all ranks.
        first: Its first group on the ring.
        size: Its groups.
    """

    number: int
    of: int
    first: int
    size: int


class Drawn(NamedTuple):
    """A photo of a group.

    Attributes:
        number: Keys its augmentation.
        turn: How often it came before in the epoch; smaller than the group.
        photo: The photo.
    """

    number: int
    turn: int
    photo: StoredPhoto


class PhotoSource(Protocol):
    """Where a stream's photos come from.

    Attributes:
        people: Names, in the order of the labels.
        num_photos: None where nobody has counted them.
        num_groups: Groups in an epoch; None where nobody has counted them.
        group_size: Photos in each group.
        fingerprint: Changes when the photos do.
    """

    people: Sequence[str]
    num_photos: int | None
    num_groups: int | None
    group_size: int
    fingerprint: str

    def groups(self, epoch: int, lane: Lane, skip: int) -> Iterator[Sequence[Drawn]]:
        """The groups of a lane from its `skip`-th on.

        After the lane's `size` a thousand more follow, to take the place of some that cannot be decoded.
        """


class ShardRing:
    """Shards that are known in advance.

    With `photos_per_identity`, people are grouped inside of each shard: the photos of a person come in a shuffled
    circle, K at each turn until all were seen; fewer than K are filled up with the same ones again. A photo that is
    the only one of its person in its shard makes no pair and is left out.

    Args:
        shards: The source.
        seed: Of the run.
        buffer: Photos of which a lane draws the next.
        photos_per_identity: K; 0 for photos one by one.

    Raises:
        InputError: There are no photos.
    """

    def __init__(self, shards: FaceShards, seed: int, buffer: int, photos_per_identity: int = 0) -> None:
        self.shards, self.seed, self.group_size = shards, seed, max(1, photos_per_identity)
        self.buffer = max(1, buffer // self.group_size)
        self.labels = shards.group_people() if photos_per_identity else None
        self.people = shards.people
        self._first = np.concatenate([[0], np.cumsum(shards.counts)])
        self.counts = shards.counts
        self.num_photos: int | None = int(self._first[-1])
        if not self.num_photos:
            raise InputError("the shards hold no photos")
        if self.labels is not None:
            sizes = [_person_sizes(self._labels(shard)) for shard in range(len(shards.counts))]
            self.counts = np.array([int((-(-size // self.group_size)).sum()) for size in sizes], dtype=np.int64)
            grouped = int(sum(size.sum() for size in sizes))
            if grouped < self.num_photos:
                logger.warning(
                    "%s of %s photos are the only one of their person in their shard, and left out: hfembed "
                    "convert-dataset --by-person keeps the photos of a person together",
                    f"{self.num_photos - grouped:,}",
                    f"{self.num_photos:,}",
                )
            self.num_photos = grouped
        self.num_groups: int | None = int(self.counts.sum())
        digest = hashlib.sha256("\n".join(shards.facts).encode(errors="surrogateescape")).hexdigest()[:16]
        self.fingerprint = f"{self._first[-1]} photos of {len(self.people)} people in shards, sha256 {digest}"

    def groups(self, epoch: int, lane: Lane, skip: int) -> Iterator[Sequence[Drawn]]:
        """As `PhotoSource.groups`; a photo's number is that in the unshuffled source."""
        buffer = _Buffer(lane.size, self.buffer, keyed_generator(self.seed, (epoch, lane.first), stream=5))
        for _ in range(skip):
            buffer.pop()
        waiting = sorted(buffer.places)
        arc = self._arc(epoch, lane.first, itertools.chain(waiting, range(buffer.entering, lane.size + _TRIES)))
        held = {place: next(arc) for place in waiting}
        for _ in range(skip, lane.size):
            if buffer.entering < lane.size:
                held[buffer.entering] = next(arc)
            yield held.pop(buffer.pop())
        yield from arc

    def _arc(self, epoch: int, first: int, places: Iterator[int]) -> Iterator[Sequence[Drawn]]:
        """The groups at places of the ring, counted from `first`; the places rise."""
        generator = np.random.default_rng([self.seed, epoch])
        order = generator.permutation(len(self.counts))
        edges = np.concatenate([[0], np.cumsum(self.counts[order])])
        start = first + int(generator.integers(edges[-1]))
        on_ring = (divmod(start + place, int(edges[-1])) for place in places)
        in_shards = ((lap, int(np.searchsorted(edges, place, side="right")) - 1, place) for lap, place in on_ring)
        for (_, number), found in itertools.groupby(in_shards, key=lambda found: found[:2]):
            shard, edge = int(order[number]), int(edges[number])
            wanted = (place - edge for _, _, place in found)
            if self.labels is not None:
                yield from self._read_groups(epoch, shard, list(wanted))
            else:
                for photo in self.shards.read(shard, wanted):
                    yield [Drawn(int(self._first[shard]) + photo.place, 0, photo)]

    def _read_groups(self, epoch: int, shard: int, wanted: list[int]) -> Iterator[Sequence[Drawn]]:
        """Groups of a shard, whose numbers rise; a photo is kept until the last group that it is in."""
        places, turns = _group_people(
            self._labels(shard), self.group_size, np.random.default_rng([self.seed, epoch, shard])
        )
        places, turns = places[wanted], turns[wanted]
        uses = Counter(places.ravel().tolist())
        photos = self.shards.read(shard, np.unique(places).tolist())
        held: dict[int, StoredPhoto] = {}
        for members, of_members in zip(places.tolist(), turns.tolist(), strict=True):
            while not held.keys() >= set(members):
                photo = next(photos)
                held[photo.place] = photo
            first = int(self._first[shard])
            yield [Drawn(first + place, turn, held[place]) for place, turn in zip(members, of_members, strict=True)]
            for place in members:
                uses[place] -= 1
                if not uses[place]:
                    del held[place]

    def _labels(self, shard: int) -> np.ndarray:
        assert self.labels is not None
        return self.labels[self._first[shard] : self._first[shard + 1]]


def _person_sizes(labels: np.ndarray) -> np.ndarray:
    """How many photos each person has, of those who have two or more."""
    sizes = np.unique(labels, return_counts=True)[1]
    return sizes[sizes > 1]


def _group_people(labels: np.ndarray, size: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Places of the photos of each group and their turns, (num_groups, size) each, by the last place of each group."""
    by_label = np.argsort(labels, kind="stable")
    found = []
    for person in np.split(by_label, np.flatnonzero(np.diff(labels[by_label])) + 1):
        if len(person) > 1:
            drawn = np.arange(-(-len(person) // size) * size).reshape(-1, size)
            found.append((generator.permutation(person)[drawn % len(person)], drawn // len(person)))
    places, turns = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
    order = np.argsort(places.max(axis=1), kind="stable")
    return places[order], turns[order]


class _Buffer:
    """A shuffle of 0 to count - 1 in which a place comes at most `size` places earlier than it stands.

    Attributes:
        places: Those of which the next is drawn.
        entering: The place that follows them.
    """

    def __init__(self, count: int, size: int, generator: np.random.Generator) -> None:
        self.count = count
        self.places = list(range(min(size, count)))
        self.entering = len(self.places)
        self._draws = _uniform(generator)

    def pop(self) -> int:
        """Draw one; the entering one takes its place."""
        slot = int(next(self._draws) * len(self.places))
        place = self.places[slot]
        if self.entering < self.count:
            self.places[slot] = self.entering
            self.entering += 1
        else:
            self.places[slot] = self.places[-1]
            self.places.pop()
        return place


def _uniform(generator: np.random.Generator) -> Iterator[float]:
    while True:
        yield from generator.random(_DRAWS).tolist()


class IterablePhotos:
    """A `datasets.IterableDataset` in the schema of `load_faces`: not counted, it begins again at its end.

    Args:
        dataset: Columns `image`, `label` (numbers) and `landmarks`.
        people: Names, in the order of the labels.
        seed: Of the run.
        buffer: Photos of which a lane draws the next.
    """

    num_photos: int | None = None
    num_groups: int | None = None
    group_size = 1

    def __init__(self, dataset: datasets.IterableDataset, people: Sequence[str], seed: int, buffer: int) -> None:
        self.dataset = dataset.shuffle(seed=seed, buffer_size=buffer)
        self.people = people
        self.fingerprint = f"a stream of {len(people)} people"

    def groups(self, epoch: int, lane: Lane, skip: int) -> Iterator[Sequence[Drawn]]:
        """As `PhotoSource.groups`; the number is a hash of the photo."""
        dataset = split_dataset_by_node(self.dataset, rank=lane.number, world_size=lane.of)
        dataset.set_epoch(epoch)
        place = 0
        while True:
            began = place
            for batch in dataset.iter(1):  # as `iter(dataset)`, which would split the shards among workers once more
                if place >= skip:
                    yield [self._photo(place, {name: values[0] for name, values in batch.items()})]
                place += 1
            if place == began:
                raise InputError(f"the stream has no photos for rank and worker {lane.number} of {lane.of}")

    def _photo(self, place: int, row: Mapping[str, Any]) -> Drawn:
        image, label, name = row["image"], row["label"], row["file"]
        if not isinstance(label, int) or not 0 <= label < len(self.people):
            raise InputError(
                f"{name} of the stream has label {label}; expected a number from 0 to {len(self.people) - 1:,}: "
                "num_people says how many people there are"
            )
        content = (image["bytes"] or image["path"].encode()) if isinstance(image, Mapping) else image.tobytes()
        number = int.from_bytes(hashlib.sha256(content).digest()[:7], "little")
        return Drawn(number, 0, StoredPhoto(place, image, label, row["landmarks"], name))


class FaceStream(torch.utils.data.Dataset):
    """Samples of a source by the batches that `StreamBatchSampler` names, each lane's in its order.

    A photo that cannot be decoded is replaced by another one of its group, and a group of which none can by the next
    of its lane, with its label; a warning names it.

    Args:
        source: The photos.
        processor: Aligns them.
        margin: Pixels kept around the crops.
        sampler: Says how the batches are shared out.
    """

    def __init__(
        self, source: PhotoSource, processor: "FaceImageProcessor", margin: int, sampler: "StreamBatchSampler"
    ) -> None:
        self.source, self.crop, self.sampler = source, Cropper(processor, margin), sampler
        self._samples: Iterator[dict[str, Any]] = iter(())
        self._following: tuple[int, int] | None = None

    def __getitems__(self, keys: Sequence[Key]) -> list[dict[str, Any]]:
        """The samples of a batch, as `AlignedFaces` gives them; quick where it follows the last one of its lane.

        Raises:
            InputError: A shard is damaged, or none of a thousand photos in a row can be decoded.
        """
        epoch, number = keys[0][:2]
        if self._following != (epoch, number):
            lane, skip = self.sampler.lane(number)
            self._samples = self._decode(epoch, self.source.groups(epoch, lane, skip))
        self._following = epoch, number + self.sampler.lanes
        return list(itertools.islice(self._samples, len(keys)))

    def _decode(self, epoch: int, groups: Iterator[Sequence[Drawn]]) -> Iterator[dict[str, Any]]:
        broken = 0  # groups before this one of which no photo can be used
        for group in groups:
            usable = []
            for number, turn, photo in group:
                try:
                    crop = self.crop(photo.image, photo.landmarks)
                except ValueError as error:
                    logger.warning("%s: %s; the next photo takes its place", photo.name, error)
                    reason = error
                    continue
                usable.append((number, turn, photo, torch.from_numpy(np.ascontiguousarray(crop.transpose(2, 0, 1)))))
            if not usable:
                broken += 1
                if broken * len(group) >= _TRIES:
                    raise InputError(f"{_TRIES} photos up to {photo.name} cannot be used: {reason}") from reason
                continue
            size = len(group)
            for copy in range(broken, -1, -1):
                for place in range(size):
                    again, row = divmod(place, len(usable))
                    number, turn, photo, pixels = usable[row]
                    repetition = turn + size * (again + size * copy)  # turn and again are below size
                    yield {"pixels": pixels, "label": photo.label, "key": (epoch, number, repetition)}
            broken = 0


class StreamBatchSampler(ShardedBatchSampler):
    """Names the batches of an epoch: what is in them is known to the lane that reads them.

    Batch b of a rank belongs to its lane b % lanes; with as many worker processes as lanes, the batches of a lane are
    then made by one process, in order.

    Args:
        num_groups: In an epoch; None with `num_batches`.
        batch_size: Samples per batch of this rank.
        num_batches: Batches per epoch, where nobody has counted the photos.
        lanes: Worker processes of each rank, at least 1.
        group_size: Samples per group, of which a batch has whole ones.

    Yields:
        Lists of (epoch, batch, sample).

    Raises:
        InputError: The photos do not fill one batch.
    """

    def __init__(
        self,
        num_groups: int | None,
        batch_size: int,
        *,
        num_batches: int = 0,
        lanes: int = 1,
        group_size: int = 1,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ):
        super().__init__(batch_size, True, seed, rank, world_size)
        self.groups_per_batch, rest = divmod(batch_size, group_size)
        if rest:
            raise InputError(
                f"a rank's part of a batch, {batch_size} photos, is not a multiple of photos_per_identity "
                f"{group_size}: choose another batch_size"
            )
        wanted = self.groups_per_batch * world_size
        if num_groups is not None and num_groups < wanted:
            what = "photos" if group_size == 1 else f"groups of {group_size} photos of a person"
            raise InputError(
                f"{num_groups} {what} do not fill one batch of {wanted} (all ranks together): lower the batch size "
                "(--batch_size)"
            )
        self.lanes = lanes
        self.num_batches = num_batches if num_groups is None else num_groups // wanted
        # another number of any of these gives every lane other photos
        self.identity = {"stream": f"{world_size} ranks with {lanes} workers and batches of {batch_size} photos"}

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[list[Key]]:
        for number in range(self.start_batch, self.num_batches):
            yield [(self.epoch, number, sample) for sample in range(self.batch_size)]

    def _batches_of_all_ranks(self) -> Iterator[list[Key]]:
        raise NotImplementedError("a rank knows its own batches alone")

    def lane(self, number: int) -> tuple[Lane, int]:
        """The lane that makes a batch of this rank, and the lane's groups before it."""
        lane = number % self.lanes
        batches = [len(range(other, self.num_batches, self.lanes)) for other in range(self.lanes)]
        first = (self.rank * self.num_batches + sum(batches[:lane])) * self.groups_per_batch
        found = Lane(
            self.rank * self.lanes + lane, self.world_size * self.lanes, first, batches[lane] * self.groups_per_batch
        )
        return found, number // self.lanes * self.groups_per_batch
