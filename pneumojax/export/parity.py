"""How far the answers of an exported model are from those of the model itself, in JAX.

Answers are arrays by name, as `onnx_graph` names the outputs of a graph: `logit`, `probability`, `decision`,
`decision_at_sens95`, `ood_score`, `unlike_training`, each (n,), and `map` and `square`, (n, size, size).
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32, UInt8

from pneumojax.evaluation import metrics
from pneumojax.evaluation.calibration import Calibration
from pneumojax.evaluation.forward import eval_step
from pneumojax.inference import attribution
from pneumojax.inference.predictions import together
from pneumojax.inference.trained_model import Member, TrainedModel
from pneumojax.runtime.errors import UserError

Squares = UInt8[np.ndarray, "n size size"]
Answers = dict[str, np.ndarray]
# Both sides sum thousands of float32 products for a logit, in other orders and by other algorithms. On real films they
# differ by about 1e-6. A wrong export differs by far more.
TOLERANCES = {
    "logit": 1e-5,
    "probability": 1e-5,
    "map": 1e-5,
    "ood_score": 1e-3,  # the root of a difference of squares: near 0, an error of 1e-6 becomes 1e-3
    "decisions_turned": 0,
    "square": 1,  # Pillow computes its weights in float64, which not every compiler rounds alike
}
AT_ONCE = 16  # images


def of_model(
    model: TrainedModel, squares: Squares, dtype: jax.typing.DTypeLike | None = None, *, maps: bool = False
) -> Answers:
    """Compute the answers by JAX; in another type than the model's own if `dtype` is given, and with maps on demand."""
    members = [member._replace(model=member.model.clone(dtype=dtype or member.model.dtype)) for member in model.members]
    logits, scores, unlike = together([_outputs(member, squares) for member in members], model.members, squares)
    probabilities = metrics.probabilities(logits, model.calibration.temperature, model.calibration.offset)
    answers = with_decisions({"logit": logits, "probability": probabilities}, model.calibration)
    answers |= {"ood_score": scores, "unlike_training": unlike, "square": squares}
    if maps:
        answers["map"] = np.mean([_maps(member, squares) for member in members], axis=0)
    return answers


def with_decisions(answers: Answers, calibration: Calibration) -> Answers:
    """Add the decisions at both thresholds to answers that have probabilities."""
    thresholds = {"decision": calibration.threshold, "decision_at_sens95": calibration.threshold_sens95}
    return answers | {name: answers["probability"] >= threshold for name, threshold in thresholds.items()}


def chunks(squares: Squares) -> list[UInt8[np.ndarray, "_ size size"]]:
    """Divide the squares into chunks of one length, so that they compile once; the last is filled up with the first."""
    length = min(AT_ONCE, len(squares))
    filled = np.concatenate([squares, np.repeat(squares[:1], -len(squares) % length, axis=0)])
    return list(filled.reshape(-1, length, *squares.shape[1:]))


def _outputs(member: Member, squares: Squares) -> tuple[Float32[np.ndarray, " n"], Float32[np.ndarray, "n units"]]:
    """Compute the logits and features of one network."""
    step = jax.jit(eval_step, static_argnums=0)
    with jax.default_matmul_precision("highest"):
        pairs = [
            jax.device_get(step(member.model, member.variables, jnp.asarray(chunk)[..., None]))
            for chunk in chunks(squares)
        ]
    logits, features = (np.concatenate(part)[: len(squares)] for part in zip(*pairs, strict=True))
    return np.asarray(logits, np.float32), np.asarray(features, np.float32)


def _maps(member: Member, squares: Squares) -> Float32[np.ndarray, "n size size"]:
    """Compute the Grad-CAM maps of one network, of its scaled logit."""
    layer = attribution.last_convolution(member.model)
    explain = jax.jit(attribution.grad_cam, static_argnums=0, static_argnames="layer")
    with jax.default_matmul_precision("highest"):
        floats = [jnp.asarray(chunk)[..., None].astype(jnp.float32) / 255 for chunk in chunks(squares)]
        parts = [explain(member.model, member.variables, images, layer=layer) for images in floats]
    return np.concatenate([np.asarray(part) for part in parts])[: len(squares)] / np.float32(member.scale)


def differences(found: Answers, right: Answers) -> dict[str, float]:
    """Compare the answers that both sides have to the same squares.

    Returns:
      The largest differences: `logit`, relative to the logit where that is beyond 1; `probability`; `map`, relative to
      the largest value of its map; and `ood_score`, relative to it where that is beyond 1. How many of each kind
      differ: `decisions_turned`, at both thresholds; and `flags_turned`, of "unlike_training", which rounding may turn
      where a score is at its limit.
    """
    shared = [name for name in right if name in found]
    away = {name: np.abs(np.asarray(found[name], np.float64) - right[name]) for name in shared}
    units = {name: np.maximum(1, np.abs(right[name])) for name in ("logit", "ood_score") if name in right}
    units["probability"] = np.ones(())
    largest = {name: float((away[name] / unit).max()) for name, unit in units.items() if name in away}
    if "map" in away:
        highest = np.abs(right["map"]).max((1, 2))
        largest["map"] = float((away["map"].max((1, 2)) / np.where(highest == 0, 1, highest)).max())
    largest["decisions_turned"] = int(away["decision"].sum() + away["decision_at_sens95"].sum())
    if "unlike_training" in away:
        largest["flags_turned"] = int(away["unlike_training"].sum())
    return largest


def refuse(name: str, found: Mapping[str, Any], advice: str) -> None:
    """Raise UserError if a difference that was found of `name` is beyond its tolerance, or is not a number."""
    beyond = [
        f"{measure.replace('_', ' ')} {found[measure]:.3g}, at most {most:g} allowed"
        for measure, most in TOLERANCES.items()
        if measure in found and not found[measure] <= most
    ]
    if beyond:
        raise UserError(f"{name} differs from the model ({'; '.join(beyond)}): nothing was exported. {advice}")
