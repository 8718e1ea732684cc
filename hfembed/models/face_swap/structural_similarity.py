"""Structural similarity of images, differentiable."""

import torch

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
    rows, columns = (_windows(side, images.device) for side in images.shape[2:])
    moments = torch.cat([images, others, images.square(), others.square(), images * others], dim=1)
    # a variance is a small difference of means: under autocast it would drown in bfloat16's rounding
    with torch.autocast(images.device.type, enabled=False):
        moments = (rows @ moments @ columns.T).split(channels, dim=1)
    mean_a, mean_b, square_a, square_b, product = moments
    variance = square_a - mean_a.square() + square_b - mean_b.square()
    covariance = product - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + _K1**2) / (mean_a.square() + mean_b.square() + _K1**2)
    return (luminance * (2 * covariance + _K2**2) / (variance + _K2**2)).mean(dim=(1, 2, 3))


def _windows(side: int, device: torch.device) -> torch.Tensor:
    """(side - 10, side): a Gaussian window a row, as a matrix: on a CPU several times faster than a convolution."""
    places = torch.arange(side, device=device)
    offsets = places[None] - places[: side - _WINDOW + 1, None] - _WINDOW // 2
    windows = torch.exp(-offsets.square() / (2 * _SIGMA**2)) * (offsets.abs() <= _WINDOW // 2)
    return windows / windows.sum(dim=1, keepdim=True)


__all__ = ["structural_similarity"]
