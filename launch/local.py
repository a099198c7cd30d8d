#!/usr/bin/env python3
"""Start a job of several processes on this machine. Each gets its share of the cores and, if there are any, one GPU.

  python launch/local.py NUMBER --config=m1 ...      passes what follows NUMBER to each `python -m pneumojax.main`

SIGINT, SIGTERM and SIGHUP stop all processes. When one fails, the others have `GRACE_S` to exit. The exit status is
that of the process that failed first; if it is 75, the same command continues the run.
"""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from types import FrameType

LOST = 76  # `pneumojax.runtime.errors.ExitStatus.LOST_PROCESS`; this file runs where the package is not installed, too
GRACE_S = 120


def main(arguments: Sequence[str]) -> int:
    """Run the job of the command line, and return its exit status."""
    if not arguments or not arguments[0].isdecimal() or int(arguments[0]) < 1:
        print(f"usage: {sys.argv[0]} NUMBER --config=m1 ...", file=sys.stderr)
        return 2
    jobs: list[subprocess.Popen[bytes]] = []
    signals: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        # SIGHUP comes when the terminal closes; pneumojax handles SIGTERM.
        signals.append(signal.SIGTERM if number == signal.SIGHUP else number)
        send(jobs, signals[-1])

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, pass_on)
    for job in start(int(arguments[0]), arguments[1:]):
        jobs.append(job)
        send([job], *signals)
    return exit_status(watch(jobs))


def start(count: int, arguments: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    """Start `count` processes, each in its own session: otherwise Ctrl-C would reach them twice."""
    job = [f"--coordinator=127.0.0.1:{free_port()}", f"--processes={count}"]
    command = [sys.executable, "-m", "pneumojax.main", *arguments, *job]
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    for index in range(count):
        if len(cores) >= count:
            os.sched_setaffinity(0, cores[index::count])  # inherited by the process that starts next
        environment = os.environ | {"JAX_LOCAL_DEVICE_IDS": str(index)}
        yield subprocess.Popen(
            [*command, f"--process={index}"], env=environment, start_new_session=True, preexec_fn=stop_with_parent
        )


def stop_with_parent() -> None:
    """Ask Linux to send this process SIGTERM when its parent is killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def send(jobs: Sequence[subprocess.Popen[bytes]], *numbers: int) -> None:
    """Send the signals to the processes that still run."""
    for job in jobs:
        for number in numbers:
            if job.poll() is None:
                job.send_signal(number)


def watch(jobs: Sequence[subprocess.Popen[bytes]]) -> list[int]:
    """Wait for all processes, and return their exit statuses in the order in which they ended."""
    ended: dict[int, int] = {}
    limit = None
    while len(ended) < len(jobs):
        for job in jobs:
            if job.pid not in ended and (status := job.poll()) is not None:
                ended[job.pid] = status
        if limit is None and any(ended.values()):
            limit = time.monotonic() + GRACE_S
        if limit is not None and time.monotonic() > limit:
            send(jobs, signal.SIGKILL)
        time.sleep(0.05)
    return list(ended.values())


def exit_status(statuses: Sequence[int]) -> int:
    """Return the first status that has a cause of its own; 128 plus the signal for a process that was killed."""
    failed = [status for status in statuses if status]
    causes = [status for status in failed if status != LOST] or failed or [0]
    return 128 - causes[0] if causes[0] < 0 else causes[0]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
