"""A trained model as StableHLO, which JAX and other compilers read.

The function takes squares, (batch, size, size) uint8 of any batch, and returns a dictionary of two (batch,) float32:
`logit`, before calibration (of an ensemble, the mean of the networks' scaled logits), and `probability`, calibrated. It
computes in float32, also where the model was trained in bfloat16.
"""

from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from jaxtyping import Array, Float32, UInt8

from pneumojax.export.parity import Answers, Squares, chunks
from pneumojax.inference.trained_model import Member, TrainedModel

PLATFORMS = ("cpu", "cuda", "tpu")
MONTHS = 6  # for which JAX says that it reads what an earlier version has exported


def serialized(model: TrainedModel) -> bytes:
    """Return the model's function as `jax.export.deserialize` reads it, for all `PLATFORMS`, weights included.

    Only XLA's own operations are in it: the CPU kernels of this package would have to be installed where it runs.
    """

    def pneumojax(images: UInt8[Array, "batch size size"]) -> dict[str, Float32[Array, " batch"]]:
        floats = images[..., None].astype(jnp.float32) / 255
        logit = jnp.mean(jnp.stack([_scaled_logits(member, floats) for member in model.members]), axis=0)
        odds = logit / model.calibration.temperature + model.calibration.offset
        return {"logit": logit, "probability": jax.nn.sigmoid(odds)}

    side = model.image_size
    images = jax.ShapeDtypeStruct((*export.symbolic_shape("batch"), side, side), jnp.uint8)
    with jax.default_matmul_precision("highest"):  # GPUs and TPUs would round to fewer bits
        return bytes(export.export(jax.jit(pneumojax), platforms=PLATFORMS)(images).serialize())


def _scaled_logits(member: Member, images: Float32[Array, "batch height width 1"]) -> Float32[Array, " batch"]:
    """Compute a network's logits by the layers as they are defined, which the module does where it records them."""
    model = member.model.clone(dtype=jnp.float32)
    variables = jax.tree.map(jnp.asarray, member.variables)
    logits, _ = cast(Any, model.apply(variables, images, train=False, mutable=["intermediates"]))
    return logits / member.scale


def answers(content: bytes, squares: Squares) -> Answers:
    """Compute `logit` and `probability` by what `serialized` returned, on this process's device."""
    call = jax.jit(export.deserialize(bytearray(content)).call)
    parts = [jax.device_get(call(jnp.asarray(chunk))) for chunk in chunks(squares)]
    return {name: np.concatenate([part[name] for part in parts])[: len(squares)] for name in ("logit", "probability")}


def describe(content: bytes) -> dict[str, Any]:
    """Return as JSON values how to call what `serialized` returned, and for how long."""
    exported = export.deserialize(bytearray(content))
    return {
        "read_with": "jax.export.deserialize",
        "input": "images: (batch, size, size) uint8, any batch",
        "outputs": "logit, probability: (batch,) float32",
        "platforms": list(exported.platforms),
        "exported_by": f"jax {jax.__version__}",
        "compatibility": f"JAX reads it for {MONTHS} months after the release of the version that exported it",
    }
