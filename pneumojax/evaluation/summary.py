"""Every metric of a split in one dict, with 95 % intervals: a pure numpy function in float64, no I/O."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float64
from numpy.typing import ArrayLike

from pneumojax.evaluation import metrics


def every_metric(
    labels: ArrayLike,
    logits: ArrayLike,
    threshold: float,
    temperature: float = 1.0,
    offset: float = 0.0,
    threshold_sens95: float | None = None,
    seed: int = 0,
    resamples: int = 1000,
) -> dict[str, Any]:
    """Compute every metric of one split.

    Metrics at `threshold` have no suffix; those at 0.5 and at `threshold_sens95` end in `_at_0.5` and `_at_sens95`.
    `bce`, `auc` and `average_precision` use the raw logits, `brier_uncalibrated` and `ece_uncalibrated` their sigmoid,
    and all others the probabilities with `temperature` and `offset`. The order of the cases changes no bit.

    Each scalar metric has a 95 % interval [low, high], `<metric>_ci`: DeLong's for AUC, Wilson's for accuracy,
    sensitivity and specificity, the square-and-add combination of the last two for balanced accuracy (Newcombe 1998),
    and percentiles of a bootstrap stratified by class for the others. Binned calibration error is biased upward, and
    resampling adds that bias again, so the bootstrap's values of `ece` are shifted to have `ece` as their mean.

    Returns:
      A dict that is valid JSON without NaN. A metric that is undefined is None, as is its interval, and has
      `<metric>_reason`; if only the interval is undefined, it has `<metric>_ci_reason`.

    Raises:
      ValueError: also if a threshold or the offset is not finite, temperature <= 0, or resamples < 1.
    """
    positive, logits = metrics.checked_cases(labels, logits, "logits")
    finite = all(math.isfinite(value) for value in (threshold, offset, threshold_sens95 or 0.0))
    if not finite or resamples < 1:
        values = f"{threshold}, {threshold_sens95}, {offset} and {resamples}"
        raise ValueError(f"thresholds and offset must be finite and resamples >= 1, got {values}")
    order = np.lexsort((positive, -logits))
    positive, logits = positive[order], logits[order]
    p, raw = metrics.probabilities(logits, temperature, offset), metrics.probabilities(logits)
    predicted = {"": p >= threshold, "_at_0.5": p >= 0.5}
    if threshold_sens95 is not None:
        predicted["_at_sens95"] = p >= threshold_sens95
    samples = _bootstrap(positive, logits, p, seed, resamples)
    bias = samples["ece"].mean() - metrics.expected_calibration_error(positive, p)
    samples["ece"] = np.maximum(samples["ece"] - bias, 0)
    share = float(positive.mean())
    out = {
        "n": len(positive),
        "positives": int(positive.sum()),
        "threshold": float(threshold),
        "threshold_sens95": None if threshold_sens95 is None else float(threshold_sens95),
        "temperature": float(temperature),
        "offset": float(offset),
        "majority_accuracy": max(share, 1 - share),
    }
    out |= _entry("auc", lambda: metrics.auc(positive, logits), lambda: metrics.auc_interval(positive, logits))
    for name, measure, values in (
        ("bce", metrics.bce, logits),
        ("average_precision", metrics.average_precision, logits),
        ("brier", metrics.brier, p),
        ("ece", metrics.expected_calibration_error, p),
    ):
        out |= _entry(name, lambda m=measure, v=values: m(positive, v), lambda name=name: _percentiles(samples[name]))
    out |= {
        "brier_uncalibrated": metrics.brier(positive, raw),
        "ece_uncalibrated": metrics.expected_calibration_error(positive, raw),
    }
    for suffix, at_threshold in predicted.items():
        out |= _operating_point(positive, at_threshold, suffix)
    return out


def _operating_point(positive: metrics.Mask, predicted: metrics.Mask, suffix: str) -> dict[str, Any]:
    """Compute confusion counts and the rates made of them, with intervals."""
    tp, fp = int(np.sum(predicted & positive)), int(np.sum(predicted & ~positive))
    fn, tn = int(np.sum(~predicted & positive)), int(np.sum(~predicted & ~positive))

    def balanced_accuracy() -> float:
        metrics.require_both_classes(positive)
        return (tp / (tp + fn) + tn / (tn + fp)) / 2

    def balanced_interval() -> tuple[float, float]:
        rates = np.array([tp / (tp + fn), tn / (tn + fp)])
        low, high = np.transpose([metrics.wilson(tp, tp + fn), metrics.wilson(tn, tn + fp)])
        down, up = np.linalg.norm(rates - low) / 2, np.linalg.norm(high - rates) / 2
        return float(rates.mean() - down), float(rates.mean() + up)

    out = {"confusion" + suffix: {"tp": tp, "fp": fp, "fn": fn, "tn": tn}}
    out |= _entry("balanced_accuracy" + suffix, balanced_accuracy, balanced_interval)
    for name, successes, trials, reason in (
        ("accuracy", tp + tn, len(positive), "no cases"),
        ("sensitivity", tp, tp + fn, "no positives"),
        ("specificity", tn, tn + fp, "no negatives"),
    ):
        out |= _entry(
            name + suffix,
            lambda k=successes, n=trials, why=reason: _proportion(k, n, why),
            lambda k=successes, n=trials: metrics.wilson(k, n),
        )
    return out


def _entry(name: str, value: Callable[[], float], interval: Callable[[], tuple[float, float]]) -> dict[str, Any]:
    """Return the fields of one metric."""
    try:
        out = {name: value()}
    except metrics.Undefined as reason:
        return {name: None, f"{name}_reason": str(reason), f"{name}_ci": None}
    try:
        return out | {f"{name}_ci": list(interval())}
    except metrics.Undefined as reason:
        return out | {f"{name}_ci": None, f"{name}_ci_reason": str(reason)}


def _bootstrap(
    positive: metrics.Mask, logits: metrics.Values, p: metrics.Values, seed: int, resamples: int
) -> dict[str, Float64[np.ndarray, " resamples"]]:
    """Compute metrics, by name, over resamples within each class; logits are in descending order.

    A resample is held as a count per case, so that sorting, binning and losses are computed only once.
    """
    rng = np.random.default_rng(seed)
    n, strata = len(positive), [np.flatnonzero(positive), np.flatnonzero(~positive)]
    linear = np.column_stack([metrics.losses(positive, logits), (p - positive) ** 2])
    bin_of, excess = metrics.bins_of(p, metrics.ECE_BINS), p - positive
    last_of_tie = np.flatnonzero(np.append(np.diff(logits) != 0, True))
    sums, ece, precision = np.empty((resamples, 2)), np.empty(resamples), np.empty(resamples)
    counts = np.zeros(n)
    for i in range(resamples):
        for members in strata:
            if m := len(members):
                counts[members] = np.bincount(rng.integers(m, size=m), minlength=m)
        sums[i] = counts @ linear / n
        ece[i] = np.abs(np.bincount(bin_of, counts * excess, metrics.ECE_BINS)).sum() / n
        hits = np.cumsum(counts * positive)[last_of_tie]
        predicted = np.maximum(np.cumsum(counts)[last_of_tie], 1)
        precision[i] = np.sum(np.diff(hits, prepend=0) * hits / predicted) / max(1, len(strata[0]))
    return {"bce": sums[:, 0], "brier": sums[:, 1], "ece": ece, "average_precision": precision}


def _percentiles(samples: Float64[np.ndarray, " resamples"]) -> tuple[float, float]:
    if np.ptp(samples) <= 1e-12 * np.abs(samples).max():
        raise metrics.Undefined("every resample gives the same value")
    low, high = np.quantile(samples, [0.025, 0.975])
    return float(low), float(high)


def _proportion(successes: int, trials: int, reason: str) -> float:
    """Return successes / trials; raise Undefined with the reason if there are no trials."""
    if trials == 0:
        raise metrics.Undefined(reason)
    return successes / trials
