"""Shallow statistics of images: how bright they are and where, how much detail they have and where, and their levels.

A network learns to overlook much of this, since its training varies it. So it tells images of another kind, such as
photographs, turned films, or films of another hospital, where the network's own features do not. All are averages,
roots and comparisons, which an ONNX graph can compute too.
"""

from functools import lru_cache

import numpy as np
from jaxtyping import Float32, UInt8

CELLS = 10  # a side of the grid on which brightness is averaged
DETAIL_CELLS = 5  # a side of the grid on which detail is averaged
LAGS = (1, 2, 4)  # pixels between which detail is the difference
LEVELS = tuple(16 * k for k in range(1, 16))  # grey levels; the share of pixels up to each is a statistic
DARK, WHITE = 8, 247  # grey levels: pixels up to the first are dark, above the second white
NAMES = ("brightness", "contrast", "detail", "share of black", "share of white")  # the last statistics, in words
COUNT = CELLS**2 + 2 * len(LAGS) * DETAIL_CELLS**2 + len(LEVELS) + len(NAMES)
MIN_SIZE = 16  # pixels, as a model takes at least


def of(images: UInt8[np.ndarray, "n size size"]) -> Float32[np.ndarray, "n statistics"]:
    """Compute the `COUNT` statistics of each image.

    Returns:
      By image: the mean intensity, in [0, 1], of each of `CELLS` x `CELLS` cells; for each lag, first along rows, then
      along columns, the root of the mean absolute difference in each of `DETAIL_CELLS` x `DETAIL_CELLS` cells; the
      share of pixels up to each of `LEVELS`; and what `NAMES` says.
    """
    found = np.empty((len(images), COUNT), np.float32)
    for place, image in enumerate(images):
        found[place] = _of_one(image)
    return found


def _of_one(image: UInt8[np.ndarray, "size size"]) -> Float32[np.ndarray, " statistics"]:
    """Compute the statistics of one image: of several at once, the arrays would not fit the processor's cache."""
    x = image.astype(np.float32) / np.float32(255)
    parts = [_pooled(x, CELLS)]
    for lag in LAGS:
        parts += [np.sqrt(_pooled(np.abs(x[:, lag:] - x[:, :-lag]), DETAIL_CELLS))]
        parts += [np.sqrt(_pooled(np.abs(x[lag:] - x[:-lag]), DETAIL_CELLS))]
    counts = np.bincount(image.ravel(), minlength=256) / image.size
    below, levels = np.cumsum(counts), np.arange(256) / 255
    mean = counts @ levels
    contrast = np.sqrt(max(counts @ levels**2 - mean**2, 0))
    detail = np.mean(parts[1] ** 2)
    named = [mean, contrast, detail, below[DARK], 1 - below[WHITE]]
    return np.concatenate([*parts, below[list(LEVELS)], named]).astype(np.float32)


@lru_cache(maxsize=64)
def pooling(size: int, cells: int) -> Float32[np.ndarray, "cells size"]:
    """Return the matrix that averages `size` pixels in `cells` cells of equal width; a pixel may belong to two."""
    edges = np.arange(cells + 1) * size / cells
    low, high = np.arange(size), np.arange(size) + 1
    overlap = np.minimum(high, edges[1:, None]) - np.maximum(low, edges[:-1, None])
    matrix = (np.maximum(overlap, 0) * cells / size).astype(np.float32)
    matrix.flags.writeable = False  # it is shared
    return matrix


def _pooled(x: Float32[np.ndarray, "height width"], cells: int) -> Float32[np.ndarray, " cells_squared"]:
    rows, columns = pooling(x.shape[0], cells), pooling(x.shape[1], cells)
    return (rows @ (x @ columns.T)).ravel()
