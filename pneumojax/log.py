"""What a run tells while it goes: the terminal, metrics.jsonl, TensorBoard."""

import json

from etils import epath
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from tensorboardX import SummaryWriter

FILE = "metrics.jsonl"

console = Console(highlight=False, soft_wrap=True)


def progress_bar() -> Progress:
    """One bar for a whole run: epoch, share done, images a second, time left. Silent where there is no terminal."""
    return Progress(
        TextColumn("epoch {task.fields[epoch]}/{task.fields[epochs]}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %  {task.fields[rate]:.0f} images/s"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )


def keep_until(workdir: epath.Path, step: int) -> None:
    """Drops the lines of metrics.jsonl after `step`: what came after the checkpoint is done again."""
    path = workdir / FILE
    if path.exists():
        lines = [line for line in path.read_text().splitlines() if json.loads(line)["step"] <= step]
        path.write_text("".join(line + "\n" for line in lines))


class MetricsLog:
    """Writes each line of metrics to metrics.jsonl and to TensorBoard."""

    def __init__(self, workdir: epath.Path, first_step: int):
        keep_until(workdir, first_step)
        self._path = workdir / FILE
        self._events = SummaryWriter(str(workdir / "tensorboard"), purge_step=first_step + 1)

    def write(self, *, step: int, epoch: int, split: str, values: dict[str, float | None]) -> None:
        """Adds one line; a value of None is undefined."""
        line = json.dumps({"step": step, "epoch": epoch, "split": split, **values})
        with self._path.open("a") as file:
            file.write(line + "\n")
        for name, value in values.items():
            if value is not None:
                self._events.add_scalar(f"{split}/{name}", value, step)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._events.close()
