"""Ours beside peers: every side in its own process, all alive, taking turns."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import product

from pneumojax.benchmark.plan import Plan
from pneumojax.benchmark.processes import Unmeasured, Worker, started
from pneumojax.benchmark.task import AUGMENTED, FED, INFER, OURS, RESIDENT, TRAIN, Task
from pneumojax.machine import busy_seconds, processor_seconds


def compare(plan: Plan, config: Mapping, platform: str) -> Iterator[dict]:
    """Rows: every model, TRAIN and INFER, every precision; at the first batch size, then each side at its best.

    All sides compute on `platform`, JAX's name of it, or have no figure.

    A row has `model`, `mode`, `precision`, `image_size`, `at` ("batch 32" or "own best"), `sides` (each with `way`,
    `tried`, `batch_size` and `images_per_s`, or with the `reason` why there is no figure), `turns` (seconds a step),
    `ratios`, `waiting_cores` (that the waiting sides took) and `foreign_cores` (that all else on the machine took).
    """
    if not plan.peers:
        return
    modes = [mode for mode in (TRAIN, INFER) if mode in plan.modes]
    for model, mode, precision in product(plan.models, modes, plan.precisions):
        task = Task(model, mode, plan.batch_sizes[0], plan.image_sizes[0], precision, devices=1)
        with ExitStack() as stack:  # anew each time, since what they free they keep
            workers = {side: stack.enter_context(started(side, platform=platform)) for side in (OURS, *plan.peers)}
            yield from _at_first_and_best(workers, task, plan, config, platform)


def _at_first_and_best(workers, task: Task, plan: Plan, config: Mapping, platform: str) -> Iterator[dict]:
    """The row at the task's batch size; and, where any side is faster at another, the row of each at its best."""
    first = _row(workers, dict.fromkeys(workers, task), plan, config, platform)
    yield first | {"at": f"batch {task.batch_size}"}
    rates = {side: {task: told["images_per_s"]} for side, told in first["sides"].items() if "reason" not in told}
    for side, found in rates.items():
        for size in plan.batch_sizes[1:]:
            other = task._replace(batch_size=size)
            try:
                workers[side].prepare(other, config, plan.seconds)
                found[other] = size / statistics.median(workers[side].measure(plan.seconds)["steps"])
            except Unmeasured:  # such as a batch that does not fit the memory
                continue
    best = {side: max(found, key=found.get) for side, found in rates.items()}
    if set(best.values()) - {task}:
        yield _row({side: workers[side] for side in best}, best, plan, config, platform) | {"at": "own best"}


def _row(workers: Mapping[str, Worker], tasks: Mapping[str, Task], plan: Plan, config: Mapping, platform: str) -> dict:
    told, able = {}, {}
    for side, worker in workers.items():
        try:
            answer = worker.prepare(tasks[side], config, plan.seconds)
            if answer["facts"]["platform"] != platform:
                raise Unmeasured(f"it computes on a {answer['facts']['platform']}, ours on a {platform}")
        except Unmeasured as reason:
            told[side] = {"reason": str(reason)}
        else:
            told[side], able[side] = answer | {"batch_size": tasks[side].batch_size}, worker
    turns, cores, failed = take_turns(able, plan.rounds, plan.seconds)
    told |= {side: {"reason": reason} for side, reason in failed.items()}
    batches = {side: tasks[side].batch_size for side in able if side not in failed}
    for side, batch in batches.items():
        told[side]["images_per_s"] = statistics.median(batch / turn[side] for turn in turns)
    shared = next(iter(tasks.values()))._asdict()
    return {
        **{field: shared[field] for field in ("model", "mode", "precision", "image_size")},
        "sides": told,
        "turns": turns,
        "ratios": ratios(turns, batches),
        **cores,
    }


def feeding(plan: Plan, config: Mapping) -> Iterator[dict]:
    """Rows: each model's step on batches that are fed, beside the step alone, with the augmentation of the recipe.

    A row has `model`, `batch_size`, `ways` (each of the plan's FED and RESIDENT, with how many times as long as
    AUGMENTED a step takes: `median`, `min`, `max`; or the `reason` why there is no figure) and what `take_turns` tells.
    Where a device serves one process alone, such as a TPU, there is no figure.
    """
    ways = [mode for mode in (FED, RESIDENT) if mode in plan.modes]
    if AUGMENTED not in plan.modes or not ways:
        return
    for model in plan.models:
        told, able = {}, {}
        with ExitStack() as stack:
            for mode in (AUGMENTED, *ways):
                worker = stack.enter_context(started(OURS))
                task = Task(model, mode, plan.batch_sizes[0], plan.image_sizes[0], plan.precisions[0], devices=1)
                try:
                    worker.prepare(task, config, plan.seconds)
                    able[mode] = worker
                except Unmeasured as reason:
                    told[mode] = {"reason": str(reason)}
            turns, cores, failed = take_turns(able, plan.rounds, plan.seconds, typical=statistics.mean)
        told |= {mode: {"reason": reason} for mode, reason in failed.items()}
        told |= ratios(turns, dict.fromkeys(able.keys() - failed.keys(), plan.batch_sizes[0]), to=AUGMENTED)
        yield {"model": model, "batch_size": plan.batch_sizes[0], "ways": told, "turns": turns, **cores}


def take_turns(
    workers: Mapping[str, Worker],
    rounds: int,
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
    typical: Callable[[Sequence[float]], float] = statistics.median,
) -> tuple[list[dict[str, float]], dict[str, float], dict[str, str]]:
    """Has every worker repeat its step for `seconds`, one after the other, the order turned round each time.

    Returns:
      For each round, what each side took for a step (`typical`, seconds); the most cores in any turn that were
      taken by those that wait, `waiting_cores`, and by processes that are none of ours, `foreign_cores`;
      and why a side has no figures.
    """
    turns, failed, most = [], {}, {"waiting_cores": 0.0, "foreign_cores": 0.0}
    for number in range(rounds):
        turn = {}
        for side in [side for side in workers if side not in failed][:: -1 if number % 2 else 1]:
            before, started_at = _spent(workers, side), clock()
            try:
                turn[side] = typical(workers[side].measure(seconds)["steps"])
            except Unmeasured as reason:  # it has been killed, say
                failed[side] = str(reason)
                continue
            took = clock() - started_at
            for name, spent in _spent(workers, side).items():
                most[name] = max(most[name], (spent - before[name]) / took)
        turns.append(turn)
    whole = [{side: seconds for side, seconds in turn.items() if side not in failed} for turn in turns]
    return whole, most, failed


def _spent(workers: Mapping[str, Worker], active: str) -> dict[str, float]:
    """Processor seconds so far of the waiting workers, and of all that is no worker."""
    each = {side: processor_seconds(worker.pid) for side, worker in workers.items()}
    waiting = sum(spent for side, spent in each.items() if side != active)
    return {"waiting_cores": waiting, "foreign_cores": busy_seconds() - sum(each.values())}


def ratios(
    turns: Sequence[Mapping[str, float]], batches: Mapping[str, int], to: str = OURS
) -> dict[str, dict[str, float]]:
    """How many times as long as the side `to` each other takes for an image: the median over turns, least and most."""
    found = {}
    for side in batches if to in batches else ():
        if side != to:
            each = [(turn[side] / batches[side]) / (turn[to] / batches[to]) for turn in turns]
            found[side] = {"median": statistics.median(each), "min": min(each), "max": max(each)}
    return found
