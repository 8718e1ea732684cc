"""Face detection by WIDER FACE's protocol (Yang et al. 2016): `hfembed evaluate detection`."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from tqdm import tqdm

from hfembed.checkpoint.results import provenance, read_results, write_results
from hfembed.errors import InputError
from hfembed.faces.evaluation.plots import save_figure
from hfembed.models.detected_faces import FaceDetector
from hfembed.models.photo_image_processor import PhotoImageProcessor

NAME = "wider_face"
SUBSETS = ("easy", "medium", "hard")
_FILES = ("wider_face_val.mat", *(f"wider_{subset}_val.mat" for subset in SUBSETS))
_THRESHOLDS = 1000
_OVERLAP = 0.5
_MAX_FACES = 10_000  # of a photo
_PROTOCOL = f"WIDER FACE: {_THRESHOLDS} thresholds, intersection over union at least {_OVERLAP}"


class MarkedPhoto(NamedTuple):
    """A photo and the faces that are marked in it.

    Attributes:
        file: Path below the folder of photos.
        boxes: (G, 4) float64, left, top, width, height.
        counted: Subset -> (G,) bool: faces that must be found; finding one of the others is neither right nor wrong.
    """

    file: str
    boxes: np.ndarray
    counted: dict[str, np.ndarray]


class PrecisionRecall(NamedTuple):
    """A curve over thresholds falling from the highest score, and the area below it.

    Attributes:
        precision: (1000,).
        recall: (1000,).
        average_precision: In [0, 1].
    """

    precision: np.ndarray
    recall: np.ndarray
    average_precision: float


def read_ground_truth(source: str | Path) -> list[MarkedPhoto]:
    """Read the marked faces.

    Args:
        source: The folder of the official `wider_face_val.mat` and `wider_easy_val.mat`, `wider_medium_val.mat`,
            `wider_hard_val.mat`: three subsets. Or a text file in the layout of `wider_face_val_bbx_gt.txt`: one
            subset "all", of the faces that are not marked as invalid.

    Raises:
        InputError: A file is missing, damaged, or names a photo outside the folder of photos.
    """
    source = Path(source)
    if not source.is_dir():
        return _read_text(source)
    missing = [name for name in _FILES if not (source / name).is_file()]
    if missing:
        raise InputError(f"{source} lacks {', '.join(missing)}; WIDER FACE's eval_tools.zip has them")
    return _read_mat(source)


def _read_mat(folder: Path) -> list[MarkedPhoto]:
    from scipy.io import loadmat

    photos = []
    try:
        contents = [loadmat(folder / name) for name in _FILES]
        faces, lists = contents[0], [content["gt_list"] for content in contents[1:]]
        for event, name in enumerate(faces["event_list"][:, 0]):
            for number, file in enumerate(faces["file_list"][event, 0][:, 0]):
                boxes = np.asarray(faces["face_bbx_list"][event, 0][number, 0], dtype=float).reshape(-1, 4)
                counted = {}
                for subset, indices in zip(SUBSETS, lists, strict=True):
                    chosen = np.asarray(indices[event, 0][number, 0], dtype=int).flatten()
                    if (chosen < 1).any():
                        raise ValueError(f"{name[0]}/{file[0]} has a face {chosen.min()}; the first is 1")
                    counted[subset] = np.zeros(len(boxes), dtype=bool)
                    counted[subset][chosen - 1] = True
                photos.append(_checked(MarkedPhoto(f"{name[0]}/{file[0]}.jpg", boxes, counted), folder))
    except InputError:
        raise
    # scipy's reader and the indexing fail in many ways on what is no such file
    except Exception as error:
        raise InputError(f"{folder}: {', '.join(_FILES)} are not WIDER FACE's ground truth: {error}") from error
    return photos


def _read_text(file: Path) -> list[MarkedPhoto]:
    """Photo, number of faces, and for each left, top, width, height, blur, expression, illumination, invalid ..."""
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is not a text file, nor a folder of .mat files") from error
    photos, place = [], 0
    while place < len(lines):
        if not lines[place]:
            place += 1
            continue
        name, count = lines[place], lines[place + 1 : place + 2]
        if not count or not count[0].isdecimal() or int(count[0]) > _MAX_FACES:
            raise InputError(
                f"{file}, line {place + 2}: expected the number of faces in {name}, got {count or 'nothing'}"
            )
        # a photo without faces has a line of zeros all the same
        faces = int(count[0])
        rows = lines[place + 2 : place + 2 + max(faces, 1)]
        try:
            values = np.array([[float(value) for value in row.split()] for row in rows[:faces]]).reshape(len(rows), -1)
        except ValueError as error:
            raise InputError(
                f"{file}, line {place + 3}: the faces of {name} are no rows of numbers: {error}"
            ) from error
        if faces and (len(rows) < faces or values.shape[1] < 4):
            raise InputError(f"{file}, line {place + 3}: expected {faces} faces of {name}, left, top, width, height")
        values = values if faces else np.zeros((0, 4))
        valid = values[:, 7] == 0 if values.shape[1] > 7 else np.ones(faces, dtype=bool)
        photos.append(_checked(MarkedPhoto(name, values[:, :4], {"all": valid}), file))
        place += 2 + len(rows)
    if not photos:
        raise InputError(f"{file} marks no photo")
    return photos


def _checked(photo: MarkedPhoto, source: Path) -> MarkedPhoto:
    path = PurePosixPath(photo.file)
    if path.is_absolute() or ".." in path.parts or "\\" in photo.file:
        raise InputError(f"{source}: '{photo.file}' is not a path below the folder of photos")
    if not np.isfinite(photo.boxes).all():
        raise InputError(f"{source}: the boxes of {photo.file} are not finite")
    return photo


def precision_recall(
    photos: Sequence[MarkedPhoto], detections: Mapping[str, tuple[np.ndarray, np.ndarray]], subset: str
) -> PrecisionRecall:
    """Compare detections with the marked faces.

    Every detection goes to the marked face that it overlaps most. The first for a face is right, further ones are
    false; where the face is not of the subset they do not count. Scores are stretched to [0, 1] over all photos.

    Args:
        detections: File -> boxes (P, 4), left, top, right, bottom, and scores (P,) falling.

    Raises:
        InputError: No face of the subset is marked.
    """
    faces = sum(int(photo.counted[subset].sum()) for photo in photos)
    if not faces:
        raise InputError(f"no face of the subset '{subset}' is marked")
    every = np.concatenate([scores for _, scores in detections.values()] or [np.empty(0)])
    low, high = (float(every.min()), float(every.max())) if len(every) else (0.0, 1.0)
    thresholds = 1 - np.arange(1, _THRESHOLDS + 1) / _THRESHOLDS
    reported, right = np.zeros(_THRESHOLDS), np.zeros(_THRESHOLDS)
    for photo in photos:
        boxes, scores = detections[photo.file]
        if not len(boxes) or not len(photo.boxes):
            continue
        overlaps = _overlaps(boxes, photo.boxes)
        nearest = overlaps.argmax(1)
        is_near = overlaps.max(1) >= _OVERLAP
        is_counted = photo.counted[subset][nearest]
        is_first = np.zeros(len(boxes), dtype=bool)
        is_first[np.unique(np.where(is_near, nearest, -1), return_index=True)[1]] = True
        found = np.cumsum(is_near & is_counted & is_first)
        counted = np.cumsum(~is_near | is_counted)
        normalized = (scores - low) / (high - low) if high > low else np.ones_like(scores)
        # how many detections reach each threshold
        reach = np.searchsorted(-normalized, -thresholds, side="right")
        some = reach > 0
        reported[some] += counted[reach[some] - 1]
        right[some] += found[reach[some] - 1]
    precision = np.divide(right, reported, out=np.zeros(_THRESHOLDS), where=reported > 0)
    recall = right / faces
    # the area below the curve, precision at each recall being the highest from there on
    highest = np.maximum.accumulate(precision[::-1])[::-1]
    return PrecisionRecall(precision, recall, float((np.diff(recall, prepend=0) * highest).sum()))


def _overlaps(boxes: np.ndarray, marked: np.ndarray) -> np.ndarray:
    """Intersection over union (P, G); the last pixel counts into a box, as in the official tool."""
    corner = np.maximum(boxes[:, None, :2], marked[None, :, :2])
    other = np.minimum(boxes[:, None, 2:], (marked[:, :2] + marked[:, 2:])[None])
    shared = np.maximum(other - corner + 1, 0).prod(2)
    areas = (boxes[:, 2:] - boxes[:, :2] + 1).prod(1)
    return shared / (areas[:, None] + (marked[:, 2:] + 1).prod(1)[None] - shared)


def detect_all(
    detector: FaceDetector, images: Path, files: Sequence[str], batch_size: int, progress: bool = True
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The faces in photos: file -> boxes (P, 4) and scores (P,), falling.

    Raises:
        InputError: A photo is missing, or cannot be read.
    """
    processor = PhotoImageProcessor()
    found = {}
    with tqdm(total=len(files), desc="detecting", unit=" images", disable=not progress) as bar:
        for start in range(0, len(files), batch_size):
            batch = files[start : start + batch_size]
            try:
                photos = [processor.open(images / file, detector.config.max_image_size) for file in batch]
            except ValueError as error:
                raise InputError(str(error)) from error
            pixels, shrinkage = zip(*photos, strict=True)
            for file, faces in zip(batch, detector.detect_in(pixels, shrinkage), strict=True):
                found[file] = faces.boxes.double().numpy(), faces.scores.double().numpy()
            bar.update(len(batch))
    return found


def report_detection(
    detector: FaceDetector,
    images: Path,
    ground_truth: str | Path,
    output: str | Path,
    score_threshold: float | None = 0.02,
    batch_size: int = 16,
    progress: bool = True,
) -> dict[str, Any]:
    """Measure a detector; write results.json and precision_recall.png.

    Args:
        score_threshold: Faces from this score on are compared, for detectors with one threshold; None for the
            detector's own. The protocol needs the faces of low scores too.

    Raises:
        InputError: The photos or the ground truth are not what they should be.
        OSError: The folder cannot be written.
    """
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    read_results(output)  # what cannot be written at the end should fail before the work
    photos = read_ground_truth(ground_truth)
    config = detector.config
    if score_threshold is not None and hasattr(config, "score_threshold"):
        config.score_threshold = score_threshold
    start = time.perf_counter()
    found = detect_all(detector, images, [photo.file for photo in photos], batch_size, progress)
    seconds = time.perf_counter() - start
    curves = {subset: precision_recall(photos, found, subset) for subset in photos[0].counted}
    figures = {f"ap_{subset}": 100 * curve.average_precision for subset, curve in curves.items()}
    settings = ("min_face_size", "max_image_size", "score_threshold", "score_thresholds", "nms_threshold")
    details = {
        "protocol": _PROTOCOL,
        "model": str(config.name_or_path),
        "figures": figures,
        "photos": len(photos),
        "faces": {subset: sum(int(photo.counted[subset].sum()) for photo in photos) for subset in curves},
        "detections": sum(len(scores) for _, scores in found.values()),
        "settings": {name: getattr(config, name) for name in settings if hasattr(config, name)},
        "seconds": round(seconds, 1),
        **provenance({"images": images, "ground_truth": ground_truth}),
    }
    _plot(curves, output / "precision_recall.png")
    write_results(output, NAME, {f"{NAME}_{name}": value for name, value in figures.items()}, details, detector)
    return {**{f"{NAME}_{name}": value for name, value in figures.items()}, NAME: details}


def summary(report: dict[str, Any]) -> str:
    """The figures of `report_detection` as lines to print."""
    details = report[NAME]
    lines = [f"{details['protocol']}; {details['photos']} photos, {details['detections']} detections"]
    for subset, faces in details["faces"].items():
        lines.append(f"  average precision, {subset}: {details['figures'][f'ap_{subset}']:.2f} %  ({faces} faces)")
    return "\n".join(lines)


def _plot(curves: dict[str, PrecisionRecall], path: Path) -> None:
    figure = Figure(figsize=(6, 5), layout="constrained")
    axes = figure.subplots()
    for subset, curve in curves.items():
        axes.plot(curve.recall, curve.precision, label=f"{subset}: AP {100 * curve.average_precision:.1f} %")
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xlabel="recall", ylabel="precision")
    axes.grid(True, color="#dddddd", linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower left", frameon=False)
    save_figure(figure, path)


__all__ = ["MarkedPhoto", "PrecisionRecall", "precision_recall", "read_ground_truth", "report_detection", "summary"]
