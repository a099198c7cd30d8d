"""What each step of the study of a GPU is given: sizes, places, and the time that is left."""

import json
import time
from pathlib import Path
from typing import Any, NamedTuple

Row = dict[str, Any]
NO_TIME = "no time was left"
PHANTOM = "phantom"


class Sizes(NamedTuple):
    """How much is measured.

    Attributes:
      models: networks to check and to compare; M1 alone is measured at every batch size.
      image_size: px, of what is measured.
      batches: images in a batch, the most telling first; the first one is that of comparisons.
      precisions: of `tasks.PRECISIONS`, the most telling first.
      check_size: px, of what is computed on both devices.
      check_batch: images in a batch that is computed on both devices.
      check_batches: such batches.
      matrix: rows of the square matrices that are multiplied.
      copy_bytes: bytes of the array that is copied.
      split_images: images of the random split that training takes batches from.
      seconds: of each turn of a measurement.
      rounds: turns of each side of a comparison.
      children: config fields of the whole training by the recommended recipe.
      paper: config fields of the whole training by the paper's recipe.
      paper_epochs: how many that trains.
      resume: config fields of the runs that are killed and resumed.
    """

    models: tuple[str, ...]
    image_size: int
    batches: tuple[int, ...]
    precisions: tuple[str, ...]
    check_size: int
    check_batch: int
    check_batches: int
    matrix: int
    copy_bytes: int
    split_images: int
    seconds: float
    rounds: int
    children: tuple[str, ...]
    paper: tuple[str, ...]
    paper_epochs: int
    resume: tuple[str, ...]


WHOLE = Sizes(
    models=("m1", "m2", "m3"),
    image_size=150,
    batches=(256, 1024, 32, 4096),
    precisions=("bfloat16", "tf32", "float32"),
    check_size=64,
    check_batch=4,
    check_batches=4,
    matrix=8192,
    copy_bytes=2**30,
    split_images=8192,
    seconds=0.5,
    rounds=3,
    children=(),
    paper=(),
    paper_epochs=100,
    resume=("batch_size=4", "epochs=6", "checkpoint.steps=1"),  # saves after each dispatch of 32 steps
)
_SMALL = ("model.image_size=32",)
TINY = Sizes(
    models=("m1",),
    image_size=32,
    batches=(4,),
    precisions=("bfloat16", "float32"),
    check_size=32,
    check_batch=4,
    check_batches=2,
    matrix=64,
    copy_bytes=2**20,
    split_images=16,
    seconds=0.01,
    rounds=1,
    children=(*_SMALL, "epochs=1", "batch_size=100"),
    paper=(*_SMALL, "epochs=2", "batch_size=100"),
    paper_epochs=2,
    resume=(*_SMALL, "epochs=2", "batch_size=30", "checkpoint.steps=4"),
)


class Given(NamedTuple):
    """What a step is given.

    Attributes:
      folder: of rows, caches and runs; all steps share it.
      data: class folders of children's radiographs, or `PHANTOM`.
      sizes: how much to measure.
      deadline: when the step has to end, by `time.monotonic()`.
    """

    folder: Path
    data: str
    sizes: Sizes
    deadline: float

    def left(self) -> float:
        """Return the seconds that are left."""
        return self.deadline - time.monotonic()


def rows_path(folder: Path, step: str) -> Path:
    """Return the file of a step's rows, each a line of JSON."""
    return folder / f"{step}.jsonl"


def read_rows(folder: Path, step: str) -> list[Row]:
    """Read the rows that a step has written; a line that is not whole is left out, since the step was killed."""
    path = rows_path(folder, step)
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def value_of(card: list[Row], what: str) -> Any:
    """Return what the rows of the step `card` tell of one thing; None where they do not."""
    return next((row["value"] for row in card if row["what"] == what), None)
