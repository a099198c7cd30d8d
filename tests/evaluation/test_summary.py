"""The summary of a split: sums by hand, parity with scikit-learn, intervals, and undefined metrics."""

import json
import math

import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import norm
from scored_cases import HAND_LABELS, HAND_LOGITS, with_ties, without_ties
from sklearn import metrics as sk

from pneumojax.evaluation import calibration, metrics
from pneumojax.evaluation.summary import every_metric

RATES = ("accuracy", "balanced_accuracy", "sensitivity", "specificity")
SCALARS = ("bce", "auc", "average_precision", "brier", "ece", *RATES, *(f"{rate}_at_0.5" for rate in RATES))


def test_sums_by_hand():
    """Logit 0 is probability 0.5, which is predicted positive at threshold 0.5."""
    out = every_metric(HAND_LABELS, HAND_LOGITS, threshold=0.6)
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


@pytest.mark.parametrize("seed", range(5))
def test_parity_with_scikit_learn(seed):
    """The data has ties across the classes."""
    labels, logits = with_ties(seed, share=[0.8, 0.5, 0.03, 0.97, 0.3][seed])
    threshold, temperature = 0.37, 1.7
    p = expit(logits / temperature)
    out = every_metric(labels, logits, threshold, temperature, resamples=2)
    expected = {
        "bce": sk.log_loss(labels, expit(logits)),
        "auc": sk.roc_auc_score(labels, logits),
        "average_precision": sk.average_precision_score(labels, logits),
        "brier": sk.brier_score_loss(labels, p),
        "majority_accuracy": max(np.mean(labels == 0), np.mean(labels == 1)),
    }
    for suffix, cut in (("", threshold), ("_at_0.5", 0.5)):
        predicted = (p >= cut).astype(int)
        expected |= {
            f"accuracy{suffix}": sk.accuracy_score(labels, predicted),
            f"balanced_accuracy{suffix}": sk.balanced_accuracy_score(labels, predicted),
            f"sensitivity{suffix}": sk.recall_score(labels, predicted),
            f"specificity{suffix}": sk.recall_score(labels, predicted, pos_label=0),
        }
        confusion = out[f"confusion{suffix}"]
        assert [[confusion["tn"], confusion["fp"]], [confusion["fn"], confusion["tp"]]] == sk.confusion_matrix(
            labels, predicted
        ).tolist()
    assert {key: out[key] for key in expected} == pytest.approx(expected, rel=1e-12)


def test_temperature_softens_probabilities_but_not_the_bce_of_the_raw_logits():
    labels, logits = with_ties(1)
    raw = every_metric(labels, logits, 0.6, resamples=20)
    soft = every_metric(labels, logits, 0.6, temperature=3.0, resamples=20)
    assert all(raw[key] == soft[key] for key in ("bce", "bce_ci", "auc", "auc_ci", "average_precision_ci"))
    assert raw["confusion_at_0.5"] == soft["confusion_at_0.5"], "0.5 is logit 0 at any temperature"
    assert raw["brier"] != soft["brier"] and raw["confusion"] != soft["confusion"]
    assert (soft["brier_uncalibrated"], soft["ece_uncalibrated"]) == (raw["brier"], raw["ece"])
    np.testing.assert_allclose(metrics.probabilities(logits, 3.0), 1 / (1 + np.exp(-logits / 3)))


@pytest.mark.slow
def test_95_percent_of_bootstrap_intervals_cover_the_truth():
    """The distribution of logits is known, and with it the true cross-entropy and balanced accuracy."""
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
        out = every_metric(labels, logits, 0.5, seed=seed, resamples=200)
        for name, value in truth.items():
            covered[name] += out[f"{name}_ci"][0] <= value <= out[f"{name}_ci"][1]
    assert all(0.88 <= count / 150 <= 0.99 for count in covered.values()), covered


def test_bootstrap_equals_scikit_learn_on_the_drawn_cases():
    """A resample is held as a count per case, and must score like the drawn cases themselves."""
    labels, logits = with_ties(5, n=60, share=0.6)
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
    out = every_metric(labels, logits, 0.6, seed=3, resamples=40)
    drawn["ece"] = np.array(drawn["ece"]) - np.mean(drawn["ece"]) + out["ece"]
    for name, values in drawn.items():
        assert out[f"{name}_ci"] == pytest.approx(np.quantile(values, [0.025, 0.975]).tolist()), name


def test_interval_of_balanced_accuracy_is_newcombes():
    """The distance to either end is half the root of the summed squared distances of the two rates (1998)."""
    labels = [1] * 50 + [0] * 40
    logits = [3.0] * 45 + [-3.0] * 5 + [-3.0] * 38 + [3.0] * 2
    out = every_metric(labels, logits, 0.5, resamples=2)
    (a, b), (c, d) = out["sensitivity_ci"], out["specificity_ci"]
    low, high = out["balanced_accuracy_ci"]
    assert out["balanced_accuracy"] == pytest.approx(0.925)
    assert 0.925 - low == pytest.approx(math.hypot(0.9 - a, 0.95 - c) / 2)
    assert high - 0.925 == pytest.approx(math.hypot(b - 0.9, d - 0.95) / 2)


def test_each_proportion_has_wilsons_interval_with_its_own_denominator():
    labels, logits = with_ties(2)
    out = every_metric(labels, logits, 0.7, resamples=2)
    for suffix in ("", "_at_0.5"):
        c = out[f"confusion{suffix}"]
        assert out[f"accuracy{suffix}_ci"] == list(metrics.wilson(c["tp"] + c["tn"], 300))
        assert out[f"sensitivity{suffix}_ci"] == list(metrics.wilson(c["tp"], 240))
        assert out[f"specificity{suffix}_ci"] == list(metrics.wilson(c["tn"], 60))


def test_a_case_on_the_threshold_is_predicted_positive():
    p = metrics.probabilities([-1.0, 0.3, 1.0])
    out = every_metric([0, 1, 1], [-1.0, 0.3, 1.0], threshold=float(p[1]), resamples=2)
    assert out["confusion"] == {"tp": 2, "fp": 0, "fn": 0, "tn": 1}


def test_with_one_class_undefined_metrics_are_none_with_a_reason():
    only = dict.fromkeys(
        ("auc", "average_precision", "balanced_accuracy", "balanced_accuracy_at_0.5"), "only one class present"
    )
    for label, missing in (
        (1, {"specificity": "no negatives", "specificity_at_0.5": "no negatives"}),
        (0, {"sensitivity": "no positives", "sensitivity_at_0.5": "no positives"}),
    ):
        out = every_metric([label] * 4, [-1.0, 0.5, 2.0, 3.0], 0.6)
        undefined = only | missing
        assert {key.removesuffix("_reason"): out[key] for key in out if key.endswith("_reason")} == undefined
        for name in SCALARS:
            assert (out[name] is None) == (out[f"{name}_ci"] is None) == (name in undefined), name
        assert out["majority_accuracy"] == 1.0


def test_perfect_separation_has_wide_intervals():
    """Every resample is perfect too, but 40 cases do not justify an interval of [1, 1]."""
    out = every_metric([0] * 10 + [1] * 30, [-2.0] * 10 + [2.0] * 30, 0.5)
    assert out["balanced_accuracy"] == out["auc"] == out["average_precision"] == 1.0
    miss = [(1 - metrics.wilson(n, n)[0]) / 2 for n in (10, 30)]
    assert out["balanced_accuracy_ci"] == pytest.approx([1 - math.hypot(*miss), 1.0])
    assert out["auc_ci"][0] == metrics.wilson(10, 10)[0]
    assert out["average_precision_ci"] is None
    assert out["average_precision_ci_reason"] == "every resample gives the same value"


def test_order_of_cases_changes_no_bit():
    """Cases come in the order in which processes read them, which must not matter even with ties."""
    labels, logits = with_ties(9)
    first = every_metric(labels, logits, 0.4, 1.3, resamples=50)
    order = np.random.default_rng(1).permutation(len(labels))
    assert every_metric(labels[order], logits[order], 0.4, 1.3, resamples=50) == first
    assert every_metric(labels, logits, 0.4, 1.3, resamples=50, seed=1) != first


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
def test_the_summary_of_any_small_split_is_plain_json(labels, logits):
    out = every_metric(labels, logits, np.float64(0.5), np.float64(1.0), resamples=20)
    assert json.loads(json.dumps(out, allow_nan=False)) == out
    for name in SCALARS:
        if out[f"{name}_ci"] is not None:
            low, high = out[f"{name}_ci"]
            assert low <= high and math.isfinite(low) and math.isfinite(high)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: every_metric([], [], 0.5), "no cases"),
        (lambda: every_metric([0, 1, 1], [np.nan, np.inf, 0.0], 0.5), "logits must be finite: 2 of 3"),
        (lambda: every_metric([0, 2, -1], [0.0, 1.0, 2.0], 0.5), "labels must be 0 or 1: 2 of 3"),
        (lambda: every_metric([0, np.nan], [0.0, 1.0], 0.5), "labels must be 0 or 1: 1 of 2"),
        (lambda: every_metric([0, 1], [[0.0], [1.0]], 0.5), "same shape"),
        (lambda: every_metric([0, 1], [0.0, 1.0], math.nan), "thresholds and offset must be finite .* got nan,"),
        (lambda: every_metric([0, 1], [0.0, 1.0], 0.5, threshold_sens95=math.inf), "must be finite .* got 0.5, inf"),
        (lambda: every_metric([0, 1], [0.0, 1.0], 0.5, offset=-math.inf), "must be finite .* None, -inf"),
        (lambda: every_metric([0, 1], [0.0, 1.0], 0.5, resamples=0), "resamples >= 1"),
        (lambda: every_metric([0, 1], [0.0, 1.0], 0.5, temperature=0.0), "temperature must be positive"),
    ],
)
def test_the_message_says_which_input_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_extreme_logits_are_ranked():
    """Logits of 50 and 60 both round to probability 1."""
    out = every_metric([0, 1, 0, 1], [-1e4, 1e4, 50.0, 60.0], 0.5)
    assert out["auc"] == 1.0
    json.dumps(out, allow_nan=False)


def test_summary_by_hand():
    """Temperature 2 turns odds of 9, 1 and 1/9 into 3, 1 and 1/3, and offset log 2 doubles them."""
    labels, logits = [1, 1, 0, 0], [math.log(9), 0.0, 0.0, -math.log(9)]
    out = every_metric(labels, logits, 0.7, temperature=2.0, offset=math.log(2), threshold_sens95=0.3, resamples=20)
    p = [6 / 7, 2 / 3, 2 / 3, 2 / 5]
    by_hand = {
        "temperature": 2.0,
        "offset": math.log(2),
        "threshold": 0.7,
        "threshold_sens95": 0.3,
        "brier": sum((y - q) ** 2 for y, q in zip(labels, p, strict=True)) / 4,
        "brier_uncalibrated": (0.01 + 0.25 + 0.25 + 0.01) / 4,
        # Both cases at 2/3 are in one of the fifteen bins; half of them are positive.
        "ece": (1 / 7 + 2 * (2 / 3 - 1 / 2) + 2 / 5) / 4,
        "ece_uncalibrated": (0.1 + 2 * 0.0 + 0.1) / 4,
        "bce": -(2 * math.log(0.9) + 2 * math.log(0.5)) / 4,
        "sensitivity": 1 / 2,
        "specificity": 1.0,
        "sensitivity_at_0.5": 1.0,
        "specificity_at_0.5": 1 / 2,
        "accuracy_at_sens95": 2 / 4,
        "sensitivity_at_sens95": 1.0,
        "specificity_at_sens95": 0.0,
        "balanced_accuracy_at_sens95": 1 / 2,
    }
    assert {key: out[key] for key in by_hand} == pytest.approx(by_hand)
    assert out["confusion_at_sens95"] == {"tp": 2, "fp": 2, "fn": 0, "tn": 0}
    assert out["sensitivity_at_sens95_ci"] == list(metrics.wilson(2, 2))
    assert out["specificity_at_sens95_ci"] == list(metrics.wilson(0, 2))
    assert json.loads(json.dumps(out, allow_nan=False)) == out


def test_summary_at_the_second_operating_point_equals_scikit_learn():
    labels, logits = without_ties(7)
    fitted = calibration.at_prevalence(calibration.fit(labels, logits), 0.2)
    parameters = fitted._asdict()
    parameters.pop("prevalence")
    out = every_metric(labels, logits, **parameters, resamples=20)
    p = expit(logits / fitted.temperature + fitted.offset)
    predicted = (p >= fitted.threshold_sens95).astype(int)
    expected = {
        "accuracy_at_sens95": sk.accuracy_score(labels, predicted),
        "balanced_accuracy_at_sens95": sk.balanced_accuracy_score(labels, predicted),
        "sensitivity_at_sens95": sk.recall_score(labels, predicted),
        "specificity_at_sens95": sk.recall_score(labels, predicted, pos_label=0),
        "brier": sk.brier_score_loss(labels, p),
        "brier_uncalibrated": sk.brier_score_loss(labels, expit(logits)),
    }
    assert {key: out[key] for key in expected} == pytest.approx(expected)
    assert out["sensitivity_at_sens95"] == pytest.approx(0.95)
    assert json.loads(json.dumps(out, allow_nan=False)) == out


def test_summary_without_a_second_operating_point_has_no_metrics_there():
    out = every_metric(HAND_LABELS, HAND_LOGITS, 0.6, resamples=20)
    assert out["threshold_sens95"] is None
    assert not [key for key in out if key.endswith("_at_sens95")]
    assert out["brier"] == out["brier_uncalibrated"]
    assert out["ece"] == out["ece_uncalibrated"]


def test_summary_of_one_class_has_reasons_at_the_second_operating_point():
    out = every_metric([1, 1], [0.0, 2.0], 0.6, threshold_sens95=0.4, resamples=20)
    assert out["specificity_at_sens95"] is None
    assert out["specificity_at_sens95_reason"] == "no negatives"
    assert out["sensitivity_at_sens95"] == 1.0
    json.dumps(out, allow_nan=False)


def test_a_fitted_temperature_calibrates():
    """With logits three times too large, fitted probabilities score better than raw ones, and ranks stay."""
    rng = np.random.default_rng(8)
    logits = rng.normal(0.3, 1.5, size=4000)
    labels = (rng.random(len(logits)) < expit(logits)).astype(int)
    fitted = calibration.fit(labels, 3 * logits)
    out = every_metric(labels, 3 * logits, fitted.threshold, fitted.temperature, resamples=20)
    assert out["brier"] < out["brier_uncalibrated"]
    assert out["ece"] < 0.03 < 0.1 < out["ece_uncalibrated"]
    assert out["auc"] == metrics.auc(labels, logits)


def test_calibration_error_lies_in_its_interval():
    """Also where it is small, of few cases: resampling alone would add its upward bias a second time."""
    rng = np.random.default_rng(3)
    p = rng.uniform(0.01, 0.99, 300)
    out = every_metric((rng.random(300) < p).astype(int), np.log(p / (1 - p)), 0.5)
    low, high = out["ece_ci"]
    assert 0 <= low < out["ece"] < high
