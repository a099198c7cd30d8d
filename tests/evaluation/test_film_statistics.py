"""Shallow statistics of images that are simple enough to know them."""

import numpy as np
import pytest

from pneumojax.data.sources import phantom
from pneumojax.evaluation import film_statistics
from pneumojax.evaluation.film_statistics import CELLS, COUNT, DETAIL_CELLS, LAGS, LEVELS, NAMES


def parts(statistics):
    """Divide the statistics of one image into brightness by cell, detail by lag and axis, levels, and the named."""
    ends = np.cumsum([CELLS**2, *[DETAIL_CELLS**2] * (2 * len(LAGS)), len(LEVELS)])
    brightness, *detail, levels, named = np.split(statistics, ends)
    return brightness, detail, levels, dict(zip(NAMES, named.tolist(), strict=True))


def test_a_uniform_image():
    """It is as bright everywhere, has no detail, and all of its pixels have one level."""
    [found] = film_statistics.of(np.full((1, 40, 40), 100, np.uint8))
    brightness, detail, levels, named = parts(found)
    np.testing.assert_allclose(brightness, 100 / 255, rtol=1e-5)
    assert not np.any(detail)
    assert levels.tolist() == [float(level >= 100) for level in LEVELS]
    assert named == pytest.approx(
        {"brightness": 100 / 255, "contrast": 0, "detail": 0, "share of black": 0, "share of white": 0}, abs=1e-3
    )


def test_stripes_have_detail_along_one_axis():
    """Columns alternate between black and white: neighbours in a row differ by 1, those two apart not at all."""
    image = np.tile(np.array([0, 255], np.uint8), (30, 15))
    [found] = film_statistics.of(image[None])
    _, detail, levels, named = parts(found)
    expected = {1: 1.0, 2: 0.0, 4: 0.0}
    for number, lag in enumerate(LAGS):
        np.testing.assert_allclose(detail[2 * number], expected[lag], atol=1e-6)
        np.testing.assert_allclose(detail[2 * number + 1], 0)
    np.testing.assert_allclose(levels, 0.5)
    assert (named["contrast"], named["share of black"], named["share of white"]) == pytest.approx((0.5, 0.5, 0.5))


@pytest.mark.parametrize(("size", "cells"), [(150, 10), (150, 7), (16, 10), (149, 5)])
def test_cells_average_all_pixels_alike(size, cells):
    matrix = film_statistics.pooling(size, cells)
    np.testing.assert_allclose(matrix.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(matrix.sum(0), cells / size, rtol=1e-5)


def test_statistics_of_a_batch_are_those_of_each_image():
    images = np.stack([phantom.render(1, number, 0, 48)[0] for number in range(40)])
    whole = film_statistics.of(images)
    assert (whole.shape, whole.dtype) == ((40, COUNT), np.float32)
    np.testing.assert_allclose(whole, np.concatenate([film_statistics.of(image[None]) for image in images]), atol=1e-6)
    assert film_statistics.of(images[:0]).shape == (0, COUNT)
