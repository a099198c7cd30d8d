"""The share of pneumonia among films without labels, by two methods, and whether what both assume holds there.

Both assume label shift: films of each class look as on val, and only the share of the classes differs. A film that is
unlike the training images, or a site whose scores no mixture of val's two classes explains, refutes that.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float64
from numpy.typing import ArrayLike

from pneumojax.evaluation import metrics

MIN_FILMS = 20  # of fewer, an estimate says nothing
MIN_SEPARATION = 0.2  # of sensitivity + specificity - 1 on val, whose inverse multiplies every error
LEVEL = 0.05  # of the test that a mixture of val's classes explains the scores
RESAMPLES = 200
_ANY = 1e6  # beyond every share: where a resample allows no estimate
_TOLERANCE, _ROUNDS = 1e-8, 1000


class Estimate(NamedTuple):
    """A share of pneumonia with its 95 % interval, from resampled films; all in [0, 1]."""

    share: float
    low: float
    high: float


class Condition(NamedTuple):
    """A condition of an estimate: whether it holds, and what was measured, in words."""

    name: str
    holds: bool
    measured: str


class Prevalence(NamedTuple):
    """What films without labels say about the share of pneumonia.

    Attributes:
      em: by expectation and maximisation.
      shift: by black-box shift estimation; None where nobody knows the scores of val.
      conditions: what the estimates need.
    """

    em: Estimate
    shift: Estimate | None
    conditions: tuple[Condition, ...]

    @property
    def trusted(self) -> bool:
        """Whether every condition holds."""
        return all(condition.holds for condition in self.conditions)


def em(probabilities: ArrayLike, prevalence: float) -> float:
    """Estimate the share of pneumonia from calibrated probabilities that hold at a known prevalence, in (0, 1).

    Saerens, Latinne and Decaestecker, "Adjusting the Outputs of a Classifier to New a Priori Probabilities", 2002.

    Raises:
      ValueError: there is no film, or a number is out of range.
    """
    p = np.asarray(probabilities, np.float64)
    if not (p.ndim == 1 and len(p) and np.all((p >= 0) & (p <= 1)) and 0 < prevalence < 1):
        raise ValueError("probabilities must be a list of numbers in [0, 1], and the prevalence between 0 and 1")
    share = prevalence
    for _ in range(_ROUNDS):
        sick, well = p * share / prevalence, (1 - p) * (1 - share) / (1 - prevalence)
        following = float(np.mean(sick / np.maximum(sick + well, 1e-300)))
        if abs(following - share) < _TOLERANCE:
            return following
        share = following
    return share


def black_box_shift(val_labels: ArrayLike, val_predicted: ArrayLike, predicted: ArrayLike) -> float:
    """Estimate the share of pneumonia from decisions, by val's sensitivity and specificity; it may leave [0, 1].

    Lipton, Wang and Smola, "Detecting and Correcting for Label Shift with Black Box Predictors", 2018, for two classes:
    the equation has one unknown.

    Raises:
      metrics.Undefined: val has one class, or the decisions do not depend on it.
    """
    positive, decided = np.asarray(val_labels) == 1, np.asarray(val_predicted, bool)
    metrics.require_both_classes(positive)
    sensitivity, false_alarms = decided[positive].mean(), decided[~positive].mean()
    if sensitivity == false_alarms:
        raise metrics.Undefined("the decisions on val do not depend on the class")
    return float((np.mean(np.asarray(predicted, bool)) - false_alarms) / (sensitivity - false_alarms))


def estimate(
    logits: ArrayLike,
    probabilities_of: tuple[float, float, float],
    val: tuple[ArrayLike, ArrayLike] | None,
    threshold: float,
    unlike: Condition | None = None,
    seed: int = 0,
) -> Prevalence:
    """Estimate the share of pneumonia among films.

    Args:
      logits: of the films, (n,).
      probabilities_of: temperature, offset and prevalence of the model's probabilities.
      val: labels and logits of val, (m,) each; None where they are not known.
      threshold: of the decisions, on the scale of probabilities.
      unlike: whether the films are like the training images, where that was measured.
      seed: of the resampling.
    """
    temperature, offset, prevalence = probabilities_of
    scores = np.asarray(logits, np.float64)
    p = metrics.probabilities(scores, temperature, offset)
    rng = np.random.default_rng(seed)
    drawn = [em(p[rng.integers(len(p), size=len(p))], prevalence) for _ in range(RESAMPLES)]
    by_em = _estimate(em(p, prevalence), drawn)
    conditions = [_many(len(p))]
    conditions += [unlike] if unlike else []
    if val is None:
        conditions.append(Condition("val is known", False, "the model came without its val scores"))
        return Prevalence(by_em, None, tuple(conditions))
    labels, val_scores = np.asarray(val[0]) == 1, np.asarray(val[1], np.float64)
    decided = metrics.probabilities(val_scores, temperature, offset) >= threshold
    conditions.append(_separates(labels, decided))
    try:
        by_shift = _shift(labels, decided, p >= threshold, rng)
    except metrics.Undefined:
        return Prevalence(by_em, None, tuple(conditions))
    conditions += [
        _in_range(by_shift),
        _one_mixture(scores, labels, val_scores, (temperature, offset, prevalence), rng),
        _agree(by_em, by_shift),
    ]
    clipped = Estimate(*(min(max(value, 0.0), 1.0) for value in by_shift))
    return Prevalence(by_em, clipped, tuple(conditions))


def _estimate(share: float, drawn: ArrayLike) -> Estimate:
    low, high = np.quantile(np.asarray(drawn, np.float64), [0.025, 0.975])
    return Estimate(share, float(min(low, share)), float(max(high, share)))


def _shift(
    labels: Bool[np.ndarray, " m"], decided: Bool[np.ndarray, " m"], films: Bool[np.ndarray, " n"],
    rng: np.random.Generator,
) -> Estimate:  # fmt: skip
    """Estimate by black-box shift, not clipped; films and val are resampled, val within each class."""
    classes = [np.flatnonzero(labels), np.flatnonzero(~labels)]
    drawn = []
    for _ in range(RESAMPLES):
        kept = np.concatenate([rng.choice(members, len(members)) for members in classes])
        try:
            drawn.append(black_box_shift(labels[kept], decided[kept], rng.choice(films, len(films))))
        except metrics.Undefined:
            drawn += [-_ANY, _ANY]
    return _estimate(black_box_shift(labels, decided, films), drawn)


def _many(count: int) -> Condition:
    return Condition("enough films", count >= MIN_FILMS, f"{count:,}; at least {MIN_FILMS} are needed")


def _separates(labels: Bool[np.ndarray, " m"], decided: Bool[np.ndarray, " m"]) -> Condition:
    """Whether the matrix of decisions by class can be inverted without multiplying errors."""
    low = metrics.wilson(int(decided[labels].sum()), int(labels.sum()))[0]
    high = metrics.wilson(int(decided[~labels].sum()), int((~labels).sum()))[1]
    return Condition(
        "decisions tell the classes on val",
        low - high >= MIN_SEPARATION,
        f"sensitivity + specificity - 1 is at least {low - high:.2f}; {MIN_SEPARATION} is needed",
    )


def _in_range(found: Estimate) -> Condition:
    return Condition(
        "the estimate is a share",
        found.high >= 0 and found.low <= 1,
        f"black-box shift gives {found.share:.2f} ({found.low:.2f} to {found.high:.2f})",
    )


def _agree(first: Estimate, second: Estimate) -> Condition:
    return Condition(
        "both estimates agree",
        first.low <= second.high and second.low <= first.high,
        f"{first.share:.2f} by EM, {second.share:.2f} by black-box shift",
    )


def _one_mixture(
    scores: Float64[np.ndarray, " n"],
    labels: Bool[np.ndarray, " m"],
    val_scores: Float64[np.ndarray, " m"],
    probabilities_of: tuple[float, float, float],
    rng: np.random.Generator,
) -> Condition:
    """Whether a mixture of val's two classes explains the scores: a test of Kolmogorov's distance, resampled.

    Films and val are both drawn again, since val is a sample too.
    """
    temperature, offset, prevalence = probabilities_of
    sick, well = np.sort(val_scores[labels]), np.sort(val_scores[~labels])

    def distance(films: np.ndarray, sick: np.ndarray, well: np.ndarray) -> float:
        share = em(metrics.fast_sigmoid(films / temperature + offset), prevalence)
        films = np.sort(films)
        mixed = share * _below(sick, films) + (1 - share) * _below(well, films)
        places = np.arange(len(films) + 1) / len(films)
        return float(max(np.max(places[1:] - mixed), np.max(mixed - places[:-1])))

    found = distance(scores, sick, well)
    share = em(metrics.fast_sigmoid(scores / temperature + offset), prevalence)
    larger = 0
    for _ in range(RESAMPLES):
        count = rng.binomial(len(scores), share)
        drawn = np.concatenate([rng.choice(sick, count), rng.choice(well, len(scores) - count)])
        again = (np.sort(rng.choice(own, len(own))) for own in (sick, well))
        larger += distance(drawn, *again) >= found
    p = (larger + 1) / (RESAMPLES + 1)
    measured = f"distance {found:.2f} from the nearest mixture of val's classes, p = {p:.3f}"
    return Condition("films of each class score as on val", p >= LEVEL, measured)


def _below(values: Float64[np.ndarray, " m"], cuts: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    """Return the share of ascending values that are at most each cut."""
    return np.searchsorted(values, cuts, "right") / len(values)


def to_json(found: Prevalence) -> dict[str, Any]:
    """Return the estimates as a site file has them."""
    return {
        "em": found.em._asdict(),
        "black_box_shift": found.shift._asdict() if found.shift else None,
        "conditions": [condition._asdict() for condition in found.conditions],
        "trusted": found.trusted,
    }
