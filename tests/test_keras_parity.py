"""The family against the same networks in Keras, which the paper used: same weights, same images, same numbers.

Two comparisons. The program as it runs, in float32, against Keras in float64: outputs and loss, which are continuous
and so hold to rounding. And both sides in float64: also gradients, running statistics and Adam's steps. In float32
the last cannot hold element by element whoever computes them: an activation within rounding of zero, or two within
rounding of each other, sends its gradient one way or another (Keras in float32 differs from itself in float64 too),
and Adam's first step takes nothing of a gradient but its sign.
"""

import os
import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pneumojax import config as configs
from pneumojax import models
from pneumojax.step import Plateau, after_epoch, create_optimizer, loss_and_logits

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["KERAS_BACKEND"] = "tensorflow"
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    tf = pytest.importorskip("tensorflow")
    import keras

SIDE = 150
BATCH = {"m1": 4, "m2": 4, "m3": 2}
STEPS = 3
# A power of two, since Keras keeps the rate in float32; about the paper's 1e-6.
LEARNING_RATE = 2.0**-20
# Adam's steps do not depend on the loss's scale but for epsilon, which Keras adds before the bias correction and
# Optax after it. 1e-12 is no longer small beside the smallest gradients of millions; so scaled, it is.
SCALE = 2.0**24
TOTALS = {"m1": 1_246_401, "m2": 3_666_817, "m3": 12_200_961}
KERAS_NAMES = {"gamma": "scale", "beta": "bias", "moving_mean": "mean", "moving_variance": "var"}


class Numbers(NamedTuple):
    """What one side computes; dictionaries go by `<layer>/<variable>`, lists by step."""

    inference: np.ndarray
    training: list[np.ndarray]
    loss: list[float]
    gradients: list[dict[str, np.ndarray]]
    statistics: list[dict[str, np.ndarray]]
    parameters: list[dict[str, np.ndarray]]


class Comparison(NamedTuple):
    """Both sides in float64, from the same `start`."""

    start: dict[str, np.ndarray]
    ours: Numbers
    theirs: Numbers


def flat(tree: dict) -> dict[str, np.ndarray]:
    """{layer: {variable: value}} -> {"layer/variable": value}."""
    return {f"{layer}/{name}": np.asarray(value) for layer, values in tree.items() for name, value in values.items()}


def module(name: str) -> models.Classifier:
    """A model with dropout at zero: the two frameworks draw different numbers."""
    return models.Classifier(
        blocks=tuple(block._replace(dropout=0.0) for block in models.FAMILY[name]), head_dropout=0.0
    )


def inputs(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Smooth random images in [0, 1] and both labels, float64."""
    rng = np.random.default_rng(1)
    # Clipped below, so that there is black in every image (see `variables`).
    rough = rng.uniform(-0.3, 1.2, size=(BATCH[name], 10, 10, 1))
    images = jax.image.resize(rough.astype(np.float32), (BATCH[name], SIDE, SIDE, 1), "cubic")
    return np.clip(np.asarray(images, np.float64), 0, 1), np.arange(BATCH[name]) % 2.0


def variables(name: str) -> dict:
    """Weights in float64: kernels Glorot-uniform, and nothing else left at its zeros and ones, which hide mistakes.

    Convolutions' biases are negative. Where a channel is positive at every pixel, the normalization takes its bias
    away again: the bias's true gradient is zero, what is computed is rounding, and Adam makes a whole step of it.
    A negative bias leaves no such channel in the first layer, where the images are black.
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
    """Three steps of Adam in JAX."""
    model, optimizer = module(name), optax.adam(LEARNING_RATE, eps=1e-12)
    start = variables(name)
    images, labels = inputs(name)

    def scaled_loss(params, statistics):
        _, written = model.apply(
            {"params": params, "batch_stats": statistics},
            images,
            train=True,
            mutable=["batch_stats", "intermediates"],
        )
        # The last layer's own output: the model hands its logits on in float32.
        logits = written["intermediates"]["dense_2_output"][0][:, 0]
        loss = optax.sigmoid_binary_cross_entropy(logits, labels).mean()
        return SCALE * loss, (written["batch_stats"], logits)

    @jax.jit
    def step(params, statistics, state):
        (loss, (statistics, logits)), gradients = jax.value_and_grad(scaled_loss, has_aux=True)(params, statistics)
        updates, state = optimizer.update(gradients, state, params)
        return (optax.apply_updates(params, updates), statistics, state), (logits, loss, gradients)

    @jax.jit
    def infer(given):
        _, written = model.apply(given, images, train=False, mutable=["intermediates"])
        return written["intermediates"]["dense_2_output"][0][:, 0]

    numbers = Numbers(np.asarray(infer(start)), [], [], [], [], [])
    carried = (start["params"], start["batch_stats"], optimizer.init(start["params"]))
    for _ in range(STEPS):
        carried, (logits, loss, gradients) = step(*carried)
        record(numbers, logits, loss, flat(gradients), flat(carried[1]), flat(carried[0]))
    return numbers


def build(name: str) -> keras.Sequential:
    """The network as the paper's tables have it, in Keras, float64, its layers named as ours."""
    layers = [keras.Input((SIDE, SIDE, 1), dtype="float64")]
    for number, block in enumerate(models.FAMILY[name], start=1):
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
    """A Keras variable's name here."""
    layer, kind = variable.path.split("/")[-2:]
    return f"{layer}/{KERAS_NAMES.get(kind, kind)}"


def theirs(name: str, start: dict[str, np.ndarray]) -> Numbers:
    """Three steps of Adam in Keras."""
    model, optimizer = build(name), keras.optimizers.Adam(LEARNING_RATE, epsilon=1e-12)
    assert model.count_params() == TOTALS[name]
    assert {our_name(variable) for variable in model.variables} == set(start)
    for variable in model.variables:
        variable.assign(start[our_name(variable)])
    images, labels = map(tf.constant, inputs(name))

    def named(given, values):
        arrays = (np.array(tf.convert_to_tensor(value).numpy()) for value in values)
        return {our_name(variable): array for variable, array in zip(given, arrays, strict=True)}

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
    """Appends what one step gave."""
    numbers.training.append(np.asarray(logits))
    numbers.loss.append(float(loss) / SCALE)
    numbers.gradients.append(gradients)
    numbers.statistics.append(statistics)
    numbers.parameters.append(parameters)


@pytest.fixture(scope="module", params=["m1", "m2", "m3"] if "KERAS" in os.environ else ["m1"])
def name(request) -> str:
    """M1; by `make test-peers` all of the family. The tests of one run together, so that one at a time is in memory."""
    return request.param


@pytest.fixture(scope="module")
def comparison(name) -> Comparison:
    """Everything, computed once per model."""
    given = variables(name)
    start = flat(given["params"]) | flat(given["batch_stats"])
    with jax.enable_x64(True):
        return Comparison(start, ours(name), theirs(name, start))


def assert_close(actual, expected, what, bound=1e-4):
    """To `bound` of the array's largest magnitude."""
    assert np.shape(actual) == np.shape(expected), what
    largest = np.abs(expected).max()
    assert largest > 0, what
    error = np.abs(actual - expected).max() / largest
    print(f"{what}: {error:.1e}")  # shown by pytest -s: the figures of BENCHMARKS.md
    assert error <= bound, what


def test_outputs_and_loss_in_float32(name, comparison):
    """The program as it trains and infers, its own loss included."""
    images, labels = inputs(name)
    given = jax.tree.map(lambda value: value.astype(np.float32), variables(name))
    images = images.astype(np.float32)

    @jax.jit
    def compute(given):
        loss, (statistics, logits) = loss_and_logits(
            given["params"],
            given["batch_stats"],
            images,
            labels.astype(np.uint8),
            jax.random.key(0),
            model=module(name),
            weights=(1.0, 1.0),
        )
        return module(name).apply(given, images, train=False), logits, loss, statistics

    inference, training, loss, statistics = compute(given)
    assert inference.dtype == training.dtype == loss.dtype == np.float32
    assert_close(inference, comparison.theirs.inference, "inference")
    assert_close(training, comparison.theirs.training[0], "training")
    assert_close(loss, comparison.theirs.loss[0], "loss")
    for key, expected in comparison.theirs.statistics[0].items():
        assert_close(flat(statistics)[key], expected, key)


def test_outputs_and_loss(comparison):
    """In inference mode (running statistics) and, before each step, in training mode (the batch's)."""
    assert_close(comparison.ours.inference, comparison.theirs.inference, "inference")
    for step in range(STEPS):
        assert_close(comparison.ours.training[step], comparison.theirs.training[step], f"training, step {step}")
        assert_close(comparison.ours.loss[step], comparison.theirs.loss[step], f"loss, step {step}")
    # The two modes must not be one, nor the steps, for this to say anything.
    assert np.abs(comparison.theirs.inference - comparison.theirs.training[0]).max() > 1e-2
    assert comparison.theirs.loss[0] - comparison.theirs.loss[-1] > 1e-3


def test_gradients(comparison):
    """Of every parameter, at every step."""
    for step in range(STEPS):
        ours, theirs = comparison.ours.gradients[step], comparison.theirs.gradients[step]
        assert set(ours) == set(theirs)
        for key, expected in theirs.items():
            assert_close(ours[key], expected, f"{key}, step {step}")


def test_gradients_at_the_start_are_equal_to_rounding(comparison):
    """Before any step has added its own differences, nothing but float64's rounding is left."""
    for key, expected in comparison.theirs.gradients[0].items():
        assert_close(comparison.ours.gradients[0][key], expected, key, bound=1e-9)


def test_running_statistics_after_three_steps(comparison):
    """The values and, which is stricter, how far they have moved."""
    ours, theirs = comparison.ours.statistics[-1], comparison.theirs.statistics[-1]
    assert set(ours) == set(theirs)
    for key, expected in theirs.items():
        before = comparison.start[key]
        assert_close(ours[key], expected, key)
        assert_close(ours[key] - before, expected - before, f"change of {key}")


def test_parameter_changes_after_three_steps_of_adam(comparison):
    """The changes, not the values beside which they are nothing.

    About 7e-6 is left because Keras rounds beta_2 to float32 in the bias correction.
    """
    ours, theirs = comparison.ours.parameters[-1], comparison.theirs.parameters[-1]
    assert set(ours) == set(theirs)
    for key, expected in theirs.items():
        before = comparison.start[key]
        assert_close(ours[key] - before, expected - before, key)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras of TensorFlow's arrays
def test_the_plateaus_rate_is_that_of_kerass_callback():
    """ReduceLROnPlateau itself, on random accuracies of 200 images, of which many tie: 40 runs of 30 epochs."""
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
    """With the epsilon where Keras has it; gradients from where it rules to where it is nothing."""
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
