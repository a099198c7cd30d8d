"""Metrics of each site and of each subgroup, such as by age or view: a mean over all images hides the worst of them."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Integer

from pneumojax.data.source import SITE
from pneumojax.evaluation import summary
from pneumojax.evaluation.calibration import Calibration

MIN_OF_CLASS = 10  # a metric of fewer images of a class is not given
MAX_VALUES = 8  # a column of more values divides the images into too small groups
UNKNOWN = "unknown"
METRICS = ("auc", "balanced_accuracy", "sensitivity", "specificity", "ece")
_NEEDS = {"sensitivity": ("positives",), "specificity": ("negatives",)}  # others need both
_BANDS = (18, 40, 60, 80)  # years; where bands of age start, after the first
_AGE = re.compile(r"0*(\d{1,3})(?:\.\d+)?(?:\s*([YMWD])[A-Z]*)?", re.IGNORECASE)  # such as 58, 058Y or 11M
_PER_YEAR = {"Y": 1, "M": 12, "W": 52, "D": 365}
_RESAMPLES = 500  # for the interval of a group's calibration error

Group = dict[str, Any]


def by_group(
    columns: Mapping[str, np.ndarray],
    labels: Integer[np.ndarray, " n"],
    logits: Float[np.ndarray, " n"],
    calibration: Calibration,
) -> list[Group]:
    """Compute `METRICS` of each group of images, with 95 % intervals, at the threshold and with the calibration stored.

    `columns` are those of `source.Split.groups`. A column makes groups if it has from two to `MAX_VALUES` values; ages
    are put into bands.

    Returns:
      A dict for each group, that with the lowest balanced accuracy first, fit for JSON. `by` is the column, `group` the
      value, `n` and `positives` count images, and the others are as `summary.every_metric` has them. A metric that
      needs a class of fewer than `MIN_OF_CLASS` images is None, and these groups come last.
    """
    found = [
        {"by": column, "group": value} | _metrics(labels[values == value], logits[values == value], calibration)
        for column, values in _divided(columns).items()
        for value in sorted(set(values.tolist()) - {""})
    ]
    return sorted(found, key=lambda group: (group["balanced_accuracy"] is None, group["balanced_accuracy"] or 0.0))


def worst_site(groups: Iterable[Group]) -> Group | None:
    """Return the site with the lowest balanced accuracy; None if fewer than two sites have this metric."""
    sites = [group for group in groups if group["by"] == SITE and group["balanced_accuracy"] is not None]
    return sites[0] if len(sites) > 1 else None


def too_small_sites(groups: Iterable[Group]) -> list[str]:
    """Return the names of the sites that have too few images for a balanced accuracy."""
    return [group["group"] for group in groups if group["by"] == SITE and group["balanced_accuracy"] is None]


def _divided(columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return each image's group, (n,) str, in each column that makes groups.

    A group of unknown values has no name where it is the same as a site: the CSV of another site has the column.
    """
    divided = {}
    sites = {(columns[SITE] == site).tobytes() for site in set(columns.get(SITE, ()))}
    for column, values in columns.items():
        known = np.array([band(value) for value in values]) if column.lower() == "age" else np.asarray(values)
        named = known if (known == "").tobytes() in sites else np.where(known == "", UNKNOWN, known)
        if (known != "").any() and 2 <= len(set(named.tolist()) - {""}) <= MAX_VALUES:
            divided[column] = named
    return divided


def band(age: str) -> str:
    """Return the band of an age, such as "18-39" years; empty if the text is none."""
    match = _AGE.fullmatch(age.strip())
    if not match:
        return ""
    years = int(match[1]) / _PER_YEAR[(match[2] or "Y").upper()]
    starts = (0, *_BANDS)
    place = max(index for index, start in enumerate(starts) if years >= start)
    return f"{starts[place]}-{_BANDS[place] - 1}" if place < len(_BANDS) else f"{_BANDS[-1]}+"


def _metrics(labels: np.ndarray, logits: np.ndarray, calibration: Calibration) -> Group:
    temperature, offset = calibration.temperature, calibration.offset
    every = summary.every_metric(
        labels, logits, calibration.threshold, temperature=temperature, offset=offset, resamples=_RESAMPLES
    )
    counts = {"positives": every["positives"], "negatives": every["n"] - every["positives"]}
    group: Group = {"n": every["n"], "positives": every["positives"]}
    for name in METRICS:
        few = [which for which in _NEEDS.get(name, tuple(counts)) if counts[which] < MIN_OF_CLASS]
        if few:
            reason = f"fewer than {MIN_OF_CLASS} {' and '.join(few)}"
            group |= {name: None, f"{name}_ci": None, f"{name}_reason": reason}
        else:
            keys = (name, f"{name}_ci", f"{name}_reason", f"{name}_ci_reason")
            group |= {key: every[key] for key in keys if key in every}
    return group


def rows(groups: Sequence[Group]) -> list[tuple[str, ...]]:
    """Return a row of text for each group, as `HEADER` names its cells."""
    return [
        (
            f"{group['by']} {group['group']}",
            f"{group['n']:,}",
            f"{group['positives']:,}",
            *(_cell(group, name) for name in METRICS),
        )
        for group in groups
    ]


HEADER = ("group", "n", "positives", "AUC", "balanced accuracy", "sensitivity", "specificity", "ECE")


def _cell(group: Group, name: str) -> str:
    value, interval = group.get(name), group.get(f"{name}_ci")
    if value is None:
        return "-"
    return f"{value:.3f}" + (f" ({interval[0]:.3f}-{interval[1]:.3f})" if interval else "")


def checked(content: Any) -> list[Group]:
    """Return what a file has as groups.

    Raises:
      KeyError, TypeError, ValueError: it has anything else.
    """
    for group in content:
        counts = [group["n"], group["positives"]]
        numbers = [
            value for name in METRICS for value in (group[name], *(group[f"{name}_ci"] or ())) if value is not None
        ]
        texts = [group["by"], group["group"]]
        pairs = all(group[f"{name}_ci"] is None or len(group[f"{name}_ci"]) == 2 for name in METRICS)
        if not (pairs and all(type(count) is int for count in counts) and all(isinstance(text, str) for text in texts)):
            raise ValueError(f"{group!r:.100} is no group")
        if not all(type(number) in (int, float) and np.isfinite(number) for number in numbers):
            raise ValueError(f"a metric of {group!r:.100} is no number")
    return list(content)
