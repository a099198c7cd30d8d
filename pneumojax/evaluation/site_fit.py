"""Fit on some tens of labelled films of a site what a model's logits mean there: pure numpy functions in float64.

`labels` and `logits` have shape (n,), with the ranges and errors that `metrics` describes.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64
from numpy.typing import ArrayLike

from pneumojax.evaluation import metrics
from pneumojax.evaluation.calibration import SENSITIVITY, Calibration, threshold_of_sensitivity

MIN_OF_CLASS = 10  # fewer films of either class are not enough, whatever the intervals say
MOST_LOST = 0.02  # of balanced accuracy by an unlucky choice of the threshold, where there are enough films
MOST_MOVED = 0.1  # of the mean probability by an unlucky choice of films, where there are enough
RESAMPLES = 500
_FOLDS = 10
_LOG_TEMPERATURE_SD = 1.0  # of the prior about the model's own temperature: a factor of 2.7 either way
_OFFSET_SD = 3.0  # of the prior about the model's own offset, in log-odds
_STEPS = 50  # of Newton's method at most; it takes about six

Interval = tuple[float, float]


class Fit(NamedTuple):
    """What was fitted on a site's labelled films, and how sure it is.

    Attributes:
      calibration: of the site. Its thresholds are the probability at which a film is as typical of either class, and
        the sensitive one, which is never higher.
      intervals: 95 % intervals, by fields of `Calibration`, from resampled films.
      lost: balanced accuracy that 95 % of the resampled thresholds lose at most against the best one.
      moved: how far 95 % of the resampled fits move the probabilities at most, on average over the films.
      measured: metrics on films that each fit did not see, in ten folds: `balanced_accuracy`, `sensitivity`,
        `specificity`, `ece`, and the intervals of the rates as `<metric>_ci`.
      normal, pneumonia: how many films of each class there are.
    """

    calibration: Calibration
    intervals: dict[str, Interval]
    lost: float
    moved: float
    measured: dict[str, float | list[float]]
    normal: int
    pneumonia: int

    @property
    def enough(self) -> bool:
        """Whether there were enough films."""
        return not self.lacking

    @property
    def lacking(self) -> list[str]:
        """What there was too little of, in words; empty if there were enough films."""
        found = []
        for name, count in (("normal", self.normal), ("pneumonia", self.pneumonia)):
            if count < MIN_OF_CLASS:
                found.append(f"{count} of {name}, where {MIN_OF_CLASS} are needed")
        if self.lost > MOST_LOST:
            found.append(f"the threshold may lose {self.lost:.3f} of balanced accuracy, where {MOST_LOST} is allowed")
        if self.moved > MOST_MOVED:
            found.append(f"probabilities may be {self.moved:.2f} away, where {MOST_MOVED} is allowed")
        return found

    @property
    def films_needed(self) -> int:
        """About how many films, of this mixture of classes, would be enough."""
        count = self.normal + self.pneumonia
        fewest = max(min(self.normal, self.pneumonia), 1)
        # What is lost falls as 1/n, and how far probabilities move as the root of that.
        factors = (MIN_OF_CLASS / fewest, self.lost / MOST_LOST, (self.moved / MOST_MOVED) ** 2)
        return int(np.ceil(count * max(1.0, *factors)))


def fit(labels: ArrayLike, logits: ArrayLike, model: Calibration, seed: int = 0, resamples: int = RESAMPLES) -> Fit:
    """Fit temperature, offset and thresholds, starting from those of the model.

    Raises:
      metrics.Undefined: only one class is present.
    """
    positive, scores = metrics.checked_cases(labels, logits, "logits")
    metrics.require_both_classes(positive)
    calibration = calibrated(positive, scores, model)
    drawn = [calibrated(positive[i], scores[i], model) for i in _resampled(positive, seed, resamples)]
    intervals = {
        name: _interval([getattr(each, name) for each in drawn])
        for name in ("temperature", "offset", "threshold", "threshold_sens95", "prevalence")
    }
    p = metrics.probabilities(scores, calibration.temperature, calibration.offset)
    moved = [np.abs(metrics.fast_sigmoid(scores / each.temperature + each.offset) - p).mean() for each in drawn]
    lost = _lost(scores, p, np.array([_lowest_logit(each) for each in drawn]))
    return Fit(
        calibration,
        intervals,
        lost=float(np.quantile(lost, 0.95)),
        moved=float(np.quantile(moved, 0.95)),
        measured=_measured(positive, scores, model, seed),
        normal=int((~positive).sum()),
        pneumonia=int(positive.sum()),
    )


def calibrated(labels: ArrayLike, logits: ArrayLike, model: Calibration) -> Calibration:
    """Return the calibration that these films make likeliest, given the model's own.

    It is Platt scaling with a prior: with few films, the temperature stays near the model's. The threshold is the
    films' share of pneumonia: where probabilities are right, there a film is as typical of either class, so balanced
    accuracy is highest. That varies less from sample to sample than the threshold that happens to be best on the films.

    Raises:
      metrics.Undefined: only one class is present.
    """
    positive, scores = metrics.checked_cases(labels, logits, "logits")
    metrics.require_both_classes(positive)
    prevalence = float(positive.mean())
    shift = float(metrics.log_odds(np.array(prevalence)) - metrics.log_odds(np.array(model.prevalence)))
    temperature, offset = _scaling(positive, scores, model.temperature, model.offset + shift)
    p = metrics.probabilities(scores, temperature, offset)
    sensitive = min(prevalence, threshold_of_sensitivity(positive, p, SENSITIVITY))
    return Calibration(temperature, prevalence, sensitive, prevalence, offset)


def _scaling(
    positive: Bool[np.ndarray, " n"], logits: Float64[np.ndarray, " n"], temperature: float, offset: float
) -> tuple[float, float]:
    """Return temperature and offset at the highest posterior: Newton's method on a slope and an offset.

    The prior of the slope, 1 / temperature, is normal about the given one, with a standard deviation of
    `_LOG_TEMPERATURE_SD` of it; the slope stays above a hundredth of the given one.
    """
    first = np.array([1 / temperature, offset])
    precision = np.array([(_LOG_TEMPERATURE_SD / temperature) ** -2, _OFFSET_SD**-2])
    design = np.column_stack([logits, np.ones_like(logits)])
    found = first.copy()

    def loss(at: Float64[np.ndarray, "2"]) -> float:
        odds = design @ at
        return float(np.sum(np.logaddexp(0, odds) - positive * odds) + np.sum(precision * (at - first) ** 2) / 2)

    for _ in range(_STEPS):
        p = metrics.fast_sigmoid(design @ found)
        gradient = design.T @ (p - positive) + precision * (found - first)
        curvature = (design * (p * (1 - p))[:, None]).T @ design + np.diag(precision)
        step = np.linalg.solve(curvature, gradient)
        size = 1.0
        while size > 1e-6 and loss(found - size * step) > loss(found) + 1e-12:
            size /= 2
        found = found - size * step
        if np.abs(size * step).max() < 1e-9:
            break
    return 1 / max(float(found[0]), 0.01 / temperature), float(found[1])


def _resampled(positive: Bool[np.ndarray, " n"], seed: int, resamples: int) -> list[np.ndarray]:
    """Draw films with replacement, until both classes are among them."""
    rng = np.random.default_rng(seed)
    found = []
    while len(found) < resamples:
        indices = rng.integers(len(positive), size=len(positive))
        if 0 < positive[indices].sum() < len(positive):
            found.append(indices)
    return found


def _interval(values: ArrayLike) -> Interval:
    low, high = np.quantile(np.asarray(values, np.float64), [0.025, 0.975])
    return float(low), float(high)


def _lowest_logit(calibration: Calibration) -> float:
    """Return the logit at the threshold."""
    odds = float(metrics.log_odds(np.array(calibration.threshold)))
    return (odds - calibration.offset) * calibration.temperature


def _lost(
    logits: Float64[np.ndarray, " n"], p: Float64[np.ndarray, " n"], cuts: Float64[np.ndarray, " m"]
) -> Float64[np.ndarray, " m"]:
    """Return how much balanced accuracy each cut of the logits loses against the best one, where `p` are right."""
    order = np.argsort(logits)
    sick = np.append(0, np.cumsum(p[order])) / p.sum()
    well = np.append(0, np.cumsum(1 - p[order])) / (1 - p).sum()
    balanced = (1 - sick + well) / 2  # where the first k films are predicted as normal
    return balanced.max() - balanced[np.searchsorted(logits[order], cuts)]


def _measured(
    positive: Bool[np.ndarray, " n"], logits: Float64[np.ndarray, " n"], model: Calibration, seed: int
) -> dict[str, float | list[float]]:
    """Measure fits on films that they did not see."""
    rng = np.random.default_rng(seed)
    fold = np.empty(len(positive), int)
    for members in (np.flatnonzero(positive), np.flatnonzero(~positive)):
        fold[rng.permutation(members)] = np.arange(len(members)) % _FOLDS
    p, reached = np.empty(len(positive)), np.empty(len(positive), bool)
    for number in range(_FOLDS):
        held = fold == number
        if held.any():
            rest = positive[~held]
            # A class of one film lies in one fold; that fold is then scored by the fit of all films.
            kept = ~held if rest.any() and not rest.all() else np.ones_like(held)
            found = calibrated(positive[kept], logits[kept], model)
            p[held] = metrics.probabilities(logits[held], found.temperature, found.offset)
            reached[held] = p[held] >= found.threshold
    found_sick, found_well = int((reached & positive).sum()), int((~reached & ~positive).sum())
    sick, well = int(positive.sum()), int((~positive).sum())
    return {
        "balanced_accuracy": (found_sick / sick + found_well / well) / 2,
        "sensitivity": found_sick / sick,
        "sensitivity_ci": list(metrics.wilson(found_sick, sick)),
        "specificity": found_well / well,
        "specificity_ci": list(metrics.wilson(found_well, well)),
        "ece": metrics.expected_calibration_error(positive, p),
    }
