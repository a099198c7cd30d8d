"""The optimizer, its learning rate over the steps, and the plateau rule after each epoch."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from pneumojax.training.training_settings import frozen_layers


class Plateau(flax.struct.PyTreeNode):
    """The state of the rule that lowers the learning rate when val accuracy stays (Keras's ReduceLROnPlateau).

    Attributes:
      rate: () float32, the factor of the learning rate.
      best: () float32, the highest val accuracy so far.
      stale: () int32, epochs since the best, or since the rate was lowered.
    """

    rate: jax.Array
    best: jax.Array
    stale: jax.Array


def learning_rate(config: ConfigDict, steps_per_epoch: int) -> optax.Schedule:
    """Return the config's learning rate as a function of the step, from 0; `Plateau.rate` is a factor on top of it."""
    peak, total = config.optimizer.learning_rate, config.epochs * steps_per_epoch
    warmup = min(round(config.optimizer.warmup_epochs * steps_per_epoch), total - 1)
    after = {
        "constant": optax.constant_schedule(peak),
        "plateau": optax.constant_schedule(peak),
        "cosine": optax.cosine_decay_schedule(peak, total - warmup),
    }[config.optimizer.schedule]
    # The rise starts at peak / warmup, since a first step at zero would be lost.
    rise = optax.linear_schedule(peak / max(warmup, 1), peak, max(warmup - 1, 1))
    return optax.join_schedules([rise, after], [warmup]) if warmup else after


def create_optimizer(config: ConfigDict, steps_per_epoch: int) -> optax.GradientTransformation:
    """Create Adam (Kingma and Ba) or RMSprop, with Keras's epsilon and the config's learning rate.

    Parameters of the layers that the config freezes stay as they are. Batch normalization's running statistics follow
    the images in every layer, since they are no parameters.
    """
    schedule = learning_rate(config, steps_per_epoch)
    if config.optimizer.name == "rmsprop":
        optimizer = optax.rmsprop(schedule, decay=0.9, eps=1e-7)
    else:
        optimizer = optax.adam(schedule, b1=0.9, b2=0.999, eps=1e-7)
    frozen = frozen_layers(config)
    if not frozen:
        return optimizer

    def mask(params: dict[str, Any]) -> dict[str, Any]:
        return {layer: jax.tree.map(lambda _, layer=layer: layer in frozen, own) for layer, own in params.items()}

    return optax.chain(optimizer, optax.masked(optax.set_to_zero(), mask))


def after_epoch(plateau: Plateau, val_accuracy: float, learning_rate: float) -> Plateau:
    """Update the plateau after an epoch.

    After two epochs in a row without a val accuracy above the best by 1e-4, the rate is multiplied by 0.3. Its
    product with the config's `learning_rate` does not fall below 1e-6.
    """
    better = val_accuracy > plateau.best + 1e-4
    stale = jnp.where(better, 0, plateau.stale + 1)
    lower = jnp.minimum(plateau.rate, jnp.maximum(plateau.rate * 0.3, 1e-6 / learning_rate))
    return Plateau(
        rate=jnp.where(stale >= 2, lower, plateau.rate),
        best=jnp.where(better, val_accuracy, plateau.best),
        stale=jnp.where(stale >= 2, 0, stale),
    )
