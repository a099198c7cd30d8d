"""Draws the report's figures: inline SVG whose colours are CSS variables, for light and dark screens alike."""

import html
import io
import itertools
import re

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pneumojax import metrics

LEVEL = 95  # per cent, of the intervals that evaluation stores and of the ROC's band
BOOTSTRAPS = 300

# Drawn in the left colour, shown in the right one.
BLUE, ORANGE, INK, RULE = "#0072b2", "#d55e00", "#333333", "#bbbbbb"
THEME = {BLUE: "var(--blue)", ORANGE: "var(--orange)", INK: "currentColor", RULE: "var(--rule)"}
STYLE = {
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.grid": True,
    "grid.linewidth": 0.5,
    "grid.alpha": 0.6,
    **dict.fromkeys(("axes.spines.top", "axes.spines.right"), False),
    **dict.fromkeys(("axes.edgecolor", "grid.color", "xtick.color", "ytick.color"), RULE),
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), INK),
}


def _figure(figure, name, alt, caption) -> str:
    """The figure as inline SVG: themed, described, its ids unlike those of the page's other figures."""
    out = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(out, format="svg", transparent=True, metadata=nothing)
    head, _, body = out.getvalue().partition("<svg ")[2].partition(">")
    # Matplotlib's own <style> would reach over the whole page; report.css says the same for every figure.
    body = re.sub(r"<style.*?</style>", "", body, flags=re.DOTALL).replace("xlink:href", "href").strip()
    body = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", body)
    for drawn, shown in THEME.items():
        body = body.replace(drawn, shown)
    box = re.search(r'viewBox="[^"]*"', head)[0]
    svg = f'<svg {box} role="img" aria-label="{html.escape(alt)}">{body}'
    return f"<figure>\n{svg}\n<figcaption>{caption}</figcaption>\n</figure>"


def curve(history, key, title, baseline) -> str:
    """One metric of train and val by epoch, as in the paper's Figs. 3, 5 and 7; empty if it was never defined.

    Args:
      history: split -> epoch -> metrics.
      key, title: of the metric.
      baseline: (height, meaning) of a dashed line, or empty.
    """
    ends = []
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.2, 3.0), layout="constrained")
        axes = figure.add_subplot()
        for split, colour, width in (("train", ORANGE, 1.2), ("val", BLUE, 1.8)):
            lines = sorted(history.get(split, {}).items())
            points = [(epoch, entry[key]) for epoch, entry in lines if entry.get(key) is not None]
            if points:
                marker = "o" if len(points) <= 20 else None
                look = {"color": colour, "linewidth": width, "marker": marker, "markersize": 3}
                axes.plot(*zip(*points, strict=True), label=split, **look)
                ends.append(f"{split} {points[-1][1]:.3f} at epoch {points[-1][0]}")
        if not ends:
            return ""
        if baseline:
            axes.axhline(baseline[0], color=INK, linewidth=1, linestyle=(0, (4, 3)), label=baseline[1])
            ends.append(f"{baseline[1]} {baseline[0]:.3f}")
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        figure.legend(loc="outside upper left", ncols=3, frameon=False, handlelength=1.8, columnspacing=1.2)
        ends = f"by epoch: {'; '.join(ends)}."
        return _figure(figure, f"curve-{key}", f"{title} {ends}", f"<b>{title}</b> {html.escape(ends)}")


def accuracy_curves(model, lines, majority) -> str:
    """Val accuracy by epoch of one model under several recipes, as in the paper's Figs. 3, 5 and 7.

    Args:
      model: its name.
      lines: recipe -> (runs, epochs) accuracies.
      majority: the accuracy of always answering the larger class.
    """
    ends = [f"{recipe} {runs[:, -1].mean():.3f} at epoch {runs.shape[1]}" for recipe, runs in lines.items()]
    ends.append(f"always the larger class {majority:.3f}")
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.2, 3.2), layout="constrained")
        axes = figure.add_subplot()
        looks = itertools.product(("-", "--", ":"), (BLUE, ORANGE, INK))
        for (recipe, runs), (dashes, colour) in zip(lines.items(), itertools.cycle(looks), strict=False):
            epochs = np.arange(1, runs.shape[1] + 1)
            axes.fill_between(epochs, runs.min(0), runs.max(0), color=colour, alpha=0.15, linewidth=0)
            axes.plot(epochs, runs.mean(0), color=colour, linestyle=dashes, linewidth=1.6, label=recipe)
        axes.axhline(majority, color=INK, linewidth=1, linestyle=(0, (4, 3)))
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        figure.legend(loc="outside upper left", ncols=2, frameon=False, handlelength=1.8, columnspacing=1.2)
        told = f"{model.upper()}: mean over runs, between the least and the most; {'; '.join(ends)}."
        name = f"accuracy-{re.sub('[^A-Za-z0-9_]', '_', model)}"
        return _figure(figure, name, f"Val accuracy by epoch. {told}", html.escape(told))


def _unit_square() -> tuple[Figure, Axes]:
    """A figure whose axes go from 0 to 1. Its margins are known: to let them be found takes as long as drawing."""
    figure = Figure(figsize=(4.2, 3.9))
    return figure, figure.add_axes((0.13, 0.114, 0.81, 0.872), xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))


def reliability(split, labels, probabilities, described) -> str:
    """How often images of a probability are ill: the reliability diagram of one split.

    Args:
      split: its name.
      labels, probabilities: (n,) of the split.
      described: the figure in words.
    """
    mean, fraction, count = metrics.reliability(labels, probabilities)
    known = count > 0
    positives = np.rint((fraction * count)[known])
    low, high = np.transpose([metrics.wilson(*pair) for pair in zip(positives, count[known], strict=True)])
    with matplotlib.rc_context(STYLE):
        figure, axes = _unit_square()
        axes.set(xlabel="mean probability in the bin", ylabel="share of pneumonia")
        axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
        axes.vlines(mean[known], low, high, color=BLUE, linewidth=1.2, alpha=0.6, label=f"{LEVEL} % interval")
        axes.scatter(mean[known], fraction[known], s=8 + 60 * count[known] / count.max(), color=BLUE, label="bin")
        axes.legend(loc="upper left", frameon=False)
        name = f"reliability-{re.sub('[^A-Za-z0-9_]', '_', split)}"
        caption = f"<b>{html.escape(split)}</b>: {html.escape(described)}"
        return _figure(figure, name, f"Reliability diagram of {split}. {described}", caption)


def precision_recall(split, labels, probabilities, described) -> str:
    """The precision-recall curve of one split with its band, from the bootstrap that `roc_band` draws.

    Args:
      split: its name.
      labels, probabilities: (n,) of both classes.
      described: the figure in words.
    """
    grid = np.linspace(0.01, 1, 100)
    with matplotlib.rc_context(STYLE):
        figure, axes = _unit_square()
        axes.set(xlabel="recall (sensitivity)", ylabel="precision (positive predictive value)")
        axes.axhline(labels.mean(), color=INK, linewidth=0.8, linestyle=(0, (4, 3)), label="always pneumonia")
        band = _band(labels, probabilities, lambda *drawn: precision_at(*drawn, grid))
        axes.fill_between(grid, *band, color=BLUE, alpha=0.22, linewidth=0, label=f"{LEVEL} % band")
        axes.plot(grid, precision_at(labels, probabilities, grid), color=BLUE, linewidth=1.6)
        axes.legend(loc="lower left", frameon=False)
        name = f"precision-{re.sub('[^A-Za-z0-9_]', '_', split)}"
        caption = f"<b>{html.escape(split)}</b>: {html.escape(described)}"
        return _figure(figure, name, f"Precision-recall curve of {split}. {described}", caption)


def precision_at(labels, probabilities, recalls):
    """The precision at the highest threshold that reaches each recall."""
    false_positives, true_positives = roc(labels, probabilities)
    hits, alarms = true_positives * np.sum(labels == 1), false_positives * np.sum(labels == 0)
    places = np.searchsorted(true_positives, recalls - 1e-12)
    return hits[places] / np.maximum(hits[places] + alarms[places], 1e-12)


def roc(labels, probabilities):
    """Returns the curve's (false positive rates, true positive rates), from (0, 0) to (1, 1)."""
    _, place = np.unique(-probabilities, return_inverse=True)
    rates = (np.cumsum(np.bincount(place[labels == c], minlength=place.max() + 1)) for c in (0, 1))
    return tuple(np.concatenate([[0.0], counts / counts[-1]]) for counts in rates)


def roc_band(labels, probabilities, grid):
    """Returns the true positive rate's (low, high) at each false positive rate in `grid`."""
    return _band(labels, probabilities, lambda *drawn: np.interp(grid, *roc(*drawn)))


def _band(labels, probabilities, measure):
    """Pointwise (low, high) of `measure(labels, probabilities)`, an array, by a seeded bootstrap within each class."""
    rng = np.random.default_rng(0)
    classes = [np.flatnonzero(labels == c) for c in (0, 1)]
    found = []
    for _ in range(BOOTSTRAPS):
        drawn = np.concatenate([rng.choice(members, len(members)) for members in classes])
        found.append(measure(labels[drawn], probabilities[drawn]))
    return np.quantile(found, [0.5 - LEVEL / 200, 0.5 + LEVEL / 200], axis=0)


def roc_curve(split, labels, probabilities, points, described) -> str:
    """The ROC curve of one split with its band.

    Args:
      split: its name.
      labels, probabilities: (n,) of both classes.
      points: (sensitivity, specificity, meaning) of the operating points: the stored one, and the one at 0.5.
      described: the figure in words.
    """
    grid = np.linspace(0, 1, 101)
    with matplotlib.rc_context(STYLE):
        figure, axes = _unit_square()
        axes.set(xlabel="1 − specificity", ylabel="sensitivity")
        axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
        band = roc_band(labels, probabilities, grid)
        axes.fill_between(grid, *band, color=BLUE, alpha=0.22, linewidth=0, label=f"{LEVEL} % band")
        axes.plot(*roc(labels, probabilities), color=BLUE, linewidth=1.6)
        mark = {"color": ORANGE, "marker": "o", "markersize": 6.5, "linestyle": "none", "clip_on": False, "zorder": 5}
        for (sensitivity, specificity, meaning), fill in zip(points, (ORANGE, "none"), strict=False):
            axes.plot(1 - specificity, sensitivity, markerfacecolor=fill, label=meaning, **mark)
        axes.legend(loc="lower right", frameon=False)
        name = f"roc-{re.sub('[^A-Za-z0-9_]', '_', split)}"
        caption = f"<b>{html.escape(split)}</b>: {html.escape(described)}"
        return _figure(figure, name, f"ROC curve of {split}. {described}", caption)
