"""Runs that are killed at random moments end as the one that was not: bit for bit, line for line.

KILLS says how often, two times by default: `make soak` takes fifty, and tells what they hit.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter

import jax
import numpy as np
from conftest import JOB, ROOT
from etils import epath

from pneumojax import checkpoint, devices
from pneumojax import config as configs
from pneumojax.step import create_model, create_optimizer, init_state, init_variables

KILLS = int(os.environ.get("KILLS", 2))
STEPS = 9  # an epoch: of 120 images 12 are carved to choose by, and 12 make a batch
LIMIT_S = 30  # from SIGTERM to the end


def start(folder, chests) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "pneumojax.main", *JOB, f"--data={chests}"], cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def phase(work) -> str:
    """What a run was about, by what it has left."""
    if not (work / "config.json").exists():
        return "starting and preparing"
    if any("tmp" in path.name for path in (work / "checkpoints").glob("*")):
        return "saving"
    return "evaluating" if (work / "evaluation").exists() else "training"


def restored(work: epath.Path):
    """The latest that a run has saved, and the best."""
    config, layout = configs.read(work / "config.json"), devices.layout(jax.devices()[:1])
    state = init_state(init_variables(create_model(config), 32, 0), create_optimizer(config, STEPS))
    like = checkpoint.Saved(state, np.zeros((STEPS, 12), np.float32), {})
    with checkpoint.open_manager(work) as manager:
        latest = checkpoint.restore_latest(manager, like, layout)
    return jax.device_get((latest, checkpoint.restore_best(work, config.model, state.variables, layout)))


def _allowed(how, what) -> tuple[int, ...]:
    """Statuses: 0 of a run that had just ended. Before the program has begun, Python itself ends at a signal."""
    if how == signal.SIGKILL:
        return -how, 0
    return (75, 0, -how) if what == "starting and preparing" else (75, 0)


def left(folder) -> dict:
    """What a finished run leaves, but for times."""
    work = epath.Path(folder) / "work"
    lines = [json.loads(line) for line in (work / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line.pop("images_per_second", None)
    files = sorted([*work.glob("evaluation/*"), work / "splits.csv", work / "neighbours.npz"])
    return {"arrays": restored(work), "lines": lines, "files": [path.read_bytes() for path in files]}


def test_whenever_it_is_killed_the_same_command_gives_the_same_run(chests, tmp_path, alone):
    expected = left(alone)
    seconds = None if "KILLS" in os.environ else 12.0  # that a run takes: the first one tells, which is not killed
    seed = int(os.environ.get("SEED", random.SystemRandom().randrange(2**32)))
    print(f"SEED={seed}")
    rng, hit, runs, slowest = random.Random(seed), Counter(), 0, 0.0
    while hit.total() < KILLS:
        folder = tmp_path / f"broken {runs}"
        folder.mkdir()
        while True:
            process, began = start(folder, chests), time.monotonic()
            try:
                moment = rng.uniform(0, seconds) if seconds and hit.total() < KILLS else None
                told, _ = process.communicate(timeout=moment)
            except subprocess.TimeoutExpired:
                how = rng.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
                what = phase(folder / "work")
                hit[what, how.name] += 1
                print(f"kill {hit.total()}, run {runs + 1}: {what}, {how.name}", flush=True)
                asked = time.monotonic()
                process.send_signal(how)
                told, _ = process.communicate(timeout=LIMIT_S)
                slowest = max(slowest, time.monotonic() - asked)
                assert process.returncode in _allowed(how, what), told
                assert process.returncode != 75 or "run the same command again" in told.splitlines()[-1]
                continue
            assert process.returncode == 0, told
            seconds = seconds or time.monotonic() - began
            break
        runs += 1
        saved = [path for path in (folder / "work/checkpoints").iterdir() if path.is_dir()]
        assert all((path / checkpoint.MANIFEST).exists() for path in saved), "and nothing half saved or removed"
        found = left(folder)
        assert found["lines"] == expected["lines"]
        assert found["files"] == expected["files"]
        for one, other in zip(*(jax.tree.leaves(each["arrays"]) for each in (found, expected)), strict=True):
            np.testing.assert_array_equal(one, other)
        print(f"run {runs} ended as the one that was not killed", flush=True)
    for (what, how), count in sorted(hit.items()):
        print(f"| {what} | {how} | {count} |")
    print(f"{hit.total()} kills in {runs} runs; the slowest end took {slowest:.1f} s")
