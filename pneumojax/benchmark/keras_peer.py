"""M1, M2 and M3 in Keras, on TensorFlow or JAX, with every way to compute a step that may be the fastest."""

from collections.abc import Callable
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import layers
from ml_collections import ConfigDict

from pneumojax.benchmark.tasks import INFER, PRODUCTS, TRAIN, Task
from pneumojax.benchmark.worker import ReadyStep, Ways
from pneumojax.models.architectures import FAMILY, HEAD_DROPOUT, HEAD_UNITS

LEARNING_RATE = 1e-3


def ways(backend: str) -> Callable[[Task, ConfigDict], Ways]:
    """Return the function that maps a task to its ways on `backend`: see worker.py."""
    ways_of, set_products = {
        "tensorflow": (_on_tensorflow, _set_tensorflow_products),
        "jax": (_on_jax, _set_jax_products),
    }[backend]

    def ways_in_precision(task: Task, _: ConfigDict) -> Ways:
        set_products(task.precision)
        return ways_of(task)

    return ways_in_precision


def _set_tensorflow_products(precision: str) -> None:
    import tensorflow as tf

    if _tensorflow_facts()["platform"] == "gpu":
        tf.config.experimental.enable_tensor_float_32_execution(precision != "float32")


def _set_jax_products(precision: str) -> None:
    import jax

    if jax.default_backend() != "cpu":
        jax.config.update("jax_default_matmul_precision", PRODUCTS[precision])


def build(name: str, image_size: int, precision: str = "float32") -> keras.Sequential:
    """Build the network of the paper's tables: images (batch, size, size, 1) in [0, 1] -> logits (batch, 1).

    Layers have the names that they have in pneumojax.
    """
    policy = "mixed_bfloat16" if precision == "bfloat16" else "float32"
    network = [keras.Input((image_size, image_size, 1))]
    for number, block in enumerate(FAMILY[name], start=1):
        network += [
            layers.Conv2D(block.filters, 3, padding="same", activation="relu", name=f"conv_{number}", dtype=policy),
            *([layers.Dropout(block.dropout, dtype=policy)] if block.dropout else []),
            layers.BatchNormalization(momentum=0.99, epsilon=1e-3, name=f"batch_norm_{number}", dtype=policy),
            layers.MaxPooling2D(2, padding="same", dtype=policy),
        ]
    network += [
        layers.Flatten(dtype=policy),
        layers.Dense(HEAD_UNITS, activation="relu", name="dense_1", dtype=policy),
        layers.Dropout(HEAD_DROPOUT, dtype=policy),
        layers.Dense(1, name="dense_2", dtype="float32"),
    ]
    return keras.Sequential(network)


def _batch(task: Task) -> tuple[np.ndarray, np.ndarray]:
    """Return images in [0, 1], (batch, size, size, 1), and labels of both classes, (batch, 1), float32."""
    images = np.random.default_rng(0).random((task.batch_size, task.image_size, task.image_size, 1), np.float32)
    return images, np.arange(task.batch_size, dtype=np.float32)[:, None] % 2


def _loss() -> Callable[..., Any]:
    return keras.losses.BinaryCrossentropy(from_logits=True)


def _on_tensorflow(task: Task) -> Ways:
    builders = {
        TRAIN: {"tf.function": _tensorflow_train, "Keras's own step": _tensorflow_own},
        INFER: {"tf.function": _tensorflow_infer},
    }[task.mode]
    compiling = {"": False, ", XLA": True}
    return {way + how: partial(build, task, xla) for way, build in builders.items() for how, xla in compiling.items()}


def _tensorflow_train(task: Task, xla: bool) -> ReadyStep:
    import tensorflow as tf

    model, loss = build(task.model, task.image_size, task.precision), _loss()
    optimizer = keras.optimizers.Adam(LEARNING_RATE)
    optimizer.build(model.trainable_variables)
    images, labels = map(tf.constant, _batch(task))

    @tf.function(jit_compile=xla)
    def step(images: Any, labels: Any) -> Any:
        with tf.GradientTape() as tape:
            value = loss(labels, model(images, training=True))
        optimizer.apply(tape.gradient(value, model.trainable_variables), model.trainable_variables)
        return value

    return ReadyStep(lambda: step(images, labels).numpy(), _tensorflow_facts())


def _tensorflow_own(task: Task, xla: bool) -> ReadyStep:
    """Take the step of `fit`, without what `fit` does around it."""
    import tensorflow as tf

    model = build(task.model, task.image_size, task.precision)
    optimizer = keras.optimizers.Adam(LEARNING_RATE)
    model.compile(optimizer, _loss(), jit_compile=xla)  # pyright: ignore[reportArgumentType]  Keras declares a str
    batches = iter(tf.data.Dataset.from_tensors(tuple(map(tf.constant, _batch(task)))).repeat())
    model.make_train_function()
    step: Any = model.train_function
    return ReadyStep(lambda: step(batches)["loss"].numpy(), _tensorflow_facts())


def _tensorflow_infer(task: Task, xla: bool) -> ReadyStep:
    import tensorflow as tf

    model = build(task.model, task.image_size, task.precision)
    images = tf.constant(_batch(task)[0])
    logits = tf.function(lambda images: model(images, training=False), jit_compile=xla)
    return ReadyStep(lambda: logits(images).numpy(), _tensorflow_facts())


def _tensorflow_facts() -> dict[str, str]:
    import tensorflow as tf

    return {"platform": "gpu" if tf.config.list_physical_devices("GPU") else "cpu"}


def _on_jax(task: Task) -> Ways:
    return {"jax.jit": partial({TRAIN: _jax_train, INFER: _jax_infer}[task.mode], task)}


def _jax_train(task: Task) -> ReadyStep:
    import jax

    model, optimizer = build(task.model, task.image_size, task.precision), keras.optimizers.Adam(LEARNING_RATE)
    optimizer.build(model.trainable_variables)
    images, labels = map(jax.device_put, _batch(task))
    bce = _loss()

    def loss(trainable: Any, other: Any, images: jax.Array, labels: jax.Array) -> tuple[jax.Array, Any]:
        logits, other = model.stateless_call(trainable, other, images, training=True)[:2]
        return bce(labels, logits), other

    @partial(jax.jit, donate_argnums=0)
    def step(state: Any, images: jax.Array, labels: jax.Array) -> tuple[Any, jax.Array]:
        trainable, other, moments = state
        (value, other), gradients = jax.value_and_grad(loss, has_aux=True)(trainable, other, images, labels)
        trainable, moments = optimizer.stateless_apply(moments, gradients, trainable)
        return (trainable, other, moments), value

    groups = (model.trainable_variables, model.non_trainable_variables, optimizer.variables)
    state = tuple([variable.value for variable in group] for group in groups)

    def run() -> None:
        nonlocal state
        state, value = step(state, images, labels)
        value.block_until_ready()

    return ReadyStep(run, {"platform": jax.default_backend()})


def _jax_infer(task: Task) -> ReadyStep:
    import jax

    model = build(task.model, task.image_size, task.precision)
    images = jax.device_put(_batch(task)[0])
    groups = (model.trainable_variables, model.non_trainable_variables)
    state = [[variable.value for variable in group] for group in groups]
    logits = jax.jit(lambda state, images: model.stateless_call(*state, images, training=False)[0])
    return ReadyStep(lambda: logits(state, images).block_until_ready(), {"platform": jax.default_backend()})
