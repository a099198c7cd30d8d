"""Compare implementations: each runs in its own process, all at once, and they take turns."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import product
from typing import Any, NamedTuple

from pneumojax.benchmark.plan import Plan
from pneumojax.benchmark.tasks import AUGMENTED, FED, INFER, OURS, RESIDENT, SIDES, TRAIN, Task
from pneumojax.benchmark.worker_client import Unmeasured, Worker, started
from pneumojax.runtime.host import busy_seconds, processor_seconds


def compare(plan: Plan, config: Mapping[str, Any], platform: str) -> Iterator[dict[str, Any]]:
    """Compare pneumojax with the peers: TRAIN and INFER for each model and precision.

    All sides compute at the first batch size. If any of them is faster at another size, a second row has each side at
    its best size. All sides must compute on `platform`, JAX's name of it.

    Yields:
      Rows with `model`, `mode`, `precision`, `image_size`, `at` ("batch 32" or "own best") and what `side_by_side`
      returns.
    """
    if not plan.peers:
        return
    modes = [mode for mode in (TRAIN, INFER) if mode in plan.modes]
    for model, mode, precision in product(plan.models, modes, plan.precisions):
        task = Task(model, mode, plan.batch_sizes[0], plan.image_sizes[0], precision, devices=1)
        with ExitStack() as stack:  # new processes for each row: libraries keep memory that they free
            sides = (OURS, *plan.peers)
            workers = {side: stack.enter_context(started(SIDES[side], platform=platform)) for side in sides}
            yield from _first_and_best(workers, task, plan, config, platform)


def _first_and_best(
    workers: Mapping[str, Worker], task: Task, plan: Plan, config: Mapping[str, Any], platform: str
) -> Iterator[dict[str, Any]]:
    """Yield the row at the task's batch size; if any side is faster at another, also the row of each at its best."""
    shared = {field: getattr(task, field) for field in ("model", "mode", "precision", "image_size")}
    first = side_by_side(workers, dict.fromkeys(workers, task), plan, config, platform)
    yield shared | {"at": f"batch {task.batch_size}"} | first
    rates = {side: {task: row["images_per_s"]} for side, row in first["sides"].items() if "reason" not in row}
    for side, by_task in rates.items():
        for size in plan.batch_sizes[1:]:
            other = task._replace(batch_size=size)
            try:
                workers[side].prepare(other, config, plan.seconds)
                by_task[other] = size / statistics.median(workers[side].measure(plan.seconds)["steps"])
            except Unmeasured:  # for example, the batch does not fit in memory
                continue
    best = {side: max(by_task, key=by_task.__getitem__) for side, by_task in rates.items()}
    if set(best.values()) - {task}:
        able = {side: workers[side] for side in best}
        yield shared | {"at": "own best"} | side_by_side(able, best, plan, config, platform)


def side_by_side(
    workers: Mapping[str, Worker],
    tasks: Mapping[str, Task],
    plan: Plan,
    config: Mapping[str, Any],
    platform: str,
    to: str = OURS,
    typical: Callable[[Sequence[float]], float] = statistics.median,
) -> dict[str, Any]:
    """Measure each side's task, in turns.

    Returns:
      `sides`: each with `way`, `tried`, `facts`, `batch_size` and `images_per_s`, or with the `reason` why there is no
      figure; and the `turns`, `ratios`, `waiting_cores` and `foreign_cores` of `take_turns` and `ratios`.
    """
    sides: dict[str, dict[str, Any]] = {}
    able = {}
    for side, worker in workers.items():
        try:
            answer = worker.prepare(tasks[side], config, plan.seconds)
            if answer["facts"]["platform"] != platform:
                raise Unmeasured(f"it computes on a {answer['facts']['platform']}, pneumojax on a {platform}")
        except Unmeasured as reason:
            sides[side] = {"reason": str(reason)}
        else:
            sides[side], able[side] = answer | {"batch_size": tasks[side].batch_size}, worker
    turns, cores, failed = take_turns(able, plan.rounds, plan.seconds, typical)
    sides |= {side: {"reason": reason} for side, reason in failed.items()}
    batches = {side: tasks[side].batch_size for side in able if side not in failed}
    for side, batch in batches.items():
        sides[side]["images_per_s"] = statistics.median(batch / turn[side] for turn in turns)
    return {"sides": sides, "turns": turns, "ratios": ratios(turns, batches, to), **cores}


def feeding(plan: Plan, config: Mapping[str, Any], platform: str) -> Iterator[dict[str, Any]]:
    """Compare the training step on fed batches (FED, RESIDENT) with the step alone (AUGMENTED).

    There are no figures on devices that serve one process at a time, such as TPUs.

    Yields:
      For each model a row with `model`, `batch_size`, `turns`, `waiting_cores`, `foreign_cores`, and `ways`: for each
      mode, the ratio of its time to AUGMENTED's (`median`, `min`, `max`), or the `reason` why there is no figure.
    """
    modes = [mode for mode in (FED, RESIDENT) if mode in plan.modes]
    if AUGMENTED not in plan.modes or not modes:
        return
    for model in plan.models:
        first = Task(model, AUGMENTED, plan.batch_sizes[0], plan.image_sizes[0], plan.precisions[0], devices=1)
        tasks = {mode: first._replace(mode=mode) for mode in (AUGMENTED, *modes)}
        with ExitStack() as stack:
            workers = {mode: stack.enter_context(started(SIDES[OURS])) for mode in tasks}
            measured = side_by_side(workers, tasks, plan, config, platform, to=AUGMENTED, typical=statistics.mean)
        ways = {mode: side for mode, side in measured.pop("sides").items() if "reason" in side}
        ways |= measured.pop("ratios")
        yield {"model": model, "batch_size": first.batch_size, "ways": ways, **measured}


class Turns(NamedTuple):
    """What was measured in turns.

    Attributes:
      turns: for each round, the seconds per step of each side.
      cores: the largest processor use in any turn, in cores: `waiting_cores`, by the sides that waited;
        `foreign_cores`, by processes outside the benchmark.
      failed: side -> why it has no figures.
    """

    turns: list[dict[str, float]]
    cores: dict[str, float]
    failed: dict[str, str]


def take_turns(
    workers: Mapping[str, Worker],
    rounds: int,
    seconds: float,
    typical: Callable[[Sequence[float]], float] = statistics.median,
) -> Turns:
    """Let each worker repeat its prepared step for `seconds`, one after another, in reverse order every second round.

    `typical` returns the value that stands for the seconds of a turn's steps.
    """
    turns, failed, most = [], {}, {"waiting_cores": 0.0, "foreign_cores": 0.0}
    for number in range(rounds):
        turn = {}
        for side in [side for side in workers if side not in failed][:: -1 if number % 2 else 1]:
            before, start = _processor_use(workers, side), time.perf_counter()
            try:
                turn[side] = typical(workers[side].measure(seconds)["steps"])
            except Unmeasured as reason:  # for example, the process was killed
                failed[side] = str(reason)
                continue
            took = time.perf_counter() - start
            for name, spent in _processor_use(workers, side).items():
                most[name] = max(most[name], (spent - before[name]) / took)
        turns.append(turn)
    complete = [{side: value for side, value in turn.items() if side not in failed} for turn in turns]
    return Turns(complete, most, failed)


def _processor_use(workers: Mapping[str, Worker], active: str) -> dict[str, float]:
    """Return the processor seconds so far of the waiting workers, and of all processes that are no workers."""
    spent = {side: processor_seconds(worker.pid) for side, worker in workers.items()}
    waiting = sum(seconds for side, seconds in spent.items() if side != active)
    return {"waiting_cores": waiting, "foreign_cores": busy_seconds() - sum(spent.values())}


def ratios(
    turns: Sequence[Mapping[str, float]], batches: Mapping[str, int], to: str = OURS
) -> dict[str, dict[str, float]]:
    """Divide each side's time per image by that of the side `to`, turn by turn.

    A turn has the seconds per step of each side, `batches` the images per step. Returned are the `median`, `min` and
    `max` over the turns by side; without the side `to`, there are none.
    """
    if to not in batches:
        return {}
    found = {}
    for side in (side for side in batches if side != to):
        values = [(turn[side] / batches[side]) / (turn[to] / batches[to]) for turn in turns]
        found[side] = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return found
