"""YuNet: boxes, scores and five landmarks from one small convolutional network."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn
from transformers import initialization as init

from hfembed.models.detected_faces import FaceDetector, FaceDetectorOutput, scale_back, select_faces

from .configuration_yunet import YuNetConfig

# pixels between the positions of the three feature maps that are searched
STRIDES = (8, 16, 32)


class SeparableConv(nn.Module):
    """A pointwise convolution, then one of 3 x 3 pixels per channel; nothing between them."""

    def __init__(self, in_channels: int, out_channels: int, activation: bool = True) -> None:
        super().__init__()
        self.pointwise = nn.Conv2d(in_channels, out_channels, 1)
        self.depthwise = nn.Conv2d(out_channels, out_channels, 3, padding=1, groups=out_channels)
        self.activation = activation

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Feature map (B, in_channels, h, w) -> (B, out_channels, h, w)."""
        hidden = self.depthwise(self.pointwise(hidden))
        return F.relu(hidden, inplace=True) if self.activation else hidden


class YuNetPreTrainedModel(FaceDetector):
    """Initialization of the detector."""

    config: YuNetConfig

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d):
            init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                init.zeros_(module.bias)
        else:
            super()._init_weights(module)


class YuNetModel(YuNetPreTrainedModel):
    """YuNet: Wu, Peng, Yu, "YuNet: a tiny millisecond-level face detector", Machine Intelligence Research, 2023.

    Separable convolutions throughout, three feature maps joined from the smallest up, and at each of their positions
    one box, without anchors. The published networks have batch normalization behind each convolution; here it is part
    of the convolutions' weights, so that the network cannot be trained further as it was.
    """

    sure_score = 0.9

    def __init__(self, config: YuNetConfig) -> None:
        super().__init__(config)
        widths = config.widths
        width = widths[-1]
        self.stem = nn.Conv2d(3, widths[0], 3, stride=2, padding=1)
        self.stages = nn.ModuleList([SeparableConv(widths[0], widths[0])])
        for before, after in zip(widths[:-1], widths[1:], strict=True):
            self.stages.append(nn.Sequential(SeparableConv(before, before), SeparableConv(before, after)))
        self.laterals = nn.ModuleList(SeparableConv(width, width) for _ in STRIDES)
        # 16 numbers per position: face, object, box (4), landmarks (10)
        self.heads = nn.ModuleList(
            nn.Sequential(
                *(SeparableConv(width, width) for _ in range(config.head_units)),
                SeparableConv(width, 16, activation=False),
            )
            for _ in STRIDES
        )
        self.post_init()

    def predict(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Run the network.

        Args:
            pixels: (B, 3, H, W), RGB in [0, 255]; H and W multiples of 32.

        Returns:
            For each of the strides 8, 16 and 32 a map (B, 16, H / stride, W / stride): logits that there is a face,
            and an object; the box's center, from the position, and the logarithms of its width and height; five
            landmarks [x, y], from the position; all in strides.
        """
        hidden = self.stages[0](F.relu(self.stem(pixels), inplace=True))
        hidden = self.stages[1](F.max_pool2d(hidden, 2))
        hidden = self.stages[2](hidden)
        maps = []
        for stage in list(self.stages)[3:]:
            hidden = stage(F.max_pool2d(hidden, 2))
            maps.append(hidden)
        for level in (2, 1, 0):
            if level < 2:
                maps[level] = maps[level] + F.interpolate(maps[level + 1], scale_factor=2.0, mode="nearest")
            maps[level] = self.laterals[level](maps[level])
        fine, middle, coarse = (head(hidden) for head, hidden in zip(self.heads, maps, strict=True))
        return fine, middle, coarse

    def forward(self, pixel_values: torch.Tensor | Sequence[torch.Tensor]) -> FaceDetectorOutput:
        """Find the faces in photos; see `FaceDetector.forward`."""
        found = []
        for numbers, pixels, factors in self.padded_batches(pixel_values, STRIDES[-1], self.config.search_scale):
            for stride, values in zip(STRIDES, self.predict(pixels), strict=True):
                values = values.float()
                scores = values[:, :2].sigmoid().prod(1).sqrt()
                place, row, column = (scores >= self.config.score_threshold).nonzero().unbind(1)
                position = torch.stack([column, row], 1)
                chosen = values[place, :, row, column]
                center, size = position + chosen[:, 2:4], chosen[:, 4:6].exp()
                corners = torch.stack([center - size / 2, center + size / 2], 1) * stride
                landmarks = (position[:, None] + chosen[:, 6:].unflatten(1, (5, 2))) * stride
                boxes, landmarks = (scale_back(points, factors[place]) for points in (corners, landmarks))
                found.append((numbers[place], scores[place, row, column], boxes.flatten(1), landmarks))
        return select_faces(len(pixel_values), found, self.config.nms_threshold, self.config.max_candidates)


__all__ = ["YuNetModel", "YuNetPreTrainedModel"]
