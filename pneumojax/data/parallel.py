"""Apply a function to many images on all cores, in order, with few of them in memory at a time."""

import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import chain, islice
from typing import Any, TypeVar

from pneumojax.data.decode.quiet import quiet_decoders
from pneumojax.data.decode.unreadable import UnreadableImage
from pneumojax.runtime.host import cores

Item = TypeVar("Item")
Result = TypeVar("Result")
OfChunk = Callable[[list[Item]], list[Result]]
Watched = Callable[[Iterable[Any], int], Iterable[Any]]  # (results, their number) -> the same, reported as they come

CRASHES = "it crashes its decoder, takes too long, or needs more memory than there is"
ITEM_SECONDS = 60  # of computing for one item in a worker; reading a file takes up to 10, the first of an NPZ file more
_CHUNK = 64  # items that a worker gets at a time
_WORTH_PROCESSES = 1000  # items; starting a process costs as much as decoding several hundred images


def unwatched(results: Iterable[Result], total: int) -> Iterable[Result]:
    """Return the results and report nothing."""
    return results


def in_parallel(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int = 0
) -> Iterator[Result | UnreadableImage]:
    """Yield function(item) for each item, in order.

    Items are taken as they are needed. Many go to worker processes, one per core, and fewer to threads of this process;
    with `workers`, all go to that many processes. The function is one of a module or a partial of one, because it is
    sent to them; its errors are raised here. If an item kills its worker, as broken data can do through a decoder, or
    takes more than `ITEM_SECONDS`, only this item is lost: its result is an UnreadableImage. It is tried twice, because
    the system may kill a worker too.
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


class Workers:
    """Processes that wait for items, where items come one at a time over hours: see `in_parallel`."""

    def __init__(self, count: int):
        """Start `count` processes when the first items come."""
        self._count = count
        self._pool = _start(count)

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result | UnreadableImage]:
        """Return function(item) for each item, as `in_parallel` does with `workers`."""
        each = partial(_each, function)
        pending = [(item, _submit(self._pool, each, [item])) for item in items]
        results: list[Result | UnreadableImage] = []
        for item, future in pending:
            try:
                results += future.result()
            except BrokenProcessPool:
                results += _one_by_one(each, [item])
                self._pool.shutdown(wait=False, cancel_futures=True)
                self._pool = _start(self._count)
        return results

    def close(self) -> None:
        """End the processes."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _each(function: Callable[[Item], Result], chunk: list[Item]) -> list[Result]:
    results = []
    for item in chunk:
        _limit_computing()
        results.append(function(item))
    return results


def _limit_computing() -> None:
    """Let the system end this worker if it computes for `ITEM_SECONDS` from now on; it knows whole seconds."""
    if sys.platform == "win32":
        return
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF)
    limit = int(used.ru_utime + used.ru_stime) + 1 + ITEM_SECONDS
    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    if most == resource.RLIM_INFINITY or limit < most:
        resource.setrlimit(resource.RLIMIT_CPU, (limit, most))


def _by_processes(
    function: OfChunk[Item, Result], chunks: Iterator[list[Item]], workers: int
) -> Iterator[Result | UnreadableImage]:
    pending: deque[tuple[list[Item], Future[list[Result]]]] = deque()
    pool = _start(workers)
    try:
        while True:
            while len(pending) < 2 * workers + 1 and (chunk := next(chunks, None)) is not None:
                pending.append((chunk, _submit(pool, function, chunk)))
            if not pending:
                return
            chunk, future = pending.popleft()
            results: Sequence[Result | UnreadableImage]
            try:
                results = future.result()
            except BrokenProcessPool:
                pool.shutdown(cancel_futures=True)
                results = _one_by_one(function, chunk)
                pool = _start(workers)
                pending = deque((chunk, _submit(pool, function, chunk)) for chunk, _ in pending)
            yield from results
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _submit(pool: ProcessPoolExecutor, function: OfChunk[Item, Result], chunk: list[Item]) -> Future[list[Result]]:
    """Submit a chunk; if the pool broke while results were used, return a future with that error."""
    try:
        return pool.submit(function, chunk)
    except BrokenProcessPool as error:
        broken: Future[list[Result]] = Future()
        broken.set_exception(error)
        return broken


def _one_by_one(function: OfChunk[Item, Result], chunk: list[Item]) -> list[Result | UnreadableImage]:
    """Return the results of a chunk in which some item kills its worker."""
    results: list[Result | UnreadableImage] = []
    pool = _start(1)
    for item in chunk:
        for last in (False, True):
            try:
                results += pool.submit(function, [item]).result()
                break
            except BrokenProcessPool:
                pool = _start(1)
                results += [UnreadableImage(CRASHES)] * last
    pool.shutdown()
    return results


def _start(workers: int) -> ProcessPoolExecutor:
    # Not fork: it would copy the locks of JAX's and TensorFlow's threads in whatever state they are.
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent alone reacts
    quiet_decoders()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this process when its parent ends, however it ends."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "only workers run this"
    parent.join()
    os._exit(1)
