"""Resize a film to a square within an ONNX graph, bit for bit as `data.decode.images.resize` does.

Pillow resizes 8-bit images first along rows, then along columns, with weights of 22 bits after the point, and rounds to
whole grey levels after each. The same weights are computed here in 32-bit integers, so that no runtime's rounding
matters; ONNX's own `Resize` is off by a grey level at some pixels. `MatMulInteger` multiplies bytes, so a weight is
divided into three.

A film's sides are at most `MAX_SIDE` pixels, as `data.decode` allows, and the square's at least 16. Films more than 100
times as high as wide may differ by a grey level, since Pillow resizes those along columns first.
"""

from typing import NamedTuple

import numpy as np
from onnx import TensorProto, helper

from pneumojax.export.graph_builder import Graph

_POINT = 22  # bits after the point of a weight
_AT_ONCE, _STEPS = 4, 6  # bits of a quotient that a step finds; together two more than are kept, to round by
_BYTES = 3  # of a weight, which is at most 1 << 22
_SLABS = 5  # parts of the square's columns; more would be faster for large films, and slower for small ones


class _Weights(NamedTuple):
    """Names of the weights along an axis of the film.

    Attributes:
      matrix: the bytes of the weights, of all pixels of the square the highest, then the middle and the lowest.
      starts: (size,) int64, the first pixel of the film that each pixel of the square needs.
      ends: (size,) int64, the one behind the last that it needs; it may lie behind the film.
    """

    matrix: str
    starts: str
    ends: str


def squared(graph: Graph, film: str, size: int) -> str:
    """Resize `film`, (height, width) uint8, to the tensor "square", (size, size) uint8."""
    across, down = graph.part("across"), graph.part("down")
    shape = graph.add("Cast", [graph.add("Shape", [film], "film.shape")], "film.sides", to=TensorProto.INT32)
    height = graph.add("Gather", [shape, graph.int32(0)], "film.height")
    width = graph.add("Gather", [shape, graph.int32(1)], "film.width")
    narrow = _levels(across, _by_slabs(across, film, _weights(across, width, size, axis=0), size), axis=1)
    high = down.add("MatMulInteger", [_weights(down, height, size, axis=1).matrix, narrow], "products")
    return graph.add("Identity", [_levels(down, high, axis=0)], "square")


def _by_slabs(graph: Graph, film: str, weights: _Weights, size: int) -> str:
    """Multiply a film by its weights, (width, 3 size): (height, 3 size) int32.

    Most weights are zeros. So a part of the square's columns is computed from those columns of the film that it needs.
    """
    bounds = np.linspace(0, size, _SLABS + 1).astype(np.int64)
    names = [f"slab_{number}" for number in range(_SLABS)]
    columns = graph.add("Reshape", [weights.matrix, graph.shape(-1, _BYTES, size)], "matrix.by_byte")
    parts = graph.split(columns, [f"{name}.columns" for name in names], axis=2, sizes=np.diff(bounds))
    products = []
    for name, part, first, end in zip(names, parts, bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        slab = graph.part(name)
        start = slab.add("Gather", [weights.starts, graph.axis(first)], "start")
        stop = slab.add("Gather", [weights.ends, graph.axis(end - 1)], "end")
        needed = slab.add("Slice", [film, start, stop, graph.axis(1)], "film")
        rows = slab.add("Slice", [part, start, stop, graph.axis(0)], "rows")
        matrix = slab.add("Reshape", [rows, graph.shape(-1, _BYTES * (end - first))], "matrix")
        product = slab.add("MatMulInteger", [needed, matrix], "products")
        products.append(slab.add("Reshape", [product, graph.shape(-1, _BYTES, end - first)], "products.by_byte"))
    joined = graph.add("Concat", products, "products.by_byte", axis=2)
    return graph.add("Reshape", [joined, graph.shape(-1, _BYTES * size)], "products")


def _weights(graph: Graph, length: str, size: int, axis: int) -> _Weights:
    """Compute the weights of the pixels of an axis of the film.

    Pixel x of `length` weighs max(0, 1 - |x + 1/2 - (y + 1/2) length / size| / reach) for pixel y of the square, where
    the reach is 1, or length / size if that is larger. Multiplied by 2 size reach, all of it is whole numbers. It is
    computed for the pixels near y alone.

    Args:
      length: a scalar, the film's height or width.
      axis: of the matrix that counts the film's pixels: (length, 3 size) uint8 for 0, (3 size, length) for 1.
    """
    add, number = graph.add, graph.int32
    odd = graph.constant("odd", (2 * np.arange(size, dtype=np.int32) + 1)[:, None])
    centres = add("Mul", [odd, length], "centres")  # of the square's pixels, times 2 size
    longer = add("Max", [length, number(size)], "longer")
    reach = add("Div", [add("Add", [longer, number(size - 1)], "longer.raised"), number(size)], "reach")
    end = add("Add", [reach, number(1)], "reach.end")
    near = add("Range", [add("Neg", [reach], "reach.start"), end, number(1)], "near")
    nearest = add("Div", [centres, number(2 * size)], "nearest")
    pixels = add("Add", [nearest, near], "pixels")
    doubled = add("Add", [add("Mul", [pixels, number(2)], "pixels.doubled"), number(1)], "pixels.odd")
    offsets = add("Sub", [add("Mul", [doubled, number(size)], "pixels.centres"), centres], "offsets")
    nearness = add("Sub", [add("Mul", [longer, number(2)], "widest"), add("Abs", [offsets], "distances")], "nearness")
    sides = [add("GreaterOrEqual", [pixels, number(0)], "not_before"), add("Less", [pixels, length], "not_behind")]
    triangle = add("Max", [nearness, number(0)], "triangle")
    weights = add("Where", [add("And", sides, "inside"), triangle, number(0)], "weights")
    margin = _one(graph, reach, "margin")
    places = add("Add", [pixels, reach], "places")
    matrix = _spread(graph, _bytes(graph, _shares(graph, weights)), places, length, margin, size, axis)
    middles = _one(graph, nearest, "middles")
    starts = add("Max", [add("Sub", [middles, margin], "before"), graph.axis(0)], "starts")
    ends = add("Add", [add("Add", [middles, margin], "last"), graph.axis(1)], "ends")
    return _Weights(matrix, starts, ends)


def _one(graph: Graph, numbers: str, name: str) -> str:
    """Return int32 numbers of any shape along one axis, as int64, such as shapes and slices are given by."""
    flat = graph.add("Reshape", [numbers, graph.axis(-1)], f"{name}.int32")
    return graph.add("Cast", [flat], name, to=TensorProto.INT64)


def _shares(graph: Graph, weights: str) -> str:
    """Divide each weight by the sum of its row, to `_POINT` bits after the point, rounded half up: by long division."""
    add = graph.add
    total = add("ReduceSum", [weights, graph.axis(1)], "total", keepdims=1)
    base, share, rest = graph.int32(1 << _AT_ONCE), graph.int32(0), weights
    for step in range(_STEPS):
        wide = add("Mul", [rest, base], f"rest_{step}.shifted")
        digit = add("Div", [wide, total], f"digit_{step}")
        share = add("Add", [add("Mul", [share, base], f"share_{step}.shifted"), digit], f"share_{step}")
        rest = add("Sub", [wide, add("Mul", [digit, total], f"taken_{step}")], f"rest_{step}")
    spare = 1 << (_AT_ONCE * _STEPS - _POINT)
    raised = add("Add", [share, graph.int32(spare // 2)], "share.raised")
    return add("Div", [raised, graph.int32(spare)], "share")


def _bytes(graph: Graph, numbers: str) -> str:
    """Divide numbers below 1 << 24, (rows, columns) int32, into bytes, (3 rows, columns) uint8."""
    parts = []
    for place in reversed(range(_BYTES)):
        shifted = graph.add("Div", [numbers, graph.int32(1 << 8 * place)], f"from_byte_{place}")
        parts.append(graph.add("Mod", [shifted, graph.int32(256)], f"byte_{place}"))
    return graph.add("Cast", [graph.add("Concat", parts, "bytes.int32", axis=0)], "bytes", to=TensorProto.UINT8)


def _spread(graph: Graph, values: str, places: str, length: str, margin: str, size: int, axis: int) -> str:
    """Put values, (3 size, columns) uint8, at their places in a matrix of zeros, and cut off its margins.

    The places, (size, columns) from 0 to length + 2 margin - 1, are the same for each third of the values.
    """
    add = graph.add
    places = add("Concat", [places] * _BYTES, "places.of_bytes", axis=0)
    end = add("Add", [margin, _one(graph, length, "length")], "margin.end")
    shape = [add("Add", [end, margin], "length.with_margins"), graph.axis(_BYTES * size)]
    if axis == 0:
        values = add("Transpose", [values], "bytes.transposed", perm=[1, 0])
        places = add("Transpose", [places], "places.transposed", perm=[1, 0])
    else:
        shape.reverse()
    zero = helper.make_tensor("zero", TensorProto.UINT8, [1], [0])
    zeros = add("ConstantOfShape", [add("Concat", shape, "shape", axis=0)], "zeros", value=zero)
    spread = add("ScatterElements", [zeros, places, values], "spread", axis=axis)
    return add("Slice", [spread, margin, end, graph.axis(axis)], "matrix")


def _levels(graph: Graph, products: str, axis: int) -> str:
    """Join the three parts of the products along an axis, and round to whole grey levels, uint8.

    The bytes are carried from the lowest to the highest, which keeps the numbers below 1 << 24: some runtimes compute
    integers in float32.
    """
    parts = graph.split(products, [f"products_{place}" for place in reversed(range(_BYTES))], axis)
    carried = parts.pop()
    while parts:
        shifted = graph.add("Div", [carried, graph.int32(256)], f"carry_{len(parts)}")
        carried = graph.add("Add", [parts.pop(), shifted], f"carried_{len(parts)}")
    top = _POINT - 8 * (_BYTES - 1)  # bits after the point that are left
    raised = graph.add("Add", [carried, graph.int32(1 << (top - 1))], "raised")
    levels = graph.add("Div", [raised, graph.int32(1 << top)], "levels.int32")
    return graph.add("Cast", [levels], "levels", to=TensorProto.UINT8)
