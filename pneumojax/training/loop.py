"""A run of epochs: from the last checkpoint to the last step, reported and saved on the way."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from etils import epath
from ml_collections import ConfigDict

from pneumojax.data import loader
from pneumojax.data.source import Split
from pneumojax.evaluation import calibration
from pneumojax.evaluation.forward import Evaluator
from pneumojax.models.classifier import Classifier, Variables, init_variables
from pneumojax.models.configured import create_model
from pneumojax.runtime import distributed, run_log, sharding
from pneumojax.runtime.errors import UserError
from pneumojax.runtime.signals import deferred
from pneumojax.training import checkpoint, progress, selection
from pneumojax.training.batches import Dispatch, choose
from pneumojax.training.optimizer import after_epoch, create_optimizer, learning_rate
from pneumojax.training.step import TrainState, class_weights, image_weights, init_state

GRACE_S = 10.0


class _Run(NamedTuple):
    """The parts of a run that stay the same."""

    config: ConfigDict
    splits: dict[str, Split]
    layout: sharding.Layout
    manager: checkpoint.Manager
    model: Classifier
    optimizer: optax.GradientTransformation
    per_epoch: int  # steps
    stop_requested: Callable[[], bool]
    grace_s: float


class _Start(NamedTuple):
    """Where training starts or continues."""

    state: TrainState
    logits: np.ndarray  # (steps, batch) float32, of the steps that the current epoch has had
    best: selection.Best | None  # up to the last epoch that has ended


def train(
    config: ConfigDict,
    workdir: epath.Path,
    splits: dict[str, Split],
    layout: sharding.Layout,
    *,
    grace_s: float = GRACE_S,
    variables: Variables | None = None,
) -> bool:
    """Train from the last checkpoint, or from the start, to the config's last epoch.

    `splits` has train and val. After each epoch, a metrics line of each is written, and the state is saved. Within an
    epoch the state is saved as often as the config says. Where a signal asks to stop while val is evaluated, the
    evaluation may take `grace_s` seconds, so that the epoch is saved. The start has these `variables` of the model;
    where there are none, they are drawn.

    Returns:
      Whether there was anything left to train.

    Raises:
      UserError: the batch does not fit the devices or the train split, or training diverges.
      KeyboardInterrupt: SIGINT or SIGTERM came. The step was finished and its state is saved. If the evaluation of val
        took longer than the grace period, the epoch continues from what was saved within it.
    """
    sharding.own_rows(layout, config.batch_size)  # refuses a batch that cannot be divided, before anything is written
    with deferred() as stop_requested:
        with jax.set_mesh(layout.mesh), checkpoint.open_manager(workdir, to_train=True) as manager:
            per_epoch = _steps_per_epoch(config, splits["train"])
            model, optimizer = create_model(config), create_optimizer(config, per_epoch)
            run = _Run(config, splits, layout, manager, model, optimizer, per_epoch, stop_requested, grace_s)
            start = _latest(run, variables)
            unfinished = int(start.state.step) < config.epochs * per_epoch
            if unfinished:
                _train_epochs(run, start, workdir)
        _stop_if(stop_requested())  # a signal came while the last state was saved
    return unfinished


def _stop_if(requested: bool) -> None:
    """Raise KeyboardInterrupt where any process of the job is asked to stop."""
    if distributed.anywhere(requested)[0]:
        raise KeyboardInterrupt


def _train_epochs(run: _Run, start: _Start, workdir: epath.Path) -> None:
    config, per_epoch, epochs = run.config, run.per_epoch, run.config.epochs
    state, epoch_logits, best = start
    first = int(state.step)
    if first:
        run_log.console.print(f"Resuming {_place(first, per_epoch)} of {epochs}.")
    dispatch = _dispatch(run, first)
    evaluator = Evaluator(run.model, run.layout, config.evaluation.batch_size)
    saves = _Saves(config.checkpoint, first)
    with run_log.metrics_lines(workdir, first) as write_line, run_log.training_bar() as bar:
        task = bar.add_task("", total=epochs * per_epoch, completed=first, epoch=0, epochs=epochs, rate=0.0)

        def after_steps(
            state: TrainState, step: int, logits: Callable[[], np.ndarray], count: int, seconds: float
        ) -> None:
            bar.update(task, advance=count, rate=count * config.batch_size / seconds)
            stop, save = distributed.anywhere(run.stop_requested(), saves.due(step))
            if step % per_epoch and (stop or save):
                checkpoint.save(run.manager, _within_epoch(run, state, step, logits(), best))
                saves.note(step)  # by every process's clock
                if stop:
                    raise KeyboardInterrupt

        run_log.console.print(progress.HEADER)
        for epoch in range(first // per_epoch + 1, epochs + 1):
            bar.update(task, epoch=epoch)
            started, before = time.perf_counter(), len(epoch_logits)
            state, logits = _run_epoch(dispatch, state, (epoch - 1) * per_epoch, per_epoch, epoch_logits, after_steps)
            speed = (per_epoch - before) * config.batch_size / (time.perf_counter() - started)
            epoch_logits = logits[:0]
            _refuse_nonfinite(state, logits, (epoch - 1) * per_epoch)
            val_logits = evaluator.outputs(state.variables, run.splits["val"], _stopping_after_grace(run)).logits
            measured = _measured(run, state, epoch, logits, val_logits, speed)
            for split, values in measured.items():
                write_line(step=epoch * per_epoch, epoch=epoch, split=split, values=dict(values))
            state, best, facts = _end_epoch(run, state, epoch, best, val_logits, measured["val"])
            checkpoint.save(run.manager, checkpoint.Saved(state, np.zeros_like(logits), facts))
            saves.note(epoch * per_epoch)
            run_log.console.print(progress.row(epoch, epochs, **measured))
            _stop_if(run.stop_requested())


def _dispatch(run: _Run, first: int) -> Dispatch:
    config, split = run.config, run.splits["train"]
    fixed = {"model": run.model, "optimizer": run.optimizer, "strength": config.augment, "seed": config.seed}
    fixed |= {"weights": class_weights(config, split.labels), "smoothing": config.loss.label_smoothing}
    fixed |= {"weights_of_images": image_weights(config, split)}
    return choose(config, split, run.layout, first_step=first, last_step=config.epochs * run.per_epoch, **fixed)


def _stopping_after_grace(run: _Run) -> Callable[[int], None]:
    """Return what to call after each batch of val: it stops on a signal once the grace period is over.

    Most evaluations take less than the grace period. They are finished and nothing is lost.
    """
    started = time.monotonic()
    return lambda images: _stop_if(run.stop_requested() and time.monotonic() - started > run.grace_s)


def _measured(
    run: _Run, state: TrainState, epoch: int, logits: np.ndarray, val_logits: np.ndarray, speed: float
) -> dict[str, dict[str, Any]]:
    """Return the metrics lines of an epoch, by split; train has also its last learning rate, and its images/s."""
    rate = learning_rate(run.config, run.per_epoch)(epoch * run.per_epoch - 1)
    of_train = progress.brief(_labels_seen(run, epoch), logits.ravel())
    of_train |= {"learning_rate": float(np.asarray(rate)) * float(state.plateau.rate), "images_per_second": speed}
    return {"train": of_train, "val": progress.brief(run.splits["val"].labels, val_logits)}


def _end_epoch(
    run: _Run,
    state: TrainState,
    epoch: int,
    best: selection.Best | None,
    val_logits: np.ndarray,
    of_val: dict[str, float],
) -> tuple[TrainState, selection.Best, dict]:
    """Update the plateau and the best by the epoch's val, and return them with the facts to save."""
    config, labels = run.config, run.splits["val"].labels
    if config.optimizer.schedule == "plateau":
        plateau = after_epoch(state.plateau, of_val["accuracy"], config.optimizer.learning_rate)
        state = state.replace(plateau=jax.device_put(plateau, run.layout.replicated))
    best, use = selection.follow(best, labels, val_logits)
    fitted = {"val": of_val, "calibration": calibration.fit(labels, val_logits)._asdict()}
    return state, best, _facts(config, epoch, best, use) | fitted


class _Saves:
    """Decides when a checkpoint within an epoch is due."""

    def __init__(self, intervals: ConfigDict, step: int):
        """Start at `step`, with the config's `checkpoint`."""
        self._intervals = intervals
        self.note(step)

    def note(self, step: int) -> None:
        """Note that the state after `step` was saved."""
        self._step, self._time = step, time.monotonic()

    def due(self, step: int) -> bool:
        """Tell whether a checkpoint is due after `step`."""
        steps, seconds = self._intervals.steps, 60 * self._intervals.minutes
        many = steps and step // steps > self._step // steps
        return bool(many or (seconds and time.monotonic() - self._time >= seconds))


def _within_epoch(
    run: _Run, state: TrainState, step: int, logits: np.ndarray, best: selection.Best | None
) -> checkpoint.Saved:
    """Return what to save within an epoch: a model that is not used, and the epoch's logits so far."""
    done = len(logits)
    _refuse_nonfinite(state, logits, step - done)
    padded = np.zeros((run.per_epoch, run.config.batch_size), np.float32)
    padded[:done] = logits
    return checkpoint.Saved(state, padded, _facts(run.config, (step - done) // run.per_epoch, best, use=False))


def _facts(config: ConfigDict, epoch: int, best: selection.Best | None, use: bool) -> dict:
    """Return the facts that are saved with every state; `epoch` is the last that has ended."""
    return {"model": config.model.to_dict(), "epoch": epoch, "best": best and best._asdict(), "use": use}


def _steps_per_epoch(config: ConfigDict, split: Split) -> int:
    steps = loader.steps_per_epoch(len(split.ids), config.batch_size)
    if not steps:
        raise UserError(
            f"a batch of {config.batch_size} is larger than the {len(split.ids)} training images:"
            " lower --config.batch_size"
        )
    return steps


def _latest(run: _Run, variables: Variables | None) -> _Start:
    """Return the latest saved state, or the initial one, with these variables where there are any."""
    config, per_epoch = run.config, run.per_epoch

    def initial(given: Variables | None) -> TrainState:
        drawn = given or init_variables(run.model, config.model.image_size, config.seed)
        return init_state(drawn, run.optimizer)

    # Compiled as one program: otherwise it would be a hundred, which take seconds to compile.
    state = jax.jit(initial, out_shardings=run.layout.replicated)(variables)
    nothing = np.zeros((per_epoch, config.batch_size), np.float32)
    latest = checkpoint.restore_latest(run.manager, checkpoint.Saved(state, nothing, {}), run.layout)
    if latest is None:
        return _Start(state, nothing[:0], None)
    best = latest.facts["best"]
    done = int(latest.state.step) - latest.facts["epoch"] * per_epoch
    return _Start(latest.state, latest.logits[:done], None if best is None else selection.Best(**best))


AfterSteps = Callable[[TrainState, int, Callable[[], np.ndarray], int, float], None]


def _run_epoch(
    dispatch: Dispatch, state: TrainState, first: int, per_epoch: int, done: np.ndarray, after_steps: AfterSteps
) -> tuple[TrainState, np.ndarray]:
    """Run the epoch whose steps are numbered from `first`, after those whose logits are `done`, (steps, batch).

    Dispatches start at the same steps wherever an epoch is resumed. After each, `after_steps` gets the state, the
    number of the next step, a function that returns the epoch's logits so far, the number of steps taken, and the
    seconds that they took. Return the state at the end of the epoch, and the logits of all its batches in order.
    """
    logits: list[np.ndarray | jax.Array] = [done]
    for step in range(first + len(done), first + per_epoch, dispatch.most):
        count = min(dispatch.most, first + per_epoch - step)
        started = time.perf_counter()
        state, batch_logits = dispatch.run(state, step, count)
        logits.append(batch_logits)
        # Waiting for the dispatch before this one keeps one in progress and the bar honest. Only the first dispatch is
        # waited for itself.
        jax.block_until_ready(logits[1:][-2:][0])
        after_steps(state, step + count, lambda: _joined(logits), count, time.perf_counter() - started)
    return state, _joined(logits)


def _joined(logits: list[np.ndarray | jax.Array]) -> np.ndarray:
    return np.concatenate(jax.device_get(logits))


def _refuse_nonfinite(state: TrainState, logits: np.ndarray, first: int) -> None:
    """Raise UserError where a step, numbered from `first`, gave logits or led to variables that are not finite."""
    bad = np.flatnonzero(~np.isfinite(logits).all(1))
    step = first + (bad[0] if len(bad) else len(logits) - 1)
    if len(bad) or not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.device_get(state.variables))):
        raise UserError(
            f"training diverged: the result of step {step} is not finite; what was saved before is kept: train again in"
            " another --workdir with a lower --config.optimizer.learning_rate"
        )


def _place(step: int, per_epoch: int) -> str:
    epoch, within = divmod(step, per_epoch)
    return f"within epoch {epoch + 1}" if within else f"after epoch {epoch}"


def _labels_seen(run: _Run, epoch: int) -> np.ndarray:
    """Return the labels of the epoch's batches in order, (n,)."""
    split = run.splits["train"]
    steps = range((epoch - 1) * run.per_epoch, epoch * run.per_epoch)
    order = {"examples": len(split.ids), "batch_size": run.config.batch_size, "seed": run.config.seed}
    return split.labels[np.concatenate([loader.batch_indices(step, **order) for step in steps])]
