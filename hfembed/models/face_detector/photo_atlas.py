"""Windows of photos of different sizes, brought to the networks' sizes: from an atlas of the photos in several scales,
or each averaged down on its own.
"""

import math

import torch
import torch.nn.functional as F


def normalize(pixels: torch.Tensor) -> torch.Tensor:
    """Pixels in [0, 255] to what the networks take: float32, (value - 127.5) / 128."""
    return (pixels.to(torch.float32) - 127.5) / 128


class PhotoAtlas:
    """Photos and their copies at 1/2, 1/4, 1/8 ... of the size on one sheet: any windows of any photos are one call.

    The photos lie below each other, their copies to the right. A window is sampled bilinearly in the smallest copy
    that shows it with at least as many pixels as wanted, twice as many at most: nothing is blurred, little aliased.

    Args:
        photos: (3, H, W) each, RGB in [0, 255], all on one device.
    """

    whole_pixels = False
    # levels of different sizes can share a batch: their sizes are even, pooling by twos leaves no rest to differ
    levels_can_be_padded = True

    def __init__(self, photos: list[torch.Tensor]) -> None:
        sizes = [tuple(photo.shape[1:]) for photo in photos]
        copies = [max(min(size).bit_length() - 3, 1) for size in sizes]  # the smallest has 4 to 7 pixels a side
        right = max(width for _, width in sizes)
        device = photos[0].device
        self.sheet = torch.zeros(3, sum(height for height, _ in sizes), right + right // 2, device=device)
        corners = torch.zeros(len(photos), max(copies), 2)
        last_pixels = torch.zeros(len(photos), max(copies), 2)
        top = 0
        for number, photo in enumerate(photos):
            pixels, x, y = normalize(photo), 0, top
            for copy in range(copies[number]):
                if copy:
                    pixels = _halve(pixels)
                height, width = pixels.shape[1:]
                self.sheet[:, y : y + height, x : x + width] = pixels
                corners[number, copy] = torch.tensor([x, y])
                last_pixels[number, copy] = torch.tensor([width - 1, height - 1])
                x, y = right, y + height if copy else top
            top += photo.shape[1]
        self.corners, self.last_pixels = corners.to(device), last_pixels.to(device)
        self.last_copies = torch.tensor(copies, device=device) - 1

    @staticmethod
    def level_size(height: int, width: int, scale: float) -> tuple[int, int]:
        """Height and width of a photo's level at `scale`."""
        return 2 * math.ceil(height * scale / 2), 2 * math.ceil(width * scale / 2)

    def levels(self, photo: torch.Tensor, scale: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """Whole photos, shrunk.

        Args:
            photo: (K,), which.
            scale: (K,), in (0, 1].
            height: Of the result; what lies beyond a photo repeats its edge.
            width: Of the result.

        Returns:
            (K, 3, height, width), normalised.
        """
        edges = torch.tensor([0.0, 0.0, width, height], device=scale.device) / scale.unsqueeze(1)
        return self._sample(photo, edges, height, width)

    def crops(self, photo: torch.Tensor, edges: torch.Tensor, side: int) -> torch.Tensor:
        """Windows, each brought to the same size.

        Args:
            photo: (K,), which photo each is in.
            edges: (K, 4), left, top, right, bottom; pixels of the photo, whose corner is (0, 0).
            side: Height and width of the result.

        Returns:
            (K, 3, side, side), normalised.
        """
        return self._sample(photo, edges, side, side)

    def _sample(self, photo: torch.Tensor, edges: torch.Tensor, height: int, width: int) -> torch.Tensor:
        size = torch.tensor([width, height], device=edges.device)
        steps = (edges[:, 2:] - edges[:, :2]) / size
        copy = steps.amax(1).log2().floor().clamp(min=0).long().minimum(self.last_copies[photo])
        shrinkage = torch.exp2(copy.to(edges)).unsqueeze(1)
        first = (edges[:, :2] + 0.5 * steps) / shrinkage - 0.5  # centre of the first pixel, in the copy's pixels
        steps = steps / shrinkage
        corner, last = self.corners[photo, copy], self.last_pixels[photo, copy]
        x = first[:, :1] + steps[:, :1] * torch.arange(width, device=edges.device)
        y = first[:, 1:] + steps[:, 1:] * torch.arange(height, device=edges.device)
        # clamped to the copy, whose neighbours on the sheet are other pictures
        x = x.clamp(min=0).minimum(last[:, :1]) + corner[:, :1]
        y = y.clamp(min=0).minimum(last[:, 1:]) + corner[:, 1:]
        sheet_height, sheet_width = self.sheet.shape[1:]
        x, y = x * (2 / max(sheet_width - 1, 1)) - 1, y * (2 / max(sheet_height - 1, 1)) - 1
        count = len(photo)
        grid = torch.stack([x[:, None].expand(count, height, width), y[:, :, None].expand(count, height, width)], 3)
        pixels = F.grid_sample(
            self.sheet[None], grid.view(1, count * height, width, 2), mode="bilinear", align_corners=True
        )
        return pixels.view(3, count, height, width).transpose(0, 1)


def _halve(pixels: torch.Tensor) -> torch.Tensor:
    """The means of 2 x 2 pixels of (3, H, W), without a last odd row or column; four times as fast as pooling."""
    height, width = pixels.shape[1] // 2 * 2, pixels.shape[2] // 2 * 2
    rows = pixels[:, 0:height:2] + pixels[:, 1:height:2]
    return (rows[:, :, 0:width:2] + rows[:, :, 1:width:2]) / 4


class AreaResampling:
    """Each window is the mean of the areas behind its pixels, one window at a time: what the published weights were
    first used with.

    Args:
        photos: (3, H, W) each, RGB in [0, 255], all on one device.
    """

    whole_pixels = True
    levels_can_be_padded = False

    def __init__(self, photos: list[torch.Tensor]) -> None:
        # a photo's row lies in one piece, all channels of a pixel beside each other
        self.photos = [photo.permute(1, 2, 0).contiguous().float() for photo in photos]

    @staticmethod
    def level_size(height: int, width: int, scale: float) -> tuple[int, int]:
        """Height and width of a photo's level at `scale`."""
        return int(height * scale + 1), int(width * scale + 1)

    def levels(self, photo: torch.Tensor, scale: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """As `PhotoAtlas.levels`; height and width decide, not the scale."""
        levels = [_area_means(self.photos[number], height, width) for number in photo.tolist()]
        return normalize(torch.stack(levels)).permute(0, 3, 1, 2)

    def crops(self, photo: torch.Tensor, edges: torch.Tensor, side: int) -> torch.Tensor:
        """As `PhotoAtlas.crops`, of whole pixels."""
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
