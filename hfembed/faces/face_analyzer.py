"""Photos -> the faces in them, each with its box, landmarks, quality and embedding."""

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from transformers import BaseImageProcessor, PreTrainedModel

from hfembed.atomic import atomic_folder
from hfembed.checkpoint.card import write_card
from hfembed.checkpoint.checkpoint import Checkpoint
from hfembed.checkpoint.files import DETECTOR_FOLDER, RESULTS_FILE, TRAINING_FILE
from hfembed.checkpoint.loading import load_face_detector, load_face_embedder
from hfembed.checkpoint.push import push_folder
from hfembed.errors import InputError, input_errors
from hfembed.faces.threads import map_in_threads
from hfembed.hub.commit import Pushed
from hfembed.models.face_detector.image_processing_face_detector import Photo, PhotoSource
from hfembed.models.face_detector.modeling_face_detector import DetectedFaces

WhichFaces = Literal["all", "largest", "only"]


class FaceQuality(NamedTuple):
    """How good a picture of a face is; each figure rises with it.

    Attributes:
        score: The detector's probability that it is a face.
        size: The shorter side of the face's box, in pixels of the photo.
        sharpness: Variance of the Laplacian of the aligned crop's grey values in [0, 255] (Pech-Pacheco et al. 2000).
        norm: Length of the embedding before normalisation: how much of a face the embedder saw. Comparable between
            faces seen by one model only.
    """

    score: float
    size: float
    sharpness: float
    norm: float


class Face(NamedTuple):
    """A face in a photo; all coordinates in pixels of the upright photo.

    Attributes:
        box: (4,) float32, left, top, right, bottom.
        landmarks: (5, 2) float32, left eye, right eye, nose, left and right mouth corner as seen in the photo, [x, y].
        quality: How good a picture it is.
        embedding: (D,) float32, unit length.
    """

    box: np.ndarray
    landmarks: np.ndarray
    quality: FaceQuality
    embedding: np.ndarray


class AnalyzedPhoto(NamedTuple):
    """What was found in one photo.

    Attributes:
        name: The photo's file, or its place among the photos.
        faces: The faces asked for, the surest first; none where there are none, or where the photo failed.
        error: Why the photo failed, in one line that names it; None where it did not. A photo without any face fails
            where just one was asked for.
    """

    name: str
    faces: list[Face]
    error: str | None = None


class Verification(NamedTuple):
    """Whether two photos show one person.

    Attributes:
        same: The decision.
        similarity: Cosine of the embeddings, in [-1, 1].
        distance: Squared Euclidean distance of the embeddings, 2 - 2 cosine, in [0, 4].
        threshold: The cosine from which on the decision is yes.
        far: The false accept rate that the threshold was set for; None: it is the one of the highest accuracy.
        probability: That they are one person, where that was as likely as not before; None for a model without a
            calibration.
    """

    same: bool
    similarity: float
    distance: float
    threshold: float
    far: float | None
    probability: float | None


class FaceAnalyzer:
    """Detector and embedder with their processors, in one call and one folder.

    The folder is the embedder's checkpoint, thresholds included, with the detector's in `detector/`: whatever takes a
    face embedder takes it too.

    Args:
        detector: A `FaceDetectorModel` in eval mode.
        detector_processor: Its `FaceDetectorImageProcessor`.
        embedder: A `FaceEmbedderModel` in eval mode.
        embedder_processor: Its `FaceImageProcessor`.

    Example:
        ```python
        analyzer = FaceAnalyzer.from_pretrained("outputs/analyzer")
        for photo in analyzer(["a.jpg", "b.jpg"]):
            print(photo.name, photo.error, [face.box for face in photo.faces])
        analyzer.verify("a.jpg", "b.jpg", far=1e-3)
        ```
    """

    def __init__(
        self,
        detector: PreTrainedModel,
        detector_processor: BaseImageProcessor,
        embedder: PreTrainedModel,
        embedder_processor: BaseImageProcessor,
    ) -> None:
        self.detector = detector
        self.detector_processor = detector_processor
        self.embedder = embedder
        self.embedder_processor = embedder_processor
        self._folded: PreTrainedModel | None = None

    @classmethod
    def from_pretrained(cls, folder_or_repo: str | Path, device: str = "auto") -> "FaceAnalyzer":
        """Load an analyzer.

        Args:
            folder_or_repo: What `save_pretrained` wrote, here or on the Hub.
            device: A torch device, or "auto" for the accelerator where there is one.

        Returns:
            The analyzer.

        Raises:
            InputError: There is no such folder or repository, or it lacks one of the two models.
        """
        folder = Checkpoint.resolve(folder_or_repo).folder
        if not (folder / DETECTOR_FOLDER).is_dir():
            raise InputError(
                f"{folder_or_repo} has no detector in it: put one beside the embedder with hfembed analyzer DETECTOR "
                f"{folder_or_repo} OUT"
            )
        return cls.from_models(folder / DETECTOR_FOLDER, folder, device)

    @classmethod
    def from_models(cls, detector: str | Path, embedder: str | Path, device: str = "auto") -> "FaceAnalyzer":
        """Put two checkpoints together.

        Args:
            detector: Folder or Hub id of a face detector.
            embedder: Folder or Hub id of a face embedder.
            device: A torch device, or "auto" for the accelerator where there is one.

        Returns:
            The analyzer.

        Raises:
            InputError: One of them is no such checkpoint.
        """
        return cls(
            *load_face_detector(detector, device),
            *load_face_embedder(embedder, device),
        )

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a folder for `from_pretrained`.

        Raises:
            OSError: The folder cannot be written.
        """
        for model, processor, place in (
            (self.embedder, self.embedder_processor, Path(folder)),
            (self.detector, self.detector_processor, Path(folder) / DETECTOR_FOLDER),
        ):
            model.save_pretrained(place)
            processor.save_pretrained(place)

    def push_to_hub(self, repo_id: str, *, private: bool | None = None, token: str | None = None) -> Pushed:
        """Put the analyzer on the Hub, in one commit.

        Args:
            repo_id: "owner/name", or "name" for one of the token's owner. Made where it does not exist.
            private: Make a new repository private. An existing public one is then refused.
            token: Instead of this machine's.

        Returns:
            Where the analyzer is now.

        Raises:
            InputError: The Hub refuses: token, rights, name.
            HubUnavailableError: The Hub cannot be reached, or fails again and again; push later.
        """
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return push_folder(folder, repo_id, private=private, token=token)

    def __call__(
        self,
        photos: PhotoSource | Sequence[PhotoSource],
        faces: WhichFaces = "all",
        batch_size: int = 32,
        num_workers: int = 1,
    ) -> list[AnalyzedPhoto]:
        """Find and embed the faces in photos of any sizes.

        Args:
            photos: A photo or several: paths, encoded bytes, PIL images, uint8 arrays or tensors.
            faces: "all" faces of a photo, its "largest", or its "only" one: several are then an error.
            batch_size: Photos that go through the networks together.
            num_workers: Threads, each with its own batch; as many as there are cores is fastest on a CPU.

        Returns:
            An entry a photo, in order. A photo that cannot be read has an error and no faces; the others are served.

        Raises:
            InputError: `faces` is none of the three.
        """
        if isinstance(photos, PhotoSource):
            photos = [photos]
        return list(self.stream(photos, faces, batch_size, num_workers))

    def stream(
        self,
        photos: Sequence[PhotoSource],
        faces: WhichFaces = "all",
        batch_size: int = 32,
        num_workers: int = 1,
    ) -> Iterator[AnalyzedPhoto]:
        """As calling the analyzer, but each batch's photos come as soon as they are done.

        Args:
            photos: See `__call__`.
            faces: See `__call__`.
            batch_size: See `__call__`.
            num_workers: See `__call__`.

        Yields:
            An entry a photo, in order.

        Raises:
            InputError: `faces` is none of the three.
        """
        if faces not in ("all", "largest", "only"):
            raise InputError(f"faces='{faces}': choose 'all', 'largest' or 'only'")
        names = [_name(photo, number) for number, photo in enumerate(photos)]
        batches = [slice(start, start + batch_size) for start in range(0, len(photos), batch_size)]
        for done in map_in_threads(
            lambda batch: self._analyze(photos[batch], names[batch], faces), batches, num_workers
        ):
            yield from done

    def verify(
        self, photo_a: PhotoSource, photo_b: PhotoSource, far: float | None = None, faces: WhichFaces = "largest"
    ) -> Verification:
        """Decide whether two photos show one person.

        Args:
            photo_a: A photo.
            photo_b: Another.
            far: False accept rate to decide at; None takes the threshold of the highest accuracy.
            faces: Which face of a photo with several: the "largest", or "only": an error.

        Returns:
            The decision and what it rests on.

        Raises:
            InputError: A photo cannot be read or shows no face, or the embedder has no threshold for this rate.
        """
        if faces not in ("largest", "only"):
            raise InputError(f"faces='{faces}': one face of each photo is compared, the 'largest' or the 'only' one")
        with input_errors():
            self.embedder.threshold(far)  # what cannot be decided at the end should fail before the work
        photos = self([photo_a, photo_b], faces)
        for photo in photos:
            if photo.error:
                raise InputError(photo.error)
        return self.compare(photos[0].faces[0].embedding, photos[1].faces[0].embedding, far)

    def compare(self, embedding_a: np.ndarray, embedding_b: np.ndarray, far: float | None = None) -> Verification:
        """Decide whether two embeddings (D,) are one person's; see `verify`.

        Raises:
            InputError: The embedder has no threshold for this rate, or the embeddings differ in length.
        """
        a, b = torch.from_numpy(embedding_a)[None], torch.from_numpy(embedding_b)[None]
        with input_errors():
            threshold = self.embedder.threshold(far)
            similarity = self.embedder.similarity(a, b).item()
            is_calibrated = "calibration" in self.embedder.config.thresholds
            probability = self.embedder.probability(a, b).item() if is_calibrated else None
        return Verification(similarity >= threshold, similarity, 2 - 2 * similarity, threshold, far, probability)

    def find(self, photos: Sequence[Photo], faces: WhichFaces = "all") -> list[DetectedFaces]:
        """The faces asked for in decoded photos, without their embeddings.

        Args:
            photos: From the detector's processor.
            faces: See `__call__`; "only" is as "all" here.

        Returns:
            An entry a photo.
        """
        found = self.detector.detect_in([photo.pixels for photo in photos], [photo.shrinkage for photo in photos])
        return [_largest(detected) for detected in found] if faces == "largest" else found

    def crop(self, source: PhotoSource, photo: Photo, landmarks: np.ndarray) -> np.ndarray:
        """The aligned crop of one face, uint8 (height, width, channels).

        Args:
            source: The photo itself.
            photo: The photo as the detector saw it.
            landmarks: (5, 2), in pixels of the photo itself.

        Raises:
            ValueError: The landmarks lie outside the photo.
        """
        # a photo that was shrunk for the detector has more to show than what was searched
        pixels = photo.pixels.permute(1, 2, 0).numpy() if photo.shrinkage == 1 else source
        return self.embedder_processor.align(pixels, landmarks)

    def _fast_embedder(self) -> PreTrainedModel:
        """A copy of the embedder, its BatchNorm folded away; made anew where the embedder has moved."""
        kept = self._folded
        if kept is None or (kept.device, kept.dtype) != (self.embedder.device, self.embedder.dtype):
            try:
                kept = self.embedder.optimize_for_inference()
            except ValueError:  # a trunk that does not use its BatchNorm where it lists it: embeds as it is
                kept = self.embedder
            self._folded = kept
        return kept

    def embed_crops(self, crops: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Embed aligned crops (height, width, channels) of a `crop`.

        Returns:
            Embeddings (N, D), norms (N,) and sharpness (N,), all float32.
        """
        pixels = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2)
        normalized = self.embedder_processor.normalize(pixels.to(self.embedder.device))
        embeddings, norms = self._fast_embedder().embed_with_norms(normalized)
        return embeddings.cpu().numpy(), norms.cpu().numpy(), sharpness(pixels).numpy()

    def _analyze(self, photos: Sequence[PhotoSource], names: list[str], faces: WhichFaces) -> list[AnalyzedPhoto]:
        opened: list[Photo | None] = []
        errors: list[str | None] = []
        for photo, name in zip(photos, names, strict=True):
            try:
                opened.append(self.detector_processor.open(photo, self.detector.config.max_image_size))
                errors.append(None)
            except ValueError as error:
                opened.append(None)
                errors.append(str(error) if name in str(error) else f"{name}: {error}")
        readable = [number for number, photo in enumerate(opened) if photo is not None]
        found = dict(zip(readable, self.find([opened[number] for number in readable], faces), strict=True))

        crops, owners = [], []
        for number, detected in found.items():
            count = len(detected.scores)
            if faces != "all" and count == 0:
                errors[number] = f"{names[number]}: no face was found"
            elif faces == "only" and count > 1:
                errors[number] = f"{names[number]}: {count} faces, where only one was expected"
            else:
                for index in range(count):
                    try:
                        crop = self.crop(photos[number], opened[number], detected.landmarks[index].numpy())
                    except ValueError as error:
                        errors[number] = f"{names[number]}: face {index + 1} of {count}: {error}"
                        continue
                    crops.append(crop)
                    owners.append((number, index))

        results: list[list[Face]] = [[] for _ in photos]
        if crops:
            embedded = zip(*self.embed_crops(crops), strict=True)
            for (number, index), (embedding, norm, sharp) in zip(owners, embedded, strict=True):
                box, landmarks = found[number].boxes[index].numpy(), found[number].landmarks[index].numpy()
                size = float(min(box[2] - box[0], box[3] - box[1]))
                quality = FaceQuality(float(found[number].scores[index]), size, float(sharp), float(norm))
                results[number].append(Face(box, landmarks, quality, embedding))
        return [AnalyzedPhoto(*entry) for entry in zip(names, results, errors, strict=True)]


def sharpness(crops: torch.Tensor) -> torch.Tensor:
    """Variance of the Laplacian of crops' grey values.

    Pech-Pacheco, Cristobal, Chamorro-Martinez, Fernandez-Valdivia: "Diatom autofocusing in brightfield microscopy: a
    comparative study", 2000.

    Args:
        crops: (N, C, H, W), in [0, 255].

    Returns:
        (N,) float32.
    """
    grey = crops.float().mean(1, keepdim=True)
    kernel = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]], device=grey.device)
    return F.conv2d(grey, kernel[None, None]).var(dim=(1, 2, 3))


def _largest(faces: DetectedFaces) -> DetectedFaces:
    if len(faces.scores) == 0:
        return faces
    sides = faces.boxes[:, 2:] - faces.boxes[:, :2]
    largest = int(sides.prod(1).argmax())
    return DetectedFaces(*(values[largest : largest + 1] for values in faces))


def _name(photo: PhotoSource, number: int) -> str:
    if isinstance(photo, dict) and photo.get("path"):
        return str(photo["path"])
    if isinstance(photo, str | os.PathLike):
        return str(photo)
    return getattr(photo, "filename", "") or f"photo {number}"


def compose_analyzer(detector: str | Path, embedder: str | Path, output: str | Path) -> None:
    """Write a folder for `FaceAnalyzer.from_pretrained` from two checkpoints, with the embedder's results and card.

    Args:
        detector: Folder or Hub id of a face detector.
        embedder: Folder or Hub id of a face embedder.
        output: The folder to write, whole or not at all; what is there is replaced.

    Raises:
        InputError: One of the two is no such checkpoint.
        OSError: The folder cannot be written.
    """
    analyzer = FaceAnalyzer.from_models(detector, embedder, "cpu")
    source = Checkpoint.resolve(embedder).folder
    with atomic_folder(output) as folder:
        analyzer.save_pretrained(folder)
        for name in (RESULTS_FILE, TRAINING_FILE):
            if (source / name).exists():
                shutil.copyfile(source / name, folder / name)
        write_card(folder)
