"""The machine that a process runs on."""

import os
import subprocess
import sys

import jax
import pytest
from support import ROOT

from pneumojax.runtime import host


def test_the_description_is_complete():
    machine = host.describe()
    assert set(machine) == {"cpu", "instructions", "cores", "memory_bytes", "system", "versions"}
    assert machine["cpu"]
    assert machine["instructions"] in {"", *host.INSTRUCTIONS.values()}
    assert machine["memory_bytes"] > 2**28
    assert machine["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert machine["versions"]["jax"] == jax.__version__
    assert set(machine["versions"]) <= {"python", *host.PACKAGES}


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system cannot bind a process to a core")
def test_only_usable_cores_are_counted():
    """A container or a scheduler may bind a process to a few cores of many."""
    program = (
        "import os; from pneumojax.runtime import host\n"
        "os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]); print(host.cores())"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"


def test_the_processor_time_of_a_process_grows_while_it_computes():
    before, busy_before = host.processor_seconds(os.getpid()), host.busy_seconds()
    while host.processor_seconds(os.getpid()) < before + 0.1:
        sum(range(100_000))
    assert host.busy_seconds() > busy_before


def test_a_process_that_has_ended_has_spent_no_time():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert host.processor_seconds(process.pid) == 0
