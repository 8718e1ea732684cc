"""Arithmetic on windows of photos.

A window is [left, top, right, bottom], its first and last pixel, counted from 1: the convention of the published
weights, whose box shifts mean nothing in another.
"""

import torch


def pyramid_scales(height: int, width: int, min_face_size: float, factor: float) -> list[float]:
    """The scales at which a window of 12 pixels looks for ever larger faces."""
    scales, scale = [], 12 / min_face_size
    while min(height, width) * scale >= 12:
        scales.append(scale)
        scale *= factor
    return scales


def cell_windows(column: torch.Tensor, row: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """The windows (K, 4) behind cells (K,) of the proposal network's map of a photo shrunk by `scale` (K,)."""
    corner = torch.stack([column, row], 1)
    return torch.cat([2 * corner + 1, 2 * corner + 12], 1).div(scale.unsqueeze(1)).floor()


def shift_windows(windows: torch.Tensor, shifts: torch.Tensor, last_pixel: int) -> torch.Tensor:
    """Move each side of windows (K, 4) by `shifts` (K, 4) times the window's width or height.

    `last_pixel` is 1 where the last pixel counts into the width and 0 where it does not: the published weights were
    used with both, after the proposals without.
    """
    sides = windows[:, 2:] - windows[:, :2] + last_pixel
    return windows + shifts * sides.repeat(1, 2)


def square_windows(windows: torch.Tensor) -> torch.Tensor:
    """The squares (K, 4) of the longer side about the same centers."""
    sides = windows[:, 2:] - windows[:, :2]
    longer = sides.amax(1, keepdim=True)
    corner = windows[:, :2] + (sides - longer) * 0.5
    return torch.cat([corner, corner + longer], 1)


def clip_windows(windows: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
    """The parts of windows (K, 4) that lie within photos of `sizes` (K, 2), [height, width].

    Fractions of pixels are cut off, as the published weights were first used.
    """
    windows = windows.trunc()
    return torch.cat([windows[:, :2].clamp(min=1) - 1, torch.minimum(windows[:, 2:], sizes.flip(1).to(windows))], 1)


def suppress_within(windows: torch.Tensor, scores: torch.Tensor, photo: torch.Tensor, overlap: float) -> torch.Tensor:
    """Non-maximum suppression by the fraction of the smaller window, which also drops a face found within a face."""
    order = scores.argsort(descending=True, stable=True)
    windows, photo = windows[order], photo[order]
    areas = (windows[:, 2:] - windows[:, :2] + 1).prod(1)
    corner = torch.maximum(windows[:, None, :2], windows[None, :, :2])
    other = torch.minimum(windows[:, None, 2:], windows[None, :, 2:])
    shared = (other - corner + 1).clamp(min=0).prod(2) / torch.minimum(areas[:, None], areas[None])
    drops = ((shared > overlap) & (photo[:, None] == photo[None])).cpu()
    kept = torch.ones(len(order), dtype=torch.bool)
    for place in range(len(order)):
        if kept[place]:
            kept[place + 1 :] &= ~drops[place, place + 1 :]
    return order[kept.to(order.device)]
