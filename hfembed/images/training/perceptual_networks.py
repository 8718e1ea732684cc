"""Frozen networks that an autoencoder's reconstructions are judged by in training."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import timm
import torch
import torch.nn.functional as F
from torch import nn

from hfembed.errors import InputError
from hfembed.models.face_embedder.image_processing_face_embedder import FaceImageProcessor, similarity_transform
from hfembed.models.face_embedder.modeling_face_embedder import FaceEmbedderModel

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow's conversion to gray


class TimmFeatures(nn.Module):
    """Feature maps of a timm network: those of `layers`, from 0, finest first.

    Raises:
        InputError: There is no such network, layer or file of weights, or the Hub cannot be reached.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, architecture: str, layers: Sequence[int], weights: str = "") -> None:
        super().__init__()
        try:
            self.network = timm.create_model(
                architecture,
                pretrained=True,
                pretrained_cfg_overlay={"file": weights} if weights else None,
                features_only=True,
                out_indices=tuple(layers),
            )
        except (RuntimeError, ValueError, IndexError, AssertionError, OSError) as error:
            reason = str(error).split("\n")[0]
            raise InputError(f"no features {list(layers)} of timm's '{architecture}': {reason}") from error
        settings: Any = self.network.pretrained_cfg
        self.register_buffer("mean", torch.tensor(settings["mean"]).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(settings["std"]).view(1, -1, 1, 1))
        self.requires_grad_(False)
        self.eval()

    def forward(self, pixel_values: torch.Tensor) -> list[torch.Tensor]:
        """Images (B, 1 or 3, H, W) in [0, 1] -> a map (B, channels, h, w) for each layer."""
        pixel_values = (pixel_values.expand(-1, 3, -1, -1) - self.mean) / self.std
        return self.network(pixel_values)


class FaceEmbeddings(nn.Module):
    """Embeddings of faces in crops that were made for another network.

    `points` are five [x, y] in the crops' pixels: where a face's landmarks lie, for all crops alike.
    """

    def __init__(
        self, embedder: FaceEmbedderModel, processor: FaceImageProcessor, points: Sequence[Sequence[float]]
    ) -> None:
        super().__init__()
        self.embedder = embedder.to(memory_format=torch.channels_last)  # type: ignore[call-arg]
        self.processor = processor
        self.points = np.asarray(points, dtype=np.float64)
        self.requires_grad_(False)
        self.eval()

    def forward(self, pixel_values: torch.Tensor, points: np.ndarray | None = None) -> torch.Tensor:
        """Crops (B, 1 or 3, H, W) in [0, 1], and the landmarks (B, 5, 2) of each if known, -> embeddings (B, D)."""
        return self.embedder(self.align(pixel_values, points)).embeddings

    def jittered_points(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Landmarks (count, 5, 2) turned by up to 7 degrees, scaled by up to 7 % and moved by up to 2 pixels.

        An embedder that sees a face at another position depends on other details of it.
        """
        turn = np.deg2rad(rng.uniform(-7, 7, count))
        scale = np.exp(rng.uniform(-0.07, 0.07, count))
        across, along = scale * np.cos(turn), scale * np.sin(turn)
        matrices = np.stack([across, along, -along, across], axis=1).reshape(count, 2, 2)
        center = self.points.mean(0)
        return (self.points - center) @ matrices + center + rng.uniform(-2, 2, (count, 1, 2))

    def align(self, pixel_values: torch.Tensor, points: np.ndarray | None = None) -> torch.Tensor:
        """Crops (B, 1 or 3, H, W) in [0, 1], and the landmarks (B, 5, 2) of each if known, -> the embedder's input."""
        count, _, height, width = pixel_values.shape
        landmarks = np.broadcast_to(self.points, (count, 5, 2)) if points is None else points
        size = self.processor.size
        grid = face_grid(landmarks, self.processor.template, (size["height"], size["width"]), (height, width))
        faces = F.grid_sample(pixel_values.float(), grid.to(pixel_values.device), align_corners=False)
        if self.processor.num_channels == 1 and faces.shape[1] == 3:
            faces = (faces * faces.new_tensor(_LUMA).view(3, 1, 1)).sum(1, keepdim=True)
        faces = faces.expand(-1, self.processor.num_channels, -1, -1)
        if self.processor.color == "bgr":
            faces = faces.flip(1)
        return self.processor.normalize(faces * 255)


def face_grid(
    landmarks: np.ndarray, template: Sequence[Sequence[float]], size: tuple[int, int], crop_size: tuple[int, int]
) -> torch.Tensor:
    """Where the pixels of an aligned face lie in a crop: (B, height, width, 2), for `align_corners=False`.

    The landmarks (B, 5, 2) are in the crop's pixels, their centers at whole numbers, the template in the face's.
    """
    matrices = np.stack([_inverse(similarity_transform(points, np.asarray(template))) for points in landmarks])
    y, x = np.mgrid[: size[0], : size[1]]
    places = np.stack([x, y, np.ones_like(x)], axis=-1) @ matrices.transpose(0, 2, 1)[:, None]
    return torch.from_numpy((2 * places + 1) / np.array([crop_size[1], crop_size[0]]) - 1).float()


def _inverse(matrix: np.ndarray) -> np.ndarray:
    """Of an affine map (2, 3)."""
    linear = np.linalg.inv(matrix[:, :2])
    return np.column_stack([linear, -linear @ matrix[:, 2]])
