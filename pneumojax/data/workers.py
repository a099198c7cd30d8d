"""Applies a function to many images, on every core, in their order, with few of them in memory at a time."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import chain, islice
from typing import TypeVar

from pneumojax.data.unreadable import UnreadableImage

Item = TypeVar("Item")
Result = TypeVar("Result")
Watched = Callable[[Iterable, int], Iterable]  # (results, how many there will be) -> the same, told of on the way

CRASHES = "it crashes its decoder, or needs more memory than there is"  # and is not decoded where that would cost more
_CHUNK = 64  # items that a worker is handed at a time
_WORTH_PROCESSES = 1000  # items; starting a process costs as much as decoding several hundred images


def unwatched(results: Iterable, total: int) -> Iterable:
    """The results, told of to nobody."""
    return results


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_parallel(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int = 0
) -> Iterator[Result | UnreadableImage]:
    """function(item) of each item, in order.

    Many items go to processes of their own, fewer to threads of this one. A process that dies, killed by what a
    decoder does on broken data, costs nothing but the item that it died of, whose result is an UnreadableImage.

    Args:
      function: to be sent to another process, and so a function of a module, or a partial of one.
      items: what it is applied to; taken as they are needed.
      workers: processes; 0 for one for each core.

    Raises:
      whatever `function` raises.
    """
    items = iter(items)
    first = list(islice(items, _WORTH_PROCESSES))
    items = chain(first, items)
    chunks = iter(lambda: list(islice(items, _CHUNK)), [])
    if workers or len(first) == _WORTH_PROCESSES:
        yield from _by_processes(partial(_each, function), chunks, workers or cores())
    else:
        with ThreadPoolExecutor(cores()) as pool:
            for chunk in chunks:
                yield from pool.map(function, chunk)


def _each(function, chunk):
    return [function(item) for item in chunk]


def _by_processes(function, chunks, workers):
    pending = deque()
    pool = _start(workers)
    try:
        while True:
            while len(pending) < 2 * workers + 1 and (chunk := next(chunks, None)) is not None:
                pending.append((chunk, _submit(pool, function, chunk)))
            if not pending:
                return
            chunk, waiting = pending.popleft()
            try:
                results = waiting.result()
            except BrokenProcessPool:
                pool.shutdown(cancel_futures=True)
                results = _one_by_one(function, chunk)
                pool = _start(workers)
                pending = deque((chunk, _submit(pool, function, chunk)) for chunk, _ in pending)
            yield from results
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _submit(pool, function, chunk) -> Future:
    """The chunk's future; where the pool broke while results were being used, one that tells so."""
    try:
        return pool.submit(function, chunk)
    except BrokenProcessPool as error:
        broken = Future()
        broken.set_exception(error)
        return broken


def _one_by_one(function, chunk):
    """The results of a chunk in which something kills the process that works on it."""
    results = []
    pool = _start(1)
    for item in chunk:
        try:
            results += pool.submit(function, [item]).result()
        except BrokenProcessPool:
            results.append(UnreadableImage(CRASHES))
            pool = _start(1)
    pool.shutdown()
    return results


def _start(workers):
    # Not fork: JAX and TensorFlow have threads, and whose locks they hold is then anyone's guess.
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"), initializer=_begin)


def _begin():
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent alone answers
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent():
    """A killed parent leaves no orphans."""
    multiprocessing.parent_process().join()
    os._exit(1)
