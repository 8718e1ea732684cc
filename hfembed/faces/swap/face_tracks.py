"""Faces followed over the frames of a clip, and their landmarks smoothed along the way."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torchvision.ops import box_iou

MIN_OVERLAP = 0.3  # intersection over union of a face's boxes from frame to frame
MAX_GAP = 5  # frames that a face may be missing in
MIN_SEEN = 3  # frames that a face is seen in at least, but for shorter clips
SMOOTHING_SECONDS = 0.2  # to either side


@dataclass(eq=False)
class FaceTrack:
    """One face in several frames.

    Attributes:
        frames: Numbers of the frames in which it was found, rising.
        landmarks: (5, 2) in each of them, [x, y] in pixels.
        box: (4,), left, top, right, bottom, in the last of them.
    """

    frames: list[int] = field(default_factory=list)
    landmarks: list[np.ndarray] = field(default_factory=list)
    box: torch.Tensor = field(default_factory=lambda: torch.zeros(4))

    def smoothed(self, times: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
        """Landmarks in all frames from the first to the last, those in between in which it was not found too.

        Args:
            times: Of all frames of the clip, in seconds, rising.

        Returns:
            The frames (n,) int64 and the landmarks (n, 5, 2) float64.
        """
        frames = np.arange(self.frames[0], self.frames[-1] + 1)
        when = np.asarray(times, dtype=np.float64)[frames]
        known = when[np.array(self.frames) - self.frames[0]]
        found = np.reshape(self.landmarks, (len(self.frames), 10)).astype(np.float64)
        filled = np.stack([np.interp(when, known, column) for column in found.T], axis=1)
        return frames, smooth(when, filled).reshape(-1, 5, 2)


class FaceTracker:
    """Follows faces by the overlap of their boxes alone.

    Bochinski et al., "High-Speed Tracking-by-Detection Without Using Image Information", 2017: the pairs of a face of
    this frame and a track of the ones before are taken by falling overlap. A track that is missing in `MAX_GAP` frames
    ends, and all end at a cut.
    """

    def __init__(self) -> None:
        self.tracks: list[FaceTrack] = []
        self._open: list[FaceTrack] = []

    def add(self, frame: int, boxes: torch.Tensor, landmarks: torch.Tensor) -> None:
        """Assign the faces of the next frame to tracks.

        Args:
            boxes: (n, 4), left, top, right, bottom in pixels.
            landmarks: (n, 5, 2), [x, y] in pixels.
        """
        self._open = [track for track in self._open if frame - track.frames[-1] <= MAX_GAP + 1]
        free = list(range(len(boxes)))
        tracks = list(self._open)
        if tracks and free:
            overlap = box_iou(torch.stack([track.box for track in tracks]), boxes.float())
            for place in overlap.flatten().argsort(descending=True, stable=True).tolist():
                track, face = tracks[place // len(boxes)], place % len(boxes)
                if overlap.flatten()[place] < MIN_OVERLAP:
                    break
                if face in free and track.frames[-1] < frame:
                    free.remove(face)
                    _append(track, frame, boxes[face], landmarks[face])
        for face in sorted(free, key=lambda face: float(landmarks[face, 2, 0])):  # from the left
            track = FaceTrack()
            _append(track, frame, boxes[face], landmarks[face])
            self._open.append(track)
            self.tracks.append(track)

    def cut(self) -> None:
        """End all tracks: the next frame shows another scene."""
        self._open = []


def _append(track: FaceTrack, frame: int, box: torch.Tensor, landmarks: torch.Tensor) -> None:
    track.frames.append(frame)
    track.landmarks.append(landmarks.numpy())
    track.box = box.float()


def smooth(times: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Smooth curves without delay, also over frames of varying length.

    Each value becomes that of the parabola fitted to its surroundings with tricube weights, a local regression
    (Cleveland, "Robust Locally Weighted Regression and Smoothing Scatterplots", 1979; of even spacing, the filter of
    Savitzky and Golay, 1964): steady and steadily accelerated motion stay as they are.

    Args:
        times: (n,), in seconds, rising.
        values: (n, D).

    Returns:
        (n, D).
    """
    smoothed = np.empty_like(values)
    for row, time in enumerate(times):
        first, last = np.searchsorted(times, [time - SMOOTHING_SECONDS, time + SMOOTHING_SECONDS], side="right")
        offsets = (times[first:last] - time) / SMOOTHING_SECONDS
        weights = np.sqrt((1 - np.abs(offsets).clip(max=1) ** 3) ** 3)
        design = weights[:, None] * offsets[:, None] ** np.arange(3)
        fit = np.linalg.lstsq(design, weights[:, None] * values[first:last], rcond=None)[0]
        smoothed[row] = fit[0]
    return smoothed
