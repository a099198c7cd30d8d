"""How far the answers of an exported model are from those of the model itself, in JAX."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Float32, UInt8

from pneumojax.evaluation import metrics
from pneumojax.evaluation.calibration import Calibration
from pneumojax.evaluation.forward import eval_step
from pneumojax.inference.predictions import together
from pneumojax.inference.trained_model import TrainedModel
from pneumojax.runtime.errors import UserError

Squares = UInt8[np.ndarray, "n size size"]
# Compilers sum thousands of float32 products for a logit, in other orders. On real films that makes about 1e-6; a wrong
# export makes far more.
TOLERANCES = {"logit": 1e-5, "probability": 1e-5, "ood_score": 1e-3, "decisions_turned": 0}
_AT_ONCE = 16  # images


class Answers(NamedTuple):
    """A model's answers to some images.

    Attributes:
      logits: before calibration; of an ensemble, the mean of the scaled logits.
      probabilities: calibrated, in [0, 1].
      ood_scores: in [0, 2]; None where the format has none.
    """

    logits: Float32[np.ndarray, " n"]
    probabilities: Float[np.ndarray, " n"]
    ood_scores: Float32[np.ndarray, " n"] | None = None


def of_model(model: TrainedModel, squares: Squares, dtype: jax.typing.DTypeLike | None = None) -> Answers:
    """Compute the answers by JAX; in another type than the model's own if `dtype` is given."""
    outputs = []
    for member in model.members:
        network = member.model.clone(dtype=dtype or member.model.dtype)
        step = jax.jit(lambda variables, images, network=network: eval_step(network, variables, images))
        with jax.default_matmul_precision("highest"):
            pairs = [jax.device_get(step(member.variables, chunk[..., None])) for chunk in _chunks(squares)]
        logits, features = (np.concatenate(part)[: len(squares)] for part in zip(*pairs, strict=True))
        outputs.append((np.asarray(logits, np.float32), np.asarray(features, np.float32)))
    logits, scores, _ = together(outputs, model.members, squares)
    calibration = model.calibration
    return Answers(logits, metrics.probabilities(logits, calibration.temperature, calibration.offset), scores)


def of_stablehlo(content: bytes, squares: Squares) -> Answers:
    """Compute the answers of what `stablehlo.serialized` returned, on this process's device."""
    call = jax.jit(jax.export.deserialize(bytearray(content)).call)
    parts = [jax.device_get(call(jnp.asarray(chunk))) for chunk in _chunks(squares)]
    logits, probabilities = (
        np.concatenate([part[name] for part in parts])[: len(squares)] for name in ("logit", "probability")
    )
    return Answers(logits, probabilities)


def _chunks(squares: Squares) -> Iterator[Squares]:
    """Yield the squares in chunks of one length, so that they compile once; the last is filled up with the first."""
    length = min(_AT_ONCE, len(squares))
    for start in range(0, len(squares), length):
        chunk = squares[start : start + length]
        yield np.concatenate([chunk, np.repeat(squares[:1], length - len(chunk), axis=0)])


def differences(found: Answers, right: Answers, calibration: Calibration) -> dict[str, float]:
    """Return the largest differences of `found` from `right`, and how many decisions differ at either threshold.

    That of the logit is relative where the logit is beyond 1.
    """
    thresholds = (calibration.threshold, calibration.threshold_sens95)
    turned = [(found.probabilities >= at) != (right.probabilities >= at) for at in thresholds]
    away: dict[str, float] = {
        "logit": _largest(found.logits - right.logits, np.maximum(1, np.abs(right.logits))),
        "probability": _largest(found.probabilities - right.probabilities),
        "decisions_turned": int(np.sum(turned)),
    }
    if found.ood_scores is not None and right.ood_scores is not None:
        away["ood_score"] = _largest(found.ood_scores - right.ood_scores)
    return away


def _largest(differences: Float[np.ndarray, " n"], units: Float[np.ndarray, " n"] | float = 1) -> float:
    return float(np.max(np.abs(np.asarray(differences, np.float64)) / units))


def refuse(name: str, found: Mapping[str, Any]) -> None:
    """Raise UserError if a difference that `differences` found is beyond its tolerance, or is not a number."""
    beyond = [
        f"{measure.replace('_', ' ')} {found[measure]:.3g}, at most {most:g} allowed"
        for measure, most in TOLERANCES.items()
        if measure in found and not found[measure] <= most
    ]
    if beyond:
        raise UserError(
            f"{name} differs from the model ({'; '.join(beyond)}): nothing was exported. Leave this format out by"
            " --config.export.formats, or try another version of JAX"
        )
