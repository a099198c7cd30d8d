"""What an experiment would train, and about how long: its runs as a table, with nothing written."""

import time
from collections.abc import Mapping

import jax
import numpy as np
from ml_collections import ConfigDict

from pneumojax.data import data_settings
from pneumojax.data import splits as splitting
from pneumojax.data.source import Source
from pneumojax.evaluation.experiment_runs import Run
from pneumojax.models.classifier import init_variables
from pneumojax.models.configured import create_model
from pneumojax.runtime import sharding
from pneumojax.runtime.tables import markdown_table
from pneumojax.runtime.wording import counted
from pneumojax.training.optimizer import create_optimizer
from pneumojax.training.step import compile_step, init_state

_STEPS = 5  # timed, after the first, which compiles


def table(runs: Mapping[Run, ConfigDict], finished: set[Run], source: Source) -> str:
    """Format the runs with the time that their training steps would take on this machine, from a few steps of each.

    Reading, compiling and evaluating come on top. A copy of a picture, which training keeps in one split with the
    picture, is not looked for.
    """
    speeds: dict[str, float] = {}
    rows, total = [], 0.0
    for run, config in runs.items():
        records = data_settings.usable(config, source.records)
        images = len(splitting.for_training(records, data_settings.carving(config))[0]["train"])
        kind = str([config.model, config.augment, config.optimizer.name, config.freeze, config.batch_size])
        if run not in finished and kind not in speeds:
            speeds[kind] = seconds_per_image(config)
        seconds = 0.0 if run in finished else config.epochs * images * speeds[kind]
        total += seconds
        shown = "finished" if run in finished else _duration(seconds)
        rows.append((run.name, f"{config.epochs}", f"{images:,}", shown))
    header = ("run", "epochs", "images an epoch", "training steps")
    return f"{markdown_table(header, rows)}\n{counted(len(runs), 'run')}: about {_duration(total)} of training steps."


def seconds_per_image(config: ConfigDict) -> float:
    """Measure the time of a training step, divided by its images."""
    layout = sharding.layout()
    with jax.set_mesh(layout.mesh):
        model, optimizer = create_model(config), create_optimizer(config, steps_per_epoch=1)
        state = init_state(init_variables(model, config.model.image_size, config.seed), optimizer)
        state = jax.device_put(state, layout.replicated)
        step = compile_step(
            layout,
            model=model,
            optimizer=optimizer,
            strength=config.augment,
            weights=(1.0, 1.0),
            seed=config.seed,
            smoothing=config.loss.label_smoothing,
        )
        side = config.model.image_size
        images = sharding.place(layout, np.zeros((config.batch_size, side, side, 1), np.uint8))
        labels = sharding.place(layout, np.zeros(config.batch_size, np.uint8))
        state, _ = jax.block_until_ready(step(state, images, labels))
        started = time.perf_counter()
        for _ in range(_STEPS):
            state, _ = step(state, images, labels)
        jax.block_until_ready(state)
    return (time.perf_counter() - started) / _STEPS / config.batch_size


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{max(seconds / 60, 0.1):.1f} min"
