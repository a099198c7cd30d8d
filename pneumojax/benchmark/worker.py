"""A process that measures when it is told to, and sleeps otherwise: what takes turns with it has the machine alone.

  python -m pneumojax.benchmark.worker SIDE

A request is a line of JSON on standard input, its answer a line on standard output:

  {"prepare": TASK, "config": CONFIG, "trial": S}   builds the task's step, by the way that is fastest in S seconds each
      -> {"way": ..., "tried": {way: seconds a step, or why not}, "facts": {...}}
  {"measure": S}                                    repeats the step for S seconds, at least three times
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

LEAST_STEPS = 3


class Prepared(NamedTuple):
    """A step, ready to run: it returns when all that it computes is there."""

    step: Callable[[], None]
    facts: Mapping[str, Any]


Ways = Mapping[str, Callable[[], Prepared]]


def serve(ways: Callable[[Task, ConfigDict], Ways], requests: Iterable[str], answers: TextIO) -> None:
    """Answers requests until there are no more."""
    step = None
    for line in requests:
        request = json.loads(line)
        try:
            if "prepare" in request:
                step = None  # its memory is free before the next one's is taken
                task, config = Task(**request["prepare"]), ConfigDict(request["config"])
                step, answer = prepare(ways(task, config), request["trial"])
            else:
                answer = {"steps": repeat(step, request["measure"]), "peak_bytes": peak_bytes()}
        except Exception as error:  # of a library that cannot do this task; others it may do
            answer = {"error": _told(error)}
        print(json.dumps(answer), file=answers, flush=True)


def prepare(ways: Ways, trial: float) -> tuple[Callable[[], None], dict]:
    """The fastest way's step, and the answer that tells of it; a single way is not tried."""
    if len(ways) == 1:
        [(way, build)] = ways.items()
        built = build()
        built.step()
        return built.step, {"way": way, "tried": {}, "facts": built.facts}
    tried, fastest, best = {}, None, float("inf")
    for way, build in ways.items():
        try:
            built = build()
            for _ in range(2):
                built.step()
            tried[way] = statistics.median(repeat(built.step, trial))
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
    return built.step, {"way": way, "tried": tried, "facts": built.facts}


def _told(error: Exception) -> str:
    if isinstance(error, UserError):
        return str(error)
    return one_line(f"{type(error).__name__}: {error}".splitlines()[0])


def repeat(step: Callable[[], None], seconds: float) -> list[float]:
    """How long each step took, in seconds, over about `seconds` and at least LEAST_STEPS steps."""
    times = []
    ends = time.perf_counter() + seconds
    while len(times) < LEAST_STEPS or time.perf_counter() < ends:
        started = time.perf_counter()
        step()
        times.append(time.perf_counter() - started)
    return times


def peak_bytes() -> int:
    """The most memory that this process has held.

    Linux counts a parent's memory in the `ru_maxrss` of a process that it starts; VmHWM begins anew.
    """
    status = Path("/proc/self/status")
    if status.exists():
        return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS, the only other one that is known


def main() -> None:
    allocator.keep_freed()  # for every side, since PyTorch gains by it as ours does
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    module, name = SIDES[sys.argv[1]]
    found = importlib.import_module(f"pneumojax.benchmark.{module}")
    serve(found.ways(name), sys.stdin, answers)


if __name__ == "__main__":
    main()
