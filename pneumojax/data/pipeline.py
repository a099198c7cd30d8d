"""The order of examples, and the tf.data feed that brings them to the training step."""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from pneumojax.data.quiet_tensorflow import import_tensorflow
from pneumojax.data.readers import Split


def steps_per_epoch(examples: int, batch_size: int) -> int:
    """Whole batches in an epoch; the rest of its permutation is left out, other images each time."""
    return examples // batch_size


def batch_indices(step: int, *, examples: int, batch_size: int, seed: int) -> np.ndarray:
    """Which examples make the job's batch number `step` (from 0): a slice of the epoch's permutation.

    Nothing else decides it: a job resumed at any step, on any number of processes, sees the same batches.

    Returns:
      (batch_size,) int64 indices below `examples`.
    """
    epoch, place = divmod(step, steps_per_epoch(examples, batch_size))
    return _permutation(examples, seed, epoch)[place * batch_size : (place + 1) * batch_size]


@lru_cache(maxsize=2)
def _permutation(examples: int, seed: int, epoch: int) -> np.ndarray:
    order = np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(examples)
    order.flags.writeable = False  # it is cached, and slices of it are handed out
    return order


def feed(
    split: Split, *, batch_size: int, seed: int, first_step: int, last_step: int, rows: slice
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Training batches from `first_step` up to, but without, `last_step`, read ahead by tf.data.

    Args:
      split: the images to train on.
      batch_size: of the job.
      seed: of the order.
      first_step: number of the first batch.
      last_step: number after the last one.
      rows: this process's part of each batch.

    Yields:
      images (rows, size, size, 1) uint8 and labels (rows,) uint8.

    Raises:
      whatever `split.read` raised, in place of the first batch that could not be read.
    """
    tf = import_tensorflow()
    failures = []

    def load(step):
        indices = batch_indices(int(step), examples=len(split.ids), batch_size=batch_size, seed=seed)[rows]
        try:
            return split.read(indices), split.labels[indices]
        except Exception as error:
            failures.append(error)
            raise

    batches = tf.data.Dataset.range(first_step, last_step).map(
        lambda step: tf.numpy_function(load, [step], (tf.uint8, tf.uint8)),
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )
    return _unwrapped(batches.prefetch(tf.data.AUTOTUNE).as_numpy_iterator(), failures, tf.errors.OpError)


def _unwrapped(batches, failures, wrapper):
    """The batches; where TensorFlow wraps an error of Python in its own, the one that it wraps is raised."""
    try:
        yield from batches
    except wrapper:
        if failures:
            raise failures[0] from None
        raise
