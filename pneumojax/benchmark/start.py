"""How long it takes from the command to the first step of training.

  python -m pneumojax.benchmark.start [--rounds=5]

Trains M1 on the phantoms by the real command line, each time in a fresh process and a new workdir, and stops it once
the bar on its terminal shows a rate, which it does after the first step. Prints a table of BENCHMARKS.md. The phantoms
are prepared beforehand.
"""

import os
import pty
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from absl import app, flags

from pneumojax import interrupt
from pneumojax.cache import COMPILED

flags.DEFINE_integer("rounds", 5, "Starts of either kind.")
FLAGS = flags.FLAGS

_RATE = re.compile(rb"[1-9]\d* images/s")


def first_step(scratch: Path, *arguments: str) -> float:
    """Seconds from the command, with further `arguments`, to the first step; `scratch` has the cache."""
    workdir = tempfile.mkdtemp(dir=scratch)
    command = ["--config=m1", f"--workdir={workdir}", f"--config.data.cache_dir={scratch / 'cache'}", *arguments]
    terminal, other = pty.openpty()
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "pneumojax.main", *command],
        stdin=other, stdout=other, stderr=other, start_new_session=True,
        env=_environment() | {"TERM": "xterm", "COLUMNS": "120"},
    )  # fmt: skip
    os.close(other)
    seconds, shown = None, b""
    while part := _read(terminal):  # to the end, or the process could not write and would not stop
        shown += part
        if seconds is None and _RATE.search(shown):
            seconds = time.perf_counter() - started
            process.send_signal(signal.SIGTERM)
    os.close(terminal)
    if process.wait() != interrupt.STOPPED or seconds is None:
        raise SystemExit(f"no step was seen: {shown.decode(errors='replace')}")
    return seconds


def _environment() -> dict[str, str]:
    """This process's, without what names another compilation cache."""
    return {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 1 << 16)
    except OSError:  # so Linux tells that nobody has the other end any more
        return b""


def _row(what: str, seconds: list[float]) -> str:
    told = f"{statistics.median(seconds):.1f} s ({min(seconds):.1f}-{max(seconds):.1f})"
    return f"| {what} | {len(os.sched_getaffinity(0))} | {len(seconds)} | {told} |"


def main(argv: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        prepare = ["--mode=prepare", "--data=phantom", f"--config.data.cache_dir={scratch / 'cache'}"]
        subprocess.run([sys.executable, "-m", "pneumojax.main", *prepare], check=True, stdout=subprocess.DEVNULL)
        cold = []
        for _ in range(FLAGS.rounds):
            shutil.rmtree(scratch / "cache" / COMPILED, ignore_errors=True)
            cold.append(first_step(scratch))
        warm = [first_step(scratch) for _ in range(FLAGS.rounds)]
        fed = [first_step(scratch, "--config.data.resident=never") for _ in range(FLAGS.rounds + 1)][1:]
    print("| start to first step | cores | starts | median (range) |\n|---|---|---|---|")
    print(_row("nothing compiled yet", cold))
    print(_row("compiled before", warm))
    print(_row("compiled before, fed by tf.data: TensorFlow's import included", fed))


if __name__ == "__main__":
    app.run(main)
