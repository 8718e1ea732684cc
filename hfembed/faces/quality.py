"""How far the embedding of a face can be trusted, as one number in [0, 1]."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from hfembed.models.face_embedder.image_processing_face_embedder import STANDARD_TEMPLATE, similarity_transform

# the five points of a frontal head: x and y are the template's, z points away from the viewer, in the same unit, with
# the nose's tip half an eye distance before the eyes; and 4 lower than the template's, where detectors find it in most
# photos: with YuNet's landmarks the median face of LFW looks up by 6 degrees, that of CelebA down by 2
_HEAD = np.column_stack([np.array(STANDARD_TEMPLATE), [0.0, 0.0, -18.0, -4.0, -4.0]])
_HEAD[2, 1] += 4
_HEAD_PSEUDOINVERSE = np.linalg.pinv(_HEAD - _HEAD.mean(0)).T

# an ellipse from hairline to chin in the 112 x 112 template, as points
_FACE = np.array(
    [(56 + 38 * x, 63 + 50 * y) for x in np.linspace(-1, 1, 15) for y in np.linspace(-1, 1, 19) if x * x + y * y <= 1]
)

_WEAKNESSES = {
    "score": "doubtful detection",
    "size": "small",
    "sharpness": "blurred",
    "yaw": "turned away",
    "pitch": "tilted",
    "roll": "upside down",
    "completeness": "cut off",
    "norm": "unclear",
}
# fitted on CelebA with YuNet and SFace, as scripts/fit_face_quality.py does; its draw of damaged copies gives weights
# within 0.5 of these. Without and with the norm
_LOG_ODDS = (2.5, 4.0)
_WEIGHTS: tuple[dict[str, float], dict[str, float]] = (
    {"score": 4.1, "size": 0.7, "sharpness": 2.3, "yaw": 0.7, "pitch": 2.5, "roll": 2.0, "completeness": 1.8},
    {"score": 2.1, "size": 0.4, "sharpness": 2.0, "yaw": 0.5, "pitch": 2.2, "roll": 2.0, "completeness": 1.1}
    | {"norm": 3.9},
)
_TEMPER_EXPONENT = 1.5


class FaceQuality(NamedTuple):
    """How good a picture of a face is.

    Attributes:
        score: The detector's probability that it is a face.
        size: The shorter side of the face's box, in pixels of the photo.
        sharpness: Variance of the Laplacian of the aligned crop's gray values in [0, 255] (Pech-Pacheco et al. 2000),
            at an eye distance of at most 35 pixels.
        norm: Length of the embedding before normalization. Comparable between faces seen by one model only.
        yaw, pitch: Degrees by which the head is turned to the right of the picture and upward, estimated from the five
            landmarks.
        roll: Degrees by which it is tilted clockwise; beyond 90 it is upside down.
        completeness: Fraction of the face, from hairline to chin, that lies inside the photo.
        overall: In [0, 1], see `overall_quality`.
        weakness: What is worst about it, in a word or two; "" if nothing is.
    """

    score: float
    size: float
    sharpness: float
    norm: float
    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0
    completeness: float = 1.0
    overall: float = 1.0
    weakness: str = ""


COMPONENTS = tuple(name for name in FaceQuality._fields if name not in ("overall", "weakness"))


def head_angles(landmarks: np.ndarray) -> tuple[float, float, float]:
    """Estimate yaw, pitch and roll in degrees from five landmarks (5, 2), as those of a mean head far away.

    DeMenthon, Davis: "Model-based object pose in 25 lines of code", 1995: the pose of scaled orthography is linear
    in the points.
    """
    points = np.asarray(landmarks, dtype=np.float64)
    across, down = (points - points.mean(0)).T @ _HEAD_PSEUDOINVERSE  # two rows of a scaled rotation
    lengths = np.linalg.norm(across), np.linalg.norm(down)
    if min(lengths) < 1e-9:
        raise ValueError("landmarks give no pose: the points coincide")
    roll = np.arctan2(down[0] - across[1], across[0] + down[1])
    forward_x, forward_y = -across[2] / lengths[0], -down[2] / lengths[1]  # where the nose points in the picture
    turned = np.cos(roll) * forward_x + np.sin(roll) * forward_y
    lifted = np.sin(roll) * forward_x - np.cos(roll) * forward_y
    yaw, pitch = np.arcsin(np.clip([turned, lifted], -1, 1))
    return float(np.degrees(yaw)), float(np.degrees(pitch)), float(np.degrees(roll))


def completeness(landmarks: np.ndarray, width: float, height: float) -> float:
    """Fraction of the face that lies inside a photo of this size; the face is where the landmarks put the template's.

    Raises:
        ValueError: The landmarks coincide.
    """
    matrix = similarity_transform(np.array(STANDARD_TEMPLATE), np.asarray(landmarks, dtype=np.float64))
    points = _FACE @ matrix[:, :2].T + matrix[:, 2]
    return float(((points >= -0.5) & (points <= np.array([width, height]) - 0.5)).all(1).mean())


def assess_face(
    score: float,
    box: np.ndarray,
    landmarks: np.ndarray,
    photo_size: tuple[float, float],
    sharpness: float,
    norm: float,
    reference: Mapping[str, float] | None = None,
) -> FaceQuality:
    """Put together what is known of a face.

    Args:
        box: (4,), left, top, right, bottom.
        landmarks: (5, 2), in pixels of the photo, as the box.
        photo_size: Width and height of the photo.
        reference: What norms the embedder usually has, see `norm_reference`.

    Raises:
        ValueError: The landmarks coincide.
    """
    size = float(min(box[2] - box[0], box[3] - box[1]))
    angles, inside = head_angles(landmarks), completeness(landmarks, *photo_size)
    parts = FaceQuality(float(score), size, float(sharpness), float(norm), *angles, inside)
    lacking = {name: float(value) for name, value in shortfalls(parts, reference).items()}
    named = {name: value for name, value in lacking.items() if name != "norm"}  # the norm knows of all the others
    weakest = max(named if max(named.values()) >= 0.3 else lacking, key=lacking.__getitem__)
    weakness = _WEAKNESSES[weakest] if lacking[weakest] > 0 else ""
    return parts._replace(overall=float(overall_quality(parts, reference)), weakness=weakness)


def overall_quality(quality: Any, reference: Mapping[str, float] | None = None) -> Any:
    """The estimated probability that the face matches a good photo of the same person at a false accept rate of 1e-3.

    A logistic regression on what each component lacks, with weights that are not negative: quality never falls when a
    component rises. The weights are of `scripts/fit_face_quality.py`.

    Args:
        quality: A `FaceQuality`, whose fields may be arrays (N,).
        reference: The embedder's `norm_reference`; without it the norm does not count.
    """
    uses_norm = reference is not None
    weights = _WEIGHTS[uses_norm]
    lost = sum(weights[name] * lack for name, lack in shortfalls(quality, reference).items())
    return 1 / (1 + np.exp(lost - _LOG_ODDS[uses_norm]))


def shortfalls(quality: Any, reference: Mapping[str, float] | None = None) -> dict[str, Any]:
    """What each component lacks, from 0 (nothing, as good as it gets) to 1."""
    lacking = {
        "score": (0.95 - quality.score) / 0.45,
        "size": np.log2(112 / np.maximum(quality.size, 1.0)) / 4,
        "sharpness": np.log(400 / np.maximum(quality.sharpness, 1e-3)) / 6,
        "yaw": (np.abs(quality.yaw) - 10) / 60,
        "pitch": (np.abs(quality.pitch) - 10) / 60,
        "roll": (np.abs(quality.roll) - 30) / 60,
        "completeness": (1 - quality.completeness) / 0.5,
    }
    if reference is not None:
        lacking["norm"] = (0.5 - (quality.norm - reference["mean"]) / reference["std"]) / 5
    return {name: np.clip(value, 0, 1) for name, value in lacking.items()}


def describe_poor(poor: Sequence[FaceQuality], faces: int) -> str:
    """One line about all faces of a photo: "2 of 3 faces set aside, quality 0.31 or less (1 small, 1 blurred)"."""
    best = max(quality.overall for quality in poor)
    counts = Counter(quality.weakness or "poor" for quality in poor)
    reasons = ", ".join(f"{count} {reason}" for reason, count in counts.most_common())
    return f"{len(poor)} of {faces} faces set aside, quality {best:.2f} or less ({reasons})"


def norm_reference(norms: np.ndarray) -> dict[str, float]:
    """What an embedder's norms (N,) are like on ordinary photos, to store with its thresholds as "norm"."""
    return {"mean": float(np.mean(norms)), "std": float(np.std(norms))}


def tempered_log_odds(log_odds: float, quality: float) -> float:
    """Move the log odds that two faces are one person's toward even, as the quality of the worse face falls."""
    return log_odds * quality**_TEMPER_EXPONENT
