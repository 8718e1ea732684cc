"""SFace's network (Zhong et al. 2021, as in the OpenCV model zoo): MobileNetV1 with PReLU and a stride-1 stem."""

import torch
from torch import nn

from .mobilefacenet import ConvNormActivation

# channels of each block; a stage begins with stride 2, except the first
_STAGES = ((64,), (128, 128), (256, 256), (512,) * 6, (1024, 1024))


class DepthwiseSeparable(nn.Sequential):
    """A 3x3 depthwise convolution and a 1x1 one, each with BatchNorm and PReLU: members `depthwise`, `pointwise`."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.depthwise = ConvNormActivation(in_channels, in_channels, 3, stride, depthwise=True)
        self.pointwise = ConvNormActivation(in_channels, out_channels, 1)


class SFace(nn.Module):
    """Stem, thirteen depthwise separable convolutions in five stages, BatchNorm; 1/16 of the image's size."""

    out_channels = 1024

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.stem = ConvNormActivation(num_channels, 32, 3)
        self.stages = nn.ModuleList()
        in_channels = 32
        for number, stage in enumerate(_STAGES):
            blocks = nn.Sequential()
            for index, channels in enumerate(stage):
                stride = 2 if index == 0 and number > 0 else 1
                blocks.append(DepthwiseSeparable(in_channels, channels, stride))
                in_channels = channels
            self.stages.append(blocks)
        self.norm = nn.BatchNorm2d(self.out_channels)

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the last map for an image of this height and width."""
        for _ in _STAGES[1:]:
            height, width = (height + 1) // 2, (width + 1) // 2
        return height, width

    def parameter_stages(self) -> list[list[nn.Parameter]]:
        """Parameters from input to output: the stem, then each stage, the last with the final BatchNorm."""
        stages = [list(module.parameters()) for module in (self.stem, *self.stages)]
        stages[-1] += self.norm.parameters()
        return stages

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Images (B, num_channels, H, W) -> map (B, 1024, ceil(H / 16), ceil(W / 16))."""
        hidden = self.stem(pixel_values)
        for stage in self.stages:
            hidden = stage(hidden)
        return self.norm(hidden)
