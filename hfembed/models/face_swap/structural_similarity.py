"""Structural similarity of images, differentiable."""

import torch
import torch.nn.functional as F

_WINDOW, _SIGMA = 11, 1.5
_K1, _K2 = 0.01, 0.03


def structural_similarity(images: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """SSIM of Wang et al., "Image Quality Assessment", 2004, eq. 13: Gaussian window of 11 pixels, sigma 1.5.

    Windows lie wholly inside the image, as in the paper's own program.

    Args:
        images: (batch, channels, height, width) in [0, 1], height and width at least 11.
        others: The same shape.

    Returns:
        (batch,) in [-1, 1], float32: means over windows and channels.
    """
    images, others = images.float(), others.float()
    channels = images.shape[1]
    places = torch.arange(_WINDOW, dtype=torch.float32, device=images.device) - _WINDOW // 2
    window = torch.exp(-places.square() / (2 * _SIGMA**2))
    window = window / window.sum()

    def blur(maps: torch.Tensor) -> torch.Tensor:
        count = maps.shape[1]
        maps = F.conv2d(maps, window.view(1, 1, -1, 1).expand(count, 1, -1, 1), groups=count)
        return F.conv2d(maps, window.view(1, 1, 1, -1).expand(count, 1, 1, -1), groups=count)

    moments = blur(torch.cat([images, others, images.square(), others.square(), images * others], dim=1))
    mean_a, mean_b, square_a, square_b, product = moments.split(channels, dim=1)
    variance = square_a - mean_a.square() + square_b - mean_b.square()
    covariance = product - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + _K1**2) / (mean_a.square() + mean_b.square() + _K1**2)
    return (luminance * (2 * covariance + _K2**2) / (variance + _K2**2)).mean(dim=(1, 2, 3))


__all__ = ["structural_similarity"]
