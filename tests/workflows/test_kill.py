"""Runs that are killed at random moments end as a run that was not: bit for bit, line for line.

KILLS is the number of kills: 1 by default, 50 for `make soak`, which also prints what each kill interrupted.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter

import jax
import numpy as np
from etils import epath
from jobs import metrics_without_speeds, restored
from support import JOB, ROOT

from pneumojax.training import manifest

KILLS = int(os.environ.get("KILLS", 1))
LIMIT_S = 30  # from SIGTERM to the end


def start(folder, chests) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "pneumojax.main", *JOB, f"--data={chests}"], cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def phase(work) -> str:
    """Return what the run was doing, judged by the files that it has left."""
    if not (work / "config.json").exists():
        return "starting and preparing"
    if any("tmp" in path.name for path in (work / "checkpoints").glob("*")):
        return "saving"
    return "evaluating" if (work / "evaluation").exists() else "training"


def allowed_statuses(number, interrupted) -> tuple[int, ...]:
    """Return the exit statuses after a signal: 0 if the run had just ended.

    Python itself handles a signal that comes before the program has started.
    """
    if number == signal.SIGKILL:
        return -number, 0
    return (75, 0, -number) if interrupted == "starting and preparing" else (75, 0)


def left(folder) -> dict:
    """Return what a finished run leaves, without times."""
    work = epath.Path(folder) / "work"
    files = sorted([*work.glob("evaluation/*"), work / "splits.csv", work / "neighbours.npz"])
    contents = [path.read_bytes() for path in files]
    return {"arrays": restored(work), "lines": metrics_without_speeds(work), "files": contents}


def test_a_killed_run_that_continues_equals_one_that_was_not_killed(chests, tmp_path, alone):
    expected = left(alone)
    seconds = None if "KILLS" in os.environ else 12.0  # a run's duration; None: the first run is timed, not killed
    seed = int(os.environ.get("SEED", random.SystemRandom().randrange(2**32)))
    print(f"SEED={seed}")
    rng, kills, runs, slowest = random.Random(seed), Counter(), 0, 0.0
    while kills.total() < KILLS:
        folder = tmp_path / f"killed {runs}"
        folder.mkdir()
        while True:
            process, started = start(folder, chests), time.monotonic()
            try:
                moment = rng.uniform(0, seconds) if seconds and kills.total() < KILLS else None
                printed, _ = process.communicate(timeout=moment)
            except subprocess.TimeoutExpired:
                number = rng.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
                interrupted = phase(folder / "work")
                kills[interrupted, number.name] += 1
                print(f"kill {kills.total()}, run {runs + 1}: {interrupted}, {number.name}", flush=True)
                sent = time.monotonic()
                process.send_signal(number)
                printed, _ = process.communicate(timeout=LIMIT_S)
                slowest = max(slowest, time.monotonic() - sent)
                assert process.returncode in allowed_statuses(number, interrupted), printed
                assert process.returncode != 75 or "run the same command again" in printed.splitlines()[-1]
                continue
            assert process.returncode == 0, printed
            seconds = seconds or time.monotonic() - started
            break
        runs += 1
        saved = [path for path in (folder / "work/checkpoints").iterdir() if path.is_dir()]
        assert all((path / manifest.MANIFEST).exists() for path in saved), "no half-saved or half-removed checkpoint"
        found = left(folder)
        assert found["lines"] == expected["lines"]
        assert found["files"] == expected["files"]
        for leaf, other in zip(*(jax.tree.leaves(each["arrays"]) for each in (found, expected)), strict=True):
            np.testing.assert_array_equal(leaf, other)
        print(f"run {runs} ended as the one that was not killed", flush=True)
    for (interrupted, name), count in sorted(kills.items()):
        print(f"| {interrupted} | {name} | {count} |")
    print(f"{kills.total()} kills in {runs} runs; the slowest end took {slowest:.1f} s")
