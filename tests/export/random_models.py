"""Models with random weights, whose statistics, calibration and index come from phantoms as after training."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from bundles import phantoms

from pneumojax.evaluation import calibration as calibrations
from pneumojax.evaluation import film_statistics, guard, neighbours
from pneumojax.evaluation.forward import eval_step
from pneumojax.inference.predictions import together
from pneumojax.inference.trained_model import Member, TrainedModel, of_members
from pneumojax.models.architectures import blocks_of
from pneumojax.models.classifier import Classifier, init_variables


def random_member(
    table: str,
    size: int,
    seed: int,
    scale: float = 1.0,
    dtype: str = "float32",
    guarded: bool = True,
    equalize: bool = False,
) -> Member:
    """Return a network, named or as a table of blocks, with an index of 32 phantoms, and a guard or none.

    Scales of batch normalization are of both signs, and one is zero.
    """
    name, blocks = (table, "") if ":" not in table else ("own", table)
    model = Classifier(blocks_of(name, blocks), equalize, batch_norm_momentum=0.0, dtype=jnp.dtype(dtype))
    variables = jax.tree.map(np.array, init_variables(model, size, seed))
    rng = np.random.default_rng(seed)
    for layer, params in variables["params"].items():
        params["bias"] = rng.normal(0, 0.1, params["bias"].shape).astype(np.float32)
        if layer.startswith("batch_norm"):
            params["scale"] = rng.normal(0.5, 0.5, params["scale"].shape).astype(np.float32)
            params["scale"][0] = 0
    images = phantoms(32, size, seed=3)[..., None]

    @jax.jit
    def trained(variables, images):
        keys = {"dropout": jax.random.key(seed)}
        return model.apply(variables, images, train=True, mutable=["batch_stats"], rngs=keys)[1]

    state = trained(variables, images.astype(np.float32) / 255)
    variables["batch_stats"] = jax.tree.map(np.asarray, state["batch_stats"])
    _, features = jax.jit(eval_step, static_argnums=0)(model, variables, images)
    features = np.asarray(features, np.float32)
    index = neighbours.build(np.arange(32).astype(str), np.arange(32) % 2, features, features)
    if not guarded:
        return Member(model, variables, index, scale)
    statistics, turned = film_statistics.of(images[..., 0]), film_statistics.of(guard.turned(images[..., 0]))
    val = film_statistics.of(phantoms(32, size, seed=4))
    index = guard.guarded(index, statistics, val, features, turned)
    return Member(model, variables, index, scale)


def random_model(members: Sequence[Member], size: int, prevalence: float = 0.0) -> TrainedModel:
    """Return the model of these members, calibrated on phantoms, at another prevalence where one is given."""
    images = phantoms(32, size, seed=5)[..., None]
    outputs = [jax.jit(eval_step, static_argnums=0)(member.model, member.variables, images) for member in members]
    logits, _, _ = together(
        [[np.asarray(part, np.float32) for part in pair] for pair in outputs], members, images[..., 0]
    )
    labels = np.arange(32) % 2
    fitted = calibrations.fit(labels, logits)
    model = of_members("+".join(f"{len(member.model.blocks)} blocks" for member in members), members, fitted, size)
    return model._replace(calibration=calibrations.at_prevalence(fitted, prevalence))
