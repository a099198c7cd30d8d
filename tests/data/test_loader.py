"""The order of examples depends only on seed and step, and the feed follows it."""

import os
import subprocess
import sys
from itertools import islice

import numpy as np
import pytest

from pneumojax.data import loader
from pneumojax.data.source import Split
from pneumojax.data.tensorflow_import import temporary_environment
from pneumojax.runtime.errors import UserError

EXAMPLES, BATCH = 50, 8  # six batches, two examples left out


def order(steps, seed=0, examples=EXAMPLES, batch_size=BATCH):
    indices = [loader.batch_indices(step, examples=examples, batch_size=batch_size, seed=seed) for step in steps]
    return np.concatenate(indices)


def split(read=None, examples=EXAMPLES):
    """A split whose image i is filled with i, and whose label is i's last bit."""
    images = np.broadcast_to(np.arange(examples, dtype=np.uint8)[:, None, None, None], (examples, 4, 4, 1))
    labels = (np.arange(examples) % 2).astype(np.uint8)
    return Split("train", np.arange(examples).astype(str), labels, read or (lambda indices: images[indices]))


def feed(first=0, last=12, rows=slice(0, BATCH), seed=0, of=None):
    batches = loader.feed(of or split(), batch_size=BATCH, seed=seed, first_step=first, last_step=last, rows=rows)
    return list(batches)


def test_an_epoch_has_whole_batches():
    assert loader.steps_per_epoch(EXAMPLES, BATCH) == 6
    assert loader.steps_per_epoch(BATCH, BATCH) == 1
    assert loader.steps_per_epoch(BATCH - 1, BATCH) == 0


@pytest.mark.parametrize(("examples", "batch_size"), [(50, 8), (48, 8), (5, 5), (7, 1), (1, 1)])
def test_no_example_comes_twice_in_an_epoch(examples, batch_size):
    steps = examples // batch_size
    for epoch in range(3):
        seen = order(range(epoch * steps, (epoch + 1) * steps), examples=examples, batch_size=batch_size)
        assert seen.shape == (steps * batch_size,)
        assert len(set(seen.tolist())) == len(seen)
        assert seen.min() >= 0
        assert seen.max() < examples


def test_over_many_epochs_every_example_comes_equally_often():
    """Each epoch leaves out other examples."""
    epochs = 400
    often = np.bincount(order(range(6 * epochs)), minlength=EXAMPLES)
    np.testing.assert_allclose(often, epochs * 48 / EXAMPLES, atol=25)


def test_epochs_and_seeds_differ():
    first, second, other = order(range(6)), order(range(6, 12)), order(range(6), seed=1)
    assert np.mean(first == second) < 0.2
    assert np.mean(first == other) < 0.2
    assert not np.array_equal(first, np.sort(first))


def test_the_order_depends_only_on_the_step():
    forward = order(range(18))
    backward = np.concatenate([order([step]) for step in reversed(range(18))][::-1])
    np.testing.assert_array_equal(forward, backward)


def test_the_order_is_the_same_in_every_version():
    """A run that resumes after an upgrade must continue in the same order: this is Philox, permuted by NumPy."""
    assert order([0, 4, 5], examples=10, batch_size=2).tolist() == [0, 7, 2, 4, 9, 4]


def test_the_order_is_read_only():
    with pytest.raises(ValueError, match="read-only"):
        loader.batch_indices(0, examples=EXAMPLES, batch_size=BATCH, seed=0)[0] = 1


def test_the_feed_follows_the_order_with_the_right_labels():
    batches = feed(last=12)
    assert len(batches) == 12
    for step, (images, labels) in enumerate(batches):
        expected = order([step])
        assert images.shape == (BATCH, 4, 4, 1)
        assert (images.dtype, labels.dtype, labels.shape) == (np.uint8, np.uint8, (BATCH,))
        np.testing.assert_array_equal(images[:, 0, 0, 0], expected)
        np.testing.assert_array_equal(images.min((1, 2, 3)), images.max((1, 2, 3)))
        np.testing.assert_array_equal(labels, expected % 2)


@pytest.mark.parametrize("first", [1, 5, 6, 7, 11, 12])
def test_a_resumed_feed_continues_where_it_stopped(first):
    tail, resumed = feed()[first:], feed(first=first)
    assert len(tail) == len(resumed)
    for expected, batch in zip(tail, resumed, strict=True):
        np.testing.assert_array_equal(expected[0], batch[0])
        np.testing.assert_array_equal(expected[1], batch[1])


@pytest.mark.parametrize("processes", [2, 4])
def test_the_processes_rows_make_up_the_batch(processes):
    share = BATCH // processes
    parts = [feed(rows=slice(i * share, (i + 1) * share)) for i in range(processes)]
    for step, (images, labels) in enumerate(feed()):
        np.testing.assert_array_equal(np.concatenate([part[step][0] for part in parts]), images)
        np.testing.assert_array_equal(np.concatenate([part[step][1] for part in parts]), labels)


def test_a_process_reads_only_its_own_rows():
    requests = []

    def read(indices):
        requests.append(np.asarray(indices))
        return np.zeros((len(indices), 4, 4, 1), np.uint8)

    feed(last=3, rows=slice(2, 4), of=split(read))
    assert sorted(map(tuple, requests)) == sorted(tuple(order([step])[2:4]) for step in range(3))


@pytest.mark.parametrize(
    "error", [UserError("1 unreadable image: a.png (truncated)"), OSError(5, "Input/output error")]
)
def test_a_reading_error_arrives_unchanged(error):
    poison = order([3])[5]

    def read(indices):
        if poison in indices:
            raise error
        return np.full((len(indices), 4, 4, 1), 9, np.uint8)

    batches = loader.feed(split(read), batch_size=BATCH, seed=0, first_step=0, last_step=6, rows=slice(0, BATCH))
    assert len(list(islice(batches, 3))) == 3
    with pytest.raises(type(error)) as caught:
        next(batches)
    assert caught.value is error
    assert caught.value.__suppress_context__, "TensorFlow's own traceback does not help a user"


def test_importing_tensorflow_leaves_the_environment_as_it_was(monkeypatch):
    """JAX reads variables of the same names."""
    monkeypatch.setenv("SET_BEFORE", "mine")
    monkeypatch.delenv("UNSET_BEFORE", raising=False)
    with temporary_environment({"SET_BEFORE": "theirs", "UNSET_BEFORE": "theirs"}):
        assert os.environ["SET_BEFORE"] == os.environ["UNSET_BEFORE"] == "theirs"
    assert os.environ["SET_BEFORE"] == "mine"
    assert "UNSET_BEFORE" not in os.environ


def test_tensorflow_is_imported_without_keras_which_stays_available():
    """Importing Keras takes seconds, and nothing here needs it."""
    program = (
        "import sys; from pneumojax.data.tensorflow_import import import_tfds; import_tfds();"
        "print('keras' in sys.modules); import tensorflow; print(tensorflow.keras.layers.Dense(1).units)"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (result.stdout.split(), result.returncode) == (["False", "1"], 0), result.stderr
