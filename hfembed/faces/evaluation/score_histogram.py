"""Verification figures of more pairs than one keeps: scores are counted in fine bins, in memory that does not grow."""

import numpy as np

from hfembed.faces.evaluation.verification import Calibration, Roc, logistic_calibration, stored_thresholds

BINS = 1 << 20  # of width 2e-6 over the cosines: finer than float32 embeddings reproduce
_COARSE = 1 << 8  # bins taken together for the calibration


class ScoreHistogram:
    """Genuine and impostor pairs counted by cosine similarity, in 2^20 bins over [-1, 1].

    A threshold is the lower edge of a bin, so figures at a threshold are exact, and a threshold for a FAR is at most
    2e-6 above the best one. Failed pairs are counted too: as in `verification`, they are never accepted.
    """

    def __init__(self) -> None:
        self._counts = np.zeros((2, BINS), dtype=np.int64)  # impostor, genuine
        self._failed = np.zeros(2, dtype=np.int64)

    def add(self, scores: np.ndarray, same: bool) -> None:
        """Count pairs of one kind by their cosines; what rounding put outside of [-1, 1] counts at the end."""
        places = ((scores.ravel() + np.float32(1)) * np.float32(BINS / 2)).astype(np.int32)
        self._counts[int(same)] += np.bincount(np.clip(places, 0, BINS - 1), minlength=BINS)

    def add_failed(self, genuine: int, impostors: int) -> None:
        """Count pairs that have no score."""
        self._failed += np.array([impostors, genuine])

    def roc(self) -> Roc:
        """Accepted pairs at every bin's lower edge, after accepting none, from the strictest to the most lenient."""
        accepted = np.concatenate([np.zeros((2, 1), dtype=np.int64), np.cumsum(self._counts[:, ::-1], axis=1)], axis=1)
        edges = np.concatenate([[np.inf], np.arange(BINS - 1, -1, -1) * (2 / BINS) - 1])
        impostors, genuine = (self._counts.sum(1) + self._failed).tolist()
        return Roc(edges, accepted[1], accepted[0], genuine, impostors)

    def calibration(self) -> Calibration:
        """The logistic calibration of the scores, from bins of width 5e-4."""
        counts = self._counts.reshape(2, -1, _COARSE).sum(2)
        centers = (np.arange(counts.shape[1]) + 0.5) * (2 * _COARSE / BINS) - 1
        kind, place = np.nonzero(counts)
        return logistic_calibration(centers[place], kind == 1, counts[kind, place])

    def thresholds(self, data: str) -> dict:
        """Thresholds and calibration, as of `verification.decision_thresholds`; `data` says what the pairs are.

        The accuracy is that on as many genuine as impostor pairs.
        """
        curve = self.roc()
        gain = curve.tar - curve.far
        best = np.flatnonzero(gain == gain.max())
        return stored_thresholds(curve, float(curve.thresholds[best[len(best) // 2]]), self.calibration(), data)
