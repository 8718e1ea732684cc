"""Holes in images of any size filled smoothly from their borders."""

import torch
import torch.nn.functional as F


def smooth_fill(images: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Fill holes from means over ever larger squares: Gortler et al., "The Lumigraph", 1996, section 3.4, pull-push.

    Pull: each level halves the one before, and knows the mean of the known pixels below a position and how much of it
    is known, at most 1. Push: from the smallest level on, what a level does not know is the enlarged level's.

    Args:
        images: (B, C, H, W) in [0, 1]; the values in the holes do not matter.
        mask: (B, 1, H, W) bool, true inside.

    Returns:
        (B, C, H, W) float32, `images` outside of the holes; mid-gray where nothing is known.
    """
    known = (~mask).float()
    levels = [(torch.where(mask, 0, images.float()), known)]
    while max(levels[-1][0].shape[2:]) > 1:
        total, known = (F.avg_pool2d(values, 2, ceil_mode=True) for values in levels[-1])
        known = 4 * known  # a known pixel of four says all there is to say of them
        levels.append((4 * total / known.clamp(min=1), known.clamp(max=1)))
    total, known = levels.pop()
    filled = total + 0.5 * (1 - known)
    for total, known in reversed(levels):
        larger = F.interpolate(filled, size=total.shape[2:], mode="bilinear", align_corners=False)
        filled = total + (1 - known) * larger
    return torch.where(mask, filled, images.float())


__all__ = ["smooth_fill"]
