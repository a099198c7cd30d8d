"""A model's worst errors: where each answer comes from, and which training images it is like (Figs. 10 and 11)."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from pneumojax import metrics, neighbours, page
from pneumojax.data.readers import Split
from pneumojax.data.records import CLASSES
from pneumojax.overlay import overlay

COUNT = 8  # errors that are shown
METHOD = "integrated-gradients"  # that explains them: of `explain.METHODS` it finds known lesions most often
NEAREST = 2  # training images of each class, for each error
SIDE = 160  # px


class Neighbour(NamedTuple):
    """A training image: `distance` to the error in the model's features, see `neighbours`; image (s, s) uint8."""

    id: str
    label: int
    distance: float
    image: np.ndarray


class Case(NamedTuple):
    """An image that the model errs on.

    Attributes:
      id, label, probability: as evaluation has them.
      image: (s, s) uint8.
      explained: (s, s, 3) uint8, the image under its map.
      unlike: whether it is farther from the training images than they explain, see `neighbours.unlikeness`.
      nearest: training images, those of normal first, each class by distance.
    """

    id: str
    label: int
    probability: float
    image: np.ndarray
    explained: np.ndarray
    unlike: bool
    nearest: list[Neighbour]


def worst_errors(told: dict, count: int) -> np.ndarray:
    """Places of the errors at the stored threshold that lie farthest from it, the worst first: (k,) int, k <= count.

    Args:
      told: what `evaluate.read` gives of a split.
      count: how many at most.
    """
    labels, chances = told["scores"]
    wrong = np.flatnonzero((chances >= told["threshold"]) != labels)
    beyond = np.abs(metrics.log_odds(chances[wrong]) - metrics.log_odds(told["threshold"]))
    return wrong[np.argsort(-beyond, kind="stable")][:count]


def build(
    told: dict,
    split: Split,
    features: np.ndarray,
    index: neighbours.Index,
    train: Split,
    explain: Callable[[np.ndarray], np.ndarray],
) -> list[Case]:
    """The worst errors of a split.

    Args:
      told: what `evaluate.read` gives of it.
      split: its images.
      features: of its images, (n, d).
      index: of the images of `train`, in their order.
      train: the training images.
      explain: image (s, s) uint8 -> map (s, s).
    """
    found = []
    for place in worst_errors(told, COUNT):
        image, own = split.read([place])[0, :, :, 0], features[place : place + 1]
        labels, chances = told["scores"]
        found.append(
            Case(
                id=str(split.ids[place]),
                label=int(labels[place]),
                probability=float(chances[place]),
                image=image,
                explained=overlay(image, explain(image)),
                unlike=bool(neighbours.unlikeness(index, own)[0] > index.limit),
                nearest=[one for label in (0, 1) for one in _nearest(index, own, label, train)],
            )
        )
    return found


def _nearest(index, features, label, train) -> list[Neighbour]:
    places, distances = neighbours.nearest(index, features, NEAREST, label)
    images = train.read(places[0])[..., 0] if len(places[0]) else []
    return [
        Neighbour(str(index.ids[place]), label, float(distance), image)
        for place, distance, image in zip(places[0], distances[0], images, strict=True)
    ]


def html(cases: Sequence[Case], failing: str) -> str:
    """The cases as a page shows them.

    Args:
      cases: to show.
      failing: why `METHOD` is not to be trusted, if it is not.
    """
    method = METHOD.replace("-", " ")
    warning = f'<p class="notice">{method.capitalize()} fail their checks: {page.text(failing)}.</p>' if failing else ""
    note = (
        '<p class="note">The errors farthest from the stored threshold, the worst first. Beside each, where the answer'
        f" comes from by {method} (red speaks for pneumonia, blue against), and the training images that are"
        " nearest in the model's last hidden layer, of both classes: an image that is called wrong is often like"
        " images of the other class. A map tells what the model looked at, not what is ill.</p>"
    )
    return note + warning + "\n".join(_case(case) for case in cases)


def _case(case: Case) -> str:
    truth, called = CLASSES[case.label], CLASSES[1 - case.label]
    doubt = " It is unlike the training images." if case.unlike else ""
    shown = [
        _figure(case.image, f"the image, {truth}", "image"),
        _figure(case.explained, "the image under its map", "explanation"),
        *(_figure(one.image, f"training image, {CLASSES[one.label]}", _told(one)) for one in case.nearest),
    ]
    return (
        f'<div class="case"><p><b>{truth}</b>, called {called}: probability {case.probability:.3f}.{doubt}'
        f' <span class="id">{page.text(case.id)}</span></p>\n<div class="strip">{"".join(shown)}</div></div>'
    )


def _told(one: Neighbour) -> str:
    return f"{CLASSES[one.label]}, at {one.distance:.2f}"


def _figure(image: np.ndarray, alt: str, caption: str) -> str:
    return f"<figure>{page.picture(image, SIDE, alt)}<figcaption>{page.text(caption)}</figcaption></figure>"
