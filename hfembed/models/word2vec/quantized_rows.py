"""Product-quantized rows: a vector is cut into parts, and each part is one of 256 centroids (Jegou et al. 2011)."""

import numpy as np
import torch
from torch import nn

from .configuration_word2vec import MOST_CENTROIDS

_SAMPLE, _ROUNDS, _ROWS_AT_ONCE = 16_384, 15, 65_536


class QuantizedRows(nn.Module):
    """Stands in the place of an `nn.Embedding` for inference: one byte per part of a row.

    `weight` is the decoded matrix, made at its first use; looking up ids decodes only theirs.

    Args:
        size: Number of rows.
        dimensions: Of a vector; a multiple of `parts`.
        parts: Parts of a vector.
        centroids: How many each part chooses from, at most 256.
    """

    def __init__(self, size: int, dimensions: int, parts: int, centroids: int):
        super().__init__()
        self.register_buffer("codes", torch.zeros(size, parts, dtype=torch.uint8))
        self.codes: torch.Tensor
        table = torch.zeros(parts, centroids, dimensions // parts)
        self.centroids = nn.Parameter(table, requires_grad=False)
        self._decoded: tuple[object, torch.Tensor] | None = None

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Rows of ids of any shape."""
        parts = torch.arange(self.codes.shape[1], device=ids.device)
        return self.centroids[parts, self.codes[ids].long()].flatten(-2)

    @property
    def weight(self) -> torch.Tensor:
        """All rows, (size, dimensions)."""
        state = (self.centroids.data_ptr(), self.centroids._version, self.codes.data_ptr(), self.centroids.dtype)
        if self._decoded is None or self._decoded[0] != state:
            ids = torch.arange(len(self.codes), device=self.codes.device)
            with torch.no_grad():
                chunks = [self(chunk) for chunk in ids.split(_ROWS_AT_ONCE)]
            self._decoded = state, torch.cat(chunks)
        return self._decoded[1]

    def check_codes(self) -> None:
        """Refuse codes beyond the centroids.

        Raises:
            ValueError: There are such.
        """
        if not self.codes.is_meta and len(self.codes) and int(self.codes.max()) >= self.centroids.shape[1]:
            raise ValueError(f"embeddings.codes has a code beyond the {self.centroids.shape[1]} centroids")


@torch.no_grad()
def quantize_rows(vectors: torch.Tensor, parts: int, seed: int = 0) -> QuantizedRows:
    """Choose the centroids of each part by k-means and the nearest one for each row.

    Args:
        vectors: float32 (rows, dimensions).
        parts: A divisor of the dimensions.

    Raises:
        ValueError: It is none.
    """
    size, dimensions = vectors.shape
    if parts < 1 or dimensions % parts:
        raise ValueError(f"parts must divide the {dimensions} dimensions, but are {parts}")
    rows = QuantizedRows(size, dimensions, parts, min(MOST_CENTROIDS, size))
    generator = torch.Generator().manual_seed(seed)
    sample = torch.randperm(size, generator=generator)[:_SAMPLE]
    for part, piece in enumerate(vectors.view(size, parts, -1).unbind(dim=1)):
        points = piece[sample]
        centers = points[: rows.centroids.shape[1]].clone()
        for _ in range(_ROUNDS):
            nearest = torch.cdist(points, centers).argmin(dim=1)
            number = torch.bincount(nearest, minlength=len(centers))
            sums = torch.zeros_like(centers).index_add_(0, nearest, points)
            found = number > 0
            centers[found] = sums[found] / number[found, None]
        rows.centroids[part] = centers
        rows.codes[:, part] = torch.cat([torch.cdist(c, centers).argmin(dim=1) for c in piece.split(_ROWS_AT_ONCE)])
    return rows


def make_quantized_rows(codes: np.ndarray, centroids: np.ndarray) -> QuantizedRows:
    """Rows from codes (rows, parts), uint8, and centroids (parts, centroids, part size), float32."""
    rows = QuantizedRows(len(codes), centroids.shape[0] * centroids.shape[2], codes.shape[1], centroids.shape[1])
    rows.codes, rows.centroids.data = torch.from_numpy(codes), torch.from_numpy(centroids)
    rows.check_codes()
    return rows


__all__ = ["QuantizedRows", "make_quantized_rows", "quantize_rows"]
