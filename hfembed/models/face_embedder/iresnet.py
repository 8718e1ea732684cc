"""IResNet, the residual network of ArcFace (Deng et al. 2019, 'improved' residual units of Duta et al. 2020)."""

from typing import Any

import torch
from torch import nn

IRESNET_WIDTHS = (64, 128, 256, 512)
# iresnet152 is that of AdaFace, CurricularFace and face.evoLVe, the others are arcface_torch's
IRESNETS: dict[str, dict[str, Any]] = {
    "iresnet18": {"depths": (2, 2, 2, 2)},
    "iresnet34": {"depths": (3, 4, 6, 3)},
    "iresnet50": {"depths": (3, 4, 14, 3)},
    "iresnet100": {"depths": (3, 13, 30, 3)},
    "iresnet152": {"depths": (3, 8, 36, 3), "widths": (256, 512, 1024, 2048), "stem_width": 64, "bottleneck": True},
    "iresnet200": {"depths": (6, 26, 60, 6)},
}


class SqueezeExcitation(nn.Module):
    """Channel gates from the map's mean (Hu et al. 2018), reduction 16."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(channels // 16, 4)
        self.squeeze = nn.Conv2d(channels, hidden, 1)
        self.activation = nn.PReLU(hidden)
        self.excite = nn.Conv2d(hidden, channels, 1)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Gate a map (B, C, h, w) -> (B, C, h, w)."""
        gates = hidden.mean((2, 3), keepdim=True)
        gates = self.squeeze(gates)
        gates = self.activation(gates)
        gates = self.excite(gates)
        return hidden * gates.sigmoid()


class StochasticDepth(nn.Module):
    """Leave out a residual branch, image by image, while training (Huang et al. 2016)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, branch: torch.Tensor) -> torch.Tensor:
        """Zero the branch (B, ...) of some images and scale up the others, so that the mean stays."""
        if not self.training or self.rate == 0:
            return branch
        kept = torch.rand(len(branch), *[1] * (branch.ndim - 1), device=branch.device) >= self.rate
        return branch * kept / (1 - self.rate)


class IResNetBlock(nn.Module):
    """BN-conv-BN-PReLU-conv-BN plus the shortcut."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        use_se: bool = False,
        stochastic_depth: float = 0.0,
        stride_first: bool = False,
    ) -> None:
        super().__init__()
        strides = (stride, 1) if stride_first else (1, stride)
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=strides[0], padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.activation = nn.PReLU(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, stride=strides[1], padding=1, bias=False)
        self.norm3 = nn.BatchNorm2d(out_channels)
        self.se = SqueezeExcitation(out_channels) if use_se else nn.Identity()
        self.stochastic_depth = StochasticDepth(stochastic_depth)
        self.shortcut = _shortcut(in_channels, out_channels, stride)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Map (B, in_channels, h, w) -> (B, out_channels, ceil(h / stride), ceil(w / stride))."""
        branch = self.norm1(hidden)
        branch = self.conv1(branch)
        branch = self.norm2(branch)
        branch = self.activation(branch)
        branch = self.conv2(branch)
        branch = self.norm3(branch)
        branch = self.se(branch)
        return self.shortcut(hidden) + self.stochastic_depth(branch)


class IResNetBottleneck(nn.Module):
    """BN, then convolutions 1x1 to a quarter of the channels, 3x3, and 1x1 with the stride, plus the shortcut."""

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, use_se: bool = False, stochastic_depth: float = 0.0
    ) -> None:
        super().__init__()
        hidden = max(out_channels // 4, 1)
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, hidden, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(hidden)
        self.activation = nn.PReLU(hidden)
        self.conv2 = nn.Conv2d(hidden, hidden, 3, padding=1, bias=False)
        self.norm3 = nn.BatchNorm2d(hidden)
        self.activation2 = nn.PReLU(hidden)
        self.conv3 = nn.Conv2d(hidden, out_channels, 1, stride=stride, bias=False)
        self.norm4 = nn.BatchNorm2d(out_channels)
        self.se = SqueezeExcitation(out_channels) if use_se else nn.Identity()
        self.stochastic_depth = StochasticDepth(stochastic_depth)
        self.shortcut = _shortcut(in_channels, out_channels, stride)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Map (B, in_channels, h, w) -> (B, out_channels, ceil(h / stride), ceil(w / stride))."""
        branch = self.norm1(hidden)
        branch = self.activation(self.norm2(self.conv1(branch)))
        branch = self.activation2(self.norm3(self.conv2(branch)))
        branch = self.norm4(self.conv3(branch))
        branch = self.se(branch)
        return self.shortcut(hidden) + self.stochastic_depth(branch)


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False), nn.BatchNorm2d(out_channels)
    )


class IResNet(nn.Module):
    """Stride-1 stem, then stages that each begin with stride 2, then BatchNorm.

    Same function as the IResNet of insightface's arcface_torch up to its last BatchNorm2d. `stride_first` gives a
    stage's stride to its first convolution (arcface_torch: to the second): less than half the work in that block.
    `bottleneck` makes blocks of three convolutions, as AdaFace's IR-152 and IR-200 have them.
    """

    def __init__(
        self,
        num_channels: int,
        depths: list[int] | tuple[int, ...],
        widths: list[int] | tuple[int, ...] = IRESNET_WIDTHS,
        use_se: bool = False,
        stochastic_depth: float = 0.0,
        stem_width: int | None = None,
        stride_first: bool = False,
        bottleneck: bool = False,
    ) -> None:
        super().__init__()
        if bottleneck and stride_first:
            raise ValueError("iresnet: bottleneck blocks have their stride in the last convolution, not stride_first")
        if not depths or len(depths) != len(widths) or min(*depths, *widths) < 1:
            raise ValueError(
                f"iresnet needs a depth and a width for every stage, got depths {depths}, widths {widths}"
            )
        if not 0 <= stochastic_depth < 1:
            raise ValueError(f"stochastic_depth must lie in [0, 1), got {stochastic_depth}")
        self.out_channels = widths[-1]
        in_channels = stem_width or widths[0]
        self.stem = nn.Sequential(
            nn.Conv2d(num_channels, in_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(in_channels),
            nn.PReLU(in_channels),
        )
        rate_step = stochastic_depth / max(sum(depths) - 1, 1)
        self.stages = nn.ModuleList()
        blocks_before = 0
        for depth, width in zip(depths, widths, strict=True):
            blocks: list[nn.Module] = []
            for index in range(depth):
                rate = rate_step * (blocks_before + index)
                stride = 2 if index == 0 else 1
                if bottleneck:
                    blocks.append(IResNetBottleneck(in_channels, width, stride, use_se, rate))
                else:
                    blocks.append(IResNetBlock(in_channels, width, stride, use_se, rate, stride_first))
                in_channels = width
            blocks_before += depth
            self.stages.append(nn.Sequential(*blocks))
        self.norm = nn.BatchNorm2d(self.out_channels)

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the last map for an image of this height and width."""
        for _ in self.stages:
            height, width = (height + 1) // 2, (width + 1) // 2
        return height, width

    def parameter_stages(self) -> list[list[nn.Parameter]]:
        """Parameters from input to output: the stem, then each stage, the last with the final BatchNorm."""
        stages = [list(module.parameters()) for module in (self.stem, *self.stages)]
        stages[-1] += self.norm.parameters()
        return stages

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Images (B, num_channels, H, W) -> map (B, out_channels, h, w)."""
        hidden = self.stem(pixel_values)
        for stage in self.stages:
            hidden = stage(hidden)
        return self.norm(hidden)
