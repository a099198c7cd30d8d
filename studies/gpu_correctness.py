"""Whether steps compute on the GPU what they compute on the CPU: a step of gpu.py.

The CPU computes in float32, by the plain block; the GPU in each precision, by the fused block and, in float32, also by
the plain one. A difference is relative: its norm, divided by that of what the CPU computed.

Rounding sometimes moves a maximum of max-pooling from one pixel to the next, which changes a gradient by about one part
in the root of the number of pixels. So each gradient is computed on several batches. On the batch where it differs
least, no maximum has moved, and the difference is below the bound; on every batch, it is below `MOVED`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from ml_collections import ConfigDict

from pneumojax.benchmark.tasks import PRODUCTS
from pneumojax.evaluation.forward import compile_eval
from pneumojax.inference import attribution
from pneumojax.inference.explainer import explainer
from pneumojax.inference.trained_model import variables_of
from pneumojax.models.architectures import FAMILY, shapes_of
from pneumojax.models.classifier import Variables
from pneumojax.models.configured import create_model
from pneumojax.runtime import config as configs
from pneumojax.runtime import sharding
from pneumojax.runtime.errors import one_line
from pneumojax.runtime.host import cores
from pneumojax.training.step import compile_step, init_state
from studies.gpu_given import NO_TIME, Given, Row

FORWARD, GRADIENT, MAP, FALLS = "forward", "gradient", "map", "falls"
# Precision -> the largest relative difference. TF32 keeps 11 bits of each factor, bfloat16 8, float32 24. Falls of the
# logit under occlusion are small differences of large numbers. Where factors are rounded, maxima move on every batch:
# where a CPU rounds likewise, gradients differ by up to 0.14 and 0.37, logits by up to 0.0006 and 0.012.
BOUNDS = {
    "float32": {FORWARD: 1e-5, GRADIENT: 1e-5, MAP: 1e-5, FALLS: 1e-4},
    "tf32": {FORWARD: 3e-3, GRADIENT: 0.2},
    "bfloat16": {FORWARD: 4e-2, GRADIENT: 0.6},
}
MOVED = 0.1  # the most by which a gradient or a map in float32 may differ where a maximum has moved
EXPLANATIONS = {"m1": tuple(attribution.METHODS)}  # of other models, those of OTHERS
OTHERS = ("grad-cam", "integrated-gradients")
# The methods with few points, since the CPU computes them too. They multiply in full float32 in any precision.
EXPLAINING = {
    "explanation.steps": 4,
    "explanation.samples": 4,
    "explanation.square_step": 0.3,
    "explanation.baseline": "black",
}
LEAST_S = 8.0  # seconds in which a program is compiled and run

Arrays = Mapping[str, Any]  # what -> a tree of arrays


class Subject(NamedTuple):
    """What both devices compute: `step` is "train", "eval" or a method of explanation; `model` is such as "m1"."""

    step: str
    model: str


class Way(NamedTuple):
    """How a device computes: in a precision of `tasks.PRECISIONS`, and with a block of `BLOCKS`."""

    precision: str
    block: str


BLOCKS = {"fused": "always", "plain": "never"}  # -> the config's `model.fused`
REFERENCE = Way("float32", "plain")


def subjects(given: Given) -> Iterator[Subject]:
    """Yield what is to be compared, the most telling first."""
    for model in given.sizes.models:
        yield from (Subject("train", model), Subject("eval", model))
    for model in given.sizes.models:
        yield from (Subject(method, model) for method in EXPLANATIONS.get(model, OTHERS))


def ways(subject: Subject, given: Given) -> Iterator[Way]:
    """Yield in which ways the GPU computes a subject. An explanation is in full float32 in any precision."""
    yield Way("float32", "fused")
    if subject.step in ("train", "eval"):
        yield from (Way(name, "fused") for name in given.sizes.precisions if name != "float32")
        if subject.model == given.sizes.models[0]:
            yield REFERENCE


def correctness(given: Given) -> Iterator[Row]:
    """Yield a row for everything compared, in the order in which it is ready. Programs are compiled side by side."""
    workers = max(1, min(4, cores() // 4))
    with ThreadPoolExecutor(workers) as pool:
        waiting = [pool.submit(_compared, subject, given) for subject in subjects(given)]
        for done in as_completed(waiting):
            yield from done.result()


def _compared(subject: Subject, given: Given) -> list[Row]:
    """Return the rows of a subject; a way that cannot be computed has a row with the reason, and ends no other."""
    rows: list[Row] = []
    theirs: list[Arrays] = []
    for way in ways(subject, given):
        row = subject._asdict() | way._asdict() | {"what": None}
        if given.left() < LEAST_S:
            rows.append(row | {"reason": NO_TIME})
            continue
        try:
            theirs = theirs or computed(subject, REFERENCE, given, jax.devices("cpu")[0])
            rows += [row | found for found in compared(way, computed(subject, way, given, jax.devices()[0]), theirs)]
        except Exception as error:
            rows.append(row | {"reason": one_line(f"{type(error).__name__}: {error}".splitlines()[0])})
    return rows


def compared(way: Way, ours: Sequence[Arrays], theirs: Sequence[Arrays]) -> Iterator[Row]:
    """Yield what was compared, by how much it differs over the batches, and its bound."""
    for what in theirs[0]:
        differences = [difference(a[what], b[what]) for a, b in zip(ours, theirs, strict=True)]
        yield {"what": what} | verdict(kind_of(what), way.precision, differences)


def kind_of(what: str) -> str:
    """Return which bound holds for what was computed."""
    return what if what in (GRADIENT, MAP, FALLS) else FORWARD


def verdict(kind: str, precision: str, differences: Sequence[float]) -> Row:
    """Return whether the differences on several batches are within the bounds: see the module's text."""
    bound = BOUNDS[precision][kind]
    least, most = min(differences), max(differences)
    if kind == FORWARD:
        return {"difference": most, "bound": bound, "most": None, "holds": most <= bound}
    holds = least <= bound and most <= max(bound, MOVED)
    return {"difference": least, "bound": bound, "most": most, "holds": holds}


def difference(ours: Any, theirs: Any) -> float:
    """Return the norm of the difference of two trees of arrays, divided by that of the second; infinite where NaN."""
    pairs = zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True)
    wide = [(np.asarray(a, np.float64).ravel(), np.asarray(b, np.float64).ravel()) for a, b in pairs]
    a, b = (np.concatenate(part) for part in zip(*wide, strict=True))
    found = np.linalg.norm(a - b) / max(np.linalg.norm(b), np.finfo(np.float64).tiny)
    return float(found) if np.isfinite(found) else float("inf")


def computed(subject: Subject, way: Way, given: Given, device: Any) -> list[Arrays]:
    """Compute a subject on a device, each batch."""
    sizes = given.sizes
    fields = {"model.name": subject.model, "model.image_size": sizes.check_size, "model.fused": BLOCKS[way.block]}
    fields |= {"model.dtype": "bfloat16" if way.precision == "bfloat16" else "float32"}
    config = configs.with_fields(configs.load(subject.model), fields | EXPLAINING)
    build = {"train": _trained, "eval": _evaluated}.get(subject.step, partial(_explained, subject.step))
    compute, found = build(config, device), []
    with jax.default_device(device), jax.default_matmul_precision(PRODUCTS[way.precision]):
        for number in range(sizes.check_batches):
            found.append(compute(*batch(number, sizes.check_batch, sizes.check_size)))
    return found


def batch(number: int, count: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw images of noise, (count, size, size, 1) uint8, and labels of both classes, (count,) uint8.

    Noise, since in the uniform parts of a radiograph rounding alone would choose the maxima.
    """
    images = np.random.default_rng(number).integers(0, 256, (count, size, size, 1), np.uint8)
    return images, np.arange(count, dtype=np.uint8) % 2


def drawn_variables(model: str, size: int) -> Variables:
    """Draw variables, of which none stays at zero or one, so that each has an effect."""
    rng = np.random.default_rng(0)
    shapes = shapes_of(FAMILY[model], size)
    return variables_of({name: _drawn(name, shape, rng) for name, shape in shapes.items()})


def _drawn(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    if name.endswith("kernel"):  # Glorot's
        limit = np.sqrt(6 / (np.prod(shape[:-2]) * (shape[-2] + shape[-1])))
        lowest, highest = (0.0, limit / 4) if shape[-1] == 1 else (-limit, limit)  # else the logit's terms would cancel
        return rng.uniform(lowest, highest, shape).astype(np.float32)
    lowest, highest = (0.8, 1.25) if name.endswith(("scale", "var")) else (0.0, 0.05)
    return rng.uniform(lowest, highest, shape).astype(np.float32)


def _variables(config: ConfigDict) -> Variables:
    return drawn_variables(config.model.name, config.model.image_size)


def _trained(config: ConfigDict, device: Any) -> Callable[[np.ndarray, np.ndarray], Arrays]:
    """One training step without augmentation: the logits, the statistics, and the gradient."""
    layout, model = sharding.layout([device]), create_model(config)
    optimizer = optax.trace(decay=0.0)  # its state is the gradient
    with jax.default_device(jax.devices("cpu")[0]):
        start = jax.device_get(jax.jit(lambda: init_state(_variables(config), optimizer))())
    strength = configs.with_fields(config, {f"augment.{name}": 0.0 for name in config.augment}).augment
    step = compile_step(layout, model=model, optimizer=optimizer, strength=strength, weights=(1.5, 0.75), seed=0)

    def compute(images: np.ndarray, labels: np.ndarray) -> Arrays:
        with jax.set_mesh(layout.mesh):
            arrays = (sharding.place(layout, rows) for rows in (images, labels))
            state, logits = step(jax.device_put(start, layout.replicated), *arrays)
            return jax.device_get({"logits": logits, "statistics": state.batch_stats, GRADIENT: state.opt_state.trace})

    return compute


def _evaluated(config: ConfigDict, device: Any) -> Callable[[np.ndarray, np.ndarray], Arrays]:
    """One evaluation step: logits and features."""
    layout, model, variables = sharding.layout([device]), create_model(config), _variables(config)
    step = compile_eval(layout, model)

    def compute(images: np.ndarray, labels: np.ndarray) -> Arrays:
        with jax.set_mesh(layout.mesh):
            placed = jax.device_put(variables, layout.replicated)
            logits, features = step(placed, sharding.place(layout, images))
            return jax.device_get({"logits": logits, "features": features})

    return compute


def _explained(method: str, config: ConfigDict, device: Any) -> Callable[[np.ndarray, np.ndarray], Arrays]:
    """One explanation, of the batch's first image."""
    explain, variables = explainer(method, create_model(config), config), _variables(config)
    what = FALLS if method == "occlusion" else MAP
    return lambda images, labels: {what: explain(variables, images[0, :, :, 0])}
