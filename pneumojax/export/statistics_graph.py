"""The shallow statistics of images, and the guard's score, as nodes of an ONNX graph, in float32."""

import numpy as np
from onnx import TensorProto

from pneumojax.evaluation import film_statistics
from pneumojax.evaluation.film_statistics import CELLS, DARK, DETAIL_CELLS, LAGS, LEVELS, WHITE
from pneumojax.evaluation.guard import NEAR_K
from pneumojax.evaluation.neighbours import Index
from pneumojax.export.graph_builder import Graph

_SPATIAL = np.array([2, 3], np.int64)  # axes


def statistics(graph: Graph, images: str, size: int) -> str:
    """Compute `film_statistics.of` images, (batch, 1, size, size) float32 in [0, 1]: (batch, statistics)."""
    spatial = graph.constant("spatial", _SPATIAL)
    parts = [_flat(graph, _pooled(graph, images, size, size, CELLS, "brightness"), CELLS, "brightness")]
    for lag in LAGS:
        parts += [_detail(graph, images, size, lag, axis) for axis in (3, 2)]
    cuts = (np.array([*LEVELS, DARK, WHITE], np.float32) + np.float32(0.5)) / np.float32(255)
    levels = graph.constant("levels", cuts.reshape(1, -1, 1, 1))
    below = graph.add("Cast", [graph.add("Less", [images, levels], "is_below")], "below", to=TensorProto.FLOAT)
    shares = graph.add("ReduceMean", [below, spatial], "shares", keepdims=0)
    at_levels, dark, not_white = graph.split(
        shares, ["at_levels", "dark", "not_white"], 1, np.array([len(LEVELS), 1, 1], np.int64)
    )
    white = graph.add("Sub", [graph.constant("one", np.float32(1)), not_white], "white")
    named = [*_brightness_and_contrast(graph, images, spatial), _mean_detail(graph, parts[1]), dark, white]
    return graph.add("Concat", [*parts, at_levels, *named], "statistics", axis=1)


def _pooled(graph: Graph, x: str, height: int, width: int, cells: int, name: str) -> str:
    rows = graph.constant(f"{name}.rows", film_statistics.pooling(height, cells))
    columns = graph.constant(f"{name}.columns", film_statistics.pooling(width, cells).T)
    return graph.add("MatMul", [graph.add("MatMul", [rows, x], f"{name}.in_rows"), columns], f"{name}.pooled")


def _flat(graph: Graph, x: str, cells: int, name: str) -> str:
    return graph.add("Reshape", [x, graph.shape(0, cells * cells)], name)


def _detail(graph: Graph, images: str, size: int, lag: int, axis: int) -> str:
    """Compute the roots of the mean absolute differences over a lag, (batch, cells)."""
    name = f"detail_{lag}_{'x' if axis == 3 else 'y'}"
    ends = {"later": (lag, size), "earlier": (0, size - lag)}
    later, earlier = (
        graph.add("Slice", [images, graph.axis(start), graph.axis(end), graph.axis(axis)], f"{name}.{which}")
        for which, (start, end) in ends.items()
    )
    away = graph.add("Abs", [graph.add("Sub", [later, earlier], f"{name}.difference")], f"{name}.away")
    height, width = (size, size - lag) if axis == 3 else (size - lag, size)
    pooled = _pooled(graph, away, height, width, DETAIL_CELLS, name)
    return _flat(graph, graph.add("Sqrt", [pooled], f"{name}.root"), DETAIL_CELLS, name)


def _brightness_and_contrast(graph: Graph, images: str, spatial: str) -> tuple[str, str]:
    """Compute the mean and the standard deviation of each image, (batch, 1) each."""
    mean = graph.add("ReduceMean", [images, spatial], "mean", keepdims=0)
    square = graph.add("Mul", [images, images], "squared")
    squares = graph.add("ReduceMean", [square, spatial], "mean_square", keepdims=0)
    variance = graph.add("Sub", [squares, graph.add("Mul", [mean, mean], "mean.squared")], "variance")
    zero = graph.constant("zero", np.float32(0))
    return mean, graph.add("Sqrt", [graph.add("Max", [variance, zero], "variance.not_negative")], "contrast")


def _mean_detail(graph: Graph, roots: str) -> str:
    squares = graph.add("Mul", [roots, roots], "detail.squares")
    return graph.add("ReduceMean", [squares, graph.axis(1)], "detail", keepdims=1)


def guard_score(graph: Graph, index: Index, deep: str, found: str) -> str:
    """Compute `guard.scores`, (batch, 1), of the deep part, (batch, 1), and of the images' statistics."""
    away = graph.add("Sub", [found, graph.constant("center", index.guard_center)], "away")
    along = graph.add("MatMul", [away, graph.constant("axes", index.guard_axes)], "along")
    count = index.guard_training.shape[1]
    sizes = np.array([count, index.guard_axes.shape[1] - count], np.int64)
    main, others = graph.split(along, ["main", "others"], 1, sizes)
    near = _nearest(graph, index, main)
    rest = graph.add("ReduceL2", [others, graph.axis(1)], "rest", keepdims=1)
    turned = graph.add("MatMul", [away, graph.constant("turned.weights", index.guard_turned[:, None])], "turned")
    units = [
        graph.add("Div", [part, graph.constant(f"limit_{number}", limit)], f"in_limits_{number}")
        for number, (part, limit) in enumerate(zip((deep, near, rest, turned), index.guard_limits, strict=True))
    ]
    return graph.add("Max", units, "score")


def _nearest(graph: Graph, index: Index, main: str) -> str:
    """Compute the distance to the `NEAR_K`-th nearest training image along the main axes, (batch, 1)."""
    training, rank = index.guard_training, min(NEAR_K, len(index.guard_training))
    products = graph.add("MatMul", [main, graph.constant("training", training.T)], "products")
    doubled = graph.add("Mul", [products, graph.constant("minus_two", np.float32(-2))], "products.doubled")
    lengths = graph.constant("training.squares", np.square(training).sum(1))
    own = graph.add("ReduceSumSquare", [main, graph.axis(1)], "square", keepdims=1)
    squares = graph.add("Add", [graph.add("Add", [doubled, lengths], "squares.partial"), own], "squares")
    last = graph.add("Gather", [graph.lowest(squares, rank, "nearest"), graph.axis(rank - 1)], "last", axis=1)
    zero = graph.constant("zero", np.float32(0))
    return graph.add("Sqrt", [graph.add("Max", [last, zero], "last.not_negative")], "near")
