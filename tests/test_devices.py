"""Devices and what XLA is asked for."""

import subprocess
import sys

from pneumojax import devices

PROGRAM = """
import os
import jax
from pneumojax import devices
devices.compute_equal_bits()
assert int(jax.jit(lambda x: x + 1)(1)) == 2
assert jax.config.jax_persistent_cache_enable_xla_caches == "none"  # what a run before chose is not found
print(os.environ["XLA_FLAGS"])
"""


def test_xla_knows_what_equal_bits_are_asked_for_by():
    """It ends a process that asks for what it does not know; what the user asks for stays."""
    environment = {"XLA_FLAGS": "--xla_cpu_enable_fast_math=false"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [
        "--xla_cpu_enable_fast_math=false",
        "--xla_gpu_deterministic_ops=true",
    ]


def test_all_devices_are_told_of():
    assert devices.told() == "8 of cpu"
