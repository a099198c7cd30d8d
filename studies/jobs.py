"""Measure what saving costs a run, how long it takes to stop, and what a second process on the same cores changes.

  python -m studies.jobs [--of=saving,one-save,stopping,sharing] [--model=m1] [--data=phantom] [--epochs=2] [--rounds=3]

launch/local.py starts the processes.
"""

import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import numpy as np
from absl import logging
from etils import epath

from pneumojax.models.architectures import FAMILY
from pneumojax.models.classifier import init_variables
from pneumojax.models.configured import create_model
from pneumojax.runtime import allocator, cache, run_log, sharding
from pneumojax.runtime import config as configs
from pneumojax.runtime.errors import ExitStatus
from pneumojax.runtime.workdir import METRICS
from pneumojax.training import checkpoint
from pneumojax.training.loop import train
from pneumojax.training.optimizer import create_optimizer
from pneumojax.training.step import init_state
from pneumojax.workflows import prepare
from studies import study

LOCAL = study.ROOT / "launch" / "local.py"
Row = dict[str, Any]


def saving(given: Namespace, scratch: Path) -> list[Row]:
    """Measure whole trainings that save as they do, and that do not save, in turns."""
    config = configs.load(given.model)
    config.epochs, config.data.source, config.model.image_size = given.epochs, given.data, given.size
    cache.keep_compiled(config.data.cache_dir)
    config, source = prepare.open_own(config)
    prepared = prepare.prepare_own(config, source)
    records, _ = prepare.choose_splits(config, source, prepared)
    splits = {name: prepared.split(name, members) for name, members in records.items()}

    def seconds(saves: bool, turn: int) -> float:
        workdir = epath.Path(scratch / f"{saves} {turn}")
        workdir.mkdir()
        save = checkpoint.save if saves else lambda *given: None
        with mock.patch.object(checkpoint, "save", save):
            started = time.perf_counter()
            train(config, workdir, splits, sharding.layout())
        return time.perf_counter() - started

    seconds(True, -1)  # compiles, so that no turn does
    turns = [(seconds(True, turn), seconds(False, turn)) for turn in range(given.rounds)]
    saved, bare = (statistics.median(times) for times in zip(*turns, strict=True))
    return [
        {
            "model": given.model.upper(),
            "images": len(splits["train"].ids),
            "epochs": given.epochs,
            "saving_s": saved,
            "bare_s": bare,
            "ratio": study.spread(saved / bare for saved, bare in turns),
        }
    ]


def one_save(given: Namespace, scratch: Path) -> list[Row]:
    """Measure each model's checkpoint from its first byte to its final name, with nothing beside it."""
    return [_one_save(name, given, scratch) for name in FAMILY]


def _one_save(name: str, given: Namespace, scratch: Path) -> Row:
    config, layout = configs.load(name), sharding.layout()
    optimizer = create_optimizer(config, 1)
    state = init_state(init_variables(create_model(config), given.size, 0), optimizer)
    state = jax.device_put(jax.tree.map(_noise, state), layout.replicated)
    saved = checkpoint.Saved(state, np.zeros((1, 1), np.float32), {"use": True})
    folder, took = epath.Path(scratch / name), []
    with checkpoint.open_manager(folder) as manager:
        for turn in range(2 * given.rounds):
            started = time.perf_counter()
            step = saved.state.replace(step=np.int32(turn))
            checkpoint.save(manager, saved._replace(state=step))
            manager.wait_until_finished()
            took.append(time.perf_counter() - started)
    last = checkpoint.folder_of(folder) / str(2 * given.rounds - 1)
    size = sum(path.stat().st_size for path in Path(last).rglob("*"))
    return {"model": name.upper(), "size_mb": size / 1e6} | study.spread(took)


def _noise(leaf: Any) -> np.ndarray:
    """Noise in place of a leaf: the zeros that Adam begins with would take no space and time."""
    return np.random.default_rng(0).normal(size=leaf.shape).astype(leaf.dtype)


def stopping(given: Namespace, scratch: Path) -> list[Row]:
    """Measure one process and two from SIGTERM, at a random moment of training, to the end."""
    rows = []
    for count in (1, 2):
        took = [_stopped(given, count, scratch / f"stopped {count} {turn}") for turn in range(given.rounds)]
        rows.append({"model": given.model.upper(), "processes": count} | study.spread(took))
    return rows


def _stopped(given: Namespace, count: int, workdir: Path) -> float:
    job = start_job(given, count, workdir, epochs=1000)
    while not (workdir / METRICS).exists() or not run_log.read(epath.Path(workdir)):
        if job.poll() is not None:
            raise SystemExit(f"the job to be stopped ended with status {job.returncode}")
        time.sleep(0.1)
    time.sleep(random.uniform(0, given.wait))
    started = time.perf_counter()
    job.send_signal(signal.SIGTERM)
    if job.wait(600) != ExitStatus.STOPPED:
        raise SystemExit(f"a stopped job ended with status {job.returncode}")
    return time.perf_counter() - started


def sharing(given: Namespace, scratch: Path) -> list[Row]:
    """Measure images a second of one process and of two, by the last epoch of a run, in turns."""
    turns = [
        [_rate(given, count, scratch / f"shared {count} {turn}") for count in (1, 2)] for turn in range(given.rounds)
    ]
    one, two = (statistics.median(rates) for rates in zip(*turns, strict=True))
    ratio = study.spread(two / one for one, two in turns)
    return [{"model": given.model.upper(), "one": one, "two": two, "ratio": ratio}]


def _rate(given: Namespace, count: int, workdir: Path) -> float:
    job = start_job(given, count, workdir, given.epochs)
    if job.wait():
        raise SystemExit(f"a job of {count} processes ended with status {job.returncode}")
    return run_log.read(epath.Path(workdir))["train"][given.epochs]["images_per_second"]


MEASURES: dict[str, Callable[[Namespace, Path], list[Row]]] = {
    "saving": saving,
    "one-save": one_save,
    "stopping": stopping,
    "sharing": sharing,
}


def start_job(given: Namespace, count: int, workdir: Path, epochs: int) -> subprocess.Popen:
    """Start a training of `count` processes."""
    options = [f"--config={given.model}", f"--data={given.data}", f"--workdir={workdir}", f"--config.epochs={epochs}"]
    options.append(f"--config.model.image_size={given.size}")
    return subprocess.Popen(
        [sys.executable, str(LOCAL), str(count), *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def measure(of: Sequence[str], given: Namespace) -> dict[str, list[Row]]:
    """Take the measurements named in `of`, each in a folder of its own."""
    figures = {}
    for name in of:
        with tempfile.TemporaryDirectory() as scratch:
            figures[name.replace("-", "_")] = MEASURES[name](given, Path(scratch))
    return figures


def main(argv: list[str]) -> None:
    parser = study.parser(__doc__)
    parser.add_argument("--of", type=study.names, default=list(MEASURES), help=f"of {', '.join(MEASURES)}")
    parser.add_argument("--model", default="m1", help="a config, such as m1")
    parser.add_argument("--data", default="phantom", help="what to train on")
    parser.add_argument("--size", type=int, default=150, help="image size, px")
    parser.add_argument("--epochs", type=int, default=2, help="of each training")
    parser.add_argument("--rounds", type=int, default=3, help="turns")
    parser.add_argument("--wait", type=float, default=5.0, help="most seconds of training before a job is stopped")
    given = parser.parse_args(argv)
    if unknown := set(given.of) - MEASURES.keys():
        parser.error(f"--of has no {', '.join(sorted(unknown))}: choose of {', '.join(MEASURES)}")
    logging.set_verbosity(logging.ERROR)
    allocator.keep_freed()
    run_log.console.quiet = True
    study.finish("jobs", argv, measure(given.of, given), given.of, given.output)


if __name__ == "__main__":
    study.run(main)
