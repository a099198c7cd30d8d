"""The training step, and the run around it."""

import time
from functools import partial
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from etils import epath
from ml_collections import ConfigDict

from pneumojax import checkpoint, devices, log, metrics, models
from pneumojax.augment import augment
from pneumojax.data import pipeline
from pneumojax.data.split import Split
from pneumojax.errors import UserError
from pneumojax.evaluate import Evaluator
from pneumojax.interrupt import deferred


class TrainState(flax.struct.PyTreeNode):
    """All that a step changes."""

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any

    @property
    def variables(self) -> dict:
        """What the model computes with."""
        return {"params": self.params, "batch_stats": self.batch_stats}


def create_model(config: ConfigDict) -> models.Classifier:
    """The config's model."""
    return models.create(config.model.name, batch_norm_momentum=config.model.batch_norm_momentum)


def create_optimizer(config: ConfigDict, steps_per_epoch: int) -> optax.GradientTransformation:
    """Adam (Kingma and Ba) with Keras's epsilon, along the config's schedule."""
    peak, total = config.optimizer.learning_rate, config.epochs * steps_per_epoch
    warmup = min(round(config.optimizer.warmup_epochs * steps_per_epoch), total - 1)
    after = {
        "constant": optax.constant_schedule(peak),
        "cosine": optax.cosine_decay_schedule(peak, total - warmup),
    }[config.optimizer.schedule]
    # Counted from 1 / warmup, since a first step at zero would be lost.
    rise = optax.linear_schedule(peak / max(warmup, 1), peak, max(warmup - 1, 1))
    schedule = optax.join_schedules([rise, after], [warmup]) if warmup else after
    return optax.adam(schedule, b1=0.9, b2=0.999, eps=1e-7)


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
    )


def class_weights(config: ConfigDict, labels: np.ndarray) -> tuple[float, float]:
    """The weights of a normal and of a pneumonia in the loss; their mean over `labels` is 1."""
    if config.loss.class_weights == "none":
        return 1.0, 1.0
    positive = float(np.mean(labels))
    return 0.5 / (1 - positive), 0.5 / positive


def loss_and_logits(params, batch_stats, images, labels, key, *, model, weights):
    """Binary cross-entropy, weighted by class, in training mode.

    Args:
      params, batch_stats: the model's variables.
      images: (batch, height, width, 1) float in [0, 1].
      labels: (batch,) uint8.
      key: of dropout.
      model: the module.
      weights: of a normal and of a pneumonia.

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
    losses = optax.sigmoid_binary_cross_entropy(logits, labels.astype(logits.dtype))
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

    Returns:
      The state after the step, and the logits before it, (batch,) float32, dropout and augmentation on.
    """
    augment_key, dropout_key = jax.random.split(jax.random.fold_in(jax.random.key(seed), state.step))
    images = augment(augment_key, images.astype(jnp.float32) / 255, strength)
    gradient = jax.grad(loss_and_logits, has_aux=True)
    grads, (batch_stats, logits) = gradient(
        state.params, state.batch_stats, images, labels, dropout_key, model=model, weights=weights
    )
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    return TrainState(state.step + 1, params, batch_stats, opt_state), logits


def compile_step(layout: devices.Layout, **fixed):
    """`train_step` with everything but state and batch fixed, jitted over the mesh, the old state donated."""
    return jax.jit(
        partial(train_step, **fixed),
        in_shardings=(layout.everywhere, layout.divided, layout.divided),
        out_shardings=layout.everywhere,
        donate_argnums=0,
    )


def train(config: ConfigDict, workdir: epath.Path, splits: dict[str, Split], layout: devices.Layout) -> bool:
    """Trains from the last checkpoint, or from the start, to the config's last epoch.

    After each epoch: train and val BCE, accuracy and AUC go to the log; the state is saved.

    Args:
      config: of the run.
      workdir: of the run; there, checkpoints/, metrics.jsonl and tensorboard/ are written.
      splits: train and val among them.
      layout: the devices to train on.

    Returns:
      Whether there was anything left to train.

    Raises:
      UserError: the batch does not fit the devices or the train split, or training diverges.
      KeyboardInterrupt: SIGINT or SIGTERM came; the step was finished, and what was being saved is saved.
    """
    rows = devices.own_rows(layout, config.batch_size)
    per_epoch = pipeline.steps_per_epoch(len(splits["train"].ids), config.batch_size)
    if not per_epoch:
        raise UserError(
            f"a batch of {config.batch_size} is larger than the {len(splits['train'].ids)} training images:"
            " lower --config.batch_size"
        )
    model, optimizer = create_model(config), create_optimizer(config, per_epoch)
    with jax.set_mesh(layout.mesh), checkpoint.open_manager(workdir) as manager, deferred() as stop_if_asked:
        state = init_state(init_variables(model, config.model.image_size, config.seed), optimizer)
        state = jax.device_put(state, layout.everywhere)
        saved = checkpoint.restore_latest(manager, state, layout)
        if saved:
            state = saved[0]
            log.console.print(f"Resuming after epoch {int(state.step) // per_epoch} of {config.epochs}.")
        first, last = int(state.step), config.epochs * per_epoch
        if first >= last:
            return False
        step = compile_step(
            layout,
            model=model,
            optimizer=optimizer,
            strength=config.augment,
            weights=class_weights(config, splits["train"].labels),
            seed=config.seed,
        )
        batches = pipeline.feed(
            splits["train"],
            batch_size=config.batch_size,
            seed=config.seed,
            first_step=first,
            last_step=last,
            rows=rows,
        )
        evaluator = Evaluator(model, layout, config.evaluation.batch_size)
        with log.MetricsLog(workdir, first) as lines, log.progress_bar() as bar:
            task = bar.add_task("", total=last, completed=first, epoch=0, epochs=config.epochs, rate=0.0)

            def after_step(seconds):
                bar.update(task, advance=1, rate=config.batch_size / seconds)
                stop_if_asked()

            for epoch in range(first // per_epoch + 1, config.epochs + 1):
                bar.update(task, epoch=epoch)
                started = time.perf_counter()
                state, logits = _run_epoch(step, state, batches, layout, per_epoch, after_step)
                rate = per_epoch * config.batch_size / (time.perf_counter() - started)
                _refuse_nonfinite(logits, config, (epoch - 1) * per_epoch)
                labels = _labels_seen(splits["train"], config, epoch, per_epoch)
                seen = _brief(labels, logits) | {"images_per_second": rate}
                val_logits = evaluator.logits(state.variables, splits["val"])
                val = _brief(splits["val"].labels, val_logits)
                for split, values in (("train", seen), ("val", val)):
                    lines.write(step=epoch * per_epoch, epoch=epoch, split=split, values=values)
                threshold = metrics.best_threshold(splits["val"].labels, metrics.probabilities(val_logits))
                facts = {"model": config.model.to_dict(), "epoch": epoch, "val": val, "threshold": threshold}
                checkpoint.save(manager, state, facts)
                log.console.print(_line(epoch, config.epochs, seen, val))
    return True


def _run_epoch(step, state, batches, layout, per_epoch, after_step):
    """(state, logits of every batch in order) after `per_epoch` steps."""
    logits = []
    for _ in range(per_epoch):
        started = time.perf_counter()
        images, labels = (devices.place(layout, rows) for rows in next(batches))
        state, batch_logits = step(state, images, labels)
        logits.append(batch_logits)
        # Waiting for the step before keeps one in flight and the bar honest.
        jax.block_until_ready(logits[-2:][0])
        after_step(time.perf_counter() - started)
    return state, np.concatenate(jax.device_get(logits))


def _refuse_nonfinite(logits, config, first):
    bad = np.flatnonzero(~np.isfinite(logits))
    if len(bad):
        raise UserError(
            f"training diverged: the logits of step {first + bad[0] // config.batch_size} are not finite; what was"
            " saved before is kept; start anew with a lower --config.optimizer.learning_rate"
        )


def _labels_seen(split: Split, config: ConfigDict, epoch: int, per_epoch: int) -> np.ndarray:
    steps = range((epoch - 1) * per_epoch, epoch * per_epoch)
    indices = [
        pipeline.batch_indices(step, examples=len(split.ids), batch_size=config.batch_size, seed=config.seed)
        for step in steps
    ]
    return split.labels[np.concatenate(indices)]


def _brief(labels: np.ndarray, logits: np.ndarray) -> dict[str, float]:
    return {
        "bce": metrics.bce(labels, logits),
        "accuracy": float(np.mean((logits >= 0) == labels)),
        "auc": metrics.auc(labels, logits),
    }


def _line(epoch, epochs, seen, val):
    def told(values):
        return f"bce {values['bce']:.4f}  accuracy {values['accuracy']:.4f}  auc {values['auc']:.4f}"

    return f"epoch {epoch:>3}/{epochs}  train {told(seen)}  val {told(val)}  {seen['images_per_second']:.1f} images/s"
