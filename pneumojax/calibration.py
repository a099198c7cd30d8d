"""From logits of val to what a trained model's logits mean: pure numpy functions, float64, no I/O.

Shapes, ranges and errors are those of `metrics`.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, logit

from pneumojax import metrics

SENSITIVITY = 0.95  # of the second operating point
_RANGE = (1 / 64, 64.0)  # of the temperature


class Calibration(NamedTuple):
    """What is stored with a model, all of it fitted on val.

    Attributes:
      temperature: P(pneumonia) = sigmoid(logit / temperature + offset); above 0.
      threshold: of best balanced accuracy, in [0, 1]; on the scale of the probability, as the other one.
      threshold_sens95: the highest at which 95 % of pneumonia are found.
      prevalence: the share of pneumonia in val, which the probabilities hold for; in (0, 1).
      offset: what a loss that weighs the classes took away, and log-odds that other prevalences add.
    """

    temperature: float
    threshold: float
    threshold_sens95: float
    prevalence: float
    offset: float


def fit(labels: ArrayLike, logits: ArrayLike) -> Calibration:
    """Fits scaling and operating points. Raises `metrics.Undefined` where only one class is present."""
    temperature, offset = fit_scaling(labels, logits)
    p = metrics.probabilities(logits, temperature, offset)
    return Calibration(
        temperature=temperature,
        threshold=metrics.best_threshold(labels, p),
        threshold_sens95=threshold_of_sensitivity(labels, p, SENSITIVITY),
        prevalence=float(np.mean(np.asarray(labels) == 1)),
        offset=offset,
    )


def fit_scaling(labels: ArrayLike, logits: ArrayLike) -> tuple[float, float]:
    """Temperature, within [1/64, 64], and offset of least cross-entropy.

    Platt, "Probabilistic Outputs for Support Vector Machines", 1999; without the offset it is temperature scaling
    (Guo et al., "On Calibration of Modern Neural Networks", 2017), which cannot take back that a class-balanced loss
    answers for a prevalence of one half. By Platt's rule the labels are drawn in a little, to (n + 1) / (n + 2) for a
    class of n cases: where logits part the classes without error, the temperature would be zero otherwise.
    """
    from scipy.optimize import minimize  # as late as `metrics` imports what it takes

    metrics.bce(labels, logits)  # raises for what are no cases
    labels, logits = np.asarray(labels) == 1, np.asarray(logits, np.float64)
    n1, n0 = labels.sum(), (~labels).sum()
    targets = np.where(labels, (n1 + 1) / (n1 + 2), 1 / (n0 + 2))

    def loss(parameters):
        log_temperature, offset = parameters
        scaled = logits / np.exp(log_temperature)
        odds = scaled + offset
        excess = expit(odds) - targets
        return np.mean(np.logaddexp(0, odds) - targets * odds), np.array([-np.mean(excess * scaled), np.mean(excess)])

    bounds = [np.log(_RANGE), (None, None)]
    found = minimize(loss, np.zeros(2), jac=True, bounds=bounds, options={"ftol": 0, "gtol": 1e-10, "maxiter": 1000})
    return float(np.exp(found.x[0])), float(found.x[1])


def threshold_of_sensitivity(labels: ArrayLike, probabilities: ArrayLike, sensitivity: float) -> float:
    """The highest threshold at which at least `sensitivity`, in (0, 1], of the pneumonia cases are called so.

    It lies midway to the next lower probability of any case, so that it sits on none.
    Raises `metrics.Undefined` where there is no such case, ValueError for a sensitivity out of range.
    """
    if not 0 < sensitivity <= 1:
        raise ValueError(f"sensitivity must lie above 0 and at most at 1, got {sensitivity}")
    metrics.brier(labels, probabilities)  # raises for what are no cases
    p = np.asarray(probabilities, np.float64)
    positives = np.sort(p[np.asarray(labels) == 1])
    if not len(positives):
        raise metrics.Undefined("no positives")
    lowest = positives[int(np.floor((1 - sensitivity) * len(positives) + 1e-9))]
    if lowest == p.min():
        return float(lowest / 2)
    lower = p[p < lowest].max()
    # Half the sum of two neighbouring floats can round down onto the lower one.
    return float(max((lowest + lower) / 2, np.nextafter(lower, 2)))


def at_prevalence(calibration: Calibration, prevalence: float) -> Calibration:
    """The same decisions, with probabilities for a population of which a share `prevalence`, in (0, 1), is ill.

    Bayes' rule, where the two classes look the same in both populations (Saerens, Latinne and Decaestecker, "Adjusting
    the Outputs of a Classifier to New a Priori Probabilities", 2002). Raises ValueError for a prevalence out of range.
    """
    if not 0 < prevalence < 1:
        raise ValueError(f"prevalence must lie between 0 and 1, got {prevalence}")
    more = float(logit(prevalence) - logit(calibration.prevalence))

    def moved(threshold):
        return float(expit(logit(threshold) + more))

    return calibration._replace(
        threshold=moved(calibration.threshold),
        threshold_sens95=moved(calibration.threshold_sens95),
        prevalence=prevalence,
        offset=calibration.offset + more,
    )
