"""Verification figures against brute force over all thresholds and against scikit-learn."""

import math

import numpy as np
import pytest
from sklearn.metrics import roc_curve
from sklearn.model_selection import KFold

from hfembed.errors import InputError
from hfembed.faces.evaluation.verification import (
    accuracy,
    accuracy_threshold,
    area_under_curve,
    decision_thresholds,
    equal_error,
    far_is_carried,
    insightface_accuracy,
    k_fold_accuracy,
    logistic_calibration,
    roc,
    tar_at_far,
    wilson_interval,
)


def make_pairs(seed: int, count: int = 240, ties: bool = False):
    """Overlapping genuine and impostor scores in ten folds; with `ties` on a coarse grid."""
    generator = np.random.default_rng(seed)
    same = np.arange(count) % 2 == 0
    scores = np.where(same, 0.5, 0.1) + 0.2 * generator.standard_normal(count)
    if ties:
        scores = scores.round(1)
    folds = np.repeat(np.arange(10), count // 10)
    failed = generator.random(count) < 0.05
    return scores, same, folds, failed


def brute_candidates(scores):
    distinct = sorted(set(scores.tolist()))
    return [math.inf, *[(a + b) / 2 for a, b in zip(distinct, distinct[1:], strict=False)][::-1], -math.inf]


def brute_best_threshold(scores, same):
    right = {t: sum((s >= t) == g for s, g in zip(scores, same, strict=True)) for t in brute_candidates(scores)}
    best = [t for t in sorted(right, reverse=True) if right[t] == max(right.values())]
    return best[(len(best) - 1) // 2]


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_k_fold_accuracy_equals_brute_force(seed, ties):
    scores, same, folds, failed = make_pairs(seed, ties=ties)
    expected = []
    for fold in range(10):
        others = (folds != fold) & ~failed
        threshold = brute_best_threshold(scores[others], same[others])
        here = folds == fold
        right = [
            not f and (s >= threshold) == g for s, g, f in zip(scores[here], same[here], failed[here], strict=True)
        ]
        expected.append(sum(right) / len(right))
    result = k_fold_accuracy(np.where(failed, np.nan, scores), same, folds, failed)
    np.testing.assert_allclose(result.accuracies, expected)
    assert result.mean == pytest.approx(np.mean(expected))
    assert result.standard_error == pytest.approx(np.std(expected, ddof=1) / math.sqrt(10))


@pytest.mark.parametrize("ties", [False, True])
def test_roc_passes_through_every_point_of_scikit_learn(ties):
    scores, same, _, _ = make_pairs(3, ties=ties)
    curve = roc(scores, same)
    far, tar, _ = roc_curve(same, scores, drop_intermediate=False)
    np.testing.assert_allclose(curve.far, far)
    np.testing.assert_allclose(curve.tar, tar)
    for threshold, accepted in zip(curve.thresholds, curve.true_accepts + curve.false_accepts, strict=True):
        assert (scores >= threshold).sum() == accepted


@pytest.mark.parametrize("far", [0.03, 0.1, 0.5, 1.0])
def test_tar_is_the_largest_with_far_not_above_the_target(far):
    scores, same, _, failed = make_pairs(4, ties=True)
    best = max(
        (np.sum((scores >= t) & same & ~failed) / same.sum())
        for t in brute_candidates(scores[~failed])
        if np.sum((scores >= t) & ~same & ~failed) / (~same).sum() <= far
    )
    result = tar_at_far(roc(scores, same, failed), far)
    assert result.tar == pytest.approx(best)
    assert result.far <= far
    accepted = (scores >= result.threshold) & ~failed
    assert accepted[same].mean() == pytest.approx(result.tar)
    assert accepted[~same].mean() == pytest.approx(result.far)
    assert result.low < result.tar < result.high


def test_a_far_that_the_impostors_cannot_carry_is_refused():
    assert far_is_carried(1e-3, 3000)
    assert not far_is_carried(1e-4, 3000)
    assert not far_is_carried(1e-3, 2999)
    scores, same, _, _ = make_pairs(5)
    with pytest.raises(InputError, match="FAR 0.001 cannot be measured with 120 impostor pairs: 3000 are needed"):
        tar_at_far(roc(scores, same), 0.001)
    assert list(decision_thresholds(scores, same, data="test pairs")["far"]) == ["0.1"]


def test_equal_error_rate_against_a_fine_interpolation():
    scores, same, _, failed = make_pairs(6)
    curve = roc(scores, same, failed)
    position = np.linspace(0, len(curve.far) - 1, 2_000_001)
    index = np.arange(len(curve.far))
    far, frr = np.interp(position, index, curve.far), np.interp(position, index, 1 - curve.tar)
    nearest = np.argmin(np.abs(far - frr))
    assert equal_error(curve).rate == pytest.approx((far[nearest] + frr[nearest]) / 2, abs=1e-4)


def test_calibration_finds_the_log_likelihood_ratio_of_two_gaussians():
    generator = np.random.default_rng(0)
    same = np.arange(40_000) % 4 == 0  # an impostor is three times as frequent, and that must not matter
    scores = np.where(same, 0.5, 0.1) + 0.2 * generator.standard_normal(len(same))
    slope, intercept = logistic_calibration(scores, same)
    assert slope == pytest.approx(0.4 / 0.2**2, rel=0.05)  # (difference of means) / variance
    assert intercept == pytest.approx(-(0.5**2 - 0.1**2) / (2 * 0.2**2), rel=0.05)

    counts = generator.integers(1, 4, len(same))
    repeated = logistic_calibration(np.repeat(scores, counts), np.repeat(same, counts))
    assert logistic_calibration(scores, same, counts) == pytest.approx(repeated, rel=1e-3)


def test_calibration_of_pairs_that_a_threshold_tells_apart_is_finite():
    same = np.array([True, True, False, False])
    slope, intercept = logistic_calibration(np.array([0.9, 0.8, 0.2, 0.1]), same)
    # the lines through Platt's targets, 3/4 and 1/4
    assert 0 < slope < 10
    assert 1 / (1 + math.exp(-(slope * 0.5 + intercept))) == pytest.approx(0.5, abs=1e-3)
    assert "calibration" not in decision_thresholds(np.ones(4), same, data="a collapsed model's pairs")


def test_perfect_and_hopeless_models():
    same = np.array([True, True, False, False])
    perfect = np.array([0.9, 0.8, 0.2, 0.1])
    assert equal_error(roc(perfect, same)) == (0.0, 0.5)
    assert accuracy_threshold(perfect, same) == 0.5
    assert area_under_curve(perfect, same) == 1.0
    folds = np.array([0, 1, 0, 1])
    assert k_fold_accuracy(perfect, same, folds).mean == 1.0
    collapsed = np.ones(4)
    assert k_fold_accuracy(collapsed, same, folds).mean == 0.5
    assert area_under_curve(collapsed, same) == 0.5
    assert equal_error(roc(collapsed, same)).rate == 0.5
    stored = decision_thresholds(collapsed, same, data="four pairs")
    assert all(math.isfinite(stored[name]) for name in ("accuracy", "eer"))


def test_failed_pairs_are_errors_and_never_accepted():
    same = np.array([True, True, False, False])
    scores = np.array([0.9, np.nan, np.nan, 0.1])
    failed = np.array([False, True, True, False])
    assert accuracy(scores, same, 0.5, failed) == 0.5
    curve = roc(scores, same, failed)
    assert curve.tar.max() == 0.5 and curve.far.max() == 0.5
    assert equal_error(curve).rate == 0.5
    assert area_under_curve(scores, same, failed) == pytest.approx(5 / 8)  # of four comparisons 1, 1, 0 and a tie


def test_neighboring_floats_are_still_told_apart():
    low = 0.3
    scores = np.array([np.nextafter(low, 1), low])
    assert accuracy(scores, np.array([True, False]), accuracy_threshold(scores, np.array([True, False]))) == 1.0


@pytest.mark.parametrize(
    ("scores", "same", "message"),
    [
        ([0.1, np.nan], [True, False], "1 of 2 scores are not finite"),
        ([0.1, 0.2], [True, True], "2 of them genuine: both kinds are needed"),
        ([0.1, 0.2], [True], "one length"),
    ],
)
def test_bad_input_is_one_clear_line(scores, same, message):
    with pytest.raises(InputError, match=message):
        roc(np.array(scores), np.array(same))


def test_wilson_interval_against_the_published_formula_values():
    assert wilson_interval(0, 10) == pytest.approx((0.0, 0.27753), abs=1e-4)
    assert wilson_interval(8, 10) == pytest.approx((0.49016, 0.94332), abs=1e-4)


@pytest.mark.parametrize("decimals", [2, 9])
def test_insightfaces_rule_is_its_loop(decimals):
    """`calculate_roc` written down anew; distances that lie on the grid too."""
    random = np.random.default_rng(decimals)
    same = random.random(123) < 0.5
    distances = np.where(same, 2 * random.random(123), 3 * random.random(123) + 0.3).round(decimals)
    thresholds = np.arange(0, 4, 0.01)
    expected = []
    for train, test in KFold(10, shuffle=False).split(distances):
        figures = [np.mean((distances[train] < threshold) == same[train]) for threshold in thresholds]
        expected.append(np.mean((distances[test] < thresholds[np.argmax(figures)]) == same[test]))
    folds = np.repeat(np.arange(10), [13, 13, 13, 12, 12, 12, 12, 12, 12, 12])
    found = insightface_accuracy(distances, same, folds)
    assert found.accuracies == pytest.approx(expected) and found.mean == pytest.approx(np.mean(expected))
    failed = np.arange(123) % 2 == 0
    assert insightface_accuracy(distances, same, folds, failed).mean < 0.5
