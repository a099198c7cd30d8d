"""Metrics: hand-made sums, parity with scikit-learn and SciPy, brute force, and what is undefined."""

import json
import math

import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import binomtest, norm
from sklearn import metrics as sk

from pneumojax import metrics

RATES = ("accuracy", "balanced_accuracy", "sensitivity", "specificity")
SCALARS = ("bce", "auc", "average_precision", "brier", "ece", *RATES, *(f"{rate}_at_0.5" for rate in RATES))

# Probabilities 0.75, 0.25, 0.5, 0.1, 0.5.
HAND_LABELS = [1, 1, 0, 0, 1]
HAND_LOGITS = [math.log(3), -math.log(3), 0.0, -math.log(9), 0.0]


def sample(seed: int, n: int = 300, share: float = 0.8, shift: float = 0.7, digits: int = 1):
    """Labels of both classes, and logits that overlap; few digits make many ties."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(n) < share * n).astype(int)
    return labels, np.round(rng.normal(size=n) + shift * (2 * labels - 1), digits)


def test_hand_made_sums():
    """Five cases small enough to sum by hand; logit 0 is probability 0.5 and is called pneumonia."""
    out = metrics.summary(HAND_LABELS, HAND_LOGITS, threshold=0.6)
    by_hand = {
        "n": 5,
        "positives": 3,
        "threshold": 0.6,
        "threshold_sens95": None,
        "temperature": 1.0,
        "offset": 0.0,
        "majority_accuracy": 3 / 5,
        "bce": -(math.log(0.75) + math.log(0.25) + math.log(0.5) + math.log(0.9) + math.log(0.5)) / 5,
        "auc": (2 + 1 + 1.5) / 6,
        "average_precision": (1 / 1 + 2 / 3 + 3 / 4) / 3,
        "brier": (0.0625 + 0.5625 + 0.25 + 0.01 + 0.25) / 5,
        "brier_uncalibrated": (0.0625 + 0.5625 + 0.25 + 0.01 + 0.25) / 5,
        "ece": (0.25 + 0.75 + 0.0 + 0.1) / 5,
        "ece_uncalibrated": (0.25 + 0.75 + 0.0 + 0.1) / 5,
        "accuracy": 3 / 5,
        "sensitivity": 1 / 3,
        "specificity": 1.0,
        "balanced_accuracy": 2 / 3,
        "accuracy_at_0.5": 3 / 5,
        "sensitivity_at_0.5": 2 / 3,
        "specificity_at_0.5": 1 / 2,
        "balanced_accuracy_at_0.5": 7 / 12,
    }
    assert {key: out[key] for key in by_hand} == pytest.approx(by_hand)
    assert out["confusion"] == {"tp": 1, "fp": 0, "fn": 2, "tn": 2}
    assert out["confusion_at_0.5"] == {"tp": 2, "fp": 1, "fn": 1, "tn": 1}
    intervals = {f"{name}_ci" for name in SCALARS}
    assert set(out) == set(by_hand) | intervals | {"confusion", "confusion_at_0.5"}


def test_hand_made_reliability_and_threshold():
    """Two bins: 0.25 and 0.1 hold one positive of two, the others two of three; the best cut is by hand."""
    p = metrics.probabilities(HAND_LOGITS)
    mean, fraction, count = metrics.reliability(HAND_LABELS, p, bins=2)
    np.testing.assert_allclose(mean, [0.35 / 2, 1.75 / 3])
    np.testing.assert_allclose(fraction, [1 / 2, 2 / 3])
    np.testing.assert_array_equal(count, [2, 3])
    assert metrics.expected_calibration_error(HAND_LABELS, p, bins=2) == pytest.approx((0.65 + 0.25) / 5)
    # Sensitivity 1 and specificity 1/2 between 0.1 and 0.25; every other cut has less than 0.75 balanced.
    assert metrics.best_threshold(HAND_LABELS, p) == pytest.approx((0.1 + 0.25) / 2)


def test_probability_one_and_empty_bins_stay_in_range():
    mean, fraction, count = metrics.reliability([1, 0, 1], [1.0, 0.0, 0.99], bins=4)
    np.testing.assert_array_equal(count, [1, 0, 0, 2])
    np.testing.assert_array_equal(mean, [0.0, np.nan, np.nan, 0.995])
    np.testing.assert_array_equal(fraction, [0.0, np.nan, np.nan, 1.0])


@pytest.mark.parametrize("seed", range(5))
def test_parity_with_scikit_learn(seed):
    """Every point value equals the reference implementation's, on data with ties across the classes."""
    labels, logits = sample(seed, share=[0.8, 0.5, 0.03, 0.97, 0.3][seed])
    threshold, temperature = 0.37, 1.7
    p = expit(logits / temperature)
    out = metrics.summary(labels, logits, threshold, temperature, resamples=2)
    expected = {
        "bce": sk.log_loss(labels, expit(logits)),
        "auc": sk.roc_auc_score(labels, logits),
        "average_precision": sk.average_precision_score(labels, logits),
        "brier": sk.brier_score_loss(labels, p),
        "majority_accuracy": max(np.mean(labels == 0), np.mean(labels == 1)),
    }
    for suffix, cut in (("", threshold), ("_at_0.5", 0.5)):
        called = (p >= cut).astype(int)
        expected |= {
            f"accuracy{suffix}": sk.accuracy_score(labels, called),
            f"balanced_accuracy{suffix}": sk.balanced_accuracy_score(labels, called),
            f"sensitivity{suffix}": sk.recall_score(labels, called),
            f"specificity{suffix}": sk.recall_score(labels, called, pos_label=0),
        }
        confusion = out[f"confusion{suffix}"]
        assert [[confusion["tn"], confusion["fp"]], [confusion["fn"], confusion["tp"]]] == sk.confusion_matrix(
            labels, called
        ).tolist()
    assert {key: out[key] for key in expected} == pytest.approx(expected, rel=1e-12)


def test_calibration_error_equals_a_loop_over_the_bins():
    labels, logits = sample(3, digits=6)
    p, error = expit(logits), 0.0
    for i in range(15):
        inside = (p >= i / 15) & (p < (i + 1) / 15)
        if inside.any():
            error += inside.mean() * abs(p[inside].mean() - labels[inside].mean())
    assert metrics.expected_calibration_error(labels, p) == pytest.approx(error)


def test_temperature_softens_probabilities_but_not_the_bce_of_the_raw_logits():
    labels, logits = sample(1)
    raw = metrics.summary(labels, logits, 0.6, resamples=20)
    soft = metrics.summary(labels, logits, 0.6, temperature=3.0, resamples=20)
    assert all(raw[key] == soft[key] for key in ("bce", "bce_ci", "auc", "auc_ci", "average_precision_ci"))
    assert raw["confusion_at_0.5"] == soft["confusion_at_0.5"], "0.5 is logit 0 at any temperature"
    assert raw["brier"] != soft["brier"] and raw["confusion"] != soft["confusion"]
    assert (soft["brier_uncalibrated"], soft["ece_uncalibrated"]) == (raw["brier"], raw["ece"])
    np.testing.assert_allclose(metrics.probabilities(logits, 3.0), 1 / (1 + np.exp(-logits / 3)))


@pytest.mark.parametrize("seed", range(4))
def test_delong_equals_structural_components_by_brute_force(seed):
    """Sun and Xu's midranks are a faster road to DeLong's variance, which compares every pair."""
    labels, logits = sample(seed, n=90, share=[0.8, 0.5, 0.1, 0.3][seed])
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
def test_auc_interval_claims_no_certainty_where_delong_sees_no_spread(labels, scores, share):
    """The fallback is Wilson's interval for as many trials as the smaller class has cases."""
    smaller = min(np.bincount(labels))
    low, high = metrics.auc_interval(labels, scores)
    assert metrics.auc(labels, scores) == share
    assert (low, high) == metrics.wilson(share * smaller, smaller)
    assert 0 <= low <= share <= high <= 1 and high - low > 0.1


def test_auc_interval_covers_the_truth_about_as_often_as_it_says():
    """Two normals a distance d apart have AUC Phi(d / sqrt 2): 95 % intervals, within binomial error."""
    rng = np.random.default_rng(7)
    labels = np.repeat([1, 0], [80, 30])
    for distance in (0.5, 2.0):
        truth, covered = norm.cdf(distance / math.sqrt(2)), 0
        for _ in range(500):
            low, high = metrics.auc_interval(labels, rng.normal(size=110) + distance * labels)
            covered += low <= truth <= high
        assert 0.92 <= covered / 500 <= 0.98


def test_bootstrap_interval_covers_the_truth_about_as_often_as_it_says():
    """Logits whose probabilities are true by design, so bce and balanced accuracy have known values."""
    rng = np.random.default_rng(11)
    labels = np.repeat([1, 0], [120, 80])
    everyone = rng.normal(size=(2, 400_000)) + np.array([[1.0], [-1.0]])
    truth = {
        "bce": (0.6 * np.logaddexp(0, -everyone[0]).mean() + 0.4 * np.logaddexp(0, everyone[1]).mean()),
        "balanced_accuracy": norm.cdf(1.0),
    }
    covered = dict.fromkeys(truth, 0)
    for seed in range(150):
        logits = rng.normal(size=200) + 2.0 * labels - 1
        out = metrics.summary(labels, logits, 0.5, seed=seed, resamples=200)
        for name, value in truth.items():
            covered[name] += out[f"{name}_ci"][0] <= value <= out[f"{name}_ci"][1]
    assert all(0.88 <= count / 150 <= 0.99 for count in covered.values()), covered


def test_bootstrap_equals_scikit_learn_on_the_drawn_cases():
    """A resample held as a count per case must score as the drawn cases themselves do."""
    labels, logits = sample(5, n=60, share=0.6)
    order = np.lexsort((labels, -logits))
    labels, logits = labels[order], logits[order]
    drawn = {name: [] for name in ("bce", "brier", "average_precision", "ece")}
    rng = np.random.default_rng(3)
    for _ in range(40):
        rows = np.concatenate(
            [
                members[rng.integers(len(members), size=len(members))]
                for members in (np.flatnonzero(labels == 1), np.flatnonzero(labels == 0))
            ]
        )
        y, p = labels[rows], expit(logits[rows])
        drawn["bce"].append(sk.log_loss(y, p))
        drawn["brier"].append(sk.brier_score_loss(y, p))
        drawn["average_precision"].append(sk.average_precision_score(y, p))
        drawn["ece"].append(metrics.expected_calibration_error(y, p))
    out = metrics.summary(labels, logits, 0.6, seed=3, resamples=40)
    for name, values in drawn.items():
        assert out[f"{name}_ci"] == pytest.approx(np.quantile(values, [0.025, 0.975]).tolist()), name


def test_balanced_accuracy_adds_the_squares_of_its_rates_intervals():
    """Newcombe (1998): the distance to either end is half the root of the two rates' squared distances."""
    labels = [1] * 50 + [0] * 40
    logits = [3.0] * 45 + [-3.0] * 5 + [-3.0] * 38 + [3.0] * 2
    out = metrics.summary(labels, logits, 0.5, resamples=2)
    (a, b), (c, d) = out["sensitivity_ci"], out["specificity_ci"]
    low, high = out["balanced_accuracy_ci"]
    assert out["balanced_accuracy"] == pytest.approx(0.925)
    assert 0.925 - low == pytest.approx(math.hypot(0.9 - a, 0.95 - c) / 2)
    assert high - 0.925 == pytest.approx(math.hypot(b - 0.9, d - 0.95) / 2)


def test_wilson_equals_scipy():
    for successes, trials in ((0, 7), (7, 7), (3, 7), (196, 234), (1, 1)):
        expected = binomtest(successes, trials).proportion_ci(0.95, method="wilson")
        assert metrics.wilson(successes, trials) == pytest.approx((expected.low, expected.high), abs=1e-12)
    with pytest.raises(ValueError, match="8 successes in 7"):
        metrics.wilson(8, 7)


def test_proportions_have_wilson_intervals_of_their_own_denominators():
    labels, logits = sample(2)
    out = metrics.summary(labels, logits, 0.7, resamples=2)
    for suffix in ("", "_at_0.5"):
        c = out[f"confusion{suffix}"]
        assert out[f"accuracy{suffix}_ci"] == list(metrics.wilson(c["tp"] + c["tn"], 300))
        assert out[f"sensitivity{suffix}_ci"] == list(metrics.wilson(c["tp"], 240))
        assert out[f"specificity{suffix}_ci"] == list(metrics.wilson(c["tn"], 60))


@pytest.mark.parametrize("seed", range(30))
def test_best_threshold_is_optimal_and_sits_on_no_case(seed):
    """No threshold does better, tried at every case, beside every case and at both ends."""
    rng = np.random.default_rng(seed)
    labels = np.append(rng.integers(0, 2, size=rng.integers(1, 25)), [0, 1])
    p = np.round(np.clip(rng.normal(0.5 + 0.1 * labels, 0.3), 0, 1), rng.integers(1, 4))
    threshold = metrics.best_threshold(labels, p)

    def gain(cut):
        called = p >= cut
        return np.sum(called & (labels == 1)) * np.sum(labels == 0) - np.sum(called & (labels == 0)) * np.sum(
            labels == 1
        )

    tried = np.concatenate([p, np.nextafter(p, 2), [0.0, 1.1]])
    assert gain(threshold) == max(gain(cut) for cut in tried)
    assert threshold == 0 or threshold not in p


def test_a_case_on_the_threshold_is_called_pneumonia():
    p = metrics.probabilities([-1.0, 0.3, 1.0])
    out = metrics.summary([0, 1, 1], [-1.0, 0.3, 1.0], threshold=p[1], resamples=2)
    assert out["confusion"] == {"tp": 2, "fp": 0, "fn": 0, "tn": 1}


def test_best_threshold_takes_the_middle_of_equally_good_cuts():
    """Moving the cut trades one pneumonia for one normal; the outer cuts would favour a class."""
    labels = [0, 1, 0, 1, 0, 1]
    p = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    assert metrics.best_threshold(labels, p) == pytest.approx(0.35), "of 0.15, 0.35 and 0.55"
    assert metrics.best_threshold([1, 0], [0.2, 0.7]) == 0.0, "useless scores: miss nothing"


@pytest.mark.parametrize("low", [0.0, 0.3, 1 - 2**-53, 0.25])
def test_best_threshold_separates_neighbouring_floats(low):
    """The sum of neighbours can round down; a threshold on the lower one would call both pneumonia."""
    p = np.array([low, np.nextafter(low, 2)])
    np.testing.assert_array_equal(p >= metrics.best_threshold([0, 1], p), [False, True])


def test_one_class_has_null_with_a_reason_and_the_rest_has_numbers():
    only = dict.fromkeys(
        ("auc", "average_precision", "balanced_accuracy", "balanced_accuracy_at_0.5"), "only one class present"
    )
    for label, missing in (
        (1, {"specificity": "no negatives", "specificity_at_0.5": "no negatives"}),
        (0, {"sensitivity": "no positives", "sensitivity_at_0.5": "no positives"}),
    ):
        out = metrics.summary([label] * 4, [-1.0, 0.5, 2.0, 3.0], 0.6)
        undefined = only | missing
        assert {key.removesuffix("_reason"): out[key] for key in out if key.endswith("_reason")} == undefined
        for name in SCALARS:
            assert (out[name] is None) == (out[f"{name}_ci"] is None) == (name in undefined), name
        assert out["majority_accuracy"] == 1.0


@pytest.mark.parametrize(
    "function", [metrics.auc, metrics.auc_interval, metrics.average_precision, metrics.best_threshold]
)
def test_one_class_raises_undefined(function):
    with pytest.raises(metrics.Undefined, match="only one class present"):
        function([1, 1, 1], [0.1, 0.2, 0.3])


def test_perfect_separation_claims_no_certainty():
    """Resampling never errs there: [1, 1] for balanced accuracy is a claim that 40 cases can't carry."""
    out = metrics.summary([0] * 10 + [1] * 30, [-2.0] * 10 + [2.0] * 30, 0.5)
    assert out["balanced_accuracy"] == out["auc"] == out["average_precision"] == 1.0
    miss = [(1 - metrics.wilson(n, n)[0]) / 2 for n in (10, 30)]
    assert out["balanced_accuracy_ci"] == pytest.approx([1 - math.hypot(*miss), 1.0])
    assert out["auc_ci"][0] == metrics.wilson(10, 10)[0]
    assert out["average_precision_ci"] is None
    assert out["average_precision_ci_reason"] == "every resample gives the same value"


def test_order_of_cases_changes_no_bit():
    """Cases arrive in whatever order the processes read them; ties must not let that order through."""
    labels, logits = sample(9)
    first = metrics.summary(labels, logits, 0.4, 1.3, resamples=50)
    order = np.random.default_rng(1).permutation(len(labels))
    assert metrics.summary(labels[order], logits[order], 0.4, 1.3, resamples=50) == first
    assert metrics.summary(labels, logits, 0.4, 1.3, resamples=50, seed=1) != first


def test_extreme_logits_are_exact():
    """Neither overflow nor cancellation: a wrong 1e4 costs 1e4, a right 40 still costs e^-40."""
    assert metrics.bce([1, 0], [-1e4, 1e4]) == 1e4
    assert metrics.bce([1, 0], [1e4, -1e4]) == 0.0
    assert metrics.bce([1], [40.0]) == pytest.approx(math.exp(-40), rel=1e-12)
    np.testing.assert_array_equal(metrics.probabilities([-1e4, 0, 1e4]), [0.0, 0.5, 1.0])
    out = metrics.summary([0, 1, 0, 1], [-1e4, 1e4, 50.0, 60.0], 0.5)
    assert out["auc"] == 1.0, "logits 50 and 60 are in order, though both probabilities round to 1"
    json.dumps(out, allow_nan=False)


@pytest.mark.parametrize(
    "labels, logits",
    [
        ([1], [0.2]),
        ([0], [0.0]),
        ([0, 1], [0.0, 0.0]),
        ([True, False, True], np.float32([1, 2, 3])),
        (np.uint8([0, 1, 1]), np.float32([-1, 2, -3])),
    ],
)
def test_any_split_however_small_becomes_json_of_plain_python(labels, logits):
    out = metrics.summary(labels, logits, np.float32(0.5), np.float64(1.0), resamples=20)
    assert json.loads(json.dumps(out, allow_nan=False)) == out
    for name in SCALARS:
        if out[f"{name}_ci"] is not None:
            low, high = out[f"{name}_ci"]
            assert low <= high and math.isfinite(low) and math.isfinite(high)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: metrics.summary([], [], 0.5), "no cases"),
        (lambda: metrics.summary([0, 1, 1], [np.nan, np.inf, 0.0], 0.5), "logits must be finite: 2 of 3"),
        (lambda: metrics.summary([0, 2, -1], [0.0, 1.0, 2.0], 0.5), "labels must be 0 or 1: 2 of 3"),
        (lambda: metrics.summary([0, np.nan], [0.0, 1.0], 0.5), "labels must be 0 or 1: 1 of 2"),
        (lambda: metrics.summary([0, 1], [[0.0], [1.0]], 0.5), "one shape"),
        (lambda: metrics.summary([0, 1], [0.0, 1.0], math.nan), "thresholds and offset must be finite .* got nan,"),
        (lambda: metrics.summary([0, 1], [0.0, 1.0], 0.5, threshold_sens95=math.inf), "must be finite .* got 0.5, inf"),
        (lambda: metrics.summary([0, 1], [0.0, 1.0], 0.5, offset=-math.inf), "must be finite .* None, -inf"),
        (lambda: metrics.summary([0, 1], [0.0, 1.0], 0.5, resamples=0), "resamples >= 1"),
        (lambda: metrics.summary([0, 1], [0.0, 1.0], 0.5, temperature=0.0), "temperature must be positive"),
        (lambda: metrics.brier([0, 1], [0.0, 1.5]), r"lie in \[0, 1\]"),
        (lambda: metrics.best_threshold([0, 1], [-3.0, 0.5]), r"lie in \[0, 1\]"),
        (lambda: metrics.reliability([0, 1], [0.1, 0.5], bins=0), "bins must be at least 1"),
        (lambda: metrics.auc_interval([0, 1], [0.1, 0.5], confidence=95), "confidence must lie between"),
    ],
)
def test_wrong_input_is_refused_with_a_line_that_says_what(call, message):
    with pytest.raises(ValueError, match=message):
        call()
