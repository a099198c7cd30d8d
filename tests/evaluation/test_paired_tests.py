"""Paired tests: every number by hand, or by SciPy where there is no correction."""

import math

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from pneumojax.evaluation.paired_tests import Difference, corrected_t, mcnemar


def test_corrected_t_by_hand():
    """Student's t has a closed form with two degrees of freedom."""
    difference = corrected_t([0.01, 0.02, 0.03], 0.25)
    error = math.sqrt((1 / 3 + 1 / 4) * 0.01**2)
    quantile = 0.95 / math.sqrt(2 * 0.975 * 0.025)  # 4.303
    t = 0.02 / error
    assert difference.mean == pytest.approx(0.02)
    assert difference.interval == pytest.approx((0.02 - quantile * error, 0.02 + quantile * error))
    assert difference.p == pytest.approx(1 - t / math.sqrt(t**2 + 2))  # 0.120


def test_corrected_t_of_two_runs_by_hand():
    """Student's t with one degree of freedom is the Cauchy distribution."""
    difference = corrected_t([-0.03, -0.01], 0.5)
    error = math.sqrt((1 / 2 + 1 / 2) * 2 * 0.01**2)
    margin = math.tan(0.475 * math.pi) * error
    assert difference.interval == pytest.approx((-0.02 - margin, -0.02 + margin))
    assert difference.p == pytest.approx(1 - 2 / math.pi * math.atan(0.02 / error))


@pytest.mark.parametrize("k", [2, 5, 10])
def test_shared_training_images_widen_the_interval_by_nadeaus_and_bengios_factor(k):
    """Compared with SciPy's t-test, by sqrt(1 + k tested / trained): 1.5 for five folds."""
    values = np.random.default_rng(k).normal(0.01, 0.02, k)
    plain, scipy = corrected_t(values, 1e-12), ttest_1samp(values, 0)
    assert plain.mean == pytest.approx(values.mean())
    assert plain.interval == pytest.approx(tuple(scipy.confidence_interval(0.95)))
    assert plain.p == pytest.approx(scipy.pvalue)
    shared = corrected_t(values, 0.25)
    half, wider = (difference.interval[1] - difference.mean for difference in (plain, shared))
    assert wider / half == pytest.approx(math.sqrt(1 + k / 4))
    assert shared.p > plain.p


def test_swapping_two_recipes_changes_only_the_sign():
    values = np.array([0.01, -0.02, 0.04, 0.03])
    forward, backward = corrected_t(values, 0.25), corrected_t(-values, 0.25)
    assert (backward.mean, backward.p) == (-forward.mean, forward.p)
    assert backward.interval == pytest.approx((-forward.interval[1], -forward.interval[0]))


def test_one_run_has_no_interval():
    assert corrected_t([0.25], 0.25) == Difference(0.25, None, None)


@pytest.mark.parametrize("value", [0.0, 0.5])
def test_equal_differences_have_no_interval(value):
    """They do not show how much runs differ, as when all score perfectly, or two small splits the same."""
    assert corrected_t([value] * 3, 0.25) == Difference(value, None, None)


@pytest.mark.parametrize(
    ("first_alone", "second_alone", "p"),
    [
        (1, 5, 2 * (1 + 6) / 2**6),
        (0, 10, 2 / 2**10),
        (7, 2, 2 * (1 + 9 + 36) / 2**9),
        (3, 3, 1.0),
        (1, 0, 1.0),
        (0, 0, 1.0),
    ],
)
def test_mcnemar_by_hand(first_alone, second_alone, p):
    """p is twice the tail of a binomial distribution over the images that only one classifier predicts correctly."""
    first = [True] * first_alone + [False] * second_alone + [True] * 20 + [False] * 9
    second = [False] * first_alone + [True] * second_alone + [True] * 20 + [False] * 9
    discordant = mcnemar(first, second)
    assert discordant[:2] == (first_alone, second_alone)
    assert discordant.p == pytest.approx(p)
    assert mcnemar(second, first) == (second_alone, first_alone, pytest.approx(p))


def test_mcnemar_keeps_its_error_rate():
    """At most one pair of equally good classifiers in twenty may be significantly different."""
    rng = np.random.default_rng(0)
    false = sum(mcnemar(rng.random(200) < 0.9, rng.random(200) < 0.9).p < 0.05 for _ in range(400))
    assert false <= 400 * 0.05 + 3 * math.sqrt(400 * 0.05 * 0.95)
