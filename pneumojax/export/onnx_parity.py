"""How far a model's ONNX graphs are from the model itself, in ONNX Runtime."""

import importlib.metadata
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import onnx
from jaxtyping import UInt8
from PIL import Image

from pneumojax.data.decode.images import resize
from pneumojax.export import parity
from pneumojax.export.onnx_graph import OUTPUTS
from pneumojax.export.parity import Answers, Squares
from pneumojax.inference.trained_model import TrainedModel

Runner = Callable[[dict[str, np.ndarray]], Answers]


class Runtime(NamedTuple):
    """What computes a graph: its name with its version, and a function from a graph to a function of its inputs."""

    name: str
    prepare: Callable[[onnx.ModelProto], Runner]


def runtime() -> Runtime:
    """Return ONNX Runtime where it is installed, otherwise ONNX's reference implementation, which takes seconds."""
    try:
        import onnxruntime
    except ImportError:
        return reference()

    def prepare(proto: onnx.ModelProto) -> Runner:
        session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
        return lambda inputs: dict(zip(OUTPUTS, map(np.asarray, session.run(OUTPUTS, inputs)), strict=True))

    return Runtime(f"onnxruntime {onnxruntime.__version__}", prepare)


def reference() -> Runtime:
    """Return ONNX's reference implementation."""
    from onnx.reference import ReferenceEvaluator

    def prepare(proto: onnx.ModelProto) -> Runner:
        evaluator = ReferenceEvaluator(proto)

        def run(inputs: dict[str, np.ndarray]) -> Answers:
            return dict(zip(OUTPUTS, map(np.asarray, evaluator.run(list(OUTPUTS), inputs)), strict=True))

        return run

    return Runtime(f"onnx.reference {importlib.metadata.version('onnx')}", prepare)


def measure(
    model: TrainedModel,
    film_proto: onnx.ModelProto,
    batch_proto: onnx.ModelProto,
    squares: Squares,
    films: Sequence[UInt8[np.ndarray, "_ _"]],
    by: Runtime | None = None,
) -> dict[str, Any]:
    """Compare both graphs with the model, which computes in float32 on the same squares.

    Args:
      model: what `film_proto` and `batch_proto` are the graphs of.
      film_proto: see `onnx_graph.film_model`.
      batch_proto: see `onnx_graph.batch_model`.
      squares: images for `batch_proto`.
      films: (height, width) of any sizes, for `film_proto`; one is enough if there are no squares.
      by: what computes the graphs; None for `runtime()`.

    Returns:
      What `parity.differences` returns; `square`, the largest difference in grey levels from Pillow's; `runtime`; and
      the numbers of `squares` and `films`.
    """
    by = by or runtime()
    parts = [of_squares(batch_proto, squares, by)] if len(squares) else []
    answers = _joined([*parts, of_films(film_proto, films, by)])
    pillow = [resize(Image.fromarray(film), model.image_size) for film in films]
    seen = np.concatenate([squares, *(square[None] for square in pillow)])
    right = parity.of_model(model, answers["square"], jnp.float32, maps=True)
    level = np.abs(answers["square"].astype(int) - seen).max()
    counts = {"runtime": by.name, "squares": len(squares), "films": len(films)}
    return counts | parity.differences(answers, right) | {"square": int(level)}


def of_squares(proto: onnx.ModelProto, squares: Squares, by: Runtime) -> Answers:
    """Compute the answers of the graph of batches."""
    run = by.prepare(proto)
    starts = range(0, len(squares), parity.AT_ONCE)
    return _joined([run({"images": squares[start : start + parity.AT_ONCE]}) for start in starts])


def of_films(proto: onnx.ModelProto, films: Sequence[UInt8[np.ndarray, "_ _"]], by: Runtime) -> Answers:
    """Compute the answers of the graph of one film to each film, (height, width)."""
    run = by.prepare(proto)
    return _joined([{name: value[None] for name, value in run({"film": film}).items()} for film in films])


def _joined(parts: Sequence[Answers]) -> Answers:
    return {name: np.concatenate([part[name] for part in parts]) for name in OUTPUTS}
