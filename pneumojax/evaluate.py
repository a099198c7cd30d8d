"""From a checkpoint and a split to logits, metrics and files."""

import csv
import io
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from pneumojax import devices, metrics, models, neighbours
from pneumojax.calibration import Calibration
from pneumojax.data.readers import Split
from pneumojax.errors import UserError
from pneumojax.files import csv_table, write_whole

FOLDER = "evaluation"
SHIFTS_FOLDER = "shifts"


def eval_step(model: models.Classifier, variables: dict, images: jax.Array) -> tuple[jax.Array, jax.Array]:
    """What the model makes of a batch in inference mode.

    Args:
      model, variables: of the network.
      images: (batch, height, width, 1) uint8.

    Returns:
      Logits (batch,) float32, and features (batch, `family.HEAD_UNITS`): the output of the last hidden layer.
    """
    hidden, head = models.halves(model, variables, neighbours.LAYER)
    features = hidden(images.astype(jnp.float32) / 255)
    return head(features), features


def compile_eval(layout: devices.Layout, model: models.Classifier):
    """`eval_step` of a model, jitted over the mesh: (variables, images) -> (logits, features)."""
    return jax.jit(
        lambda variables, images: eval_step(model, variables, images),
        in_shardings=(layout.everywhere, layout.divided),
        out_shardings=layout.everywhere,
    )


class Outputs(NamedTuple):
    """What `eval_step` gives, of many images: logits (n,) and features (n, d), float32."""

    logits: np.ndarray
    features: np.ndarray


class Evaluator:
    """`eval_step` compiled once for a model and a layout of devices."""

    def __init__(self, model: models.Classifier, layout: devices.Layout, batch_size: int):
        """Batches are of `batch_size`, rounded up to a multiple of the devices."""
        self.batch_size = -(-batch_size // layout.mesh.size) * layout.mesh.size
        self._layout = layout
        self._step = compile_eval(layout, model)

    def outputs(self, variables: dict, split: Split, after_batch: Callable[[], None] = lambda: None) -> Outputs:
        """What the model makes of every image of `split`, each counted once.

        The last batch is filled up with its first image, and what that gives is dropped.

        Args:
          variables: the model's, `{"params": ..., "batch_stats": ...}`.
          split: the images.
          after_batch: called after each batch; it may raise what stops the rest.
        """
        batches = []
        for images in self._read_ahead(split):
            batches.append(self.batch(variables, images))
            jax.block_until_ready(batches[-2:][0])  # one is under way while the next is read
            after_batch()
        parts = zip(*jax.device_get(batches), strict=True)
        return Outputs(*(np.concatenate(part)[: len(split.ids)].astype(np.float32) for part in parts))

    def batch(self, variables: dict, rows: np.ndarray) -> tuple[jax.Array, jax.Array]:
        """`eval_step` of a batch of `batch_size`, of which each process gives its own rows."""
        return self._step(variables, devices.place(self._layout, rows))

    def _read_ahead(self, split: Split) -> Iterator[np.ndarray]:
        """This process's rows of each batch, the next one read while the last is computed."""
        rows = devices.own_rows(self._layout, self.batch_size)
        starts = range(0, len(split.ids), self.batch_size)

        def read(start):
            indices = np.arange(start, start + self.batch_size)
            return split.read(np.where(indices < len(split.ids), indices, start)[rows])

        with ThreadPoolExecutor(1) as reader:
            waiting = None
            for start in starts:
                following = reader.submit(read, start)
                if waiting:
                    yield waiting.result()
                waiting = following
            yield waiting.result()


def refuse_other_source(workdir: epath.Path, stem: str, location: str) -> None:
    """Raises UserError if evaluation/<stem>.json is of a source elsewhere, whose folder has the same name."""
    path = workdir / FOLDER / f"{stem}.json"
    found = json.loads(path.read_text()).get("source", location) if path.exists() else location
    if found != location:
        raise UserError(f"{path} is of {found}: rename that file, or the folder {location}")


def write(
    workdir: epath.Path,
    stem: str,
    split: Split,
    logits: np.ndarray,
    calibration: Calibration,
    told: dict,
) -> dict:
    """Writes evaluation/<stem>.json and .csv in the workdir, and returns the JSON's content.

    That is what is `told` of the source and the model, and `summary`.
    """
    summary = told | summarize(split.labels, logits, calibration)
    p = metrics.probabilities(logits, calibration.temperature, calibration.offset)
    rows = zip(split.ids.tolist(), split.labels.tolist(), p.tolist(), strict=True)
    write_whole(workdir / FOLDER / f"{stem}.csv", csv_table(("id", "label", "probability"), rows))
    write_whole(workdir / FOLDER / f"{stem}.json", json.dumps(summary, indent=2) + "\n")
    return summary


def summarize(labels: np.ndarray, logits: np.ndarray, calibration: Calibration) -> dict:
    """`metrics.summary` as the calibration has it, with the `prevalence` that its probabilities hold for."""
    given = calibration._asdict()
    return {"prevalence": given.pop("prevalence")} | metrics.summary(labels, logits, **given)


def shifts_file(workdir: epath.Path, stem: str) -> epath.Path:
    """shifts/<stem>.json: the name of each shift, and of none, -> what `summarize` tells under it."""
    return workdir / SHIFTS_FOLDER / f"{stem}.json"


def write_shifts(workdir: epath.Path, stem: str, summaries: dict[str, dict]) -> None:
    """Writes `shifts_file`."""
    write_whole(shifts_file(workdir, stem), json.dumps(summaries, indent=2) + "\n")


def read(workdir: epath.Path) -> dict[str, dict]:
    """What `write` has written: stem -> the JSON's content, with the CSV's `ids` and `scores`.

    Scores are (labels, probabilities). Arrays are (n,), empty where there is no CSV.
    """
    folder = workdir / FOLDER
    paths = sorted(folder.glob("*.json")) if folder.exists() else []
    return {path.stem: json.loads(path.read_text()) | _rows(path.with_suffix(".csv")) for path in paths}


def read_own(workdir: epath.Path) -> dict[str, dict]:
    """`read`, of the run's own splits, whose names have no hyphen; other sources' begin with "<source>-"."""
    return {stem: told for stem, told in read(workdir).items() if "-" not in stem}


def _rows(path: epath.Path) -> dict:
    text = path.read_bytes().decode() if path.exists() else ""
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    labels = np.array([int(row["label"]) for row in rows], int)
    probabilities = np.array([float(row["probability"]) for row in rows])
    return {"ids": np.array([row["id"] for row in rows]), "scores": (labels, probabilities)}


def line(stem: str, summary: dict) -> str:
    """One line for the terminal: the split's AUC and accuracies beside what always answering the majority scores."""

    def told(name):
        value, interval = summary[name], summary.get(f"{name}_ci")
        if value is None:
            return f"{name} undefined ({summary[f'{name}_reason']})"
        return f"{name} {value:.4f}" + (f" [{interval[0]:.4f}, {interval[1]:.4f}]" if interval else "")

    names = ("auc", "balanced_accuracy", "accuracy", "majority_accuracy")
    return f"{stem} (n={summary['n']}): " + ", ".join(map(told, names))
