"""Fit on val what a model's logits mean: pure numpy functions in float64, no I/O.

`labels`, `logits` and `probabilities` have shape (n,), with the ranges and errors that `metrics` describes.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64
from numpy.typing import ArrayLike

from pneumojax.evaluation import metrics

SENSITIVITY = 0.95  # of the second operating point
_TEMPERATURES = (1 / 64, 64.0)  # the range that is searched


class Calibration(NamedTuple):
    """What is stored with a model, all of it fitted on val.

    Attributes:
      temperature: P(pneumonia) = sigmoid(logit / temperature + offset); above 0.
      threshold: probability with the best balanced accuracy, in [0, 1].
      threshold_sens95: the sensitive one: highest probability with a sensitivity of at least 95 %, but not above
        `threshold`, in [0, 1].
      prevalence: share of pneumonia in the population that the probabilities hold for, in (0, 1); val's when fitted.
      offset: log-odds that undo a class-weighted loss and account for the prevalence.
    """

    temperature: float
    threshold: float
    threshold_sens95: float
    prevalence: float
    offset: float


def fit(labels: ArrayLike, logits: ArrayLike) -> Calibration:
    """Fit scaling and operating points.

    Raises:
      metrics.Undefined: only one class is present.
    """
    temperature, offset = fit_scaling(labels, logits)
    p = metrics.probabilities(logits, temperature, offset)
    threshold = metrics.best_threshold(labels, p)
    return Calibration(
        temperature=temperature,
        threshold=threshold,
        threshold_sens95=min(threshold, threshold_of_sensitivity(labels, p, SENSITIVITY)),
        prevalence=float(np.mean(np.asarray(labels) == 1)),
        offset=offset,
    )


def stored(fields: Mapping[str, float]) -> Calibration:
    """Return the calibration that a checkpoint stored; version 0.1 could store a lower `threshold`."""
    calibration = Calibration(**fields)
    return calibration._replace(threshold_sens95=min(calibration.threshold, calibration.threshold_sens95))


def checked(fields: Mapping[str, Any]) -> Calibration:
    """Return the calibration with these fields, as a file has them.

    Raises:
      AttributeError, TypeError, ValueError: they are no calibration.
    """
    calibration = Calibration(**{name: float(value) for name, value in fields.items()})
    shares = (calibration.threshold, calibration.threshold_sens95, calibration.prevalence)
    if not np.isfinite(calibration).all() or calibration.temperature <= 0 or not all(0 <= p <= 1 for p in shares):
        raise ValueError("its calibration is out of range")
    return calibration


def fit_scaling(labels: ArrayLike, logits: ArrayLike) -> tuple[float, float]:
    """Fit the temperature, within [1/64, 64], and the offset that minimise cross-entropy.

    This is Platt scaling ("Probabilistic Outputs for Support Vector Machines", 1999). Temperature scaling alone (Guo et
    al., "On Calibration of Modern Neural Networks", 2017) has no offset, so it cannot undo a class-balanced loss, which
    trains for a prevalence of one half. Labels are smoothed by Platt's rule to (n + 1) / (n + 2) for a class of n
    cases: otherwise the temperature would be zero where the logits separate the classes perfectly.
    """
    from scipy.optimize import minimize  # not at the top: they are slow to import
    from scipy.special import expit

    metrics.bce(labels, logits)  # raises if these are no cases
    positive, scores = np.asarray(labels) == 1, np.asarray(logits, np.float64)
    n1, n0 = positive.sum(), (~positive).sum()
    targets = np.where(positive, (n1 + 1) / (n1 + 2), 1 / (n0 + 2))

    def loss(parameters: Float64[np.ndarray, "2"]) -> tuple[float, Float64[np.ndarray, "2"]]:
        log_temperature, offset = parameters
        scaled = scores / np.exp(log_temperature)
        odds = scaled + offset
        excess = expit(odds) - targets
        gradient = np.array([-np.mean(excess * scaled), np.mean(excess)])
        return float(np.mean(np.logaddexp(0, odds) - targets * odds)), gradient

    bounds = [np.log(_TEMPERATURES), (None, None)]
    options = {"ftol": 0, "gtol": 1e-10, "maxiter": 1000}
    log_temperature, offset = minimize(loss, np.zeros(2), jac=True, bounds=bounds, options=options).x
    return float(np.exp(log_temperature)), float(offset)


def threshold_of_sensitivity(labels: ArrayLike, probabilities: ArrayLike, sensitivity: float) -> float:
    """Find the highest threshold with at least this sensitivity, in (0, 1].

    It lies midway between two probabilities, so that no case is exactly on it.

    Raises:
      metrics.Undefined: there is no positive case.
      ValueError: the sensitivity is out of range.
    """
    if not 0 < sensitivity <= 1:
        raise ValueError(f"sensitivity must be above 0 and at most 1, got {sensitivity}")
    metrics.brier(labels, probabilities)  # raises if these are no cases
    p = np.asarray(probabilities, np.float64)
    positives = np.sort(p[np.asarray(labels) == 1])
    if not len(positives):
        raise metrics.Undefined("no positives")
    lowest = positives[int(np.floor((1 - sensitivity) * len(positives) + 1e-9))]
    if lowest == p.min():
        return float(lowest / 2)
    lower = p[p < lowest].max()
    # Half the sum of two neighbouring floats can round down to the lower one.
    return float(max((lowest + lower) / 2, np.nextafter(lower, 2)))


def at_prevalence(calibration: Calibration, prevalence: float) -> Calibration:
    """Restate probabilities and thresholds for a population with this prevalence, in (0, 1). Decisions stay the same.

    This is Bayes' rule for two populations in which each class looks the same (Saerens, Latinne and Decaestecker,
    "Adjusting the Outputs of a Classifier to New a Priori Probabilities", 2002).

    A prevalence of 0 stands for that of val: nothing changes.

    Raises:
      ValueError: the prevalence is out of range.
    """
    if prevalence == 0:
        return calibration
    if not 0 < prevalence < 1:
        raise ValueError(f"prevalence must be between 0 and 1, got {prevalence}")
    from scipy.special import expit, logit  # not at the top: it is slow to import

    shift = float(logit(prevalence) - logit(calibration.prevalence))

    def shifted(threshold: float) -> float:
        return float(expit(logit(threshold) + shift))

    return calibration._replace(
        threshold=shifted(calibration.threshold),
        threshold_sens95=shifted(calibration.threshold_sens95),
        prevalence=prevalence,
        offset=calibration.offset + shift,
    )
