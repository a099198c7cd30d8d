"""No file below 100 MB takes more than 500 MB of memory or 10 s of computing, and the largest honest ones are read.

The files are read in another process, whose memory is measured for each.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from bombs import bombs, honest
from test_fuzz import megabytes

from pneumojax.data.decode.quiet import quiet_decoders
from pneumojax.data.sources.unlabelled import look_at_file

ROOT = Path(__file__).parents[2]
MAX_MB = 500
MAX_SECONDS = 20  # twice what is promised, since other tests share the cores

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="measures memory as Linux does")


def measured(folder, files):
    """Return {name: (why it cannot be read, seconds of computing, MB of memory)}."""
    for name, content in files:
        (folder / name).write_bytes(content)
    (folder / "made.dcm").unlink()
    done = subprocess.run(
        [sys.executable, __file__, folder],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests")))},
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return {name: results for name, *results in map(json.loads, done.stdout.splitlines())}


def over(results):
    return {name: result for name, result in results.items() if result[1] > MAX_SECONDS or result[2] > MAX_MB}


def test_bombs_take_little_memory_and_time(tmp_path):
    results = measured(tmp_path, bombs(tmp_path))
    assert len(results) > 35 and not over(results)
    # Metadata costs nothing: no decoder sees it.
    assert not any(results[name][0] for name in ("tables.png", "profiles.png", "tables.jpg", "padding.jpg"))


def test_large_honest_files_are_read(tmp_path):
    results = measured(tmp_path, honest(tmp_path))
    assert not {name: result for name, result in results.items() if result[0]} and not over(results)


if __name__ == "__main__":
    quiet_decoders()
    import imagecodecs  # noqa: F401  # so that the first file does not pay for it

    from pneumojax.data.decode import dicom  # noqa: F401

    for path in sorted(Path(sys.argv[1]).iterdir()):
        Path("/proc/self/clear_refs").write_text("5")  # restarts the peak
        taken, started = megabytes("VmRSS"), time.process_time()
        seen = look_at_file(str(path), 150)
        print(json.dumps([path.name, seen.problem, time.process_time() - started, megabytes("VmHWM") - taken]))
