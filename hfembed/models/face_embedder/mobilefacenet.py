"""MobileFaceNet (Chen et al. 2018), up to the 1x1 expansion before its global depthwise convolution."""

import torch
from torch import nn

# expansion, channels, blocks, stride of the first: Table 1 of the paper
_BOTTLENECKS = ((2, 64, 5, 2), (4, 128, 1, 2), (2, 128, 6, 1), (4, 128, 1, 2), (2, 128, 2, 1))


def _activation(name: str, channels: int) -> nn.Module:
    if name == "prelu":
        return nn.PReLU(channels)
    if name == "relu":
        return nn.ReLU()
    if name == "relu6":
        return nn.ReLU6()
    raise ValueError(f"mobilefacenet knows the activations prelu, relu and relu6, not '{name}'")


class DepthwiseConv2d(nn.Conv2d):
    """A convolution of each channel by itself; one with a stride is computed in float32 on a CPU, instead of in bf16.

    oneDNN's gradient of a strided depthwise convolution in bf16 takes ten times as long as in float32.
    """

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Map (B, C, h, w) -> (B, C, ceil(h / stride), ceil(w / stride))."""
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else hidden.dtype
        if hidden.device.type != "cpu" or dtype == torch.float32 or self.stride == (1, 1):
            return super().forward(hidden)
        with torch.autocast("cpu", enabled=False):
            # a folded normalization leaves a bias
            weight, bias = self.weight.float(), None if self.bias is None else self.bias.float()
            return self._conv_forward(hidden.float(), weight, bias).to(dtype)


class ConvNormActivation(nn.Sequential):
    """Convolution without bias, BatchNorm, activation: members `conv`, `norm`, `activation`."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        depthwise: bool = False,
        activation: str = "prelu",
    ) -> None:
        super().__init__()
        layer, groups = (DepthwiseConv2d, in_channels) if depthwise else (nn.Conv2d, 1)
        self.conv = layer(
            in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, groups=groups, bias=False
        )
        self.norm = nn.BatchNorm2d(out_channels)
        self.activation = _activation(activation, out_channels)


class Bottleneck(nn.Module):
    """Inverted residual: 1x1 expansion, 3x3 depthwise, linear 1x1 projection; shortcut where the shapes agree."""

    def __init__(self, in_channels: int, out_channels: int, expansion: int, stride: int, activation: str) -> None:
        super().__init__()
        between = in_channels * expansion
        self.has_shortcut = stride == 1 and in_channels == out_channels
        self.expand = ConvNormActivation(in_channels, between, 1, activation=activation)
        self.depthwise = ConvNormActivation(between, between, 3, stride, depthwise=True, activation=activation)
        self.project = nn.Conv2d(between, out_channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Map (B, in_channels, h, w) -> (B, out_channels, ceil(h / stride), ceil(w / stride))."""
        branch = self.expand(hidden)
        branch = self.depthwise(branch)
        branch = self.project(branch)
        branch = self.norm(branch)
        return hidden + branch if self.has_shortcut else branch


class InParts(nn.Module):
    """Layers that see a batch a few images at a time."""

    def __init__(self, layers: nn.Module, size: int) -> None:
        super().__init__()
        self.layers = layers
        self.size = size

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Map (B, C, h, w) -> what the layers make of it."""
        return torch.cat([self.layers(part) for part in hidden.split(self.size)])


class MobileFaceNet(nn.Module):
    """Two stem layers, fifteen bottlenecks in five stages, 1x1 expansion to 512 channels; 1/16 of the image's size."""

    out_channels = 512

    def __init__(
        self,
        num_channels: int,
        activation: str = "prelu",
        stem: str = "depthwise",
        stem_activation: str | None = None,
    ) -> None:
        super().__init__()
        if stem not in ("depthwise", "separable"):
            raise ValueError(f"mobilefacenet knows the stems depthwise and separable, not '{stem}'")
        stem_activation = stem_activation or activation
        self.stem: nn.Sequential | InParts = nn.Sequential(
            ConvNormActivation(num_channels, 64, 3, stride=2, activation=activation),
            ConvNormActivation(64, 64, 3, depthwise=True, activation=stem_activation),
        )
        if stem == "separable":
            self.stem.append(ConvNormActivation(64, 64, 1, activation=stem_activation))
        self.stages = nn.ModuleList()
        in_channels = 64
        for expansion, channels, blocks, stride in _BOTTLENECKS:
            stage = nn.Sequential()
            for index in range(blocks):
                stage.append(Bottleneck(in_channels, channels, expansion, stride if index == 0 else 1, activation))
                in_channels = channels
            self.stages.append(stage)
        self.expand = ConvNormActivation(in_channels, self.out_channels, 1, activation=activation)

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the last map for an image of this height and width."""
        for _ in range(4):
            height, width = (height + 1) // 2, (width + 1) // 2
        return height, width

    def parameter_stages(self) -> list[list[nn.Parameter]]:
        """Parameters from input to output: the stem, then each stage, the last with the 1x1 expansion."""
        stages = [list(module.parameters()) for module in (self.stem, *self.stages)]
        stages[-1] += self.expand.parameters()
        return stages

    def run_in_parts(self) -> None:
        """Let each part of the network see as many images at a time as suit the size of its maps; for inference.

        The first maps are large: 4 images of them fill a CPU's cache. Later ones are small, and there more images make
        larger, faster matrix products. Modules and names change; the map that comes out does not.
        """
        first, second, third, *others = self.stages
        self.stem = InParts(nn.Sequential(self.stem, first), 4)
        self.stages = nn.ModuleList([InParts(nn.Sequential(second, third), 16), *others])

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Images (B, num_channels, H, W) -> map (B, 512, ceil(H / 16), ceil(W / 16))."""
        hidden = self.stem(pixel_values)
        for stage in self.stages:
            hidden = stage(hidden)
        return self.expand(hidden)
