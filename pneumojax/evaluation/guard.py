"""The OOD score of deep features and shallow statistics together: does an image look like the training images?

It has four parts, each in units of a limit, and the largest counts, so 1 is the limit of the score:

- deep: the distance to the tenth nearest training image in the network's features, see `neighbours`;
- near: the distance to the third nearest in the `NEAR` main axes of `film_statistics`, whitened;
- rest: the length along all further axes, whitened, which training images hardly use (the Mahalanobis distance of Lee
  et al., "A Simple Unified Framework for Detecting Out-of-Distribution Samples", 2018);
- turned: Fisher's discriminant between training images and the same ones turned, upside down or inverted (outlier
  exposure: Hendrycks et al., "Deep Anomaly Detection with Outlier Exposure", 2019).

docs/benchmarks/elsewhere.md has the rates by which these were chosen.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float32, Float64, UInt8

from pneumojax.evaluation import film_statistics
from pneumojax.evaluation.neighbours import EXPECTED, GUARD_PARTS, Index, kth_distances, ood_scores

NEAR = 48  # main axes
NEAR_K = 3  # which nearest training image counts
TURNED_PART = 3  # its place among the parts
TURNED = 600  # training images that are turned
_SHARES = np.array([0.998, 0.985, 0.995, 0.998])  # of val within each part's limit, before all are scaled
_LEAST_TURNED = 0.3  # where 0 is the mean of training images, and 1 that of turned ones
_RIDGE = 0.1  # of the mean variance, added to every variance of the discriminant
_LEAST = 1e-3  # variance of an axis of standardized statistics: rounding makes smaller ones

Statistics = Float32[np.ndarray, "_ statistics"]


def has_guard(index: Index) -> bool:
    """Whether the index has what the shallow parts need; those of earlier versions have not."""
    return len(index.guard_center) > 0


def turned(images: UInt8[np.ndarray, "n size size"]) -> UInt8[np.ndarray, "n size size"]:
    """Return the images by turns upside down, flipped upside down, on either side, and inverted."""
    ways = (
        lambda image: image[::-1, ::-1],
        lambda image: image[::-1],
        lambda image: np.rot90(image, 1),
        lambda image: np.rot90(image, 3),
        lambda image: 255 - image,
    )
    return np.stack([ways[place % len(ways)](image) for place, image in enumerate(images)])


def guarded(
    index: Index,
    statistics: Statistics,
    val_statistics: Statistics,
    val_features: Float[np.ndarray, "val d"],
    turned_statistics: Statistics,
) -> Index:
    """Return the index with the guard of its training images.

    Args:
      index: without a guard.
      statistics: of its training images, in order.
      val_statistics, val_features: of val, by which the limits are set.
      turned_statistics: of training images that were `turned`.
    """
    center = statistics.mean(0, dtype=np.float64)
    axes = _axes(statistics - center)
    near = (statistics - center) @ axes[:, :NEAR]
    fitted = index._replace(
        limit=1.0,
        guard_center=center.astype(np.float32),
        guard_axes=axes.astype(np.float32),
        guard_training=near.astype(np.float32),
        guard_turned=_discriminant((statistics - center) @ axes, (turned_statistics - center) @ axes, axes),
        guard_limits=np.ones(len(_SHARES), np.float32),
    )
    parts = np.stack(parts_of(fitted, val_features, val_statistics), 1).astype(np.float64)
    return fitted._replace(guard_limits=limits_of(parts).astype(np.float32))


def limits_of(
    parts: Float[np.ndarray, "val parts"], counted: Sequence[int] = range(GUARD_PARTS)
) -> Float64[np.ndarray, " parts"]:
    """Return the limits of the parts, of which those that are `counted` together flag `EXPECTED` of val.

    The discriminant of turned images has a limit of its own; what it adds is rare. Of parts that do not count, the
    limits are infinite.
    """
    limits = np.maximum([np.quantile(part, share) for part, share in zip(parts.T, _SHARES, strict=True)], 1e-6)
    limits[TURNED_PART] = max(limits[TURNED_PART], _LEAST_TURNED)
    limits[np.setdiff1d(range(GUARD_PARTS), counted)] = np.inf
    others = np.arange(GUARD_PARTS) != TURNED_PART
    limits[others] *= max(float(np.quantile((parts / limits)[:, others].max(1), 1 - EXPECTED)), 1e-6)
    return limits


def _axes(centered: Float[np.ndarray, "n statistics"]) -> Float[np.ndarray, "statistics statistics"]:
    """Return the axes in which the statistics are uncorrelated and of variance 1, the main ones first."""
    scale = np.sqrt(np.mean(np.square(centered, dtype=np.float64), axis=0))
    scale = np.where(scale < 1e-6, max(float(scale.max()), 1e-6), scale)
    x = centered / scale
    values, vectors = np.linalg.eigh(x.T @ x / len(x))
    return vectors[:, ::-1] / np.sqrt(np.maximum(values[::-1], _LEAST)) / scale[:, None]


def _discriminant(
    along: Float[np.ndarray, "n axes"], other: Float[np.ndarray, "m axes"], axes: Float[np.ndarray, "statistics axes"]
) -> Float32[np.ndarray, " statistics"]:
    """Return the weights of centered statistics by which `along` have the mean 0 and `other` the mean 1."""
    mean = other.mean(0)
    within = (along.T @ along / len(along) + np.cov(other.T, bias=True)) / 2
    within += _RIDGE * max(np.trace(within) / len(within), 1e-6) * np.eye(len(within))
    direction = np.linalg.solve(within, mean)
    reached = float(mean @ direction)
    return (axes @ direction / (reached if reached > 0 else 1.0)).astype(np.float32)


def parts_of(
    index: Index, features: Float[np.ndarray, "k d"], statistics: Float32[np.ndarray, "k statistics"]
) -> tuple[Float32[np.ndarray, " k"], ...]:
    """Compute the parts deep, near, rest and turned of an index with a guard, without their limits."""
    centered = np.asarray(statistics, np.float32) - index.guard_center
    along = centered @ index.guard_axes
    count = index.guard_training.shape[1]
    near = kth_distances(index.guard_training, along[:, :count], NEAR_K)
    rest = np.sqrt(np.square(along[:, count:]).sum(1))
    return ood_scores(index, features), near, rest, centered @ index.guard_turned


def scores(
    index: Index, features: Float[np.ndarray, "k d"], statistics: Float32[np.ndarray, "k statistics"] | None
) -> Float32[np.ndarray, " k"]:
    """Compute OOD scores, to be compared with the index's limit.

    Without a guard, they are those of the features alone, and need no statistics.

    Raises:
      ValueError: there are no statistics.
    """
    if not has_guard(index):
        return ood_scores(index, features)
    if statistics is None or statistics.shape[1:] != index.guard_center.shape:
        raise ValueError(f"the guard needs the {film_statistics.COUNT} statistics of each image")
    return (np.stack(parts_of(index, features, statistics), 1) / index.guard_limits).max(1)
