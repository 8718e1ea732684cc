"""Photos of people in the order of their shards: decoded and aligned as they come, none of them looked up.

The photos of an epoch lie on a ring: the shards in an order, and from a place on, that depend on (seed, epoch). Every
lane (a worker process of a rank) has an equal arc of it, reads that arc once, in order, and draws its samples from a
buffer of photos that it has read but not used. Which photo comes when is a function of (seed, epoch, lane) alone: a
resumed run goes on in the middle of an epoch and decodes nothing twice.
"""

import hashlib
import itertools
import logging
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
        first: Its first photo on the ring.
        size: Its photos.
    """

    number: int
    of: int
    first: int
    size: int


class PhotoSource(Protocol):
    """Where a stream's photos come from.

    Attributes:
        people: Names, in the order of the labels.
        num_photos: None where nobody has counted them.
        fingerprint: Changes when the photos do.
    """

    people: Sequence[str]
    num_photos: int | None
    fingerprint: str

    def photos(self, epoch: int, lane: Lane, skip: int) -> Iterator[tuple[int, StoredPhoto]]:
        """The photos of a lane from its `skip`-th on, each with the number that keys its augmentation.

        After the lane's `size` a thousand more follow, to take the place of some that cannot be decoded.
        """


class ShardRing:
    """Shards that are known in advance.

    Args:
        shards: The source.
        seed: Of the run.
        buffer: Photos of which a lane draws the next.

    Raises:
        InputError: There are no photos.
    """

    def __init__(self, shards: FaceShards, seed: int, buffer: int) -> None:
        self.shards, self.seed, self.buffer = shards, seed, buffer
        self.num_photos: int | None = int(shards.counts.sum())
        self.people = shards.people
        if not self.num_photos:
            raise InputError("the shards hold no photos")
        digest = hashlib.sha256("\n".join(shards.facts).encode(errors="surrogateescape")).hexdigest()[:16]
        self.fingerprint = f"{self.num_photos} photos of {len(self.people)} people in shards, sha256 {digest}"
        self._first = np.concatenate([[0], np.cumsum(shards.counts)])

    def photos(self, epoch: int, lane: Lane, skip: int) -> Iterator[tuple[int, StoredPhoto]]:
        """As `PhotoSource.photos`; the number is that of the photo in the unshuffled source."""
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

    def _arc(self, epoch: int, first: int, places: Iterator[int]) -> Iterator[tuple[int, StoredPhoto]]:
        """The photos at places of the ring, counted from `first`; the places rise."""
        counts = self.shards.counts
        generator = np.random.default_rng([self.seed, epoch])
        order = generator.permutation(len(counts))
        edges = np.concatenate([[0], np.cumsum(counts[order])])
        start = first + int(generator.integers(edges[-1]))
        on_ring = (divmod(start + place, int(edges[-1])) for place in places)
        in_shards = ((lap, int(np.searchsorted(edges, place, side="right")) - 1, place) for lap, place in on_ring)
        for (_, number), group in itertools.groupby(in_shards, key=lambda found: found[:2]):
            shard, edge = int(order[number]), int(edges[number])
            for photo in self.shards.read(shard, (place - edge for _, _, place in group)):
                yield int(self._first[shard]) + photo.place, photo


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

    def __init__(self, dataset: datasets.IterableDataset, people: Sequence[str], seed: int, buffer: int) -> None:
        self.dataset = dataset.shuffle(seed=seed, buffer_size=buffer)
        self.people = people
        self.fingerprint = f"a stream of {len(people)} people"

    def photos(self, epoch: int, lane: Lane, skip: int) -> Iterator[tuple[int, StoredPhoto]]:
        """As `PhotoSource.photos`; the number is a hash of the photo."""
        dataset = split_dataset_by_node(self.dataset, rank=lane.number, world_size=lane.of)
        dataset.set_epoch(epoch)
        place = 0
        while True:
            began = place
            for batch in dataset.iter(1):  # as `iter(dataset)`, which would split the shards among workers once more
                if place >= skip:
                    yield self._photo(place, {name: values[0] for name, values in batch.items()})
                place += 1
            if place == began:
                raise InputError(f"the stream has no photos for rank and worker {lane.number} of {lane.of}")

    def _photo(self, place: int, row: Mapping[str, Any]) -> tuple[int, StoredPhoto]:
        image, label, name = row["image"], row["label"], row["file"]
        if not isinstance(label, int) or not 0 <= label < len(self.people):
            raise InputError(
                f"{name} of the stream has label {label}; expected a number from 0 to {len(self.people) - 1:,}: "
                "num_people says how many people there are"
            )
        content = (image["bytes"] or image["path"].encode()) if isinstance(image, Mapping) else image.tobytes()
        number = int.from_bytes(hashlib.sha256(content).digest()[:7], "little")
        return number, StoredPhoto(place, image, label, row["landmarks"], name)


class FaceStream(torch.utils.data.Dataset):
    """Samples of a source by the batches that `StreamBatchSampler` names, each lane's in its order.

    A photo that cannot be decoded is replaced by the next of its lane that can, with its label; a warning names it.

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
            self._samples = self._decode(epoch, self.source.photos(epoch, lane, skip))
        self._following = epoch, number + self.sampler.lanes
        return list(itertools.islice(self._samples, len(keys)))

    def _decode(self, epoch: int, photos: Iterator[tuple[int, StoredPhoto]]) -> Iterator[dict[str, Any]]:
        broken = 0
        for number, photo in photos:
            try:
                crop = self.crop(photo.image, photo.landmarks)
            except ValueError as error:
                logger.warning("%s: %s; the next photo takes its place", photo.name, error)
                broken += 1
                if broken == _TRIES:
                    raise InputError(f"{_TRIES} photos up to {photo.name} cannot be used: {error}") from error
                continue
            pixels = torch.from_numpy(np.ascontiguousarray(crop.transpose(2, 0, 1)))
            for repetition in range(broken, -1, -1):
                yield {"pixels": pixels, "label": photo.label, "key": (epoch, number, repetition)}
            broken = 0


class StreamBatchSampler(ShardedBatchSampler):
    """Names the batches of an epoch: what is in them is known to the lane that reads them.

    Batch b of a rank belongs to its lane b % lanes; with as many worker processes as lanes, the batches of a lane are
    then made by one process, in order.

    Args:
        num_photos: In an epoch; None with `num_batches`.
        batch_size: Samples per batch of this rank.
        num_batches: Batches per epoch, where nobody has counted the photos.
        lanes: Worker processes of each rank, at least 1.

    Yields:
        Lists of (epoch, batch, sample).

    Raises:
        InputError: The photos do not fill one batch.
    """

    def __init__(
        self,
        num_photos: int | None,
        batch_size: int,
        *,
        num_batches: int = 0,
        lanes: int = 1,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ):
        super().__init__(batch_size, True, seed, rank, world_size)
        if num_photos is not None and num_photos < batch_size * world_size:
            raise InputError(
                f"{num_photos} photos do not fill one batch of {batch_size * world_size} (all ranks together): lower "
                "the batch size (--batch_size)"
            )
        self.lanes = lanes
        self.num_batches = num_batches if num_photos is None else num_photos // (batch_size * world_size)
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
        """The lane that makes a batch of this rank, and the lane's samples before it."""
        lane = number % self.lanes
        batches = [len(range(other, self.num_batches, self.lanes)) for other in range(self.lanes)]
        first = (self.rank * self.num_batches + sum(batches[:lane])) * self.batch_size
        found = Lane(
            self.rank * self.lanes + lane, self.world_size * self.lanes, first, batches[lane] * self.batch_size
        )
        return found, number // self.lanes * self.batch_size
