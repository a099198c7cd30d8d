"""What a site's films are like in one month: how far they lie from training, and what has moved since another month."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float32

from pneumojax.evaluation import film_statistics, metrics
from pneumojax.evaluation.guard import has_guard
from pneumojax.evaluation.neighbours import Index

MOVED_P = 0.001  # a difference that chance explains less often than this has moved
_KEPT = 201  # values of a distribution that a site file keeps
_NAMED = slice(film_statistics.COUNT - len(film_statistics.NAMES), None)

State = dict[str, Any]  # fit for JSON


class Change(NamedTuple):
    """What a measure was and is, how often chance alone makes such a difference, and whether it has moved."""

    name: str
    before: str
    after: str
    p: float

    @property
    def moved(self) -> bool:
        """Whether chance hardly explains the difference."""
        return self.p < MOVED_P


def state(
    index: Index,
    logits: Float[np.ndarray, " n"],
    ood_scores: Float[np.ndarray, " n"],
    unlike: int,
    statistics: Float32[np.ndarray, "n statistics"],
) -> State:
    """Describe films, by what the model says of them and by their shallow statistics.

    Args:
      index: of the model's training images; the first network's where there are several, with the OOD scores of all.
      logits, ood_scores: of the films.
      unlike: how many films are flagged as unlike the training images.
      statistics: of the films, see `film_statistics`.
    """
    count = len(logits)
    found: State = {
        "films": count,
        "unlike_training": {"films": unlike, "share": unlike / count, "ci": list(metrics.wilson(unlike, count))},
        "logits": _sketch(logits),
        "ood_scores": _sketch(ood_scores),
        "statistics": _named(statistics, index),
    }
    if len(index.val_scores):
        labels = np.repeat([1, 0], [count, len(index.val_scores)])
        found["farther_than_val"] = _auc(labels, np.concatenate([ood_scores, index.val_scores]))
    return found


def _auc(labels: np.ndarray, scores: np.ndarray) -> dict[str, Any]:
    """Return how often a film of the site has a higher OOD score than one of val, with its interval."""
    try:
        interval = list(metrics.auc_interval(labels, scores))
    except metrics.Undefined:
        interval = None
    return {"share": metrics.auc(labels, scores), "ci": interval}


def _sketch(values: Float[np.ndarray, " n"]) -> list[float]:
    """Return the values in ascending order, or as many of their quantiles as are kept."""
    ascending = np.sort(np.asarray(values, np.float64))
    if len(ascending) > _KEPT:
        ascending = np.quantile(ascending, np.linspace(0, 1, _KEPT))
    return [float(f"{value:.6g}") for value in ascending]


def _named(statistics: Float32[np.ndarray, "n statistics"], index: Index) -> dict[str, dict[str, float | None]]:
    """Return mean and standard deviation of the statistics that have names, and those of training where known."""
    found = statistics[:, _NAMED].astype(np.float64)
    means, deviations = found.mean(0), found.std(0, ddof=1) if len(found) > 1 else np.zeros(found.shape[1])
    there: list[tuple[float | None, float | None]] = [(None, None)] * len(film_statistics.NAMES)
    if has_guard(index):
        axes = index.guard_axes.astype(np.float64)
        variances = np.square(np.linalg.inv(axes)).sum(0)
        there = list(zip(index.guard_center[_NAMED].tolist(), np.sqrt(variances)[_NAMED].tolist(), strict=True))
    return {
        name: {"mean": float(mean), "sd": float(sd), "training_mean": of_mean, "training_sd": of_sd}
        for name, mean, sd, (of_mean, of_sd) in zip(film_statistics.NAMES, means, deviations, there, strict=True)
    }


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    """Compare two states of a site, the smallest probability by chance first.

    The scores are compared by Kolmogorov and Smirnov's test, shares by a test of two proportions, and statistics by
    Welch's, with the normal distribution.
    """
    counts = before["films"], after["films"]
    found = [
        Change(name, *(f"median {np.median(side[key]):.2f}" for side in (before, after)),
               p=_smirnov(before[key], after[key], counts))
        for name, key in (("logits", "logits"), ("out-of-distribution scores", "ood_scores"))
    ]  # fmt: skip
    shares = [side["unlike_training"]["films"] for side in (before, after)]
    texts = [f"{k / n:.1%}" for k, n in zip(shares, counts, strict=True)]
    found.append(Change("films unlike training", *texts, p=_proportions(shares, counts)))
    for name in before["statistics"].keys() & after["statistics"].keys():
        pair = [side["statistics"][name] for side in (before, after)]
        texts = [f"{one['mean']:.3f}" for one in pair]
        error = np.sqrt(sum(one["sd"] ** 2 / n for one, n in zip(pair, counts, strict=True)))
        away = abs(pair[0]["mean"] - pair[1]["mean"])
        found.append(Change(name, *texts, p=_two_sided(away / error if error > 0 else np.inf * bool(away))))
    return sorted(found, key=lambda change: (change.p, change.name))


def _two_sided(z: float) -> float:
    from scipy.special import ndtr  # not at the top: it is slow to import

    return 1.0 if np.isnan(z) else float(2 * ndtr(-z))


def _smirnov(first: list[float], second: list[float], counts: tuple[int, int]) -> float:
    from scipy.special import kolmogorov  # not at the top: it is slow to import

    values = np.concatenate([first, second])
    shares = [np.searchsorted(side, values, "right") / len(side) for side in (first, second)]
    distance = np.abs(shares[0] - shares[1]).max()
    effective = counts[0] * counts[1] / sum(counts)
    root = np.sqrt(effective)
    return float(kolmogorov((root + 0.12 + 0.11 / root) * distance))


def _proportions(successes: list[int], counts: tuple[int, int]) -> float:
    pooled = sum(successes) / sum(counts)
    error = np.sqrt(pooled * (1 - pooled) * (1 / counts[0] + 1 / counts[1]))
    away = abs(successes[0] / counts[0] - successes[1] / counts[1])
    return 1.0 if error == 0 else _two_sided(away / error)


def checked(content: Any) -> State:
    """Return what a file has as a state.

    Raises:
      KeyError, TypeError, ValueError: it has anything else.
    """
    count, unlike = content["films"], content["unlike_training"]["films"]
    if not (type(count) is int and type(unlike) is int and 0 <= unlike <= count and count):
        raise ValueError("its counts of films are none")
    numbers = [*content["logits"], *content["ood_scores"]]
    numbers += [one[key] for one in content["statistics"].values() for key in ("mean", "sd")]
    if not all(type(number) in (int, float) and np.isfinite(number) for number in numbers):
        raise ValueError("a measure is no number")
    if not (content["logits"] and content["ood_scores"]):
        raise ValueError("a distribution is empty")
    return content
