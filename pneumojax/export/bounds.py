"""Bounds in float32 that decide exactly as those in float64 do."""

import numpy as np

from pneumojax.evaluation import metrics
from pneumojax.evaluation.calibration import Calibration

_LARGEST = np.finfo(np.float32).max


def lowest_logit(calibration: Calibration, threshold: float) -> np.float32:
    """Return the lowest logit whose probability is at least the threshold; infinity if there is none.

    A probability in float32 could fall on the other side of the threshold than the same one in float64. So the graph
    compares logits: on equal logits, it decides as `predictions` does.
    """

    def reaches(logit: np.float32) -> bool:
        p = metrics.probabilities(logit, calibration.temperature, calibration.offset)
        return bool(p >= threshold)

    below, above = _order(-_LARGEST), _order(_LARGEST)
    if reaches(_float(below)):
        return np.float32(-np.inf)
    if not reaches(_float(above)):
        return np.float32(np.inf)
    while above - below > 1:
        middle = (below + above) // 2
        below, above = (below, middle) if reaches(_float(middle)) else (middle, above)
    return _float(above)


def _order(value: np.floating) -> int:
    """Return a float32's place among all float32 in ascending order; that of zero is 0."""
    bits = int(np.float32(abs(value)).view(np.int32))
    return -bits if value < 0 else bits


def _float(order: int) -> np.float32:
    magnitude = np.int32(abs(order)).view(np.float32)
    return -magnitude if order < 0 else magnitude


def largest_within(limit: float) -> np.float32:
    """Return the largest float32 that is not above the limit: the same float32 scores exceed both."""
    rounded = np.float32(limit)
    return np.nextafter(rounded, np.float32(-np.inf)) if float(rounded) > limit else rounded
