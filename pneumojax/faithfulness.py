"""Whether maps say what a model does: measures of explanation methods, pure numpy functions of maps.

Maps are (height, width) float, positive where an image speaks for pneumonia. Chances are those of pneumonia.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import count

import numpy as np
from scipy import ndimage

FILE = "explanations/checks.json"  # in the workdir: what was measured
INSANE = 0.3  # rank correlation with an untrained network's maps above which a method does not depend on what is learnt
_STOPS = 20  # of deletion and insertion, after the start
BLUR = 0.06  # standard deviation, of the side: what insertion begins with, and deletion ends at
Method = Callable[[np.ndarray], np.ndarray]  # image (s, s) uint8 -> map (s, s)
Untrained = Callable[[np.ndarray, int], np.ndarray]  # the same of initial weights, others for each number


def rank_correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Spearman's, of two signed maps, in [-1, 1]; 0 where one of them is even (Adebayo et al. 2018)."""
    from scipy.stats import spearmanr  # not above: it takes half a second, and training starts without it

    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return 0.0
    return float(spearmanr(one, other, axis=None).statistic)


def pointing_hit(values: np.ndarray, mask: np.ndarray) -> bool:
    """Whether the largest value lies within the mask (Zhang et al. 2016)."""
    return bool(mask.ravel()[np.argmax(values)])


def energy_inside(values: np.ndarray, mask: np.ndarray) -> float:
    """The share of the positive values' sum that lies within the mask, in [0, 1]; 0 where none is positive."""
    positive = np.maximum(values, 0)
    return float(positive[mask].sum() / positive.sum()) if positive.any() else 0.0


def deletion_and_insertion(
    image: np.ndarray, values: np.ndarray, chances: Callable[[np.ndarray], np.ndarray]
) -> tuple[float, float]:
    """Areas under the chance of what it calls at 0.5, as the map's strongest pixels are blurred, or brought back.

    Petsiuk et al., "RISE", 2018. A good map has a small first and a large second.

    Args:
      image: (s, s) uint8.
      values: its map.
      chances: images (k, s, s) uint8 -> (k,).
    """
    blurred = ndimage.gaussian_filter(image.astype(float), BLUR * len(image)).round().astype(np.uint8)
    ill = bool(chances(image[None])[0] >= 0.5)
    place = np.empty(image.size, int)
    place[np.argsort(-values.ravel() if ill else values.ravel(), kind="stable")] = np.arange(image.size)
    changed = place.reshape(image.shape) < np.linspace(0, image.size, _STOPS + 1)[:, None, None]
    found = chances(np.concatenate([np.where(changed, blurred, image), np.where(changed, image, blurred)]))
    found = found if ill else 1 - found
    return tuple(float(np.trapezoid(part, dx=1 / _STOPS)) for part in np.split(found, 2))


def verdict(told: Mapping[str, float | None]) -> str:
    """Why a method fails what `check` measures; empty where it passes, and of the random map."""
    if told["rank_correlation"] is None:
        return ""
    wrong = []
    if told["rank_correlation"] >= INSANE:
        wrong.append("its maps are much the same for an untrained network")
    if told["deletion"] >= told["random_deletion"] and told["insertion"] <= told["random_insertion"]:
        wrong.append("deleting and inserting what it marks does no more than by a random map")
    return " and ".join(wrong)


def check(
    methods: Mapping[str, Method],
    untrained: Mapping[str, Untrained],
    images: Sequence[np.ndarray],
    chances: Callable[[np.ndarray], np.ndarray],
    masks: Sequence[np.ndarray | None],
) -> dict[str, dict]:
    """Measures every method, and a random map beside them.

    Args:
      methods: by name, of the model.
      untrained: by name, of the same network with initial weights. One such network alone agrees or disagrees with
        the model by chance, in the sign of all its maps.
      images: (s, s) uint8 each.
      chances: images (k, s, s) uint8 -> (k,).
      masks: of each image, (s, s) bool where what is ill is known, else None.

    Returns:
      name -> means over images: `rank_correlation` (None of the random map), `deletion`, `insertion`; and over those
      with a mask, if any, `hits`, `energy` and the mask's own share, `chance_hits`. `random_deletion` and
      `random_insertion` are those of the random map, as a yardstick.
    """
    rng = np.random.default_rng(0)
    side = len(images[0])
    random = {"random": lambda image: ndimage.gaussian_filter(rng.standard_normal((side, side)), side / 16)}
    found = {}
    for name, method in (dict(methods) | random).items():
        maps = [method(image) for image in images]
        pairs = zip(images, maps, strict=True)
        areas = np.mean([deletion_and_insertion(image, values, chances) for image, values in pairs], 0)
        told = {"rank_correlation": None, "deletion": float(areas[0]), "insertion": float(areas[1])}
        if name in untrained:
            pairs = zip(maps, map(untrained[name], images, count()), strict=True)
            told["rank_correlation"] = float(np.mean([rank_correlation(*pair) for pair in pairs]))
        known = [(values, mask) for values, mask in zip(maps, masks, strict=True) if mask is not None and mask.any()]
        if known:
            told["hits"] = float(np.mean([pointing_hit(*one) for one in known]))
            told["energy"] = float(np.mean([energy_inside(*one) for one in known]))
            told["chance_hits"] = float(np.mean([mask.mean() for _, mask in known]))
        found[name] = told
    yardstick = {f"random_{kind}": found["random"][kind] for kind in ("deletion", "insertion")}
    return {name: told | yardstick for name, told in found.items()}


def table(checks: Mapping) -> tuple[list[str], list[list[str]]]:
    """The methods that `check` measured, `checks["methods"]`: names of columns, and rows of text."""
    columns = {
        "rank_correlation": "untrained",
        "deletion": "deletion",
        "insertion": "insertion",
        "hits": "hits",
        "energy": "energy inside",
        "chance_hits": "mask's share",
    }
    columns = {key: name for key, name in columns.items() if any(key in one for one in checks["methods"].values())}
    rows = [
        [name, *("" if one[key] is None else f"{one[key]:.3f}" for key in columns), verdict(one)]
        for name, one in checks["methods"].items()
    ]
    return ["method", *columns.values(), "fails: why"], rows
