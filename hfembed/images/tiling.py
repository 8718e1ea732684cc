"""A network made for small images on photos of any size: overlapping tiles, blended where they meet."""

from collections.abc import Callable

import torch
from torch.nn.functional import pad


def apply_in_tiles(
    network: Callable[[torch.Tensor], torch.Tensor],
    image: torch.Tensor,
    tile: int | tuple[int, int],
    overlap: int,
    batch_size: int = 16,
) -> torch.Tensor:
    """Apply an image-to-image network to a photo (C, H, W) of any size, tile by tile.

    Tiles are weighted by ramps that rise from their borders over the overlap, so that no seams show and a network that
    changes nothing gives the photo back. A photo smaller than a tile, or a remainder at its right and lower border, is
    filled up by mirroring.

    Args:
        network: (B, C, tile height, tile width) -> the same shape.
        overlap: Pixels shared by adjacent tiles, at least 0 and at most half a tile.

    Raises:
        ValueError: The overlap is impossible.
    """
    height, width = (tile, tile) if isinstance(tile, int) else tile
    if not 0 <= overlap <= min(height, width) // 2:
        raise ValueError(f"overlap must lie between 0 and half a tile, {min(height, width) // 2}, not {overlap}")
    channels, full_height, full_width = image.shape
    tops, padded_height = _starts(full_height, height, overlap)
    lefts, padded_width = _starts(full_width, width, overlap)
    padded = _mirror_to(image, padded_height, padded_width)
    places = [(top, left) for top in tops for left in lefts]
    window = _ramp(height, overlap, image)[:, None] * _ramp(width, overlap, image)
    total = torch.zeros_like(padded)
    weight = torch.zeros_like(padded[:1])
    for start in range(0, len(places), batch_size):
        chosen = places[start : start + batch_size]
        tiles = torch.stack([padded[:, top : top + height, left : left + width] for top, left in chosen])
        for (top, left), result in zip(chosen, network(tiles), strict=True):
            total[:, top : top + height, left : left + width] += window * result
            weight[:, top : top + height, left : left + width] += window
    return (total / weight)[:, :full_height, :full_width]


def _starts(size: int, tile: int, overlap: int) -> tuple[list[int], int]:
    """Where the tiles along one side start, and the side they cover."""
    step = tile - overlap
    count = 1 + max(0, -(-(size - tile) // step))
    return [step * number for number in range(count)], step * (count - 1) + tile


def _mirror_to(image: torch.Tensor, height: int, width: int) -> torch.Tensor:
    # mirroring repeats no border, so that it can add at most a side less one at a time
    while image.shape[1] < height or image.shape[2] < width:
        below = min(height - image.shape[1], max(image.shape[1] - 1, 0))
        right = min(width - image.shape[2], max(image.shape[2] - 1, 0))
        one_pixel = (image.shape[1] == 1 and height > 1) or (image.shape[2] == 1 and width > 1)
        if one_pixel:
            return pad(image[None], (0, width - image.shape[2], 0, height - image.shape[1]), mode="replicate")[0]
        image = pad(image[None], (0, right, 0, below), mode="reflect")[0]
    return image


def _ramp(size: int, overlap: int, like: torch.Tensor) -> torch.Tensor:
    places = torch.arange(size, device=like.device, dtype=like.dtype)
    from_border = torch.minimum(places, size - 1 - places) + 1
    return (from_border / (overlap + 1)).clamp(max=1)
