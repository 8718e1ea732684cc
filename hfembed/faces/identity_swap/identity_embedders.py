"""Identity vectors: what one or more face embedders make of a face, and of a person's photos."""

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from hfembed.checkpoint.checkpoint import Checkpoint
from hfembed.checkpoint.loading import load_face_embedder
from hfembed.errors import InputError, counted
from hfembed.faces.perceptual_networks import FaceEmbeddings
from hfembed.models.identity_swap.modeling_identity_swap import IdentitySwapModel

_TYPICAL = 0.75  # of a person's photos


class IdentityEmbedders(nn.Module):
    """Frozen face embedders whose unit embeddings side by side, scaled to unit length, are an identity vector.

    The scalar product of two vectors is the mean of the embedders' cosines.

    Args:
        names: Checkpoint folders or Hub ids of face embedders.
        points: Five [x, y]: where the landmarks lie in the crops that will be given.

    Attributes:
        fingerprints: Of the embedders' weights, in their order.
        sizes: Of their embeddings.
    """

    def __init__(self, names: Sequence[str | Checkpoint], points: Sequence[Sequence[float]]) -> None:
        super().__init__()
        checkpoints = [Checkpoint.resolve(name) for name in names]
        self.fingerprints = [checkpoint.fingerprint for checkpoint in checkpoints]
        loaded = [load_face_embedder(checkpoint, "cpu") for checkpoint in checkpoints]
        self.sizes = [embedder.config.embedding_size for embedder, _ in loaded]
        self.parts = nn.ModuleList(
            FaceEmbeddings(embedder.optimize_for_inference(), processor, points)  # type: ignore[arg-type]
            for embedder, processor in loaded
        )

    def forward(self, faces: torch.Tensor, points: np.ndarray | None = None) -> torch.Tensor:
        """Crops (B, 1 or 3, H, W) in [0, 1], and their landmarks (B, 5, 2) if known, -> vectors (B, sum of sizes)."""
        return self.unit(torch.cat([part(faces, points).float() for part in self.parts], dim=1))

    def unit(self, vectors: torch.Tensor) -> torch.Tensor:
        """Scale each embedder's part of vectors (B, sum of sizes) to the same length, all together to 1."""
        parts = [F.normalize(part, dim=1) for part in vectors.split(self.sizes, dim=1)]
        return torch.cat(parts, dim=1) / len(parts) ** 0.5

    def check(self, model: IdentitySwapModel, name: str) -> None:
        """Refuse a model whose vectors are other embedders'.

        Raises:
            InputError: It was trained with other weights, or with the same in another order.
        """
        expected = model.config.identity_models
        if expected and expected != self.fingerprints:
            raise InputError(
                f"{name} takes identity vectors of {counted(len(expected), 'face embedder')} with the weights "
                f"{', '.join(print_[:12] for print_ in expected)}; given were "
                f"{', '.join(print_[:12] for print_ in self.fingerprints)}: name those it was trained with, in order"
            )


@torch.no_grad()
def describe_people(
    embedders: IdentityEmbedders,
    pixels: torch.Tensor,
    labels: np.ndarray,
    people: int,
    photos_per_person: int,
    batch_size: int = 32,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What a swap model has to know of people: the mean vector of the photos of each, and some of the photos.

    Args:
        pixels: (N, C, H, W) uint8, aligned crops.
        labels: (N,) of people.
        people: Number of people; each has a photo.
        photos_per_person: Photos to keep of each, spread evenly over the three quarters that are most like the mean,
            for the others have sunglasses, profiles or somebody else; of people with fewer some come again.

    Returns:
        Vectors (people, D) of unit length and photos (people, photos_per_person, C, H, W) uint8, on the CPU.
    """
    device = next(embedders.parameters()).device
    vectors = torch.cat([embedders(part.to(device).float() / 255).cpu() for part in pixels.split(batch_size)])
    sums = torch.zeros(people, vectors.shape[1]).index_add_(0, torch.from_numpy(labels), vectors)
    means = embedders.unit(sums)
    typical = (vectors * means[torch.from_numpy(labels)]).sum(1).numpy()
    kept = []
    for person in range(people):
        rows = np.flatnonzero(labels == person)
        usable = max(math.ceil(_TYPICAL * len(rows)), photos_per_person)
        rows = np.sort(rows[np.argsort(-typical[rows], kind="stable")[:usable]])
        kept.append(pixels[rows[np.arange(photos_per_person) * len(rows) // photos_per_person]])
    return means, torch.stack(kept)
