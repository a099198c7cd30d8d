"""A process that measures steps on request and sleeps otherwise, so that workers can take turns.

  python -m pneumojax.benchmark.worker MODULE VARIANT

MODULE is the dotted name of a module with a function `ways(variant)`. It returns a function that maps a task and a
config to the ways to compute the task's step.

Each request is one line of JSON on standard input. Each answer is one line of JSON on standard output:

  {"prepare": TASK, "config": CONFIG, "trial": S}   tries each way for S seconds and keeps the fastest
      -> {"way": ..., "tried": {way: seconds per step, or why it failed}, "facts": {...}}
  {"measure": S, "least": N}                        repeats the step for S seconds, at least N times
      -> {"steps": [seconds, ...], "peak_bytes": ...}

A request that fails is answered by {"error": one line}. Whatever libraries print goes to standard error.
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

from pneumojax.benchmark.tasks import Task
from pneumojax.runtime import allocator
from pneumojax.runtime.errors import UserError, one_line

WARM_UP = 2  # untimed calls before a way is timed
LEAST = 3  # timed calls, at least, for each measurement


def peak_bytes() -> int:
    """Return the most memory that this process has held.

    On Linux this is VmHWM, since `ru_maxrss` of a child starts from the memory of its parent.
    """
    status = Path("/proc/self/status")
    if status.exists():
        return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # in bytes on macOS


class ReadyStep(NamedTuple):
    """A step that is built and can be timed.

    Attributes:
      run: takes `steps` steps. Returns once their results are computed; if calls overlap, once the results of the call
        before are.
      facts: included in the answer: the `platform` that computes, and whatever else the table shows.
      steps: steps per call.
      settle: waits until the last call has finished; None if `run` waits itself.
      peak_bytes: returns the most memory used so far.
    """

    run: Callable[[], object]
    facts: Mapping[str, Any]
    steps: int = 1
    settle: Callable[[], object] | None = None
    peak_bytes: Callable[[], int] = peak_bytes


Ways = Mapping[str, Callable[[], ReadyStep]]  # name of a way -> builds its step


def serve(ways: Callable[[Task, ConfigDict], Ways], requests: Iterable[str], answers: TextIO) -> None:
    """Answer requests until there are no more."""
    ready: ReadyStep | None = None
    for line in requests:
        request = json.loads(line)
        try:
            if "prepare" in request:
                ready = None  # free its memory before the next step takes some
                task, config = Task(**request["prepare"]), ConfigDict(request["config"])
                ready, answer = prepare(ways(task, config), request["trial"])
            elif ready is None:
                raise RuntimeError("no step is ready: send a prepare request first")
            else:
                steps = repeat(ready, request["measure"], request["least"])
                answer = {"steps": steps, "peak_bytes": ready.peak_bytes()}
        except Exception as error:  # a library that cannot do this task may be able to do the next
            answer = {"error": _reason(error)}
        print(json.dumps(answer), file=answers, flush=True)


def prepare(ways: Ways, trial: float) -> tuple[ReadyStep, dict[str, Any]]:
    """Build the fastest way, warmed up, and the answer that describes it. A single way is not timed."""
    tried: dict[str, float | str] = {}
    if len(ways) == 1:
        [(name, build)] = ways.items()
        ready = _built(build)
    else:
        name, ready = _fastest(ways, trial, tried)
    return ready, {"way": name, "tried": tried, "facts": ready.facts}


def _fastest(ways: Ways, trial: float, tried: dict[str, float | str]) -> tuple[str, ReadyStep]:
    """Time each way for `trial` seconds, and note in `tried` the seconds per step or why the way failed."""
    fastest, least = None, float("inf")
    for name, build in ways.items():
        try:
            ready = _built(build)
            seconds = statistics.median(repeat(ready, trial, LEAST))
        except Exception as error:  # not every library can compile every step
            tried[name] = _reason(error)
        else:
            tried[name] = seconds
            if seconds < least:
                fastest, least = (name, ready), seconds
        ready = None  # frees the memory of a slower step
        gc.collect()
    if fastest is None:
        raise RuntimeError("; ".join(f"{name}: {reason}" for name, reason in tried.items()))
    return fastest


def _built(build: Callable[[], ReadyStep]) -> ReadyStep:
    ready = build()
    for _ in range(WARM_UP):
        ready.run()
    if ready.settle:
        ready.settle()
    return ready


def _reason(error: Exception) -> str:
    if isinstance(error, UserError):
        return str(error)
    return one_line(f"{type(error).__name__}: {error}".splitlines()[0])


def repeat(ready: ReadyStep, seconds: float, least: int) -> list[float]:
    """Return the seconds per step of each call, over about `seconds` and at least `least` calls.

    The first step is not counted, since other processes have filled the caches. The last call has finished when this
    returns; otherwise it would run on in the next worker's turn.
    """
    ready.run()
    if ready.settle:
        ready.run()  # waits for the first step
    times = []
    end = time.perf_counter() + seconds
    while len(times) < least or time.perf_counter() < end:
        started = time.perf_counter()
        ready.run()
        times.append((time.perf_counter() - started) / ready.steps)
    if ready.settle:
        ready.settle()
    return times


def main() -> None:
    """Serve the ways of the module and variant that the command line names."""
    allocator.keep_freed()  # for every side: PyTorch gains by it too
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    module, variant = sys.argv[1:]
    serve(importlib.import_module(module).ways(variant), sys.stdin, answers)


if __name__ == "__main__":
    main()
