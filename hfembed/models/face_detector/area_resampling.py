"""Windows of photos of different sizes, each averaged down to the networks' sizes."""

import torch
import torch.nn.functional as F


def normalize(pixels: torch.Tensor) -> torch.Tensor:
    """Pixels in [0, 255] to what the networks take: float32, (value - 127.5) / 128."""
    return (pixels.to(torch.float32) - 127.5) / 128


class AreaResampling:
    """Each window is the mean of the areas behind its pixels, one window at a time: what the published weights were
    first used with.
    """

    def __init__(self, photos: list[torch.Tensor]) -> None:
        # a photo's row lies in one piece, all channels of a pixel beside each other
        self.photos = [photo.permute(1, 2, 0).contiguous().float() for photo in photos]

    @staticmethod
    def level_size(height: int, width: int, scale: float) -> tuple[int, int]:
        """Height and width of a photo's level at `scale`."""
        return int(height * scale + 1), int(width * scale + 1)

    def levels(self, photo: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """Whole photos, shrunk."""
        levels = [_area_means(self.photos[number], height, width) for number in photo.tolist()]
        return normalize(torch.stack(levels)).permute(0, 3, 1, 2)

    def crops(self, photo: torch.Tensor, edges: torch.Tensor, side: int) -> torch.Tensor:
        """Windows, each brought to the same size."""
        crops = [
            _area_means(self.photos[number][top:bottom, left:right], side, side)
            for number, (left, top, right, bottom) in zip(photo.tolist(), edges.long().tolist(), strict=True)
        ]
        return normalize(torch.stack(crops)).permute(0, 3, 1, 2)


def _area_means(pixels: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The means of the areas of (H, W, 3) behind the pixels of (height, width, 3): of rows, then of columns.

    On a CPU several times as fast as adaptive pooling of the picture, which adds pixel by pixel.
    """
    return _row_means(_row_means(pixels, height).transpose(0, 1), width).transpose(0, 1)


def _row_means(pixels: torch.Tensor, height: int) -> torch.Tensor:
    """(H, W, 3) to (height, W, 3); whole rows are added, as if their values were channels of one pixel."""
    rows, columns, channels = pixels.shape
    as_channels = pixels.reshape(1, rows, 1, columns * channels).permute(0, 3, 1, 2)
    means = F.adaptive_avg_pool2d(as_channels, (height, 1))
    return means.permute(0, 2, 3, 1).reshape(height, columns, channels)
