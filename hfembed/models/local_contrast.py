"""How far the local contrast of images is from that of others, differentiable."""

import torch
import torch.nn.functional as F

_WINDOW = 8  # pixels, every second window of which half lies in the next
_SMALL = 0.01  # contrast that is added to both, squared: the slope of the root is finite where an image is flat


def contrast_distance(reconstruction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference of local contrasts: the root mean squared differences of neighboring pixels.

    Where detail cannot be told exactly, a distance of pixels is least for a smooth image. This one is least where the
    image has as much contrast as the target, so detail is drawn there, if not always the target's. It is like the
    contrast term of SSIM (Wang et al., "Image Quality Assessment: From Error Visibility to Structural Similarity",
    2004, eq. 9), of gradients instead of values.

    Args:
        reconstruction: (B, C, H, W) in [0, 1].
        target: (B, C, H, W) in [0, 1].

    Returns:
        (B,) in [0, 1.42], float32, the mean over overlapping windows of 8 x 8 pixels.
    """
    return (local_contrast(reconstruction) - local_contrast(target)).abs().mean((1, 2))


def local_contrast(images: torch.Tensor) -> torch.Tensor:
    """Root mean squared differences of neighboring pixels, all channels together.

    Args:
        images: (B, C, H, W) in [0, 1], at least 9 pixels high and wide.

    Returns:
        (B, h, w) float32, of windows of 8 x 8 pixels every 4 pixels.

    Raises:
        ValueError: The images are smaller than a window.
    """
    if min(images.shape[2:]) <= _WINDOW:
        raise ValueError(f"local contrast needs images of more than {_WINDOW} pixels, got {tuple(images.shape[2:])}")
    images = images.float()
    corner = images[:, :, :-1, :-1]
    squared = (images[:, :, 1:, :-1] - corner).square() + (images[:, :, :-1, 1:] - corner).square()
    return (F.avg_pool2d(squared.mean(1), _WINDOW, _WINDOW // 2) + _SMALL**2).sqrt()


__all__ = ["contrast_distance"]
