"""How steps come by their batches: from the train split as one array on every device, or from a feed."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from pneumojax import devices
from pneumojax.data import pipeline
from pneumojax.data.quiet_tensorflow import INSTALL, installed
from pneumojax.data.readers import Split
from pneumojax.errors import UserError
from pneumojax.step import TrainState, compile_step, train_step

SHARE = 0.25  # of a device's free memory that the split may take; the rest is the step's
HOST_LIMIT = 1 << 30  # bytes of it, copies for several devices included, where the host's memory is the device's
STEPS = 32  # in one dispatch to an accelerator, which else waits for the host between short steps
_READ = 256  # images read at a time on their way to the devices


class Dispatch(NamedTuple):
    """Takes steps.

    Attributes:
      run: (state, number of the first step, how many) -> the state after them and their logits, (steps, batch).
      most: how many at a time.
    """

    run: Callable[[TrainState, int, int], tuple[TrainState, jax.Array]]
    most: int


def choose(
    config: ConfigDict, split: Split, layout: devices.Layout, *, first_step: int, last_step: int, **fixed
) -> Dispatch:
    """Steps `first_step` up to, but without, `last_step`, by the means that `config.data.resident` names.

    Batches, and on one CPU the bits of what is computed from them, do not depend on the means.

    Args:
      config: of the run.
      split: what is trained on.
      layout: the devices.
      first_step: number of the first step that will be taken; the others follow in order.
      last_step: number after the last one.
      fixed: what `train_step` takes beside state and batch.

    Raises:
      UserError: the split would have to be fed, and TensorFlow or TFDS is not installed.
    """
    order = {"batch_size": config.batch_size, "seed": config.seed}
    if config.data.resident == "always" or config.data.resident == "auto" and fits(split, layout):
        return _resident(split, layout, order, fixed)
    if not installed():
        raise UserError(
            "the train split takes more than a device's share of memory (--config.data.resident=always puts it there"
            f" nevertheless), and what would feed it is not installed: {INSTALL}"
        )
    rows = devices.own_rows(layout, config.batch_size)
    batches = pipeline.feed(split, first_step=first_step, last_step=last_step, rows=rows, **order)
    return _fed(batches, layout, fixed)


def fits(split: Split, layout: devices.Layout) -> bool:
    """Whether each device of every process has room for the whole split."""
    own = layout.mesh.local_devices
    size = len(split.ids) * split.read(np.zeros(1, int)).nbytes
    stats = [device.memory_stats() for device in own]
    if all(stats):
        room = min(SHARE * (told["bytes_limit"] - told["bytes_in_use"]) for told in stats)
    else:
        room = HOST_LIMIT / len(own)
    # One answer for all: processes that ran different programs would wait for each other forever.
    return bool(np.all(multihost_utils.process_allgather(np.array(size <= room))))


def _fed(batches: Iterator[tuple[np.ndarray, np.ndarray]], layout: devices.Layout, fixed: dict) -> Dispatch:
    step = compile_step(layout, **fixed)

    def run(state, first, count):
        state, logits = step(state, *(devices.place(layout, rows) for rows in next(batches)))
        return state, logits[None]

    return Dispatch(run, most=1)


def _resident(split: Split, layout: devices.Layout, order: dict, fixed: dict) -> Dispatch:
    images, labels = (devices.place_whole(layout.everywhere, array) for array in (_whole(split), split.labels))
    steps = _compile_steps(layout, **fixed)

    def run(state, first, count):
        numbers = range(first, first + count)
        rows = [pipeline.batch_indices(number, examples=len(split.ids), **order) for number in numbers]
        return steps(state, images, labels, devices.place_whole(layout.stacked, np.array(rows, np.int32)))

    # See `resident_steps`; and a CPU's steps are long.
    return Dispatch(run, most=1 if jax.default_backend() == "cpu" else STEPS)


def _whole(split: Split) -> np.ndarray:
    """All images of the split, (n, size, size, 1) uint8."""
    images = np.empty((len(split.ids), *split.read(np.zeros(1, int)).shape[1:]), np.uint8)
    for start in range(0, len(images), _READ):
        part = np.arange(start, min(start + _READ, len(images)))
        images[part] = split.read(part)
    return images


def resident_steps(
    state: TrainState, images: jax.Array, labels: jax.Array, indices: jax.Array, *, layout: devices.Layout, **fixed
) -> tuple[TrainState, jax.Array]:
    """As many `train_step`s as there are rows of `indices`.

    Args:
      state: before the first.
      images: (n, height, width, 1) uint8, whole on every device, from which each takes its own rows.
      labels: (n,) uint8, likewise.
      indices: (steps, batch) int32, which images make each step's batch.
      layout: the devices.
      fixed: what `train_step` takes beside state and batch.

    Returns:
      The state after the last, and the logits, (steps, batch) float32.
    """

    def step(state, rows):
        batch = (jnp.take(whole, rows, axis=0, mode="clip") for whole in (images, labels))
        return train_step(state, *(jax.lax.with_sharding_constraint(part, layout.divided) for part in batch), **fixed)

    if len(indices) == 1:  # XLA's convolutions on CPUs are many times slower in a loop, be it of one step
        state, logits = step(state, indices[0])
        return state, logits[None]
    return jax.lax.scan(step, state, indices)


def _compile_steps(layout: devices.Layout, **fixed):
    whole = layout.everywhere
    return jax.jit(
        partial(resident_steps, layout=layout, **fixed),
        in_shardings=(whole, whole, whole, layout.stacked),
        out_shardings=whole,
        donate_argnums=0,
    )
