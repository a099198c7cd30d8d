"""Keeping what is freed: the system is not asked for it again."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FAULTS = """
import resource, sys
from pneumojax import allocator
if sys.argv[1] == "kept":
    allocator.keep_freed()
def take():
    return bytearray(64 << 20)
take()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    take()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="it is for glibc")
def test_freed_memory_is_not_fetched_anew():
    """5 times 64 MB: 4 KB a page without, next to none with."""

    def faults(way):
        return int(subprocess.run([sys.executable, "-c", FAULTS, way], cwd=ROOT, capture_output=True, text=True).stdout)

    assert faults("kept") < 100
    assert faults("freed") > 100 * max(1, faults("kept")) / 10
