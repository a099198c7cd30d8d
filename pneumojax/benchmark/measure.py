"""Ours alone: every figure in a process of its own, so that its peak memory is its own."""

import statistics
from collections.abc import Iterable, Mapping, Sequence

from pneumojax.benchmark import flops
from pneumojax.benchmark.processes import Unmeasured, started
from pneumojax.benchmark.task import AUGMENTED, COPY, FED, FEED, INFER, MATMUL, OURS, RESIDENT, TRAIN, Task

OPERATIONS = dict.fromkeys((TRAIN, AUGMENTED, FED, RESIDENT), flops.training) | {INFER: flops.forward}
IN_BURSTS = (FEED, FED, RESIDENT)
LEAST = 10  # calls, for p10 and p90


def measure(task: Task, config: Mapping, seconds: float) -> dict:
    """The task's row.

    Returns:
      The task's fields; `compile_s`, `calls` (how many were timed), `step_s` (median, p10, p90), `images_per_s` (at the
      median step; of a feed, which comes in bursts, over all steps), `peak_bytes` (an accelerator's, or else the
      process's) and, of the model's steps, `gflops` a second; or, in place of these, the `reason` why there is no
      figure.
    """
    try:
        with started(OURS, task.devices) as worker:
            facts = worker.prepare(task, config, seconds)["facts"]
            answer = worker.measure(seconds, LEAST)
    except Unmeasured as reason:
        return task._asdict() | {"reason": str(reason)}
    return task._asdict() | facts | figures(task, answer["steps"]) | {"peak_bytes": answer["peak_bytes"]}


def figures(task: Task, steps: Sequence[float]) -> dict:
    """What the times of the steps (seconds) come to."""
    median = statistics.median(steps)
    tenths = statistics.quantiles(steps, n=10, method="inclusive")
    found = {
        "calls": len(steps),
        "step_s": {"median": median, "p10": tenths[0], "p90": tenths[-1]},
        "images_per_s": task.batch_size / (statistics.mean(steps) if task.mode in IN_BURSTS else median),
    }
    if task.mode == FEED:
        return found
    each = OPERATIONS[task.mode](task.model, task.image_size)
    return found | {"gflops": each * found["images_per_s"] / 1e9}


def matrix_products(precisions: Iterable[str], config: Mapping, seconds: float) -> dict:
    """How fast the device multiplies large matrices.

    Returns:
      `size`; `gflops`, precision -> GFLOP a second, of the fastest product; `device`, `platform` and `kernels`.

    Raises:
      Unmeasured: JAX cannot be started.
    """
    gflops = {}
    for precision in precisions:
        facts, fastest = _fastest(MATMUL, precision, config, seconds)
        gflops[precision] = 2 * facts["size"] ** 3 / fastest / 1e9
    return facts | {"gflops": gflops}


def memory(config: Mapping, seconds: float) -> float:
    """How fast the device's memory is: GB a second, read and written together, of the fastest copy of a large array.

    Raises:
      Unmeasured: JAX cannot be started.
    """
    facts, fastest = _fastest(COPY, "float32", config, seconds)
    return 2 * facts["bytes"] / fastest / 1e9


def _fastest(mode: str, precision: str, config: Mapping, seconds: float) -> tuple[dict, float]:
    """The facts and the fastest step (seconds) of a task that no model has to do with."""
    with started(OURS) as worker:
        facts = worker.prepare(Task("m1", mode, 1, 16, precision, 1), config, seconds)["facts"]
        return facts, min(worker.measure(seconds)["steps"])
