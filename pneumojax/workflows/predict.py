"""`--mode=predict`: images without labels, a row for each, written as it comes."""

import json
import os
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict
from rich.console import Console

from pneumojax.data.decode.unreadable import UnreadableImage
from pneumojax.data.parallel import in_parallel
from pneumojax.data.sources.unlabelled import Inputs, Seen, open_inputs
from pneumojax.evaluation import neighbours
from pneumojax.evaluation.calibration import Calibration
from pneumojax.evaluation.forward import Evaluator
from pneumojax.inference.predictions import KNOWN, UNLIKE, Row, rows, without_number
from pneumojax.runtime import run_log, sharding
from pneumojax.runtime import workdir as workdirs
from pneumojax.runtime.errors import ExitStatus, UserError, one_line
from pneumojax.runtime.files import becoming, expanded
from pneumojax.runtime.signals import deferred
from pneumojax.runtime.tables import csv_row
from pneumojax.runtime.wording import counted
from pneumojax.workflows import run_folder
from pneumojax.workflows.trained_models import load_model

SHOWN = 20  # rows on the terminal
STANDARD_OUTPUT = "-"

Batch = list[tuple[str, Seen]]
Outputs = tuple[jax.Array, jax.Array]  # logits and features


def predict_images(
    config: ConfigDict,
    workdir: epath.Path,
    data: str | None,
    *,
    model: epath.Path | None = None,
    after_row: Callable[[Row], None] = lambda row: None,
) -> ExitStatus:
    """Predict every image at `data`, see `unlabelled.open_inputs`, by the model in a folder, or else the workdir's.

    Rows go to predictions/<name>.csv in the workdir, or where `prediction.output` says: .csv, .jsonl with a line of
    JSON for each, or - for CSV on the standard output; all else then goes to the standard error. Each process of a job,
    and each `prediction.shard`, has its own part of the images and its own file.
    `after_row` is called after each row that is written.

    Returns:
      FINDINGS where an image cannot be read.

    Raises:
      UserError: there is no data or no trained model, or the output cannot be written.
      KeyboardInterrupt: SIGINT or SIGTERM came; no part of the rows is left.
    """
    if data is None:
        raise UserError("give --data: a file, a folder, a pattern in quotes, or an .npz file")
    shard = _shard(config)
    inputs = open_inputs(data)
    layout = sharding.layout(jax.local_devices())
    with jax.set_mesh(layout.mesh):
        trained = load_model(config, model or workdir, layout, workdir)
        evaluators = [Evaluator(member.model, layout, config.evaluation.batch_size) for member in trained.members]
        seen = _look(inputs, shard, config.model.image_size, config.data.workers)

        def compute(images: np.ndarray) -> list[Outputs]:
            pairs = zip(evaluators, trained.members, strict=True)
            return [evaluator.batch(member.variables, images) for evaluator, member in pairs]

        batches = _computed(seen, compute, evaluators[0].batch_size)
        output = _output(config, workdir, inputs.name, data, *shard)
        console = run_log.console if output else run_log.console_on(sys.stderr)
        counts: Counter[str] = Counter()
        with (
            deferred() as interrupted,
            _opened(output) as write_text,
            run_log.images_bar("predict", None, console) as advance,
        ):
            write = _writer(write_text, output.suffix if output else ".csv")
            for batch, outputs in batches:
                for row in rows(batch, outputs, trained):
                    row = without_number(row) if config.prediction.abstain else row
                    write(row)
                    _show(row, counts, console)
                    after_row(row)
                advance(len(batch))
                if interrupted():
                    raise KeyboardInterrupt  # and leave no part of the rows in a file
    console.print("\n".join(_summary(counts, trained.calibration)))
    for remark in inputs.left_out.remarks():
        console.print(one_line(remark))
    if output:
        console.print(f"Written: {output}")
    return ExitStatus.FINDINGS if counts["unreadable"] else ExitStatus.DONE


def _shard(config: ConfigDict) -> tuple[int, int]:
    """Return which part of how many this process predicts: as the config says, or by JAX's processes."""
    if not config.prediction.shard:
        return jax.process_index(), jax.process_count()
    part, parts = map(int, config.prediction.shard.split("/"))
    return part, parts


def _output(config: ConfigDict, workdir: epath.Path, name: str, data: str, part: int, parts: int) -> epath.Path | None:
    """Return the file to write; None for the standard output."""
    if config.prediction.output == STANDARD_OUTPUT:
        return None
    if config.prediction.output:
        path = expanded(config.prediction.output)
    else:
        name = run_folder.name_of(workdir, workdirs.PREDICTIONS, name, str(expanded(data).resolve()))
        path = workdir / workdirs.PREDICTIONS / f"{name}.csv"
    return path.with_name(f"{path.stem}-{part:05d}-of-{parts:05d}{path.suffix}") if parts > 1 else path


@contextmanager
def _opened(output: epath.Path | None) -> Iterator[Callable[[str], object]]:
    """Yield a function that writes text, to a file that is whole at the end, or line by line to the standard output."""
    if output is None:
        yield _print
        return
    with becoming(output) as unfinished, unfinished.open("w", encoding="utf-8") as file:
        yield file.write


def _print(text: str) -> None:
    """Write UTF-8 to the standard output, whatever the terminal's encoding; nothing once its reader has left."""
    try:
        sys.stdout.buffer.write(text.encode())
        sys.stdout.buffer.flush()
    except BrokenPipeError:  # such as in `| head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _look(inputs: Inputs, shard: tuple[int, int], size: int, workers: int) -> Iterator[tuple[str, Seen]]:
    """Yield every id of this part, and what is seen there."""
    pending: deque[str] = deque()

    def ids() -> Iterator[str]:
        for id in islice(inputs.ids, shard[0], None, shard[1]):
            pending.append(id)
            yield id

    for seen in in_parallel(partial(inputs.look, size=size), ids(), workers):
        yield pending.popleft(), Seen(None, str(seen), ()) if isinstance(seen, UnreadableImage) else seen


def _computed(
    seen: Iterable[tuple[str, Seen]], compute: Callable[[np.ndarray], list[Outputs]], batch_size: int
) -> Iterator[tuple[Batch, list[Outputs] | None]]:
    """Yield batches with each model's logits and features; one batch is computed while the next is read."""
    waiting = None
    for batch in _batches(seen, batch_size):
        images = [one.image for _, one in batch if one.image is not None]
        following = batch, None
        if images:
            full = np.stack(images + [images[0]] * (batch_size - len(images)))[..., None]
            following = batch, compute(full)
        if waiting:
            yield waiting
        waiting = following
    if waiting:
        yield waiting


def _batches(seen: Iterable[tuple[str, Seen]], size: int) -> Iterator[Batch]:
    """Yield lists of what comes, each with at most `size` images."""
    batch: Batch = []
    count = 0
    for one in seen:
        batch.append(one)
        count += one[1].image is not None
        if count == size or len(batch) == 2 * size:
            yield batch
            batch, count = [], 0
    if batch:
        yield batch


def _writer(write: Callable[[str], object], suffix: str) -> Callable[[Row], object]:
    """Return a function that writes a row by `write`."""

    def printable(id: str) -> str:  # names may hold bytes that are no UTF-8
        return os.fsencode(id).decode(errors="replace")

    if suffix == ".jsonl":
        return lambda row: write(json.dumps(row._replace(id=printable(row.id))._asdict()) + "\n")
    write(csv_row(Row._fields))
    return lambda row: write(csv_row(row._replace(id=printable(row.id), flags=";".join(row.flags))))


def _show(row: Row, counts: Counter[str], console: Console) -> None:
    """Count the row; print it if it is one of the first, or has an error. Its flags come first."""
    counts["images"] += 1
    counts["unreadable" if row.error else row.decision or "abstained"] += 1
    counts["flagged"] += bool(row.flags)
    counts.update(row.flags)
    if row.error:
        console.print(one_line(f"unreadable: {row.id}: {row.error}"))
    elif counts["images"] <= SHOWN:
        flags = f"flags: {', '.join(row.flags)}  " if row.flags else ""
        number = "no number" if row.probability is None else f"{row.probability:.3f}  {row.decision or '':<9}"
        console.print(f"{flags}{number}  {one_line(row.id)}")


def _summary(counts: Counter[str], calibration: Calibration) -> Iterator[str]:
    if counts["images"] > SHOWN:
        yield f"... of {counts['images']:,} images"
    readable = counts["images"] - counts["unreadable"]
    for sentence in neighbours.warnings(counted(readable, "image"), readable, counts[KNOWN], counts[UNLIKE]):
        yield f"Warning: {sentence}"
    abstained = f", {counts['abstained']:,} of them without a number" if counts["abstained"] else ""
    yield (
        f"{counted(counts['images'], 'image')}: {counts['pneumonia']:,} pneumonia, {counts['normal']:,} normal at"
        f" threshold {calibration.threshold:.3f}; {counts['flagged']:,} flagged{abstained}; {counts['unreadable']:,}"
        " unreadable."
    )
    yield f"Probabilities hold where {calibration.prevalence:.1%} of the images show pneumonia:"
    yield "--config.evaluation.prevalence restates them. Not for diagnosis."
