"""Holes in images filled by what is most likely there under a Gaussian over whole images."""

from collections.abc import Sequence

import torch
from torch import nn

# variance added to every pixel's where there are about 10,000 images to measure on
RIDGE = 3e-4


class GaussianFill(nn.Module):
    """The linear estimate of least error: the conditional mean of the pixels in a hole, given all others.

    mean_h - P_hh^-1 P_ho (x_o - mean_o), P the inverse covariance of all D numbers of an image, h in the hole and o
    outside: Bishop, "Pattern Recognition and Machine Learning", 2006, eq. 2.75. P has D ** 2 numbers: 67 MB for gray
    images of 64 x 64 pixels.

    Measured, not learned; a new one is untrained and fills with gray.
    """

    mean: torch.Tensor
    precision: torch.Tensor
    count: torch.Tensor

    def __init__(self, num_channels: int, image_size: Sequence[int]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.full((num_channels, *image_size), 0.5))
        self.register_buffer("precision", torch.eye(self.mean.numel()))
        self.register_buffer("count", torch.tensor(0))  # images measured, mirror images included

    @torch.no_grad()
    def start_from_images(self, pixel_values: torch.Tensor, ridge: float = RIDGE) -> None:
        """Measure the Gaussian of images and of their mirror images.

        Args:
            pixel_values: (N, C, H, W) in [0, 1].
            ridge: Variance added to every pixel's.
        """
        flat = pixel_values.flatten(1).float()
        mirror = torch.arange(flat.shape[1]).view_as(pixel_values[0]).flip(2).flatten()
        mean = flat.mean(0)
        mean = (mean + mean[mirror]) / 2
        flat = flat - mean
        covariance = (flat.T @ flat / len(flat)).cpu().double()
        covariance = (covariance + covariance[mirror][:, mirror]) / 2
        covariance.diagonal().add_(ridge)
        self.mean.copy_(mean.view_as(self.mean))
        self.precision.copy_(torch.linalg.inv(covariance))
        self.count.fill_(2 * len(flat))

    @torch.no_grad()
    def forward(self, images: torch.Tensor, mask: torch.Tensor, measured: torch.Tensor | None = None) -> torch.Tensor:
        """Fill the holes.

        Args:
            images: (B, C, H, W) in [0, 1]; the values in the holes do not matter.
            mask: (B, 1, H, W) bool, true inside.
            measured: (B, C, H, W) in [0, 1], the whole images, where the Gaussian was measured on them: each is filled
                as if it and its mirror image had been left out. A network that learns from images known to the
                Gaussian would otherwise learn to trust it too much.

        Returns:
            (B, C, H, W) float32, `images` outside of the holes.
        """
        with torch.autocast(images.device.type, enabled=False):
            filled = images.float().flatten(1).clone()
            mean, precision = self.mean.flatten().float(), self.precision.float()
            if measured is not None:
                moved, weights = self._left_out(measured.float(), precision)
            for number, inside in enumerate(mask.expand_as(images).flatten(1)):
                image = filled[number]
                outside = torch.where(inside, 0, image - mean)
                hole = inside.nonzero()[:, 0]
                rows = precision[hole]
                if measured is not None:
                    rows = rows + moved[number, hole] @ weights[number] @ moved[number].T
                image[hole] = mean[hole] - torch.linalg.solve(rows[:, hole], rows @ outside)
        return filled.view_as(images)

    def _left_out(self, measured: torch.Tensor, precision: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What the precision P gains when an image and its mirror image V (D x 2) leave the covariance.

        (K - V V' / n)^-1 = P + P V (n - V' P V)^-1 V' P, Woodbury's identity.

        Returns:
            P V (B, D, 2) and (n - V' P V)^-1 (B, 2, 2).
        """
        pairs = torch.stack([(view - self.mean).flatten(1) for view in (measured, measured.flip(3))], dim=2)
        moved = (precision @ pairs.permute(1, 0, 2).flatten(1)).unflatten(1, (len(measured), 2)).permute(1, 0, 2)
        leverage = pairs.transpose(1, 2) @ moved
        return moved, torch.linalg.inv(self.count * torch.eye(2, device=leverage.device) - leverage)
