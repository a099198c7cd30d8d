"""A run of epochs: from the last checkpoint to the last step, told and saved on the way."""

import time
from collections.abc import Callable

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from pneumojax import calibration, checkpoint, choice, devices, log, metrics, processes
from pneumojax.data import pipeline
from pneumojax.data.readers import Split
from pneumojax.dispatch import choose
from pneumojax.errors import UserError
from pneumojax.evaluate import Evaluator
from pneumojax.interrupt import deferred
from pneumojax.step import after_epoch, class_weights, create_model, create_optimizer, init_state, init_variables

PATIENCE_S = 10  # that an epoch's val is waited for when a signal asks to stop


def train(config: ConfigDict, workdir: epath.Path, splits: dict[str, Split], layout: devices.Layout) -> bool:
    """Trains from the last checkpoint, or from the start, to the config's last epoch.

    After each epoch: train and val BCE, accuracy and AUC go to the log; the state is saved. Within an epoch it is saved
    as often as the config says.

    Args:
      config: of the run.
      workdir: of the run; there, checkpoints/, metrics.jsonl and tensorboard/ are written.
      splits: train and val among them.
      layout: the devices to train on.

    Returns:
      Whether there was anything left to train.

    Raises:
      UserError: the batch does not fit the devices or the train split, or training diverges.
      KeyboardInterrupt: SIGINT or SIGTERM came; the step was finished, and what it led to is saved. Where it came while
        a val that takes more than `PATIENCE_S` was evaluated, the epoch goes on from what was saved within it.
    """
    devices.own_rows(layout, config.batch_size)  # a batch that cannot be divided is refused before all else
    with deferred() as asked:
        with jax.set_mesh(layout.mesh), checkpoint.open_manager(workdir, to_train=True) as manager:
            trained = _go_on(config, workdir, splits, layout, manager, asked)
        _heed(asked())  # what came while the last state was saved
    return trained


def _heed(asked: bool) -> None:
    """Raises KeyboardInterrupt where any process of the job is asked to stop."""
    if processes.anywhere(asked)[0]:
        raise KeyboardInterrupt


def _go_on(config, workdir, splits, layout, manager, asked) -> bool:
    per_epoch = _steps_per_epoch(config, splits["train"])
    model, optimizer = create_model(config), create_optimizer(config, per_epoch)
    state, seen, best = _latest(config, manager, model, optimizer, layout, per_epoch)
    first, last = int(state.step), config.epochs * per_epoch
    if first >= last:
        return False
    if first:
        log.console.print(f"Resuming {_place(first, per_epoch)} of {config.epochs}.")
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
    val, due = splits["val"], _due(config.checkpoint, first)
    with log.metrics_lines(workdir, first) as write_line, log.progress_bar() as bar:
        task = bar.add_task("", total=last, completed=first, epoch=0, epochs=config.epochs, rate=0.0)

        def after_steps(state, step, logits, count, seconds):
            bar.update(task, advance=count, rate=count * config.batch_size / seconds)
            stop, save = processes.anywhere(asked(), due(step))
            if step % per_epoch and (stop or save):
                checkpoint.save(manager, _within_epoch(config, state, step, logits(), best, per_epoch))
                due(step, saved=True)  # by every process's clock
                if stop:
                    raise KeyboardInterrupt

        for epoch in range(first // per_epoch + 1, config.epochs + 1):
            bar.update(task, epoch=epoch)
            started, before = time.perf_counter(), len(seen)
            state, logits = _run_epoch(dispatch, state, (epoch - 1) * per_epoch, per_epoch, seen, after_steps)
            rate = (per_epoch - before) * config.batch_size / (time.perf_counter() - started)
            seen = logits[:0]
            _refuse_nonfinite(state, logits, (epoch - 1) * per_epoch)
            val_logits = evaluator.outputs(state.variables, val, _impatient(asked)).logits
            of_train = _brief(_labels_seen(splits["train"], config, epoch, per_epoch), logits.ravel())
            of_val = _brief(val.labels, val_logits)
            told = {"train": of_train | {"images_per_second": rate}, "val": of_val}
            for split, values in told.items():
                write_line(step=epoch * per_epoch, epoch=epoch, split=split, values=values)
            state, best, facts = _end_epoch(config, state, epoch, best, val.labels, val_logits, of_val, layout)
            checkpoint.save(manager, checkpoint.Saved(state, np.zeros_like(logits), facts))
            due(epoch * per_epoch, saved=True)
            log.console.print(_line(epoch, config.epochs, **told))
            _heed(asked())
    return True


def _impatient(asked: Callable[[], bool]) -> Callable[[], None]:
    """Heeds a signal from one batch of val to the next once they have taken `PATIENCE_S`: the epoch is then not saved.

    Before that they are waited for, since most take less, and nothing is lost.
    """
    began = time.monotonic()
    return lambda: _heed(asked() and time.monotonic() - began > PATIENCE_S)


def _end_epoch(config, state, epoch, best, labels, logits, of_val, layout):
    """(state, best, facts) as the epoch's val makes them: the plateau's rate, the choice, the calibration."""
    if config.optimizer.schedule == "plateau":
        lowered = after_epoch(state.plateau, of_val["accuracy"], config.optimizer.learning_rate)
        state = state.replace(plateau=jax.device_put(lowered, layout.everywhere))
    best, use = choice.follow(best, labels, logits)
    fitted = {"val": of_val, "calibration": calibration.fit(labels, logits)._asdict()}
    return state, best, _facts(config, epoch, best, use) | fitted


def _due(wanted: ConfigDict, first: int) -> Callable[..., bool]:
    """A function that tells after a step if a checkpoint within the epoch is due, and takes note of others."""
    last_step, last_time = first, time.monotonic()

    def due(step: int, saved: bool = False) -> bool:
        nonlocal last_step, last_time
        many = wanted.steps and step // wanted.steps > last_step // wanted.steps
        long = wanted.minutes and time.monotonic() - last_time >= 60 * wanted.minutes
        if saved or many or long:
            last_step, last_time = step, time.monotonic()
        return bool(many or long)

    return due


def _within_epoch(config, state, step, logits, best, per_epoch) -> checkpoint.Saved:
    """What is saved within an epoch: nothing to be used, and the logits that its figures will be of."""
    done = len(logits)
    _refuse_nonfinite(state, logits, step - done)
    padded = np.zeros((per_epoch, config.batch_size), np.float32)
    padded[:done] = logits
    return checkpoint.Saved(state, padded, _facts(config, (step - done) // per_epoch, best, use=False))


def _facts(config, epoch, best, use) -> dict:
    """What is saved beside every state; `epoch` is the last that has ended."""
    best = None if best is None else best._asdict()
    return {"model": config.model.to_dict(), "epoch": epoch, "best": best, "use": use}


def _steps_per_epoch(config, split):
    steps = pipeline.steps_per_epoch(len(split.ids), config.batch_size)
    if not steps:
        raise UserError(
            f"a batch of {config.batch_size} is larger than the {len(split.ids)} training images:"
            " lower --config.batch_size"
        )
    return steps


def _latest(config, manager, model, optimizer, layout, per_epoch):
    """The last state saved, or the first of all; the logits of its epoch so far; and the best up to it, if any."""

    def first():
        return init_state(init_variables(model, config.model.image_size, config.seed), optimizer)

    # One program: the hundred that it would be otherwise take seconds to compile.
    state = jax.jit(first, out_shardings=layout.everywhere)()
    nothing = np.zeros((per_epoch, config.batch_size), np.float32)
    latest = checkpoint.restore_latest(manager, checkpoint.Saved(state, nothing, {}), layout)
    if latest is None:
        return state, nothing[:0], None
    best = latest.facts["best"]
    done = int(latest.state.step) - latest.facts["epoch"] * per_epoch
    return latest.state, latest.logits[:done], None if best is None else choice.Best(**best)


def _run_epoch(dispatch, state, first, per_epoch, seen, after_steps):
    """(state, logits of every batch in order) at the end of the epoch whose steps are numbered from `first`.

    `seen` are the logits of the steps that it has had. Dispatches begin at the same steps wherever an epoch is resumed.
    """
    logits = [seen]
    for step in range(first + len(seen), first + per_epoch, dispatch.most):
        count = min(dispatch.most, first + per_epoch - step)
        started = time.perf_counter()
        state, batch_logits = dispatch.run(state, step, count)
        logits.append(batch_logits)
        # Waiting for the dispatch before keeps one in flight and the bar honest; the first is waited for itself.
        jax.block_until_ready(logits[1:][-2:][0])
        after_steps(state, step + count, lambda: _joined(logits), count, time.perf_counter() - started)
    return state, _joined(logits)


def _joined(logits):
    return np.concatenate(jax.device_get(logits))


def _refuse_nonfinite(state, logits, first):
    """Raises UserError where a step from number `first` on gave what is no number, or led to a state that is none."""
    bad = np.flatnonzero(~np.isfinite(logits).all(1))
    step = first + (bad[0] if len(bad) else len(logits) - 1)
    if len(bad) or not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.device_get(state.variables))):
        raise UserError(
            f"training diverged: what step {step} gives is not finite; what was saved before is kept; start anew in"
            " another --workdir with a lower --config.optimizer.learning_rate"
        )


def _place(step, per_epoch):
    epoch, within = divmod(step, per_epoch)
    return f"within epoch {epoch + 1}" if within else f"after epoch {epoch}"


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
