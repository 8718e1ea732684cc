"""Vector quantization: the latent vector of each place is one of a learned codebook."""

import torch
import torch.nn.functional as F
from torch import nn

_MOST_DISTANCES = 2**24  # that are in memory at once


class VectorQuantizer(nn.Module):
    """The nearest vectors of a codebook (van den Oord et al., "Neural Discrete Representation Learning", 2017).

    A vector that is the nearest one nowhere is not learned.

    Attributes:
        codebook: (K, C), the vectors.
    """

    def __init__(self, codebook_size: int, channels: int) -> None:
        super().__init__()
        self.codebook = nn.Parameter(torch.randn(codebook_size, channels))

    def forward(self, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Replace each latent vector by the nearest one of the codebook; the gradient passes as if it were not there.

        Args:
            latents: (B, C, h, w).

        Returns:
            (B, C, h, w), vectors of the codebook; the codebook loss and the commitment loss of eq. 3, means over all
            numbers, float32.
        """
        nearest = self.vectors(self.indices(latents))
        codebook_loss = F.mse_loss(nearest.float(), latents.detach().float())
        commitment_loss = F.mse_loss(latents.float(), nearest.detach().float())
        # what is added is exactly 0, so that these are the codebook's vectors to the bit
        return nearest.detach() + (latents - latents.detach()), codebook_loss, commitment_loss

    @torch.no_grad()
    def indices(self, latents: torch.Tensor) -> torch.Tensor:
        """Of the nearest vectors, by squared distance: (B, C, h, w) -> (B, h, w) int64, 0 to K - 1."""
        vectors = latents.permute(0, 2, 3, 1).flatten(0, 2).float()
        codebook = self.codebook.float()
        with torch.autocast(latents.device.type, enabled=False):
            # differences, not products: a vector of the codebook is at distance 0 from itself
            nearest = [
                torch.cdist(part, codebook, compute_mode="donot_use_mm_for_euclid_dist").argmin(1)
                for part in vectors.split(max(1, _MOST_DISTANCES // len(codebook)))
            ]
        return torch.cat(nearest).view(len(latents), *latents.shape[2:])

    def vectors(self, indices: torch.Tensor) -> torch.Tensor:
        """Of the codebook: (B, h, w) int64 -> (B, C, h, w)."""
        return F.embedding(indices, self.codebook).permute(0, 3, 1, 2)

    @torch.no_grad()
    def start_from_latents(self, latents: torch.Tensor) -> None:
        """Draw the codebook from latent vectors (B, C, h, w); where there are too few, the rest of it stays."""
        vectors = latents.permute(0, 2, 3, 1).flatten(0, 2)
        chosen = torch.randperm(len(vectors))[: len(self.codebook)].to(vectors.device)
        self.codebook[: len(chosen)] = vectors[chosen].to(self.codebook.dtype)
