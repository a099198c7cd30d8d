"""Ours beside peers: every side in its own process, all alive, taking turns."""

import os
import statistics
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from pneumojax.benchmark.processes import Unmeasured, Worker, started
from pneumojax.benchmark.task import OURS, Task


def take_turns(workers: Mapping[str, Worker], rounds: int, seconds: float) -> tuple[list[dict], float]:
    """Has every worker repeat its step for `seconds`, one after the other, the order turned round each time.

    Returns:
      For each round, what each side took for a step (median, seconds); and the largest share of a core that the
      waiting sides took in any turn.
    """
    turns, busiest = [], 0.0
    for number in range(rounds):
        turn = {}
        for side in list(workers)[:: -1 if number % 2 else 1]:
            before = _processor_time(workers, but=side)
            steps = workers[side].measure(seconds)["steps"]
            busiest = max(busiest, (_processor_time(workers, but=side) - before) / sum(steps))
            turn[side] = statistics.median(steps)
        turns.append(turn)
    return turns, busiest


def _processor_time(workers: Mapping[str, Worker], but: str) -> float:
    """Seconds of processor time that all workers but one have taken; 0 where the system does not tell."""
    stats = [Path(f"/proc/{worker.pid}/stat") for side, worker in workers.items() if side != but]
    ticks = sum(sum(map(int, stat.read_text().rpartition(")")[2].split()[11:13])) for stat in stats if stat.exists())
    return ticks / os.sysconf("SC_CLK_TCK")


def ratios(turns: Sequence[Mapping[str, float]], batches: Mapping[str, int]) -> dict[str, dict[str, float]]:
    """How many times as long as ours each peer takes for an image: the median over turns, the least and the most."""
    found = {}
    for side in turns[0]:
        if side != OURS:
            each = [(turn[side] / batches[side]) / (turn[OURS] / batches[OURS]) for turn in turns]
            found[side] = {"median": statistics.median(each), "min": min(each), "max": max(each)}
    return found


def compare(
    sides: Sequence[str],
    models: Sequence[str],
    modes: Sequence[str],
    precisions: Sequence[str],
    batches: Sequence[int],
    image_size: int,
    config: Mapping,
    rounds: int,
    seconds: float,
    tell=lambda row: None,
) -> list[dict]:
    """Rows of comparisons: at the first of `batches`, then each side at that of them at which it is fastest.

    A row has model, mode, precision, `at` ("batch 32" or "own best"), `sides` (way, batch and images a second, or the
    reason why there is none), `turns` (seconds a step), `ratios`, and `waiting_cores`, what the waiting sides took.
    """
    rows = []
    with ExitStack() as stack:
        workers = {side: stack.enter_context(started(side)) for side in sides}
        for model in models:
            for mode in modes:
                for precision in precisions:

                    def task(batch, model=model, mode=mode, precision=precision):
                        return Task(model, mode, batch, image_size, precision, 1)

                    for row in _rows(workers, task, batches, config, rounds, seconds):
                        rows.append(row)
                        tell(row)
    return rows


def _rows(workers, task, batches, config, rounds, seconds):
    """At the first batch size; and, where there are more, at each side's best, if that is another for any."""
    first = dict.fromkeys(workers, batches[0])
    row = _row(workers, task, first, config, rounds, seconds)
    yield row | {"at": f"batch {batches[0]}"}
    rates = {side: {batches[0]: told["images_per_s"]} for side, told in row["sides"].items() if "way" in told}
    for batch in batches[1:]:
        for side, found in rates.items():
            try:
                workers[side].prepare(task(batch), config, seconds)
                found[batch] = batch / statistics.median(workers[side].measure(seconds)["steps"])
            except Unmeasured:  # such as a batch that does not fit the memory
                continue
    best = {side: max(found, key=found.get) for side, found in rates.items()}
    if set(best.values()) != {batches[0]}:
        able = {side: workers[side] for side in best}
        yield _row(able, task, best, config, rounds, seconds) | {"at": "own best"}


def _row(workers, task, batches, config, rounds, seconds):
    told, able = {}, {}
    for side, worker in workers.items():
        try:
            answer = worker.prepare(task(batches[side]), config, seconds)
        except Unmeasured as reason:
            told[side] = {"reason": str(reason)}
            continue
        told[side] = {"way": answer["way"], "tried": answer["tried"], "batch_size": batches[side]}
        able[side] = worker
    turns, busiest = take_turns(able, rounds, seconds)
    for side in able:
        told[side]["images_per_s"] = statistics.median(batches[side] / turn[side] for turn in turns)
    shown = task(0)
    return {
        "model": shown.model,
        "mode": shown.mode,
        "precision": shown.precision,
        "image_size": shown.image_size,
        "sides": told,
        "turns": turns,
        "ratios": ratios(turns, batches) if OURS in able else {},
        "waiting_cores": busiest,
    }
