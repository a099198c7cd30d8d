"""`--mode=predict`: images without labels -> a row for each, as they come."""

import csv
import json
import os
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import islice
from typing import NamedTuple, TextIO

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from pneumojax import devices, log, metrics, neighbours
from pneumojax.calibration import Calibration
from pneumojax.data.inputs import Inputs, Seen, open_inputs
from pneumojax.data.records import CLASSES
from pneumojax.data.unreadable import UnreadableImage
from pneumojax.data.workers import in_parallel
from pneumojax.errors import UserError, one_line
from pneumojax.evaluate import Evaluator
from pneumojax.files import becoming
from pneumojax.interrupt import deferred
from pneumojax.trained import load

FOLDER = "predictions"
SHOWN = 20  # rows on the terminal
UNLIKE = "unlike_training"


class Row(NamedTuple):
    """What is told of one image; of one that cannot be read, `id` and `error` alone.

    Attributes:
      id: path of the file as it was given, or place in an NPZ file.
      probability: of pneumonia, calibrated, at the prevalence that was asked for, in [0, 1].
      decision: "pneumonia" where the probability reaches `threshold`, that of best balanced accuracy, else "normal".
      threshold: as stored with the model, in [0, 1]; at the prevalence that was asked for.
      decision_at_sens95: the same at `threshold_sens95`.
      threshold_sens95: at which 95 % of the pneumonia in val was found.
      unlikeness: distance to the training images, see `neighbours.unlikeness`, in [0, 2].
      doubts: of "size", "colour", "constant", "inverted" and "unlike_training", why not to rely on it.
      error: why the image cannot be read.
    """

    id: str
    probability: float | None = None
    decision: str | None = None
    threshold: float | None = None
    decision_at_sens95: str | None = None
    threshold_sens95: float | None = None
    unlikeness: float | None = None
    doubts: tuple[str, ...] = ()
    error: str | None = None


def predict_mode(config: ConfigDict, workdir: epath.Path, data: str | None) -> int:
    """Predicts every image at `data`, see `data.inputs.open_inputs`; the exit status is 1 where any is unreadable.

    Rows go to predictions/<name>.csv in the workdir, or where `prediction.output` says: .csv, or .jsonl for a line of
    JSON each. Each process of a job, and each `prediction.shard`, has its own part of the images, and its own file.

    Raises:
      UserError: there is no data, no trained model, or the output cannot be written.
      KeyboardInterrupt: SIGINT or SIGTERM came; nothing is left of the rows.
    """
    if data is None:
        raise UserError("give --data: a file, a folder, a pattern in quotes, or an .npz file")
    part, parts = _shard(config)
    inputs = open_inputs(data)
    output = _output(config, workdir, inputs.name, part, parts)
    index = neighbours.read(workdir)
    layout = devices.layout(jax.local_devices())
    with jax.set_mesh(layout.mesh):
        trained = load(workdir, config, layout)
        evaluator = Evaluator(trained.model, layout, config.evaluation.batch_size)

        def compute(images):
            return evaluator.batch(trained.variables, images)

        seen = _look(inputs, (part, parts), config.model.image_size, config.data.workers)
        batches = _computed(seen, compute, evaluator.batch_size)
        told = Counter()
        with deferred() as asked, becoming(output) as unfinished, unfinished.open("w") as file:
            write = _writer(file, output.suffix)
            for batch in batches:
                for row in rows(*batch, trained.calibration, index):
                    write(row)
                    _tell(row, told)
                if asked():
                    raise KeyboardInterrupt  # and leaves no part of the rows behind
    for line in _summary(told, trained.calibration):
        log.console.print(line)
    log.console.print(f"Written: {output}")
    return 1 if told["unreadable"] else 0


def _shard(config: ConfigDict) -> tuple[int, int]:
    """Which part of how many: as the config says, or this process of JAX's."""
    if not config.prediction.shard:
        return jax.process_index(), jax.process_count()
    part, parts = map(int, config.prediction.shard.split("/"))
    return part, parts


def _output(config, workdir, name, part, parts) -> epath.Path:
    given = config.prediction.output
    path = epath.Path(given).expanduser() if given else workdir / FOLDER / f"{name}.csv"
    return path.with_name(f"{path.stem}-{part:05d}-of-{parts:05d}{path.suffix}") if parts > 1 else path


def _look(inputs: Inputs, shard: tuple[int, int], size: int, workers: int) -> Iterator[tuple[str, Seen]]:
    """Every id of this part, and what is seen there."""
    pending = deque()

    def ids():
        for id in islice(inputs.ids, shard[0], None, shard[1]):
            pending.append(id)
            yield id

    for seen in in_parallel(partial(inputs.look, size=size), ids(), workers):
        crashed = isinstance(seen, UnreadableImage)
        yield pending.popleft(), Seen(None, str(seen), ()) if crashed else seen


def _computed(seen: Iterable[tuple[str, Seen]], compute, batch_size: int):
    """Batches of what was seen, each with its logits and features; one is computed while the next is read."""
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


def _batches(seen, size):
    """Lists of what comes, each with at most `size` images."""
    batch, count = [], 0
    for one in seen:
        batch.append(one)
        count += one[1].image is not None
        if count == size or len(batch) == 2 * size:
            yield batch
            batch, count = [], 0
    if batch:
        yield batch


def rows(batch, outputs, calibration: Calibration, index: neighbours.Index) -> list[Row]:
    """What is told of a batch.

    Args:
      batch: (id, `Seen`) of each.
      outputs: logits and features of those that have an image, in order, and perhaps of more; None where none has.
      calibration: of the model.
      index: its training images.
    """
    readable = [(id, seen) for id, seen in batch if seen.image is not None]
    told = {}
    if readable:
        logits, features = (np.asarray(part, np.float32)[: len(readable)] for part in jax.device_get(outputs))
        chances = metrics.probabilities(logits, calibration.temperature, calibration.offset)
        far = neighbours.unlikeness(index, features)
        for (id, seen), p, distance in zip(readable, chances.tolist(), far.tolist(), strict=True):
            told[id] = Row(
                id=id,
                probability=p,
                decision=CLASSES[p >= calibration.threshold],
                threshold=calibration.threshold,
                decision_at_sens95=CLASSES[p >= calibration.threshold_sens95],
                threshold_sens95=calibration.threshold_sens95,
                unlikeness=distance,
                doubts=(*seen.doubts, UNLIKE) if distance > index.limit else seen.doubts,
            )
    return [told.get(id) or Row(id=id, error=seen.problem) for id, seen in batch]


def _writer(file: TextIO, suffix: str):
    """A function that writes a row."""

    def fit(id):  # names may hold bytes that are no UTF-8
        return os.fsencode(id).decode(errors="replace")

    if suffix == ".jsonl":
        return lambda row: file.write(json.dumps(row._replace(id=fit(row.id))._asdict()) + "\n")
    table = csv.writer(file, lineterminator="\n")
    table.writerow(Row._fields)
    return lambda row: table.writerow(row._replace(id=fit(row.id), doubts=";".join(row.doubts)))


def _tell(row: Row, told: Counter) -> None:
    """Counts the row, and shows it if it is one of the first, or has an error."""
    told["images"] += 1
    told[row.decision or "unreadable"] += 1
    told["doubtful"] += bool(row.doubts)
    if row.error:
        log.console.print(one_line(f"unreadable: {row.id}: {row.error}"))
    elif told["images"] <= SHOWN:
        doubts = f"  doubtful: {', '.join(row.doubts)}" if row.doubts else ""
        log.console.print(f"{row.probability:.3f}  {row.decision:<9}  {one_line(row.id)}{doubts}")


def _summary(told: Counter, calibration: Calibration) -> Iterator[str]:
    if told["images"] > SHOWN:
        yield f"... of {told['images']:,} images"
    yield (
        f"{told['images']:,} images: {told['pneumonia']:,} pneumonia, {told['normal']:,} normal at threshold"
        f" {calibration.threshold:.3f}; {told['doubtful']:,} doubtful; {told['unreadable']:,} unreadable."
    )
    yield (
        f"Probabilities hold where {calibration.prevalence:.1%} have pneumonia: --config.evaluation.prevalence restates"
        " them. Not for diagnosis."
    )
