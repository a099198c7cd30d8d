"""The graph's square of a film is Pillow's, bit for bit."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from PIL import Image

from pneumojax.data.decode.images import resize
from pneumojax.export.film_square import squared
from pneumojax.export.graph_builder import Graph


def square_of(size):
    """Return a function from a film to the square that the graph makes of it."""
    graph = Graph()
    squared(graph, "film", size)
    film = helper.make_tensor_value_info("film", TensorProto.UINT8, ["height", "width"])
    square = helper.make_tensor_value_info("square", TensorProto.UINT8, [size, size])
    made = helper.make_graph(graph.nodes, "square", [film], [square], list(graph.constants.values()))
    proto = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(proto, full_check=True)
    session = onnxruntime.InferenceSession(proto.SerializeToString())
    return lambda film: session.run(["square"], {"film": film})[0]


@pytest.mark.parametrize("size", [16, 150, 224])
def test_every_size_of_film_gives_pillows_square(size):
    """Films are noise, which shows each rounding; black and white, whose sums are the largest; and white."""
    square, rng = square_of(size), np.random.default_rng(size)
    shapes = [
        (1, 1), (1, 90), (2, 3), (37, 411), (150, 150), (149, 151), (size, size), (size, 3 * size), (75, 300),
        (1024, 1024), (2000, 3001), *rng.integers(2, 1200, (12, 2)).tolist(),
    ]  # fmt: skip
    for shape in shapes:
        noise = rng.integers(0, 256, shape, np.uint8)
        for film in (noise, np.where(noise > 127, np.uint8(255), np.uint8(0)), np.full_like(noise, 255)):
            np.testing.assert_array_equal(square(film), resize(Image.fromarray(film), size), err_msg=str(shape))


def test_the_longest_film_that_is_read_does_not_overflow():
    film = np.random.default_rng(0).integers(0, 256, (250, 20_000), np.uint8)
    np.testing.assert_array_equal(square_of(16)(film), resize(Image.fromarray(film), 16))
    upright = np.ascontiguousarray(film[:210].T)  # Pillow resizes what is more than 100 times as high in another order
    np.testing.assert_array_equal(square_of(16)(upright), resize(Image.fromarray(upright), 16))
