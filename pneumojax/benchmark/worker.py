"""A process that measures when it is told to, and sleeps otherwise: what takes turns with it has the machine alone.

  python -m pneumojax.benchmark.worker SIDE

A request is a line of JSON on standard input, its answer a line on standard output:

  {"prepare": TASK, "config": CONFIG, "trial": S}   builds the task's step, by the way that is fastest in S seconds each
      -> {"way": ..., "tried": {way: seconds a step, or why not}, "facts": {...}}
  {"measure": S, "least": N}                        repeats the step for S seconds, at least N times
      -> {"steps": [seconds, ...], "peak_bytes": ...}

What fails is answered by {"error": one line}. What libraries print goes to standard error.
"""

import gc
import importlib
import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from ml_collections import ConfigDict

from pneumojax import allocator
from pneumojax.benchmark.task import SIDES, Task
from pneumojax.errors import UserError, one_line

WARM_UP = 2  # calls before a way is judged
LEAST = 3  # calls that it is judged by


def peak_bytes() -> int:
    """The most memory that this process has held.

    Linux counts a parent's memory in the `ru_maxrss` of a process that it starts; VmHWM begins anew.
    """
    status = Path("/proc/self/status")
    if status.exists():
        return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS, the only other one that is known


class Prepared(NamedTuple):
    """A step, ready to run.

    Attributes:
      run: takes `steps` steps, and returns when all that they compute is there; or, where a call begins what the next
        one waits for, when what the call before began is.
      facts: what the answer tells of it: the `platform` that it computes on, and more.
      steps: of a call.
      settle: waits for what the last call began; None where that has ended.
      peak_bytes: of memory.
    """

    run: Callable[[], Any]
    facts: Mapping[str, Any]
    steps: int = 1
    settle: Callable[[], Any] | None = None
    peak_bytes: Callable[[], int] = peak_bytes


Ways = Mapping[str, Callable[[], Prepared]]


def serve(ways: Callable[[Task, ConfigDict], Ways], requests: Iterable[str], answers: TextIO) -> None:
    """Answers requests until there are no more."""
    prepared = None
    for line in requests:
        request = json.loads(line)
        try:
            if "prepare" in request:
                prepared = None  # its memory is free before the next one's is taken
                task, config = Task(**request["prepare"]), ConfigDict(request["config"])
                prepared, answer = prepare(ways(task, config), request["trial"])
            else:
                steps = repeat(prepared, request["measure"], request["least"])
                answer = {"steps": steps, "peak_bytes": prepared.peak_bytes()}
        except Exception as error:  # of a library that cannot do this task; others it may do
            answer = {"error": _told(error)}
        print(json.dumps(answer), file=answers, flush=True)


def prepare(ways: Ways, trial: float) -> tuple[Prepared, dict]:
    """The fastest way, warm, and the answer that tells of it; a single one is not tried."""
    if len(ways) == 1:
        [(way, build)] = ways.items()
        built = build()
        _warm_up(built)
        return built, {"way": way, "tried": {}, "facts": built.facts}
    tried, fastest, best = {}, None, float("inf")
    for way, build in ways.items():
        try:
            built = build()
            _warm_up(built)
            tried[way] = statistics.median(repeat(built, trial, LEAST))
        except Exception as error:  # not every library can compile every step
            tried[way] = _told(error)
            continue
        if tried[way] < best:
            fastest, best = (way, built), tried[way]
        built = None
        gc.collect()
    if fastest is None:
        raise RuntimeError("; ".join(f"{way}: {reason}" for way, reason in tried.items()))
    way, built = fastest
    return built, {"way": way, "tried": tried, "facts": built.facts}


def _warm_up(built: Prepared) -> None:
    for _ in range(WARM_UP):
        built.run()
    if built.settle:
        built.settle()


def _told(error: Exception) -> str:
    if isinstance(error, UserError):
        return str(error)
    return one_line(f"{type(error).__name__}: {error}".splitlines()[0])


def repeat(prepared: Prepared, seconds: float, least: int) -> list[float]:
    """How long a step of each call took, in seconds, over about `seconds` and at least `least` calls.

    The first step is not counted: it finds caches that others have filled. What the last call began has ended when this
    returns, or it would go on in another side's turn.
    """
    prepared.run()
    if prepared.settle:
        prepared.run()  # which waits for the first step
    times = []
    ends = time.perf_counter() + seconds
    while len(times) < least or time.perf_counter() < ends:
        started = time.perf_counter()
        prepared.run()
        times.append((time.perf_counter() - started) / prepared.steps)
    if prepared.settle:
        prepared.settle()
    return times


def main() -> None:
    allocator.keep_freed()  # for every side, since PyTorch gains by it as ours does
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    module, name = SIDES[sys.argv[1]]
    found = importlib.import_module(f"pneumojax.benchmark.{module}")
    serve(found.ways(name), sys.stdin, answers)


if __name__ == "__main__":
    main()
