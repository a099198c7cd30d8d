"""The models compute the same as the same networks in Keras, which the paper used, from the same weights and images.

There are two comparisons. The program as it runs, in float32, is compared with Keras in float64: outputs and loss,
which are continuous and so agree to rounding. And both sides are compared in float64: also gradients, running
statistics and Adam's steps. In float32 these cannot agree element by element. An activation within rounding of zero, or
two within rounding of each other, sends its gradient one way or the other: Keras in float32 differs from Keras in
float64, too. And Adam's first step uses only the sign of a gradient.
"""

import os
import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pneumojax.models import classifier
from pneumojax.runtime import config as configs
from pneumojax.training.optimizer import Plateau, after_epoch, create_optimizer
from pneumojax.training.step import loss_and_logits

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["KERAS_BACKEND"] = "tensorflow"
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    tf = pytest.importorskip("tensorflow")
    import keras

SIDE = 150
BATCH = {"m1": 4, "m2": 4, "m3": 2}
STEPS = 3
# About the paper's 1e-6, as a power of two, since Keras keeps the rate in float32.
LEARNING_RATE = 2.0**-20
# Adam's steps depend on the scale of the loss only by epsilon, which Keras adds before the bias correction and Optax
# after it. Among millions of gradients the smallest are near 1e-12; with this scale, epsilon is small beside them.
SCALE = 2.0**24
TOTALS = {"m1": 1_246_401, "m2": 3_666_817, "m3": 12_200_961}
KERAS_NAMES = {"gamma": "scale", "beta": "bias", "moving_mean": "mean", "moving_variance": "var"}


class Numbers(NamedTuple):
    """The results of one side: dictionaries by `<layer>/<variable>`, lists by step."""

    inference: np.ndarray
    training: list[np.ndarray]
    loss: list[float]
    gradients: list[dict[str, np.ndarray]]
    statistics: list[dict[str, np.ndarray]]
    parameters: list[dict[str, np.ndarray]]


class Comparison(NamedTuple):
    """The results of both sides in float64, from the same `start`."""

    start: dict[str, np.ndarray]
    ours: Numbers
    theirs: Numbers


def flat(tree: dict) -> dict[str, np.ndarray]:
    """Flatten {layer: {variable: value}} to {"layer/variable": value}."""
    return {f"{layer}/{name}": np.asarray(value) for layer, values in tree.items() for name, value in values.items()}


def module(name: str) -> classifier.Classifier:
    """Create a model without dropout, for which the two frameworks draw different numbers."""
    return classifier.Classifier(
        blocks=tuple(block._replace(dropout=0.0) for block in classifier.FAMILY[name]), head_dropout=0.0
    )


def inputs(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Draw smooth random images in [0, 1] with both labels, float64."""
    rng = np.random.default_rng(1)
    # Values below 0 are clipped, so that every image has black places (see `variables`).
    rough = rng.uniform(-0.3, 1.2, size=(BATCH[name], 10, 10, 1))
    images = jax.image.resize(rough.astype(np.float32), (BATCH[name], SIDE, SIDE, 1), "cubic")
    return np.clip(np.asarray(images, np.float64), 0, 1), np.arange(BATCH[name]) % 2.0


def variables(name: str) -> dict:
    """Draw variables in float64: Glorot-uniform kernels, and elsewhere no zeros or ones, which would hide mistakes.

    The biases of convolutions are negative. If a channel were positive at every pixel, the normalization would cancel
    its bias: the true gradient of the bias would be zero, the computed one rounding, and Adam would make a full step of
    it. Where the images are black, a negative bias makes the first layer zero.
    """
    rng = np.random.default_rng(2)
    shapes = jax.eval_shape(lambda: module(name).init(jax.random.key(0), jnp.zeros((1, SIDE, SIDE, 1)), train=False))

    def draw(path, leaf):
        kind = path[-1].key
        if kind == "kernel":
            limit = np.sqrt(6 / (np.prod(leaf.shape[:-2]) * sum(leaf.shape[-2:])))
            return rng.uniform(-limit, limit, leaf.shape)
        if path[-2].key.startswith("conv"):
            return rng.uniform(-0.2, 0, leaf.shape)
        return (1 if kind in ("scale", "var") else 0) + rng.uniform(-0.2, 0.2, leaf.shape)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def ours(name: str) -> Numbers:
    """Take three steps of Adam in JAX."""
    model, optimizer = module(name), optax.adam(LEARNING_RATE, eps=1e-12)
    start = variables(name)
    images, labels = inputs(name)

    def scaled_loss(params, statistics):
        _, written = model.apply(
            {"params": params, "batch_stats": statistics}, images, train=True, mutable=["batch_stats", "intermediates"]
        )
        # The output of the last layer, since the model returns its logits in float32.
        logits = written["intermediates"]["dense_2_output"][0][:, 0]
        loss = optax.sigmoid_binary_cross_entropy(logits, labels).mean()
        return SCALE * loss, (written["batch_stats"], logits)

    @jax.jit
    def step(params, statistics, state):
        (loss, (statistics, logits)), gradients = jax.value_and_grad(scaled_loss, has_aux=True)(params, statistics)
        updates, state = optimizer.update(gradients, state, params)
        return (optax.apply_updates(params, updates), statistics, state), (logits, loss, gradients)

    @jax.jit
    def infer(variables):
        _, written = model.apply(variables, images, train=False, mutable=["intermediates"])
        return written["intermediates"]["dense_2_output"][0][:, 0]

    numbers = Numbers(np.asarray(infer(start)), [], [], [], [], [])
    carried = (start["params"], start["batch_stats"], optimizer.init(start["params"]))
    for _ in range(STEPS):
        carried, (logits, loss, gradients) = step(*carried)
        record(numbers, logits, loss, flat(gradients), flat(carried[1]), flat(carried[0]))
    return numbers


def build(name: str) -> keras.Sequential:
    """Build the network of the paper's tables in Keras, in float64, with PneumoJAX's names of layers."""
    layers = [keras.Input((SIDE, SIDE, 1), dtype="float64")]
    for number, block in enumerate(classifier.FAMILY[name], start=1):
        layers += [
            keras.layers.Conv2D(
                block.filters, (3, 3), padding="same", activation="relu", name=f"conv_{number}", dtype="float64"
            ),
            keras.layers.Dropout(0.0, dtype="float64"),
            keras.layers.BatchNormalization(momentum=0.99, epsilon=1e-3, name=f"batch_norm_{number}", dtype="float64"),
            keras.layers.MaxPooling2D((2, 2), strides=2, padding="same", dtype="float64"),
        ]
    return keras.Sequential(
        [
            *layers,
            keras.layers.Flatten(dtype="float64"),
            keras.layers.Dense(128, activation="relu", name="dense_1", dtype="float64"),
            keras.layers.Dropout(0.0, dtype="float64"),
            keras.layers.Dense(1, name="dense_2", dtype="float64"),
        ]
    )


def our_name(variable) -> str:
    """Return PneumoJAX's name of a Keras variable."""
    layer, kind = variable.path.split("/")[-2:]
    return f"{layer}/{KERAS_NAMES.get(kind, kind)}"


def theirs(name: str, start: dict[str, np.ndarray]) -> Numbers:
    """Take three steps of Adam in Keras."""
    model, optimizer = build(name), keras.optimizers.Adam(LEARNING_RATE, epsilon=1e-12)
    assert model.count_params() == TOTALS[name]
    assert {our_name(variable) for variable in model.variables} == set(start)
    for variable in model.variables:
        variable.assign(start[our_name(variable)])
    images, labels = map(tf.constant, inputs(name))

    def named(variables, values):
        arrays = (np.array(tf.convert_to_tensor(value).numpy()) for value in values)
        return {our_name(variable): array for variable, array in zip(variables, arrays, strict=True)}

    learned, kept = model.trainable_variables, model.non_trainable_variables
    numbers = Numbers(model(images, training=False)[:, 0].numpy(), [], [], [], [], [])
    for _ in range(STEPS):
        with tf.GradientTape() as tape:
            logits = model(images, training=True)[:, 0]
            loss = SCALE * tf.reduce_mean(keras.losses.binary_crossentropy(labels[:, None], logits[:, None], True))
        gradients = tape.gradient(loss, learned)
        optimizer.apply_gradients(zip(gradients, learned, strict=True))
        record(numbers, logits, loss, named(learned, gradients), named(kept, kept), named(learned, learned))
    return numbers


def record(numbers, logits, loss, gradients, statistics, parameters):
    """Append the results of one step."""
    numbers.training.append(np.asarray(logits))
    numbers.loss.append(float(loss) / SCALE)
    numbers.gradients.append(gradients)
    numbers.statistics.append(statistics)
    numbers.parameters.append(parameters)


@pytest.fixture(scope="module", params=["m1", "m2", "m3"] if "KERAS" in os.environ else ["m1"])
def name(request) -> str:
    """Return M1, or in `make test-peers` each of the family in turn, so that one at a time is in memory."""
    return request.param


@pytest.fixture(scope="module")
def comparison(name) -> Comparison:
    """Compute everything once per model."""
    initial = variables(name)
    start = flat(initial["params"]) | flat(initial["batch_stats"])
    with jax.enable_x64(True):
        return Comparison(start, ours(name), theirs(name, start))


def assert_close(actual, expected, what, bound=1e-4):
    """Compare to within `bound` of the array's largest magnitude."""
    assert np.shape(actual) == np.shape(expected), what
    largest = np.abs(expected).max()
    assert largest > 0, what
    error = np.abs(actual - expected).max() / largest
    print(f"{what}: {error:.1e}")  # shown by pytest -s: the figures of BENCHMARKS.md
    assert error <= bound, what


def test_outputs_and_loss_in_float32(name, comparison):
    """The program as it trains and infers, with its own loss."""
    images, labels = inputs(name)
    narrow = jax.tree.map(lambda value: value.astype(np.float32), variables(name))
    images, labels = jnp.asarray(images, jnp.float32), jnp.asarray(labels, jnp.uint8)

    @jax.jit
    def compute(variables):
        loss, (statistics, logits) = loss_and_logits(
            variables["params"],
            variables["batch_stats"],
            images,
            labels,
            jax.random.key(0),
            model=module(name),
            weights=(1.0, 1.0),
        )
        return module(name).apply(variables, images, train=False), logits, loss, statistics

    inference, training, loss, statistics = compute(narrow)
    assert inference.dtype == training.dtype == loss.dtype == np.float32
    assert_close(inference, comparison.theirs.inference, "inference")
    assert_close(training, comparison.theirs.training[0], "training")
    assert_close(loss, comparison.theirs.loss[0], "loss")
    for key, expected in comparison.theirs.statistics[0].items():
        assert_close(flat(statistics)[key], expected, key)


def test_outputs_and_loss(comparison):
    """In inference mode (running statistics), and before each step in training mode (statistics of the batch)."""
    assert_close(comparison.ours.inference, comparison.theirs.inference, "inference")
    for step in range(STEPS):
        assert_close(comparison.ours.training[step], comparison.theirs.training[step], f"training, step {step}")
        assert_close(comparison.ours.loss[step], comparison.theirs.loss[step], f"loss, step {step}")
    # The comparison says little unless the modes differ, and the steps too.
    assert np.abs(comparison.theirs.inference - comparison.theirs.training[0]).max() > 1e-2
    assert comparison.theirs.loss[0] - comparison.theirs.loss[-1] > 1e-3


def test_gradients(comparison):
    """Those of every parameter agree at every step."""
    for step in range(STEPS):
        ours, theirs = comparison.ours.gradients[step], comparison.theirs.gradients[step]
        assert set(ours) == set(theirs)
        for key, expected in theirs.items():
            assert_close(ours[key], expected, f"{key}, step {step}")


def test_gradients_at_the_start_are_equal_to_rounding(comparison):
    """Before any step has added differences, they differ by the rounding of float64 only."""
    for key, expected in comparison.theirs.gradients[0].items():
        assert_close(comparison.ours.gradients[0][key], expected, key, bound=1e-9)


def test_running_statistics_after_three_steps(comparison):
    """The values agree, and so do their changes, which is stricter."""
    ours, theirs = comparison.ours.statistics[-1], comparison.theirs.statistics[-1]
    assert set(ours) == set(theirs)
    for key, expected in theirs.items():
        before = comparison.start[key]
        assert_close(ours[key], expected, key)
        assert_close(ours[key] - before, expected - before, f"change of {key}")


def test_parameter_changes_after_three_steps_of_adam(comparison):
    """The changes are compared, since they are small beside the values.

    A difference of about 7e-6 is left, because Keras rounds beta_2 to float32 in the bias correction.
    """
    ours, theirs = comparison.ours.parameters[-1], comparison.theirs.parameters[-1]
    assert set(ours) == set(theirs)
    for key, expected in theirs.items():
        before = comparison.start[key]
        assert_close(ours[key] - before, expected - before, key)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras, about TensorFlow's arrays
def test_the_plateaus_rate_is_that_of_the_keras_callback():
    """ReduceLROnPlateau runs on random accuracies of 200 images, with many ties: 40 runs of 30 epochs."""
    rng = np.random.default_rng(0)
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.RMSprop(), "mse")
    falls = 0
    for start in (1e-3, 1e-4, 1e-5, 1e-6) * 10:
        model.optimizer.learning_rate = start
        callback = keras.callbacks.ReduceLROnPlateau("val_accuracy", 0.3, patience=2, mode="max", min_lr=1e-6)
        callback.set_model(model)
        callback.on_train_begin()
        plateau = Plateau(jnp.ones(()), jnp.zeros(()), jnp.zeros((), jnp.int32))
        for epoch in range(30):
            accuracy = (100 + epoch + int(rng.integers(40))) / 200
            callback.on_epoch_end(epoch, {"val_accuracy": accuracy})
            plateau = after_epoch(plateau, accuracy, start)
            theirs = float(model.optimizer.learning_rate)
            assert float(plateau.rate) * start == pytest.approx(theirs, rel=1e-5)
        falls += theirs < start
    assert falls > 20


def test_steps_of_rmsprop():
    """Epsilon is added where Keras adds it, for gradients both far below and far above it."""
    config = configs.load("m1:notebook")
    optimizer = create_optimizer(config, steps_per_epoch=4)
    rng = np.random.default_rng(0)
    ours = jnp.array(rng.normal(size=50), jnp.float32)
    theirs, keras_optimizer = keras.Variable(np.array(ours)), keras.optimizers.RMSprop(1e-3)
    state, start = optimizer.init(ours), np.array(ours)
    for _ in range(10):
        gradient = (rng.normal(size=50) * np.geomspace(1e-6, 10, 50)).astype(np.float32)
        update, state = optimizer.update(jnp.array(gradient), state, ours)
        ours = optax.apply_updates(ours, update)
        keras_optimizer.apply([tf.constant(gradient)], [theirs])
    moved = np.array(theirs.numpy()) - start
    np.testing.assert_allclose(np.asarray(ours) - start, moved, rtol=1e-3, atol=1e-6)
    assert np.abs(moved[:5]).max() < 1e-4 < 1e-3 < np.abs(moved[-20:]).max()
