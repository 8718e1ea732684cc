"""Photos to vectors for search: an autoencoder's latents, a face embedder's embeddings, a timm network's features."""

import itertools
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_model_data_config

from hfembed.checkpoint.checkpoint import Checkpoint
from hfembed.checkpoint.loading import (
    APPEARANCE_AUTOENCODER,
    CONV_AUTOENCODER,
    FACE_EMBEDDER,
    choose_device,
    load_autoencoder,
    load_face_embedder,
)
from hfembed.checkpoint.validation import read_config
from hfembed.errors import InputError, first_line, input_errors
from hfembed.images.latent_statistics import LatentStatistics, encode_images
from hfembed.photos import find_photos, open_photo

logger = logging.getLogger(__name__)

_BATCH = 64
Photo: TypeAlias = str | Path | bytes | Image.Image


class ImageEmbedder(ABC):
    """What `load_image_embedder` gives."""

    def __call__(self, photos: Sequence[Photo], landmarks: Sequence | None = None) -> torch.Tensor:
        """Embed N photos: (N, D) float32 on the CPU, to be compared by cosine.

        Args:
            photos: Paths, encoded files or Pillow images.
            landmarks: Five points of a face, or None, per photo; a face embedder aligns by them.

        Raises:
            InputError: A photo cannot be read.
        """
        points = [None] * len(photos) if landmarks is None else list(landmarks)
        batches = (slice(start, start + _BATCH) for start in range(0, len(photos), _BATCH))
        with input_errors():
            return torch.cat([self._embed(list(photos[batch]), points[batch]) for batch in batches])

    @abstractmethod
    def _embed(self, photos: list[Photo], landmarks: list) -> torch.Tensor:
        """Embed one batch."""


class LatentEmbedder(ImageEmbedder):
    """An autoencoder's latents of a photo and of its mirror image, averaged and whitened.

    Light and pose make up most of the variance of latents; dividing every principal direction by its deviation makes
    the rest count. `whitening` is the power of the deviations; only the leading `directions` are used, all by default.

    Raises:
        InputError: The checkpoint has no latent statistics (`hfembed fit-latents`).
    """

    def __init__(
        self, checkpoint: str | Checkpoint, device: str = "auto", whitening: float = 1.0, directions: int | None = None
    ):
        self.model, self.processor = load_autoencoder(checkpoint, device)
        self.statistics = LatentStatistics.load(checkpoint)
        self.whitening = whitening
        self.directions = directions

    def _embed(self, photos: list[Photo], landmarks: list) -> torch.Tensor:
        return self.embed_images(self.processor.preprocess(photos).pixel_values)  # the center, whatever the landmarks

    def embed_images(self, images: torch.Tensor) -> torch.Tensor:
        """Images (N, C, H, W) in [0, 1] -> (N, K) float32."""
        latents = (encode_images(self.model, images) + encode_images(self.model, images.flip(3))) / 2
        return self.statistics.whiten(latents, self.whitening)[:, : self.directions]


class FaceEmbedderFeatures(ImageEmbedder):
    """A face embedder's embeddings."""

    def __init__(self, checkpoint: str | Checkpoint, device: str = "auto"):
        self.model, self.processor = load_face_embedder(checkpoint, device)

    def _embed(self, photos: list[Photo], landmarks: list) -> torch.Tensor:
        pixels = self.processor.preprocess(photos, landmarks=landmarks).pixel_values
        return self.model.embed(pixels.to(self.model.device)).cpu()


class TimmFeatures(ImageEmbedder):
    """The layer below the classifier of a timm network: a supervised image embedding.

    Args:
        architecture: Name in timm, such as "resnet50.a1_in1k".
        weights: A file; timm's pretrained ones from the Hub when empty, random ones when "random".

    Raises:
        InputError: There is no such network or file, or the Hub cannot be reached.
    """

    def __init__(self, architecture: str, weights: str = "", device: str = "auto"):
        overlay = None if weights in ("", "random") else {"file": weights}
        try:
            self.model = timm.create_model(
                architecture, pretrained=weights != "random", pretrained_cfg_overlay=overlay, num_classes=0
            )
        except (RuntimeError, ValueError, OSError) as error:
            raise InputError(
                f"timm/{architecture}: no such network, or no weights for it: {first_line(error)}"
            ) from error
        self.device = choose_device(device)
        self.model.to(self.device).eval()
        self.transform = create_transform(**resolve_model_data_config(self.model), is_training=False)

    @torch.no_grad()
    def _embed(self, photos: list[Photo], landmarks: list) -> torch.Tensor:
        pixels = [self.transform(open_photo(photo)) for photo in photos]  # the center, whatever the landmarks
        return self.model(torch.stack(pixels).to(self.device)).float().cpu()


def load_image_embedder(name: str | Path | Checkpoint, device: str = "auto") -> ImageEmbedder:
    """Load what turns photos into vectors.

    That is a checkpoint of an autoencoder or a face embedder, or "timm/<architecture>", with "=<file of weights>" or
    "=random" behind it to replace timm's own weights.

    Raises:
        InputError: There is no such checkpoint, or it holds another kind of model.
    """
    if not isinstance(name, Checkpoint) and str(name).startswith("timm/"):
        architecture, _, weights = str(name).removeprefix("timm/").partition("=")
        return TimmFeatures(architecture, weights, device)
    checkpoint = Checkpoint.resolve(name)
    model_type = read_config(checkpoint.folder, checkpoint.name).model_type
    if model_type in (CONV_AUTOENCODER, APPEARANCE_AUTOENCODER):
        return LatentEmbedder(checkpoint, device)
    if model_type == FACE_EMBEDDER:
        return FaceEmbedderFeatures(checkpoint, device)
    raise InputError(
        f"{checkpoint.name}: unsupported model_type '{model_type}'; search needs an autoencoder or a face embedder"
    )


def read_photos(folder: str | Path) -> Iterator[tuple[Path, Image.Image]]:
    """Every photo below a folder; those that cannot be read are left out, with a line that names each.

    Raises:
        InputError: There is no such folder, or no photo in it that can be read.
    """
    found = False
    for file in find_photos(folder).photos:
        try:
            image = open_photo(file, mode=None)
        except InputError as error:
            logger.warning("skipped %s", error)
            continue
        found = True
        yield file, image
    if not found:
        raise InputError(f"{folder}: none of the photos can be read")


def embed_folder(
    embed: ImageEmbedder, folder: str | Path, without: str | Path | None = None
) -> tuple[list[Path], torch.Tensor]:
    """Embed the photos below a folder, as many as can be read: N paths and embeddings (N, D).

    The photo `without` is left out, whatever its path there.

    Raises:
        InputError: There is no photo that can be read.
    """
    files, parts = [], []
    photos = (item for item in read_photos(folder) if without is None or not item[0].samefile(without))
    while batch := list(itertools.islice(photos, _BATCH)):
        files += [file for file, _ in batch]
        parts.append(embed([image for _, image in batch]))
    if not files:
        raise InputError(f"{folder}: no other photo to compare with")
    return files, torch.cat(parts)
