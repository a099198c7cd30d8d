"""What it costs a run to save, how long it takes to stop, and what a second process on the same cores changes.

  python -m pneumojax.benchmark.jobs [--of=saving,one-save,stopping,sharing] [--model=m1]
    [--data=phantom] [--epochs=2] [--rounds=3]

From a clone, since launch/local.py starts the processes. Prints tables of BENCHMARKS.md.
"""

import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

import jax
import numpy as np
from absl import app, flags, logging
from etils import epath

from pneumojax import allocator, cache, checkpoint, curate, devices, interrupt, log
from pneumojax import config as configs
from pneumojax.family import FAMILY
from pneumojax.files import markdown_table
from pneumojax.step import create_model, create_optimizer, init_state, init_variables
from pneumojax.train import train

flags.DEFINE_list("of", "saving,one-save,stopping,sharing", "What is measured.")
flags.DEFINE_string("model", "m1", "Of the family.")
flags.DEFINE_string("data", "phantom", "What to train on.")
flags.DEFINE_integer("epochs", 2, "Of each measurement.")
flags.DEFINE_integer("rounds", 3, "Turns.")
FLAGS = flags.FLAGS

LOCAL = Path(__file__).parents[2] / "launch" / "local.py"


def saving(scratch: Path) -> list[tuple[str, ...]]:
    """Rows: seconds of whole trainings that save as they do, and that do not, in turns."""
    config = configs.load(FLAGS.model)
    config.epochs, config.data.source = FLAGS.epochs, FLAGS.data
    cache.keep_compiled(config.data.cache_dir)
    source = curate.open_own(config)
    prepared = curate.prepare_own(config, source)
    records, _ = curate.choose_splits(config, source, prepared)
    splits = {name: prepared.split(name, members) for name, members in records.items()}

    def seconds(saves: bool, turn: int) -> float:
        workdir = epath.Path(scratch / f"{saves} {turn}")
        workdir.mkdir()
        save = checkpoint.save if saves else lambda *given: None
        with mock.patch.object(checkpoint, "save", save):
            started = time.perf_counter()
            train(config, workdir, splits, devices.layout())
        return time.perf_counter() - started

    seconds(True, -1)  # what is compiled now is found later
    turns = [(seconds(True, turn), seconds(False, turn)) for turn in range(FLAGS.rounds)]
    ratio = _told(saved / bare for saved, bare in turns)
    saved, bare = (f"{statistics.median(times):.1f}" for times in zip(*turns, strict=True))
    return [(FLAGS.model.upper(), f"{len(splits['train'].ids):,}", str(FLAGS.epochs), saved, bare, ratio)]


def one_save(scratch: Path) -> list[tuple[str, ...]]:
    """Rows: seconds from the first byte of a checkpoint to its name, of each model, with nothing beside it."""
    rows, layout = [], devices.layout()
    for name in FAMILY:
        config = configs.load(name)
        optimizer = create_optimizer(config, 1)
        state = init_state(init_variables(create_model(config), config.model.image_size, 0), optimizer)
        state = jax.device_put(jax.tree.map(_as_if_trained, state), layout.everywhere)
        saved = checkpoint.Saved(state, np.zeros((1, 1), np.float32), {"use": True})
        folder, took = epath.Path(scratch / name), []
        with checkpoint.open_manager(folder) as manager:
            for turn in range(2 * FLAGS.rounds):
                started = time.perf_counter()
                step = saved.state.replace(step=np.int32(turn))
                checkpoint.save(manager, saved._replace(state=step))
                manager.wait_until_finished()
                took.append(time.perf_counter() - started)
        size = sum(path.stat().st_size for path in (scratch / name / f"checkpoints/{turn}").rglob("*")) / 1e6
        rows.append((name.upper(), f"{size:.0f}", f"{statistics.median(took):.2f} ({min(took):.2f}-{max(took):.2f})"))
    return rows


def _as_if_trained(leaf):
    """Noise, since zeros, as Adam begins with, are saved in no space and time."""
    return np.random.default_rng(0).normal(size=leaf.shape).astype(leaf.dtype)


def stopping(scratch: Path) -> list[tuple[str, ...]]:
    """Rows: seconds from SIGTERM, at a random moment of training, to the end of one process and of two."""
    rows = []
    for count in (1, 2):
        took = []
        for turn in range(FLAGS.rounds):
            workdir = scratch / f"stopped {count} {turn}"
            job = _start(count, workdir, epochs=1000)
            while not (workdir / log.FILE).exists() or not log.read(epath.Path(workdir)):
                time.sleep(0.1)
            time.sleep(random.uniform(0, 5))
            started = time.perf_counter()
            job.send_signal(signal.SIGTERM)
            if job.wait(600) != interrupt.STOPPED:
                raise SystemExit(f"a stopped job ended with status {job.returncode}")
            took.append(time.perf_counter() - started)
        rows.append((FLAGS.model.upper(), str(count), f"{statistics.median(took):.1f}", f"{max(took):.1f}"))
    return rows


def sharing(scratch: Path) -> list[tuple[str, ...]]:
    """Rows: images a second of one process and of two, each told of by the last epoch of a run, in turns."""
    turns = []
    for turn in range(FLAGS.rounds):
        rates = []
        for count in (1, 2):
            workdir = scratch / f"shared {count} {turn}"
            if _start(count, workdir, FLAGS.epochs).wait():
                raise SystemExit(f"a job of {count} failed")
            rates.append(log.read(epath.Path(workdir))["train"][FLAGS.epochs]["images_per_second"])
        turns.append(rates)
    one, two = (f"{statistics.median(rates):.1f}" for rates in zip(*turns, strict=True))
    return [(FLAGS.model.upper(), one, two, _told(two / one for one, two in turns))]


MEASURES = {
    "saving": (saving, ("model", "images", "epochs", "saving, s", "not saving, s", "times as long (range)")),
    "one-save": (one_save, ("model", "MB", "one save alone, s (range)")),
    "stopping": (stopping, ("model", "processes", "SIGTERM to the end, s", "the slowest, s")),
    "sharing": (sharing, ("model", "1 process, images/s", "2 processes, images/s", "ratio (range)")),
}


def _start(count: int, workdir: Path, epochs: int) -> subprocess.Popen:
    options = [f"--config={FLAGS.model}", f"--data={FLAGS.data}", f"--workdir={workdir}", f"--config.epochs={epochs}"]
    return subprocess.Popen(
        [sys.executable, LOCAL, str(count), *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def _told(ratios) -> str:
    ratios = sorted(ratios)
    return f"{statistics.median(ratios):.3f} ({ratios[0]:.3f}-{ratios[-1]:.3f})"


def main(argv: list[str]) -> None:
    logging.set_verbosity(logging.ERROR)
    allocator.keep_freed()
    log.console.quiet = True
    with tempfile.TemporaryDirectory() as name:
        tables = [(MEASURES[one][1], MEASURES[one][0](Path(name))) for one in FLAGS.of]
    for header, rows in tables:
        print(markdown_table(header, rows))


if __name__ == "__main__":
    app.run(main)
