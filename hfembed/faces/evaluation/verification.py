"""Face verification figures from scored pairs: exact, and fast because the scores are sorted once.

Everything here is a pure function of arrays:

    scores  (N,) float   similarity of each pair, higher = more alike
    same    (N,) bool    True for a genuine pair (one person), False for an impostor pair (two people)
    folds   (N,) int     the fold each pair belongs to
    failed  (N,) bool    True where a pair has no score (missing image, no face found); its score is ignored

A pair is accepted when `score >= threshold`. The candidate thresholds are the midpoints between neighboring
distinct scores, and +inf (accept none) and -inf (accept all): no other threshold decides differently, so a sweep over
them is exact.

Failed pairs are never skipped. In an accuracy they are errors, genuine or not (the rule of LFW). In FAR, TAR, ROC,
EER and AUC they are comparisons that never accept, as in ISO/IEC 19795-1: a failed genuine pair counts as rejected,
and a failed impostor pair as not accepted, both in the denominators. For the AUC they tie at the lowest score.

All rates are fractions in [0, 1].
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from hfembed.errors import InputError
from hfembed.index.error_rates import MINIMUM_EXPECTED_FALSE_ACCEPTS, far_is_carried, rate_label

FAR_TARGETS = (0.1, 0.01, 0.001, 0.0001)


class Roc(NamedTuple):
    """Accepted pairs at every candidate threshold, from the strictest (+inf) to the most lenient (-inf).

    Attributes:
        thresholds: (M,) float, falling.
        true_accepts: (M,) int, accepted genuine pairs.
        false_accepts: (M,) int, accepted impostor pairs.
        genuine: Number of genuine pairs, failed ones included.
        impostors: Number of impostor pairs, failed ones included.
    """

    thresholds: np.ndarray
    true_accepts: np.ndarray
    false_accepts: np.ndarray
    genuine: int
    impostors: int

    @property
    def tar(self) -> np.ndarray:
        """True accept rate (M,)."""
        return self.true_accepts / self.genuine

    @property
    def far(self) -> np.ndarray:
        """False accept rate (M,)."""
        return self.false_accepts / self.impostors


class KFoldAccuracy(NamedTuple):
    """Accuracy with the threshold of the other folds.

    Attributes:
        mean: Mean accuracy over the folds.
        standard_error: Standard deviation over the folds (ddof = 1) / sqrt(folds).
        accuracies: (folds,) float.
        thresholds: (folds,) float, chosen on the other folds and applied to this one.
    """

    mean: float
    standard_error: float
    accuracies: np.ndarray
    thresholds: np.ndarray


class TarAtFar(NamedTuple):
    """The largest TAR at a FAR not above the target.

    Attributes:
        tar: True accept rate.
        low: Lower end of its 95 % Wilson interval. The pairs are taken as independent and the threshold as given.
        high: Upper end.
        far: The false accept rate reached, at most the target.
        threshold: The most lenient candidate that keeps to the target.
    """

    tar: float
    low: float
    high: float
    far: float
    threshold: float


class EqualError(NamedTuple):
    """Where false accepts and false rejects are equally frequent.

    Attributes:
        rate: The equal error rate.
        threshold: The candidate whose FAR and FRR are closest (of two the stricter).
    """

    rate: float
    threshold: float


class Calibration(NamedTuple):
    """From a score to the probability that a pair is genuine: 1 / (1 + exp(-(slope * score + intercept))).

    Attributes:
        slope: Per unit of the score.
        intercept: The log odds at score 0, when genuine and impostor pairs are equally frequent.
    """

    slope: float
    intercept: float


def roc(scores: np.ndarray, same: np.ndarray, failed: np.ndarray | None = None) -> Roc:
    """Count the accepted pairs at every candidate threshold.

    Raises:
        InputError: Shapes differ, a score is not finite, or genuine or impostor pairs are missing. So do the functions
            below.
    """
    scores, same, failed = _checked(scores, same, failed)
    order = _falling(scores, failed)
    thresholds, true_accepts, false_accepts = _sweep(scores[order], same[order])
    return Roc(thresholds, true_accepts, false_accepts, int(same.sum()), int((~same).sum()))


def accuracy_threshold(scores: np.ndarray, same: np.ndarray, failed: np.ndarray | None = None) -> float:
    """The candidate threshold with the most correct decisions; of several equally good ones the middle one.

    Of an even number, the stricter of the two in the middle. Failed pairs are wrong at any threshold and have no
    influence. +inf or -inf where accepting none or all is best.
    """
    scores, same, failed = _checked(scores, same, failed)
    order = _falling(scores, failed)
    return _best_threshold(scores[order], same[order])


def accuracy(scores: np.ndarray, same: np.ndarray, threshold: float, failed: np.ndarray | None = None) -> float:
    """Fraction of correct decisions at a threshold; a failed pair is a wrong one."""
    scores, same, failed = _checked(scores, same, failed)
    return float(_right(scores, same, failed, threshold).mean())


def k_fold_accuracy(
    scores: np.ndarray, same: np.ndarray, folds: np.ndarray, failed: np.ndarray | None = None
) -> KFoldAccuracy:
    """LFW's accuracy: each fold is decided by the threshold that is best on all the others.

    Huang et al., "Labeled Faces in the Wild", 2007, section 3. The threshold follows `accuracy_threshold`, ties
    included, and sees nothing of the fold it is applied to, not even where its scores lie.

    Args:
        scores: (N,) float.
        same: (N,) bool.
        folds: (N,) int, at least two different values; LFW has ten.
        failed: (N,) bool, optional.

    Returns:
        Mean, standard error, and the figures of each fold in rising order of its number.
    """
    scores, same, failed = _checked(scores, same, failed)
    folds = np.asarray(folds)
    if folds.shape != scores.shape:
        raise InputError(f"{len(scores)} scores but folds of shape {folds.shape}: each pair needs its fold")
    numbers = np.unique(folds)
    if len(numbers) < 2:
        raise InputError("k-fold accuracy needs at least two folds: these pairs have one (View 1 has no folds)")

    order = _falling(scores, failed)
    accuracies, thresholds = [], []
    for number in numbers:
        others = order[folds[order] != number]
        threshold = _best_threshold(scores[others], same[others])
        accuracies.append(_right(scores, same, failed, threshold)[folds == number].mean())
        thresholds.append(threshold)
    standard_error = np.std(accuracies, ddof=1) / np.sqrt(len(numbers))
    return KFoldAccuracy(float(np.mean(accuracies)), float(standard_error), np.array(accuracies), np.array(thresholds))


def insightface_accuracy(
    distances: np.ndarray, same: np.ndarray, folds: np.ndarray, failed: np.ndarray | None = None
) -> KFoldAccuracy:
    """Accuracy by insightface's rule, for comparison with figures that were published with it.

    Each fold is decided by the threshold on squared distances, of 0, 0.01 ... 3.99, that is best on all the others,
    the first of equally good ones; a pair is accepted below it (`calculate_roc` in insightface's
    recognition/arcface_torch/eval/verification.py). `k_fold_accuracy` is not bound to a grid.

    Args:
        distances: (N,) float, squared Euclidean distances of unit vectors.
        same: (N,) bool.
        folds: (N,) int; insightface's are ten runs of consecutive pairs.
        failed: (N,) bool, optional: wrong at any threshold.

    Returns:
        As of `k_fold_accuracy`; the thresholds are squared distances.
    """
    distances, same, failed = _checked(distances, same, failed)
    grid = np.arange(0, 4, 0.01)
    numbers = np.unique(folds)
    right = np.empty((len(grid), len(numbers)))
    counts = np.array([(folds == number).sum() for number in numbers])
    for row, threshold in enumerate(grid):
        is_right = ((distances < threshold) == same) & ~failed
        right[row] = [is_right[folds == number].sum() for number in numbers]
    # whole numbers: which thresholds are equally good is not left to rounding
    best = (right.sum(axis=1, keepdims=True) - right).argmax(axis=0)
    accuracies = right[best, np.arange(len(numbers))] / counts
    standard_error = np.std(accuracies, ddof=1) / np.sqrt(len(numbers))
    return KFoldAccuracy(float(accuracies.mean()), float(standard_error), accuracies, grid[best])


def area_under_curve(scores: np.ndarray, same: np.ndarray, failed: np.ndarray | None = None) -> float:
    """Area under the ROC curve: the chance that a genuine pair scores above an impostor pair (a tie counts half)."""
    from sklearn.metrics import roc_auc_score  # a second, which training and `verify` need not wait for

    scores, same, failed = _checked(scores, same, failed)
    return float(roc_auc_score(same, np.where(failed, scores[~failed].min() - 1.0, scores)))


def equal_error(curve: Roc) -> EqualError:
    """The equal error rate, interpolated linearly between the two ROC points around FAR = FRR.

    If so many genuine pairs failed that FAR stays below FRR even when all scored pairs are accepted, the rate is the
    FRR at that end.
    """
    frr = 1.0 - curve.tar
    difference = curve.far - frr  # rises along the curve
    crossing = int(np.argmax(difference >= 0)) if difference[-1] >= 0 else len(difference) - 1
    closest = float(curve.thresholds[np.argmin(np.abs(difference))])
    if difference[crossing] <= 0:
        return EqualError(float(frr[crossing]), closest)
    before = crossing - 1  # exists: the curve starts at FAR = 0, FRR = 1
    share = -difference[before] / (difference[crossing] - difference[before])
    return EqualError(float(frr[before] + share * (frr[crossing] - frr[before])), closest)


def tar_at_far(curve: Roc, far: float) -> TarAtFar:
    """The largest TAR among the thresholds whose FAR is not above the target.

    Raises:
        InputError: There are too few impostor pairs for this FAR (see `far_is_carried`).
    """
    if not far_is_carried(far, curve.impostors):
        raise InputError(
            f"FAR {far:g} cannot be measured with {curve.impostors} impostor pairs: "
            f"{MINIMUM_EXPECTED_FALSE_ACCEPTS / far:.0f} are needed"
        )
    # both counts rise along the curve, so the last allowed candidate has the largest TAR
    allowed = np.floor(far * curve.impostors * (1 + 1e-12))
    index = int(np.searchsorted(curve.false_accepts, allowed, side="right")) - 1
    accepted = int(curve.true_accepts[index])
    low, high = wilson_interval(accepted, curve.genuine)
    return TarAtFar(accepted / curve.genuine, low, high, float(curve.far[index]), float(curve.thresholds[index]))


class TarsAtFars(NamedTuple):
    """True accept rates as results.json has them.

    Attributes:
        metrics: "tar_at_far_1e-2" -> percent.
        details: "1e-2" -> percent, interval, and the FAR that was reached.
        not_measurable: "1e-6" -> why not.
    """

    metrics: dict[str, float]
    details: dict[str, dict[str, Any]]
    not_measurable: dict[str, str]


def tars_at_fars(curve: Roc, targets: Sequence[float]) -> TarsAtFars:
    """The TAR at each FAR that the impostor pairs can carry."""
    found = TarsAtFars({}, {}, {})
    for far in targets:
        target = rate_label(far)
        if not far_is_carried(far, curve.impostors):
            found.not_measurable[target] = f"{curve.impostors} impostor pairs cannot carry it"
            continue
        point = tar_at_far(curve, far)
        found.metrics[f"tar_at_far_{target}"] = 100 * point.tar
        found.details[target] = {
            "tar": 100 * point.tar,
            "interval_95": [100 * point.low, 100 * point.high],
            "far_reached": 100 * point.far,
        }
    return found


def wilson_interval(successes: int, trials: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's score interval of a proportion (Wilson 1927), by default at 95 %."""
    share = successes / trials
    center = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * np.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    return float(max(0.0, center - half)), float(min(1.0, center + half))


def logistic_calibration(scores: np.ndarray, same: np.ndarray, counts: np.ndarray | None = None) -> Calibration:
    """Fit the probability that a pair is genuine, given its score, for a prior of one half.

    Logistic regression on the score (Platt 1999, "Probabilistic outputs for support vector machines"), genuine and
    impostor pairs weighted to be equally many. Without a penalty; Platt's targets, (n + 1) / (n + 2) and 1 / (n + 2)
    instead of 1 and 0, keep it finite where a threshold separates all pairs.

    Args:
        scores: (N,) float.
        same: (N,) bool.
        counts: (N,) int, how many pairs each row stands for; one by default.
    """
    from sklearn.linear_model import LogisticRegression  # as slow to import

    scores, same, _ = _checked(scores, same, None)
    counts = np.ones(len(scores)) if counts is None else np.asarray(counts, dtype=np.float64)
    number = np.where(same, counts[same].sum(), counts[~same].sum())  # of the pairs of a row's own kind
    weights, right = counts / number, (number + 1) / (number + 2)
    # a soft target is a row of each class, sharing the weight; the mean weight is 1, as the solver's tolerance expects
    labels, weights = np.concatenate([same, ~same]), np.concatenate([weights * right, weights * (1 - right)])
    regression = LogisticRegression(C=np.inf, tol=1e-8, max_iter=1000)
    regression.fit(np.tile(scores, 2)[:, None], labels, sample_weight=weights / weights.mean())
    return Calibration(float(regression.coef_[0, 0]), float(regression.intercept_[0]))


def decision_thresholds(
    scores: np.ndarray,
    same: np.ndarray,
    failed: np.ndarray | None = None,
    *,
    data: str,
    far_targets: tuple[float, ...] = FAR_TARGETS,
) -> dict:
    """Thresholds and calibration to store with a checkpoint, in the shape of `FaceEmbedderConfig.thresholds`.

    Args:
        scores: (N,) float, cosines.
        same: (N,) bool.
        failed: (N,) bool, optional.
        data: What the pairs are, in words.
        far_targets: FARs wanted; those for which there are too few impostor pairs are left out.

    Returns:
        `{"data": str, "impostors": int, "genuine": int, "accuracy": cosine, "eer": cosine, "far": {"0.1": cosine,
        ...}, "calibration": {"slope": float, "intercept": float}}`; no calibration where the score does not depend on
        who is in the photos (a slope of 0 or less).
    """
    curve = roc(scores, same, failed)
    scores, same, failed = _checked(scores, same, failed)
    best = accuracy_threshold(scores, same, failed)
    both_kinds = same[~failed].any() and not same[~failed].all()
    calibration = logistic_calibration(scores[~failed], same[~failed]) if both_kinds else None
    return stored_thresholds(curve, best, calibration, data, far_targets)


def stored_thresholds(
    curve: Roc,
    accuracy_threshold: float,
    calibration: Calibration | None,
    data: str,
    far_targets: tuple[float, ...] = FAR_TARGETS,
) -> dict:
    """`decision_thresholds` from a curve, the threshold with the most correct decisions and a calibration."""

    def stored(threshold: float) -> float:
        return float(np.clip(threshold, -1, 1))  # +-inf, accept none and accept all, would not survive JSON

    thresholds = {
        "data": data,
        "impostors": curve.impostors,
        "genuine": curve.genuine,
        "accuracy": stored(accuracy_threshold),
        "eer": stored(equal_error(curve).threshold),
        "far": {
            f"{far:g}": stored(tar_at_far(curve, far).threshold)
            for far in far_targets
            if far_is_carried(far, curve.impostors)
        },
    }
    if calibration is not None and calibration.slope > 0:
        thresholds["calibration"] = calibration._asdict()
    return thresholds


def _checked(
    scores: np.ndarray, same: np.ndarray, failed: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    scores = np.asarray(scores, dtype=np.float64)
    same = np.asarray(same, dtype=bool)
    failed = np.zeros(scores.shape, dtype=bool) if failed is None else np.asarray(failed, dtype=bool)
    if not scores.ndim == same.ndim == failed.ndim == 1 or not len(scores) == len(same) == len(failed):
        raise InputError(
            f"scores, same and failed must be of one length: shapes {scores.shape}, {same.shape}, {failed.shape}"
        )
    if same.all() or not same.any():
        raise InputError(f"{len(same)} pairs, {int(same.sum())} of them genuine: both kinds are needed")
    if failed.all():
        raise InputError(f"none of the {len(failed)} pairs could be scored")
    broken = int((~np.isfinite(scores[~failed])).sum())
    if broken:
        raise InputError(f"{broken} of {len(scores)} scores are not finite numbers: the embeddings are broken")
    return scores, same, failed


def _falling(scores: np.ndarray, failed: np.ndarray) -> np.ndarray:
    """Indices of the scored pairs, highest score first."""
    scored = np.flatnonzero(~failed)
    scored = scored[::-1]  # a stable order that rises, turned around, falls with equal scores in the order given
    return scored[np.argsort(scores[scored], kind="stable")[::-1]]


def _sweep(scores: np.ndarray, same: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Candidate thresholds and the genuine and impostor pairs accepted at each; `scores` must fall."""
    last_of_equals = np.flatnonzero(np.append(scores[1:] != scores[:-1], True))
    # in place where it can be: a protocol has ten million pairs and more
    thresholds = np.full(len(last_of_equals) + 1, np.inf)
    upper, lower = scores[last_of_equals[:-1]], scores[last_of_equals[1:]]
    middle = np.subtract(upper, lower, out=thresholds[1:-1])
    middle /= 2
    middle += lower
    np.copyto(middle, upper, where=middle <= lower)  # no number lies between neighboring floats
    thresholds[-1] = -np.inf
    true_accepts = np.zeros(len(thresholds), dtype=np.int64)
    true_accepts[1:] = np.cumsum(same)[last_of_equals]
    last_of_equals += 1
    false_accepts = np.append(0, last_of_equals)
    false_accepts -= true_accepts
    return thresholds, true_accepts, false_accepts


def _best_threshold(scores: np.ndarray, same: np.ndarray) -> float:
    thresholds, true_accepts, false_accepts = _sweep(scores, same)
    gain = true_accepts - false_accepts  # right decisions, up to the constant number of impostors
    best = np.flatnonzero(gain == gain.max())
    return float(thresholds[best[(len(best) - 1) // 2]])


def _right(scores: np.ndarray, same: np.ndarray, failed: np.ndarray, threshold: float) -> np.ndarray:
    return ((scores >= threshold) == same) & ~failed
