"""Structural similarity of images (SSIM, MS-SSIM), differentiable."""

import torch
import torch.nn.functional as F

# constants and window of Wang et al. 2004; scale weights of Wang et al. 2003, table in section 3.2
_K1, _K2, _SIGMA, _WINDOW = 0.01, 0.03, 1.5, 11
_SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


def structural_similarity(reconstruction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """SSIM of each image: Wang et al., "Image Quality Assessment: From Error Visibility to Structural Similarity",
    2004, eq. 13, in a Gaussian window of sigma 1.5 and 11 pixels that lies wholly inside the image.

    No root is taken, and every quotient has a constant in it: the gradient is finite everywhere, flat images included.

    Args:
        reconstruction: (B, C, H, W) in [0, 1], at least 11 pixels high and wide.
        target: (B, C, H, W) in [0, 1].

    Returns:
        (B,) in [-1, 1], float32, the mean over channels and positions.

    Raises:
        ValueError: The images are smaller than the window.
    """
    luminance, contrast = _luminance_and_contrast(reconstruction, target)
    return (luminance * contrast).mean((1, 2, 3))


def multiscale_structural_similarity(reconstruction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """MS-SSIM of each image: Wang et al., "Multi-scale Structural Similarity for Image Quality Assessment", 2003,
    eq. 7.

    Of the paper's five scales, each half as large as the one before, as many as leave room for the window are used;
    their weights are scaled to sum to one. Negative contrast terms count as zero (as 1e-6, to keep the gradient of the
    power finite).

    Args:
        reconstruction: (B, C, H, W) in [0, 1], at least 11 pixels high and wide.
        target: (B, C, H, W) in [0, 1].

    Returns:
        (B,) in [0, 1].

    Raises:
        ValueError: The images are smaller than the window.
    """
    scales = 1
    while scales < len(_SCALE_WEIGHTS) and min(target.shape[2:]) // 2**scales >= _WINDOW:
        scales += 1
    total = sum(_SCALE_WEIGHTS[:scales])
    similarity = torch.ones((), device=target.device)
    for scale, weight in enumerate(_SCALE_WEIGHTS[:scales]):
        luminance, contrast = _luminance_and_contrast(reconstruction, target)
        last = scale == scales - 1
        term = (luminance * contrast if last else contrast).mean((2, 3)).clamp(min=1e-6)
        similarity = similarity * term ** (weight / total)
        if not last:
            reconstruction, target = F.avg_pool2d(reconstruction, 2), F.avg_pool2d(target, 2)
    return similarity.mean(1)


def _luminance_and_contrast(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The two factors of SSIM (luminance; contrast and structure), each (B, C, H - 10, W - 10)."""
    if min(x.shape[2:]) < _WINDOW:
        raise ValueError(f"SSIM needs images of at least {_WINDOW} x {_WINDOW} pixels, got {tuple(x.shape[2:])}")
    # windows of small variances are differences of large numbers: not for half precision
    x, y = x.float(), y.float()
    batch, channels, height, width = x.shape
    maps = torch.cat([x, y, x * x, y * y, x * y])
    with torch.autocast(x.device.type, enabled=False):
        # as products of matrices, several times faster on a CPU than convolving single channels
        maps = _window(height, x.device).T @ maps @ _window(width, x.device)
    mean_x, mean_y, square_x, square_y, product = maps.view(5, batch, channels, *maps.shape[2:])
    variance_x, variance_y = square_x - mean_x**2, square_y - mean_y**2
    covariance = product - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + _K1**2) / (mean_x**2 + mean_y**2 + _K1**2)
    contrast = (2 * covariance + _K2**2) / (variance_x + variance_y + _K2**2)
    return luminance, contrast


def _window(size: int, device: torch.device) -> torch.Tensor:
    """(size, size - 10): every column a Gaussian window of sum one, at every position where it fits."""
    positions = torch.arange(size, device=device)
    centers = positions[: size - _WINDOW + 1] + _WINDOW // 2
    distance = (positions[:, None] - centers).float()
    window = torch.exp(-(distance**2) / (2 * _SIGMA**2)) * (distance.abs() <= _WINDOW // 2)
    return window / window.sum(0)


__all__ = ["multiscale_structural_similarity", "structural_similarity"]
