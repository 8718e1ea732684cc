"""Face detector: boxes, scores and five landmarks, by a cascade of three small networks."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import torch
from torch import nn
from torchvision.ops import batched_nms
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput

from hfembed.models.device_loading import DeviceLoading

from .area_resampling import AreaResampling
from .cascade_networks import LandmarkNetwork, ProposalNetwork, RefinementNetwork
from .configuration_face_detector import FaceDetectorConfig
from .image_processing_face_detector import FaceDetectorImageProcessor, PhotoSource
from .windows import cell_windows, clip_windows, pyramid_scales, shift_windows, square_windows, suppress_within


@dataclass
class FaceDetectorOutput(ModelOutput):
    """Output of `FaceDetectorModel`; num_faces is the largest number of faces in a photo of the batch.

    Args:
        scores (`torch.FloatTensor` of shape `(batch_size, num_faces)`): Probabilities, falling; 0 where a photo has
            no more faces.
        boxes (`torch.FloatTensor` of shape `(batch_size, num_faces, 4)`): Left, top, right, bottom in pixels.
        landmarks (`torch.FloatTensor` of shape `(batch_size, num_faces, 5, 2)`): Left eye, right eye, nose, left and
            right mouth corner as seen in the photo, [x, y] in pixels.
    """

    scores: torch.Tensor | None = None
    boxes: torch.Tensor | None = None
    landmarks: torch.Tensor | None = None


class DetectedFaces(NamedTuple):
    """The n faces of one photo, the highest-scoring first; n may be 0. On the CPU.

    Attributes:
        boxes: (n, 4), left, top, right, bottom in pixels of the upright photo; may reach beyond its edges.
        scores: (n,), probabilities.
        landmarks: (n, 5, 2), left eye, right eye, nose, left and right mouth corner as seen in the photo, [x, y].
    """

    boxes: torch.Tensor
    scores: torch.Tensor
    landmarks: torch.Tensor


class _Level(NamedTuple):
    """One level of a photo's pyramid."""

    photo: int
    scale: float
    height: int
    width: int


class FaceDetectorPreTrainedModel(DeviceLoading, PreTrainedModel):
    """Loading and initialization of the detector."""

    config: FaceDetectorConfig
    base_model_prefix = "detector"
    main_input_name = "pixel_values"
    input_modalities = ["image"]
    model_tags = ["hfembed", "face-detection"]
    _no_split_modules = []

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
        pixels_at_a_time: Pixels of photos that `detect` searches together.
        windows_at_a_time: Windows of 48 x 48 pixels, or the same number of pixels otherwise, that a network takes
            at a time on a CPU: their maps then stay in the cache.
    """

    pixels_at_a_time = 4_000_000
    windows_at_a_time = 16

    def __init__(self, config: FaceDetectorConfig) -> None:
        super().__init__(config)
        self.proposal = ProposalNetwork()
        self.refinement = RefinementNetwork()
        self.landmark = LandmarkNetwork()
        self.post_init()

    @torch.no_grad()
    def detect(self, images: PhotoSource | Sequence[PhotoSource]) -> list[DetectedFaces]:
        """Find the faces in photos of any sizes.

        Args:
            images: A photo or a list of photos: whatever `FaceDetectorImageProcessor` opens. Those larger than
                `config.max_image_size` are searched at that size.

        Returns:
            One entry per photo, in pixels of the photo itself, upright by its EXIF orientation.

        Raises:
            ValueError: A photo cannot be read; the message names it.
        """
        photos = FaceDetectorImageProcessor().preprocess(images, self.config.max_image_size)
        return self.detect_in(photos.pixel_values, photos.shrinkage)

    @torch.no_grad()
    def detect_in(
        self, pixel_values: Sequence[torch.Tensor], shrinkage: Sequence[float] | None = None
    ) -> list[DetectedFaces]:
        """Find the faces in decoded photos of any sizes: no one's faces depend on what else is in the list.

        Args:
            pixel_values: (3, H, W) each, RGB, uint8 or float in [0, 255], from `FaceDetectorImageProcessor`.
            shrinkage: How much larger each photo was before it was decoded to this size; 1 by default.

        Returns:
            One entry per photo, in pixels of the photo before it was shrunk.

        Raises:
            ValueError: A photo has another shape.
        """
        shrinkage = [1.0] * len(pixel_values) if shrinkage is None else shrinkage
        faces: dict[int, DetectedFaces] = {}
        for numbers in self._searched_together([(pixels.shape[-2], pixels.shape[-1]) for pixels in pixel_values]):
            found = self([pixel_values[number] for number in numbers])
            counts = (found.scores > 0).sum(1).tolist()
            for place, (number, count) in enumerate(zip(numbers, counts, strict=True)):
                factor = shrinkage[number]
                # pixel centers lie at whole numbers: the photo's corner, about which it was shrunk, half a pixel off
                boxes = (found.boxes[place, :count] + 0.5) * factor - 0.5
                landmarks = (found.landmarks[place, :count] + 0.5) * factor - 0.5
                faces[number] = DetectedFaces(boxes.cpu(), found.scores[place, :count].cpu(), landmarks.cpu())
        return [faces[number] for number in range(len(pixel_values))]

    def forward(self, pixel_values: torch.Tensor | Sequence[torch.Tensor]) -> FaceDetectorOutput:
        """Find the faces in photos.

        Args:
            pixel_values: (batch_size, 3, H, W), or a list of (3, H, W) of different sizes; RGB, uint8 or float in
                [0, 255].

        Returns:
            FaceDetectorOutput, float32, in pixels of the photos as given.

        Raises:
            ValueError: A photo has another shape.
        """
        photos = [self._checked(pixels).to(self.device) for pixels in pixel_values]
        resampling = AreaResampling(photos)
        sizes = torch.tensor([photo.shape[1:] for photo in photos], device=self.device)

        photo, windows = self._propose(resampling, sizes.tolist())
        photo, windows = self._refine(resampling, sizes, photo, windows)
        photo, windows, scores, landmarks = self._locate(resampling, sizes, photo, windows)
        return _by_photo(len(photos), photo, windows, scores, landmarks)

    def _checked(self, pixels: torch.Tensor) -> torch.Tensor:
        if pixels.ndim != 3 or pixels.shape[0] != 3 or 0 in pixels.shape:
            raise ValueError(f"a photo must be (3, height, width), got {tuple(pixels.shape)}; use its image processor")
        return pixels

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

    def _searched_together(self, sizes: list[tuple[int, int]]) -> Iterator[list[int]]:
        """Numbers of photos, grouped by size, up to a number of pixels."""
        batch: list[int] = []
        pixels = 0
        for number in sorted(range(len(sizes)), key=sizes.__getitem__):
            height, width = sizes[number]
            if batch and pixels + height * width > self.pixels_at_a_time:
                yield batch
                batch, pixels = [], 0
            batch.append(number)
            pixels += height * width
        if batch:
            yield batch


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


def _by_photo(
    photos: int, photo: torch.Tensor, boxes: torch.Tensor, scores: torch.Tensor, landmarks: torch.Tensor
) -> FaceDetectorOutput:
    """Faces (K, ...) of a batch, falling in score, as (photos, largest number of faces, ...)."""
    # the place of each face among those of its photo
    place = (photo[:, None] == photo[None]).tril(-1).sum(1)
    most = int(place.max()) + 1 if len(place) else 0
    padded = []
    for values in (scores, boxes, landmarks):
        padded.append(values.new_zeros(photos, most, *values.shape[1:]))
        padded[-1][photo, place] = values
    return FaceDetectorOutput(*padded)


__all__ = ["DetectedFaces", "FaceDetectorModel", "FaceDetectorOutput", "FaceDetectorPreTrainedModel"]
