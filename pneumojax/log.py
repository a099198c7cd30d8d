"""What a run tells while it goes: the terminal, metrics.jsonl, TensorBoard."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from etils import epath
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar

from pneumojax import processes
from pneumojax.files import append, write_whole

FILE = "metrics.jsonl"


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Goes on in silence: the `tee` that Ctrl-C has ended must not keep a run from being saved."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # not `sys.stdout`, which TFDS is kept from printing to


console = _Console(highlight=False, markup=False, soft_wrap=True)


def progress_bar() -> Progress:
    """One bar for a whole run: epoch, share done, images a second, time left. Silent where there is no terminal."""
    return Progress(
        TextColumn("epoch {task.fields[epoch]}/{task.fields[epochs]}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %  {task.fields[rate]:.0f} images/s"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal or console.quiet,
        transient=True,
    )


def watching() -> Callable[[Iterable, int], Iterator]:
    """A function that yields (results, how many there will be) unchanged, and tells how many come a second.

    It tells by a bar on a terminal, and by a line at the end; on the standard output of now, whatever that is later.
    """
    out = _Console(file=sys.stdout, highlight=False, markup=False, soft_wrap=True, quiet=console.quiet)
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]:.0f} images/s"), TimeRemainingColumn())

    def watched(results, total):
        started = time.perf_counter()
        with Progress(*columns, console=out, disable=not out.is_terminal or out.quiet, transient=True) as bar:
            task = bar.add_task("", total=total, rate=0.0)
            for done, result in enumerate(results, 1):
                bar.update(task, completed=done, rate=done / (time.perf_counter() - started))
                yield result
        seconds = time.perf_counter() - started
        out.print(f"{total:,} images read in {seconds:.1f} s: {total / seconds:.0f} images/s")

    return watched


def read(workdir: epath.Path) -> dict[str, dict[int, dict]]:
    """What metrics.jsonl tells: split -> epoch -> its line."""
    history = {}
    for line in _lines(workdir / FILE):
        history.setdefault(line["split"], {})[line["epoch"]] = line
    return history


def _lines(path: epath.Path) -> list[dict]:
    lines = []
    for text in path.read_text().splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:  # a process killed while it wrote leaves half a line
            continue
    return lines


def _keep_until(path: epath.Path, step: int) -> None:
    """Drops the lines after `step`: what came after the checkpoint is done again."""
    kept = [line for line in _lines(path) if line["step"] <= step]
    write_whole(path, "".join(json.dumps(line) + "\n" for line in kept))


@contextmanager
def metrics_lines(workdir: epath.Path, first_step: int) -> Iterator[Callable[..., None]]:
    """A function that adds a line of metrics to metrics.jsonl and to TensorBoard, after those up to `first_step`.

    It takes `step`, `epoch`, `split` and `values`, of which None is undefined. Only a job's first process writes.
    """
    if not processes.first():
        yield lambda **line: None
        return
    path = workdir / FILE
    _keep_until(path, first_step)
    with _tensorboard(workdir, first_step) as write_scalars:

        def write(*, step: int, epoch: int, split: str, values: dict[str, float | None]) -> None:
            append(path, json.dumps({"step": step, "epoch": epoch, "split": split, **values}) + "\n")
            write_scalars(step, {f"{split}/{name}": value for name, value in values.items() if value is not None})

        yield write


@contextmanager
def _tensorboard(workdir: epath.Path, first_step: int) -> Iterator[Callable[[int, dict[str, float]], None]]:
    """A function that writes a step's scalars at once; in a bucket, none.

    Not tensorboardX's SummaryWriter: a disk's first error ends its thread, and the next scalars wait for it forever.
    """
    if "://" in str(workdir):
        yield lambda step, values: None
        return
    folder = workdir / "tensorboard"
    folder.mkdir(parents=True, exist_ok=True)
    events = EventsWriter(str(folder / "events"))
    # What an earlier process wrote of later steps is no longer shown.
    events.write_event(Event(step=first_step + 1, session_log=SessionLog(status=SessionLog.START)))

    def write(step, values):
        for name, value in values.items():
            events.write_event(Event(wall_time=time.time(), step=step, summary=scalar(name, value)))
        events.flush()

    try:
        yield write
    finally:
        events.close()
