"""What a split's labels and logits say: pure numpy functions, float64, no I/O.

Label 1 is pneumonia, probability is P(pneumonia) = sigmoid(logit / temperature + offset), and a case is called
pneumonia iff its probability >= threshold. `labels` are 0 or 1 and shape (n,), as are logits, scores and
probabilities; callers drop padded rows first. Every function raises ValueError for no cases, shapes that
differ, other labels or values that are not finite, and Undefined, its subclass, where the metric does not
exist. Intervals take the cases as independent of each other.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit, ndtri

ECE_BINS = 15


class Undefined(ValueError):
    """The metric does not exist for these cases; the message is the reason."""


def probabilities(logits: ArrayLike, temperature: float = 1.0, offset: float = 0.0) -> NDArray[np.float64]:
    """P(pneumonia) in [0, 1], of the shape of `logits`; `offset`: log-odds that are added.

    Temperature scaling: Guo et al., "On Calibration of Modern Neural Networks", 2017; with an offset, as Platt's, 1999.
    Raises ValueError for a temperature that is not a positive finite number.
    """
    if not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(f"temperature must be positive and finite, got {temperature}")
    return expit(_finite(logits, "logits") / temperature + offset)


def log_odds(probabilities: ArrayLike) -> NDArray[np.float64]:
    """log(p / (1 - p)) of probabilities in [0, 1]; finite at 0 and 1 too, which float64 rounds to."""
    tiny = np.finfo(np.float64).eps
    return logit(np.clip(probabilities, tiny, 1 - tiny))


def bce(labels: ArrayLike, logits: ArrayLike) -> float:
    """Mean binary cross-entropy (nats, >= 0) of the raw logits, without overflow or cancellation."""
    return float(np.mean(_losses(*_cases(labels, logits, "logits"))))


def brier(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Mean squared error of the probability, in [0, 1] (Brier 1950)."""
    positive, p = _cases(labels, probabilities, "probabilities")
    return float(np.mean((_in_unit(p) - positive) ** 2))


def auc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Area under the ROC curve in [0, 1]: the share of (pneumonia, normal) pairs in order, ties half.

    Exact, as the Mann-Whitney statistic. Raises Undefined where only one class is present.
    """
    return _placements(labels, scores)[2]


def auc_interval(labels: ArrayLike, scores: ArrayLike, confidence: float = 0.95) -> tuple[float, float]:
    """DeLong's interval (low, high) of the AUC, on the logit scale, so that it stays within [0, 1].

    Source: Sun and Xu, "Fast Implementation of DeLong's Algorithm", 2014 (midranks, O(n log n)).
    Raises Undefined where only one class is present.
    """
    positives, negatives, area = _placements(labels, scores)
    n1, n0 = len(positives), len(negatives)
    variance = 0.0
    if min(n1, n0) > 1:
        variance = np.var(positives, ddof=1) / (n1 * n0**2) + np.var(negatives, ddof=1) / (n0 * n1**2)
    if variance == 0:
        # Perfect or constant scores, or a class of one case: DeLong sees no spread, which is not certainty.
        # No scores of this AUC vary more than AUC (1 - AUC) / min(n1, n0) (Birnbaum and Klose 1957), so
        # Wilson's interval for that many trials errs on the wide side.
        return wilson(area * min(n1, n0), min(n1, n0), confidence)
    margin = _z(confidence) * math.sqrt(variance) / (area * (1 - area))
    low, high = expit(logit(area) + np.array([-margin, margin]))
    return float(low), float(high)


def average_precision(labels: ArrayLike, scores: ArrayLike) -> float:
    """Area under the precision-recall curve in (0, 1], in steps (scikit-learn's definition).

    Raises Undefined where only one class is present.
    """
    from sklearn.metrics import average_precision_score  # as late as `_placements`'s

    positive, scores = _cases(labels, scores, "scores")
    _both_classes(positive)
    return float(average_precision_score(positive, scores))


def wilson(successes: float, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval (low, high), within [0, 1], of a proportion (Wilson 1927)."""
    if not 0 <= successes <= trials or trials == 0:
        raise ValueError(f"no proportion: {successes} successes in {trials} trials")
    z = _z(confidence)
    centre = successes + z**2 / 2
    margin = z * math.sqrt(successes * (trials - successes) / trials + z**2 / 4)
    return max(0.0, (centre - margin) / (trials + z**2)), min(1.0, (centre + margin) / (trials + z**2))


def best_threshold(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """The threshold in [0, 1] of best balanced accuracy.

    Cuts lie midway between neighbouring distinct probabilities, so that none sits on a case, and at 0:
    calling everything pneumonia, which scores as calling nothing so does. The middle one of equally good cuts
    is taken (of two, the lower, which misses less pneumonia).
    Raises Undefined where only one class is present, ValueError for probabilities outside [0, 1].
    """
    positive, p = _cases(labels, probabilities, "probabilities")
    _both_classes(positive)
    distinct = np.unique(_in_unit(p))
    lower, upper = distinct[:-1], distinct[1:]
    # Half the sum of two neighbouring floats can round down onto the lower one.
    cuts = np.append(0.0, np.maximum((lower + upper) / 2, np.nextafter(lower, 2)))
    hits, n1 = _count_at_least(p[positive], cuts)
    alarms, n0 = _count_at_least(p[~positive], cuts)
    gain = hits * n0 - alarms * n1  # balanced accuracy in whole numbers: equal cuts compare equal
    best = np.flatnonzero(gain == gain.max())
    return float(cuts[best[(len(best) - 1) // 2]])


def reliability(labels: ArrayLike, probabilities: ArrayLike, bins: int = ECE_BINS) -> tuple[NDArray, ...]:
    """Per equal-width bin of P(pneumonia): (mean probability, fraction positive, count), each (bins,).

    A bin is [i / bins, (i + 1) / bins), the last one closed; an empty bin has count 0 and NaN for the others.
    Source: Niculescu-Mizil and Caruana 2005. Raises ValueError for probabilities outside [0, 1] or bins < 1.
    """
    positive, p = _cases(labels, probabilities, "probabilities")
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}")
    bin_of = _bin_of(_in_unit(p), bins)
    count = np.bincount(bin_of, minlength=bins)
    share = np.where(count > 0, 1 / np.maximum(count, 1), np.nan)
    return np.bincount(bin_of, p, bins) * share, np.bincount(bin_of, positive, bins) * share, count


def expected_calibration_error(labels: ArrayLike, probabilities: ArrayLike, bins: int = ECE_BINS) -> float:
    """Mean over cases of |mean probability - fraction positive| of the case's bin, in [0, 1].

    The binary form, on P(pneumonia) and not on the confidence of the called class (Naeini et al. 2015).
    Raises as `reliability` does.
    """
    mean, fraction, count = reliability(labels, probabilities, bins)
    return float(np.nansum(count * np.abs(mean - fraction)) / count.sum())


def summary(
    labels: ArrayLike,
    logits: ArrayLike,
    threshold: float,
    temperature: float = 1.0,
    offset: float = 0.0,
    threshold_sens95: float | None = None,
    seed: int = 0,
    resamples: int = 1000,
) -> dict:
    """Every metric of one split, as a dict that `json.dumps` takes with `allow_nan=False`.

    Each scalar metric has `<metric>_ci`, a 95 % interval [low, high]: DeLong for AUC, Wilson for accuracy,
    sensitivity and specificity, their squares added for balanced accuracy (Newcombe 1998), else percentiles
    of the bootstrap stratified by class. What is undefined is
    None with `<metric>_reason`, and so is its interval; an interval alone has `<metric>_ci_reason`. `bce` is
    of the raw logits, `auc` and `average_precision` rank by them; `brier_uncalibrated` and `ece_uncalibrated` are
    of their sigmoid, the rest is of the probabilities that `temperature` and `offset` give. Metrics at
    `threshold` have no suffix; `_at_0.5` and `_at_sens95` are those at 0.5 and at `threshold_sens95`.
    The order of the cases does not matter, to the last bit. The interval of `ece` leans high and can lie
    above it: binned calibration error is biased upward, and resampling adds the bias once more.
    Raises ValueError also for a threshold that is not finite, for temperature <= 0 and for resamples < 1.
    """
    positive, logits = _cases(labels, logits, "logits")
    finite = all(math.isfinite(value) for value in (threshold, offset, threshold_sens95 or 0.0))
    if not finite or resamples < 1:
        given = f"{threshold}, {threshold_sens95}, {offset} and {resamples}"
        raise ValueError(f"thresholds and offset must be finite and resamples >= 1, got {given}")
    order = np.lexsort((positive, -logits))
    positive, logits = positive[order], logits[order]
    p, raw = probabilities(logits, temperature, offset), probabilities(logits)
    called = {"": p >= threshold, "_at_0.5": p >= 0.5}
    if threshold_sens95 is not None:
        called["_at_sens95"] = p >= threshold_sens95
    samples = _bootstrap(positive, logits, p, seed, resamples)
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
    out |= _entry("auc", lambda: auc(positive, logits), lambda: auc_interval(positive, logits))
    for name, measure, values in (
        ("bce", bce, logits),
        ("average_precision", average_precision, logits),
        ("brier", brier, p),
        ("ece", expected_calibration_error, p),
    ):
        out |= _entry(name, lambda m=measure, v=values: m(positive, v), lambda name=name: _percentiles(samples[name]))
    out |= {"brier_uncalibrated": brier(positive, raw), "ece_uncalibrated": expected_calibration_error(positive, raw)}
    for suffix, calls in called.items():
        out |= _operating_point(positive, calls, suffix)
    return out


def _operating_point(positive: NDArray, called: NDArray, suffix: str) -> dict:
    """Confusion counts and the rates made of them, with intervals."""
    tp, fp = int(np.sum(called & positive)), int(np.sum(called & ~positive))
    fn, tn = int(np.sum(~called & positive)), int(np.sum(~called & ~positive))

    def balanced_accuracy() -> float:
        _both_classes(positive)
        return (tp / (tp + fn) + tn / (tn + fp)) / 2

    def balanced_interval() -> tuple[float, float]:
        rates = np.array([tp / (tp + fn), tn / (tn + fp)])
        low, high = np.transpose([wilson(tp, tp + fn), wilson(tn, tn + fp)])
        down, up = np.linalg.norm(rates - low) / 2, np.linalg.norm(high - rates) / 2
        return float(rates.mean() - down), float(rates.mean() + up)

    out = {"confusion" + suffix: {"tp": tp, "fp": fp, "fn": fn, "tn": tn}}
    out |= _entry("balanced_accuracy" + suffix, balanced_accuracy, balanced_interval)
    for name, right, among, missing in (
        ("accuracy", tp + tn, len(positive), "no cases"),
        ("sensitivity", tp, tp + fn, "no positives"),
        ("specificity", tn, tn + fp, "no negatives"),
    ):
        out |= _entry(
            name + suffix,
            lambda k=right, n=among, why=missing: _proportion(k, n, why),
            lambda k=right, n=among: wilson(k, n),
        )
    return out


def _entry(name: str, value: Callable[[], float], interval: Callable[[], tuple[float, float]]) -> dict:
    try:
        out = {name: value()}
    except Undefined as reason:
        return {name: None, f"{name}_reason": str(reason), f"{name}_ci": None}
    try:
        return out | {f"{name}_ci": list(interval())}
    except Undefined as reason:
        return out | {f"{name}_ci": None, f"{name}_ci_reason": str(reason)}


def _bootstrap(positive: NDArray, logits: NDArray, p: NDArray, seed: int, resamples: int) -> dict[str, NDArray]:
    """Metric name -> (resamples,) values over cases drawn anew within each class; logits descending.

    A resample is a count per case, so that sorting, binning and losses are done once for all of them.
    """
    rng = np.random.default_rng(seed)
    n, strata = len(positive), [np.flatnonzero(positive), np.flatnonzero(~positive)]
    linear = np.column_stack([_losses(positive, logits), (p - positive) ** 2])
    bin_of, excess = _bin_of(p, ECE_BINS), p - positive
    last_of_tie = np.flatnonzero(np.append(np.diff(logits) != 0, True))
    sums, ece, precision = np.empty((resamples, 2)), np.empty(resamples), np.empty(resamples)
    counts = np.zeros(n)
    for i in range(resamples):
        for members in strata:
            if m := len(members):
                counts[members] = np.bincount(rng.integers(m, size=m), minlength=m)
        sums[i] = counts @ linear / n
        ece[i] = np.abs(np.bincount(bin_of, counts * excess, ECE_BINS)).sum() / n
        hits = np.cumsum(counts * positive)[last_of_tie]
        calls = np.maximum(np.cumsum(counts)[last_of_tie], 1)
        precision[i] = np.sum(np.diff(hits, prepend=0) * hits / calls) / max(1, len(strata[0]))
    return {"bce": sums[:, 0], "brier": sums[:, 1], "ece": ece, "average_precision": precision}


def _percentiles(samples: NDArray) -> tuple[float, float]:
    if np.ptp(samples) <= 1e-12 * np.abs(samples).max():
        raise Undefined("every resample gives the same value")
    low, high = np.quantile(samples, [0.025, 0.975])
    return float(low), float(high)


def _placements(labels: ArrayLike, scores: ArrayLike) -> tuple[NDArray, NDArray, float]:
    """Per positive, the negatives below it; per negative, the positives above it; AUC. Ties count half."""
    positive, scores = _cases(labels, scores, "scores")
    _both_classes(positive)
    ill, well = scores[positive], scores[~positive]
    below, above = _count_below(ill, well), len(ill) - _count_below(well, ill)
    return below, above, float(below.sum() / (len(ill) * len(well)))


def _count_below(values: NDArray, others: NDArray) -> NDArray:
    """Of each value, how many of the others are less; equal ones count half."""
    others = np.sort(others)
    return (np.searchsorted(others, values, "left") + np.searchsorted(others, values, "right")) / 2


def _losses(positive: NDArray, logits: NDArray) -> NDArray:
    return np.logaddexp(0, np.where(positive, -logits, logits))


def _bin_of(p: NDArray, bins: int) -> NDArray:
    return np.minimum((p * bins).astype(int), bins - 1)


def _count_at_least(values: NDArray, cuts: NDArray) -> tuple[NDArray, int]:
    return len(values) - np.searchsorted(np.sort(values), cuts), len(values)


def _proportion(successes: int, trials: int, missing: str) -> float:
    if trials == 0:
        raise Undefined(missing)
    return successes / trials


def _z(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
    return float(ndtri((1 + confidence) / 2))


def _both_classes(positive: NDArray) -> None:
    if positive.all() or not positive.any():
        raise Undefined("only one class present")


def _cases(labels: ArrayLike, values: ArrayLike, name: str) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    labels, values = np.asarray(labels), _finite(values, name)
    if labels.ndim != 1 or labels.shape != values.shape:
        raise ValueError(f"labels and {name} must be of one shape (n,): {labels.shape}, {values.shape}")
    if len(labels) == 0:
        raise ValueError("no cases: metrics need at least one")
    if wrong := int(np.sum((labels != 0) & (labels != 1))):
        raise ValueError(f"labels must be 0 or 1: {wrong} of {len(labels)} are not")
    return labels == 1, values


def _finite(values: ArrayLike, name: str) -> NDArray[np.float64]:
    values = np.asarray(values, dtype=np.float64)
    if bad := int(np.sum(~np.isfinite(values))):
        raise ValueError(f"{name} must be finite: {bad} of {values.size} are not")
    return values


def _in_unit(p: NDArray) -> NDArray:
    if p.min() < 0 or p.max() > 1:
        raise ValueError(f"probabilities must lie in [0, 1], got {p.min()} to {p.max()}")
    return p
