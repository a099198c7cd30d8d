"""The processes that measure, seen from the one that tells them when."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from pneumojax.benchmark.task import Task
from pneumojax.benchmark.worker import LEAST
from pneumojax.errors import one_line

SIMULATED = "--xla_force_host_platform_device_count"


class Unmeasured(Exception):
    """There is no figure, and this is why."""


class Worker:
    """A running `pneumojax.benchmark.worker`."""

    def __init__(self, process: subprocess.Popen, complaints):
        self._process = process
        self._complaints = complaints

    @property
    def pid(self) -> int:
        return self._process.pid

    def prepare(self, task: Task, config: Mapping, trial: float) -> dict:
        """Has the task's step built; returns the answer's `way`, `tried` and `facts`."""
        return self._ask({"prepare": task._asdict(), "config": config, "trial": trial})

    def measure(self, seconds: float, least: int = LEAST) -> dict:
        """Has the step repeated, `least` times or more; returns the answer's `steps` (seconds each), `peak_bytes`."""
        return self._ask({"measure": seconds, "least": least})

    def _ask(self, request: dict) -> dict:
        try:
            print(json.dumps(request), file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise Unmeasured(self._last_words())
        answer = json.loads(line)
        if "error" in answer:
            raise Unmeasured(answer["error"])
        return answer

    def _last_words(self) -> str:
        status = self._process.wait()
        if status < 0:
            return f"the process was ended by signal {-status}"
        self._complaints.seek(0)
        lines = self._complaints.read().decode(errors="replace").strip().splitlines()
        return one_line(f"the process ended with status {status}: {lines[-1] if lines else 'it said nothing'}")


@contextmanager
def started(side: str, devices: int = 1, platform: str = "") -> Iterator[Worker]:
    """A worker for `side`, ended with the block.

    Args:
      side: one of SIDES.
      devices: how many a CPU is to be taken for; an accelerator's are what they are.
      platform: JAX's name of it. Where it is "cpu", no side sees a GPU; where it is not known, JAX chooses.
    """
    with tempfile.TemporaryFile() as complaints:
        process = subprocess.Popen(
            [sys.executable, "-m", "pneumojax.benchmark.worker", side],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=complaints, text=True,
            env=os.environ | _environment(side, devices, platform),
        )  # fmt: skip
        try:
            yield Worker(process, complaints)
        finally:
            process.kill()
            process.communicate()


def _environment(side: str, devices: int, platform: str) -> dict[str, str]:
    given = [flag for flag in os.environ.get("XLA_FLAGS", "").split() if not flag.startswith(SIMULATED)]
    needed = {
        "XLA_FLAGS": " ".join([*given, f"{SIMULATED}={devices}"]),
        "JAX_ENABLE_COMPILATION_CACHE": "false",  # the time to compile is measured
        # Several processes share an accelerator's memory.
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    if side.startswith("keras-"):
        needed["KERAS_BACKEND"] = side.removeprefix("keras-")
    if side == "pneumojax-xla":
        needed["PNEUMOJAX_KERNELS"] = "off"
    if platform == "cpu":
        needed |= {"CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"}
    return needed
