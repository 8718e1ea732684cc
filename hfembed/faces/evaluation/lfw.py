"""Labeled Faces in the Wild: the verification protocol of View 2, and View 1 for choosing models.

Huang, Ramesh, Berg, Learned-Miller: "Labeled Faces in the Wild", 2007; the regimes of results: Huang, Learned-Miller,
"Labeled Faces in the Wild: Updates and New Reporting Procedures", 2014.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from datasets import Dataset, Image
from transformers import PreTrainedModel

from hfembed.errors import InputError
from hfembed.faces.data.landmarks import read_landmarks
from hfembed.faces.data.lfw import LfwPairs, load_lfw, read_pairs
from hfembed.faces.data.pair_sets import read_pair_sets
from hfembed.faces.evaluation import verification
from hfembed.faces.evaluation.detection import Detection, detect_central_faces
from hfembed.faces.evaluation.embedding import (
    AlignedCrops,
    FaceFile,
    Points,
    align_each,
    embed_aligned_with_norms,
    nothing_left,
)
from hfembed.faces.evaluation.groups import rates_by_group, read_groups
from hfembed.faces.quality import norm_reference
from hfembed.models.detected_faces import FaceDetector
from hfembed.models.face_embedder.image_processing_face_embedder import FaceImageProcessor
from hfembed.training.distributed import gather_arrays, gather_dicts, is_distributed, own_rows

REGIME = "unrestricted, labeled outside data"


class PairScorer:
    """Pairs among aligned crops; measuring another model on them takes only its forward passes.

    Attributes:
        failed: (P,) bool, pairs with a failed image.
    """

    def __init__(self, crops: AlignedCrops, pairs: LfwPairs) -> None:
        self.crops = crops
        self.pairs = pairs
        place = {file: number for number, file in enumerate(crops.files)}
        self.index_a = np.array([place[file] for file in pairs.file_a])
        self.index_b = np.array([place[file] for file in pairs.file_b])
        unusable = np.array([file in crops.failures for file in crops.files])
        self.failed = unusable[self.index_a] | unusable[self.index_b]

    def squared_distances(self, embeddings: np.ndarray) -> np.ndarray:
        """Squared distance of every pair, (P,) float64, of embeddings (N, D) brought to unit length."""
        embeddings = embeddings.astype(np.float64)
        embeddings /= np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)
        return np.square(embeddings[self.index_a] - embeddings[self.index_b]).sum(axis=1)

    def cosines(self, embeddings: np.ndarray) -> np.ndarray:
        """Cosine similarity of every pair, (P,) float64, of embeddings (N, D) of any length."""
        embeddings = embeddings.astype(np.float64)
        embeddings /= np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)
        return np.einsum("pd,pd->p", embeddings[self.index_a], embeddings[self.index_b])


class LfwResult(NamedTuple):
    """The results of one evaluation.

    Attributes:
        metrics: Figure -> value, in percent: `<name>_accuracy`, `_standard_error`, `_auc`, `_eer`, `_tar_at_far_1e-2`.
        scores: (P,) float64, cosine similarity of every pair.
    """

    metrics: dict[str, float]
    thresholds: dict[str, Any]
    details: dict[str, Any]
    scores: np.ndarray
    scorer: PairScorer


class LfwVerification:
    """Measure a face embedder on LFW's pairs.

    A pairs file with folds (pairs.txt) is View 2: ten-fold accuracy, each fold decided by the threshold that is best
    on the other nine. One without (pairsDevTest.txt) is View 1, for choosing models: its threshold comes from
    `threshold_pairs` (pairsDevTrain.txt), or where that is not given is the best on the tested pairs themselves, which
    is slightly optimistic and said so in the details.

    Images that are missing, undecodable or without a detected face make their pairs errors; they are named, never
    skipped. Images are decoded and aligned at the first call and kept (uint8), so later calls only embed.

    Args:
        images: An archive, folder, URL or Hub id for `load_lfw`, or a dataset with columns `image` and `file`
            ("Person/Person_0001.jpg") and optionally `landmarks`.
        landmarks: JSON file, or mapping: file name -> five (x, y) points in the photo's pixels, null where no face was
            detected. Without it all images get the processor's center crop.
        threshold_pairs: View 1 only: the pairs that choose the threshold.
        groups: Lists of photos, see `read_groups`: error rates are also given for each of these groups of people.
        insightface_rule: View 2 only: also give the accuracy by insightface's rule, `insightface_accuracy`.
        spread: On several ranks (torch.distributed), each reads and embeds a part of the images; all of them call, and
            all get the same figures.
        undetected: With landmarks or a detector: what an image without a detected face means: "error", or
            "center-crop" to use the processor's center crop.

    Raises:
        InputError: A file is missing or malformed, or it holds none of the pairs' images.
    """

    greater_is_better = True

    def __init__(
        self,
        images: str | Path | Dataset,
        pairs: str | Path | LfwPairs,
        landmarks: str | Path | Mapping[str, Points | None] | None = None,
        threshold_pairs: str | Path | LfwPairs | None = None,
        undetected: Literal["error", "center-crop"] = "error",
        regime: str = REGIME,
        name: str | None = None,
        batch_size: int = 64,
        num_workers: int = 2,
        progress: bool = True,
        detector: FaceDetector | None = None,
        groups: Sequence[str | Path] = (),
        insightface_rule: bool = False,
        spread: bool = False,
    ) -> None:
        if detector is not None and landmarks is not None:
            raise InputError("give either landmarks or a detector that finds them")
        if undetected not in ("error", "center-crop"):
            raise InputError(f"undetected='{undetected}': choose 'error' or 'center-crop'")
        self.pairs = pairs if isinstance(pairs, LfwPairs) else read_pairs(pairs)
        if threshold_pairs is not None and not isinstance(threshold_pairs, LfwPairs):
            threshold_pairs = read_pairs(threshold_pairs)
        if threshold_pairs is not None and self.pairs.view == 2:
            raise InputError("threshold pairs belong to View 1: in View 2 the other nine folds choose the threshold")
        self.threshold_pairs = threshold_pairs
        self.groups = read_groups(groups, self.pairs.files) if groups else None
        self.files = sorted({*self.pairs.files, *(threshold_pairs.files if threshold_pairs is not None else [])})
        self.detector = detector
        self._detections: dict[str, Detection] = {}
        self.landmarks = read_landmarks(landmarks) if isinstance(landmarks, str | Path) else landmarks
        self.faces = images if isinstance(images, Dataset) else load_lfw(images)
        self.source = "the dataset" if isinstance(images, Dataset) else str(images)
        if self.detector is None and self.landmarks is None and "landmarks" in self.faces.column_names:
            found = dict(zip(self.faces["file"][:], self.faces["landmarks"][:], strict=True))
            # without a single one, no detector has been at work
            self.landmarks = found if any(points is not None for points in found.values()) else None
        self.insightface_rule = insightface_rule
        self.spread = spread
        self.undetected = undetected
        self.name = name or f"lfw_view{self.pairs.view}"
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.progress = progress
        self.regime = regime
        self._aligned: tuple[str, AlignedCrops] | None = None

    @property
    def primary_metric(self) -> str:
        """The figure to choose models by."""
        return f"{self.name}_accuracy"

    def __call__(self, model: PreTrainedModel, processor: FaceImageProcessor) -> dict[str, float]:
        """Measure a model in eval mode, on any device: figure -> value, in percent."""
        return self.evaluate(model, processor).metrics

    def evaluate(self, model: PreTrainedModel, processor: FaceImageProcessor) -> LfwResult:
        """Measure a model.

        Raises:
            InputError: None of the images can be used, or the embeddings are not finite.
        """
        crops = self.aligned(processor)
        measured = embed_aligned_with_norms(model, processor, crops.pixels, self.batch_size, self.progress)
        if not (self.spread and is_distributed()):
            return self.result(measured[0], crops, measured[1])
        embeddings, norms = gather_arrays(measured, len(self.files), model.device)
        failures = gather_dicts(crops.failures)
        _refuse_nothing(self.files, failures)
        return self.result(embeddings, AlignedCrops(self.files, crops.pixels[:0], failures), norms)

    def aligned(self, processor: FaceImageProcessor) -> AlignedCrops:
        """The crops of `files`, or of this rank's part of them, read and aligned once per processor setting.

        Raises:
            InputError: The images cannot be read, or none of them can be used.
        """
        settings = processor.to_json_string()
        if self._aligned is None or self._aligned[0] != settings:
            is_part = self.spread and is_distributed()
            files = [self.files[row] for row in own_rows(len(self.files))] if is_part else self.files
            photos = _photos(self.faces, set(files).__contains__)
            if not photos and not is_part:
                raise InputError(
                    f"{self.source} contains none of the {len(files)} images that the pairs name (such as {files[0]})"
                )
            crops = self._align(processor, files, photos)
            if not is_part:
                _refuse_nothing(files, crops.failures)
            self._aligned = (settings, crops)
        return self._aligned[1]

    def result(self, embeddings: np.ndarray, crops: AlignedCrops, norms: np.ndarray | None = None) -> LfwResult:
        """The figures of given embeddings, (N, D) of any length, of the crops from `aligned`.

        Rows of failed crops are ignored. What the norms (N,) before normalization are like goes with the thresholds.
        """
        scorer = PairScorer(crops, self.pairs)
        scores, failed = scorer.cosines(embeddings), scorer.failed
        same, fold = np.asarray(self.pairs.same), np.asarray(self.pairs.fold)
        curve = verification.roc(scores, same, failed)
        metrics: dict[str, float] = {}
        details: dict[str, Any] = {"regime": self.regime, "units": "percent; thresholds are cosine similarities"}

        if self.pairs.view == 2:
            k_fold = verification.k_fold_accuracy(scores, same, fold, failed)
            metrics["accuracy"] = 100 * k_fold.mean
            metrics["standard_error"] = 100 * k_fold.standard_error
            details["protocol"] = (
                f"View 2: {len(k_fold.accuracies)} folds, each decided by the best threshold of the rest"
            )
            details["fold_accuracies"] = (100 * k_fold.accuracies).tolist()
            details["fold_thresholds"] = np.clip(k_fold.thresholds, -1, 1).tolist()
        elif self.threshold_pairs is not None:
            chosen_on = PairScorer(crops, self.threshold_pairs)
            threshold = verification.accuracy_threshold(
                chosen_on.cosines(embeddings), self.threshold_pairs.same, chosen_on.failed
            )
            metrics["accuracy"] = 100 * verification.accuracy(scores, same, threshold, failed)
            details["protocol"] = f"View 1: threshold chosen on {len(chosen_on.failed):,} other pairs"
        else:
            threshold = verification.accuracy_threshold(scores, same, failed)
            metrics["accuracy"] = 100 * verification.accuracy(scores, same, threshold, failed)
            details["protocol"] = "View 1: threshold chosen on the tested pairs themselves, slightly optimistic"

        if self.insightface_rule:
            found = verification.insightface_accuracy(scorer.squared_distances(embeddings), same, fold, failed)
            metrics["insightface_accuracy"] = 100 * found.mean
            details["insightface_deviation"] = 100 * float(np.std(found.accuracies))  # over folds, as insightface does

        metrics["auc"] = 100 * verification.area_under_curve(scores, same, failed)
        metrics["eer"] = 100 * verification.equal_error(curve).rate
        tars = verification.tars_at_fars(curve, verification.FAR_TARGETS)
        metrics |= tars.metrics
        details["tar_at_far"], details["far_not_measurable"] = tars.details, tars.not_measurable

        details["pairs"] = {"genuine": curve.genuine, "impostor": curve.impostors, "failed": int(failed.sum())}
        details["images"] = {"named": len(self.files), "failed": len(crops.failures)}
        details["failures"] = dict(sorted(crops.failures.items()))
        thresholds = verification.decision_thresholds(scores, same, failed, data=f"{self.name}, {len(same):,} pairs")
        if norms is not None:
            thresholds["norm"] = norm_reference(norms[[file not in crops.failures for file in crops.files]])
        if self.groups is not None:
            threshold = thresholds["accuracy"]
            rates = rates_by_group(
                *(scores >= threshold, same, failed, self.pairs.file_a, self.pairs.file_b, self.groups)
            )
            details["groups"] = {"threshold": threshold, **rates}
        return LfwResult(
            {f"{self.name}_{figure}": float(value) for figure, value in metrics.items()},
            thresholds,
            details,
            scores,
            scorer,
        )

    def pixels(self, files: Sequence[str], processor: FaceImageProcessor) -> dict[str, torch.Tensor]:
        """The crops (C, H, W) uint8 of some files; read again where another rank has them."""
        crops = self.aligned(processor)
        known = dict(zip(crops.files, crops.pixels, strict=True))
        missing = sorted({*files} - known.keys())
        if missing:
            found = self._align(processor, missing, _photos(self.faces, missing.__contains__))
            known |= zip(missing, found.pixels, strict=True)
        return {file: known[file] for file in files}

    def aligned_outside(self, processor: FaceImageProcessor) -> AlignedCrops:
        """The crops of all people whom no pair names: what a baseline may be fitted on.

        Raises:
            InputError: There are no such people.
        """
        tested = {_person(file) for file in self.files}
        photos = _photos(self.faces, lambda file: _person(file) not in tested)
        if not photos:
            raise InputError(f"{self.source} has nobody outside the tested pairs to fit a baseline on")
        crops = self._align(processor, sorted(photos), photos)
        _refuse_nothing(crops.files, crops.failures)
        return crops

    def _align(self, processor: FaceImageProcessor, files: list[str], photos: dict[str, bytes | Path]) -> AlignedCrops:
        unusable: dict[str, str] = {}
        faces = []
        if self.detector is not None:
            new = {file: photo for file, photo in photos.items() if file not in self._detections}
            self._detections |= detect_central_faces(
                self.detector, new, num_threads=max(self.num_workers, 1), progress=self.progress
            )
        for file in files:
            points: Points | None = None
            if file not in photos:
                unusable[file] = f"not in {self.source}"
            elif self.detector is not None:
                detection = self._detections[file]
                if not isinstance(detection, str):
                    points = detection
                elif self.undetected == "error":
                    unusable[file] = detection
            elif self.landmarks is not None:
                points = self.landmarks.get(file)
                if points is None and self.undetected == "error":
                    unusable[file] = "no face detected" if file in self.landmarks else "not in the landmarks"
            if file not in unusable:
                faces.append(FaceFile(file, photos[file], points))
        usable = align_each(processor, faces, self.batch_size, self.num_workers, self.progress)
        pixels = torch.zeros(len(files), *usable.pixels.shape[1:], dtype=torch.uint8)
        pixels[[number for number, file in enumerate(files) if file not in unusable]] = usable.pixels
        return AlignedCrops(files, pixels, unusable | usable.failures)


def verify_pair_sets(sources: Sequence[str], **settings: Any) -> dict[str, tuple[str, LfwVerification]]:
    """Read sets of aligned pairs: name -> where it was read from, and its protocol, insightface's rule included.

    Args:
        sources: For `read_pair_sets`.
        **settings: Of `LfwVerification`.

    Raises:
        InputError: A source is damaged, two sets have one name, or a set has genuine or impostor pairs alone.
    """
    protocols: dict[str, tuple[str, LfwVerification]] = {}
    for source in sources:
        for name, (photos, pairs, landmarks) in read_pair_sets(source).items():
            if name in protocols:
                raise InputError(
                    f"{source} and {protocols[name][0]}: two sets are named {name}; results are kept by name"
                )
            if not 0 < pairs.same.sum() < len(pairs.same):
                raise InputError(
                    f"{source}, {name}: {pairs.same.sum()} of {len(pairs.same)} pairs are genuine; both kinds are "
                    "needed"
                )
            protocol = LfwVerification(photos, pairs, landmarks, name=name, insightface_rule=True, **settings)
            protocols[name] = source, protocol
    return protocols


def _refuse_nothing(files: Sequence[str], failures: dict[str, str]) -> None:
    if len(failures) == len(files):
        raise nothing_left(failures)


def _photos(faces: Dataset, wanted: Callable[[str], bool]) -> dict[str, bytes | Path]:
    """The wanted photos, encoded, by name; one pass over the data."""
    rows = [row for row, file in enumerate(faces["file"][:]) if wanted(file)]
    stored = faces.select_columns(["file", "image"]).cast_column("image", Image(decode=False)).select(rows)
    return {row["file"]: row["image"]["bytes"] or Path(row["image"]["path"]) for row in stored}


def _person(file: str) -> str:
    return file.split("/")[0]
