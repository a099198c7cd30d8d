"""Calibration: known scalings, minima of the loss, operating points by hand, and Bayes' rule."""

import json
import math

import numpy as np
import pytest
from scipy.special import expit, log_expit
from scored_cases import without_ties
from sklearn import metrics as sk

from pneumojax.evaluation import calibration, metrics


@pytest.mark.parametrize(("temperature", "offset"), [(0.3, 0.0), (1.0, 1.5), (2.5, -2.0), (8.0, 0.5)])
def test_known_temperature_and_offset_are_recovered(temperature, offset):
    """Labels are drawn from sigmoid(logit / T + b); with so many, standard errors are about 1 %."""
    rng = np.random.default_rng(3)
    logits = rng.normal(0.5, 2.0, size=100_000) * temperature
    labels = rng.random(len(logits)) < expit(logits / temperature + offset)
    fitted = calibration.fit_scaling(labels, logits)
    assert fitted == (pytest.approx(temperature, rel=0.03), pytest.approx(offset, abs=0.06))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("scale", [0.2, 1.0, 20.0])
def test_scaling_is_a_minimum(seed, scale):
    """Cross-entropy with Platt's targets is convex in 1 / T and the offset, so a local minimum is global."""
    labels, logits = without_ties(seed, n=60, share=[0.7, 0.5, 0.9, 0.1][seed])
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
    """Without Platt's targets the best temperature would be zero, or infinite if all logits are wrong."""
    logits = direction * size * np.array([-2.0, -1.0, 1.0, 2.0, 3.0])
    temperature, offset = calibration.fit_scaling([0, 0, 1, 1, 1], logits)
    assert temperature * (1 + 1e-12) >= 1 / 64
    assert temperature <= 64 * (1 + 1e-12)
    assert math.isfinite(offset)


def test_confidence_in_separated_classes_depends_on_the_number_of_cases():
    """With three cases in each class, Platt's target is 4 / 5, so sigmoid(5 / T) must be 4 / 5."""
    fitted = calibration.fit_scaling([0] * 3 + [1] * 3, [-5.0] * 3 + [5.0] * 3)
    assert fitted == (pytest.approx(5 / math.log(4), rel=1e-4), pytest.approx(0, abs=1e-6))


def test_misleading_logits_get_the_highest_temperature():
    """The offset alone then gives the prevalence."""
    labels, logits = without_ties(0)
    temperature, offset = calibration.fit_scaling(1 - labels, logits)
    assert temperature == pytest.approx(64, rel=1e-3)
    assert np.mean(expit(logits / temperature + offset)) == pytest.approx(np.mean(1 - labels), abs=0.01)


def test_the_offset_undoes_a_class_balanced_loss():
    """Such a loss trains for a prevalence of one half, so the offset must add the log-odds of val's."""
    rng = np.random.default_rng(5)
    labels = rng.random(200_000) < 0.75
    logits = rng.normal(np.where(labels, 1.0, -1.0), math.sqrt(2))  # true log-odds at prevalence 1 / 2
    assert calibration.fit_scaling(labels, logits) == (pytest.approx(1, rel=0.02), pytest.approx(math.log(3), abs=0.03))


def test_types_and_order_do_not_change_the_scaling():
    """Training passes uint8 labels and float32 logits, in the order of the files."""
    labels, logits = without_ties(1)
    order = np.random.default_rng(0).permutation(len(labels))
    expected = calibration.fit_scaling(labels, logits)
    fitted = calibration.fit_scaling(labels[order].astype(np.uint8), logits[order].astype(np.float32))
    assert [type(value) for value in fitted] == [float, float]
    assert fitted == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_cannot_be_fitted(label):
    """A prevalence of 0 or 1 has no log-odds, and no threshold separates one class."""
    with pytest.raises(metrics.Undefined):
        calibration.fit([label] * 4, [-1.0, 0.5, 2.0, 3.0])


@pytest.mark.parametrize(
    ("labels", "logits", "message"),
    [([], [], "no cases"), ([0, 1], [0.0, math.nan], "finite"), ([0, 1, 1], [0.0, 1.0], "same shape")],
)
def test_invalid_cases_are_refused(labels, logits, message):
    for fit in (calibration.fit, calibration.fit_scaling):
        with pytest.raises(ValueError, match=message):
            fit(labels, logits)


def test_thresholds_are_on_the_scale_of_the_calibrated_probability():
    labels, logits = without_ties(2)
    fitted = calibration.fit(labels, logits)
    p = expit(logits / fitted.temperature + fitted.offset)
    assert (fitted.temperature, fitted.offset) == calibration.fit_scaling(labels, logits)
    assert fitted.prevalence == pytest.approx(0.7)
    false_positive_rate, true_positive_rate, _ = sk.roc_curve(labels, p)
    best = max(true_positive_rate - false_positive_rate) / 2 + 0.5
    assert sk.balanced_accuracy_score(labels, p >= fitted.threshold) == pytest.approx(best)
    # 133 of 140 positives are 95 %; the next higher threshold would miss one more.
    assert np.sum(p[labels == 1] >= fitted.threshold_sens95) == 133
    json.dumps(fitted._asdict(), allow_nan=False)


@pytest.mark.parametrize(
    ("labels", "p", "sensitivity", "threshold"),
    [
        # Two of four positives are half; the second highest is at 0.7, and the next lower case at 0.6.
        ([1, 1, 0, 1, 1], [0.9, 0.7, 0.6, 0.4, 0.2], 0.5, 0.65),
        ([1, 1, 0, 1, 1], [0.9, 0.7, 0.6, 0.4, 0.2], 0.75, 0.3),
        # Slightly more than half needs three.
        ([1, 1, 0, 1, 1], [0.9, 0.7, 0.6, 0.4, 0.2], 0.51, 0.3),
        # All: midway between the lowest positive and the next lower case, or 0.
        ([1, 1, 0, 1, 1], [0.9, 0.7, 0.6, 0.4, 0.2], 1.0, 0.1),
        ([1, 1, 0, 0], [0.9, 0.5, 0.3, 0.1], 1.0, 0.4),
        # One of twenty may be missed, so none of fewer.
        ([1, 1, 0], [0.9, 0.5, 0.1], 0.95, 0.3),
        # Tied cases get the same prediction: at least half of these are all those from 0.6.
        ([1, 1, 1, 1, 0], [0.8, 0.6, 0.6, 0.6, 0.2], 0.5, 0.4),
        # A negative that ties with a positive is predicted positive too.
        ([1, 1, 0, 0], [0.8, 0.6, 0.6, 0.4], 1.0, 0.5),
        # Only positives.
        ([1, 1], [0.8, 0.6], 0.5, 0.7),
        # Nothing is below 0, so the threshold must be on the case.
        ([1, 0], [0.0, 0.5], 1.0, 0.0),
    ],
)
def test_threshold_of_sensitivity_by_hand(labels, p, sensitivity, threshold):
    assert calibration.threshold_of_sensitivity(labels, p, sensitivity) == pytest.approx(threshold, abs=1e-15)
    backwards = calibration.threshold_of_sensitivity(labels[::-1], p[::-1], sensitivity)
    assert backwards == pytest.approx(threshold, abs=1e-15), "the order of cases must not matter"


@pytest.mark.parametrize("count", [20, 40, 60, 100, 140, 180, 1000])
def test_rounding_does_not_change_how_many_may_be_missed(count):
    """0.05 of 20 is exactly 1, but slightly more or less in floats."""
    p = (np.arange(count) + 1) / (count + 1)
    threshold = calibration.threshold_of_sensitivity([1] * count, p, 0.95)
    assert np.sum(p < threshold) == count // 20


@pytest.mark.parametrize("seed", range(30))
def test_threshold_of_sensitivity_is_the_highest_and_is_on_no_case(seed):
    """Few digits make many ties."""
    rng = np.random.default_rng(seed)
    labels = np.append(rng.integers(0, 2, size=rng.integers(1, 40)), 1)
    p = np.round(np.clip(rng.normal(0.4 + 0.2 * labels, 0.2), 0, 1), rng.integers(1, 4))
    p = np.maximum(p, 0.001)  # there is no threshold below a case at 0
    required = float(rng.choice([0.05, 0.5, 0.8, 0.95, 1.0]))
    threshold = calibration.threshold_of_sensitivity(labels, p, required)

    def sensitivity(cut):
        return np.mean(p[labels == 1] >= cut)

    assert sensitivity(threshold) >= required - 1e-12
    assert threshold not in p
    assert not any(required - 1e-12 <= sensitivity(cut) < sensitivity(threshold) for cut in p), "a higher one suffices"
    below = np.append(p[p < threshold], 0.0)
    assert below.max() < threshold < p[p > threshold].min()


@pytest.mark.parametrize("low", [0.0, 0.3, 1 - 2**-53, 0.25])
def test_threshold_of_sensitivity_separates_neighbouring_floats(low):
    """The sum of neighbours can round down; a threshold on the lower one would predict both as positive."""
    p = np.array([low, np.nextafter(low, 2)])
    threshold = calibration.threshold_of_sensitivity([0, 1], p, 1.0)
    np.testing.assert_array_equal(p >= threshold, [False, True])


def test_threshold_of_sensitivity_needs_a_positive():
    with pytest.raises(metrics.Undefined, match="no positives"):
        calibration.threshold_of_sensitivity([0, 0], [0.3, 0.6], 0.95)


def test_bayes_rule_by_hand():
    """At prevalence 3 / 4, p = 0.9 is a likelihood ratio of 9 / 3. At 1 / 5 it gives odds of 3 / 4, so p = 3 / 7."""
    val = calibration.Calibration(temperature=1.0, threshold=0.75, threshold_sens95=0.5, prevalence=0.75, offset=0.0)
    there = calibration.at_prevalence(val, 0.2)
    assert metrics.probabilities([math.log(9)], there.temperature, there.offset) == pytest.approx([3 / 7])
    # Odds of 3 and 1 are likelihood ratios of 1 and 1 / 3, which give odds of 1 / 4 and 1 / 12.
    assert there == pytest.approx((1.0, 1 / 5, 1 / 13, 0.2, math.log(1 / 12)))


@pytest.mark.parametrize("prevalence", [0.001, 0.05, 0.5, 0.73, 0.99])
def test_probabilities_at_a_prevalence_equal_bayes_rule(prevalence):
    """Computed from likelihoods: P(x | positive) is P(positive | x) / P(positive), up to a factor of x alone."""
    labels, logits = without_ties(4)
    fitted = calibration.fit(labels, logits)
    there = calibration.at_prevalence(fitted, prevalence)
    p = expit(logits / fitted.temperature + fitted.offset)
    positive = p / fitted.prevalence * prevalence
    negative = (1 - p) / (1 - fitted.prevalence) * (1 - prevalence)
    np.testing.assert_allclose(
        metrics.probabilities(logits, there.temperature, there.offset), positive / (positive + negative), rtol=1e-9
    )
    assert there.prevalence == prevalence
    assert there.temperature == fitted.temperature


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("prevalence", [1e-4, 0.2, 0.6, 0.999])
def test_a_prevalence_changes_no_decision(seed, prevalence):
    """The operating points move with the probabilities, for cases of val and for later ones."""
    labels, logits = without_ties(seed, share=[0.7, 0.5, 0.1][seed % 3])
    fitted = calibration.fit(labels, logits)
    there = calibration.at_prevalence(fitted, prevalence)
    later = np.append(logits, np.random.default_rng(seed + 100).normal(0, 3, size=5000))
    before = metrics.probabilities(later, fitted.temperature, fitted.offset)
    after = metrics.probabilities(later, there.temperature, there.offset)
    assert np.abs(before - after).max() > 0.01, "the probabilities must change"
    for name in ("threshold", "threshold_sens95"):
        decisions = before >= getattr(fitted, name)
        assert 0 < decisions.sum() < len(decisions)
        np.testing.assert_array_equal(after >= getattr(there, name), decisions, err_msg=name)


@pytest.mark.parametrize("prevalence", [0.001, 0.2, 0.7, 0.95])
def test_restating_twice_is_like_restating_once(prevalence):
    fitted = calibration.fit(*without_ties(5))
    there = calibration.at_prevalence(fitted, prevalence)
    assert calibration.at_prevalence(there, fitted.prevalence) == pytest.approx(fitted, abs=1e-12)
    by_way_of_another = calibration.at_prevalence(calibration.at_prevalence(fitted, 0.4), prevalence)
    assert by_way_of_another == pytest.approx(there)


def test_the_prevalence_of_val_changes_nothing():
    fitted = calibration.fit(*without_ties(6))
    assert calibration.at_prevalence(fitted, fitted.prevalence) == pytest.approx(fitted, rel=1e-12)


def test_a_threshold_of_zero_stays_zero():
    """`best_threshold` is 0 for useless scores; log-odds of 0 are infinite."""
    fitted = calibration.fit([1, 0], [-1.0, 1.0])
    assert fitted.threshold == 0.0
    assert calibration.at_prevalence(fitted, 0.01).threshold == 0.0


def test_the_sensitive_threshold_never_finds_less_than_the_balanced_one():
    """Where the classes are apart, the balanced threshold finds all positives, and that of 95 % would find fewer."""
    labels, logits = np.repeat([0, 1], 100), np.concatenate([np.linspace(-4, -1, 100), np.linspace(1, 4, 100)])
    fitted = calibration.fit(labels, logits)
    p = expit(logits / fitted.temperature + fitted.offset)
    assert calibration.threshold_of_sensitivity(labels, p, 0.95) > fitted.threshold
    assert fitted.threshold_sens95 == fitted.threshold


def test_a_calibration_of_an_earlier_version_is_read_with_a_sensitive_threshold_that_finds_no_less():
    fields = {"temperature": 1.0, "threshold": 0.4, "threshold_sens95": 0.7, "prevalence": 0.5, "offset": 0.0}
    assert calibration.stored(fields).threshold_sens95 == 0.4
    assert calibration.stored(fields | {"threshold_sens95": 0.2}).threshold_sens95 == 0.2
