"""The machine that this process runs on."""

import os
import platform
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

# Linux's name of a CPU feature -> the name shown, the widest first: unlike machines share a CPU's name.
INSTRUCTIONS = {
    "avx512_bf16": "AVX-512 and bfloat16",
    "avx512f": "AVX-512",
    "avx2": "AVX2",
    "avx": "AVX",
    "sve": "SVE",
    "asimd": "NEON",
}
PACKAGES = (
    "jax", "jaxlib", "flax", "optax", "numpy", "tensorflow-cpu", "tensorflow", "keras", "torch", "onnxruntime",
    "openvino",
)  # fmt: skip


def describe() -> dict[str, Any]:
    """Return CPU and vector instructions, usable cores, memory (bytes), system, installed versions."""
    return {
        "cpu": _cpu_field("model name") or platform.processor() or platform.machine(),
        "instructions": next((name for flag, name in INSTRUCTIONS.items() if flag in cpu_flags().split()), ""),
        "cores": cores(),
        "memory_bytes": psutil.virtual_memory().total,
        "system": platform.system(),
        "versions": {"python": platform.python_version()} | _versions(),
    }


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def busy_cores(seconds: float = 1.0) -> float:
    """Measure for some seconds how many cores of the machine are at work, while this process waits."""
    return psutil.cpu_percent(seconds) / 100 * (psutil.cpu_count() or 1)


def cpu_flags() -> str:
    """Return the features of the first CPU, in Linux's words; empty where Linux does not list them."""
    return _cpu_field("flags") or _cpu_field("Features")


def _cpu_field(field: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(field)), "")


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def busy_seconds() -> float:
    """Return the processor time that the whole machine has spent, including what a hypervisor took away."""
    times = psutil.cpu_times()._asdict()
    # Linux counts guests' time in the users' time too.
    return sum(spent for name, spent in times.items() if name not in ("idle", "iowait", "guest", "guest_nice"))


def processor_seconds(pid: int) -> float:
    """Return the processor time that a process has spent; 0 where it has ended."""
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return times.user + times.system
