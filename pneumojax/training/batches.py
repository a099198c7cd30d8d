"""The batches of the steps: from the train split as one array on every device, or from a feed."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Array, Float32, Int32, UInt8
from ml_collections import ConfigDict

from pneumojax.data import loader
from pneumojax.data.source import Split
from pneumojax.data.tensorflow_import import INSTALL, installed
from pneumojax.runtime import sharding
from pneumojax.runtime.errors import UserError
from pneumojax.training.step import TrainState, compile_step, train_step

SHARE = 0.25  # of a device's free memory that the split may take; the step needs the rest
HOST_LIMIT = 1 << 30  # bytes that all copies of the split may take where devices share the host's memory
STEPS = 32  # in one dispatch to an accelerator, which would otherwise wait for the host between short steps
_READ = 256  # images that are read at a time on their way to the devices


class Dispatch(NamedTuple):
    """A way to take steps.

    Attributes:
      run: takes the state, the number of the first step and the number of steps; returns the state after them and
        their logits, (steps, batch) float32.
      most: the most steps that `run` takes at a time.
    """

    run: Callable[[TrainState, int, int], tuple[TrainState, jax.Array]]
    most: int


def choose(
    config: ConfigDict,
    split: Split,
    layout: sharding.Layout,
    *,
    first_step: int,
    last_step: int,
    weights_of_images: np.ndarray | None = None,
    **fixed: Any,
) -> Dispatch:
    """Choose how the steps from `first_step` to before `last_step` get their batches, as `config.data.resident` says.

    The batches are the same either way. On one CPU, so are the bits of what is computed from them. `weights_of_images`
    are those of the split's images in the loss, (n,) float32, see `step.image_weights`. `fixed` are the arguments of
    `train_step` after state and batch.

    Raises:
      UserError: the split does not fit into memory, and TensorFlow or TFDS, which would feed it, is not installed.
    """
    order = {"batch_size": config.batch_size, "seed": config.seed}
    if config.data.resident == "always" or config.data.resident == "auto" and fits(split, layout):
        return _resident(split, weights_of_images, layout, order, fixed)
    if not installed():
        raise UserError(
            "the train split takes more than a device's share of memory (--config.data.resident=always puts it there"
            f" nevertheless), and what would feed it is not installed: {INSTALL}"
        )
    rows = sharding.own_rows(layout, config.batch_size)
    steps = {"first_step": first_step, "last_step": last_step}
    batches = loader.feed(split, rows=rows, weights=weights_of_images, **steps, **order)
    return _fed(batches, layout, fixed | {"weighted": weights_of_images is not None})


def fits(split: Split, layout: sharding.Layout) -> bool:
    """Tell whether each device of every process has room for the whole split."""
    devices = layout.mesh.local_devices
    size = len(split.ids) * split.read(np.zeros(1, int)).nbytes
    memory = [device.memory_stats() for device in devices]
    if all(memory):
        room = min(SHARE * (stats["bytes_limit"] - stats["bytes_in_use"]) for stats in memory)
    else:
        room = HOST_LIMIT / len(devices)
    # All processes must agree: with different programs they would wait for each other forever.
    return bool(np.all(multihost_utils.process_allgather(np.array(size <= room))))


def _fed(batches: Iterator[loader.Batch], layout: sharding.Layout, fixed: dict[str, Any]) -> Dispatch:
    step = compile_step(layout, **fixed)

    def run(state: TrainState, first: int, count: int) -> tuple[TrainState, jax.Array]:
        state, logits = step(state, *(sharding.place(layout, rows) for rows in next(batches)))
        return state, logits[None]

    return Dispatch(run, most=1)


def _resident(
    split: Split, weights: np.ndarray | None, layout: sharding.Layout, order: dict[str, int], fixed: dict[str, Any]
) -> Dispatch:
    whole = layout.replicated
    images, labels = (sharding.place_whole(whole, array) for array in (_read_all(split), split.labels))
    further = [] if weights is None else [sharding.place_whole(whole, weights)]
    steps = jax.jit(
        partial(resident_steps, layout=layout, **fixed),
        in_shardings=(whole, whole, whole, layout.steps_batch_sharded, *[whole] * len(further)),
        out_shardings=whole,
        donate_argnums=0,
    )

    def run(state: TrainState, first: int, count: int) -> tuple[TrainState, jax.Array]:
        numbers = range(first, first + count)
        rows = [loader.batch_indices(number, examples=len(split.ids), **order) for number in numbers]
        indices = sharding.place_whole(layout.steps_batch_sharded, np.array(rows, np.int32))
        return steps(state, images, labels, indices, *further)

    # Loops are slow on CPUs (see `resident_steps`), and a CPU's steps are long enough to dispatch each alone.
    return Dispatch(run, most=1 if jax.default_backend() == "cpu" else STEPS)


def _read_all(split: Split) -> UInt8[np.ndarray, "n size size 1"]:
    images = np.empty((len(split.ids), *split.read(np.zeros(1, int)).shape[1:]), np.uint8)
    for start in range(0, len(images), _READ):
        part = np.arange(start, min(start + _READ, len(images)))
        images[part] = split.read(part)
    return images


def resident_steps(
    state: TrainState,
    images: UInt8[Array, "n height width 1"],
    labels: UInt8[Array, " n"],
    indices: Int32[Array, "steps batch"],
    weights_of_images: Float32[Array, " n"] | None = None,
    *,
    layout: sharding.Layout,
    **fixed: Any,
) -> tuple[TrainState, Float32[Array, "steps batch"]]:
    """Take a `train_step` for each row of `indices`; `fixed` are its arguments after state and batch.

    Images, labels and weights, if any, are those of the whole split, replicated; each device takes its own rows.
    """
    arrays = (images, labels) if weights_of_images is None else (images, labels, weights_of_images)

    def step(state: TrainState, rows: Int32[Array, " batch"]) -> tuple[TrainState, Float32[Array, " batch"]]:
        batch = (jnp.take(whole, rows, axis=0, mode="clip") for whole in arrays)
        sharded = (jax.lax.with_sharding_constraint(part, layout.batch_sharded) for part in batch)
        return train_step(state, *sharded, **fixed)

    if len(indices) == 1:  # XLA's convolutions on CPUs are many times slower in a loop, even of one step
        state, logits = step(state, indices[0])
        return state, logits[None]
    return jax.lax.scan(step, state, indices)
