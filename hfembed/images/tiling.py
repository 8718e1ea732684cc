"""A network made for small images on photos of any size: overlapping tiles, blended where they meet."""

from collections.abc import Callable

import torch
from torch.nn.functional import pad

from hfembed.models.autoencoder_base import AutoencoderModelBase


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


def encode_in_tiles(
    model: AutoencoderModelBase, images: torch.Tensor, tile: int = 512, overlap: int = 128
) -> torch.Tensor:
    """Encode large images to latents that are a grid, in memory that depends on the tile, not on the images.

    Near its borders a tile sees less than the whole image: the outer thirds of the overlap are not used, and tiles are
    blended in between. With an outer third that the network does not see beyond, the latents are those of `encode`;
    with group normalization or attention, which see all of a tile, tones may differ from tile to tile.
    Quantized latents, of which no mixtures exist, are taken from either tile.

    Args:
        images: (B, num_channels, H, W) in [0, 1].
        tile: Largest side of a tile in pixels; rounded down to the model's stride.
        overlap: Pixels shared by adjacent tiles, at most a third of a tile; rounded likewise.

    Returns:
        (B, latent_channels, H / stride, W / stride) float32, on the images' device.

    Raises:
        ValueError: The latents are not a grid, the overlap is impossible, or `encode` does not take the images.
    """
    model.check_pixel_values(images)
    return _in_tiles(model, model.encode, images, tile, overlap, (model.config.stride, 1))


def decode_in_tiles(
    model: AutoencoderModelBase, latents: torch.Tensor, tile: int = 512, overlap: int = 128
) -> torch.Tensor:
    """Decode a large grid of latents (B, latent_channels, h, w) to images, as `encode_in_tiles` encodes.

    Args:
        latents: (B, latent_channels, h, w).
        tile: Largest side of a tile in pixels of the image.
        overlap: As of `encode_in_tiles`.

    Returns:
        (B, num_channels, h * stride, w * stride) float32, not clipped, on the latents' device.

    Raises:
        ValueError: As of `encode_in_tiles`.
    """
    model.check_latents(latents)
    return _in_tiles(model, model.decode, latents, tile, overlap, (1, model.config.stride))


@torch.no_grad()
def _in_tiles(
    model: AutoencoderModelBase,
    network: Callable[[torch.Tensor], torch.Tensor],
    grid: torch.Tensor,
    tile: int,
    overlap: int,
    units: tuple[int, int],
) -> torch.Tensor:
    """Apply a network whose positions have these sides in its input and its output."""
    if not model.config.is_convolutional:
        raise ValueError("this model's latents are a vector, not a grid: it has no tiles")
    if not 0 <= overlap <= tile // 3:
        raise ValueError(f"overlap must lie between 0 and a third of a tile, {tile // 3}, not {overlap}")
    read, write = units
    stride = model.config.stride
    tile, overlap = max(tile // stride, 1), overlap // stride
    is_blended = read == 1 or getattr(model.config, "quantizer", "none") in ("none", "rounding")
    rows, columns = (_windows(side // read, tile, overlap, write, is_blended) for side in grid.shape[2:])
    total = None
    for top, bottom, by_row in rows:
        for left, right, by_column in columns:
            part = grid[:, :, top * read : bottom * read, left * read : right * read]
            result = network(part.to(model.device)).to(grid.device).float()
            if total is None:
                height, width = (side // read * write for side in grid.shape[2:])
                total = result.new_zeros(*result.shape[:2], height, width)
            place = total[:, :, top * write : bottom * write, left * write : right * write]
            place += result * by_row.to(grid.device)[:, None] * by_column.to(grid.device)
    assert total is not None
    return total


def _windows(size: int, tile: int, overlap: int, write: int, is_blended: bool) -> list[tuple[int, int, torch.Tensor]]:
    """Start, end and weights of tiles of about one size along a side; the weights of all sum to one everywhere."""
    count = max(1, -(-(size - overlap) // (tile - overlap)))
    starts = [number * (size - overlap) // count for number in range(count + 1)]
    unused = overlap * write // 3
    places = torch.arange(overlap * write) + 0.5 - unused
    rising = (places / max(overlap * write - 2 * unused, 1)).clamp(0, 1)
    if not is_blended:
        rising = rising.round()
    windows = []
    for number, start in enumerate(starts[:-1]):
        end = starts[number + 1] + overlap
        weights = torch.ones((end - start) * write)
        if number > 0:
            weights[: len(rising)] = rising
        if number < count - 1:
            weights[len(weights) - len(rising) :] = 1 - rising
        windows.append((start, end, weights))
    return windows
