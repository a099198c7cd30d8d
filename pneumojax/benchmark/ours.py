"""The product's own steps, as training and evaluation run them, ready to be measured."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from pneumojax import devices, explain, kernels
from pneumojax.benchmark.task import AUGMENTED, COPY, FED, FEED, INFER, MATMUL, RESIDENT, TRAIN, Task
from pneumojax.benchmark.worker import Prepared, Ways, peak_bytes
from pneumojax.dispatch import choose
from pneumojax.evaluate import compile_eval
from pneumojax.explanations import mapping
from pneumojax.step import TrainState, compile_step, create_model, create_optimizer, init_state, init_variables

MATMUL_SIZE = 4096
COPY_BYTES = 2**28  # more than caches hold


def ways(_: str) -> Callable[[Task, ConfigDict], Ways]:
    """For the worker: there is one way to each task."""
    prepares = {TRAIN: train, AUGMENTED: train, INFER: infer, FEED: feed}
    prepares |= {FED: fed, RESIDENT: fed, MATMUL: matmul, COPY: copy} | dict.fromkeys(explain.METHODS, explained)
    return lambda task, config: {"": lambda: prepares[task.mode](task, config)}


def _batch(task: Task) -> tuple[np.ndarray, np.ndarray]:
    """Random images, (batch, size, size, 1) uint8, and as many labels of either class, (batch,) uint8."""
    shape = (task.batch_size, task.image_size, task.image_size, 1)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8), np.arange(task.batch_size, dtype=np.uint8) % 2


def settings(config: ConfigDict, task: Task) -> ConfigDict:
    """The config for this task: at augmentation strengths of zero, the step leaves the augmentation out."""
    config = ConfigDict(config.to_dict())
    config.model.name = task.model
    config.model.image_size = task.image_size
    config.model.dtype = task.precision
    config.batch_size = task.batch_size
    if task.mode == TRAIN:
        config.augment = dict.fromkeys(config.augment, 0.0)
    return config


def _layout(task: Task) -> devices.Layout:
    found = jax.devices()
    if len(found) < task.devices:
        raise RuntimeError(f"there are {len(found)} devices, not {task.devices}")
    return devices.layout(found[: task.devices])


def _prepared(run: Callable[[], Any], facts: Mapping[str, Any], **further: Any) -> Prepared:
    told = {"device": jax.devices()[0].device_kind, "platform": jax.default_backend()}
    return Prepared(run, told | facts, peak_bytes=_peak_bytes, **further)


def _peak_bytes() -> int:
    """Of the accelerator that has held most; where memory is the host's, the process's."""
    told = [stats["peak_bytes_in_use"] for device in jax.local_devices() if (stats := device.memory_stats())]
    return max(told) if told else peak_bytes()


def _since(started: float) -> dict[str, float]:
    return {"compile_s": time.perf_counter() - started}


def train(task: Task, config: ConfigDict) -> Prepared:
    """The training step on one batch, which lies on the devices."""
    layout = _layout(task)
    fixed, state = _fixed_and_state(settings(config, task), layout)
    with jax.set_mesh(layout.mesh):
        batch = [devices.place(layout, rows) for rows in _batch(task)]
        started = time.perf_counter()
        compiled = compile_step(layout, **fixed).lower(state, *batch).compile()
    facts = _since(started)

    def step():
        nonlocal state
        state, logits = compiled(state, *batch)
        logits.block_until_ready()

    return _prepared(step, facts)


def _fixed_and_state(config: ConfigDict, layout: devices.Layout) -> tuple[dict, TrainState]:
    """What a step takes that does not change, and what it starts from."""
    model, optimizer = create_model(config), create_optimizer(config, steps_per_epoch=1000)
    with jax.set_mesh(layout.mesh):
        variables = init_variables(model, config.model.image_size, config.seed)
        state = jax.device_put(init_state(variables, optimizer), layout.everywhere)
    weights = (1.0, 1.0)
    return {
        "model": model, "optimizer": optimizer, "strength": config.augment, "weights": weights, "seed": config.seed,
    }, state  # fmt: skip


def infer(task: Task, config: ConfigDict) -> Prepared:
    """The evaluation's step of one batch, which lies on the devices."""
    layout = _layout(task)
    model = create_model(settings(config, task))
    with jax.set_mesh(layout.mesh):
        variables = jax.device_put(init_variables(model, task.image_size, config.seed), layout.everywhere)
        images = devices.place(layout, _batch(task)[0])
        started = time.perf_counter()
        step = compile_eval(layout, model).lower(variables, images).compile()
    facts = _since(started)
    return _prepared(lambda: jax.block_until_ready(step(variables, images)), facts)


def explained(task: Task, config: ConfigDict) -> Prepared:
    """One explanation, as `--mode=explain` makes it."""
    config = settings(config, task)
    model = create_model(config)
    variables = init_variables(model, task.image_size, config.seed)
    method, image = mapping(task.mode, model, config), _batch(task)[0][0, :, :, 0]
    started = time.perf_counter()
    method(variables, image)
    return _prepared(lambda: method(variables, image), _since(started))


def feed(task: Task, config: ConfigDict) -> Prepared:
    """The feed of the config's source by tf.data, a batch a step."""
    from pneumojax.benchmark.feed import batches  # TensorFlow, which the steps do without

    following = batches(settings(config, task), devices.own_rows(_layout(task), task.batch_size))
    return _prepared(lambda: next(following), {})


def fed(task: Task, config: ConfigDict) -> Prepared:
    """The training step on the config's source, as a run dispatches it."""
    from pneumojax.benchmark.feed import ENDLESS, train_split  # see `feed`

    layout, config = _layout(task), settings(config, task)
    config.data.resident = {FED: "never", RESIDENT: "always"}[task.mode]
    fixed, state = _fixed_and_state(config, layout)
    with jax.set_mesh(layout.mesh):
        dispatch = choose(config, train_split(config), layout, first_step=0, last_step=ENDLESS, **fixed)
    number, latest = 0, None

    def run():
        nonlocal number, state, latest
        before = latest
        with jax.set_mesh(layout.mesh):
            state, latest = dispatch.run(state, number, dispatch.most)
        number += dispatch.most
        # As in training: one dispatch is in flight while the next batch is placed.
        jax.block_until_ready(latest if before is None else before)

    started = time.perf_counter()
    run()
    return _prepared(run, _since(started), steps=dispatch.most, settle=lambda: jax.block_until_ready(latest))


def matmul(task: Task, config: ConfigDict) -> Prepared:
    """A product of two square matrices in the task's precision; of float32, as convolutions have it by default."""
    left, right = jax.random.normal(jax.random.key(0), (2, MATMUL_SIZE, MATMUL_SIZE), jnp.dtype(task.precision))
    product = jax.jit(jnp.matmul)
    return _many(lambda: product(left, right), {"size": MATMUL_SIZE, "kernels": kernels.load()})


def copy(task: Task, config: ConfigDict) -> Prepared:
    """A copy of a float32 array within the device's memory."""
    array = jnp.ones(COPY_BYTES // 4)
    copied = jax.jit(jnp.copy)
    return _many(lambda: copied(array), {"bytes": COPY_BYTES})


def _many(compute: Callable[[], jax.Array], facts: Mapping[str, Any]) -> Prepared:
    """Many to a call on an accelerator, where telling the host of each would take a part of the time."""
    count = 1 if jax.default_backend() == "cpu" else 20

    def run():
        for _ in range(count):
            last = compute()
        last.block_until_ready()

    return _prepared(run, facts, steps=count)
