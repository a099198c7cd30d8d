"""PneumoJAX's own steps, as training, evaluation and explanation run them, ready to be timed."""

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from pneumojax.benchmark.tasks import AUGMENTED, COPY, FED, FEED, INFER, MATMUL, PRODUCTS, RESIDENT, TRAIN, Task
from pneumojax.benchmark.worker import ReadyStep, Ways, peak_bytes
from pneumojax.data import loader
from pneumojax.data.source import Split
from pneumojax.evaluation.forward import compile_eval
from pneumojax.inference import attribution
from pneumojax.inference.explainer import explainer
from pneumojax.models import kernels
from pneumojax.models.classifier import init_variables
from pneumojax.models.configured import create_model
from pneumojax.runtime import sharding
from pneumojax.runtime.config import with_fields
from pneumojax.training.batches import choose
from pneumojax.training.optimizer import create_optimizer
from pneumojax.training.step import TrainState, compile_step, init_state
from pneumojax.workflows import prepare

ENDLESS = 10**9  # steps
MATMUL_SIZE = 4096
COPY_BYTES = 2**28  # more than caches hold


def ways(_: str) -> Callable[[Task, ConfigDict], Ways]:
    """Return the function that maps a task to its only way: see worker.py."""
    builders = {TRAIN: train, AUGMENTED: train, INFER: infer, FEED: feed}
    builders |= {FED: fed, RESIDENT: fed, MATMUL: matmul, COPY: copy} | dict.fromkeys(attribution.METHODS, explained)
    return lambda task, config: {"": partial(built, builders[task.mode], task, config)}


def built(build: Callable[[Task, ConfigDict], ReadyStep], task: Task, config: ConfigDict) -> ReadyStep:
    """Build a step with the task's settings. From then on, an accelerator multiplies in the task's precision."""
    if jax.default_backend() != "cpu":
        jax.config.update("jax_default_matmul_precision", PRODUCTS[task.precision])
    return build(task, settings(config, task))


def settings(config: ConfigDict, task: Task) -> ConfigDict:
    """Return the config with the task's settings; what peers compute too is the network alone, as theirs is."""
    fields = {
        "model.name": task.model,
        "model.image_size": task.image_size,
        "model.dtype": task.dtype,
        "batch_size": task.batch_size,
    }
    if task.mode not in (AUGMENTED, FEED, FED, RESIDENT):
        fields |= {f"augment.{name}": 0.0 for name in config.augment} | {"model.equalize": False}
    return with_fields(config, fields)


def _batch(task: Task) -> tuple[np.ndarray, np.ndarray]:
    """Return random images, (batch, size, size, 1) uint8, and labels of both classes, (batch,) uint8."""
    shape = (task.batch_size, task.image_size, task.image_size, 1)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8), np.arange(task.batch_size, dtype=np.uint8) % 2


def _layout(task: Task) -> sharding.Layout:
    devices = jax.devices()
    if len(devices) < task.devices:
        raise RuntimeError(f"the task needs {task.devices} devices, and JAX finds {len(devices)}")
    return sharding.layout(devices[: task.devices])


def _ready(run: Callable[[], object], facts: Mapping[str, Any], **further: Any) -> ReadyStep:
    device = {"device": jax.devices()[0].device_kind, "platform": jax.default_backend()}
    return ReadyStep(run, {**device, **facts}, peak_bytes=_peak_bytes, **further)


def _peak_bytes() -> int:
    """Return the largest peak of the accelerators, or of this process where memory is the host's."""
    peaks = [stats["peak_bytes_in_use"] for device in jax.local_devices() if (stats := device.memory_stats())]
    return max(peaks) if peaks else peak_bytes()


def train(task: Task, config: ConfigDict) -> ReadyStep:
    """Build the training step on one batch that stays on the devices."""
    layout = _layout(task)
    fixed, state = _fixed_and_state(config, layout)
    with jax.set_mesh(layout.mesh):
        batch = [sharding.place(layout, rows) for rows in _batch(task)]
        start = time.perf_counter()
        compiled = compile_step(layout, **fixed).lower(state, *batch).compile()
    facts = {"compile_s": time.perf_counter() - start}

    def step() -> None:
        nonlocal state
        state, logits = compiled(state, *batch)
        logits.block_until_ready()

    return _ready(step, facts)


def _fixed_and_state(config: ConfigDict, layout: sharding.Layout) -> tuple[dict[str, Any], TrainState]:
    """Return the training step's fixed arguments and the state that it starts from."""
    model, optimizer = create_model(config), create_optimizer(config, steps_per_epoch=1000)
    with jax.set_mesh(layout.mesh):
        variables = init_variables(model, config.model.image_size, config.seed)
        state = jax.device_put(init_state(variables, optimizer), layout.replicated)
    fixed = {"model": model, "optimizer": optimizer, "strength": config.augment, "seed": config.seed}
    return fixed | {"weights": (1.0, 1.0)}, state


def infer(task: Task, config: ConfigDict) -> ReadyStep:
    """Build the evaluation step on one batch that stays on the devices."""
    layout = _layout(task)
    model = create_model(config)
    with jax.set_mesh(layout.mesh):
        variables = jax.device_put(init_variables(model, task.image_size, config.seed), layout.replicated)
        images = sharding.place(layout, _batch(task)[0])
        start = time.perf_counter()
        step = compile_eval(layout, model).lower(variables, images).compile()
    facts = {"compile_s": time.perf_counter() - start}
    return _ready(lambda: jax.block_until_ready(step(variables, images)), facts)


def explained(task: Task, config: ConfigDict) -> ReadyStep:
    """Build one explanation of one image, as `--mode=explain` makes it."""
    model = create_model(config)
    variables = init_variables(model, task.image_size, config.seed)
    method, image = explainer(task.mode, model, config), _batch(task)[0][0, :, :, 0]
    start = time.perf_counter()
    method(variables, image)
    return _ready(lambda: method(variables, image), {"compile_s": time.perf_counter() - start})


def train_split(config: ConfigDict) -> Split:
    """Prepare all images of the config's source, and return them as one split.

    Raises:
      RuntimeError: there are fewer images than a batch has.
    """
    config, source = prepare.open_own(config)
    prepared = prepare.prepare_to_train(config, source)
    split = prepared.split("train", [record for record in source.records if record.id in prepared.places])
    if len(split.ids) < config.batch_size:
        raise RuntimeError(f"a batch of {config.batch_size} is larger than the {len(split.ids)} images")
    return split


def feed(task: Task, config: ConfigDict) -> ReadyStep:
    """Build the tf.data feed of the config's source; a step is a batch."""
    rows = sharding.own_rows(_layout(task), task.batch_size)
    batches = loader.feed(
        train_split(config), batch_size=config.batch_size, seed=config.seed, first_step=0, last_step=ENDLESS, rows=rows
    )
    return _ready(lambda: next(batches), {})


def fed(task: Task, config: ConfigDict) -> ReadyStep:
    """Build the training step on the config's source, dispatched as in training."""
    return dispatched(task, config, train_split(config))


def dispatched(task: Task, config: ConfigDict, split: Split, most: int = ENDLESS) -> ReadyStep:
    """Build the training step on a split, dispatched as in training: fed, or from the devices' memory.

    A call takes as many steps as a dispatch of training, but not more than `most`.
    """
    layout = _layout(task)
    config = with_fields(config, {"data.resident": {FED: "never", RESIDENT: "always"}[task.mode]})
    fixed, state = _fixed_and_state(config, layout)
    with jax.set_mesh(layout.mesh):
        dispatch = choose(config, split, layout, first_step=0, last_step=ENDLESS, **fixed)
    number, latest, steps = 0, None, min(dispatch.most, most)

    def run() -> None:
        nonlocal number, state, latest
        before = latest
        with jax.set_mesh(layout.mesh):
            state, latest = dispatch.run(state, number, steps)
        number += steps
        # As in training: one dispatch is in flight while the next batch is placed.
        jax.block_until_ready(latest if before is None else before)

    start = time.perf_counter()
    run()
    facts = {"compile_s": time.perf_counter() - start}
    return _ready(run, facts, steps=steps, settle=lambda: jax.block_until_ready(latest))


def matmul(task: Task, config: ConfigDict, size: int = MATMUL_SIZE) -> ReadyStep:
    """Build a product of two square matrices, of `size` rows, in the task's precision."""
    left, right = jax.random.normal(jax.random.key(0), (2, size, size), jnp.dtype(task.dtype))
    product = jax.jit(jnp.matmul)
    return _repeated(lambda: product(left, right), {"size": size, "kernels": kernels.load()})


def copy(task: Task, config: ConfigDict, size: int = COPY_BYTES) -> ReadyStep:
    """Build a copy of a float32 array of `size` bytes within the device's memory."""
    array = jnp.ones(size // 4)
    copied = jax.jit(jnp.copy)
    return _repeated(lambda: copied(array), {"bytes": size})


def _repeated(compute: Callable[[], jax.Array], facts: Mapping[str, Any]) -> ReadyStep:
    """Compute several times per call on an accelerator, since waiting for each result would take part of the time."""
    count = 1 if jax.default_backend() == "cpu" else 20

    def run() -> None:
        for _ in range(count - 1):
            compute()
        compute().block_until_ready()

    return _ready(run, facts, steps=count)
