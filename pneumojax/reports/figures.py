"""Figures as inline SVG, whose colours are CSS variables and so follow light and dark screens."""

import io
import itertools
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from sklearn.metrics import precision_recall_curve, roc_curve

from pneumojax.evaluation import metrics

LEVEL = 95  # per cent; of the intervals that evaluation stores and of the bands
BOOTSTRAPS = 300
MARKED_EPOCHS = 20  # a curve of no more epochs has a marker at each

# Drawn in the left colour, shown in the right one.
BLUE, ORANGE, INK, RULE = "#0072b2", "#d55e00", "#333333", "#bbbbbb"
THEME = {BLUE: "var(--blue)", ORANGE: "var(--orange)", INK: "currentColor", RULE: "var(--rule)"}
STYLE: dict[Any, Any] = {  # Matplotlib types keys as literals
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.grid": True,
    "grid.linewidth": 0.5,
    "grid.alpha": 0.6,
    **dict.fromkeys(("axes.spines.top", "axes.spines.right"), False),
    **dict.fromkeys(("axes.edgecolor", "grid.color", "xtick.color", "ytick.color"), RULE),
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), INK),
}
DASHES = (0, (4, 3))  # of reference lines

History = Mapping[str, Mapping[int, Mapping[str, float | None]]]  # split -> epoch -> metrics


class Drawing(NamedTuple):
    """A figure for a page: plain text, and inline SVG, which is empty if there is nothing to draw."""

    title: str
    caption: str
    svg: Markup = Markup()


class OperatingPoint(NamedTuple):
    """A point of a ROC curve, and its name in the legend."""

    sensitivity: float
    specificity: float
    name: str


def metric_by_epoch(history: History, key: str, title: str, baseline: tuple[float, str] | None) -> Drawing | None:
    """Draw a metric of train and val by epoch, as in the paper's Figs. 3, 5 and 7; None if it is never defined.

    The metric is `key` in `history`, and `title` for readers. `baseline` is the height and the name of a dashed line.
    """
    captions = []
    with matplotlib.rc_context(STYLE):
        figure, axes = _epochs_figure(3.0)
        for split, colour, width in (("train", ORANGE, 1.2), ("val", BLUE, 1.8)):
            points = [
                (epoch, epoch_metrics[key])
                for epoch, epoch_metrics in sorted(history.get(split, {}).items())
                if epoch_metrics.get(key) is not None
            ]
            if points:
                marker = "o" if len(points) <= MARKED_EPOCHS else None
                look = {"color": colour, "linewidth": width, "marker": marker, "markersize": 3}
                axes.plot(*zip(*points, strict=True), label=split, **look)
                captions.append(f"{split} {points[-1][1]:.3f} at epoch {points[-1][0]}")
        if not captions:
            return None
        if baseline:
            height, name = baseline
            axes.axhline(height, color=INK, linewidth=1, linestyle=DASHES, label=name)
            captions.append(f"{name} {height:.3f}")
        _legend_above(figure, columns=3)
        return _drawing(figure, "curve", key, f"{title} by epoch", "; ".join(captions) + ".")


def accuracy_by_recipe(model: str, accuracies: Mapping[str, np.ndarray], majority: float) -> Drawing:
    """Draw one model's val accuracy by epoch under several recipes, as in the paper's Figs. 3, 5 and 7.

    `accuracies` are (runs, epochs) by recipe; `majority` is the accuracy of always predicting the larger class.
    """
    captions = [f"{recipe} {runs[:, -1].mean():.3f} at epoch {runs.shape[1]}" for recipe, runs in accuracies.items()]
    captions.append(f"majority baseline {majority:.3f}")
    with matplotlib.rc_context(STYLE):
        figure, axes = _epochs_figure(3.2)
        looks = itertools.product(("-", "--", ":"), (BLUE, ORANGE, INK))
        for (recipe, runs), (dashes, colour) in zip(accuracies.items(), itertools.cycle(looks), strict=False):
            epochs = np.arange(1, runs.shape[1] + 1)
            axes.fill_between(epochs, runs.min(0), runs.max(0), color=colour, alpha=0.15, linewidth=0)
            marker = "o" if len(epochs) == 1 else None
            look = {"color": colour, "linestyle": dashes, "linewidth": 1.6, "marker": marker, "markersize": 4}
            axes.plot(epochs, runs.mean(0), label=recipe, **look)
        axes.axhline(majority, color=INK, linewidth=1, linestyle=DASHES, label="majority baseline")
        _legend_above(figure, columns=2)
        caption = f"mean over runs, in a band from the lowest to the highest run; {'; '.join(captions)}."
        return _drawing(figure, "accuracy", model, model.upper(), caption, "Val accuracy by epoch")


def reliability(split: str, labels: np.ndarray, probabilities: np.ndarray, caption: str) -> Drawing:
    """Draw a reliability diagram: the fraction of positives in each bin of probability, with Wilson's intervals.

    `labels` and `probabilities` are (n,); `caption` is the figure in words.
    """
    bins = metrics.reliability(labels, probabilities)
    mean, fraction, count = (values[bins[2] > 0] for values in bins)
    positives = np.rint(fraction * count)
    low, high = np.transpose(list(map(metrics.wilson, positives.tolist(), count.tolist())))
    with matplotlib.rc_context(STYLE):
        figure, axes = _unit_square("mean predicted probability", "fraction of positives")
        axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=DASHES)
        axes.vlines(mean, low, high, color=BLUE, linewidth=1.2, alpha=0.6, label=f"{LEVEL}% interval")
        sizes = 8 + 60 * count / count.max()
        axes.scatter(mean, fraction, s=sizes, color=BLUE, label="bin", clip_on=False, zorder=3)
        axes.legend(loc="upper left", frameon=False)
        return _drawing(figure, "reliability", split, split, caption, "Reliability diagram")


def precision_recall(split: str, labels: np.ndarray, probabilities: np.ndarray, caption: str) -> Drawing:
    """Draw a precision-recall curve with its bootstrap band.

    `labels` are (n,) and of both classes, `probabilities` (n,); `caption` is the figure in words.
    """
    grid = np.linspace(0.01, 1, 100)
    with matplotlib.rc_context(STYLE):
        figure, axes = _unit_square("recall (sensitivity)", "precision (positive predictive value)")
        axes.axhline(labels.mean(), color=INK, linewidth=0.8, linestyle=DASHES, label="prevalence")
        band = precision_band(labels, probabilities, grid)
        axes.fill_between(grid, *band, color=BLUE, alpha=0.22, linewidth=0, label=f"{LEVEL}% band")
        axes.plot(grid, precision_at(labels, probabilities, grid), color=BLUE, linewidth=1.6)
        axes.legend(loc="lower left", frameon=False)
        return _drawing(figure, "precision", split, split, caption, "Precision-recall curve")


def roc(
    split: str, labels: np.ndarray, probabilities: np.ndarray, points: Iterable[OperatingPoint], caption: str
) -> Drawing:
    """Draw a ROC curve with its bootstrap band, and up to two operating points.

    `labels` are (n,) and of both classes, `probabilities` (n,); `caption` is the figure in words.
    """
    grid = np.linspace(0, 1, 101)
    with matplotlib.rc_context(STYLE):
        figure, axes = _unit_square("1 − specificity", "sensitivity")
        axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=DASHES)
        band = roc_band(labels, probabilities, grid)
        axes.fill_between(grid, *band, color=BLUE, alpha=0.22, linewidth=0, label=f"{LEVEL}% band")
        axes.plot(*roc_points(labels, probabilities), color=BLUE, linewidth=1.6)
        look = {"color": ORANGE, "marker": "o", "markersize": 6.5, "linestyle": "none", "clip_on": False, "zorder": 5}
        for point, fill in zip(points, (ORANGE, "none"), strict=False):
            axes.plot(1 - point.specificity, point.sensitivity, markerfacecolor=fill, label=point.name, **look)
        axes.legend(loc="lower right", frameon=False)
        return _drawing(figure, "roc", split, split, caption, "ROC curve")


def roc_points(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the ROC curve's false and true positive rates, from (0, 0) to (1, 1), at every distinct probability."""
    return roc_curve(labels, probabilities, drop_intermediate=False)[:2]


def roc_band(labels: np.ndarray, probabilities: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Return the band (low, high) of the true positive rate at each false positive rate in `grid`: (2, k)."""

    def rate_at(false: np.ndarray, true: np.ndarray) -> np.ndarray:
        return np.interp(grid, np.append(0, false / false[-1]), np.append(0, true / true[-1]))

    return _band(labels, probabilities, rate_at)


def precision_band(labels: np.ndarray, probabilities: np.ndarray, recalls: np.ndarray) -> np.ndarray:
    """Return the band (low, high) of `precision_at` each of `recalls`: (2, k)."""

    def precision(false: np.ndarray, true: np.ndarray) -> np.ndarray:
        reached = np.searchsorted(true / true[-1], recalls - 1e-12)
        return true[reached] / (true + false)[reached]

    return _band(labels, probabilities, precision)


def precision_at(labels: np.ndarray, probabilities: np.ndarray, recalls: np.ndarray) -> np.ndarray:
    """Return the precision at the highest threshold that reaches each of `recalls`, (k,) in (0, 1]."""
    precision, recall, _ = precision_recall_curve(labels, probabilities)  # by rising threshold
    return precision[::-1][np.searchsorted(recall[::-1], recalls - 1e-12)]


def _band(
    labels: np.ndarray, probabilities: np.ndarray, measure: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> np.ndarray:
    """Return the pointwise (low, high) of `measure(false, true)`, by a seeded bootstrap within each class.

    `measure` is given the counts of false and true positives at each distinct probability, from the highest on. Images
    are sorted once: scikit-learn's curves would sort each sample.
    """
    rng = np.random.default_rng(0)
    falling = np.argsort(-probabilities)
    last = np.flatnonzero(np.diff(probabilities[falling], append=-1.0))  # of each distinct probability
    classes = [np.flatnonzero(labels[falling] == label) for label in (0, 1)]
    curves = []
    for _ in range(BOOTSTRAPS):
        times = [np.bincount(rng.choice(members, len(members)), minlength=len(labels)) for members in classes]
        curves.append(measure(*(np.cumsum(each)[last] for each in times)))
    return np.quantile(curves, [0.5 - LEVEL / 200, 0.5 + LEVEL / 200], axis=0)


def _epochs_figure(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(4.2, height), layout="constrained")
    axes = figure.add_subplot(xlabel="epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    return figure, axes


def _legend_above(figure: Figure, columns: int) -> None:
    figure.legend(loc="outside upper left", ncols=columns, frameon=False, handlelength=1.8, columnspacing=1.2)


def _unit_square(xlabel: str, ylabel: str) -> tuple[Figure, Axes]:
    """Make axes from 0 to 1, with fixed margins: to find them takes as long as drawing."""
    figure = Figure(figsize=(4.2, 3.9))
    area = (0.13, 0.114, 0.81, 0.872)
    return figure, figure.add_axes(area, xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xlabel=xlabel, ylabel=ylabel)


def _drawing(figure: Figure, kind: str, name: str, title: str, caption: str, what: str = "") -> Drawing:
    """Convert to themed SVG with a description, and with ids that no other figure of the page has."""
    name = f"{kind}-{re.sub('[^A-Za-z0-9_]', '_', name)}"
    out = io.StringIO()
    no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(out, format="svg", transparent=True, metadata=no_metadata)
    head, _, body = out.getvalue().partition("<svg ")[2].partition(">")
    # Matplotlib's own <style> would apply to the whole page; report.css says the same for every figure.
    body = re.sub(r"<style.*?</style>", "", body, flags=re.DOTALL).replace("xlink:href", "href").strip()
    body = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", body)
    for drawn, shown in THEME.items():
        body = body.replace(drawn, shown)
    view_box = re.search(r'viewBox="[^"]*"', head)
    assert view_box, "Matplotlib writes a viewBox"
    label = f"{what}{' of ' * bool(what)}{title}: {caption}"
    svg = Markup('<svg {} role="img" aria-label="{}">{}').format(Markup(view_box[0]), label, Markup(body))
    return Drawing(title, caption, svg)
