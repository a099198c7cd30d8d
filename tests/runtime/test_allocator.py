"""Freed memory stays with the process: the system need not provide it again."""

import subprocess
import sys

import pytest
from support import ROOT

FAULTS = """
import resource, sys
from pneumojax.runtime import allocator
if sys.argv[1] == "keep":
    allocator.keep_freed()
def take():
    return bytearray(64 << 20)
take()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    take()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a setting of glibc")
def test_freed_memory_is_used_again():
    """Five blocks of 64 MB: without the setting, the system provides all their pages of 4 KB each time."""

    def faults(setting):
        done = subprocess.run([sys.executable, "-c", FAULTS, setting], cwd=ROOT, capture_output=True, text=True)
        return int(done.stdout)

    kept, default = faults("keep"), faults("default")
    assert kept < 100
    assert default > 10 * max(1, kept)
