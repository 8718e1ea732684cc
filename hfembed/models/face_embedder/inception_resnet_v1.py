"""Inception-ResNet-v1 (Szegedy et al. 2016), in the form FaceNet's followers trained it for faces."""

from collections.abc import Sequence

import torch
from torch import nn


class ConvNormActivation(nn.Sequential):
    """Convolution without bias, BatchNorm (eps 0.001 as in TensorFlow), ReLU: members `conv`, `norm`, `activation`."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int = 1,
        same: bool = False,
    ) -> None:
        super().__init__()
        height, width = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
        padding = (height // 2, width // 2) if same else 0
        self.conv = nn.Conv2d(in_channels, out_channels, (height, width), stride, padding, bias=False)
        self.norm = nn.BatchNorm2d(out_channels, eps=0.001)
        self.activation = nn.ReLU()


class InceptionResidual(nn.Module):
    """Parallel branches, concatenated, mixed by a 1x1 convolution, scaled and added to the input."""

    def __init__(
        self, branches: Sequence[nn.Module], branch_channels: int, channels: int, scale: float, activate: bool = True
    ) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)
        self.mix = nn.Conv2d(branch_channels, channels, 1)
        self.scale = scale
        self.activation = nn.ReLU() if activate else nn.Identity()

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Map (B, channels, h, w) -> (B, channels, h, w)."""
        mixed = torch.cat([branch(hidden) for branch in self.branches], 1)
        mixed = self.mix(mixed)
        return self.activation(hidden + self.scale * mixed)


class Reduction(nn.Module):
    """Parallel stride-2 branches and a max-pooled input, concatenated."""

    def __init__(self, branches: Sequence[nn.Module]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)
        self.pool = nn.MaxPool2d(3, stride=2)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Map (B, C, h, w) -> (B, C + the branches' channels, (h - 3) // 2 + 1, (w - 3) // 2 + 1)."""
        return torch.cat([branch(hidden) for branch in self.branches] + [self.pool(hidden)], 1)


def _block_a() -> InceptionResidual:
    branches = [
        ConvNormActivation(256, 32, 1),
        nn.Sequential(ConvNormActivation(256, 32, 1), ConvNormActivation(32, 32, 3, same=True)),
        nn.Sequential(
            ConvNormActivation(256, 32, 1),
            ConvNormActivation(32, 32, 3, same=True),
            ConvNormActivation(32, 32, 3, same=True),
        ),
    ]
    return InceptionResidual(branches, 96, 256, scale=0.17)


def _reduction_a() -> Reduction:
    return Reduction(
        [
            ConvNormActivation(256, 384, 3, stride=2),
            nn.Sequential(
                ConvNormActivation(256, 192, 1),
                ConvNormActivation(192, 192, 3, same=True),
                ConvNormActivation(192, 256, 3, stride=2),
            ),
        ]
    )


def _block_b() -> InceptionResidual:
    branches = [
        ConvNormActivation(896, 128, 1),
        nn.Sequential(
            ConvNormActivation(896, 128, 1),
            ConvNormActivation(128, 128, (1, 7), same=True),
            ConvNormActivation(128, 128, (7, 1), same=True),
        ),
    ]
    return InceptionResidual(branches, 256, 896, scale=0.10)


def _reduction_b() -> Reduction:
    return Reduction(
        [
            nn.Sequential(ConvNormActivation(896, 256, 1), ConvNormActivation(256, 384, 3, stride=2)),
            nn.Sequential(ConvNormActivation(896, 256, 1), ConvNormActivation(256, 256, 3, stride=2)),
            nn.Sequential(
                ConvNormActivation(896, 256, 1),
                ConvNormActivation(256, 256, 3, same=True),
                ConvNormActivation(256, 256, 3, stride=2),
            ),
        ]
    )


def _block_c(scale: float = 0.20, activate: bool = True) -> InceptionResidual:
    branches = [
        ConvNormActivation(1792, 192, 1),
        nn.Sequential(
            ConvNormActivation(1792, 192, 1),
            ConvNormActivation(192, 192, (1, 3), same=True),
            ConvNormActivation(192, 192, (3, 1), same=True),
        ),
    ]
    return InceptionResidual(branches, 384, 1792, scale, activate)


class InceptionResNetV1(nn.Module):
    """Stem of seven layers, 5 blocks A, reduction, 10 blocks B, reduction, 6 blocks C; 1,792 channels.

    Same function as facenet-pytorch's InceptionResnetV1 up to its average pooling. Made for 160x160 images; the
    smallest possible are 75x75.
    """

    out_channels = 1792

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            ConvNormActivation(num_channels, 32, 3, stride=2),
            ConvNormActivation(32, 32, 3),
            ConvNormActivation(32, 64, 3, same=True),
            nn.MaxPool2d(3, stride=2),
            ConvNormActivation(64, 80, 1),
            ConvNormActivation(80, 192, 3),
            ConvNormActivation(192, 256, 3, stride=2),
        )
        self.stages = nn.ModuleList(
            [
                nn.Sequential(*(_block_a() for _ in range(5))),
                nn.Sequential(_reduction_a(), *(_block_b() for _ in range(10))),
                nn.Sequential(_reduction_b(), *(_block_c() for _ in range(5)), _block_c(scale=1.0, activate=False)),
            ]
        )

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the last map for an image of this height and width."""
        if min(height, width) < 75:
            raise ValueError(f"inception_resnet_v1 needs images of at least 75x75 pixels, got {height}x{width}")
        # the seven unpadded 3x3 layers of the stem and the reductions, by their strides
        for stride in (2, 1, 2, 1, 2, 2, 2):
            height, width = (height - 3) // stride + 1, (width - 3) // stride + 1
        return height, width

    def parameter_stages(self) -> list[list[nn.Parameter]]:
        """Parameters from input to output: the stem, then the stages A, B and C."""
        return [list(module.parameters()) for module in (self.stem, *self.stages)]

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Images (B, num_channels, H, W) -> map (B, 1792, h, w); 3x3 for 160x160."""
        hidden = self.stem(pixel_values)
        for stage in self.stages:
            hidden = stage(hidden)
        return hidden
