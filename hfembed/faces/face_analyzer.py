"""Photos -> the faces in them, each with its box, landmarks, quality and embedding."""

import functools
import logging
import math
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F

from hfembed.checkpoint.card import write_card
from hfembed.checkpoint.checkpoint import Checkpoint
from hfembed.checkpoint.files import CARD_FILE, DETECTOR_FOLDER, RESULTS_FILE, TRAINING_FILE
from hfembed.checkpoint.fingerprint import fingerprint_weights
from hfembed.checkpoint.json_notes import write_json
from hfembed.checkpoint.loading import choose_device, choose_dtype, load_face_detector, load_face_embedder
from hfembed.checkpoint.push import push_folder
from hfembed.checkpoint.saving import save_checkpoint
from hfembed.errors import InputError, input_errors
from hfembed.faces.default_model import resolve_face_model
from hfembed.faces.display import draw_faces, png
from hfembed.faces.quality import FaceQuality, assess_face, describe_poor, tempered_log_odds
from hfembed.hub.card_marker import is_generated
from hfembed.hub.commit import Pushed
from hfembed.index.min_quality import MIN_QUALITY, check_min_quality
from hfembed.index.origin import Origin, checksum_tensors
from hfembed.models.detected_faces import DetectedFaces, FaceDetector
from hfembed.models.face_embedder.image_processing_face_embedder import STANDARD_TEMPLATE, FaceImageProcessor
from hfembed.models.face_embedder.modeling_face_embedder import FaceEmbedderModel
from hfembed.models.photo_image_processor import Photo, PhotoImageProcessor, PhotoSource
from hfembed.photos import utf8_name
from hfembed.threads import NumThreads, choose_threads, map_in_threads, split_batches

logger = logging.getLogger(__name__)

WhichFaces = Literal["all", "largest", "only"]


class Face(NamedTuple):
    """A face in a photo; all coordinates in pixels of the upright photo.

    Attributes:
        box: (4,) float32, left, top, right, bottom.
        landmarks: (5, 2) float32, left eye, right eye, nose, left and right mouth corner as seen in the photo, [x, y].
        embedding: (D,) float32, unit length.
        crop: (height, width, channels) uint8, the aligned face; None unless it was asked for.
    """

    box: np.ndarray
    landmarks: np.ndarray
    quality: FaceQuality
    embedding: np.ndarray
    crop: np.ndarray | None = None

    def __repr__(self) -> str:
        return f"Face(box={[round(float(side), 1) for side in self.box]}, score={self.quality.score:.2f})"

    def _repr_png_(self) -> bytes | None:
        return None if self.crop is None else png(self.crop)


class AnalyzedPhoto(NamedTuple):
    """What was found in one photo.

    Attributes:
        name: The photo's file, or its position among the photos.
        faces: The faces asked for, highest score first; none where there are none, or where the photo failed.
        error: Why the photo failed, in one line that names it; None where it did not. A photo without any face fails
            where just one was asked for.
        set_aside: Faces of too low a quality.
        found: How many faces the detector found, the ones not asked for too.
    """

    name: str
    faces: list[Face]
    error: str | None = None
    set_aside: Sequence[Face] = ()
    found: int = 0

    @property
    def problem(self) -> str | None:
        """Why there are no faces, in one line that names the photo; None where there are."""
        if self.error or self.faces:
            return self.error
        return describe_set_aside(self) or f"{self.name}: no face was found"

    def _repr_png_(self) -> bytes | None:
        return draw_faces(self.name, [(face.box, face.landmarks) for face in self.faces])


class Verification(NamedTuple):
    """Whether two photos show one person.

    Attributes:
        similarity: Cosine of the embeddings, in [-1, 1].
        distance: Squared Euclidean distance of the embeddings, 2 - 2 cosine, in [0, 4].
        threshold: The cosine from which on the decision is yes.
        far: The false accept rate that the threshold was set for; None: it is the one of the highest accuracy.
        probability: That they are one person, at even odds beforehand; None for a model without a calibration.
        quality: Of the worse of the two faces, in [0, 1]; None where it is not known. The lower it is, the nearer is
            the probability to one half.
        found: How many faces each of the two photos shows, of which one was compared; None where embeddings were.
    """

    same: bool
    similarity: float
    distance: float
    threshold: float
    far: float | None
    probability: float | None
    quality: float | None = None
    found: tuple[int, int] | None = None


class FaceAnalyzer:
    """Detector and embedder with their processors, in one call and one folder.

    The folder is the embedder's checkpoint, thresholds included, with the detector's in `detector/`: whatever takes a
    face embedder takes it too.

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
        detector: FaceDetector,
        detector_processor: PhotoImageProcessor,
        embedder: FaceEmbedderModel,
        embedder_processor: FaceImageProcessor,
    ) -> None:
        self.detector = detector
        self.detector_processor = detector_processor
        self.embedder = embedder
        self.embedder_processor = embedder_processor
        # each with the state of the embedder that it belongs to
        self._loaded: tuple[Any, Checkpoint] | None = None
        self._folded: tuple[Any, FaceEmbedderModel] | None = None
        self._origin: tuple[Any, Origin] | None = None

    def __repr__(self) -> str:
        names = [str(model.config.name_or_path) for model in (self.detector, self.embedder)]
        return f"FaceAnalyzer(detector={names[0]!r}, embedder={names[1]!r}, device={str(self.embedder.device)!r})"

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path | Checkpoint | None = None,
        device: str = "auto",
        dtype: torch.dtype | str = torch.float32,
        *,
        revision: str | None = None,
        token: str | None = None,
        cache_dir: str | Path | None = None,
        subfolder: str = "",
        local_files_only: bool = False,
    ) -> "FaceAnalyzer":
        """Load an analyzer.

        Args:
            name: What `save_pretrained` wrote: a folder, "owner/name", "owner/name@revision", or a resolved
                checkpoint. None takes the default model, as `hfembed verify` does without --model.
            device: A torch device, or "auto" for the accelerator where there is one.
            dtype: Of the embedder's weights, also by name, or "auto" for the checkpoint's own; the detector's stay
                float32.
            revision, token, cache_dir, subfolder, local_files_only: See `Checkpoint.resolve`.

        Raises:
            InputError: There is no such folder or repository, or it lacks one of the two models.
            HubUnavailableError: The Hub cannot be reached and nothing is in the cache.
        """
        checkpoint = resolve_face_model(
            name,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            subfolder=subfolder,
            local_files_only=local_files_only,
        )
        if checkpoint.detector is None:
            raise InputError(
                f"{checkpoint.name} has no detector in it; put one beside the embedder with "
                f"`hfembed analyzer DETECTOR {checkpoint.name} OUT`"
            )
        return cls.from_models(checkpoint.detector, checkpoint, device, dtype)

    @classmethod
    def from_models(
        cls,
        detector: str | Path | Checkpoint,
        embedder: str | Path | Checkpoint,
        device: str = "auto",
        dtype: torch.dtype | str = torch.float32,
        **hub: Any,
    ) -> "FaceAnalyzer":
        """Put two checkpoints together; see also `from_pretrained`.

        Args:
            **hub: token, cache_dir, local_files_only of `Checkpoint.resolve`, for both.

        Raises:
            InputError: One of them is no such checkpoint.
            HubUnavailableError: The Hub cannot be reached and nothing is in the cache.
        """
        chosen = choose_dtype(dtype)
        source = Checkpoint.resolve(embedder, **hub)
        if isinstance(chosen, str):  # "auto"
            chosen = cast(torch.dtype, choose_dtype(source.config.get("dtype") or "float32"))
        finder, finder_processor = load_face_detector(detector, device, **hub)
        model, processor = load_face_embedder(source, device)
        analyzer = cls(finder, finder_processor, model, processor)
        if chosen == torch.float32:
            analyzer._loaded = analyzer._state(), source
        else:
            origin = analyzer.origin  # embeddings of one model in two precisions can be compared
            model.to(chosen)  # type: ignore[arg-type]
            analyzer._origin = analyzer._state(), origin
        return analyzer

    def to(self, device: str) -> "FaceAnalyzer":
        """Move both models; returns the analyzer itself.

        Args:
            device: A torch device, or "auto" for the accelerator where there is one.

        Raises:
            InputError: Torch knows no such device, or this machine has none.
        """
        chosen = choose_device(device)
        origin = self.origin  # the embeddings stay what they are
        self.detector.to(chosen)  # type: ignore[arg-type]
        self.embedder.to(chosen)  # type: ignore[arg-type]
        self._origin = self._state(), origin
        return self

    @property
    def origin(self) -> Origin:
        """What its embeddings are made by, for an `EmbeddingIndex` to remember and to be checked against."""
        state = self._state()
        if self._origin is None or self._origin[0] != state:
            self._origin = state, Origin.of(self.embedder, mirror=self.embedder.config.mirror)
        return self._origin[1]

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a folder for `from_pretrained`: killed at any moment, it holds the earlier analyzer or this one.

        What the embedder's checkpoint says of its training and results is kept while the weights are the same.

        Raises:
            OSError: The folder cannot be written.
        """
        source = self._source()

        def write(temporary: Path) -> None:
            self.embedder.save_pretrained(temporary)
            self.embedder_processor.save_pretrained(temporary)
            self.detector.save_pretrained(temporary / DETECTOR_FOLDER)
            self.detector_processor.save_pretrained(temporary / DETECTOR_FOLDER)
            if source is not None:
                _copy_notes(source, temporary)

        save_checkpoint(folder, write, same_model=source is not None)
        if source is not None and not (Path(folder) / CARD_FILE).exists():
            write_card(folder)

    def push_to_hub(self, repo_id: str, *, private: bool | None = None, **options: Any) -> Pushed:
        """Put the analyzer on the Hub, in one commit, with the notes that `save_pretrained` keeps.

        Args:
            repo_id: "owner/name", or "name" for one of the token's owner. Made where it does not exist.
            private: Make a new repository private; None as for `hfembed push`.
            **options: revision, tag, token, commit_message of `push_folder`.

        Raises:
            InputError: The Hub refuses: token, rights, name.
            HubUnavailableError: The Hub cannot be reached, or fails again and again; push later.
        """
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return push_folder(folder, repo_id, private=private, **options)

    def __call__(
        self,
        photos: PhotoSource | Sequence[PhotoSource],
        faces: WhichFaces = "all",
        batch_size: int = 32,
        num_threads: NumThreads = "auto",
        *,
        min_quality: float = MIN_QUALITY,
        num_workers: int | None = None,
    ) -> list[AnalyzedPhoto]:
        """Find and embed the faces in photos of any sizes.

        Args:
            photos: A photo or several: paths, encoded bytes, PIL images, uint8 arrays or tensors.
            faces: "all" faces of a photo, its "largest", or its "only" one: several are then an error.
            batch_size: Photos that go through the networks together.
            num_threads: Threads, each with its own batch and one core; "auto" is one per core on a CPU, and one beside
                an accelerator. 1 leaves it to torch how many cores it uses.
            min_quality: Faces whose `quality.overall` is lower are set aside, and a line is logged; 0 takes all.
            num_workers: Deprecated name of `num_threads`.

        Returns:
            One entry per photo, in order. A photo that cannot be read has an error and no faces; the others are
            analyzed.

        Raises:
            InputError: `faces` is none of the three, or `min_quality` lies outside [0, 1].
        """
        if num_workers is not None:
            warnings.warn("num_workers of a FaceAnalyzer is now num_threads", FutureWarning, stacklevel=2)
            num_threads = num_workers
        if isinstance(photos, PhotoSource):
            photos = [photos]
        analyzed = list(self.stream(photos, faces, batch_size, num_threads, min_quality=min_quality))
        for photo in analyzed:
            if photo.set_aside and not photo.error:
                logger.warning("%s; min_quality=0 (--min-quality 0) takes all", describe_set_aside(photo))
        return analyzed

    def stream(
        self,
        photos: Sequence[PhotoSource],
        faces: WhichFaces = "all",
        batch_size: int = 32,
        num_threads: NumThreads = "auto",
        return_crops: bool = False,
        *,
        min_quality: float = MIN_QUALITY,
    ) -> Iterator[AnalyzedPhoto]:
        """Yield what calling the analyzer returns, each batch's photos as soon as they are done.

        Args:
            return_crops: Also give each face's aligned crop; the others as in calling it.

        Raises:
            InputError: `faces` is none of the three, or `min_quality` lies outside [0, 1].
        """
        _check_choice(faces, ("all", "largest", "only"))
        check_min_quality(min_quality)
        names = [_name(photo, number) for number, photo in enumerate(photos)]
        num_threads = choose_threads(num_threads, self.embedder.device)
        batches = split_batches(len(photos), batch_size, num_threads)
        for done in map_in_threads(
            lambda batch: self._analyze(photos[batch], names[batch], faces, return_crops, min_quality),
            batches,
            num_threads,
        ):
            yield from done

    def verify(
        self,
        photo_a: PhotoSource,
        photo_b: PhotoSource,
        far: float | None = None,
        faces: WhichFaces = "largest",
        *,
        min_quality: float = MIN_QUALITY,
    ) -> Verification:
        """Decide whether two photos show one person.

        Args:
            photo_a: A photo.
            photo_b: Another.
            far: False accept rate to decide at; None takes the threshold of the highest accuracy.
            faces: Which face of a photo with several: the "largest", or "only": an error.
            min_quality: A face whose `quality.overall` is lower is an error; 0 compares it anyway.

        Raises:
            InputError: A photo cannot be read, shows no face or one of too low a quality, or the embedder has no
                threshold for this rate.
        """
        _check_choice(faces, ("largest", "only"))
        with input_errors():
            self.embedder.threshold(far)  # what cannot be decided at the end should fail before the work
        photos = self([photo_a, photo_b], faces, min_quality=min_quality)
        for photo in photos:
            if photo.error:
                raise InputError(photo.error)
        a, b = (photo.faces[0] for photo in photos)
        result = self.compare(a.embedding, b.embedding, far, min(a.quality.overall, b.quality.overall))
        return result._replace(found=(photos[0].found, photos[1].found))

    def compare(
        self, embedding_a: np.ndarray, embedding_b: np.ndarray, far: float | None = None, quality: float | None = None
    ) -> Verification:
        """Decide whether two embeddings (D,) are one person's; see `verify`.

        Args:
            quality: Of the worse of the two faces.

        Raises:
            InputError: The embedder has no threshold for this rate, or the embeddings differ in length or are not
                finite.
        """
        return compare_embeddings(self.embedder, embedding_a, embedding_b, far, quality)

    def find(self, photos: Sequence[Photo], faces: WhichFaces = "all") -> list[DetectedFaces]:
        """Find the faces asked for in decoded photos, without their embeddings.

        Args:
            photos: From the detector's processor.
            faces: See `__call__`; "only" is as "all" here.
        """
        found = self.detector.detect_in([photo.pixels for photo in photos], [photo.shrinkage for photo in photos])
        return [_asked_for(detected, faces) for detected in found]

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

    def embed_crops(self, crops: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Embed aligned crops (height, width, channels) of a `crop`.

        Returns:
            Embeddings (N, D) and norms (N,), float32.

        Raises:
            ValueError: An embedding is not finite.
        """
        pixels = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2)
        normalized = self.embedder_processor.normalize(pixels.to(self.embedder.device))
        embeddings, norms = self._fast_embedder().embed_with_norms(normalized)
        return embeddings.cpu().numpy(), norms.cpu().numpy()

    def assess(
        self, photo: Photo, score: float, box: np.ndarray, landmarks: np.ndarray, crop: np.ndarray
    ) -> Callable[[float], FaceQuality]:
        """What the quality of a face is, given the norm of its embedding.

        Args:
            photo: The photo as the detector saw it.
            box: (4,), in pixels of the photo itself, as the landmarks (5, 2) are.
            crop: From `crop`.
        """
        pixels = torch.from_numpy(crop).permute(2, 0, 1)[None]
        sharp = sharpness(_at_standard_scale(pixels, self.embedder_processor.template)).item()
        reference = (self.embedder.config.thresholds or {}).get("norm")
        return functools.partial(assess_face, float(score), box, landmarks, photo.size, sharp, reference=reference)

    def _embed_each(self, crops: Sequence[np.ndarray]) -> list[tuple[np.ndarray, np.floating] | str]:
        """For each crop embedding and norm, or why it has none: one that fails does not fail the others."""
        if not crops:
            return []
        try:
            return list(zip(*self.embed_crops(crops), strict=True))
        except ValueError as error:  # an embedding is not finite
            return [str(error)] if len(crops) == 1 else [self._embed_each([crop])[0] for crop in crops]

    def _state(self) -> tuple[Any, ...]:
        """Changes whenever the embedder embeds otherwise."""
        model = self.embedder
        return id(model), model.device, model.dtype, model.config.mirror, checksum_tensors(model)

    def _source(self) -> Checkpoint | None:
        """The embedder's checkpoint, while its weights are still those in memory."""
        return self._loaded[1] if self._loaded is not None and self._loaded[0][-1] == self._state()[-1] else None

    def _fast_embedder(self) -> FaceEmbedderModel:
        """A copy of the embedder with its BatchNorm folded away; made anew whenever the embedder has changed."""
        state, kept = self._state(), self._folded
        if kept is None or kept[0] != state:
            try:
                kept = state, cast(FaceEmbedderModel, self.embedder.optimize_for_inference())
            except ValueError:  # the trunk's outputs would change: embed without folding
                kept = state, self.embedder
            self._folded = kept
        return kept[1]

    def _analyze(
        self,
        photos: Sequence[PhotoSource],
        names: list[str],
        faces: WhichFaces,
        return_crops: bool,
        min_quality: float,
    ) -> list[AnalyzedPhoto]:
        opened: dict[int, Photo] = {}
        errors: list[str | None] = [None] * len(photos)
        for number, photo in enumerate(photos):
            try:
                opened[number] = self.detector_processor.open(photo, self.detector.config.max_image_size)
            except ValueError as error:
                line = utf8_name(str(error))
                errors[number] = line if names[number] in line else f"{names[number]}: {line}"
        everything = self.find(list(opened.values()))
        counts = {number: len(detected.scores) for number, detected in zip(opened, everything, strict=True)}
        found = {number: _asked_for(each, faces) for number, each in zip(opened, everything, strict=True)}

        crops, owners = [], []
        for number, detected in found.items():
            count = len(detected.scores)
            if faces != "all" and count == 0:
                errors[number] = f"{names[number]}: {nothing_found(opened[number])}"
            else:
                for index in range(count):
                    try:
                        crop = self.crop(photos[number], opened[number], detected.landmarks[index].numpy())
                    except ValueError as error:
                        errors[number] = f"{names[number]}: face {index + 1} of {count}: {utf8_name(str(error))}"
                        continue
                    crops.append(crop)
                    owners.append((number, index))

        results: list[list[Face]] = [[] for _ in photos]
        for (number, index), crop, embedded in zip(owners, crops, self._embed_each(crops), strict=True):
            if isinstance(embedded, str):
                errors[number] = f"{names[number]}: {embedded}"
                continue
            embedding, norm = embedded
            box, landmarks = found[number].boxes[index].numpy(), found[number].landmarks[index].numpy()
            assess = self.assess(opened[number], float(found[number].scores[index]), box, landmarks, crop)
            quality = assess(float(norm))
            results[number].append(Face(box, landmarks, quality, embedding, crop if return_crops else None))
        return [
            _select(name, found_in, error, faces, min_quality)._replace(found=counts.get(number, 0))
            for number, (name, found_in, error) in enumerate(zip(names, results, errors, strict=True))
        ]


def compare_embeddings(
    embedder: FaceEmbedderModel,
    embedding_a: np.ndarray,
    embedding_b: np.ndarray,
    far: float | None = None,
    quality: float | None = None,
) -> Verification:
    """Decide whether two embeddings (D,) are one person's by an embedder's thresholds; see `FaceAnalyzer.verify`.

    Raises:
        InputError: As `FaceAnalyzer.compare`.
    """
    if not (np.isfinite(embedding_a).all() and np.isfinite(embedding_b).all()):
        raise InputError("an embedding is not finite, so there is no decision; the model's weights are damaged")
    a, b = torch.from_numpy(embedding_a)[None], torch.from_numpy(embedding_b)[None]
    with input_errors():
        threshold = embedder.threshold(far)
        similarity = embedder.similarity(a, b).item()
    probability = None
    if calibration := (embedder.config.thresholds or {}).get("calibration"):
        log_odds = calibration["slope"] * similarity + calibration["intercept"]
        tempered = log_odds if quality is None else tempered_log_odds(log_odds, quality)
        probability = torch.tensor(tempered, dtype=torch.float64).sigmoid().item()
    return Verification(similarity >= threshold, similarity, 2 - 2 * similarity, threshold, far, probability, quality)


def sharpness(crops: torch.Tensor) -> torch.Tensor:
    """Variance of the Laplacian of crops' gray values.

    Pech-Pacheco, Cristobal, Chamorro-Martinez, Fernandez-Valdivia: "Diatom autofocusing in brightfield microscopy: a
    comparative study", 2000.

    Args:
        crops: (N, C, H, W), in [0, 255].

    Returns:
        (N,) float32.
    """
    gray = crops.float().mean(1, keepdim=True)
    kernel = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]], device=gray.device)
    return F.conv2d(gray, kernel[None, None]).var(dim=(1, 2, 3))


def _at_standard_scale(crops: torch.Tensor, template: list[list[float]]) -> torch.Tensor:
    """Crops (N, C, H, W) shrunk to the eye distance of the standard template: a larger crop looks less sharp."""
    larger = math.dist(*template[:2]) / math.dist(*STANDARD_TEMPLATE[:2])
    if larger < 1.05:
        return crops
    height, width = (round(side / larger) for side in crops.shape[2:])
    return F.interpolate(crops.float(), (height, width), mode="bilinear", antialias=True)


def describe_set_aside(photo: AnalyzedPhoto) -> str | None:
    """One line on the faces of a photo that were set aside; None where there are none."""
    if not photo.set_aside:
        return None
    poor = [face.quality for face in photo.set_aside]
    return f"{photo.name}: {describe_poor(poor, len(poor) + len(photo.faces))}"


def compose_analyzer(
    detector: str | Path | Checkpoint, embedder: str | Path | Checkpoint, output: str | Path, **hub: Any
) -> None:
    """Write a folder for `FaceAnalyzer.from_pretrained` from two checkpoints, with the embedder's results and card."""
    FaceAnalyzer.from_models(detector, embedder, "cpu", **hub).save_pretrained(output)


def _check_choice(faces: str, choices: tuple[str, ...]) -> None:
    if faces not in choices:
        raise InputError(f"unknown faces={faces!r}; expected one of {', '.join(map(repr, choices))}")


def _select(name: str, found: list[Face], error: str | None, faces: WhichFaces, min_quality: float) -> AnalyzedPhoto:
    """Set aside what is too poor, and check that one face is left where one was asked for."""
    good = [face for face in found if face.quality.overall >= min_quality]
    poor = [face for face in found if face.quality.overall < min_quality]
    if error is None and faces == "only" and len(good) > 1:
        return AnalyzedPhoto(name, [], f"{name}: {len(good)} faces, where only one was expected", poor)
    photo = AnalyzedPhoto(name, good, error, poor)
    if error is None and faces != "all" and not good and poor:
        return photo._replace(error=f"{describe_set_aside(photo)}; min_quality=0 (--min-quality 0) takes all")
    return photo


def _copy_notes(source: Checkpoint, folder: Path) -> None:
    """Write what a checkpoint says of its weights beside the same weights, saved without a classification head."""
    weights = fingerprint_weights(folder)
    training, results = source.training, source.results
    if training:
        write_json(folder / TRAINING_FILE, {**training, "weights": weights})
    if results:
        stamped = {
            name: {**details, "weights": weights} if isinstance(details, dict) else details
            for name, details in results.items()
        }
        write_json(folder / RESULTS_FILE, stamped)
    card = source.folder / CARD_FILE
    if card.is_file() and not is_generated(text := card.read_text(encoding="utf-8", errors="replace")):
        (folder / CARD_FILE).write_text(text, encoding="utf-8")


def nothing_found(photo: Photo) -> str:
    """Say that a photo shows no face, and at what size it was searched, if that is not its own."""
    if photo.shrinkage <= 1:
        return "no face was found"
    return (
        f"no face was found in it at {max(photo.pixels.shape[1:])} of {round(max(photo.size))} pixels; a larger "
        "max_image_size finds smaller faces"
    )


def _asked_for(found: DetectedFaces, faces: WhichFaces) -> DetectedFaces:
    """The largest face where that is asked for; otherwise all."""
    if faces != "largest" or len(found.scores) == 0:
        return found
    sides = found.boxes[:, 2:] - found.boxes[:, :2]
    row = int(sides.prod(1).argmax())
    return DetectedFaces(*(values[row : row + 1] for values in found))


def _name(photo: PhotoSource, number: int) -> str:
    if isinstance(photo, dict) and photo.get("path"):
        return utf8_name(str(photo["path"]))
    if isinstance(photo, str | os.PathLike):
        return utf8_name(str(photo))
    return utf8_name(str(getattr(photo, "filename", ""))) or f"photo {number}"
