"""Start the processes that measure, and send them requests."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any

from pneumojax.benchmark.tasks import Side, Task
from pneumojax.benchmark.worker import LEAST
from pneumojax.runtime.errors import one_line

_SIMULATED = "--xla_force_host_platform_device_count"


class Unmeasured(Exception):
    """Nothing could be measured; the message says why."""


class Worker:
    """A running `pneumojax.benchmark.worker`, with its process id, `pid`."""

    def __init__(self, process: subprocess.Popen[str], errors: IO[bytes]):
        """Wrap a process that was started with pipes; `errors` holds its standard error."""
        assert process.stdin is not None and process.stdout is not None
        self.pid = process.pid
        self._process, self._errors = process, errors
        self._requests, self._answers = process.stdin, process.stdout

    def prepare(self, task: Task, config: Mapping[str, Any], trial: float) -> dict[str, Any]:
        """Build the task's step. Return the answer's `way`, `tried` and `facts`: see worker.py."""
        return self._ask({"prepare": task._asdict(), "config": config, "trial": trial})

    def measure(self, seconds: float, least: int = LEAST) -> dict[str, Any]:
        """Repeat the step, `least` times or more. Return the answer's `steps` (seconds each) and `peak_bytes`."""
        return self._ask({"measure": seconds, "least": least})

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        try:
            print(json.dumps(request), file=self._requests, flush=True)
            line = self._answers.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise Unmeasured(self._exit_reason())
        answer = json.loads(line)
        if "error" in answer:
            raise Unmeasured(answer["error"])
        return answer

    def _exit_reason(self) -> str:
        status = self._process.wait()
        if status < 0:
            return f"the process was killed by signal {-status}"
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return one_line(f"the process exited with status {status}: {lines[-1] if lines else 'it printed no error'}")


@contextmanager
def started(side: Side, devices: int = 1, platform: str = "") -> Iterator[Worker]:
    """Start a worker for `side`, and kill it when the block ends.

    A CPU simulates `devices`; accelerators do not. `platform` is JAX's name of what computes: "cpu" hides GPUs from
    every library; if it is empty, JAX chooses.
    """
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "pneumojax.benchmark.worker", side.module, side.variant],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
            env=os.environ | _environment(devices, platform) | dict(side.environment),
        )  # fmt: skip
        try:
            yield Worker(process, errors)
        finally:
            process.kill()
            process.communicate()


def _environment(devices: int, platform: str) -> dict[str, str]:
    flags = [flag for flag in os.environ.get("XLA_FLAGS", "").split() if not flag.startswith(_SIMULATED)]
    environment = {
        "XLA_FLAGS": " ".join([*flags, f"{_SIMULATED}={devices}"]),
        "JAX_ENABLE_COMPILATION_CACHE": "false",  # compilation is measured
        # Several processes share an accelerator's memory.
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    if platform == "cpu":
        environment |= {"CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"}
    return environment
