"""Measures of whether attribution maps reflect what a model does: pure numpy functions of maps.

Maps are positive where an image is evidence for pneumonia. Probabilities are P(pneumonia).
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8
from scipy import ndimage

INSANE = 0.3  # rank correlation with untrained networks' maps from which a method ignores what was learned
BLUR = 0.06  # standard deviation of the blurred image, relative to the side
_STEPS = 20  # of deletion and insertion

Image = UInt8[np.ndarray, "side side"]
Map = Float[np.ndarray, "side side"]
Method = Callable[[Image], Map]
UntrainedMethod = Callable[[Image, int], Map]  # the number chooses initial weights
Probabilities = Callable[[UInt8[np.ndarray, "k side side"]], Float[np.ndarray, " k"]]


def rank_correlation(first: Float[np.ndarray, "height width"], second: Float[np.ndarray, "height width"]) -> float:
    """Compute Spearman's correlation of two signed maps, in [-1, 1] (Adebayo et al. 2018); 0 if one is uniform."""
    from scipy.stats import spearmanr  # not at the top: importing it takes half a second

    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0
    result: Any = spearmanr(first.ravel(), second.ravel())
    return float(result.statistic)


def pointing_hit(values: Float[np.ndarray, "height width"], mask: Bool[np.ndarray, "height width"]) -> bool:
    """Return whether the largest value lies within the mask (Zhang et al. 2016)."""
    return bool(mask.ravel()[np.argmax(values)])


def energy_inside(values: Float[np.ndarray, "height width"], mask: Bool[np.ndarray, "height width"]) -> float:
    """Compute the share of the positive values' sum that lies within the mask, in [0, 1]; 0 if none is positive."""
    positive = np.maximum(values, 0)
    return float(positive[mask].sum() / positive.sum()) if positive.any() else 0.0


def deletion_and_insertion(
    image: Image, values: Map, probabilities_of: Probabilities, threshold: float
) -> tuple[float, float]:
    """Compute the areas under the predicted class's probability as the map's strongest pixels are blurred or restored.

    Petsiuk et al., "RISE", 2018. `values` is the image's map. The class is the one predicted at the threshold.

    Returns:
      The areas of deletion and of insertion, in [0, 1]. A faithful map has a small first and a large second.
    """
    blurred = ndimage.gaussian_filter(image.astype(float), BLUR * len(image)).round().astype(np.uint8)
    positive = bool(probabilities_of(image[None])[0] >= threshold)
    rank = np.empty(image.size, int)
    rank[np.argsort(-values.ravel() if positive else values.ravel(), kind="stable")] = np.arange(image.size)
    changed = rank.reshape(image.shape) < np.linspace(0, image.size, _STEPS + 1)[:, None, None]
    p = probabilities_of(np.concatenate([np.where(changed, blurred, image), np.where(changed, image, blurred)]))
    deletion, insertion = np.split(p if positive else 1 - p, 2)
    return float(np.trapezoid(deletion, dx=1 / _STEPS)), float(np.trapezoid(insertion, dx=1 / _STEPS))


def verdict(measures: Mapping[str, Any]) -> str:
    """Return why a method fails what `check` measured of it; empty if it passes, and for the random map."""
    if measures["rank_correlation"] is None:
        return ""
    reasons = []
    if measures["rank_correlation"] >= INSANE:
        reasons.append("its maps are much the same for an untrained network")
    deletion, insertion = measures["deletion"], measures["insertion"]
    if deletion >= measures["random_deletion"] and insertion <= measures["random_insertion"]:
        reasons.append("deletion and insertion are no better than with a random map")
    return " and ".join(reasons)


def check(
    methods: Mapping[str, Method],
    untrained: Mapping[str, UntrainedMethod],
    images: UInt8[np.ndarray, "n side side"],
    probabilities_of: Probabilities,
    masks: Sequence[Bool[np.ndarray, "side side"] | None],
    threshold: float,
) -> dict[str, dict[str, Any]]:
    """Measure every method, and a random map for comparison.

    Args:
      methods: by name, of the model.
      untrained: by name, of the same network with initial weights. Its maps can agree with the model's by chance, in
        all their signs, so each image gets another network.
      images: to measure on.
      probabilities_of: the model.
      masks: of each image, the lesion; None if it is unknown.
      threshold: probability from which the model predicts pneumonia.

    Returns:
      By name, means over images: `rank_correlation` with the untrained network's maps (None for the random map),
      `deletion` and `insertion`; if there are masks, `hits`, `energy` and `chance_hits`, the mask's share of the image;
      and `random_deletion` and `random_insertion`, those of the random map.
    """
    rng = np.random.default_rng(0)
    side = len(images[0])

    def random(image: Image) -> Map:
        return ndimage.gaussian_filter(rng.standard_normal((side, side)), side / 16)

    measured = {}
    for name, method in (dict(methods) | {"random": random}).items():
        maps = [method(image) for image in images]
        measured[name] = _areas(images, maps, probabilities_of, threshold)
        if name in untrained:
            pairs = zip(maps, map(untrained[name], images, count()), strict=True)
            measured[name]["rank_correlation"] = float(np.mean([rank_correlation(*pair) for pair in pairs]))
        measured[name] |= _localization(maps, masks)
    baseline = {f"random_{area}": measured["random"][area] for area in ("deletion", "insertion")}
    return {name: measures | baseline for name, measures in measured.items()}


def _areas(
    images: UInt8[np.ndarray, "n side side"], maps: Sequence[Map], probabilities_of: Probabilities, threshold: float
) -> dict[str, float | None]:
    """Compute mean areas; the rank correlation is filled in later."""
    pairs = zip(images, maps, strict=True)
    areas = np.mean([deletion_and_insertion(image, values, probabilities_of, threshold) for image, values in pairs], 0)
    return {"rank_correlation": None, "deletion": float(areas[0]), "insertion": float(areas[1])}


def _localization(maps: Sequence[Map], masks: Sequence[Bool[np.ndarray, "side side"] | None]) -> dict[str, float]:
    """Compare maps with the masks, where there are any."""
    known = [(values, mask) for values, mask in zip(maps, masks, strict=True) if mask is not None and mask.any()]
    if not known:
        return {}
    return {
        "hits": float(np.mean([pointing_hit(values, mask) for values, mask in known])),
        "energy": float(np.mean([energy_inside(values, mask) for values, mask in known])),
        "chance_hits": float(np.mean([mask.mean() for _, mask in known])),
    }


def table(checks: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Format what `check` measured, `checks["methods"]`, as a header and rows of text."""
    columns = {
        "rank_correlation": "untrained",
        "deletion": "deletion",
        "insertion": "insertion",
        "hits": "hits",
        "energy": "energy inside",
        "chance_hits": "mask's share",
    }
    methods = checks["methods"]
    columns = {key: name for key, name in columns.items() if any(key in measures for measures in methods.values())}
    rows = [
        [name, *("" if measures[key] is None else f"{measures[key]:.3f}" for key in columns), verdict(measures)]
        for name, measures in methods.items()
    ]
    return ["method", *columns.values(), "fails: why"], rows
