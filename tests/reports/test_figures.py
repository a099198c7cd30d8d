"""Figures: the curves by hand, and what the drawings show, read from their SVG."""

import re

import numpy as np
from page_outline import Outline

from pneumojax.evaluation import metrics
from pneumojax.reports import figures


def paths(svg, style):
    """The points, (n, 2), of each path whose style matches; y grows downwards."""
    drawn = re.findall(r'<path d="([^"]*)"[^>]*style="([^"]*)"', svg)
    numbers = (re.findall(r"-?\d+\.?\d*", path) for path, own_style in drawn if re.search(style, own_style))
    return [np.array(each, float).reshape(-1, 2) for each in numbers]


def test_roc_points_by_hand():
    """Cases with equal probabilities are one step, and every distinct probability is a point."""
    labels, probabilities = np.array([0, 1, 0, 1, 1]), np.array([0.1, 0.5, 0.5, 0.5, 0.9])
    # Of the positives, 1 of 3 has 0.9; two more and one of two negatives have 0.5.
    np.testing.assert_allclose(figures.roc_points(labels, probabilities), [[0, 0, 0.5, 1], [0, 1 / 3, 1, 1]])
    line = figures.roc_points(np.array([0, 1, 1, 1, 0]), np.array([0.1, 0.6, 0.7, 0.8, 0.2]))
    np.testing.assert_allclose(line, [[0, 0, 0, 0, 0.5, 1], [0, 1 / 3, 2 / 3, 1, 1, 1]])


def test_precision_at_recalls_by_hand():
    """By falling probability: positive, negative, positive, positive, negative."""
    labels, probabilities = np.array([1, 0, 1, 1, 0]), np.array([0.9, 0.8, 0.7, 0.6, 0.1])
    precisions = figures.precision_at(labels, probabilities, np.array([0.1, 1 / 3, 0.5, 2 / 3, 1.0]))
    np.testing.assert_allclose(precisions, [1, 1, 2 / 3, 2 / 3, 3 / 4])


def test_the_roc_band_contains_the_curve():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, 300)
    probabilities = 1 / (1 + np.exp(-rng.normal(labels * 1.5)))
    grid = np.linspace(0, 1, 11)
    low, high = figures.roc_band(labels, probabilities, grid)
    curve = np.interp(grid, *figures.roc_points(labels, probabilities))
    assert np.all(low <= curve) and np.all(curve <= high)
    assert 0.05 < (high - low)[2] < 0.4


def test_bands_are_those_of_scikit_learns_curves_of_each_sample():
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 2, 80)
    probabilities = np.round(1 / (1 + np.exp(-rng.normal(labels * 1.5))), 1)  # with ties
    falling, grid = np.argsort(-probabilities), np.linspace(0.01, 1, 12)
    classes, rng = [falling[labels[falling] == label] for label in (0, 1)], np.random.default_rng(0)
    rates, precisions = [], []
    for _ in range(figures.BOOTSTRAPS):
        drawn = np.concatenate([rng.choice(members, len(members)) for members in classes])
        rates.append(np.interp(grid, *figures.roc_points(labels[drawn], probabilities[drawn])))
        precisions.append(figures.precision_at(labels[drawn], probabilities[drawn], grid))
    for band, curves in (
        (figures.roc_band(labels, probabilities, grid), rates),
        (figures.precision_band(labels, probabilities, grid), precisions),
    ):
        np.testing.assert_allclose(band, np.quantile(curves, [0.025, 0.975], axis=0), rtol=1e-12)


def test_the_reliability_diagram_by_hand():
    """A dot for each bin that has images, at its mean probability and fraction of positives, with Wilson's interval."""
    labels = np.array([0, 0, 0, 1, 1, 1, 0, 1, 1, 0])
    probabilities = np.array([0.07, 0.1, 0.51, 0.5, 0.49, 0.95, 0.94, 0.96, 0.97, 0.98])
    drawing = figures.reliability("test & more", labels, probabilities, "ECE 0.1 < 0.2.")
    Outline(drawing.svg)
    assert (drawing.title, drawing.caption) == ("test & more", "ECE 0.1 < 0.2.")
    assert 'aria-label="Reliability diagram of test &amp; more: ECE 0.1 &lt; 0.2."' in drawing.svg
    [(origin, end)] = paths(drawing.svg, "stroke-dasharray")  # perfect calibration, from (0, 0) to (1, 1)
    bins = [(0.085, 0, 2), (0.5, 2, 3), (0.96, 3, 5)]  # mean probability, positives, images
    bars, dots = (
        [(path - origin) / (end - origin) for path in paths(drawing.svg.partition("legend_1")[0], style)]
        for style in ("var\\(--blue\\); stroke-opacity", "fill: var\\(--blue\\)")
    )
    for (mean, positives, count), bar, dot in zip(bins, bars, dots, strict=True):
        np.testing.assert_allclose(bar[:, 0], mean, atol=1e-3)
        np.testing.assert_allclose(bar[:, 1], metrics.wilson(positives, count), atol=1e-3)
        np.testing.assert_allclose((dot.min(0) + dot.max(0)) / 2, [mean, positives / count], atol=1e-3)
    widths = [np.ptp(dot[:, 0]) for dot in dots]
    assert widths[0] < widths[1] < widths[2], "a bin with more images has a larger dot"


def test_accuracy_by_recipe_by_hand():
    """Each recipe's mean over runs by epoch, and the majority baseline."""
    lines = {"paper": np.array([[0.5, 0.6, 0.7], [0.7, 0.8, 1.0]]), "other<x": np.array([[0.6, 0.5]])}
    drawing = figures.accuracy_by_recipe("m1", lines, 0.625)
    Outline(drawing.svg)
    assert drawing.title == "M1"
    assert drawing.caption.endswith("paper 0.850 at epoch 3; other<x 0.500 at epoch 2; majority baseline 0.625.")
    assert 'aria-label="Val accuracy by epoch of M1: mean over runs' in drawing.svg
    axes = drawing.svg.partition("legend_1")[0]
    [paper], [other] = (paths(axes, rf"stroke: var\(--{name}\); stroke-width: 1.6") for name in ("blue", "orange"))
    [majority] = paths(axes, "stroke-dasharray")
    first, step = paper[0, 0], paper[1, 0] - paper[0, 0]
    np.testing.assert_allclose((paper[:, 0] - first) / step, [0, 1, 2], atol=1e-3)
    np.testing.assert_allclose((other[:, 0] - first) / step, [0, 1], atol=1e-3)
    unit = (paper[2, 1] - paper[0, 1]) / 0.25  # 0.6 to 0.85
    for line, heights in ((paper, [0.6, 0.7, 0.85]), (other, [0.6, 0.5]), (majority, [0.625, 0.625])):
        np.testing.assert_allclose(0.6 + (line[:, 1] - paper[0, 1]) / unit, heights, atol=1e-3)


def test_one_epoch_is_visible():
    """A line through one point has no length: a marker shows it."""
    curve = figures.metric_by_epoch({"val": {1: {"auc": 0.9}}}, "auc", "AUC", None)
    recipe = figures.accuracy_by_recipe("m1", {"paper": np.full((2, 1), 0.7)}, 0.625)
    for drawing in (curve, recipe):
        axes = drawing.svg.partition("legend_1")[0]
        assert len(re.findall(r"<use [^>]*stroke: var\(--blue\)", axes)) == 1
        ticks = re.findall(
            r">([^<>]+)</text>", axes.partition("matplotlib.axis_1")[2].partition("matplotlib.axis_2")[0]
        )
        assert ticks == ["1", "epoch"], "epochs are whole numbers"


def test_a_metric_that_is_never_defined_has_no_figure():
    assert figures.metric_by_epoch({"val": {1: {"auc": None}}}, "auc", "AUC", (0.5, "random")) is None


def test_every_recipe_of_a_figure_has_its_own_look():
    """By colour and dashes: the page has two colours that remain distinct on any screen."""
    lines = {f"r{i}": np.array([[0.5 + i / 20, 0.6]]) for i in range(9)}
    legend = figures.accuracy_by_recipe("m2", lines, 0.625).svg.partition("legend_1")[2]
    looks = re.findall(r'style="fill: none;([^"]*)stroke-width: 1.6', legend)
    assert len(looks) == len(set(looks)) == 9
