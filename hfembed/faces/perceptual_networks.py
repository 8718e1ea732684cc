"""Frozen networks for perceptual and identity losses, of autoencoders and of face swaps."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from torch import nn

from hfembed.checkpoint.loading import load_face_embedder
from hfembed.errors import InputError, first_line
from hfembed.faces.swap.recrop import face_grid, sample_faces, to_pixel_values
from hfembed.models.face_embedder.image_processing_face_embedder import FaceImageProcessor
from hfembed.models.face_embedder.modeling_face_embedder import FaceEmbedderModel


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
            raise InputError(f"no features {list(layers)} of timm's '{architecture}': {first_line(error)}") from error
        settings: Any = self.network.pretrained_cfg
        self.register_buffer("mean", torch.tensor(settings["mean"]).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(settings["std"]).view(1, -1, 1, 1))
        self.requires_grad_(False)
        self.eval()

    def forward(self, pixel_values: torch.Tensor) -> list[torch.Tensor]:
        """Images (B, 1 or 3, H, W) in [0, 1] -> a map (B, channels, h, w) for each layer."""
        pixel_values = (pixel_values.expand(-1, 3, -1, -1) - self.mean) / self.std
        return self.network(pixel_values)


class FaceFeatures(nn.Module):
    """Feature maps of a face embedder's trunk: 0 is the stem's, 1 and up those of its stages.

    Images are taken at their own size; the embedder's alignment is left out.

    Raises:
        InputError: The trunk has no such layer.
    """

    def __init__(self, embedder: FaceEmbedderModel, processor: FaceImageProcessor, layers: Sequence[int]) -> None:
        super().__init__()
        stages = [getattr(embedder.trunk, "stem", None), *getattr(embedder.trunk, "stages", [])]
        if not layers or not 0 <= min(layers) <= max(layers) < len(stages) or stages[0] is None:
            raise InputError(
                f"no features {list(layers)} of the trunk {embedder.config.trunk}: it has {len(stages)}, from 0"
            )
        self.stages = nn.ModuleList(stages[: max(layers) + 1]).to(memory_format=torch.channels_last)  # type: ignore[call-arg]
        self.processor = processor
        self.layers = list(layers)
        self.requires_grad_(False)
        self.eval()

    def forward(self, pixel_values: torch.Tensor) -> list[torch.Tensor]:
        """Images (B, 1 or 3, H, W) in [0, 1] -> a map (B, channels, h, w) for each layer, in their order."""
        hidden = to_pixel_values(pixel_values, self.processor)
        maps = []
        for stage in self.stages:
            hidden = stage(hidden)
            maps.append(hidden)
        return [maps[layer] for layer in self.layers]


def load_features(network: str, layers: Sequence[int], weights: str = "") -> TimmFeatures | FaceFeatures:
    """The features that a recipe names: those of a face embedder, a folder or Hub id, or of a timm architecture.

    Raises:
        InputError: There is no such network, layer or file of weights, or the Hub cannot be reached.
    """
    if "/" not in network and not Path(network).is_dir():
        return TimmFeatures(network, layers, weights)
    return FaceFeatures(*load_face_embedder(network, "cpu"), layers)


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
        """Landmarks (count, 5, 2), as of `jitter_points`."""
        return jitter_points(self.points, count, rng)

    def align(self, pixel_values: torch.Tensor, points: np.ndarray | None = None) -> torch.Tensor:
        """Crops (B, 1 or 3, H, W) in [0, 1], and the landmarks (B, 5, 2) of each if known, -> the embedder's input."""
        count, _, height, width = pixel_values.shape
        landmarks = np.broadcast_to(self.points, (count, 5, 2)) if points is None else points
        grid = face_grid(landmarks, self.processor, (height, width))
        return sample_faces(pixel_values, grid.to(pixel_values.device), self.processor)


def jitter_points(points: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Landmarks (count, 5, 2) turned by up to 7 degrees, scaled by up to 7 % and moved by up to 2 pixels.

    An embedder that sees a face at another position depends on other details of it.

    Args:
        points: Five [x, y] in pixels.
    """
    turn = np.deg2rad(rng.uniform(-7, 7, count))
    scale = np.exp(rng.uniform(-0.07, 0.07, count))
    across, along = scale * np.cos(turn), scale * np.sin(turn)
    matrices = np.stack([across, along, -along, across], axis=1).reshape(count, 2, 2)
    center = points.mean(0)
    return (points - center) @ matrices + center + rng.uniform(-2, 2, (count, 1, 2))
