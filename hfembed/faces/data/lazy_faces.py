"""Crops that are decoded and aligned when they are asked for: for sets too large to keep as pixels."""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import datasets
import numpy as np
import torch

from hfembed.errors import InputError
from hfembed.faces.data.aligned_faces import Crops
from hfembed.faces.data.mapped_files import FileNames, whole_column
from hfembed.faces.data.spread_rows import spread_rows
from hfembed.training.samplers import Key

if TYPE_CHECKING:
    from hfembed.models.face_embedder.image_processing_face_embedder import FaceImageProcessor

logger = logging.getLogger(__name__)

_TRIES = 1000


class LazyFaces(torch.utils.data.Dataset):
    """Photos of people as aligned uint8 crops, made anew each time: `AlignedFaces` without the crops on disk.

    The same key gives the same pixels as there. A photo that cannot be decoded is known only once it is reached: the
    next one that can takes its place, with its label, and a warning names it. Which one that is depends on the data
    alone, so that ranks and resumed runs agree.

    Args:
        dataset: As for `AlignedFaces`.
        margin: As for `AlignedFaces`.

    Attributes:
        labels: (num_photos,) int64.
        files: "Person/photo.jpg" of each.

    Raises:
        InputError: There are no photos.
    """

    def __init__(self, dataset: datasets.Dataset, processor: "FaceImageProcessor", *, margin: int = 0):
        if len(dataset) == 0:
            raise InputError("the data set has no photos: nothing to align")
        self._crops = Crops(dataset, processor, margin)
        self.labels = whole_column(dataset, "label").to_numpy()
        self.identities: list[str] = dataset.features["label"].names
        self.files: Sequence[str] = FileNames(whole_column(dataset, "file"))
        self.failures: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, key: Key) -> dict[str, Any]:
        """One sample, as `AlignedFaces` gives it.

        Raises:
            InputError: None of a thousand photos in a row can be decoded.
        """
        for index in range(key[1], key[1] + _TRIES):
            row, crop, reason = self._crops[index % len(self)]
            if crop is not None:
                pixels = torch.from_numpy(np.ascontiguousarray(crop.transpose(2, 0, 1)))
                return {"pixels": pixels, "label": int(self.labels[row]), "key": key}
            logger.warning("%s: %s; the next photo takes its place", self.files[row], reason)
        raise InputError(f"{_TRIES} photos from {self.files[key[1]]} on cannot be used; the last one: {reason}")

    def pixels(self, count: int | None = None) -> torch.Tensor:
        """As `AlignedFaces.pixels`."""
        return torch.stack([self[0, row]["pixels"] for row in spread_rows(len(self), count).tolist()])

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of every crop, margins included."""
        height, width, channels = self._crops.shape
        return channels, height, width
