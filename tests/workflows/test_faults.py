"""Faults from outside: a full disk, a read-only disk, a wrong clock, a locale without UTF-8."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from jobs import outcome
from support import JOB, draw_folder, pneumojax


@pytest.fixture
def disk(tmp_path):
    """A folder on a small disk of its own, which `remount` changes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=9m", "tmpfs", folder], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"this process may not mount a disk: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def remount(folder: Path, option: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{option}", folder], check=True)


def run(folder, chests, *more, **environment):
    return pneumojax(*JOB, f"--data={chests}", *more, cwd=folder, **environment)


ASCII = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}  # a locale without UTF-8


@pytest.mark.slow
def test_a_full_disk_is_reported_in_one_line_and_with_room_the_run_continues(chests, disk, alone):
    """The disk has room for one checkpoint, not for two."""
    cache = f"--config.data.cache_dir={alone / 'cache'}"
    full = run(disk, chests, cache)
    assert full.returncode == 2, full.stderr
    assert "No space left on device: make room, and run the same command again" in full.stderr
    assert full.stderr.startswith("pneumojax: "), "Orbax's own traces are not shown"
    [saved] = [path for path in (disk / "work/checkpoints").iterdir() if path.name.isdecimal()]
    assert (saved / "manifest.json").exists()
    remount(disk, "size=100m")
    done = run(disk, chests, cache)
    assert done.returncode == 0, done.stderr
    assert "Resuming within epoch 1 of 2." in done.stdout
    found, expected = outcome(disk), outcome(alone)
    assert found.lines == expected.lines
    assert found.logits.tolist() == expected.logits.tolist()
    assert found.gradients.tolist() == expected.gradients.tolist()


def test_a_read_only_disk_is_reported_in_one_line(chests, disk, tmp_path):
    remount(disk, "ro")
    done = run(disk, chests, f"--config.data.cache_dir={tmp_path / 'cache'}")
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert "cannot write work" in line


@pytest.mark.slow
def test_a_run_continues_from_files_with_times_in_the_future_and_the_past(chests, tmp_path, alone):
    """As a clock leaves them that was wrong and is right now; and in another locale than they were written in."""
    shutil.copytree(alone, tmp_path, dirs_exist_ok=True)
    expected = outcome(alone)
    newest = max((tmp_path / "work/checkpoints").iterdir(), key=lambda path: int(path.name))
    for path in sorted(newest.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    newest.rmdir()
    for place, path in enumerate([*tmp_path.rglob("*")]):
        day = (time.time() + 50 * 365 * 86400) if place % 2 else 86400
        os.utime(path, (day, day))
    again = run(tmp_path, chests, **ASCII)
    assert again.returncode == 0, again.stderr
    assert "Resuming within epoch 2 of 2." in again.stdout
    found = outcome(tmp_path)
    assert found.lines == expected.lines
    assert found.logits.tolist() == expected.logits.tolist()


def test_a_file_name_that_the_locale_cannot_encode_is_reported_in_one_line(tmp_path):
    draw_folder(tmp_path / "set", "train", 2, 2)
    (tmp_path / "set/train/NORMAL/chest 000.png").rename(tmp_path / "set/train/NORMAL/brüst.png")
    done = run(tmp_path, tmp_path / "set", **ASCII)
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert "is not UTF-8, or the locale is not" in line
    assert not (tmp_path / "work").exists()
