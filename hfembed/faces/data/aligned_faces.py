"""Aligned crops, made once and kept as one memory-mapped uint8 array."""

import hashlib
import json
import logging
import math
import os
import shutil
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, cast

import datasets
import numpy as np
import torch
from filelock import FileLock
from torch.utils.data import DataLoader, Subset
from tqdm.auto import tqdm

from hfembed.atomic import atomic_write
from hfembed.checkpoint.json_notes import read_json
from hfembed.errors import InputError
from hfembed.faces.data.mapped_files import FileNames, PackedPhotos, whole_column
from hfembed.faces.data.spread_rows import spread_rows
from hfembed.training.samplers import Key

if TYPE_CHECKING:
    from hfembed.models.conv_autoencoder.image_processing_conv_autoencoder import ConvAutoencoderImageProcessor
    from hfembed.models.face_embedder.image_processing_face_embedder import FaceImageProcessor

logger = logging.getLogger(__name__)

# to be raised when the same photo and settings give another crop, or the files another layout
FORMAT_VERSION = 3
_ROWS_PER_BATCH = 32
_ROWS_PER_SYNC = 1024


class AlignedFaces(torch.utils.data.Dataset):
    """Photos of people as aligned uint8 crops, addressed by (epoch, index) keys.

    Decoding and warping cost more than training a small network, so they happen once: worker processes fill an
    array on disk, named after the fingerprint of the data set, the settings of the processor and the format. A later
    run with the same three maps the array and starts at once; one that was interrupted continues where it ended.

    Any number of ranks may make it at the same time: a lock on the cache lets one of them align and the others wait,
    outside of the process group, whose timeout a long alignment would exceed.

    Args:
        dataset: Columns `image`, `label` and `file`, and `landmarks` (5 points, or None for a center crop) if known.
        broken: "skip" leaves out photos that cannot be decoded or aligned (see `failures`), "refuse" raises.

    Attributes:
        labels: (num_photos,) int64.

    Raises:
        InputError: No photo can be used, or one is broken and `broken` is "refuse".
    """

    def __init__(
        self,
        dataset: datasets.Dataset,
        processor: "FaceImageProcessor | ConvAutoencoderImageProcessor",
        *,
        margin: int = 0,
        cache_dir: str | Path | None = None,
        num_workers: int = 0,
        broken: Literal["skip", "refuse"] = "skip",
        show_progress: bool = True,
    ):
        if len(dataset) == 0:
            raise InputError("the data set has no photos: nothing to align")
        if broken not in ("skip", "refuse"):
            raise ValueError(f'broken must be "skip" or "refuse", not "{broken}"')
        settings = {
            "dataset": dataset._fingerprint,
            "processor": processor.to_dict(),
            "margin": margin,
            "format": FORMAT_VERSION,
        }
        name = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:32]
        self.folder = Path(cache_dir or Path(datasets.config.HF_DATASETS_CACHE) / "hfembed-aligned-faces") / name
        if not self.folder.is_dir():
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder.with_suffix(".lock")):
                if not self.folder.is_dir():
                    _align_all(Crops(dataset, processor, margin), self.folder, num_workers, show_progress)
        self.failures: dict[str, str] = read_json(self.folder / "failures.json")
        if self.failures and broken == "refuse":
            file, reason = next(iter(self.failures.items()))
            more = f" (and {len(self.failures) - 1} more)" if len(self.failures) > 1 else ""
            raise InputError(f'"{file}"{more} cannot be used: {reason}; remove it or choose broken="skip"')
        files = whole_column(dataset, "file").to_pylist()
        self._rows = np.flatnonzero([file not in self.failures for file in files])
        self.labels = whole_column(dataset, "label").to_numpy()[self._rows]
        self.files: list[str] = [files[row] for row in self._rows]
        self.identities: list[str] = dataset.features["label"].names
        self._pixels = np.load(self.folder / "pixels.npy", mmap_mode="r")

    def __getstate__(self) -> dict[str, Any]:
        # a worker process maps the file again instead of receiving a copy of all pixels
        return {key: value for key, value in self.__dict__.items() if key != "_pixels"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._pixels = np.load(self.folder / "pixels.npy", mmap_mode="r")

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, key: Key) -> dict[str, Any]:
        """One sample.

        Args:
            key: (epoch, index) or (epoch, index, repetition), as the samplers give them.

        Returns:
            "pixels" uint8 (channels, height, width), "label" int, and the "key" itself.
        """
        index = key[1]
        crop = self._pixels[self._rows[index]]
        return {"pixels": torch.from_numpy(crop.copy()), "label": int(self.labels[index]), "key": key}

    def pixels(self, count: int | None = None) -> torch.Tensor:
        """Crops as one tensor, for what looks at all of them at once.

        Args:
            count: At most this many, spread evenly over the set; all by default.

        Returns:
            (count, channels, height, width) uint8, margins included.
        """
        return torch.from_numpy(self._pixels[self._rows[spread_rows(len(self._rows), count)]])

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of every crop, margins included."""
        return self._pixels.shape[1:]


class Cropper:
    """A stored photo -> its aligned crop, with `margin` more pixels at each side.

    Attributes:
        shape: (height, width, channels) of every crop, margins included.
    """

    def __init__(self, processor: "FaceImageProcessor | ConvAutoencoderImageProcessor", margin: int = 0):
        self.processor = processor
        self.margin = margin
        aligner = cast("FaceImageProcessor", processor)  # one that only crops is given no landmarks and no margin
        self.wide_processor = _add_margin(aligner, margin) if margin else aligner
        size = self.wide_processor.size
        self.shape = (size["height"], size["width"], processor.num_channels)

    def __call__(self, image: Any, landmarks: Any) -> np.ndarray:
        """Align a photo by five points; without any, crop its center.

        Raises:
            ValueError: It cannot be decoded or aligned.
        """
        if landmarks is not None:
            return self.wide_processor.align(image, landmarks)
        # a center crop can reach the photo's edge, where there is nothing more to show
        margins = ((self.margin, self.margin), (self.margin, self.margin), (0, 0))
        return np.pad(self.processor.align(image), margins, mode="edge")


class Crops(torch.utils.data.Dataset):
    """Row -> (row, crop or None, reason): what the worker processes compute.

    Photos inside of larger files (RecordIO, tar) are read from there at their offsets, and the table is left alone:
    pages of a memory map would count as each worker's memory, and a table in memory would be copied to it.
    """

    def __init__(
        self, dataset: datasets.Dataset, processor: "FaceImageProcessor | ConvAutoencoderImageProcessor", margin: int
    ):
        self.photos = PackedPhotos.of(dataset) or dataset.cast_column("image", datasets.Image(decode=False))
        self.files = FileNames(whole_column(dataset, "file"))
        self.crop = Cropper(processor, margin)
        self.shape = self.crop.shape

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, row: int) -> tuple[int, np.ndarray | None, str]:
        photo = self.photos[row]
        try:
            return row, self.crop(photo["image"], photo.get("landmarks")), ""
        except ValueError as error:
            return row, None, str(error)


def _align_all(crops: Crops, folder: Path, num_workers: int, show_progress: bool) -> None:
    """Fill `folder`, which appears once it is complete; until then what is done is kept in `folder`.partial."""
    partial = folder.with_suffix(".partial")
    partial.mkdir(exist_ok=True)
    progress = partial / "progress.json"
    done, failures = _read_progress(progress, crops)

    def keep(file: IO[bytes]) -> None:
        file.flush()
        os.fsync(file.fileno())
        with atomic_write(progress) as temporary:
            temporary.write_text(json.dumps({"done": done, "failures": failures}), encoding="utf-8")

    height, width, channels = crops.shape
    loader = DataLoader(
        Subset(crops, range(done, len(crops))),
        batch_size=_ROWS_PER_BATCH,
        num_workers=num_workers,
        collate_fn=list,
        generator=torch.Generator(),  # otherwise starting the workers would draw from the global generator
    )
    # written row by row, not through a memory map: a full disk is then an error to read, not a crash
    with (partial / "pixels.npy").open("r+b" if done else "w+b") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (len(crops), channels, height, width)}
        np.lib.format.write_array_header_1_0(file, header)
        file.seek(done * channels * height * width, os.SEEK_CUR)
        with tqdm(total=len(crops), initial=done, unit="face", desc="Aligning", disable=not show_progress) as bar:
            for batch in loader:
                for row, crop, reason in batch:
                    if crop is None:
                        failures[crops.files[row]] = reason
                        crop = np.zeros(crops.shape, dtype=np.uint8)
                    file.write(crop.transpose(2, 0, 1).tobytes())
                done += len(batch)
                bar.update(len(batch))
                if done % _ROWS_PER_SYNC < len(batch):
                    keep(file)
        keep(file)
    if len(failures) == len(crops):
        shutil.rmtree(partial)
        first, reason = next(iter(failures.items()))
        raise InputError(f'none of the {len(crops)} photos can be used; "{first}": {reason}')
    (partial / "failures.json").write_text(json.dumps(failures, indent=1), encoding="utf-8")
    progress.unlink()
    partial.rename(folder)


def _read_progress(file: Path, crops: Crops) -> tuple[int, dict[str, str]]:
    """Rows done and failures among them; none where the file is damaged, which costs only the time to start again."""
    if not file.is_file():
        return 0, {}
    try:
        state = read_json(file)
        done, failures = state["done"], state["failures"]
        if not (type(done) is int and 0 <= done <= len(crops) and isinstance(failures, dict)):
            raise InputError(f"{file}: {done!r} of {len(crops)} rows")
        if done and file.with_name("pixels.npy").stat().st_size < done * math.prod(crops.shape):
            raise InputError(f"{file.parent} lacks pixels")
    except (InputError, KeyError, OSError) as error:
        logger.warning("aligning from the start, the record of an interrupted run is damaged: %s", error)
        return 0, {}
    return done, failures


def _add_margin(processor: "FaceImageProcessor", margin: int) -> "FaceImageProcessor":
    """The same alignment at the same scale, with `margin` more pixels of the photo at each side."""
    settings = processor.to_dict()
    settings["size"] = {side: length + 2 * margin for side, length in processor.size.items()}
    settings["template"] = [[x + margin, y + margin] for x, y in processor.template]
    return type(processor)(**settings)
