"""How far a model's ONNX graphs are from the model itself."""

import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import onnx
from jaxtyping import Float32, UInt8
from PIL import Image

from pneumojax.data.decode.images import resize
from pneumojax.evaluation import metrics
from pneumojax.evaluation.forward import eval_step
from pneumojax.export.onnx_graph import OUTPUTS
from pneumojax.inference import attribution
from pneumojax.inference.predictions import together
from pneumojax.inference.trained_model import Member, TrainedModel
from pneumojax.runtime.errors import UserError

# Both sides sum thousands of float32 products for a logit, in other orders and by other algorithms. On real films they
# differ by about 1e-6. A wrong graph differs by far more.
TOLERANCES = {
    "logit": 1e-5,
    "probability": 1e-5,
    "map": 1e-5,
    "ood_score": 1e-3,  # the root of a difference of squares: near 0, an error of 1e-6 becomes 1e-3
    "decisions_turned": 0,
    "square": 1,  # Pillow computes its weights in float64, which not every compiler rounds alike
}
_AT_ONCE = 16  # images
Answers = dict[str, np.ndarray]  # by the names of `OUTPUTS`
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
    squares: UInt8[np.ndarray, "n size size"],
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
      The largest differences: `logit`, relative to the logit where that is beyond 1; `probability`; `map`, relative to
      the largest value of its map; `ood_score`, relative to it where that is beyond 1; and `square`, in grey levels
      from Pillow's. How many of each kind differ: `decisions_turned`, at both thresholds; and `flags_turned`, of
      "unlike_training", which rounding may turn where a score is at its limit. And `runtime`, and the numbers of
      `squares` and `films`.
    """
    by = by or runtime()
    found = [*_of_squares(by.prepare(batch_proto), squares), *_of_films(by.prepare(film_proto), films)]
    answers = {name: np.concatenate([each[name] for each in found]) for name in OUTPUTS}
    pillow = [resize(Image.fromarray(film), model.image_size) for film in films]
    seen = np.concatenate([squares, *(square[None] for square in pillow)])
    differences = _differences(answers, expected(model, answers["square"]))
    level = np.abs(answers["square"].astype(int) - seen).max()
    return {"runtime": by.name, "squares": len(squares), "films": len(films), **differences, "square": int(level)}


def refuse(parity: Mapping[str, Any]) -> None:
    """Raise UserError if a difference that `measure` found is beyond its tolerance, or is not a number."""
    beyond = [
        f"{name.replace('_', ' ')} {parity[name]:.3g}, at most {most:g} allowed"
        for name, most in TOLERANCES.items()
        if not parity[name] <= most
    ]
    if beyond:
        raise UserError(
            f"the ONNX graph differs from the model in {parity['runtime']} ({'; '.join(beyond)}): nothing was exported."
            " Try other versions of onnx and onnxruntime"
        )


def expected(model: TrainedModel, squares: UInt8[np.ndarray, "n size size"]) -> Answers:
    """Compute by JAX, in float32, what the graphs compute of these squares."""
    outputs, maps = [], []
    for member in model.members:
        plain = member._replace(model=member.model.clone(dtype=jnp.float32))
        found = [_by_jax(plain, chunk) for chunk in _chunks(squares)]
        *pair, member_maps = (np.concatenate(parts)[: len(squares)] for parts in zip(*found, strict=True))
        outputs.append(pair)
        maps.append(member_maps / np.float32(member.scale))
    logits, scores, unlike = together(outputs, model.members, squares)
    calibration = model.calibration
    p = metrics.probabilities(logits, calibration.temperature, calibration.offset)
    answers = {"probability": p, "logit": logits, "ood_score": scores, "unlike_training": unlike}
    answers |= {"decision": p >= calibration.threshold, "decision_at_sens95": p >= calibration.threshold_sens95}
    return answers | {"map": np.mean(maps, axis=0), "square": squares}


def _chunks(squares: UInt8[np.ndarray, "n size size"]) -> list[UInt8[np.ndarray, "_ size size"]]:
    """Divide the squares into chunks of one length, the last of them filled up."""
    length = min(_AT_ONCE, len(squares))
    filled = np.concatenate([squares, np.repeat(squares[:1], -len(squares) % length, axis=0)])
    return list(filled.reshape(-1, length, *squares.shape[1:]))


def _by_jax(
    member: Member, squares: UInt8[np.ndarray, "n size size"]
) -> tuple[Float32[np.ndarray, " n"], Float32[np.ndarray, "n units"], Float32[np.ndarray, "n size size"]]:
    """Compute logits, features and maps of one network."""
    images = jnp.asarray(squares)[..., None]
    layer = attribution.last_convolution(member.model)
    with jax.default_matmul_precision("highest"):
        logits, features = jax.jit(eval_step, static_argnums=0)(member.model, member.variables, images)
        explain = jax.jit(attribution.grad_cam, static_argnums=0, static_argnames="layer")
        maps = explain(member.model, member.variables, images.astype(jnp.float32) / 255, layer=layer)
    return np.asarray(logits), np.asarray(features), np.asarray(maps)


def _of_squares(run: Runner, squares: UInt8[np.ndarray, "n size size"]) -> list[Answers]:
    starts = range(0, len(squares), _AT_ONCE)
    return [run({"images": squares[start : start + _AT_ONCE]}) for start in starts]


def _of_films(run: Runner, films: Sequence[UInt8[np.ndarray, "_ _"]]) -> list[Answers]:
    return [{name: value[None] for name, value in run({"film": film}).items()} for film in films]


def _differences(found: Answers, right: Answers) -> dict[str, float]:
    """Return what `measure` returns of answers to the same squares."""
    away = {name: np.abs(found[name].astype(np.float64) - right[name]) for name in OUTPUTS}
    largest = np.abs(right["map"]).max((1, 2))
    turned = away["decision"] + away["decision_at_sens95"]
    return {
        "logit": float((away["logit"] / np.maximum(1, np.abs(right["logit"]))).max()),
        "probability": float(away["probability"].max()),
        "map": float((away["map"].max((1, 2)) / np.where(largest == 0, 1, largest)).max()),
        "ood_score": float((away["ood_score"] / np.maximum(1, right["ood_score"])).max()),
        "decisions_turned": int(turned.sum()),
        "flags_turned": int(away["unlike_training"].sum()),
    }
