"""Calibration on a site's own films: drawn scores whose true meaning is known."""

import numpy as np
import pytest
from scipy.special import expit

from pneumojax.evaluation import metrics, site_fit
from pneumojax.evaluation.calibration import Calibration

MODEL = Calibration(temperature=1.0, threshold=0.5, threshold_sens95=0.4, prevalence=0.7, offset=0.0)
TEMPERATURE, OFFSET = 3.0, -1.5  # what the logits of `films` mean


def films(count, seed=0, spread=6.0):
    """Labels that follow from the logits: P(pneumonia) = sigmoid(logit / 3 - 1.5)."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(3, spread, count)
    return (rng.random(count) < expit(logits / TEMPERATURE + OFFSET)).astype(int), logits


def test_many_films_tell_temperature_and_offset():
    found = site_fit.fit(*films(4000), MODEL, resamples=50)
    assert found.calibration.temperature == pytest.approx(TEMPERATURE, rel=0.1)
    assert found.calibration.offset == pytest.approx(OFFSET, abs=0.15)
    low, high = found.intervals["offset"]
    assert low < OFFSET < high
    assert found.enough
    assert found.films_needed == 4000


@pytest.mark.parametrize("seed", range(3))
def test_fifty_films_calibrate_better_than_none(seed):
    """On films that were not drawn: probabilities and balanced accuracy."""
    labels, logits = films(50, seed)
    others = films(4000, 100 + seed)
    found = site_fit.calibrated(labels, logits, MODEL)
    assert ece(found, *others) < ece(MODEL, *others) / 2
    best = balanced(
        found._replace(threshold=metrics.best_threshold(others[0], probabilities(found, others[1]))), *others
    )
    assert best - balanced(found, *others) < 0.02


def probabilities(calibration, logits):
    return metrics.probabilities(logits, calibration.temperature, calibration.offset)


def ece(calibration, labels, logits):
    return metrics.expected_calibration_error(labels, probabilities(calibration, logits))


def balanced(calibration, labels, logits):
    reached = probabilities(calibration, logits) >= calibration.threshold
    return (reached[labels == 1].mean() + (~reached[labels == 0]).mean()) / 2


def test_few_films_say_that_they_are_few():
    labels, logits = films(14, 1)
    found = site_fit.fit(labels, logits, MODEL, resamples=100)
    assert not found.enough
    assert found.films_needed > 14
    assert any("are needed" in sentence for sentence in found.lacking)
    low, high = found.intervals["threshold"]
    assert low <= found.calibration.threshold <= high


def test_separated_films_keep_a_finite_temperature():
    """Without a prior, it would be zero."""
    found = site_fit.calibrated([0] * 10 + [1] * 10, np.arange(20.0), MODEL)
    assert 0.1 < found.temperature < 10
    assert found.threshold_sens95 <= found.threshold


def test_one_class_is_refused():
    with pytest.raises(metrics.Undefined, match="only one class"):
        site_fit.fit([1, 1], [0.0, 1.0], MODEL)


def test_the_fit_does_not_depend_on_the_order():
    labels, logits = films(60)
    order = np.random.default_rng(0).permutation(60)
    one, other = (site_fit.calibrated(*pair, MODEL) for pair in ((labels, logits), (labels[order], logits[order])))
    assert one == pytest.approx(other)
