"""Metrics of a split, from its labels and logits: pure numpy functions in float64, no I/O.

Label 1 is pneumonia, and probability is P(pneumonia) = sigmoid(logit / temperature + offset). A case is predicted
positive if its probability is at least the threshold. `labels`, `logits`, `scores` and `probabilities` have shape
(n,); labels are 0 or 1. Every function raises ValueError if there are no cases, shapes differ, a label is neither 0 nor
1, or a value is not finite; and its subclass Undefined if the metric does not exist for these cases. Intervals assume
that cases are independent.
"""

import math
import sys

import numpy as np
from jaxtyping import Bool, Float64, Int, Integer
from numpy.typing import ArrayLike

ECE_BINS = 15
_LARGEST = math.log(sys.float_info.max)  # whose exponential is finite

Mask = Bool[np.ndarray, " n"]
Values = Float64[np.ndarray, " n"]


class Undefined(ValueError):
    """The metric does not exist for these cases; the message is the reason."""


def probabilities(logits: ArrayLike, temperature: float = 1.0, offset: float = 0.0) -> Float64[np.ndarray, "..."]:
    """Compute P(pneumonia), in [0, 1], of logits of any shape.

    Temperature scaling: Guo et al., "On Calibration of Modern Neural Networks", 2017. With an offset: Platt 1999.

    Raises:
      ValueError: the temperature is not a positive finite number.
    """
    if not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(f"temperature must be positive and finite, got {temperature}")
    return _sigmoid(np.asarray(_finite(logits, "logits") / temperature + offset))


def _sigmoid(odds: Float64[np.ndarray, "..."]) -> Float64[np.ndarray, "..."]:
    """Compute `scipy.special.expit`, to the last bit; importing that takes as long as importing NumPy."""

    def one(value: float) -> float:
        return 1 / (1 + (math.exp(-value) if -value <= _LARGEST else math.inf))

    return np.vectorize(one, otypes=[np.float64])(odds)


def fast_sigmoid(odds: Float64[np.ndarray, "..."]) -> Float64[np.ndarray, "..."]:
    """Compute `probabilities` of odds fast, but not to the last bit: for resampling."""
    return (1 + np.tanh(odds / 2)) / 2


def log_odds(probabilities: ArrayLike) -> Float64[np.ndarray, "..."]:
    """Compute log(p / (1 - p)) of probabilities of any shape; finite also where they are rounded to 0 or 1."""
    from scipy.special import logit  # not at the top: it is slow to import

    tiny = np.finfo(np.float64).eps
    return np.asarray(logit(np.clip(probabilities, tiny, 1 - tiny)))


def bce(labels: ArrayLike, logits: ArrayLike) -> float:
    """Compute the mean binary cross-entropy of the raw logits, in nats, without overflow or cancellation."""
    return float(np.mean(losses(*checked_cases(labels, logits, "logits"))))


def brier(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Compute the mean squared error of the probabilities, in [0, 1] (Brier 1950)."""
    positive, p = checked_cases(labels, probabilities, "probabilities")
    return float(np.mean((_in_unit(p) - positive) ** 2))


def auc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Compute the exact area under the ROC curve, in [0, 1]: the Mann-Whitney statistic, ties counted half.

    Raises:
      Undefined: only one class is present.
    """
    return _placements(labels, scores)[2]


def auc_interval(labels: ArrayLike, scores: ArrayLike, confidence: float = 0.95) -> tuple[float, float]:
    """Compute DeLong's interval (low, high) of the AUC, on the logit scale, which keeps it within [0, 1].

    Sun and Xu, "Fast Implementation of DeLong's Algorithm", 2014 (midranks, O(n log n)).

    Raises:
      Undefined: only one class is present.
    """
    positives, negatives, area = _placements(labels, scores)
    n1, n0 = len(positives), len(negatives)
    variance = 0.0
    if min(n1, n0) > 1:
        variance = np.var(positives, ddof=1) / (n1 * n0**2) + np.var(negatives, ddof=1) / (n0 * n1**2)
    if variance == 0:
        # Perfect or constant scores, or a class of one case: the estimated variance is zero, the true one is not. It is
        # at most AUC (1 - AUC) / min(n1, n0) (Birnbaum and Klose 1957), so Wilson's interval for that many trials is
        # conservative.
        return wilson(area * min(n1, n0), min(n1, n0), confidence)
    from scipy.special import expit, logit  # not at the top: it is slow to import

    margin = _z(confidence) * math.sqrt(variance) / (area * (1 - area))
    low, high = expit(logit(area) + np.array([-margin, margin]))
    return float(low), float(high)


def average_precision(labels: ArrayLike, scores: ArrayLike) -> float:
    """Compute the area under the precision-recall curve in steps, in (0, 1], as scikit-learn defines it.

    Raises:
      Undefined: only one class is present.
    """
    from sklearn.metrics import average_precision_score  # not at the top: it is slow to import

    positive, scores = checked_cases(labels, scores, "scores")
    require_both_classes(positive)
    return float(average_precision_score(positive, scores))


def wilson(successes: float, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Compute Wilson's score interval (low, high) of a proportion, within [0, 1] (Wilson 1927).

    Raises:
      ValueError: there are no trials, or more successes than trials.
    """
    if not 0 <= successes <= trials or trials == 0:
        raise ValueError(f"no proportion: {successes} successes in {trials} trials")
    z = _z(confidence)
    centre = successes + z**2 / 2
    margin = z * math.sqrt(successes * (trials - successes) / trials + z**2 / 4)
    return max(0.0, (centre - margin) / (trials + z**2)), min(1.0, (centre + margin) / (trials + z**2))


def best_threshold(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Find the threshold with the best balanced accuracy, in [0, 1].

    The candidates lie midway between neighbouring probabilities, so that no case is exactly on one, and at 0, where
    every case is predicted positive. Of equally good ones, the middle one is chosen; of two, the lower, which misses
    fewer positives.

    Raises:
      Undefined: only one class is present.
      ValueError: a probability is outside [0, 1].
    """
    positive, p = checked_cases(labels, probabilities, "probabilities")
    require_both_classes(positive)
    distinct = np.unique(_in_unit(p))
    lower, upper = distinct[:-1], distinct[1:]
    # Half the sum of two neighbouring floats can round down to the lower one.
    cuts = np.append(0.0, np.maximum((lower + upper) / 2, np.nextafter(lower, 2)))
    hits, n1 = _count_at_least(p[positive], cuts)
    alarms, n0 = _count_at_least(p[~positive], cuts)
    gain = hits * n0 - alarms * n1  # balanced accuracy in whole numbers, so that ties are exact
    best = np.flatnonzero(gain == gain.max())
    return float(cuts[best[(len(best) - 1) // 2]])


def reliability(
    labels: ArrayLike, probabilities: ArrayLike, bins: int = ECE_BINS
) -> tuple[Float64[np.ndarray, " bins"], Float64[np.ndarray, " bins"], Int[np.ndarray, " bins"]]:
    """Compute the reliability diagram (Niculescu-Mizil and Caruana 2005) over bins of equal width.

    A bin is [i / bins, (i + 1) / bins), the last one closed.

    Returns:
      Of each bin, the mean probability, the share of positives, and the number of cases. The first two are NaN in empty
      bins.

    Raises:
      ValueError: a probability is outside [0, 1], or bins < 1.
    """
    positive, p = checked_cases(labels, probabilities, "probabilities")
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}")
    bin_of = bins_of(_in_unit(p), bins)
    count = np.bincount(bin_of, minlength=bins)
    share = np.where(count > 0, 1 / np.maximum(count, 1), np.nan)
    return np.bincount(bin_of, p, bins) * share, np.bincount(bin_of, positive, bins) * share, count


def expected_calibration_error(labels: ArrayLike, probabilities: ArrayLike, bins: int = ECE_BINS) -> float:
    """Compute the mean over cases of |mean probability - share of positives| in the case's bin, in [0, 1].

    This is the binary form, of P(pneumonia), not of the confidence in the predicted class (Naeini et al. 2015).

    Raises:
      ValueError: as `reliability`.
    """
    mean, fraction, count = reliability(labels, probabilities, bins)
    return float(np.nansum(count * np.abs(mean - fraction)) / count.sum())


def _placements(
    labels: ArrayLike, scores: ArrayLike
) -> tuple[Float64[np.ndarray, " positives"], Float64[np.ndarray, " negatives"], float]:
    """Count for each positive the negatives below it, and for each negative the positives above it; ties count half.

    Returns:
      The two counts, and the AUC.
    """
    positive, scores = checked_cases(labels, scores, "scores")
    require_both_classes(positive)
    positives, negatives = scores[positive], scores[~positive]
    below, above = _count_below(positives, negatives), len(positives) - _count_below(negatives, positives)
    return below, above, float(below.sum() / (len(positives) * len(negatives)))


def _count_below(values: Values, others: Float64[np.ndarray, " m"]) -> Values:
    """Count for each value how many others are less; ties count half."""
    others = np.sort(others)
    return (np.searchsorted(others, values, "left") + np.searchsorted(others, values, "right")) / 2


def losses(positive: Mask, logits: Values) -> Values:
    """Compute the cross-entropy of each case, in nats."""
    return np.logaddexp(0, np.where(positive, -logits, logits))


def bins_of(p: Values, bins: int) -> Int[np.ndarray, " n"]:
    """Return the index of each probability's bin of equal width."""
    return np.minimum((p * bins).astype(int), bins - 1)


def _count_at_least(values: Values, cuts: Float64[np.ndarray, " m"]) -> tuple[Integer[np.ndarray, " m"], int]:
    """Count the values that are at least each cut.

    Returns:
      The counts, and the number of values.
    """
    return len(values) - np.searchsorted(np.sort(values), cuts), len(values)


def _z(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}")
    from scipy.special import ndtri  # not at the top: it is slow to import

    return float(ndtri((1 + confidence) / 2))


def require_both_classes(positive: Mask) -> None:
    """Raise Undefined unless both classes are present."""
    if positive.all() or not positive.any():
        raise Undefined("only one class present")


def checked_cases(labels: ArrayLike, values: ArrayLike, name: str) -> tuple[Mask, Values]:
    """Return which cases are positive, and their values, once they are checked."""
    labels, values = np.asarray(labels), _finite(values, name)
    if labels.ndim != 1 or labels.shape != values.shape:
        raise ValueError(f"labels and {name} must have the same shape (n,), got {labels.shape} and {values.shape}")
    if len(labels) == 0:
        raise ValueError("no cases: metrics need at least one")
    if wrong := int(np.sum((labels != 0) & (labels != 1))):
        raise ValueError(f"labels must be 0 or 1: {wrong} of {len(labels)} are not")
    return labels == 1, values


def _finite(values: ArrayLike, name: str) -> Float64[np.ndarray, "..."]:
    values = np.asarray(values, dtype=np.float64)
    if bad := int(np.sum(~np.isfinite(values))):
        raise ValueError(f"{name} must be finite: {bad} of {values.size} are not")
    return values


def _in_unit(p: Values) -> Values:
    if p.min() < 0 or p.max() > 1:
        raise ValueError(f"probabilities must be in [0, 1], got {p.min()} to {p.max()}")
    return p
