"""Jobs of several processes on this machine, and what a finished run leaves."""

import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from etils import epath
from scipy.special import logit
from support import JOB, ROOT

from pneumojax.models.classifier import init_variables
from pneumojax.models.configured import create_model
from pneumojax.runtime import config as configs
from pneumojax.runtime import sharding
from pneumojax.training import checkpoint
from pneumojax.training.optimizer import create_optimizer
from pneumojax.training.step import init_state

STEPS = 9  # per epoch: of 120 training images, 12 become val, and a batch has 12
LIMIT_S = 120  # for a job to end after a signal


def start(folder: Path, count: int, data: Path, *more: str) -> subprocess.Popen:
    """Start `JOB` on `data` by launch/local.py, with `count` processes."""
    return subprocess.Popen(
        [sys.executable, ROOT / "launch" / "local.py", str(count), *JOB, f"--data={data}", *more], cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def finish(folder: Path, count: int, data: Path, *more: str) -> str:
    """Run a job as `start` does, and return what it prints."""
    process = start(folder, count, data, *more)
    printed, _ = process.communicate(timeout=600)
    assert process.returncode == 0, printed
    return printed


def start_until_saved(folder: Path, count: int, data: Path) -> tuple[subprocess.Popen, list[int]]:
    """Start a job, wait until it has saved within its first epoch, and return it with its processes' ids."""
    job = start(folder, count, data)
    while not has_checkpoint(folder):
        assert job.poll() is None, job.communicate()[0]
        time.sleep(0.02)
    return job, list(map(int, Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()))


def has_checkpoint(folder: Path) -> bool:
    return any(path.name.isdecimal() for path in (folder / "work" / "checkpoints").glob("*"))


class Outcome(NamedTuple):
    """What a finished run leaves.

    Attributes:
      lines: of metrics.jsonl, without speeds.
      images: (split, id, label) of every evaluated image.
      logits: of those images.
      gradients: Adam's running mean, flat.
    """

    lines: list[dict]
    images: list[tuple]
    logits: np.ndarray
    gradients: np.ndarray


def outcome(folder: Path) -> Outcome:
    rows = []
    for path in sorted((folder / "work" / "evaluation").glob("*.csv")):
        evaluation = json.loads(path.with_suffix(".json").read_text())
        with path.open() as file:
            for row in csv.DictReader(file):
                value = (logit(float(row["probability"])) - evaluation["offset"]) * evaluation["temperature"]
                rows.append((path.stem, row["id"], row["label"], value))
    latest, _ = restored(epath.Path(folder / "work"))
    gradients = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(latest.state.opt_state[0].mu)])
    logits = np.array([row[-1] for row in rows])
    return Outcome(metrics_without_speeds(folder / "work"), [row[:-1] for row in rows], logits, gradients)


def metrics_without_speeds(work: Path) -> list[dict]:
    lines = [json.loads(line) for line in (work / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line.pop("images_per_second", None)
    return lines


def restored(work: epath.Path):
    """Return the latest state that a run saved, and the variables of its best epoch."""
    config, layout = configs.read(work / "config.json"), sharding.layout(jax.devices()[:1])
    state = init_state(init_variables(create_model(config), 32, 0), create_optimizer(config, STEPS))
    like = checkpoint.Saved(state, np.zeros((STEPS, 12), np.float32), {})
    with checkpoint.open_manager(work) as manager:
        latest = checkpoint.restore_latest(manager, like, layout)
    return latest, checkpoint.restore_best(work, config.model, state.variables, layout)
