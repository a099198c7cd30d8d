"""Measure how long it takes from the command to the first step of training.

  python -m studies.start [--rounds=5] [further arguments of the command]

Trains M1 on the phantoms by the real command line, each time in a fresh process and a new workdir, and stops it when
the bar on its terminal shows a rate, which it does after the first step. The phantoms are prepared beforehand.
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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pneumojax.runtime.cache import COMPILED
from pneumojax.runtime.errors import ExitStatus
from pneumojax.runtime.host import cores
from studies import study

_RATE = re.compile(rb"[1-9]\d* images/s")


def first_step(scratch: Path, *arguments: str) -> float:
    """Return the seconds from the command, with further `arguments`, to the first step; `scratch` has the cache."""
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
    while part := _read(terminal):  # to the end: a process that cannot write would not stop
        shown += part
        if seconds is None and _RATE.search(shown):
            seconds = time.perf_counter() - started
            process.send_signal(signal.SIGTERM)
    os.close(terminal)
    if process.wait() != ExitStatus.STOPPED or seconds is None:
        raise SystemExit(f"the command showed no step: {shown.decode(errors='replace')}")
    return seconds


def _environment() -> dict[str, str]:
    """This process's environment, without the variable that names another compilation cache."""
    return {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 1 << 16)
    except OSError:  # Linux's way to say that no process has the other end open
        return b""


def prepare(arguments: Sequence[str]) -> None:
    """Prepare the images, so that no start does."""
    command = [sys.executable, "-m", "pneumojax.main", "--config=m1", "--mode=prepare", *arguments]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def measure(scratch: Path, rounds: int, arguments: Sequence[str]) -> list[dict[str, Any]]:
    """Return the table's rows: starts with nothing compiled, with all compiled, and fed by tf.data."""
    prepare([*arguments, f"--config.data.cache_dir={scratch / 'cache'}"])
    cold = []
    for _ in range(rounds):
        shutil.rmtree(scratch / "cache" / COMPILED, ignore_errors=True)
        cold.append(first_step(scratch, *arguments))
    warm = [first_step(scratch, *arguments) for _ in range(rounds)]
    fed = [first_step(scratch, *arguments, "--config.data.resident=never") for _ in range(rounds + 1)][1:]
    return [
        _row("nothing compiled yet", cold),
        _row("compiled before", warm),
        _row("compiled before, fed by tf.data: TensorFlow's import included", fed),
    ]


def _row(what: str, seconds: Sequence[float]) -> dict[str, Any]:
    return {
        "what": what,
        "cores": cores(),
        "starts": len(seconds),
        "median": statistics.median(seconds),
        "min": min(seconds),
        "max": max(seconds),
    }


def main(argv: list[str]) -> None:
    parser = study.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="starts of each kind")
    given, further = parser.parse_known_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        figures = {"rows": measure(Path(folder), given.rounds, further or ["--data=phantom"])}
    study.finish("start", argv, figures, ["start"], given.output)


if __name__ == "__main__":
    study.run(main)
