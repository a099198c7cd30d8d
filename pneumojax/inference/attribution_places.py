"""Where attributions lie: within the lungs' field, below it, at the borders, or in the corners, where letters are."""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Bool, Float, Float32, UInt8
from scipy import ndimage

from pneumojax.data.source import SITE, Split
from pneumojax.evaluation.results import Evaluation
from pneumojax.inference import worst_errors
from pneumojax.runtime.files import read_json, write_whole
from pneumojax.runtime.workdir import EXPLANATIONS

COUNT = 8  # images of each site that are explained, of errors and of correct predictions
PLACES = {
    "outside_lungs": "outside the lungs' field",
    "below": "below it, at the diaphragm",
    "borders": "at the borders",
    "corners": "in the corners",
}
BORDER, CORNER = 0.08, 0.15  # sides, as shares of the image's side
_CENTERS = ((0.30, 0.45), (0.70, 0.45))  # of the lungs, (x, y), as shares of the side
_HALF = (0.17, 0.32)  # their half axes
_SURE, _POSSIBLE = 0.75, 1.45  # times the half axes: always lung, and lung where the film is dark
_BLUR, _MARGIN = 0.015, 0.02  # shares of the side

Shares = dict[str, float]
Explain = Callable[[UInt8[np.ndarray, "side side"]], Float32[np.ndarray, "side side"]]


def lung_field(image: UInt8[np.ndarray, "side side"]) -> Bool[np.ndarray, "side side"]:
    """Find the field of both lungs without any label.

    A lung is an ellipse where frontal films have it, and what is dark around that: darker than Otsu's threshold of the
    middle of the film. Holes are filled, since a consolidation is bright, and the field has a margin.
    """
    side = len(image)
    smooth = ndimage.gaussian_filter(image.astype(np.float32), _BLUR * side)
    edge = round(0.1 * side)
    dark = smooth < _otsu(smooth[edge:-edge, edge:-edge])
    axis = (np.arange(side) + 0.5) / side
    field = np.zeros((side, side), bool)
    for x, y in _CENTERS:
        radius = np.hypot((axis[None] - x) / _HALF[0], (axis[:, None] - y) / _HALF[1])
        own = (radius < _SURE) | (dark & (radius < _POSSIBLE))
        own = ndimage.binary_closing(own, iterations=max(round(0.04 * side), 1))
        field |= ndimage.binary_fill_holes(own)
    return ndimage.binary_dilation(field, iterations=max(round(_MARGIN * side), 1))


def _otsu(values: Float[np.ndarray, "rows columns"]) -> float:
    """Return the threshold that divides the values into two classes of least variance (Otsu 1979)."""
    counts, edges = np.histogram(values, 64)
    middles = (edges[:-1] + edges[1:]) / 2
    below, above = np.cumsum(counts), counts.sum() - np.cumsum(counts)
    sums = np.cumsum(counts * middles)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    return float(edges[1:][np.nanargmax(np.where(np.isfinite(between), between, -1))])


def regions(field: Bool[np.ndarray, "side side"]) -> dict[str, Bool[np.ndarray, "side side"]]:
    """Return the pixels of each of `PLACES`; a pixel may be of several."""
    side = len(field)
    place = (np.arange(side) + 0.5) / side
    at_border = (place < BORDER) | (place > 1 - BORDER)
    at_end = (place < CORNER) | (place > 1 - CORNER)
    below = (np.cumsum(field, 0) > 0) & ~field & (np.cumsum(field[::-1], 0)[::-1] == 0)
    return {
        "outside_lungs": ~field,
        "below": below,
        "borders": at_border[:, None] | at_border[None],
        "corners": at_end[:, None] & at_end[None],
    }


def shares(attribution: Float[np.ndarray, "side side"], field: Bool[np.ndarray, "side side"]) -> Shares:
    """Return the share of the attribution, for and against, in each of `PLACES`; all 0 where there is none."""
    weight = np.abs(np.asarray(attribution, np.float64))
    total = weight.sum()
    return {name: float(weight[inside].sum() / total) if total else 0.0 for name, inside in regions(field).items()}


def measure(evaluation: Evaluation, split: Split, explain: Explain) -> list[dict[str, Any]]:
    """Measure where the attributions of each site lie, of its worst errors and of correct predictions.

    Args:
      evaluation: of the split, see `results.read`.
      split: its images.
      explain: computes an image's map.

    Returns:
      For each site, errors first: `site`, empty where it has no name; `what`, "errors" or "correct"; `images`, their
      number; `shares`, the mean over images; and `area`, the same shares of a map that is equal everywhere.
    """
    labels, probabilities = evaluation["scores"]
    correct = (probabilities >= evaluation["threshold"]) == labels
    errors = worst_errors.worst_errors(evaluation, len(labels))
    sites = split.groups.get(SITE, np.full(len(labels), ""))
    found = []
    for site in sorted(set(sites.tolist())):
        chosen = {
            "errors": errors[sites[errors] == site][:COUNT],
            "correct": _balanced(np.flatnonzero(correct & (sites == site)), labels),
        }
        for what, places in chosen.items():
            if len(places):
                found.append({"site": site, "what": what, "images": len(places)} | _mean(split, places, explain))
    return found


def _balanced(places: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return at most `COUNT` of the places, of both classes in turn, from evenly over their order."""
    parts = [places[labels[places] == label] for label in (0, 1)]
    half = COUNT // 2
    return np.concatenate([part[np.linspace(0, len(part) - 1, min(half, len(part))).astype(int)] for part in parts])


def _mean(split: Split, places: np.ndarray, explain: Explain) -> dict[str, Shares]:
    images = split.read(np.asarray(places))[..., 0]
    fields = [lung_field(image) for image in images]
    measured = [shares(explain(image), field) for image, field in zip(images, fields, strict=True)]
    areas = [shares(np.ones(field.shape), field) for field in fields]
    return {
        name: {place: float(np.mean([each[place] for each in every])) for place in PLACES}
        for name, every in (("shares", measured), ("area", areas))
    }


def write(workdir: epath.Path, stem: str, found: Sequence[Mapping[str, Any]], method: str) -> None:
    """Write explanations/places-<stem>.json into the run's workdir."""
    content = {"method": method, "sites": list(found)}
    write_whole(workdir / EXPLANATIONS / f"places-{stem}.json", json.dumps(content, indent=2) + "\n")


def read(workdir: epath.Path) -> dict[str, list[dict[str, Any]]]:
    """Read what `write` wrote, by stem; damaged files are passed over."""
    folder, found = workdir / EXPLANATIONS, {}
    for path in sorted(folder.glob("places-*.json")) if folder.exists() else []:
        with suppress(AttributeError, KeyError, OSError, TypeError, ValueError):
            sites = read_json(path)["sites"]
            rows(sites)
            found[path.stem.removeprefix("places-")] = sites
    return found


HEADER = ("site", "of", "images", *PLACES.values())


def rows(found: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Return a row of text for each site, as `HEADER` names its cells; in brackets, the share of the image's area."""
    return [
        (
            str(one["site"]) or "all",
            str(one["what"]),
            f"{one['images']:,}",
            *(f"{one['shares'][place]:.0%} ({one['area'][place]:.0%})" for place in PLACES),
        )
        for one in found
    ]
