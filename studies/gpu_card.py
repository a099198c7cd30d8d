"""What the GPU and the software around it are: a step of gpu.py."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from importlib import metadata

from studies.gpu_given import Given, Row

PACKAGES = (
    "jax", "jaxlib", "jax-cuda13-plugin", "jax-cuda12-plugin", "nvidia-cudnn-cu13", "nvidia-cudnn-cu12", "torch",
    "triton", "tensorflow", "tensorflow-datasets",
)  # fmt: skip
ASKED = {
    "driver": "driver_version",
    "memory by nvidia-smi": "memory.total",
    "power limit": "power.limit",
    "highest clock": "clocks.max.sm",
}


def card(given: Given) -> Iterator[Row]:
    """Yield rows of `what` and `value`."""
    import jax

    device = jax.devices()[0]
    yield _row("platform", device.platform)
    yield _row("device", device.device_kind)
    yield _row("devices", jax.device_count())
    memory = device.memory_stats() or {}
    if "bytes_limit" in memory:
        yield _row("memory for JAX, GB", round(memory["bytes_limit"] / 1e9, 1))
    for what, value in _from_driver().items():
        yield _row(what, value)
    for package in PACKAGES:
        yield _row(package, _version(package))
    if flags := os.environ.get("XLA_FLAGS"):
        yield _row("XLA_FLAGS", flags)


def _row(what: str, value: str | float | None) -> Row:
    return {"what": what, "value": value}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _from_driver() -> dict[str, str]:
    """Return what nvidia-smi says of the first GPU; nothing where there is no such program, or it fails."""
    if not shutil.which("nvidia-smi"):
        return {}
    command = ["nvidia-smi", f"--query-gpu={','.join(ASKED.values())}", "--format=csv,noheader"]
    try:
        printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    first = [cell.strip() for cell in printed.partition("\n")[0].split(",")]
    return dict(zip(ASKED, first, strict=False))
