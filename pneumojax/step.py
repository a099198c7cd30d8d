"""The training step: a pure function of state and batch, and what it starts from."""

from functools import partial
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from pneumojax import devices, models
from pneumojax.augment import augment


class Plateau(flax.struct.PyTreeNode):
    """What lowers the learning rate when val accuracy stays: Keras's ReduceLROnPlateau.

    Attributes:
      rate: () float32, what the learning rate is multiplied by.
      best: () float32, the highest val accuracy so far.
      stale: () int32, epochs since then, or since the rate was lowered.
    """

    rate: jax.Array
    best: jax.Array
    stale: jax.Array


class TrainState(flax.struct.PyTreeNode):
    """All that training changes: `plateau` after an epoch, the rest after a step."""

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    plateau: Plateau

    @property
    def variables(self) -> dict:
        """What the model computes with."""
        return {"params": self.params, "batch_stats": self.batch_stats}


def create_model(config: ConfigDict) -> models.Classifier:
    """The config's model."""
    return models.create(
        config.model.name,
        batch_norm_momentum=config.model.batch_norm_momentum,
        dtype=jnp.dtype(config.model.dtype),
    )


def create_optimizer(config: ConfigDict, steps_per_epoch: int) -> optax.GradientTransformation:
    """Adam (Kingma and Ba) or RMSprop with Keras's epsilon, along the config's schedule."""
    peak, total = config.optimizer.learning_rate, config.epochs * steps_per_epoch
    warmup = min(round(config.optimizer.warmup_epochs * steps_per_epoch), total - 1)
    after = {
        "constant": optax.constant_schedule(peak),
        "plateau": optax.constant_schedule(peak),  # times `Plateau.rate`
        "cosine": optax.cosine_decay_schedule(peak, total - warmup),
    }[config.optimizer.schedule]
    # Counted from 1 / warmup, since a first step at zero would be lost.
    rise = optax.linear_schedule(peak / max(warmup, 1), peak, max(warmup - 1, 1))
    schedule = optax.join_schedules([rise, after], [warmup]) if warmup else after
    if config.optimizer.name == "rmsprop":
        return optax.rmsprop(schedule, decay=0.9, eps=1e-7)
    return optax.adam(schedule, b1=0.9, b2=0.999, eps=1e-7)


def after_epoch(plateau: Plateau, val_accuracy: float, learning_rate: float) -> Plateau:
    """The rate times 0.3 after each two epochs without a val accuracy above the best by 1e-4, not below 1e-6."""
    better = val_accuracy > plateau.best + 1e-4
    stale = jnp.where(better, 0, plateau.stale + 1)
    lower = jnp.minimum(plateau.rate, jnp.maximum(plateau.rate * 0.3, 1e-6 / learning_rate))
    return Plateau(
        rate=jnp.where(stale >= 2, lower, plateau.rate),
        best=jnp.where(better, val_accuracy, plateau.best),
        stale=jnp.where(stale >= 2, 0, stale),
    )


def init_variables(model: models.Classifier, image_size: int, seed: int) -> dict:
    """Initial `params` and `batch_stats`, the same on every process."""
    images = jnp.zeros((1, image_size, image_size, 1))
    return model.init(jax.random.key(seed), images, train=False)


def init_state(variables: dict, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        opt_state=optimizer.init(variables["params"]),
        plateau=Plateau(jnp.ones(()), jnp.zeros(()), jnp.zeros((), jnp.int32)),
    )


def class_weights(config: ConfigDict, labels: np.ndarray) -> tuple[float, float]:
    """The weights of a normal and of a pneumonia in the loss; their mean over `labels` is 1."""
    if config.loss.class_weights == "none":
        return 1.0, 1.0
    positive = float(np.mean(labels))
    return 0.5 / (1 - positive), 0.5 / positive


def loss_and_logits(params, batch_stats, images, labels, key, *, model, weights, smoothing=0.0):
    """Binary cross-entropy, weighted by class, in training mode.

    Args:
      params, batch_stats: the model's variables.
      images: (batch, height, width, 1) float in [0, 1].
      labels: (batch,) uint8.
      key: of dropout.
      model: the module.
      weights: of a normal and of a pneumonia.
      smoothing: share of the label that is spread over both classes (Szegedy et al. 2016), in [0, 1).

    Returns:
      The mean loss; and the new batch_stats with the logits, (batch,).
    """
    logits, updates = model.apply(
        {"params": params, "batch_stats": batch_stats},
        images,
        train=True,
        rngs={"dropout": key},
        mutable=["batch_stats"],
    )
    targets = labels.astype(logits.dtype) * (1 - smoothing) + smoothing / 2
    losses = optax.sigmoid_binary_cross_entropy(logits, targets)
    loss = jnp.mean(losses * jnp.where(labels == 1, weights[1], weights[0]))
    return loss, (updates["batch_stats"], logits)


def train_step(
    state: TrainState,
    images: jax.Array,
    labels: jax.Array,
    *,
    model: models.Classifier,
    optimizer: optax.GradientTransformation,
    strength: ConfigDict,
    weights: tuple[float, float],
    seed: int,
    smoothing: float = 0.0,
) -> tuple[TrainState, jax.Array]:
    """One step of the optimizer.

    Args:
      state: before the step.
      images: (batch, height, width, 1) uint8.
      labels: (batch,) uint8, 1 is pneumonia.
      model, optimizer: as made by `create_model` and `create_optimizer`.
      strength: of the augmentation, the config's `augment`.
      weights: of the classes, see `class_weights`.
      seed: of the run; with the step it decides augmentation and dropout.
      smoothing: of the labels, the config's `loss.label_smoothing`.

    Returns:
      The state after the step, and the logits before it, (batch,) float32, dropout and augmentation on.
    """
    augment_key, dropout_key = jax.random.split(jax.random.fold_in(jax.random.key(seed), state.step))
    images = augment(augment_key, images.astype(jnp.float32) / 255, strength)
    gradient = jax.grad(loss_and_logits, has_aux=True)
    grads, (batch_stats, logits) = gradient(
        state.params,
        state.batch_stats,
        images,
        labels,
        dropout_key,
        model=model,
        weights=weights,
        smoothing=smoothing,
    )
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    updates = jax.tree.map(lambda update: update * state.plateau.rate, updates)
    params = optax.apply_updates(state.params, updates)
    return TrainState(state.step + 1, params, batch_stats, opt_state, state.plateau), logits


def compile_step(layout: devices.Layout, **fixed):
    """`train_step` with everything but state and batch fixed, jitted over the mesh, the old state donated."""
    return jax.jit(
        partial(train_step, **fixed),
        in_shardings=(layout.everywhere, layout.divided, layout.divided),
        out_shardings=layout.everywhere,
        donate_argnums=0,
    )
