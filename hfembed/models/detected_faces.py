"""What all face detectors share: what they return, and the way from photos of any sizes to it and back."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from huggingface_hub.errors import StrictDataclassError
from torchvision.ops import batched_nms
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from hfembed.models.device_loading import DeviceLoading
from hfembed.models.face_detector_config import DetectorConfig
from hfembed.models.photo_image_processor import PhotoImageProcessor, PhotoSource


@dataclass
class FaceDetectorOutput(ModelOutput):
    """Output of a face detector; num_faces is the largest number of faces in a photo of the batch.

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
        landmarks: (n, 5, 2), left eye, right eye, nose, left and right mouth corner as seen in the photo, [x, y]; in
            a photo that was searched turned, as seen once it is upright.
    """

    boxes: torch.Tensor
    scores: torch.Tensor
    landmarks: torch.Tensor


class FaceDetector(DeviceLoading, PreTrainedModel):
    """Base of the face detectors; a family implements `forward`.

    Attributes:
        pixels_at_a_time: Pixels of photos that `detect` searches together.
        sure_score: Score of an upright face from which on `detect` does not look for one in the turned photo.
        pixels_in_cache: Pixels of photos that a convolutional network takes at a time on a CPU.
    """

    config: DetectorConfig
    base_model_prefix = "detector"
    main_input_name = "pixel_values"
    input_modalities = ["image"]
    model_tags = ["hfembed", "face-detection"]
    _no_split_modules = []

    pixels_at_a_time = 4_000_000
    pixels_in_cache = 300_000
    sure_score = 0.99

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
        raise NotImplementedError

    def change_search(
        self, turned: bool | None = None, max_image_size: int | None = None, min_face_size: float | None = None
    ) -> None:
        """Change how photos are searched from here on.

        Args:
            turned: `config.turned`; None leaves it.
            max_image_size: `config.max_image_size`, 0 for photos at full size; None leaves it.
            min_face_size: `config.min_face_size`; None leaves it.

        Raises:
            ValueError: A size is impossible.
        """
        config: Any = copy.copy(self.config)
        if turned is not None:
            config.turned = turned
        if max_image_size is not None:
            config.max_image_size = max_image_size or None
        if min_face_size is not None:
            config.min_face_size = min_face_size
        try:
            config.validate()
        except StrictDataclassError as error:
            raise ValueError(str(error.__cause__ or error)) from error
        self.config = config

    @torch.no_grad()
    def detect(self, images: PhotoSource | Sequence[PhotoSource]) -> list[DetectedFaces]:
        """Find the faces in photos of any sizes.

        Args:
            images: A photo or a list of photos: whatever its image processor opens. Those larger than
                `config.max_image_size` are searched at that size.

        Returns:
            One entry per photo, in pixels of the photo itself, upright by its EXIF orientation; see also
            `config.turned`.

        Raises:
            ValueError: A photo cannot be read; the message names it.
        """
        photos = PhotoImageProcessor().preprocess(images, self.config.max_image_size)
        return self.detect_in(photos.pixel_values, photos.shrinkage)

    @torch.no_grad()
    def detect_in(
        self, pixel_values: Sequence[torch.Tensor], shrinkage: Sequence[float] | None = None
    ) -> list[DetectedFaces]:
        """Find the faces in decoded photos of any sizes: no one's faces depend on what else is in the list.

        Args:
            pixel_values: (3, H, W) each, RGB, uint8 or float in [0, 255], from its image processor.
            shrinkage: How much larger each photo was before it was decoded to this size; 1 by default.

        Returns:
            One entry per photo, in pixels of the photo before it was shrunk.

        Raises:
            ValueError: A photo has another shape.
        """
        found = self._search(pixel_values)
        if self.config.turned:
            self._search_turned(pixel_values, found)
        for number, factor in enumerate(shrinkage or []):
            boxes, scores, landmarks = found[number]
            factors = scores.new_full((len(scores), 2), factor)
            boxes = scale_back(boxes.unflatten(1, (2, 2)), factors).flatten(1)
            found[number] = DetectedFaces(boxes, scores, scale_back(landmarks, factors))
        return found

    def _search(self, photos: Sequence[torch.Tensor]) -> list[DetectedFaces]:
        """The faces in decoded photos, in pixels of these."""
        faces: dict[int, DetectedFaces] = {}
        for numbers in self._searched_together([(photo.shape[-2], photo.shape[-1]) for photo in photos]):
            output = self([photos[number] for number in numbers])
            counts = (output.scores > 0).sum(1).tolist()
            for place, (number, count) in enumerate(zip(numbers, counts, strict=True)):
                values = (output.boxes, output.scores, output.landmarks)
                faces[number] = DetectedFaces(*(value[place, :count].cpu() for value in values))
        return [faces[number] for number in range(len(photos))]

    def _search_turned(self, photos: Sequence[torch.Tensor], found: list[DetectedFaces]) -> None:
        """Replace what was found in photos without a sure face, where a turned photo has a better one."""
        doubtful = [number for number, faces in enumerate(found) if upright_score(faces) < self.sure_score]
        best = {number: upright_score(found[number]) for number in doubtful}
        for quarters in (1, 2, 3):
            turned = [torch.rot90(photos[number], quarters, (1, 2)) for number in doubtful]
            for number, faces in zip(doubtful, self._search(turned), strict=True):
                score = upright_score(faces)
                if score > best[number]:
                    best[number] = score
                    found[number] = turn_back(faces, quarters, photos[number].shape[2], photos[number].shape[1])

    def check_photo(self, pixels: torch.Tensor) -> torch.Tensor:
        """A photo (3, H, W) as it was given.

        Raises:
            ValueError: It has another shape.
        """
        if pixels.ndim != 3 or pixels.shape[0] != 3 or 0 in pixels.shape:
            raise ValueError(f"a photo must be (3, height, width), got {tuple(pixels.shape)}; use its image processor")
        return pixels

    def padded_batches(
        self, photos: torch.Tensor | Sequence[torch.Tensor], multiple: int = 1, scale: float = 1.0
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Photos that a convolutional network takes together: those of one size once padded.

        Args:
            photos: (3, H, W) each, uint8 or float in [0, 255].
            multiple: Height and width are padded with black, at the bottom and on the right, to multiples of it.
            scale: Photos are resized to this fraction of their size first.

        Yields:
            The photos' positions (B,), int64, their pixels (B, 3, H, W) in the network's type, and how many pixels of
            a photo, [x, y], each pixel of these is (B, 2).

        Raises:
            ValueError: A photo has another shape.
        """
        groups: dict[tuple[int, int], list[int]] = {}
        sizes = []
        for number, photo in enumerate(photos):
            height, width = (max(round(side * scale), 1) for side in self.check_photo(photo).shape[1:])
            sizes.append((height, width))
            groups.setdefault((-(-height // multiple) * multiple, -(-width // multiple) * multiple), []).append(number)
        limit = self.pixels_in_cache if self.device.type == "cpu" else self.pixels_at_a_time
        for (height, width), numbers in groups.items():
            step = max(limit // (height * width), 1)
            for part in (numbers[start : start + step] for start in range(0, len(numbers), step)):
                # a decoded photo has all channels of a pixel beside each other, and so has the batch: the faster way
                pixels = torch.zeros(len(part), height, width, 3, dtype=self.dtype, device=self.device)
                for place, number in enumerate(part):
                    photo = _resized(photos[number].to(self.device), sizes[number])
                    pixels[place, : photo.shape[1], : photo.shape[2]] = photo.permute(1, 2, 0)
                factors = [[photos[n].shape[2] / sizes[n][1], photos[n].shape[1] / sizes[n][0]] for n in part]
                yield (
                    torch.tensor(part, device=self.device),
                    pixels.permute(0, 3, 1, 2),
                    torch.tensor(factors, device=self.device),
                )

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


def output_by_photo(
    photos: int, photo: torch.Tensor, boxes: torch.Tensor, scores: torch.Tensor, landmarks: torch.Tensor
) -> FaceDetectorOutput:
    """Pad the faces of a batch, highest scores first, to one row per photo.

    Args:
        photos: Number of photos.
        photo: (K,) int64, the photo of each face.
        boxes: (K, 4).
        scores: (K,).
        landmarks: (K, 5, 2).

    Returns:
        (photos, largest number of faces in a photo, ...) each.
    """
    # the place of each face among those of its photo
    place = (photo[:, None] == photo[None]).tril(-1).sum(1)
    most = int(place.max()) + 1 if len(place) else 0
    padded = []
    for values in (scores, boxes, landmarks):
        padded.append(values.new_zeros(photos, most, *values.shape[1:]))
        padded[-1][photo, place] = values
    return FaceDetectorOutput(*padded)


def _resized(photo: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """(3, H, W) of another size."""
    if photo.shape[1:] == size:
        return photo
    if photo.dtype != torch.uint8 or photo.device.type != "cpu":  # only a CPU resizes integers
        photo = photo.float()
    return F.interpolate(photo[None], size, mode="bilinear", antialias=True)[0]


def scale_back(points: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """Points (K, n, 2) of resized photos in pixels of the photos themselves, by the factors (K, 2), [x, y]."""
    # pixel centers lie at whole numbers: the photo's corner, about which it was resized, half a pixel off
    return (points + 0.5) * factors[:, None] - 0.5


def upright_score(faces: DetectedFaces) -> float:
    """The highest score of a face whose mouth is below its eyes, within 45 degrees; 0 where there is none."""
    down = faces.landmarks[:, 3:].mean(1) - faces.landmarks[:, :2].mean(1)
    scores = faces.scores[down[:, 1] >= down[:, 0].abs()]
    return float(scores.max()) if len(scores) else 0.0


def turn_back(faces: DetectedFaces, quarters: int, width: int, height: int) -> DetectedFaces:
    """Faces of a photo that was turned counterclockwise by so many quarters, in pixels of the photo as it was.

    Args:
        width: Of the photo as it was.
        height: Of the photo as it was.
    """
    points = torch.cat([faces.boxes.unflatten(1, (2, 2)), faces.landmarks], 1)
    for quarter in range(quarters, 0, -1):
        # the width of the photo before this quarter
        side = width if quarter % 2 else height
        points = torch.stack([side - 1 - points[..., 1], points[..., 0]], 2)
    corners = points[:, :2]
    return DetectedFaces(torch.cat([corners.amin(1), corners.amax(1)], 1), faces.scores, points[:, 2:])


def select_faces(
    photos: int, found: Sequence[tuple[torch.Tensor, ...]], nms_threshold: float, max_candidates: int
) -> FaceDetectorOutput:
    """Drop all but the highest-scoring of the boxes that overlap.

    Args:
        photos: Number of photos.
        found: Parts in any order: photo (K,), scores (K,), boxes (K, 4) and landmarks (K, 5, 2).
        nms_threshold: Intersection over union above which the weaker of two is dropped.
        max_candidates: This many boxes of a photo are compared at most, those of the highest scores.
    """
    photo, scores, boxes, landmarks = (torch.cat(column) for column in zip(*found, strict=True))
    order = scores.argsort(descending=True, stable=True)
    if len(order) > max_candidates:
        order = torch.cat([order[photo[order] == number][:max_candidates] for number in range(photos)])
    photo, scores, boxes, landmarks = photo[order], scores[order], boxes[order], landmarks[order]
    kept = batched_nms(boxes, scores, photo, nms_threshold)
    return output_by_photo(photos, photo[kept], boxes[kept], scores[kept], landmarks[kept])


__all__ = ["DetectedFaces", "FaceDetector", "FaceDetectorOutput", "output_by_photo", "scale_back", "select_faces"]
