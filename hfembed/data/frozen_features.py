"""Features of a frozen trunk, computed once, to train a classifier on in seconds."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from hfembed.data.aligned_faces import AlignedFaces
from hfembed.data.samplers import Key
from hfembed.models.face_embedder.modeling_face_embedder import FaceEmbedderModel


class FrozenFeatures(torch.utils.data.Dataset):
    """What a frozen embedder makes of each photo, addressed by (epoch, index) keys.

    The mirror images, if wanted, are samples of their own, after the photos: 2 N samples.

    Args:
        faces: N photos.
        embedder: The frozen embedder, used in eval mode.
        collate: Samples of `faces` -> `pixel_values`, without augmentation.
        mirror: Add the mirror images.
        batch_size: Photos a forward pass.

    Attributes:
        features: (N or 2 N, D) float32, embeddings times norms.
        labels: (N or 2 N,) int64.
    """

    def __init__(
        self,
        faces: AlignedFaces,
        embedder: FaceEmbedderModel,
        collate: Callable[[Sequence[dict[str, Any]]], dict[str, torch.Tensor]],
        mirror: bool = True,
        batch_size: int = 64,
    ):
        embedder.eval()
        views = [[], []] if mirror else [[]]
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

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, key: Key) -> dict[str, Any]:
        """One sample: "features" (D,) float32 and "labels" int."""
        return {"features": self.features[key[1]], "labels": int(self.labels[key[1]])}
