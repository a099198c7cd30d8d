"""Calibration: known scalings, minima of the loss written out, operating points by hand, and Bayes' rule."""

import json
import math

import numpy as np
import pytest
from scipy.special import expit, log_expit
from sklearn import metrics as sk

from pneumojax import calibration, metrics

# Probabilities 0.9, 0.75, 0.5, 0.25, 0.1.
HAND_LABELS = [1, 1, 0, 1, 0]
HAND_LOGITS = [math.log(9), math.log(3), 0.0, -math.log(3), -math.log(9)]


def sample(seed: int, n: int = 200, share: float = 0.7):
    """Labels of both classes, and logits that overlap and never tie."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(n) < share * n).astype(int)
    return labels, 2 * rng.normal(size=n) + 1.5 * (2 * labels - 1)


@pytest.mark.parametrize(("temperature", "offset"), [(0.3, 0.0), (1.0, 1.5), (2.5, -2.0), (8.0, 0.5)])
def test_known_temperature_and_offset_are_recovered(temperature, offset):
    """Labels drawn from sigmoid(logit / T + b) say what these were: standard errors are near 1 % for so many."""
    rng = np.random.default_rng(3)
    logits = rng.normal(0.5, 2.0, size=100_000) * temperature
    labels = rng.random(len(logits)) < expit(logits / temperature + offset)
    fitted = calibration.fit_scaling(labels, logits)
    assert fitted == (pytest.approx(temperature, rel=0.03), pytest.approx(offset, abs=0.06))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("scale", [0.2, 1.0, 20.0])
def test_scaling_is_a_minimum(seed, scale):
    """Cross-entropy with Platt's targets, written out: each case is as much pneumonia as its target says.

    It is convex in 1 / T and the offset, so that a minimum among neighbours is the only one.
    """
    labels, logits = sample(seed, n=60, share=[0.7, 0.5, 0.9, 0.1][seed])
    logits = logits * scale
    n1, n0 = labels.sum(), (1 - labels).sum()
    target = np.where(labels == 1, (n1 + 1) / (n1 + 2), 1 / (n0 + 2))

    def loss(temperature, offset):
        odds = logits / temperature + offset
        return -np.mean(target * log_expit(odds) + (1 - target) * log_expit(-odds))

    temperature, offset = calibration.fit_scaling(labels, logits)
    at = loss(temperature, offset)
    for step in (1e-3, 0.1, 1.0):
        for factor, more in ((1 + step, 0), (1 / (1 + step), 0), (1, step), (1, -step), (1 + step, step)):
            assert loss(temperature * factor, offset + more) > at


@pytest.mark.parametrize("size", [1e-300, 1e-3, 1.0, 30.0, 1e5, 1e38])
@pytest.mark.parametrize("direction", [1, -1])
def test_separated_classes_are_scaled_in_range(size, direction):
    """Without Platt's targets the minimum would lie at zero, or for logits that are wrong throughout, nowhere."""
    logits = direction * size * np.array([-2.0, -1.0, 1.0, 2.0, 3.0])
    temperature, offset = calibration.fit_scaling([0, 0, 1, 1, 1], logits)
    assert temperature * (1 + 1e-12) >= 1 / 64
    assert temperature <= 64 * (1 + 1e-12)
    assert math.isfinite(offset)


def test_separated_classes_are_believed_as_far_as_their_number_goes():
    """With all logits alike in size, 3 + 3 cases of Platt's target 4 / 5 need sigmoid(logit / T) = 4 / 5."""
    fitted = calibration.fit_scaling([0] * 3 + [1] * 3, [-5.0] * 3 + [5.0] * 3)
    assert fitted == (pytest.approx(5 / math.log(4), rel=1e-4), pytest.approx(0, abs=1e-6))


def test_logits_that_mislead_are_softened_as_far_as_may_be():
    """And what the offset then says is the prevalence."""
    labels, logits = sample(0)
    temperature, offset = calibration.fit_scaling(1 - labels, logits)
    assert temperature == pytest.approx(64, rel=1e-3)
    assert np.mean(expit(logits / temperature + offset)) == pytest.approx(np.mean(1 - labels), abs=0.01)


def test_a_class_balanced_loss_is_taken_back():
    """It answers for a prevalence of a half: the offset adds the log-odds of val's own."""
    rng = np.random.default_rng(5)
    labels = rng.random(200_000) < 0.75
    logits = rng.normal(np.where(labels, 1.0, -1.0), math.sqrt(2))  # their own log-odds, were both as frequent
    assert calibration.fit_scaling(labels, logits) == (pytest.approx(1, rel=0.02), pytest.approx(math.log(3), abs=0.03))


def test_scaling_takes_what_training_hands_over():
    """Labels are uint8 and logits float32 there, and the order is that of the files."""
    labels, logits = sample(1)
    order = np.random.default_rng(0).permutation(len(labels))
    expected = calibration.fit_scaling(labels, logits)
    given = calibration.fit_scaling(labels[order].astype(np.uint8), logits[order].astype(np.float32))
    assert [type(value) for value in given] == [float, float]
    assert given == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_fits_nothing(label):
    """A prevalence of 0 or 1 has no log-odds, and no threshold parts a class from itself."""
    with pytest.raises(metrics.Undefined):
        calibration.fit([label] * 4, [-1.0, 0.5, 2.0, 3.0])


@pytest.mark.parametrize(
    ("labels", "logits", "says"),
    [([], [], "no cases"), ([0, 1], [0.0, math.nan], "finite"), ([0, 1, 1], [0.0, 1.0], "one shape")],
)
def test_what_cannot_be_fitted_is_refused(labels, logits, says):
    for fit in (calibration.fit, calibration.fit_scaling):
        with pytest.raises(ValueError, match=says):
            fit(labels, logits)


def test_fit_puts_the_parts_together():
    """Both thresholds are of the scaled probability, so that each is where the logits cross over."""
    labels, logits = sample(2)
    fitted = calibration.fit(labels, logits)
    p = expit(logits / fitted.temperature + fitted.offset)
    assert (fitted.temperature, fitted.offset) == calibration.fit_scaling(labels, logits)
    assert fitted.prevalence == pytest.approx(0.7)
    false_alarms, found, _ = sk.roc_curve(labels, p)
    called = p >= fitted.threshold
    assert sk.balanced_accuracy_score(labels, called) == pytest.approx(max(found - false_alarms) / 2 + 0.5)
    # 140 cases: 133 are 95 % of them, and the next higher threshold misses an eighth.
    assert np.sum(p[labels == 1] >= fitted.threshold_sens95) == 133
    json.dumps(fitted._asdict(), allow_nan=False)


@pytest.mark.parametrize(
    ("labels", "p", "sensitivity", "threshold"),
    [
        # Two of four are half: the second highest of the ill is 0.7, and below it lies the healthy 0.6.
        ([1, 1, 0, 1, 1], [0.9, 0.7, 0.6, 0.4, 0.2], 0.5, 0.65),
        ([1, 1, 0, 1, 1], [0.9, 0.7, 0.6, 0.4, 0.2], 0.75, 0.3),
        # Half and a little needs three.
        ([1, 1, 0, 1, 1], [0.9, 0.7, 0.6, 0.4, 0.2], 0.51, 0.3),
        # All: midway from the least of the ill to what lies below it, or to 0.
        ([1, 1, 0, 1, 1], [0.9, 0.7, 0.6, 0.4, 0.2], 1.0, 0.1),
        ([1, 1, 0, 0], [0.9, 0.5, 0.3, 0.1], 1.0, 0.4),
        # A twentieth or less may be missed: of one to nineteen cases none.
        ([1, 1, 0], [0.9, 0.5, 0.1], 0.95, 0.3),
        # Tied cases are called together: half of these is all that are at 0.6 or more.
        ([1, 1, 1, 1, 0], [0.8, 0.6, 0.6, 0.6, 0.2], 0.5, 0.4),
        # A healthy case that ties with the ill one is called as well.
        ([1, 1, 0, 0], [0.8, 0.6, 0.6, 0.4], 1.0, 0.5),
        # Only ill ones.
        ([1, 1], [0.8, 0.6], 0.5, 0.7),
        # Nothing lies below 0: there is no threshold beside the case.
        ([1, 0], [0.0, 0.5], 1.0, 0.0),
    ],
)
def test_threshold_of_sensitivity_by_hand(labels, p, sensitivity, threshold):
    assert calibration.threshold_of_sensitivity(labels, p, sensitivity) == pytest.approx(threshold, abs=1e-15)
    backwards = calibration.threshold_of_sensitivity(labels[::-1], p[::-1], sensitivity)
    assert backwards == pytest.approx(threshold, abs=1e-15), "the order of cases is nothing"


@pytest.mark.parametrize("count", [20, 40, 60, 100, 140, 180, 1000])
def test_a_whole_number_that_may_be_missed_is_missed(count):
    """0.05 of 20 is 1 exactly, which floats have as a little more or less."""
    p = (np.arange(count) + 1) / (count + 1)
    threshold = calibration.threshold_of_sensitivity([1] * count, p, 0.95)
    assert np.sum(p < threshold) == count // 20


@pytest.mark.parametrize("seed", range(30))
def test_threshold_of_sensitivity_is_the_highest_and_sits_on_no_case(seed):
    """No cut at a case, beside one, or at either end finds enough above it; few digits make many ties."""
    rng = np.random.default_rng(seed)
    labels = np.append(rng.integers(0, 2, size=rng.integers(1, 40)), 1)
    p = np.round(np.clip(rng.normal(0.4 + 0.2 * labels, 0.2), 0, 1), rng.integers(1, 4))
    p = np.maximum(p, 0.001)  # no threshold is beside a case at 0
    wanted = rng.choice([0.05, 0.5, 0.8, 0.95, 1.0])
    threshold = calibration.threshold_of_sensitivity(labels, p, wanted)

    def found(cut):
        return np.mean(p[labels == 1] >= cut)

    assert found(threshold) >= wanted - 1e-12
    assert threshold not in p
    assert not any(found(cut) >= wanted - 1e-12 and found(cut) < found(threshold) for cut in p), "one higher would do"
    below = np.append(p[p < threshold], 0.0)
    assert below.max() < threshold < p[p > threshold].min()


@pytest.mark.parametrize("low", [0.0, 0.3, 1 - 2**-53, 0.25])
def test_threshold_of_sensitivity_separates_neighbouring_floats(low):
    """The sum of neighbours can round down; a threshold on the lower one would call both pneumonia."""
    p = np.array([low, np.nextafter(low, 2)])
    threshold = calibration.threshold_of_sensitivity([0, 1], p, 1.0)
    np.testing.assert_array_equal(p >= threshold, [False, True])


def test_threshold_of_sensitivity_needs_a_positive():
    with pytest.raises(metrics.Undefined, match="no positives"):
        calibration.threshold_of_sensitivity([0, 0], [0.3, 0.6], 0.95)


def test_bayes_rule_by_hand():
    """Of 100, 75 are ill and p is 0.9: likelihood ratio 9 / 3 = 3. With one ill in five, odds 3 / 4: p is 3 / 7."""
    val = calibration.Calibration(temperature=1.0, threshold=0.75, threshold_sens95=0.5, prevalence=0.75, offset=0.0)
    there = calibration.at_prevalence(val, 0.2)
    assert metrics.probabilities([math.log(9)], there.temperature, there.offset) == pytest.approx([3 / 7])
    # Odds 3 and 1 have ratios 1 and 1 / 3, which make odds 1 / 4 and 1 / 12 where one in five is ill.
    assert there == pytest.approx((1.0, 1 / 5, 1 / 13, 0.2, math.log(1 / 12)))


@pytest.mark.parametrize("prevalence", [0.001, 0.05, 0.5, 0.73, 0.99])
def test_probabilities_at_a_prevalence_equal_bayes_rule(prevalence):
    """By likelihoods, without log-odds: P(x | ill) is P(ill | x) / P(ill), to a factor of x alone."""
    labels, logits = sample(4)
    fitted = calibration.fit(labels, logits)
    there = calibration.at_prevalence(fitted, prevalence)
    p = expit(logits / fitted.temperature + fitted.offset)
    ill = p / fitted.prevalence * prevalence
    well = (1 - p) / (1 - fitted.prevalence) * (1 - prevalence)
    np.testing.assert_allclose(
        metrics.probabilities(logits, there.temperature, there.offset), ill / (ill + well), rtol=1e-9
    )
    assert there.prevalence == prevalence
    assert there.temperature == fitted.temperature


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("prevalence", [1e-4, 0.2, 0.6, 0.999])
def test_a_prevalence_changes_no_decision(seed, prevalence):
    """The operating points move with the probabilities, for cases of val and for those that come after."""
    labels, logits = sample(seed, share=[0.7, 0.5, 0.1][seed % 3])
    fitted = calibration.fit(labels, logits)
    there = calibration.at_prevalence(fitted, prevalence)
    later = np.append(logits, np.random.default_rng(seed + 100).normal(0, 3, size=5000))
    before = metrics.probabilities(later, fitted.temperature, fitted.offset)
    after = metrics.probabilities(later, there.temperature, there.offset)
    assert np.abs(before - after).max() > 0.01, "the probabilities are others"
    for name in ("threshold", "threshold_sens95"):
        called = before >= getattr(fitted, name)
        assert 0 < called.sum() < len(called)
        np.testing.assert_array_equal(after >= getattr(there, name), called, err_msg=name)


@pytest.mark.parametrize("prevalence", [0.001, 0.2, 0.7, 0.95])
def test_there_and_back_is_the_original(prevalence):
    fitted = calibration.fit(*sample(5))
    there = calibration.at_prevalence(fitted, prevalence)
    assert calibration.at_prevalence(there, fitted.prevalence) == pytest.approx(fitted, abs=1e-12)
    # By way of another is as straight there.
    assert calibration.at_prevalence(calibration.at_prevalence(fitted, 0.4), prevalence) == pytest.approx(there)


def test_the_prevalence_of_val_changes_nothing():
    fitted = calibration.fit(*sample(6))
    assert calibration.at_prevalence(fitted, fitted.prevalence) == pytest.approx(fitted, rel=1e-12)


def test_a_threshold_that_calls_everything_still_does():
    """`best_threshold` is 0 where scores are useless; log-odds of 0 are infinite."""
    fitted = calibration.fit([1, 0], [-1.0, 1.0])
    assert fitted.threshold == 0.0
    assert calibration.at_prevalence(fitted, 0.01).threshold == 0.0


def test_summary_by_hand():
    """Temperature 2 and offset log 2 make odds 3, 1 and 1/3 of 9, 1 and 1/9, and then twice that."""
    labels, logits = [1, 1, 0, 0], [math.log(9), 0.0, 0.0, -math.log(9)]
    out = metrics.summary(labels, logits, 0.7, temperature=2.0, offset=math.log(2), threshold_sens95=0.3, resamples=20)
    p = [6 / 7, 2 / 3, 2 / 3, 2 / 5]
    by_hand = {
        "temperature": 2.0,
        "offset": math.log(2),
        "threshold": 0.7,
        "threshold_sens95": 0.3,
        "brier": sum((y - q) ** 2 for y, q in zip(labels, p, strict=True)) / 4,
        "brier_uncalibrated": (0.01 + 0.25 + 0.25 + 0.01) / 4,
        # Of fifteen bins, 2/3 and 2/3 share one, half of which is pneumonia.
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
    labels, logits = sample(7)
    fitted = calibration.at_prevalence(calibration.fit(labels, logits), 0.2)
    given = fitted._asdict()
    given.pop("prevalence")
    out = metrics.summary(labels, logits, **given, resamples=20)
    p = expit(logits / fitted.temperature + fitted.offset)
    called = (p >= fitted.threshold_sens95).astype(int)
    expected = {
        "accuracy_at_sens95": sk.accuracy_score(labels, called),
        "balanced_accuracy_at_sens95": sk.balanced_accuracy_score(labels, called),
        "sensitivity_at_sens95": sk.recall_score(labels, called),
        "specificity_at_sens95": sk.recall_score(labels, called, pos_label=0),
        "brier": sk.brier_score_loss(labels, p),
        "brier_uncalibrated": sk.brier_score_loss(labels, expit(logits)),
    }
    assert {key: out[key] for key in expected} == pytest.approx(expected)
    assert out["sensitivity_at_sens95"] == pytest.approx(0.95)
    assert json.loads(json.dumps(out, allow_nan=False)) == out


def test_summary_without_a_second_operating_point_has_none_of_it():
    out = metrics.summary(HAND_LABELS, HAND_LOGITS, 0.6, resamples=20)
    assert out["threshold_sens95"] is None
    assert not [key for key in out if key.endswith("_at_sens95")]
    assert out["brier"] == out["brier_uncalibrated"]
    assert out["ece"] == out["ece_uncalibrated"]


def test_summary_of_one_class_has_reasons_at_the_second_operating_point():
    out = metrics.summary([1, 1], [0.0, 2.0], 0.6, threshold_sens95=0.4, resamples=20)
    assert out["specificity_at_sens95"] is None
    assert out["specificity_at_sens95_reason"] == "no negatives"
    assert out["sensitivity_at_sens95"] == 1.0
    json.dumps(out, allow_nan=False)


def test_a_fitted_temperature_calibrates():
    """Logits thrice too large: the fitted probabilities score better than the raw ones, and ranks stay."""
    rng = np.random.default_rng(8)
    logits = rng.normal(0.3, 1.5, size=4000)
    labels = (rng.random(len(logits)) < expit(logits)).astype(int)
    fitted = calibration.fit(labels, 3 * logits)
    out = metrics.summary(labels, 3 * logits, fitted.threshold, fitted.temperature, resamples=20)
    assert out["brier"] < out["brier_uncalibrated"]
    assert out["ece"] < 0.03 < 0.1 < out["ece_uncalibrated"]
    assert out["auc"] == metrics.auc(labels, logits)
