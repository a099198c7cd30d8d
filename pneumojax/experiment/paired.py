"""Whether two recipes differ: pure functions of what they scored on the same images."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike


class Difference(NamedTuple):
    """A mean difference over runs, its 95 % interval (low, high), and a two-sided p-value; None for what one run
    alone cannot tell."""

    mean: float
    interval: tuple[float, float] | None
    p: float | None


def corrected_t(differences: Sequence[float], test_share: float) -> Difference:
    """Student's t over runs whose training images overlap.

    Nadeau and Bengio, "Inference for the Generalization Error", 2003: the variance of the mean of k differences is
    taken to be (1 / k + tested / trained) times theirs, since k runs on mostly the same images are not k samples.

    Args:
      differences: of one metric, one for each fold and seed.
      test_share: images tested on over images trained on, above 0.
    """
    from scipy.stats import t  # not above: it takes half a second

    values = np.asarray(differences, np.float64)
    mean, k = float(values.mean()), len(values)
    if k < 2:
        return Difference(mean, None, None)
    error = math.sqrt((1 / k + test_share) * values.var(ddof=1))
    if error == 0:
        return Difference(mean, (mean, mean), 1.0 if mean == 0 else 0.0)
    margin = float(t.ppf(0.975, k - 1)) * error
    return Difference(mean, (mean - margin, mean + margin), float(2 * t.sf(abs(mean) / error, k - 1)))


class Discordant(NamedTuple):
    """Images that one of two classifiers alone calls right, and McNemar's exact two-sided p-value."""

    first_alone: int
    second_alone: int
    p: float


def mcnemar(right_first: ArrayLike, right_second: ArrayLike) -> Discordant:
    """McNemar's exact test (1947).

    Args:
      right_first, right_second: (n,) bool, whether each of the same images, once each, was called right.
    """
    from scipy.stats import binomtest

    first, second = np.asarray(right_first, bool), np.asarray(right_second, bool)
    alone = int(np.sum(first & ~second)), int(np.sum(second & ~first))
    return Discordant(*alone, float(binomtest(alone[0], sum(alone)).pvalue) if sum(alone) else 1.0)
