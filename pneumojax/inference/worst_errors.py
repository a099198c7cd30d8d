"""A model's worst errors, with their maps and the training images they resemble (Figs. 10 and 11)."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Integer, UInt8

from pneumojax.data.source import Split
from pneumojax.evaluation import film_statistics, guard, metrics, neighbours
from pneumojax.evaluation.results import Evaluation
from pneumojax.inference.overlay import overlay

COUNT = 8  # errors to show
METHOD = "integrated-gradients"  # of `attribution.METHODS`, the one that points at known lesions most often
NEAREST = 2  # training images of each class to show beside an error


class Neighbour(NamedTuple):
    """A training image, and its distance to an error in the model's features, in [0, 2]; see `neighbours`."""

    id: str
    label: int
    distance: float
    image: UInt8[np.ndarray, "side side"]


class WorstError(NamedTuple):
    """An image that the model predicts wrongly.

    Attributes:
      id, image: of the error.
      label: 1 is pneumonia.
      probability: P(pneumonia).
      explained: the image under its map.
      unlike: whether its OOD score is beyond the limit; see `neighbours`.
      nearest: training images, first the normal ones, each class by distance.
    """

    id: str
    label: int
    probability: float
    image: UInt8[np.ndarray, "side side"]
    explained: UInt8[np.ndarray, "side side 3"]
    unlike: bool
    nearest: list[Neighbour]


def worst_errors(evaluation: Evaluation, count: int) -> Integer[np.ndarray, " k"]:
    """Find at most `count` errors farthest from the balanced threshold, on the scale of log-odds.

    Returns:
      Indices into the split whose evaluation this is (see `results.read`), the worst error first.
    """
    labels, probabilities = evaluation["scores"]
    wrong = np.flatnonzero((probabilities >= evaluation["threshold"]) != labels)
    beyond = np.abs(metrics.log_odds(probabilities[wrong]) - metrics.log_odds(evaluation["threshold"]))
    return wrong[np.argsort(-beyond, kind="stable")][:count]


def collect(
    evaluation: Evaluation,
    split: Split,
    features: Float[np.ndarray, "n d"],
    index: neighbours.Index,
    train: Split,
    explain: Callable[[UInt8[np.ndarray, "side side"]], Float32[np.ndarray, "side side"]],
) -> list[WorstError]:
    """Collect the worst errors of a split, at most `COUNT`, from its evaluation (see `results.read`).

    The features are of the split's images, the index is of those of `train`, in their order, and `explain` computes an
    image's map.
    """
    labels, probabilities = evaluation["scores"]

    def error(i: int) -> WorstError:
        image, features_of_image = split.read(np.array([i]))[0, :, :, 0], features[i : i + 1]
        return WorstError(
            id=str(split.ids[i]),
            label=int(labels[i]),
            probability=float(probabilities[i]),
            image=image,
            explained=overlay(image, explain(image)),
            unlike=bool(guard.scores(index, features_of_image, film_statistics.of(image[None]))[0] > index.limit),
            nearest=[near for label in (0, 1) for near in _nearest(index, features_of_image, label, train)],
        )

    return [error(i) for i in worst_errors(evaluation, COUNT).tolist()]


def _nearest(index: neighbours.Index, features: Float[np.ndarray, "1 d"], label: int, train: Split) -> list[Neighbour]:
    """Find the training images with this label that are nearest to an image."""
    (positions,), (distances,) = neighbours.nearest(index, features, NEAREST, label)
    images = train.read(positions)[..., 0] if len(positions) else []
    return [
        Neighbour(str(index.ids[position]), label, float(distance), image)
        for position, distance, image in zip(positions, distances, images, strict=True)
    ]
