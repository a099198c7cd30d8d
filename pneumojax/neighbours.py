"""Which training images a model sees as like another, and whether any are: numpy on features, and one file.

Features are the output of the model's last hidden layer, on the unit sphere; distances are Euclidean there, in [0, 2].
"""

import io
import json
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from etils import epath
from numpy.typing import NDArray

from pneumojax.errors import UserError
from pneumojax.files import write_arrays

FILE = "neighbours.npz"
LAYER = "dense_1"  # the last hidden one
RANK = 10  # which of the nearest training images an image's distance is to, in `unlikeness`
WITHIN = 0.99  # share of val that is not called unlike the training images
_AT_ONCE = 1 << 24  # distances in memory at a time: 64 MiB


class Index(NamedTuple):
    """The training images of a model, to be searched.

    Attributes:
      ids: (n,) str.
      labels: (n,) uint8, 1 is pneumonia.
      features: (n, d) float32, each of length 1 (or 0, where no unit answers).
      limit: what `unlikeness` of an image like the training images does not exceed.
    """

    ids: NDArray
    labels: NDArray
    features: NDArray
    limit: float


def build(ids: Sequence[str], labels: NDArray, features: NDArray, val_features: NDArray) -> Index:
    """The index of training images, with the limit that `WITHIN` of val keep."""
    index = Index(np.asarray(ids), np.asarray(labels, np.uint8), unit(features), np.inf)
    return index._replace(limit=float(np.quantile(unlikeness(index, val_features), WITHIN)))


def unit(features: NDArray) -> NDArray:
    """Features on the unit sphere: (n, d) -> (n, d) float32."""
    features = np.asarray(features, np.float32)
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.where(lengths == 0, 1, lengths)


def unlikeness(index: Index, features: NDArray) -> NDArray:
    """How far each image is from its `RANK`-th nearest training image: features (k, d) -> (k,), in [0, 2].

    Sun et al., "Out-of-Distribution Detection with Deep Nearest Neighbors", 2022.
    """
    rank = min(RANK, len(index.ids))
    blocks = _blocks(unit(features), len(index.ids))
    squares = [np.partition(_squared_distances(index.features, block), rank - 1, 1)[:, rank - 1] for block in blocks]
    return np.sqrt(np.maximum(np.concatenate(squares), 0))


def nearest(index: Index, features: NDArray, count: int, label: int | None = None) -> tuple[NDArray, NDArray]:
    """The training images nearest to each image.

    Args:
      index: to search.
      features: (k, d), of any length.
      count: how many of them; all, where there are fewer.
      label: of training images of this label alone.

    Returns:
      Their places in the index, (k, count) int, and their distances, (k, count) float32, ascending.
    """
    among = np.arange(len(index.ids)) if label is None else np.flatnonzero(index.labels == label)
    count = min(count, len(among))
    training = index.features[among]
    found = [_nearest(training, block, count) for block in _blocks(unit(features), len(among))]
    places, distances = (np.concatenate(part) for part in zip(*found, strict=True))
    return among[places], distances


def _blocks(features, others):
    """Rows of `features`, so many at a time that their distances to `others` fit the memory; one block at least."""
    rows = max(_AT_ONCE // max(others, 1), 1)
    return [features[start : start + rows] for start in range(0, max(len(features), 1), rows)]


def _squared_distances(features, queries):
    """(queries, features) float32; rounding may leave some a little below zero."""
    found = queries @ features.T
    found *= -2
    found += _squares(features)
    found += _squares(queries)[:, None]
    return found


def _nearest(features, queries, count):
    distances = np.sqrt(np.maximum(_squared_distances(features, queries), 0))
    places = np.argpartition(distances, count - 1, 1)[:, :count] if count < len(features) else None
    if places is None:
        places = np.broadcast_to(np.arange(len(features)), distances.shape)
    order = np.argsort(np.take_along_axis(distances, places, 1), 1, kind="stable")
    places = np.take_along_axis(places, order, 1)
    return places, np.take_along_axis(distances, places, 1)


def _squares(features):
    return np.square(features).sum(1)


def write(workdir: epath.Path, index: Index) -> None:
    """Writes the index into the run's workdir."""
    write_arrays(workdir / FILE, index._replace(ids=np.array(json.dumps(index.ids.tolist())))._asdict())


def read(workdir: epath.Path) -> Index:
    """The index of the run in `workdir`; raises UserError where there is none, or it is damaged."""
    path = workdir / FILE
    if not path.exists():
        raise UserError(f"{path} is missing: --mode=evaluate --workdir={workdir} writes it")
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as held:
            index = Index(**{name: held[name] for name in Index._fields})
        index = index._replace(ids=np.array(json.loads(str(index.ids))), limit=float(index.limit))
        if not len(index.ids) == len(index.labels) == len(index.features):
            raise ValueError("its arrays do not go together")
    except Exception as error:  # NumPy and zipfile raise whatever they stumble over in a damaged file
        told = " ".join(str(error).split())
        raise UserError(f"{path} is damaged ({told}): --mode=evaluate --workdir={workdir} writes it anew") from None
    return index
