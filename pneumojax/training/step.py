"""The training step: a pure function of state and batch, and the state before the first step."""

from functools import partial
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Float32, Key, UInt8
from ml_collections import ConfigDict

from pneumojax.data.source import SITE, Split
from pneumojax.models.classifier import Classifier, Variables
from pneumojax.runtime import sharding
from pneumojax.training.augment import augment
from pneumojax.training.optimizer import Plateau


class TrainState(flax.struct.PyTreeNode):
    """All that training changes: `plateau` after an epoch, the rest after a step.

    The leaves are Any since JAX also builds states whose leaves are shapes.

    Attributes:
      step: () int32, the number of steps taken.
      params, batch_stats: the variables of the model.
      opt_state: of the optimizer.
      plateau: of the learning rate.
    """

    step: Any
    params: Any
    batch_stats: Any
    opt_state: Any
    plateau: Plateau

    @property
    def variables(self) -> Variables:
        """The variables of the model."""
        return {"params": self.params, "batch_stats": self.batch_stats}


def init_state(variables: Variables, optimizer: optax.GradientTransformation) -> TrainState:
    """Return the state before the first step."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        opt_state=optimizer.init(variables["params"]),
        plateau=Plateau(jnp.ones(()), jnp.zeros(()), jnp.zeros((), jnp.int32)),
    )


def class_weights(config: ConfigDict, labels: UInt8[np.ndarray, " n"]) -> tuple[float, float]:
    """Return the loss weights of a normal and of a pneumonia; their mean over `labels` is 1."""
    if config.loss.class_weights == "none":
        return 1.0, 1.0
    positive = float(np.mean(labels))
    return 0.5 / (1 - positive), 0.5 / positive


def image_weights(config: ConfigDict, split: Split) -> Float32[np.ndarray, " n"] | None:
    """Return the loss weight of each image of the train split, with a mean of 1.

    Classes that are balanced, or classes of each site, have the same sum of weights. None where `class_weights` says it
    all: all labels are trusted, and sites are not balanced.
    """
    sites = split.groups.get(SITE, np.array([""]))
    by_site = config.loss.class_weights == "balanced_sites" and len(np.unique(sites)) > 1
    if split.weights is None and not by_site:
        return None
    weights = np.ones(len(split.labels)) if split.weights is None else split.weights
    if config.loss.class_weights != "none":
        site = np.unique(sites, return_inverse=True)[1] if by_site else 0
        cells = 2 * site + split.labels.astype(int)
        weights = weights / np.bincount(cells, weights)[cells]
    return (weights / weights.mean()).astype(np.float32)


def loss_and_logits(
    params: dict[str, Any],
    batch_stats: dict[str, Any],
    images: Float[Array, "batch height width 1"],
    labels: UInt8[Array, " batch"],
    key: Key[Array, ""],
    weights_of_images: Float32[Array, " batch"] | None = None,
    *,
    model: Classifier,
    weights: tuple[float, float],
    smoothing: float = 0.0,
) -> tuple[Float32[Array, ""], tuple[dict[str, Any], Float32[Array, " batch"]]]:
    """Return the mean binary cross-entropy in training mode, and the new batch_stats with the logits.

    Images are in [0, 1], and labels are 1 for pneumonia. The key is for dropout. `weights` are those of a normal and of
    a pneumonia; the images' own replace them, where there are any. The share `smoothing` of the labels, in [0, 1), is
    spread over both classes (Szegedy et al. 2016).
    """
    variables = {"params": params, "batch_stats": batch_stats}
    logits, updates = model.apply(variables, images, train=True, rngs={"dropout": key}, mutable=["batch_stats"])
    targets = labels.astype(logits.dtype) * (1 - smoothing) + smoothing / 2
    losses = optax.sigmoid_binary_cross_entropy(logits, targets)
    factors = jnp.where(labels == 1, weights[1], weights[0]) if weights_of_images is None else weights_of_images
    loss = jnp.mean(losses * factors)
    return loss, (dict(updates["batch_stats"]), logits)


def train_step(
    state: TrainState,
    images: UInt8[Array, "batch height width 1"],
    labels: UInt8[Array, " batch"],
    weights_of_images: Float32[Array, " batch"] | None = None,
    *,
    model: Classifier,
    optimizer: optax.GradientTransformation,
    strength: ConfigDict,
    weights: tuple[float, float],
    seed: int,
    smoothing: float = 0.0,
) -> tuple[TrainState, Float32[Array, " batch"]]:
    """Take one step of the optimizer.

    Args:
      state: before the step.
      images: grey values.
      labels: 1 for pneumonia, 0 for normal.
      weights_of_images: in the loss, see `image_weights`; None where the class alone decides.
      model, optimizer: from `create_model` and `create_optimizer`.
      strength: of the augmentation, the config's `augment`.
      weights, smoothing: see `class_weights` and `loss_and_logits`.
      seed: of the run; with the step it decides augmentation and dropout.

    Returns:
      The state after the step, and the logits before it, with dropout and augmentation on.
    """
    augment_key, dropout_key = jax.random.split(jax.random.fold_in(jax.random.key(seed), state.step))
    inputs = augment(augment_key, images.astype(jnp.float32) / 255, strength)
    gradient = jax.grad(partial(loss_and_logits, model=model, weights=weights, smoothing=smoothing), has_aux=True)
    grads, (batch_stats, logits) = gradient(
        state.params, state.batch_stats, inputs, labels, dropout_key, weights_of_images
    )
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    updates = jax.tree.map(lambda update: update * state.plateau.rate, updates)
    params = optax.apply_updates(state.params, updates)
    return TrainState(state.step + 1, params, batch_stats, opt_state, state.plateau), logits


def compile_step(layout: sharding.Layout, weighted: bool = False, **fixed: Any) -> jax.stages.Wrapped:
    """Compile `train_step` over the mesh, as a function from (state, images, labels) to (state, logits).

    If `weighted`, it takes the images' weights too, after the labels. `fixed` are its arguments after state and batch.
    The old state is donated.
    """
    return jax.jit(
        partial(train_step, **fixed),
        in_shardings=(layout.replicated, *[layout.batch_sharded] * (3 if weighted else 2)),
        out_shardings=layout.replicated,
        donate_argnums=0,
    )
