"""Comparing with a float32 bound decides as `predictions` does with probabilities and thresholds in float64."""

import numpy as np
import pytest

from pneumojax.evaluation import metrics
from pneumojax.evaluation.calibration import Calibration
from pneumojax.export.bounds import largest_within, lowest_logit


@pytest.mark.slow
def test_logits_on_both_sides_of_the_bound_decide_as_probabilities_do():
    rng = np.random.default_rng(0)
    for _ in range(200):
        temperature, threshold, offset = np.exp(rng.normal(0, 2)), rng.random() ** 4, rng.normal(0, 5)
        calibration = Calibration(temperature, threshold, threshold, 0.5, offset)
        bound = lowest_logit(calibration, threshold)
        near = bound + np.arange(-40, 40, dtype=np.float32) * np.spacing(np.abs(bound))
        near = np.concatenate([near, rng.normal(0, 20, 20).astype(np.float32)])
        expected = metrics.probabilities(near, temperature, offset) >= threshold
        np.testing.assert_array_equal(near >= bound, expected)
        assert expected.any() and not expected.all()


@pytest.mark.parametrize(("threshold", "bound"), [(0.0, -np.inf), (1.1, np.inf)])
def test_a_threshold_that_all_or_none_reach(threshold, bound):
    assert lowest_logit(Calibration(1.0, threshold, threshold, 0.5, 0.0), threshold) == bound


def test_the_same_scores_exceed_a_limit_in_float32():
    rng = np.random.default_rng(0)
    for limit in [0.5, *rng.random(200)]:
        scores = np.float32(limit) + np.arange(-3, 4, dtype=np.float32) * np.spacing(np.float32(limit))
        np.testing.assert_array_equal(scores > largest_within(limit), scores.astype(np.float64) > limit)
