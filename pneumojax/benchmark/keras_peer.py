"""The family in Keras, on TensorFlow or on JAX, each way to a step that may be its fastest."""

from collections.abc import Callable
from functools import partial

import keras
import numpy as np
from ml_collections import ConfigDict

from pneumojax.benchmark.task import INFER, TRAIN, Task
from pneumojax.benchmark.worker import Prepared, Ways
from pneumojax.family import FAMILY, HEAD_DROPOUT, HEAD_UNITS

LEARNING_RATE = 1e-3


def ways(backend: str) -> Callable[[Task, ConfigDict], Ways]:
    """For the worker: `backend`'s ways to a task."""
    prepares = {"tensorflow": _on_tensorflow, "jax": _on_jax}
    return lambda task, config: prepares[backend](task)


def build(name: str, image_size: int, precision: str = "float32") -> keras.Sequential:
    """The network that the paper's tables show, its layers named as ours: images -> (batch, 1) logits."""
    policy = {"float32": "float32", "bfloat16": "mixed_bfloat16"}[precision]
    layers = [keras.Input((image_size, image_size, 1))]
    for number, block in enumerate(FAMILY[name], start=1):
        layers.append(
            keras.layers.Conv2D(
                block.filters, (3, 3), padding="same", activation="relu", name=f"conv_{number}", dtype=policy
            )
        )
        if block.dropout:
            layers.append(keras.layers.Dropout(block.dropout, dtype=policy))
        layers += [
            keras.layers.BatchNormalization(momentum=0.99, epsilon=1e-3, name=f"batch_norm_{number}", dtype=policy),
            keras.layers.MaxPooling2D((2, 2), strides=2, padding="same", dtype=policy),
        ]
    return keras.Sequential(
        [
            *layers,
            keras.layers.Flatten(dtype=policy),
            keras.layers.Dense(HEAD_UNITS, activation="relu", name="dense_1", dtype=policy),
            keras.layers.Dropout(HEAD_DROPOUT, dtype=policy),
            keras.layers.Dense(1, name="dense_2", dtype="float32"),
        ]
    )


def _batch(task: Task) -> tuple[np.ndarray, np.ndarray]:
    """Images in [0, 1] and labels of either class, float32."""
    images = np.random.default_rng(0).random((task.batch_size, task.image_size, task.image_size, 1), np.float32)
    return images, np.arange(task.batch_size, dtype=np.float32)[:, None] % 2


def _loss() -> keras.losses.Loss:
    return keras.losses.BinaryCrossentropy(from_logits=True)


def _on_tensorflow(task: Task) -> Ways:
    compiling = {"tf.function": False, "tf.function, XLA": True}
    if task.mode == INFER:
        return {way: partial(_tensorflow_infer, task, xla) for way, xla in compiling.items()}
    assert task.mode == TRAIN
    return {way: partial(_tensorflow_train, task, xla) for way, xla in compiling.items()} | {
        "Keras's own step": partial(_tensorflow_own, task, False),
        "Keras's own step, XLA": partial(_tensorflow_own, task, True),
    }


def _tensorflow_train(task: Task, xla: bool) -> Prepared:
    import tensorflow as tf

    model, loss = build(task.model, task.image_size, task.precision), _loss()
    optimizer = keras.optimizers.Adam(LEARNING_RATE)
    optimizer.build(model.trainable_variables)
    images, labels = map(tf.constant, _batch(task))

    @tf.function(jit_compile=xla)
    def step(images, labels):
        with tf.GradientTape() as tape:
            value = loss(labels, model(images, training=True))
        optimizer.apply(tape.gradient(value, model.trainable_variables), model.trainable_variables)
        return value

    return Prepared(lambda: step(images, labels).numpy(), _tensorflow_facts())


def _tensorflow_own(task: Task, xla: bool) -> Prepared:
    """The step that `fit` takes, without what it does around it."""
    import tensorflow as tf

    model = build(task.model, task.image_size, task.precision)
    model.compile(keras.optimizers.Adam(LEARNING_RATE), _loss(), jit_compile=xla)
    batches = iter(tf.data.Dataset.from_tensors(tuple(map(tf.constant, _batch(task)))).repeat())
    model.make_train_function()
    return Prepared(lambda: model.train_function(batches)["loss"].numpy(), _tensorflow_facts())


def _tensorflow_infer(task: Task, xla: bool) -> Prepared:
    import tensorflow as tf

    model = build(task.model, task.image_size, task.precision)
    images = tf.constant(_batch(task)[0])
    logits = tf.function(lambda images: model(images, training=False), jit_compile=xla)
    return Prepared(lambda: logits(images).numpy(), _tensorflow_facts())


def _tensorflow_facts() -> dict[str, str]:
    import tensorflow as tf

    return {"platform": "gpu" if tf.config.list_physical_devices("GPU") else "cpu"}


def _on_jax(task: Task) -> Ways:
    return {"jax.jit": partial({TRAIN: _jax_train, INFER: _jax_infer}[task.mode], task)}


def _jax_train(task: Task) -> Prepared:
    import jax

    model, optimizer = build(task.model, task.image_size, task.precision), keras.optimizers.Adam(LEARNING_RATE)
    optimizer.build(model.trainable_variables)
    images, labels = map(jax.device_put, _batch(task))
    bce = _loss()

    def loss(trainable, other, images, labels):
        logits, other = model.stateless_call(trainable, other, images, training=True)
        return bce(labels, logits), other

    @partial(jax.jit, donate_argnums=0)
    def step(state, images, labels):
        trainable, other, moments = state
        (value, other), gradients = jax.value_and_grad(loss, has_aux=True)(trainable, other, images, labels)
        trainable, moments = optimizer.stateless_apply(moments, gradients, trainable)
        return (trainable, other, moments), value

    groups = (model.trainable_variables, model.non_trainable_variables, optimizer.variables)
    state = tuple([variable.value for variable in group] for group in groups)

    def take():
        nonlocal state
        state, value = step(state, images, labels)
        value.block_until_ready()

    return Prepared(take, {"platform": jax.default_backend()})


def _jax_infer(task: Task) -> Prepared:
    import jax

    model = build(task.model, task.image_size, task.precision)
    images = jax.device_put(_batch(task)[0])
    groups = (model.trainable_variables, model.non_trainable_variables)
    state = [[variable.value for variable in group] for group in groups]
    logits = jax.jit(lambda state, images: model.stateless_call(*state, images, training=False)[0])
    return Prepared(lambda: logits(state, images).block_until_ready(), {"platform": jax.default_backend()})
