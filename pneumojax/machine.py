"""What something ran on."""

import os
import platform
from importlib import metadata
from pathlib import Path

from pneumojax.data.workers import cores

# Linux's name -> the name to tell, the widest first: unlike machines share a CPU's name.
INSTRUCTIONS = {
    "avx512_bf16": "AVX-512 and bfloat16",
    "avx512f": "AVX-512",
    "avx2": "AVX2",
    "avx": "AVX",
    "sve": "SVE",
    "asimd": "NEON",
}
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "tensorflow-cpu", "tensorflow", "keras", "torch")


def describe() -> dict:
    """CPU and its vector instructions, cores that this process may use, memory (bytes), system, installed versions."""
    return {
        "cpu": _cpu(),
        "instructions": next((name for flag, name in INSTRUCTIONS.items() if flag in flags().split()), ""),
        "cores": cores(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": platform.system(),
        "versions": {"python": platform.python_version()} | _versions(),
    }


def _cpu() -> str:
    return _told_of_cpu("model name") or platform.processor() or platform.machine()


def flags() -> str:
    """Of the first CPU, what it can do, in Linux's words; empty where it is not told."""
    return _told_of_cpu("flags") or _told_of_cpu("Features")


def _told_of_cpu(field: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(field)), "")


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def busy_seconds() -> float:
    """Processor time that the whole machine has spent, what a hypervisor took away included; 0 where it is not told."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return 0.0
    user, nice, system, _idle, _waiting, *interrupts_and_stolen = map(int, stat.read_text().split()[1:9])
    return (user + nice + system + sum(interrupts_and_stolen)) / os.sysconf("SC_CLK_TCK")


def processor_seconds(pid: int) -> float:
    """Processor time that a process has spent; 0 where it is not told."""
    stat = Path(f"/proc/{pid}/stat")
    if not stat.exists():
        return 0.0
    return sum(map(int, stat.read_text().rpartition(")")[2].split()[11:13])) / os.sysconf("SC_CLK_TCK")
