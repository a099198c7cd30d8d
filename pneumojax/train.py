"""A run of epochs: from the last checkpoint to the last step, told and saved on the way."""

import time

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from pneumojax import calibration, checkpoint, choice, devices, log, metrics
from pneumojax.data import pipeline
from pneumojax.data.readers import Split
from pneumojax.dispatch import choose
from pneumojax.errors import UserError
from pneumojax.evaluate import Evaluator
from pneumojax.interrupt import deferred
from pneumojax.step import after_epoch, class_weights, create_model, create_optimizer, init_state, init_variables


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
    devices.own_rows(layout, config.batch_size)  # a batch that cannot be divided is refused before all else
    per_epoch = _steps_per_epoch(config, splits["train"])
    model, optimizer = create_model(config), create_optimizer(config, per_epoch)
    with jax.set_mesh(layout.mesh), checkpoint.open_manager(workdir) as manager, deferred() as stop_if_asked:
        state, best = _latest_state(config, manager, model, optimizer, layout)
        first, last = int(state.step), config.epochs * per_epoch
        if first >= last:
            return False
        if first:
            log.console.print(f"Resuming after epoch {first // per_epoch} of {config.epochs}.")
        dispatch = choose(
            config,
            splits["train"],
            layout,
            first_step=first,
            last_step=last,
            model=model,
            optimizer=optimizer,
            strength=config.augment,
            weights=class_weights(config, splits["train"].labels),
            seed=config.seed,
            smoothing=config.loss.label_smoothing,
        )
        evaluator = Evaluator(model, layout, config.evaluation.batch_size)
        with log.MetricsLog(workdir, first) as lines, log.progress_bar() as bar:
            task = bar.add_task("", total=last, completed=first, epoch=0, epochs=config.epochs, rate=0.0)

            def after_steps(count, seconds):
                bar.update(task, advance=count, rate=count * config.batch_size / seconds)
                stop_if_asked()

            for epoch in range(first // per_epoch + 1, config.epochs + 1):
                bar.update(task, epoch=epoch)
                started = time.perf_counter()
                state, logits = _run_epoch(dispatch, state, (epoch - 1) * per_epoch, per_epoch, after_steps)
                rate = per_epoch * config.batch_size / (time.perf_counter() - started)
                _refuse_nonfinite(logits, config, (epoch - 1) * per_epoch)
                seen = _brief(_labels_seen(splits["train"], config, epoch, per_epoch), logits)
                val_logits = evaluator.outputs(state.variables, splits["val"]).logits
                told = {"train": seen | {"images_per_second": rate}, "val": _brief(splits["val"].labels, val_logits)}
                for split, values in told.items():
                    lines.write(step=epoch * per_epoch, epoch=epoch, split=split, values=values)
                if config.optimizer.schedule == "plateau":
                    lowered = after_epoch(state.plateau, told["val"]["accuracy"], config.optimizer.learning_rate)
                    state = state.replace(plateau=jax.device_put(lowered, layout.everywhere))
                best, use = choice.follow(best, splits["val"].labels, val_logits)
                facts = {
                    "model": config.model.to_dict(),
                    "epoch": epoch,
                    "val": told["val"],
                    "calibration": calibration.fit(splits["val"].labels, val_logits)._asdict(),
                    "best": best._asdict(),
                    "use": use,
                }
                checkpoint.save(manager, state, facts)
                log.console.print(_line(epoch, config.epochs, **told))
    return True


def _steps_per_epoch(config, split):
    steps = pipeline.steps_per_epoch(len(split.ids), config.batch_size)
    if not steps:
        raise UserError(
            f"a batch of {config.batch_size} is larger than the {len(split.ids)} training images:"
            " lower --config.batch_size"
        )
    return steps


def _latest_state(config, manager, model, optimizer, layout):
    """The last state saved, or the first of all; and the best val AUC up to it, None of the first."""

    def first():
        return init_state(init_variables(model, config.model.image_size, config.seed), optimizer)

    # One program: the hundred that it would be otherwise take seconds to compile.
    state = jax.jit(first, out_shardings=layout.everywhere)()
    latest = checkpoint.restore_latest(manager, state, layout)
    if latest is None:
        return state, None
    state, facts = latest
    return state, choice.Best(**facts["best"])


def _run_epoch(dispatch, state, first, per_epoch, after_steps):
    """(state, logits of every batch in order) after the `per_epoch` steps from number `first`."""
    logits = []
    for step in range(first, first + per_epoch, dispatch.most):
        count = min(dispatch.most, first + per_epoch - step)
        started = time.perf_counter()
        state, batch_logits = dispatch.run(state, step, count)
        logits.append(batch_logits)
        # Waiting for the steps before keeps one dispatch in flight and the bar honest.
        jax.block_until_ready(logits[-2:][0])
        after_steps(count, time.perf_counter() - started)
    return state, np.concatenate(jax.device_get(logits)).ravel()


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


def _line(epoch, epochs, train, val):
    def told(values):
        return f"bce {values['bce']:.4f}  accuracy {values['accuracy']:.4f}  auc {values['auc']:.4f}"

    return f"epoch {epoch:>3}/{epochs}  train {told(train)}  val {told(val)}  {train['images_per_second']:.1f} images/s"
