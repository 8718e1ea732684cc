"""dlib's face recognition network (King 2017): a ResNet of 29 convolutions without padding where it strides."""

import torch
import torch.nn.functional as F
from torch import nn

# channels and blocks of each stage; a stage begins with stride 2, except the first
_STAGES = ((32, 3), (64, 4), (128, 3), (256, 3), (256, 1))


class DlibBlock(nn.Module):
    """conv-BN-ReLU-conv-BN plus the shortcut, ReLU; where it strides, the shortcut averages 2x2.

    Whichever of the two is smaller, in height, width or channels, is filled up with zeros.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=2 - stride, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Map (B, in_channels, h, w) -> (B, out_channels, h, w), or where it strides half as high and wide."""
        branch = self.conv1(hidden)
        branch = F.relu(self.norm1(branch))
        branch = self.conv2(branch)
        branch = self.norm2(branch)
        if self.stride == 2:
            hidden = F.avg_pool2d(hidden, 2)
            sides = [max(pair) for pair in zip(hidden.shape[1:], branch.shape[1:], strict=True)]
            branch, hidden = (_filled_up(map_, sides) for map_ in (branch, hidden))
        return F.relu(hidden + branch)


def _filled_up(hidden: torch.Tensor, sides: list[int]) -> torch.Tensor:
    missing = [side - has for side, has in zip(sides, hidden.shape[1:], strict=True)]
    if not any(missing):
        return hidden
    channels, height, width = missing
    return F.pad(hidden, (0, width, 0, height, 0, channels))


class DlibResNet29(nn.Module):
    """Stem (7x7 convolution, max pooling) and fourteen blocks in five stages; 2x2 for 150x150 images."""

    out_channels = 256

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(num_channels, 32, 7, stride=2, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2),
        )
        self.stages = nn.ModuleList()
        in_channels = 32
        for number, (channels, depth) in enumerate(_STAGES):
            blocks = nn.Sequential()
            for index in range(depth):
                blocks.append(DlibBlock(in_channels, channels, 2 if index == 0 and number > 0 else 1))
                in_channels = channels
            self.stages.append(blocks)

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the last map for an image of this height and width."""
        sides = []
        for given in (height, width):
            side = ((given - 7) // 2 + 1 - 3) // 2 + 1
            for _ in _STAGES[1:]:
                if side < 3:
                    raise ValueError(f"dlib_resnet29 needs images of at least 103x103 pixels, got {height}x{width}")
                # the convolution has no padding, the average begins a window at every second pixel
                side = max((side - 3) // 2 + 1, side // 2)
            sides.append(side)
        return sides[0], sides[1]

    def parameter_stages(self) -> list[list[nn.Parameter]]:
        """Parameters from input to output: the stem, then each stage."""
        return [list(module.parameters()) for module in (self.stem, *self.stages)]

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Images (B, num_channels, H, W) -> map (B, 256, h, w)."""
        hidden = self.stem(pixel_values)
        for stage in self.stages:
            hidden = stage(hidden)
        return hidden
