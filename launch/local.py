#!/usr/bin/env python3
"""Starts a job of several processes on this machine, each with its share of the cores, and one GPU where there are any.

  python launch/local.py NUMBER --config=m1 ...      what follows the number goes to each `python -m pneumojax.main`

A signal to stop goes to all of them. When one has failed, the others get `GRACE_S` to end by themselves. The exit
status is that of the process that failed first: 75 where they were stopped, and the same command goes on.
"""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

LOST = 76  # the status of a process that ended since another one had
GRACE_S = 120


def main(arguments: list[str]) -> int:
    if not arguments or not arguments[0].isdecimal() or int(arguments[0]) < 1:
        print(f"usage: {sys.argv[0]} NUMBER --config=m1 ...", file=sys.stderr)
        return 2
    jobs, sent = [], []

    def pass_on(number, frame):
        sent.append(signal.SIGTERM if number == signal.SIGHUP else number)  # a terminal was closed
        send(jobs, sent[-1])

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, pass_on)
    for job in start(int(arguments[0]), arguments[1:]):
        jobs.append(job)
        send([job], *sent)
    return status_of(watch(jobs))


def start(count: int, arguments: list[str]) -> Iterator[subprocess.Popen]:
    """The processes, in sessions of their own: else a terminal's Ctrl-C would reach them twice."""
    job = [f"--coordinator=127.0.0.1:{free_port()}", f"--processes={count}"]
    command = [sys.executable, "-m", "pneumojax.main", *arguments, *job]
    for index in range(count):
        with_cores(index, count)
        environment = os.environ | {"JAX_LOCAL_DEVICE_IDS": str(index)}
        yield subprocess.Popen(
            [*command, f"--process={index}"], env=environment, start_new_session=True, preexec_fn=end_with_parent
        )


def end_with_parent() -> None:
    """Where this program is killed, Linux has the process that is being started stopped too, as by SIGTERM."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


_CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def with_cores(index: int, count: int) -> None:
    """Gives what is started next its share of the cores; where there are too few, all of them."""
    if _CORES:
        os.sched_setaffinity(0, _CORES[index::count] if len(_CORES) >= count else _CORES)


def send(jobs: list[subprocess.Popen], *numbers: int) -> None:
    for job in jobs:
        for number in numbers:
            if job.poll() is None:
                job.send_signal(number)


def watch(jobs: list[subprocess.Popen]) -> list[int]:
    """The statuses of all, in the order in which they ended."""
    ended, limit = {}, None
    while len(ended) < len(jobs):
        for job in jobs:
            if job.pid not in ended and job.poll() is not None:
                ended[job.pid] = job.returncode
        if limit is None and any(ended.values()):
            limit = time.monotonic() + GRACE_S
        if limit is not None and time.monotonic() > limit:
            send(jobs, signal.SIGKILL)
        time.sleep(0.05)
    return list(ended.values())


def status_of(statuses: list[int]) -> int:
    """The first that tells of a cause; 128 and the signal's number of one that was killed."""
    failed = [status for status in statuses if status]
    causes = [status for status in failed if status != LOST] or failed or [0]
    return 128 - causes[0] if causes[0] < 0 else causes[0]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
