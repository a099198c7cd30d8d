"""What a run reports while it goes: on the terminal, in metrics.jsonl and for TensorBoard."""

import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any, Protocol, TypeVar

from etils import epath
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]
from tensorboardX.summary import scalar

from pneumojax.runtime import distributed
from pneumojax.runtime.files import append, is_local, read_text, write_whole
from pneumojax.runtime.wording import counted
from pneumojax.runtime.workdir import METRICS, TENSORBOARD

Result = TypeVar("Result")
History = dict[str, dict[int, dict[str, Any]]]  # split -> epoch -> its line in metrics.jsonl


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Continue silently: the run must still be saved when Ctrl-C has ended the `tee` that reads it."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # not `sys.stdout`, which TFDS is kept from printing to


console = _Console(highlight=False, markup=False, soft_wrap=True)


def console_on(file: IO[str]) -> Console:
    """Return a console like `console`, for another stream."""
    return _Console(file=file, highlight=False, markup=False, soft_wrap=True, quiet=console.quiet)


def training_bar() -> Progress:
    """Return one bar for a whole run: epoch, share done, images/s, time left. Silent where there is no terminal."""
    epoch = TextColumn("epoch {task.fields[epoch]}/{task.fields[epochs]}")
    rate = TextColumn("{task.percentage:>3.0f} %  {task.fields[rate]:.0f} images/s")
    return _bar(console, epoch, BarColumn(), rate, TimeRemainingColumn())


def _bar(out: Console, *columns: ProgressColumn) -> Progress:
    return Progress(*columns, console=out, disable=not out.is_terminal or out.quiet, transient=True)


@contextmanager
def images_bar(what: str, total: int | None, out: Console = console) -> Iterator[Callable[[int], None]]:
    """Show a bar of images/s and time left while the block runs, on a terminal; yield what advances it by some images.

    It shows `what` is done, such as "predict"; the `total` of images is None where nobody knows it yet.
    """
    title, rate = TextColumn("{task.description}"), TextColumn("{task.fields[rate]:.0f} images/s")
    started, done = time.perf_counter(), 0
    with _bar(out, title, BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn()) as bar:
        task = bar.add_task(what, total=total, rate=0.0)

        def advance(images: int) -> None:
            nonlocal done
            done += images
            bar.update(task, completed=done, rate=done / (time.perf_counter() - started))

        yield advance


def reading_watch() -> Callable[[Iterable[Result], int], Iterator[Result]]:
    """Return a function that yields (results, how many there will be) unchanged, with a bar, and images/s at the end.

    It prints on the standard output of now, whatever `sys.stdout` is later: TFDS is kept from printing to that.
    """
    out = console_on(sys.stdout)

    def watch(results: Iterable[Result], total: int) -> Iterator[Result]:
        started = time.perf_counter()
        with images_bar("read", total, out) as advance:
            for result in results:
                advance(1)
                yield result
        seconds = time.perf_counter() - started
        out.print(f"{counted(total, 'image')} read in {seconds:.1f} s: {total / seconds:.0f} images/s")

    return watch


def read(workdir: epath.Path) -> History:
    """Read metrics.jsonl: split -> epoch -> its line."""
    history: History = {}
    for line in _lines(workdir / METRICS):
        history.setdefault(line["split"], {})[line["epoch"]] = line
    return history


def _lines(path: epath.Path) -> list[dict[str, Any]]:
    lines = []
    for text in read_text(path).splitlines() if path.exists() else []:
        with suppress(OverflowError, RecursionError, ValueError):  # a process killed while it wrote leaves half a line
            line = json.loads(text)
            if _is_line(line):
                lines.append(line)
    return lines


def _is_line(line: Any) -> bool:
    """Whether this is what `metrics_lines` writes."""
    if not isinstance(line, dict) or not isinstance(line.get("split"), str):
        return False
    numbers = {name: value for name, value in line.items() if name != "split" and value is not None}
    finite = all(type(value) in (int, float) and math.isfinite(value) for value in numbers.values())
    return finite and all(type(numbers.get(name)) is int and numbers[name] >= 0 for name in ("step", "epoch"))


class WriteLine(Protocol):
    """Adds a line of metrics; a value of None is undefined."""

    def __call__(self, *, step: int, epoch: int, split: str, values: dict[str, float | None]) -> None: ...


@contextmanager
def metrics_lines(workdir: epath.Path, first_step: int) -> Iterator[WriteLine]:
    """Yield a function that adds a line to metrics.jsonl and to TensorBoard, after those up to `first_step`.

    Only a job's first process writes.
    """
    if not distributed.first():
        yield lambda *, step, epoch, split, values: None
        return
    path = workdir / METRICS
    kept = [line for line in _lines(path) if line["step"] <= first_step]  # training repeats what came after it
    write_whole(path, "".join(json.dumps(line) + "\n" for line in kept))
    with _tensorboard(workdir, first_step) as write_scalars:

        def write(*, step: int, epoch: int, split: str, values: dict[str, float | None]) -> None:
            append(path, json.dumps({"step": step, "epoch": epoch, "split": split, **values}) + "\n")
            write_scalars(step, {f"{split}/{name}": value for name, value in values.items() if value is not None})

        yield write


@contextmanager
def _tensorboard(workdir: epath.Path, first_step: int) -> Iterator[Callable[[int, dict[str, float]], None]]:
    """Yield a function that writes a step's scalars at once; in a bucket, it writes nothing.

    Not tensorboardX's SummaryWriter: a disk's first error ends its thread, and the next scalars wait for it forever.
    """
    if not is_local(workdir):
        yield lambda step, values: None
        return
    folder = workdir / TENSORBOARD
    folder.mkdir(parents=True, exist_ok=True)
    events = EventsWriter(str(folder / "events"))
    # TensorBoard stops showing what an earlier process wrote about later steps.
    events.write_event(Event(step=first_step + 1, session_log=SessionLog(status=SessionLog.START)))

    def write(step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            events.write_event(Event(wall_time=time.time(), step=step, summary=scalar(name, value)))
        events.flush()

    try:
        yield write
    finally:
        events.close()
