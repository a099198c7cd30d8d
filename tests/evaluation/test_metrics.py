"""Metrics: sums by hand, parity with scikit-learn and SciPy, and brute force."""

import math

import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import binomtest, norm
from scored_cases import HAND_LABELS, HAND_LOGITS, with_ties

from pneumojax.evaluation import metrics


def test_reliability_and_threshold_by_hand():
    """Of two bins, one holds 0.25 and 0.1 with one positive, the other three cases with two positives."""
    p = metrics.probabilities(HAND_LOGITS)
    mean, fraction, count = metrics.reliability(HAND_LABELS, p, bins=2)
    np.testing.assert_allclose(mean, [0.35 / 2, 1.75 / 3])
    np.testing.assert_allclose(fraction, [1 / 2, 2 / 3])
    np.testing.assert_array_equal(count, [2, 3])
    assert metrics.expected_calibration_error(HAND_LABELS, p, bins=2) == pytest.approx((0.65 + 0.25) / 5)
    # Between 0.1 and 0.25, balanced accuracy is (1 + 1/2) / 2; every other threshold has less.
    assert metrics.best_threshold(HAND_LABELS, p) == pytest.approx((0.1 + 0.25) / 2)


def test_probability_one_and_empty_bins_stay_in_range():
    mean, fraction, count = metrics.reliability([1, 0, 1], [1.0, 0.0, 0.99], bins=4)
    np.testing.assert_array_equal(count, [1, 0, 0, 2])
    np.testing.assert_array_equal(mean, [0.0, np.nan, np.nan, 0.995])
    np.testing.assert_array_equal(fraction, [0.0, np.nan, np.nan, 1.0])


def test_probabilities_are_scipys_to_the_last_bit():
    """A stored threshold must part the same cases, whichever of the two computed it."""
    rng = np.random.default_rng(0)
    odds = np.concatenate([rng.normal(0, 8, 20_000), rng.uniform(-760, 760, 20_000), [0, -0.0, 1e308, -1e308]])
    np.testing.assert_array_equal(metrics.probabilities(odds), expit(odds))
    assert metrics.probabilities(np.zeros((0, 3))).shape == (0, 3)


def test_calibration_error_equals_a_loop_over_the_bins():
    labels, logits = with_ties(3, digits=6)
    p, error = expit(logits), 0.0
    for i in range(15):
        inside = (p >= i / 15) & (p < (i + 1) / 15)
        if inside.any():
            error += inside.mean() * abs(p[inside].mean() - labels[inside].mean())
    assert metrics.expected_calibration_error(labels, p) == pytest.approx(error)


@pytest.mark.parametrize("seed", range(4))
def test_delong_equals_structural_components_by_brute_force(seed):
    """DeLong's variance compares every pair; Sun and Xu's midranks compute it faster."""
    labels, logits = with_ties(seed, n=90, share=[0.8, 0.5, 0.1, 0.3][seed])
    pairs = np.subtract.outer(logits[labels == 1], logits[labels == 0])
    won = (pairs > 0) + 0.5 * (pairs == 0)
    area, (n1, n0) = won.mean(), won.shape
    variance = won.mean(axis=1).var(ddof=1) / n1 + won.mean(axis=0).var(ddof=1) / n0
    margin = norm.ppf(0.95) * math.sqrt(variance) / (area * (1 - area))
    middle = math.log(area / (1 - area))
    assert metrics.auc(labels, logits) == pytest.approx(area, rel=1e-14)
    assert metrics.auc_interval(labels, logits, 0.9) == pytest.approx(
        (expit(middle - margin), expit(middle + margin)), rel=1e-12
    )


@pytest.mark.parametrize(
    "labels, scores, share",
    [
        ([0] * 30 + [1] * 50, np.arange(80), 1.0),  # perfect
        ([1] * 50 + [0] * 30, np.arange(80), 0.0),  # perfectly wrong
        ([0] * 30 + [1] * 50, np.full(80, 0.3), 0.5),  # constant
        ([1] + [0] * 4, [2.5, 1, 2, 3, 4], 0.5),  # one positive
    ],
)
def test_auc_interval_is_wide_where_delongs_variance_is_zero(labels, scores, share):
    """The fallback is Wilson's interval, with as many trials as the smaller class has cases."""
    smaller = int(min(np.bincount(labels)))
    low, high = metrics.auc_interval(labels, scores)
    assert metrics.auc(labels, scores) == share
    assert (low, high) == metrics.wilson(share * smaller, smaller)
    assert 0 <= low <= share <= high <= 1 and high - low > 0.1


def test_95_percent_of_auc_intervals_cover_the_truth():
    """Two normal distributions at distance d have AUC Phi(d / sqrt 2)."""
    rng = np.random.default_rng(7)
    labels = np.repeat([1, 0], [80, 30])
    for distance in (0.5, 2.0):
        truth, covered = norm.cdf(distance / math.sqrt(2)), 0
        for _ in range(500):
            low, high = metrics.auc_interval(labels, rng.normal(size=110) + distance * labels)
            covered += low <= truth <= high
        assert 0.92 <= covered / 500 <= 0.98


def test_wilson_equals_scipy():
    for successes, trials in ((0, 7), (7, 7), (3, 7), (196, 234), (1, 1)):
        expected = binomtest(successes, trials).proportion_ci(0.95, method="wilson")
        assert metrics.wilson(successes, trials) == pytest.approx((expected.low, expected.high), abs=1e-12)
    with pytest.raises(ValueError, match="8 successes in 7"):
        metrics.wilson(8, 7)


@pytest.mark.parametrize("seed", range(30))
def test_best_threshold_is_optimal_and_is_on_no_case(seed):
    """The alternatives are at every case, just above every case, and at both ends."""
    rng = np.random.default_rng(seed)
    labels = np.append(rng.integers(0, 2, size=rng.integers(1, 25)), [0, 1])
    p = np.round(np.clip(rng.normal(0.5 + 0.1 * labels, 0.3), 0, 1), rng.integers(1, 4))
    threshold = metrics.best_threshold(labels, p)

    def gain(cut):
        hits, alarms = (np.sum((p >= cut) & (labels == label)) for label in (1, 0))
        return hits * np.sum(labels == 0) - alarms * np.sum(labels == 1)

    tried = np.concatenate([p, np.nextafter(p, 2), [0.0, 1.1]])
    assert gain(threshold) == max(gain(cut) for cut in tried)
    assert threshold == 0 or threshold not in p


def test_best_threshold_takes_the_middle_of_equally_good_cuts():
    """Moving the threshold trades one positive for one negative; the outer ones would favour a class."""
    labels = [0, 1, 0, 1, 0, 1]
    p = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    assert metrics.best_threshold(labels, p) == pytest.approx(0.35), "the candidates are 0.15, 0.35 and 0.55"
    assert metrics.best_threshold([1, 0], [0.2, 0.7]) == 0.0, "with useless scores, no positive may be missed"


@pytest.mark.parametrize("low", [0.0, 0.3, 1 - 2**-53, 0.25])
def test_best_threshold_separates_neighbouring_floats(low):
    """The sum of neighbours can round down; a threshold on the lower one would predict both as positive."""
    p = np.array([low, np.nextafter(low, 2)])
    np.testing.assert_array_equal(p >= metrics.best_threshold([0, 1], p), [False, True])


@pytest.mark.parametrize(
    "function", [metrics.auc, metrics.auc_interval, metrics.average_precision, metrics.best_threshold]
)
def test_one_class_raises_undefined(function):
    with pytest.raises(metrics.Undefined, match="only one class present"):
        function([1, 1, 1], [0.1, 0.2, 0.3])


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: metrics.brier([0, 1], [0.0, 1.5]), r"be in \[0, 1\]"),
        (lambda: metrics.best_threshold([0, 1], [-3.0, 0.5]), r"be in \[0, 1\]"),
        (lambda: metrics.reliability([0, 1], [0.1, 0.5], bins=0), "bins must be at least 1"),
        (lambda: metrics.auc_interval([0, 1], [0.1, 0.5], confidence=95), "confidence must be between"),
    ],
)
def test_the_message_says_which_argument_is_out_of_range(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_extreme_logits_are_exact():
    """Without overflow or cancellation: a wrong logit of 1e4 costs 1e4, a correct one of 40 costs e^-40."""
    assert metrics.bce([1, 0], [-1e4, 1e4]) == 1e4
    assert metrics.bce([1, 0], [1e4, -1e4]) == 0.0
    assert metrics.bce([1], [40.0]) == pytest.approx(math.exp(-40), rel=1e-12)
    np.testing.assert_array_equal(metrics.probabilities([-1e4, 0, 1e4]), [0.0, 0.5, 1.0])
