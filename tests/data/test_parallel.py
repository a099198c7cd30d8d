"""Many images on all cores: in order, few in memory, and none lost because another kills its worker."""

import os
import signal
import subprocess
import sys
import time
import warnings
from functools import partial
from pathlib import Path

import pytest

from pneumojax.data.decode.unreadable import UnreadableImage
from pneumojax.data.parallel import ITEM_SECONDS, in_parallel

ROOT = Path(__file__).parents[2]


def double(number):
    return 2 * number


def process_id(_):
    return os.getpid()


def die_of(deadly, number):
    if number in deadly:
        os.abort()
    return -number


def fail_at(number):
    if number == 70:
        raise RuntimeError("seventy")
    return number


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("count", [0, 1, 64, 65, 300])
def test_results_come_in_order(workers, count):
    assert list(in_parallel(double, range(count), workers)) == [2 * number for number in range(count)]


def test_few_items_stay_in_this_process():
    assert set(in_parallel(process_id, range(10))) == {os.getpid()}
    assert os.getpid() not in in_parallel(process_id, range(10), workers=1)


def warn(number):
    """Warn as NumPy does about an NPY header."""
    warnings.warn_explicit("odd header", UserWarning, "numpy/lib/format.py", 1, "numpy.lib.format")
    return number


def test_decoders_are_quiet_in_workers(capfd):
    assert list(in_parallel(warn, range(3), workers=1)) == [0, 1, 2]
    assert capfd.readouterr().err == ""


def test_an_item_that_kills_its_worker_costs_no_other_item():
    deadly = (3, 130, 131)
    results = list(in_parallel(partial(die_of, deadly), range(200), workers=2))
    assert [number for number, result in enumerate(results) if isinstance(result, UnreadableImage)] == list(deadly)
    assert all(results[number] == -number for number in range(200) if number not in deadly)


def die_once(folder, number):
    marker = folder / str(number)
    if number == 70 and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def die_twice(folder, number):
    if number == 70 and len(list(folder.iterdir())) < 2:
        (folder / str(os.getpid())).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


@pytest.mark.parametrize("die", [die_once, die_twice])
def test_an_item_whose_worker_is_killed_is_tried_again(tmp_path, die):
    """The system kills workers too, where memory is short: that says nothing about the image."""
    assert list(in_parallel(partial(die, tmp_path), range(100), workers=2)) == list(range(100))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
def test_a_worker_that_computes_for_too_long_ends():
    assert list(in_parallel(computing_left, range(3), workers=1)) == [pytest.approx(ITEM_SECONDS, abs=2)] * 3


def computing_left(_):
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF)
    return resource.getrlimit(resource.RLIMIT_CPU)[0] - used.ru_utime - used.ru_stime


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_reaches_the_caller(workers):
    with pytest.raises(RuntimeError, match="seventy"):
        list(in_parallel(fail_at, range(100), workers))


def test_a_worker_that_dies_while_results_are_used_costs_no_item():
    results = in_parallel(process_id, range(1000), workers=2)
    os.kill(next(results), signal.SIGKILL)
    time.sleep(0.5)
    assert len(list(results)) == 999


def test_items_are_taken_only_as_results_are_used(tmp_path):
    """A million results must not wait in memory for a slow consumer."""
    results = in_parallel(partial(touch, tmp_path), range(100_000), workers=1)
    next(results)
    time.sleep(0.5)
    assert len(list(tmp_path.iterdir())) <= 64 * 4
    results.close()


def touch(folder, number):
    (folder / str(number)).touch()


KILLED = """
import sys, time
from pathlib import Path
sys.path[:0] = [{root!r}, {here!r}]
if __name__ == "__main__":
    from test_parallel import sleep_long
    from pneumojax.data.parallel import in_parallel
    list(in_parallel(sleep_long, range(4), workers=2))
"""


def sleep_long(_):
    print(os.getpid(), flush=True)
    time.sleep(600)


def test_a_killed_parent_leaves_no_orphans(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(KILLED.format(root=str(ROOT), here=str(Path(__file__).parent)))
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    worker = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 60
    while Path(f"/proc/{worker}").exists() and "Z" not in Path(f"/proc/{worker}/stat").read_text().split()[2]:
        assert time.monotonic() < deadline, "the worker is still running"
        time.sleep(0.1)
    parent.stdout.close()
