"""A network of the family, its map and its OOD score as nodes of an ONNX graph, in float32."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32
from onnx import TensorProto, numpy_helper

from pneumojax.evaluation.guard import has_guard
from pneumojax.evaluation.neighbours import Index, K
from pneumojax.export.graph_builder import Graph
from pneumojax.export.statistics_graph import guard_score
from pneumojax.inference.trained_model import Member, tensors
from pneumojax.models.block_reference import EPSILON
from pneumojax.models.classifier import LEVELS

Tensors = dict[str, Float32[np.ndarray, "..."]]  # by the names of `trained_model.tensors`


class Outputs(NamedTuple):
    """Names of what a network gives: the logit (batch,), the map (batch, size, size), and the OOD score (batch, 1)."""

    logit: str
    map: str
    ood_score: str


def network(graph: Graph, member: Member, images: str, size: int, statistics: str = "") -> Outputs:
    """Compute a member's outputs of `images`, (batch, 1, size, size) float32 in [0, 1], whose statistics are given.

    Logit and map are divided by the member's scale. A member without a guard needs no statistics.
    """
    values = tensors(member.variables)
    count, side = len(member.model.blocks), size
    x = rectified = _equalized(graph.part("equalize"), images, size) if member.model.equalize else images
    for number in range(1, count + 1):
        rectified, x = _block(graph, values, number, x, side)
        side = _pooled(side)
    hidden, logit = _head(graph, values, x, side)
    plain = _grad_cam(graph, values, count, hidden, rectified, size)
    if member.scale != 1:
        scale = graph.constant("scale", np.float32(member.scale))
        logit, plain = (graph.add("Div", [each, scale], f"{each.rpartition('.')[2]}_scaled") for each in (logit, plain))
    score = _distance(graph.part("ood"), member.training, hidden)
    if has_guard(member.training):
        score = guard_score(graph.part("guard"), member.training, score, statistics)
    return Outputs(logit, plain, score)


def _equalized(graph: Graph, images: str, size: int) -> str:
    """Compute `classifier.equalized` of the images."""
    pixels = size * size
    scaled = graph.add("Mul", [images, graph.constant("white", np.float32(LEVELS - 1))], "scaled")
    rounded = graph.add("Cast", [graph.add("Round", [scaled], "rounded")], "integers", to=TensorProto.INT64)
    levels = graph.add("Reshape", [rounded, graph.shape(0, pixels)], "levels")
    shape = graph.add("Shape", [levels], "levels.shape")
    rows = graph.add("Gather", [shape, graph.axis(0)], "rows", axis=0)
    of_counts = graph.add("Concat", [rows, graph.axis(LEVELS)], "counts.shape", axis=0)
    none, ones = (
        graph.add("ConstantOfShape", [of], name, value=numpy_helper.from_array(np.array([value], np.float32)))
        for name, of, value in (("none", of_counts, 0), ("ones", shape, 1))
    )
    counts = graph.add("ScatterElements", [none, levels, ones], "counts", axis=1, reduction="add")
    up_to = graph.add("CumSum", [counts, graph.int32(1)], "up_to")
    half = graph.add("Mul", [counts, graph.constant("half", np.float32(0.5))], "half_of_counts")
    below = graph.add("Sub", [up_to, half], "below")
    shares = graph.add("Div", [below, graph.constant("pixels", np.float32(pixels))], "shares")
    flat = graph.add("GatherElements", [shares, levels], "flat", axis=1)
    return graph.add("Reshape", [flat, graph.shape(0, 1, size, size)], "images")


def _pooled(side: int) -> int:
    return -(-side // 2)


def _block(graph: Graph, values: Tensors, number: int, x: str, side: int) -> tuple[str, str]:
    """Compute a block; return the activations and the block's output.

    Max-pool comes before batch normalization, which then has a quarter of the values to do. It chooses the same values,
    since activations of channels with a negative scale are negated before, as in `block_fused`.
    """
    layer, norm = f"params.conv_{number}", f"params.batch_norm_{number}"
    running = f"batch_stats.batch_norm_{number}"
    kernel = graph.constant(f"conv_{number}.kernel", values[f"{layer}.kernel"].transpose(3, 2, 0, 1))
    bias = graph.constant(f"conv_{number}.bias", values[f"{layer}.bias"])
    attributes = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    convolved = graph.add("Conv", [x, kernel, bias], f"conv_{number}", **attributes)
    rectified = chosen_from = graph.add("Relu", [convolved], f"relu_{number}")
    sign = np.where(values[f"{norm}.scale"] < 0, np.float32(-1), np.float32(1))
    if (sign < 0).any():
        signs = graph.constant(f"batch_norm_{number}.sign", sign[:, None, None])
        chosen_from = graph.add("Mul", [rectified, signs], f"relu_{number}.signed")
    window = {"kernel_shape": [2, 2], "strides": [2, 2], "pads": [0, 0, side % 2, side % 2]}
    pooled = graph.add("MaxPool", [chosen_from], f"max_pool_{number}", **window)
    by = {"scale": values[f"{norm}.scale"] * sign, "bias": values[f"{norm}.bias"]}
    by |= {"mean": values[f"{running}.mean"] * sign, "var": values[f"{running}.var"]}
    constants = [graph.constant(f"batch_norm_{number}.{name}", value) for name, value in by.items()]
    return rectified, graph.add("BatchNormalization", [pooled, *constants], f"batch_norm_{number}", epsilon=EPSILON)


def _head(graph: Graph, values: Tensors, x: str, side: int) -> tuple[str, str]:
    """Compute the dense layers; return the hidden layer's output, (batch, units), and the logit, (batch,)."""
    kernel = _by_place(values, side)
    flat = graph.add("Flatten", [x], "flatten", axis=1)
    first = [graph.constant("dense_1.kernel", kernel.transpose(2, 0, 1, 3).reshape(-1, kernel.shape[3]))]
    first.append(graph.constant("dense_1.bias", values["params.dense_1.bias"]))
    hidden = graph.add("Relu", [graph.add("Gemm", [flat, *first], "dense_1")], "hidden")
    second = [graph.constant(f"dense_2.{name}", values[f"params.dense_2.{name}"]) for name in ("kernel", "bias")]
    column = graph.add("Gemm", [hidden, *second], "dense_2")
    return hidden, graph.add("Squeeze", [column, graph.axis(1)], "logit")


def _by_place(values: Tensors, side: int) -> Float32[np.ndarray, "side side channels units"]:
    """Return the first dense layer's kernel by the places and channels of the last block's output."""
    kernel = values["params.dense_1.kernel"]
    return kernel.reshape(side, side, -1, kernel.shape[1])


def _grad_cam(graph: Graph, values: Tensors, count: int, hidden: str, rectified: str, size: int) -> str:
    """Compute `attribution.grad_cam` of the last convolution in closed form, (batch, size, size).

    Each of its activations reaches the logit through at most one place of the last block's output, with batch
    normalization's slope. So a channel's summed gradient is that slope times the sum, over the places, of what the
    dense layers pass back: the active units' weights in the last layer times theirs in the first.
    """
    side = _side(size, count - 1)
    norm, running = f"params.batch_norm_{count}", f"batch_stats.batch_norm_{count}"
    slope = values[f"{norm}.scale"] / np.sqrt(values[f"{running}.var"].astype(np.float64) + EPSILON)
    summed = _by_place(values, _side(size, count)).sum((0, 1), dtype=np.float64)
    gradients = values["params.dense_2.kernel"] * summed.T * slope / side**2
    gradients = graph.constant("grad_cam.gradients", gradients.astype(np.float32))
    active = graph.add("Greater", [hidden, graph.constant("grad_cam.zero", np.float32(0))], "grad_cam.active")
    active = graph.add("Cast", [active], "grad_cam.active_units", to=TensorProto.FLOAT)
    weights = graph.add("MatMul", [active, gradients], "grad_cam.weights")
    weights = graph.add("Unsqueeze", [weights, graph.axis(1)], "grad_cam.weights_as_rows")
    places = graph.add("Reshape", [rectified, graph.shape(0, 0, side * side)], "grad_cam.activations")
    small = graph.add("MatMul", [weights, places], "grad_cam.sums")
    small = graph.add("Reshape", [small, graph.shape(0, 1, side, side)], "grad_cam.small")
    inputs = [small, "", "", graph.shape(size, size)]
    large = graph.add("Resize", inputs, "grad_cam.enlarged", mode="linear", axes=[2, 3])
    return graph.add("Squeeze", [large, graph.axis(1)], "grad_cam")


def _side(size: int, blocks: int) -> int:
    """Return the side after so many blocks."""
    for _ in range(blocks):
        size = _pooled(size)
    return size


def _distance(graph: Graph, index: Index, hidden: str) -> str:
    """Compute `neighbours.ood_scores`, (batch, 1), by the same steps."""
    features, rank = index.features, min(K, len(index.features))
    length = graph.add("ReduceL2", [hidden, graph.axis(1)], "length", keepdims=1)
    one, zero = graph.constant("one", np.float32(1)), graph.constant("zero", np.float32(0))
    divisor = graph.add("Where", [graph.add("Equal", [length, zero], "is_zero"), one, length], "divisor")
    unit = graph.add("Div", [hidden, divisor], "unit")
    products = graph.add("MatMul", [unit, graph.constant("training_features", features.T)], "products")
    doubled = graph.add("Mul", [products, graph.constant("minus_two", np.float32(-2))], "products.doubled")
    lengths = graph.constant("training_squares", np.square(features).sum(1))
    partial = graph.add("Add", [doubled, lengths], "squares.partial")
    own = graph.add("ReduceSumSquare", [unit, graph.axis(1)], "square", keepdims=1)
    squares = graph.add("Add", [partial, own], "squares")
    nearest = graph.lowest(squares, rank, "nearest")
    last = graph.add("Gather", [nearest, graph.axis(rank - 1)], "last", axis=1)
    return graph.add("Sqrt", [graph.add("Max", [last, zero], "last.not_negative")], "score")
