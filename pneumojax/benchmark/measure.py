"""Measure pneumojax alone: each figure in a process of its own, so that peak memory is its own."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pneumojax.benchmark import flops
from pneumojax.benchmark.tasks import AUGMENTED, COPY, FED, FEED, INFER, MATMUL, OURS, RESIDENT, SIDES, TRAIN, Task
from pneumojax.benchmark.worker_client import Unmeasured, started

OPERATIONS = dict.fromkeys((TRAIN, AUGMENTED, FED, RESIDENT), flops.training) | {INFER: flops.forward}
IN_BURSTS = (FEED, FED, RESIDENT)  # modes in which many short steps follow a long one
LEAST = 10  # calls, for the percentiles


def measure(task: Task, config: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """Measure a task for about `seconds`.

    Returns:
      The task's fields, `compile_s`, `peak_bytes` (of the accelerator if there is one, otherwise of the process), and
      what `figures` returns; or the task's fields and the `reason` why there is no figure.
    """
    try:
        with started(SIDES[OURS], task.devices) as worker:
            facts = worker.prepare(task, config, seconds)["facts"]
            answer = worker.measure(seconds, LEAST)
    except Unmeasured as reason:
        return task._asdict() | {"reason": str(reason)}
    return task._asdict() | facts | figures(task, answer["steps"]) | {"peak_bytes": answer["peak_bytes"]}


def figures(task: Task, steps: Sequence[float]) -> dict[str, Any]:
    """Summarize the seconds per step of the timed calls.

    Returns:
      `calls` (how many), `step_s` (median, p10, p90), `images_per_s` (from the median step, or from the mean step if
      steps come in bursts) and, except for FEED, `gflops` (GFLOP/s).
    """
    median = statistics.median(steps)
    deciles = statistics.quantiles(steps, n=10, method="inclusive")
    rate = task.batch_size / (statistics.mean(steps) if task.mode in IN_BURSTS else median)
    summary = {
        "calls": len(steps),
        "step_s": {"median": median, "p10": deciles[0], "p90": deciles[-1]},
        "images_per_s": rate,
    }
    if task.mode == FEED:
        return summary
    return summary | {"gflops": OPERATIONS[task.mode](task.model, task.image_size) * rate / 1e9}


def matrix_products(precisions: Iterable[str], config: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """Measure how fast the device multiplies large matrices.

    Returns:
      `size` of the matrices; `gflops`, precision -> GFLOP/s of the fastest product; `device`, `platform`, `kernels`.

    Raises:
      Unmeasured: JAX cannot start.
    """
    facts: dict[str, Any] = {}
    gflops = {}
    for precision in precisions:
        facts, fastest = _fastest(MATMUL, precision, config, seconds)
        gflops[precision] = 2 * facts["size"] ** 3 / fastest / 1e9
    return facts | {"gflops": gflops}


def memory(config: Mapping[str, Any], seconds: float) -> float:
    """Measure the device's memory bandwidth in GB/s, read and written together, by copying a large array.

    Raises:
      Unmeasured: JAX cannot start.
    """
    facts, fastest = _fastest(COPY, "float32", config, seconds)
    return 2 * facts["bytes"] / fastest / 1e9


def _fastest(mode: str, precision: str, config: Mapping[str, Any], seconds: float) -> tuple[dict[str, Any], float]:
    """Return the facts and the fastest step, in seconds, of a mode that computes with no model."""
    with started(SIDES[OURS]) as worker:
        facts = worker.prepare(Task("m1", mode, 1, 16, precision, 1), config, seconds)["facts"]
        return facts, min(worker.measure(seconds)["steps"])
