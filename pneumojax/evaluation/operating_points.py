"""Operating points that hold in every group of val, not in the mean of it: each site, as it is and under corruptions.

Choosing by the worst group is what distributionally robust optimisation does in training (Sagawa et al.,
"Distributionally Robust Neural Networks for Group Shifts", 2020); here it costs no training.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from jaxtyping import Float64

from pneumojax.evaluation import calibration as calibrations
from pneumojax.evaluation import metrics
from pneumojax.evaluation.calibration import SENSITIVITY, Calibration
from pneumojax.runtime import run_identity
from pneumojax.runtime.files import read_json, write_whole
from pneumojax.runtime.workdir import OPERATING_POINTS

AUTO, VAL, WORST = CHOICES = ("auto", "val", "worst")
MIN_OF_CLASS = 10  # a group of fewer images of a class decides nothing

Cases = tuple[np.ndarray, np.ndarray]  # labels and raw logits, (n,) each


class Chosen(NamedTuple):
    """Operating points that were chosen by the worst group.

    Attributes:
      calibration: with them.
      of_val: the one that was fitted on val as it is.
      groups: (name, balanced accuracy at the threshold of val, and at the one chosen) of each group, the lowest first.
      home: metrics of val as it is, by name: at val's operating point, and at the one chosen.
    """

    calibration: Calibration
    of_val: Calibration
    groups: list[tuple[str, float, float]]
    home: dict[str, tuple[float, float]]


def choose(groups: Mapping[str, Cases], home: Cases, of_val: Calibration) -> Chosen:
    """Choose the threshold with the highest balanced accuracy in the worst group.

    The sensitive threshold is the highest with a sensitivity of at least 95 % in every group, never above the other.
    Temperature and offset are fitted on all groups together, which weigh the same; the prevalence is theirs.

    Args:
      groups: by name; those of too few images of a class are left out.
      home: val as it is.
      of_val: fitted on val as it is.

    Raises:
      metrics.Undefined: no group has enough images of both classes.
    """
    kept = {name: cases for name, cases in groups.items() if np.bincount(cases[0], minlength=2).min() >= MIN_OF_CLASS}
    if not kept:
        raise metrics.Undefined("no group of val has enough images of both classes")
    labels, logits = _pooled(list(kept.values()))
    scaling = calibrations.fit_scaling(labels, logits)
    scored = {name: (labels == 1, _probabilities(logits, scaling)) for name, (labels, logits) in kept.items()}
    cuts = _cuts(np.concatenate([p for _, p in scored.values()]))
    sensitivities, specificities = (
        np.stack([rate(positive, p, cuts) for positive, p in scored.values()]) for rate in (_found, _spared)
    )
    balanced = (sensitivities + specificities) / 2
    # Of equal worst groups, the better mean decides, then the middle of what is left.
    ranks = balanced.min(0) + 1e-6 * balanced.mean(0)
    best = np.flatnonzero(ranks >= ranks.max() - 1e-12)
    threshold = float(cuts[best[len(best) // 2]])
    every = np.flatnonzero((sensitivities >= SENSITIVITY - 1e-12).all(0))
    sensitive = min(threshold, float(cuts[every[-1]])) if len(every) else 0.0
    temperature, offset = scaling
    calibration = Calibration(temperature, threshold, sensitive, float(labels.mean()), offset)
    rows = [(name, _balanced(cases, of_val), _balanced(cases, calibration)) for name, cases in kept.items()]
    return Chosen(calibration, of_val, sorted(rows, key=lambda row: row[2]), _home(home, of_val, calibration))


def _pooled(groups: list[Cases]) -> Cases:
    """Join the groups; smaller ones are repeated, so that all weigh nearly the same."""
    most = max(len(labels) for labels, _ in groups)
    repeated = [(np.resize(labels, most), np.resize(logits, most)) for labels, logits in groups]
    return np.concatenate([labels for labels, _ in repeated]), np.concatenate([logits for _, logits in repeated])


def _probabilities(logits: np.ndarray, scaling: tuple[float, float]) -> Float64[np.ndarray, " n"]:
    return metrics.probabilities(logits, *scaling)


def _cuts(p: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " m"]:
    """Return candidates for the threshold: midway between neighbouring probabilities, in ascending order."""
    values = np.unique(p)
    return (values[:-1] + values[1:]) / 2 if len(values) > 1 else values


def _found(
    positive: metrics.Mask, p: Float64[np.ndarray, " n"], cuts: Float64[np.ndarray, " m"]
) -> Float64[np.ndarray, " m"]:
    """Return the sensitivity at each cut."""
    return 1 - np.searchsorted(np.sort(p[positive]), cuts) / positive.sum()


def _spared(
    positive: metrics.Mask, p: Float64[np.ndarray, " n"], cuts: Float64[np.ndarray, " m"]
) -> Float64[np.ndarray, " m"]:
    """Return the specificity at each cut."""
    return np.searchsorted(np.sort(p[~positive]), cuts) / (~positive).sum()


def _rates(cases: Cases, calibration: Calibration) -> tuple[float, float]:
    """Return sensitivity and specificity at the threshold."""
    labels, logits = cases
    reached = metrics.probabilities(logits, calibration.temperature, calibration.offset) >= calibration.threshold
    return float(reached[labels == 1].mean()), float((~reached[labels == 0]).mean())


def _balanced(cases: Cases, calibration: Calibration) -> float:
    return sum(_rates(cases, calibration)) / 2


def _home(home: Cases, *both: Calibration) -> dict[str, tuple[float, float]]:
    measured = []
    for calibration in both:
        sensitivity, specificity = _rates(home, calibration)
        p = metrics.probabilities(home[1], calibration.temperature, calibration.offset)
        measured.append({
            "balanced_accuracy": (sensitivity + specificity) / 2,
            "sensitivity": sensitivity,
            "specificity": specificity,
            "ece": metrics.expected_calibration_error(home[0], p),
        })  # fmt: skip
    return {name: (measured[0][name], measured[1][name]) for name in measured[0]}


def write(workdir: epath.Path, epoch: int, chosen: Chosen) -> None:
    """Write operating_points.json into the workdir: from then on, the model of this epoch has these."""
    content = {"run": run_identity.of_workdir(workdir).id, "epoch": epoch, **chosen._asdict()}
    content |= {name: getattr(chosen, name)._asdict() for name in ("calibration", "of_val")}
    write_whole(workdir / OPERATING_POINTS, json.dumps(content, indent=2) + "\n")


def read(workdir: epath.Path, epoch: int) -> Chosen | None:
    """Read what `write` wrote; None where there is nothing, or it is damaged or of another run or epoch."""
    with suppress(AttributeError, KeyError, OSError, TypeError, ValueError):
        content = read_json(workdir / OPERATING_POINTS)
        if (content["run"], content["epoch"]) == (run_identity.of_workdir(workdir).id, epoch):
            return _checked(content)
    return None


def _checked(content: Mapping[str, Any]) -> Chosen:
    calibration, of_val = (calibrations.checked(content[name]) for name in ("calibration", "of_val"))
    groups = [(str(name), float(before), float(after)) for name, before, after in content["groups"]]
    home = {str(name): (float(before), float(after)) for name, (before, after) in content["home"].items()}
    return Chosen(calibration, of_val, groups, home)
