"""RetinaFace: boxes, scores and five landmarks, each relative to one of many priors."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn
from transformers import initialization as init

from hfembed.models.detected_faces import FaceDetector, FaceDetectorOutput, scale_back, select_faces

from .configuration_retinaface import RetinaFaceConfig

# pixels between the positions of the three feature maps that are searched
STRIDES = (8, 16, 32)
# of MobileNet v1: channels, in multiples of the first convolution's, and stride of each block
STAGES = (
    ((2, 1), (4, 2), (4, 1), (8, 2), (8, 1)),
    ((16, 2), (16, 1), (16, 1), (16, 1), (16, 1), (16, 1)),
    ((32, 2), (32, 1)),
)


class ConvActivation(nn.Module):
    """A convolution padded to its own size, then a leaky ReLU."""

    def __init__(
        self, in_channels: int, out_channels: int, side: int, slope: float, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, side, stride, side // 2, groups=groups)
        self.slope = slope

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Feature map (B, in_channels, h, w) -> (B, out_channels, h / stride, w / stride), rounded up."""
        hidden = self.conv(hidden)
        return F.leaky_relu(hidden, self.slope, inplace=True) if self.slope else F.relu(hidden, inplace=True)


class ContextModule(nn.Module):
    """Joins what is seen of 3, 5 and 7 pixels: Najibi et al., "SSH: single stage headless face detector", 2017."""

    def __init__(self, width: int, slope: float) -> None:
        super().__init__()
        self.near = nn.Conv2d(width, width // 2, 3, padding=1)
        self.shared = ConvActivation(width, width // 4, 3, slope)
        self.middle = nn.Conv2d(width // 4, width // 4, 3, padding=1)
        self.further = ConvActivation(width // 4, width // 4, 3, slope)
        self.far = nn.Conv2d(width // 4, width // 4, 3, padding=1)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Feature map (B, width, h, w) -> the same shape."""
        shared = self.shared(hidden)
        return F.relu(torch.cat([self.near(hidden), self.middle(shared), self.far(self.further(shared))], 1))


class RetinaFacePreTrainedModel(FaceDetector):
    """Initialization of the detector."""

    config: RetinaFaceConfig

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d):
            init.kaiming_normal_(module.weight, a=self.config.negative_slope)
            if module.bias is not None:
                init.zeros_(module.bias)
        else:
            super()._init_weights(module)


class RetinaFaceModel(RetinaFacePreTrainedModel):
    """RetinaFace: Deng, Guo, Zhou, Yu, Kotsia, Zafeiriou, "RetinaFace: single-stage dense face localisation in the
    wild", 2019; with MobileNet-0.25 as biubug6 trained it.

    A MobileNet v1, three feature maps joined from the smallest up, a context module on each, and at each position a
    box and landmarks for each of a few priors. The published network has batch normalization behind each convolution;
    here it is part of the convolutions' weights, so that the network cannot be trained further as it was.
    """

    sure_score = 0.995

    def __init__(self, config: RetinaFaceConfig) -> None:
        super().__init__(config)
        base, width, slope = config.base_width, config.feature_width, config.negative_slope
        self.stem = ConvActivation(3, base, 3, slope, stride=2)
        self.stages, self.laterals = nn.ModuleList(), nn.ModuleList()
        before = base
        for blocks in STAGES:
            layers = []
            for factor, stride in blocks:
                layers.append(ConvActivation(before, before, 3, slope, stride, groups=before))
                layers.append(ConvActivation(before, factor * base, 1, slope))
                before = factor * base
            self.stages.append(nn.Sequential(*layers))
            self.laterals.append(ConvActivation(before, width, 1, slope))
        self.merges = nn.ModuleList(ConvActivation(width, width, 3, slope) for _ in STRIDES[:-1])
        self.contexts = nn.ModuleList(ContextModule(width, slope) for _ in STRIDES)
        # 16 numbers per prior: logits of background and face, box (4), landmarks (10)
        self.heads = nn.ModuleList(nn.Conv2d(width, 16 * len(config.min_sizes[0]), 1) for _ in STRIDES)
        self.post_init()

    def predict(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Run the network.

        Args:
            pixels: (B, 3, H, W), RGB in [0, 255].

        Returns:
            For each of the strides 8, 16 and 32 a map (B, 16 * priors, H / stride, W / stride), rounded up. For each
            prior: logits of background and face; the box's center and the logarithms of its sides, and five landmarks
            [x, y], relative to the prior, in units of `config.variances`.
        """
        mean = torch.tensor(self.config.image_mean, dtype=pixels.dtype, device=pixels.device)
        hidden = self.stem(pixels - mean[:, None, None])
        maps = []
        for stage, lateral in zip(self.stages, self.laterals, strict=True):
            hidden = stage(hidden)
            maps.append(lateral(hidden))
        for level in (1, 0):
            size = (maps[level].shape[2], maps[level].shape[3])
            maps[level] = self.merges[level](maps[level] + F.interpolate(maps[level + 1], size=size, mode="nearest"))
        fine, middle, coarse = (
            head(context(hidden)) for head, context, hidden in zip(self.heads, self.contexts, maps, strict=True)
        )
        return fine, middle, coarse

    def forward(self, pixel_values: torch.Tensor | Sequence[torch.Tensor]) -> FaceDetectorOutput:
        """Find the faces in photos; see `FaceDetector.forward`."""
        config = self.config
        to_center, to_size = config.variances
        found = []
        for numbers, pixels, factors in self.padded_batches(pixel_values, scale=config.search_scale):
            for stride, sides, maps in zip(STRIDES, config.min_sizes, self.predict(pixels), strict=True):
                values = maps.float().unflatten(1, (len(sides), 16))
                scores = values[:, :, :2].softmax(2)[:, :, 1]
                place, prior, row, column = (scores >= config.score_threshold).nonzero().unbind(1)
                chosen = values[place, prior, :, row, column]
                side = torch.tensor(sides, dtype=torch.float32, device=maps.device)[prior, None]
                position = (torch.stack([column, row], 1) + 0.5) * stride
                center = position + chosen[:, 2:4] * to_center * side
                size = side * (chosen[:, 4:6] * to_size).exp()
                corners = torch.stack([center - size / 2, center + size / 2], 1)
                landmarks = position[:, None] + chosen[:, 6:].unflatten(1, (5, 2)) * to_center * side[:, None]
                boxes, landmarks = (scale_back(points, factors[place]) for points in (corners, landmarks))
                found.append((numbers[place], scores[place, prior, row, column], boxes.flatten(1), landmarks))
        return select_faces(len(pixel_values), found, config.nms_threshold, config.max_candidates)


__all__ = ["RetinaFaceModel", "RetinaFacePreTrainedModel"]
