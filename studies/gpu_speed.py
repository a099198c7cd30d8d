"""How fast steps are on the GPU: the steps of gpu.py that measure by the workers of --mode=benchmark."""

import importlib.util
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from itertools import product
from typing import Any

from pneumojax.benchmark.compare import side_by_side
from pneumojax.benchmark.measure import figures
from pneumojax.benchmark.plan import plan
from pneumojax.benchmark.tasks import AUGMENTED, COPY, FED, INFER, MATMUL, OURS, RESIDENT, SIDES, TRAIN, Side, Task
from pneumojax.benchmark.worker_client import Unmeasured, Worker, started
from pneumojax.runtime import config as configs
from studies import traffic
from studies.cost import VALUE_BYTES
from studies.gpu_given import NO_TIME, TINY, Given, Row, read_rows, value_of

MODULE = "studies.gpu_sides"
LEAST_S = 12.0  # seconds in which a step is compiled and measured
COMPILING_S = 45.0  # the same where PyTorch compiles and tunes it
LEAST_CALLS = 5  # of a measurement; in some modes, a call takes many steps


def own(given: Given, block: str = "", flags: str = "") -> Side:
    """Return PneumoJAX as a side, with the named block and further flags of XLA."""
    variant = "tiny" if given.sizes is TINY else "whole"
    environment = {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()} if flags else {}
    return Side(MODULE, f"{variant}-{block}" if block else variant, environment=environment)


def task(given: Given, model: str, mode: str, batch: int, precision: str) -> Task:
    """Return a task on one device."""
    return Task(model, mode, batch, given.sizes.image_size, precision, 1)


def settings() -> dict[str, Any]:
    """Return the config that workers get."""
    return configs.load("m1").to_dict()


def rates(given: Given) -> Iterator[Row]:
    """Yield what the card reaches, then M1's images/s in each mode, batch size and precision, all by one process.

    What it reaches is TFLOP/s of a product of matrices in each precision, and GB/s read and written in a copy.
    """
    with started(own(given)) as worker:
        for of in rate_tasks(given):
            row: Row = {name: getattr(of, name) for name in ("model", "mode", "batch_size", "image_size", "precision")}
            yield row | _rate(worker, of, given)


def rate_tasks(given: Given) -> Iterator[Task]:
    """Yield what is measured alone, the most telling first."""
    batches, precisions = given.sizes.batches, given.sizes.precisions
    yield from (task(given, "m1", MATMUL, 1, precision) for precision in precisions)
    yield task(given, "m1", COPY, 1, "float32")
    for batch in batches:
        for mode, precision in product((TRAIN, INFER, RESIDENT), precisions):
            yield task(given, "m1", mode, batch, precision)
        yield from (task(given, "m1", mode, batch, precisions[0]) for mode in (FED, AUGMENTED))


def _rate(worker: Worker, of: Task, given: Given) -> Row:
    if given.left() < LEAST_S:
        return {"reason": NO_TIME}
    try:
        facts = worker.prepare(of, settings(), given.sizes.seconds)["facts"]
        steps = worker.measure(given.sizes.seconds, LEAST_CALLS)["steps"]
    except Unmeasured as reason:
        return {"reason": str(reason)}
    if of.mode == MATMUL:
        return {"tflops": 2 * facts["size"] ** 3 / min(steps) / 1e12, "size": facts["size"]}
    if of.mode == COPY:
        return {"gb_s": 2 * facts["bytes"] / min(steps) / 1e9, "size": facts["bytes"]}
    found = figures(of, steps)
    return {
        "compile_s": facts["compile_s"],
        "step_s": found["step_s"],
        "images_per_s": found["images_per_s"],
        "tflops": found["gflops"] / 1e3,
        "gb_s": found["images_per_s"] * moved(of) / 1e9,
    }


def moved(of: Task) -> float:
    """Return the bytes that a step moves for an image, as studies/traffic.py counts them for the fused block."""
    train = of.mode != INFER
    each = traffic.image_bytes(of.model, of.image_size, train=train, value_bytes=VALUE_BYTES[of.precision])
    return each + traffic.step_bytes(of.model, of.image_size, train=train) / of.batch_size


def blocks(given: Given) -> Iterator[Row]:
    """Yield each model's steps with the fused block beside those with the plain one."""
    sides = {"fused": own(given, "fused"), "plain": own(given, "plain")}
    precisions = given.sizes.precisions[:2]
    of = [
        task(given, model, mode, given.sizes.batches[0], precision)
        for model, precision, mode in product(given.sizes.models, precisions, (TRAIN, INFER))
    ]
    yield from in_turns(given, sides, of, to="fused", least=2 * LEAST_S)


def peers(given: Given) -> Iterator[Row]:
    """Yield M1's steps beside PyTorch's: eager for all, then compiled and tuned for as many as there is time for."""
    of = [
        task(given, "m1", mode, batch, precision)
        for batch, precision in product(given.sizes.batches[:2], given.sizes.precisions[:2])
        for mode in (TRAIN, INFER)
    ]
    for peer, least in (("torch", 2 * LEAST_S), ("torch-max-autotune", COMPILING_S)):
        if importlib.util.find_spec("torch") is None:
            yield {"peer": peer, "reason": "PyTorch is not installed"}
            continue
        for row in in_turns(given, {OURS: own(given), peer: SIDES[peer]}, of, to=OURS, least=least):
            yield {"peer": peer} | row


def determinism(given: Given) -> Iterator[Row]:
    """Yield M1's training step beside the same with equal bits in each run."""
    flag = "--xla_gpu_deterministic_ops=true"  # that of `sharding.compute_deterministically`
    sides = {"any bits": own(given), "equal bits": own(given, flags=flag)}
    precisions = given.sizes.precisions[:2]
    of = [task(given, "m1", AUGMENTED, given.sizes.batches[0], precision) for precision in precisions]
    yield from in_turns(given, sides, of, to="any bits", least=2 * LEAST_S)


def in_turns(given: Given, sides: Mapping[str, Side], of: Iterable[Task], to: str, least: float) -> Iterator[Row]:
    """Yield a row for each task: each side's images/s and way, and how many times as long as `to` it takes.

    A task for which fewer than `least` seconds are left is not measured.
    """
    planned = plan(configs.load("m1"))._replace(rounds=given.sizes.rounds, seconds=given.sizes.seconds)
    platform = value_of(read_rows(given.folder, "card"), "platform")
    with ExitStack() as stack:
        workers = {name: stack.enter_context(started(side)) for name, side in sides.items()}
        for each in of:
            row: Row = {name: getattr(each, name) for name in ("model", "mode", "batch_size", "precision")}
            if given.left() < least:
                yield row | {"reason": NO_TIME}
                continue
            tasks = dict.fromkeys(workers, each)
            found = side_by_side(workers, tasks, planned, settings(), platform, to=to)
            yield (
                row
                | {"sides": {name: _shown(side) for name, side in found["sides"].items()}}
                | {"ratios": found["ratios"]}
            )


def _shown(side: Mapping[str, Any]) -> Row:
    return {name: side[name] for name in ("images_per_s", "way", "reason") if name in side}
