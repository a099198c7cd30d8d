"""From a checkpoint and a split to logits, metrics and files."""

import csv
import io
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from pneumojax import devices, metrics, models
from pneumojax.calibration import Calibration
from pneumojax.data.readers import Split
from pneumojax.errors import UserError
from pneumojax.files import csv_table, write_whole

FOLDER = "evaluation"
SHIFTS_FOLDER = "shifts"


def eval_step(model: models.Classifier, variables: dict, images: jax.Array) -> jax.Array:
    """Logits of a batch in inference mode: (batch, height, width, 1) uint8 -> (batch,) float32."""
    return model.apply(variables, images.astype(jnp.float32) / 255, train=False)


def compile_logits(layout: devices.Layout, model: models.Classifier):
    """`eval_step` of a model, jitted over the mesh: (variables, images) -> logits."""
    return jax.jit(
        lambda variables, images: eval_step(model, variables, images),
        in_shardings=(layout.everywhere, layout.divided),
        out_shardings=layout.everywhere,
    )


class Evaluator:
    """`eval_step` compiled once for a model and a layout of devices."""

    def __init__(self, model: models.Classifier, layout: devices.Layout, batch_size: int):
        """Batches are of `batch_size`, rounded up to a multiple of the devices."""
        self._batch_size = -(-batch_size // layout.mesh.size) * layout.mesh.size
        self._layout = layout
        self._step = compile_logits(layout, model)

    def logits(self, variables: dict, split: Split) -> np.ndarray:
        """The logit of every image of `split`, (n,) float32, each counted once.

        The last batch is filled up with its first image, and what that gives is dropped.

        Args:
          variables: the model's, `{"params": ..., "batch_stats": ...}`.
          split: the images.
        """
        results = [self._step(variables, devices.place(self._layout, images)) for images in self._read_ahead(split)]
        return np.concatenate(jax.device_get(results))[: len(split.ids)]

    def _read_ahead(self, split: Split) -> Iterator[np.ndarray]:
        """This process's rows of each batch, the next one read while the last is computed."""
        rows = devices.own_rows(self._layout, self._batch_size)
        starts = range(0, len(split.ids), self._batch_size)

        def read(start):
            indices = np.arange(start, start + self._batch_size)
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


def write_shifts(workdir: epath.Path, stem: str, summaries: dict[str, dict]) -> None:
    """Writes shifts/<stem>.json: the name of each shift, and of none, -> what `summarize` tells under it."""
    write_whole(workdir / SHIFTS_FOLDER / f"{stem}.json", json.dumps(summaries, indent=2) + "\n")


def read(workdir: epath.Path) -> dict[str, dict]:
    """What `write` has written: stem -> the JSON's content, with the CSV's `ids` and `scores`.

    Scores are (labels, probabilities). Arrays are (n,), empty where there is no CSV.
    """
    folder = workdir / FOLDER
    paths = sorted(folder.glob("*.json")) if folder.exists() else []
    return {path.stem: json.loads(path.read_text()) | _rows(path.with_suffix(".csv")) for path in paths}


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
