"""Features of a frozen trunk, computed once, to train a classifier on in seconds."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from hfembed.faces.data.aligned_faces import AlignedFaces
from hfembed.faces.data.collators import margin_noise
from hfembed.faces.data.lazy_faces import LazyFaces
from hfembed.models.face_embedder.modeling_face_embedder import FaceEmbedderModel
from hfembed.training.samplers import Key


class FrozenFeatures(torch.utils.data.Dataset):
    """Features of a frozen embedder for each photo, addressed by (epoch, index) keys.

    The mirror images, if wanted, are samples of their own, after the photos: 2 N samples.

    Args:
        collate: Samples of `faces` -> `pixel_values`, without augmentation.
        noise: Add Gaussian noise with this multiple of the covariance of one person's photos (pooled over people),
            drawn again each epoch. Wang et al., "Implicit Semantic Data Augmentation for Deep Networks", 2019,
            sampled rather than in closed form.
        margin_seed: Add "margin_noise" to the samples, as `FaceCollator` does.

    Attributes:
        features: (N or 2 N, D) float32, embeddings times norms.
        labels: (N or 2 N,) int64.
    """

    def __init__(
        self,
        faces: AlignedFaces | LazyFaces,
        embedder: FaceEmbedderModel,
        collate: Callable[[Sequence[dict[str, Any]]], dict[str, torch.Tensor]],
        mirror: bool = True,
        noise: float = 0.0,
        seed: int = 0,
        margin_seed: int | None = None,
        batch_size: int = 64,
    ):
        embedder.eval()
        views: list[list[torch.Tensor]] = [[], []] if mirror else [[]]
        with torch.inference_mode():
            for start in tqdm(range(0, len(faces), batch_size), desc="features of the frozen trunk", unit="batch"):
                samples = [faces[0, index] for index in range(start, min(start + batch_size, len(faces)))]
                pixels = collate(samples)["pixel_values"].to(embedder.device)
                for view, features in enumerate(views):
                    output = embedder(pixels.flip(3) if view else pixels)
                    features.append((output.embeddings * output.norms[:, None]).cpu())
        # cloned: tensors made in inference mode cannot enter a training graph
        self.features = torch.cat([torch.cat(features) for features in views]).clone()
        self.labels = np.tile(faces.labels, len(views))
        self.seed = seed
        self.margin_seed = margin_seed
        self.noise = noise * _within_person_deviation(self.features, torch.from_numpy(self.labels)) if noise else None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, key: Key) -> dict[str, Any]:
        """One sample: "features" (D,) float32 and "labels" int."""
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: Sequence[Key]) -> list[dict[str, Any]]:
        """Several samples at once, as the loader asks for them."""
        rows = [key[1] for key in keys]
        features = self.features[rows]
        if self.noise is not None:
            draws = [np.random.default_rng([self.seed, *key]).standard_normal(features.shape[1]) for key in keys]
            features = features + torch.from_numpy(np.stack(draws)).float() @ self.noise.T
        samples: list[dict[str, Any]] = [
            {"features": feature, "labels": int(self.labels[row])} for feature, row in zip(features, rows, strict=True)
        ]
        if self.margin_seed is not None:
            for sample, key in zip(samples, keys, strict=True):
                sample["margin_noise"] = np.float32(margin_noise(self.margin_seed, key))
        return samples


def _within_person_deviation(features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """A factor A (D, D) with A A^T = the covariance of features around their person's mean."""
    counts = torch.bincount(labels)[:, None]
    means = torch.zeros(len(counts), features.shape[1]).index_add_(0, labels, features) / counts
    around = features - means[labels]
    covariance = around.T @ around / len(around)
    # a thousandth of the mean variance keeps it positive definite with fewer photos than dimensions
    return torch.linalg.cholesky(covariance + 1e-3 * covariance.diagonal().mean() * torch.eye(len(covariance)))
