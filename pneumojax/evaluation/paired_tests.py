"""Tests of whether two recipes differ: pure functions of their scores on the same images."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike


class Difference(NamedTuple):
    """A mean difference over runs, its 95 % interval (low, high) and two-sided p-value: both None if all are equal."""

    mean: float
    interval: tuple[float, float] | None
    p: float | None


def corrected_t(differences: ArrayLike, test_share: float) -> Difference:
    """Test a mean difference by Student's t, corrected for runs that share training images.

    Nadeau and Bengio, "Inference for the Generalization Error", 2003: runs that train on mostly the same images are not
    independent samples, so the variance of the mean of k differences is (1 / k + tested / trained) times their own.

    Args:
      differences: of one metric, (k,), one for each fold and seed.
      test_share: number of test images divided by number of training images, above 0.
    """
    from scipy.stats import t  # not at the top: importing it takes half a second

    values = np.asarray(differences, np.float64)
    mean, k = float(values.mean()), len(values)
    if k < 2:
        return Difference(mean, None, None)
    error = math.sqrt((1 / k + test_share) * values.var(ddof=1))
    if error == 0:
        return Difference(mean, None, None)
    margin = float(t.ppf(0.975, k - 1)) * error
    return Difference(mean, (mean - margin, mean + margin), float(2 * t.sf(abs(mean) / error, k - 1)))


class Discordant(NamedTuple):
    """How many images each of two classifiers alone predicts correctly, and the two-sided p-value."""

    first_alone: int
    second_alone: int
    p: float


def mcnemar(first_correct: ArrayLike, second_correct: ArrayLike) -> Discordant:
    """Compare two classifiers by McNemar's exact test (1947), from whether they predict images correctly, (n,) bool.

    Both are of the same images, each of which occurs once.
    """
    from scipy.stats import binomtest  # not at the top: importing it takes half a second

    first, second = np.asarray(first_correct, bool), np.asarray(second_correct, bool)
    first_alone, second_alone = int(np.sum(first & ~second)), int(np.sum(second & ~first))
    discordant = first_alone + second_alone
    p = float(binomtest(first_alone, discordant).pvalue) if discordant else 1.0
    return Discordant(first_alone, second_alone, p)
