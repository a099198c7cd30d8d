"""The order of examples, and the tf.data feed that brings them to the training step."""

from collections.abc import Iterable, Iterator
from functools import lru_cache

import numpy as np

from pneumojax.data.source import Split
from pneumojax.data.tensorflow_import import import_tensorflow

# Images (rows, size, size, 1) uint8 and labels (rows,) uint8; where images have weights, also those, (rows,) float32.
Batch = tuple[np.ndarray, ...]


def steps_per_epoch(examples: int, batch_size: int) -> int:
    """Return the number of whole batches in an epoch; the examples left over differ from epoch to epoch."""
    return examples // batch_size


def batch_indices(step: int, *, examples: int, batch_size: int, seed: int) -> np.ndarray:
    """Return the examples of the job's batch number `step` (from 0): a slice of the epoch's permutation.

    It depends on nothing else: a job resumed at any step, on any number of processes, sees the same batches.

    Returns:
      (batch_size,) int64 indices below `examples`.
    """
    epoch, place = divmod(step, steps_per_epoch(examples, batch_size))
    return _permutation(examples, seed, epoch)[place * batch_size : (place + 1) * batch_size]


@lru_cache(maxsize=2)
def _permutation(examples: int, seed: int, epoch: int) -> np.ndarray:
    order = np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(examples)
    order.flags.writeable = False  # callers get slices of the cached array
    return order


def feed(
    split: Split,
    *,
    batch_size: int,
    seed: int,
    first_step: int,
    last_step: int,
    rows: slice,
    weights: np.ndarray | None = None,
) -> Iterator[Batch]:
    """Yield this process's `rows` of the job's batches from `first_step` to before `last_step`, read ahead by tf.data.

    `weights` are those of the split's images, (n,) float32, if there are any.

    Raises:
      Exception: whatever `split.read` raised, instead of the first batch that could not be read.
    """
    tf = import_tensorflow()
    failures: list[Exception] = []

    def load(step: np.ndarray) -> Batch:
        indices = batch_indices(int(step), examples=len(split.ids), batch_size=batch_size, seed=seed)[rows]
        try:
            arrays = (split.labels,) if weights is None else (split.labels, weights)
            return split.read(indices), *(array[indices] for array in arrays)
        except Exception as error:
            failures.append(error)
            raise

    kinds = (tf.uint8, tf.uint8) if weights is None else (tf.uint8, tf.uint8, tf.float32)
    batches = tf.data.Dataset.range(first_step, last_step).map(
        lambda step: tf.numpy_function(load, [step], kinds), num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
    )
    return _unwrapped(batches.prefetch(tf.data.AUTOTUNE).as_numpy_iterator(), failures, tf.errors.OpError)


def _unwrapped(batches: Iterable[Batch], failures: list[Exception], wrapper: type[Exception]) -> Iterator[Batch]:
    """Yield the batches; raise the Python error that TensorFlow wraps in its own."""
    try:
        yield from batches
    except wrapper:
        if failures:
            raise failures[0] from None
        raise
