"""Broken files of every kind that users have: each is read, or refused in one line, in little time and memory.

The cases run in another process, so that a decoder that crashes, hangs or floods the terminal fails one test, and the
file of the last case is kept. `make fuzz` runs many more cases, different ones each time.
"""

import faulthandler
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import time
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from broken_files import (
    CHEST,
    LONG,
    ODD_PNG,
    archives,
    arrays,
    bmps,
    dicom_headers,
    dicoms,
    jpegs,
    mutated,
    names,
    npz,
    pngs,
    sealed_dicom,
    sealed_png,
    tables,
    tiffs,
    webps,
)
from hypothesis import HealthCheck, given, settings
from support import encoded

from pneumojax.data.audit.findings import examine
from pneumojax.data.decode.quiet import quiet_decoders
from pneumojax.data.decode.unreadable import UnreadableImage
from pneumojax.data.sources import open_source
from pneumojax.runtime.errors import UserError

ROOT = Path(__file__).parents[2]
SHORT = 40
SECONDS = 5  # of a case; one that takes longer hangs
ROOM = 6 << 30  # bytes of addresses: pydicom asks for the 4 GiB that an element may declare
MAX_GROWTH = 500  # MB of memory
MAX_LINE = 600


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def put_image(name, root, content):
    put(root / "set" / "NORMAL" / name, content)
    return [root / "set"]


def put_npz(root, content):
    return [put(root / "case.npz", content)]


def put_table(root, content):
    for number in range(3):
        put(root / f"set/train/patient0000{number}/study1/view1_frontal.jpg", encoded(CHEST, "JPEG"))
        put(root / "set" / f"{'abc'[number]}.png", encoded(CHEST, "PNG"))
    put(root / "set" / "train.csv", content)
    return [root / "set"]


def put_names(root, case):
    shutil.rmtree(root / "set", ignore_errors=True)
    folder, name, content = case
    file = root / "set" / f"s{folder}" / "NORMAL" / name
    try:
        put(file, content)
        put(file.parents[1] / name, content)
    except (OSError, ValueError):  # it cannot exist, but a user may name it
        pass
    return [file.parents[1], file, root / (8 * f"{folder}/{name}")]


# Kind -> its sound files, the cases made of them, and a function that puts a case where open_source finds it.
KINDS = {
    "JPEG": (jpegs, mutated, lambda root, case: put_image("case.jpg", root, case)),
    "PNG": (pngs, lambda bases: mutated(bases, sealed_png) | ODD_PNG, lambda *case: put_image("case.png", *case)),
    "DICOM": (dicoms, lambda bases: mutated(bases, sealed_dicom), lambda *case: put_image("case.dcm", *case)),
    "DICOM headers": (dicoms, dicom_headers, lambda *case: put_image("case.dcm", *case)),
    "TIFF": (tiffs, mutated, lambda *case: put_image("case.tif", *case)),
    "BMP": (bmps, mutated, lambda *case: put_image("case.bmp", *case)),
    "WebP": (webps, mutated, lambda *case: put_image("case.webp", *case)),
    "NPZ": (arrays, npz, put_npz),
    "NPZ members": (arrays, archives, put_npz),
    "CSV": (tables, mutated, put_table),
    "names": (pngs, names, put_names),
}


def read(location):
    """Return whether the first images at a location are all read; fail if one is neither read nor refused."""
    try:
        source = open_source(str(location))
    except UserError as reason:
        return refused(str(reason))
    results = [read_one(source, record) for record in source.records[:3]]
    return all(results)


def read_one(source, record):
    problem = examine(source, record).problem
    try:
        square = source.read(record, 32)
    except UnreadableImage as reason:
        assert problem
        return refused(problem) or refused(str(reason))
    assert (square.shape, square.dtype) == ((32, 32), np.uint8)
    return True


def refused(line):
    assert line.strip()
    assert len(line) <= MAX_LINE, line
    assert all(unicodedata.category(char) not in ("Cc", "Cs", "Zl", "Zp") for char in line), repr(line)
    assert not re.search(r"memory|\ballocate", line, re.I), line  # a reason that depends on the machine
    return False


def megabytes(field):
    return int(re.search(rf"{field}:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024


def run(kind, count, root):
    """Try the cases of one kind, and print their statistics."""
    sound_files, strategy, put_case = KINDS[kind]
    root.mkdir()
    bases = list(sound_files(root))
    for base in bases if not kind.startswith("NPZ") else ():
        [read(location) for location in put_case(root, base if kind != "names" else ("a", "b.png", base))]
    results, times, growths = [], [], []

    @settings(
        max_examples=count,
        deadline=None,
        derandomize=not LONG,
        database=None,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy(bases))
    def try_case(case):
        locations, printed = put_case(root, case), os.fstat(2).st_size
        Path("/proc/self/clear_refs").write_text("5")  # restarts the peak
        taken, started = megabytes("VmRSS"), time.perf_counter()
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        results.append([read(location) for location in locations][0])
        faulthandler.cancel_dump_traceback_later()
        times.append(time.perf_counter() - started)
        growths.append(megabytes("VmHWM") - taken)
        assert os.fstat(2).st_size == printed, "a warning, or a library's own message, would reach the user"
        assert growths[-1] < MAX_GROWTH

    try_case()
    print(json.dumps([kind, len(results), sum(results), max(times), max(growths)]))


@pytest.mark.skipif(sys.platform != "linux", reason="limits and measures memory as Linux does")
@pytest.mark.parametrize("kinds", [[kind] for kind in KINDS] if LONG else [list(KINDS)], ids=" ".join)
def test_broken_files_are_read_or_refused(tmp_path, kinds):
    with (tmp_path / "stderr").open("w") as errors:
        done = subprocess.run(
            [sys.executable, "-X", "faulthandler", "-W", "always", __file__, tmp_path, *kinds],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests")))},
        )
    printed = (tmp_path / "stderr").read_text(errors="replace")
    printed = "\n".join(line[:200] for line in printed.splitlines()[-40:])  # a case itself may be long
    assert done.returncode == 0, f"the case is in {tmp_path}; exit status {done.returncode}:\n{printed}"
    assert not printed
    for line in done.stdout.splitlines():
        kind, cases, good, slowest, growth = json.loads(line)
        counts = f"{cases:6,} cases, {good:6,} read, {cases - good:6,} refused"
        print(f"\n{kind:13} {counts}, slowest {slowest:.2f} s, memory +{growth:.0f} MB", end="")
        assert cases >= (LONG or SHORT)


if __name__ == "__main__":
    quiet_decoders()
    resource.setrlimit(resource.RLIMIT_AS, (int(megabytes("VmSize") * 2**20) + ROOM,) * 2)
    for kind in sys.argv[2:]:
        run(kind, LONG or SHORT, Path(sys.argv[1]) / kind)
