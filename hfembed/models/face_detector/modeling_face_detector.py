"""Face detector: boxes, scores and five landmarks, by a cascade of three small networks."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

import torch
from torch import nn
from torchvision.ops import batched_nms
from transformers import initialization as init

from hfembed.models.detected_faces import DetectedFaces, FaceDetector, FaceDetectorOutput, output_by_photo

from .area_resampling import AreaResampling
from .cascade_networks import LandmarkNetwork, ProposalNetwork, RefinementNetwork
from .configuration_face_detector import FaceDetectorConfig
from .windows import cell_windows, clip_windows, pyramid_scales, shift_windows, square_windows, suppress_within


class _Level(NamedTuple):
    """One level of a photo's pyramid."""

    photo: int
    scale: float
    height: int
    width: int


class FaceDetectorPreTrainedModel(FaceDetector):
    """Initialization of the detector."""

    config: FaceDetectorConfig

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d | nn.Linear):
            init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.PReLU):
            init.constant_(module.weight, 0.25)
        else:
            super()._init_weights(module)


class FaceDetectorModel(FaceDetectorPreTrainedModel):
    """MTCNN: Zhang, Zhang, Li, Qiao, "Joint face detection and alignment using multi-task cascaded convolutional
    networks", 2016.

    A fully convolutional network proposes windows at every scale, a second one drops most of them and moves the rest,
    a third one decides, and finds the landmarks.

    Attributes:
        windows_at_a_time: Windows of 48 x 48 pixels, or the same number of pixels otherwise, that a network takes
            at a time on a CPU: their maps then stay in the cache.
    """

    windows_at_a_time = 16

    def __init__(self, config: FaceDetectorConfig) -> None:
        super().__init__(config)
        self.proposal = ProposalNetwork()
        self.refinement = RefinementNetwork()
        self.landmark = LandmarkNetwork()
        self.post_init()

    def forward(self, pixel_values: torch.Tensor | Sequence[torch.Tensor]) -> FaceDetectorOutput:
        """Find the faces in photos; see `FaceDetector.forward`."""
        photos = [self.check_photo(pixels).to(self.device) for pixels in pixel_values]
        resampling = AreaResampling(photos)
        sizes = torch.tensor([photo.shape[1:] for photo in photos], device=self.device)

        photo, windows = self._propose(resampling, sizes.tolist())
        photo, windows = self._refine(resampling, sizes, photo, windows)
        photo, windows, scores, landmarks = self._locate(resampling, sizes, photo, windows)
        return output_by_photo(len(photos), photo, windows, scores, landmarks)

    def _propose(self, resampling: AreaResampling, sizes: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """All windows that may show a face: photo (K,) and square windows (K, 4)."""
        config = self.config
        levels = [
            _Level(number, scale, *resampling.level_size(height, width, scale))
            for number, (height, width) in enumerate(sizes)
            for scale in pyramid_scales(height, width, config.min_face_size, config.pyramid_factor)
        ]
        found = [_no_proposals(self.device)]
        first = 0
        for batch in self._level_batches(levels):
            photo = torch.tensor([level.photo for level in batch], device=self.device)
            scale = torch.tensor([level.scale for level in batch], device=self.device)
            pixels = resampling.levels(photo, batch[0].height, batch[0].width)
            scores, shifts = self.proposal(self._input(pixels))
            level, row, column = (scores >= config.score_thresholds[0]).nonzero().unbind(1)
            windows = cell_windows(column, row, scale[level])
            found.append(
                (windows, scores[level, row, column], shifts[level, :, row, column], photo[level], first + level)
            )
            first += len(batch)
        windows, scores, shifts, photo, level = (torch.cat(column) for column in zip(*found, strict=True))

        kept = batched_nms(windows, scores, level, config.nms_thresholds[0])
        windows, scores, shifts, photo = windows[kept], scores[kept], shifts[kept], photo[kept]
        kept = batched_nms(windows, scores, photo, config.nms_thresholds[1])
        return photo[kept], square_windows(shift_windows(windows[kept], shifts[kept], last_pixel=0))

    def _refine(
        self, resampling: AreaResampling, sizes: torch.Tensor, photo: torch.Tensor, windows: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The proposals that a closer look lets stand: photo (K,) and square windows (K, 4)."""
        photo, windows, edges = _within_photos(photo, windows, sizes)
        outputs = [
            self.refinement(self._input(resampling.crops(photo[part], edges[part], 24)))
            for part in self._parts(len(windows), 24)
        ]
        if not outputs:
            return photo, windows
        scores, shifts = (torch.cat(column) for column in zip(*outputs, strict=True))
        kept = scores >= self.config.score_thresholds[1]
        windows, scores, shifts, photo = windows[kept], scores[kept], shifts[kept], photo[kept]
        kept = batched_nms(windows, scores, photo, self.config.nms_thresholds[2])
        return photo[kept], square_windows(shift_windows(windows[kept], shifts[kept], last_pixel=1))

    def _locate(
        self, resampling: AreaResampling, sizes: torch.Tensor, photo: torch.Tensor, windows: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """The faces: photo (K,), boxes (K, 4), scores (K,), landmarks (K, 5, 2)."""
        photo, windows, edges = _within_photos(photo, windows, sizes)
        outputs = [
            self.landmark(self._input(resampling.crops(photo[part], edges[part], 48)))
            for part in self._parts(len(windows), 48)
        ]
        if not outputs:
            return photo, windows, windows.new_zeros(0), windows.new_zeros(0, 5, 2)
        scores, shifts, landmarks = (torch.cat(column) for column in zip(*outputs, strict=True))
        kept = scores >= self.config.score_thresholds[2]
        windows, scores, shifts, photo = windows[kept], scores[kept], shifts[kept], photo[kept]
        sides = windows[:, 2:] - windows[:, :2] + 1
        landmarks = landmarks[kept] * sides.unsqueeze(1) + windows[:, None, :2] - 1
        boxes = shift_windows(windows, shifts, last_pixel=1)
        kept = suppress_within(boxes, scores, photo, self.config.nms_thresholds[3])
        return photo[kept], boxes[kept], scores[kept], landmarks[kept]

    def _input(self, pixels: torch.Tensor) -> torch.Tensor:
        # max-pooling on a CPU is several times faster on channels-last maps
        return pixels.to(self.dtype, memory_format=torch.channels_last)

    def _parts(self, count: int, side: int) -> list[slice]:
        """Windows of `side` pixels that go through a network together."""
        at_a_time = self.windows_at_a_time * (48 // side) ** 2 if self.device.type == "cpu" else 512
        return [slice(start, start + at_a_time) for start in range(0, count, at_a_time)]

    def _level_batches(self, levels: list[_Level]) -> Iterator[list[_Level]]:
        """Levels that go through the proposal network together: of one size, up to a number of pixels."""
        limit = self.windows_at_a_time * 48**2 if self.device.type == "cpu" else self.pixels_at_a_time

        def size(level: _Level) -> tuple[int, int]:
            return level.height, level.width

        for (height, width), group in groupby(sorted(levels, key=size), key=size):
            alike, at_a_time = list(group), max(limit // (height * width), 1)
            for start in range(0, len(alike), at_a_time):
                yield alike[start : start + at_a_time]


def _no_proposals(device: torch.device) -> tuple[torch.Tensor, ...]:
    floats, numbers = torch.zeros(0, device=device), torch.zeros(0, dtype=torch.long, device=device)
    return floats.view(0, 4), floats, floats.view(0, 4), numbers, numbers


def _within_photos(
    photo: torch.Tensor, windows: torch.Tensor, sizes: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The windows that show some of their photo, and the edges of what they show."""
    edges = clip_windows(windows, sizes[photo])
    shown = (edges[:, 2:] > edges[:, :2]).all(1)
    return photo[shown], windows[shown], edges[shown]


__all__ = ["DetectedFaces", "FaceDetectorModel", "FaceDetectorOutput", "FaceDetectorPreTrainedModel"]
