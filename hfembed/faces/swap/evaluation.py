"""Measure swapped faces: similarity to the target person, pose kept, and the effect of poses missing in training."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr

from hfembed.errors import InputError
from hfembed.faces.crop_landmarks import find_landmarks
from hfembed.faces.data.aligned_faces import AlignedFaces
from hfembed.faces.face_oval import face_oval
from hfembed.faces.swap.recrop import Recrop
from hfembed.models.detected_faces import FaceDetector
from hfembed.models.face_embedder.image_processing_face_embedder import FaceImageProcessor
from hfembed.models.face_embedder.modeling_face_embedder import FaceEmbedderModel
from hfembed.models.face_swap_base import FaceSwapBase


class Faces(NamedTuple):
    """Crops of some people, as the swap model sees them.

    Attributes:
        pixels: (N, C, H, W) in [0, 1].
        labels: (N,) int64, numbers of the model's people.
    """

    pixels: torch.Tensor
    labels: np.ndarray
    files: list[str]

    @classmethod
    def of(cls, photos: AlignedFaces) -> "Faces":
        """All crops of `photos`, whose identities are the model's people in the model's order."""
        pixels = torch.stack([photos[0, row]["pixels"] for row in range(len(photos))]).float() / 255
        return cls(pixels, photos.labels, photos.files)


class Swaps(NamedTuple):
    """N photos, each swapped to P people.

    Attributes:
        faces: (N, P, C, H, W) in [0, 1]: every photo as every person.
        cosines: (N, P, P): of [photo, decoder] to [person], by the embedder.
        photo_cosines: (N, P): of the photos themselves.
    """

    faces: torch.Tensor
    cosines: np.ndarray
    photo_cosines: np.ndarray


class SwapEvaluation:
    """How well a swapped face shows the target person.

    A person is represented by the mean embedding of their training photos. A swap is *closer to the target* when its
    embedding has a larger cosine to the target than to the source. The upper bound is what held-out photos of the
    people themselves reach, at the model's resolution.

    Raises:
        InputError: Somebody has no photo on one of the sides.
    """

    name = "swap"
    primary_metric = "swap_cosine_to_target"
    greater_is_better = True

    def __init__(
        self,
        trained: Faces,
        tested: Faces,
        embedder: FaceEmbedderModel,
        embedder_processor: FaceImageProcessor,
        detector: FaceDetector | None = None,
        batch_size: int = 64,
    ) -> None:
        self.trained = trained
        self.tested = tested
        self.embedder = embedder
        self.embedder_processor = embedder_processor
        self.detector = detector
        self.batch_size = batch_size

    def __call__(self, model: FaceSwapBase, processor: FaceImageProcessor) -> dict[str, float]:
        """Swap every held-out photo with everybody else.

        Returns:
            `swap_closer_to_target` in percent; the mean cosines `swap_cosine_to_target`, `swap_cosine_to_source`,
            `swap_cosine_redrawn` (photos reconstructed as themselves) and `swap_cosine_bound` (the photos);
            `swap_count`; `swap_sharpness`, the gradient energy inside of the face's oval in percent of that of the
            target's own photos. With a detector also the figures of `pose_figures`, and the rank correlations
            `swap_cosine_by_pose_distance` and `swap_pose_error_by_pose_distance` over all photos, with the distance to
            the nearest pose that the decoder was trained on.
        """
        figures, _ = self.evaluate(model, processor)
        return figures

    def evaluate(self, model: FaceSwapBase, processor: FaceImageProcessor) -> tuple[dict[str, float], dict[str, Any]]:
        """What a call returns, and the details: each pair of people, each photo, and the swaps for pictures."""
        count = len(model.config.people)
        for side, faces in (("trained on", self.trained), ("held out", self.tested)):
            absent = [name for label, name in enumerate(model.config.people) if label not in faces.labels]
            if absent:
                raise InputError(f"none of the photos of '{absent[0]}' was {side}: both sides are needed to measure")
        recrop = Recrop(processor, self.embedder_processor).to(self.embedder.device)
        embeddings = self._embed(recrop, self.trained.pixels)
        people = F.normalize(torch.stack([embeddings[self.trained.labels == label].mean(0) for label in range(count)]))
        tested = self._swap(model, recrop, self.tested, people)

        source = self.tested.labels[:, None]
        target = np.arange(count)[None]
        rows, others = np.nonzero(source != target)
        to_target = tested.cosines[rows, others, others]
        to_source = tested.cosines[rows, others, self.tested.labels[rows]]
        places = np.arange(len(self.tested.labels))
        figures = {
            "swap_closer_to_target": 100 * float((to_target > to_source).mean()),
            "swap_cosine_to_target": float(to_target.mean()),
            "swap_cosine_to_source": float(to_source.mean()),
            "swap_cosine_redrawn": float(tested.cosines[places, self.tested.labels, self.tested.labels].mean()),
            "swap_cosine_bound": float(tested.photo_cosines[places, self.tested.labels].mean()),
            "swap_count": len(rows),
            "swap_sharpness": self._sharpness(tested, rows, others, processor),
        }
        details: dict[str, Any] = {
            "people": list(model.config.people),
            "photos": {
                "trained": np.bincount(self.trained.labels).tolist(),
                "held_out": np.bincount(self.tested.labels).tolist(),
            },
            "pairs": [
                {
                    "source": model.config.people[one],
                    "target": model.config.people[other],
                    "cosine_to_target": float(to_target[chosen].mean()),
                    "cosine_to_source": float(to_source[chosen].mean()),
                    "closer_to_target": 100 * float((to_target > to_source)[chosen].mean()),
                }
                for one in range(count)
                for other in range(count)
                if one != other
                for chosen in [(self.tested.labels[rows] == one) & (others == other)]
            ],
        }
        if self.detector is not None:
            trained = self._swap(model, recrop, self.trained, people)
            pose, points = self._poses(self.detector, tested, trained)
            figures |= pose
            details["by_pose_distance"] = thirds(points)
            details["pose_points"] = points
        return figures, details

    def _sharpness(self, swaps: Swaps, rows: np.ndarray, others: np.ndarray, processor: FaceImageProcessor) -> float:
        """Of swaps, in percent of the targets' photos of both sides."""
        oval = torch.from_numpy(face_oval(processor.template, *self.tested.pixels.shape[2:]))
        energy = torch.cat([oval_energy(faces.pixels, oval) for faces in (self.trained, self.tested)]).numpy()
        labels = np.concatenate([self.trained.labels, self.tested.labels])
        own = np.array([energy[labels == label].mean() for label in range(swaps.faces.shape[1])])
        return 100 * float((oval_energy(swaps.faces[rows, others], oval).numpy() / own[others]).mean())

    @torch.no_grad()
    def _embed(self, recrop: Recrop, faces: torch.Tensor) -> torch.Tensor:
        """(N, D), unit length, on the CPU."""
        batches = faces.split(self.batch_size)
        return torch.cat([self.embedder.embed(recrop(batch.to(self.embedder.device))).cpu() for batch in batches])

    def _swap(self, model: FaceSwapBase, recrop: Recrop, faces: Faces, people: torch.Tensor) -> Swaps:
        drawn, cosines = [], []
        for person in model.config.people:
            batches = faces.pixels.split(self.batch_size)
            swapped = torch.cat([model.swap(batch.to(model.device), person)[0].float().cpu() for batch in batches])
            drawn.append(swapped)
            cosines.append(self._embed(recrop, swapped) @ people.T)
        photo_cosines = self._embed(recrop, faces.pixels) @ people.T
        return Swaps(torch.stack(drawn, dim=1), torch.stack(cosines, dim=1).numpy(), photo_cosines.numpy())

    def _poses(
        self, detector: FaceDetector, tested: Swaps, trained: Swaps
    ) -> tuple[dict[str, float], list[dict[str, Any]]]:
        """`pose_figures` of held-out photos, and one point per swap, of training photos too."""
        points: list[dict[str, Any]] = []
        sides = [(self.tested, tested, True), (self.trained, trained, False)]
        found = {held_out: find_landmarks(detector, faces.pixels) for faces, _, held_out in sides}
        # a photo and its mirror image are both trained on
        sample = face_poses(found[False])
        sample = np.concatenate([sample, sample * [-1, 1]])
        owners = np.tile(self.trained.labels, 2)
        kept: list[tuple[np.ndarray, np.ndarray]] = []
        for faces, swaps, held_out in sides:
            poses = face_poses(found[held_out])
            for person in range(swaps.faces.shape[1]):
                rows = np.flatnonzero(faces.labels != person)
                landmarks = find_landmarks(detector, swaps.faces[rows, person])
                if held_out:
                    kept.append((found[held_out][rows], landmarks))
                known = sample[(owners == person) & np.isfinite(sample).all(axis=1)]
                for row, after in zip(rows, face_poses(landmarks), strict=True):
                    distance = float(np.linalg.norm(known - poses[row], axis=1).min()) if len(known) else np.nan
                    points.append(
                        {
                            "file": faces.files[row],
                            "target": person,
                            "held_out": held_out,
                            "distance": _finite(distance),
                            "pose_error": _finite(float(np.linalg.norm(after - poses[row]))),
                            "cosine": float(swaps.cosines[row, person, person]),
                        }
                    )
        before, after = (np.concatenate(part) for part in zip(*kept, strict=True))
        figures = pose_figures(before, after)
        for key in ("cosine", "pose_error"):
            known = [
                (point["distance"], point[key]) for point in points if None not in (point["distance"], point[key])
            ]
            if len(known) > 2:
                figures[f"swap_{key}_by_pose_distance"] = float(spearmanr(*zip(*known, strict=True)).statistic)
        return figures, points


def oval_energy(faces: torch.Tensor, oval: torch.Tensor) -> torch.Tensor:
    """Gradient energy inside of an oval: the mean squared difference of adjacent pixels, across and down.

    Args:
        faces: (N, C, H, W) in [0, 1].
        oval: (H, W), weights in [0, 1].

    Returns:
        (N,).
    """
    across = (faces.diff(dim=3).square() * oval[:, 1:]).sum((1, 2, 3)) / oval[:, 1:].sum()
    down = (faces.diff(dim=2).square() * oval[1:]).sum((1, 2, 3)) / oval[1:].sum()
    return (across + down) / faces.shape[1]


def thirds(points: Sequence[dict[str, Any]]) -> list[dict[str, float]]:
    """Means over the nearest, the middle and the farthest third of swaps, by their pose's distance to a trained one.

    Args:
        points: With "distance", "pose_error" (None where unknown) and "cosine".

    Returns:
        For each third: "from" and "to", the distances it holds, "count", "pose_error", "cosine".
    """
    known = [point for point in points if None not in (point["distance"], point["pose_error"])]
    known.sort(key=lambda point: point["distance"])
    return [
        {
            "from": third[0]["distance"],
            "to": third[-1]["distance"],
            "count": len(third),
            "pose_error": float(np.mean([point["pose_error"] for point in third])),
            "cosine": float(np.mean([point["cosine"] for point in third])),
        }
        for places in np.array_split(np.arange(len(known)), 3)
        if len(third := [known[place] for place in places])
    ]


def pose_figures(before: np.ndarray, after: np.ndarray) -> dict[str, float]:
    """How far swaps keep the pose of their photos.

    Args:
        before: (n, 5, 2), landmarks in the photos; NaN where no face was found.
        after: (n, 5, 2), landmarks in the swaps, in the same pixels.

    Returns:
        `swap_landmark_error`: mean distance of a landmark from where it was, in percent of the distance between the
        eyes; `swap_eye_error` and `swap_mouth_error`: that of the eyes and of the mouth's corners; `swap_pose_error`:
        mean distance between the poses of `face_poses`; `swap_yaw_correlation`: between the sideways parts of the
        poses, 1 where swaps turn exactly as their photos; `swap_undetected`: swaps without a face among those of
        photos with one, in percent.
    """
    visible = np.isfinite(before).all(axis=(1, 2))
    both = visible & np.isfinite(after).all(axis=(1, 2))
    figures = {"swap_undetected": 100 * float(1 - both.sum() / max(visible.sum(), 1))}
    if both.sum() < 3:
        return figures
    before, after = before[both], after[both]
    eyes = np.linalg.norm(before[:, 1] - before[:, 0], axis=1)
    errors = np.linalg.norm(after - before, axis=2) / eyes[:, None]
    poses = face_poses(before), face_poses(after)
    return figures | {
        "swap_landmark_error": 100 * float(errors.mean()),
        "swap_eye_error": 100 * float(errors[:, :2].mean()),
        "swap_mouth_error": 100 * float(errors[:, 3:].mean()),
        "swap_pose_error": float(np.linalg.norm(poses[1] - poses[0], axis=1).mean()),
        "swap_yaw_correlation": float(np.corrcoef(poses[0][:, 0], poses[1][:, 0])[0, 1]),
    }


def face_poses(landmarks: np.ndarray) -> np.ndarray:
    """Position of the nose in the face's own frame: sideways with the yaw of the head, up and down with its pitch.

    Args:
        landmarks: (n, 5, 2): left eye, right eye, nose, left and right mouth corner, [x, y].

    Returns:
        (n, 2): from the middle of the face to the nose, to the right and downwards, in distances between the eyes'
        and the mouth's middle. NaN where landmarks are.
    """
    eyes, mouth = landmarks[:, :2].mean(axis=1), landmarks[:, 3:].mean(axis=1)
    down = mouth - eyes
    square = (down**2).sum(axis=1)
    nose = landmarks[:, 2] - (eyes + mouth) / 2
    right = np.stack([down[:, 1], -down[:, 0]], axis=1)
    return np.stack([(nose * right).sum(axis=1) / square, (nose * down).sum(axis=1) / square], axis=1)


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
