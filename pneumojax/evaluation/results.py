"""The files of an evaluation: write them, read them, and show them on the terminal."""

import csv
import io
import json
import textwrap
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Float, Integer

from pneumojax.data.source import Split
from pneumojax.evaluation import metrics, summary
from pneumojax.evaluation.calibration import Calibration
from pneumojax.runtime import workdir as workdirs
from pneumojax.runtime.errors import UserError
from pneumojax.runtime.files import write_whole
from pneumojax.runtime.tables import csv_table, markdown_table

Summary = dict[str, Any]  # what `summarize` returns
Evaluation = dict[str, Any]  # of one split: its summary, its origin, and what `read` adds
_COLUMNS = 80  # of a terminal
_HARD_SPACE = "\N{NO-BREAK SPACE}"


def refuse_other_source(workdir: epath.Path, stem: str, location: str) -> None:
    """Check that evaluation/<stem>.json is free, or of the source at `location`.

    Raises:
      UserError: it is of a source with the same name elsewhere.
    """
    path = workdir / workdirs.EVALUATION / f"{stem}.json"
    source = json.loads(path.read_text()).get("source", location) if path.exists() else location
    if source != location:
        raise UserError(f"{path} is the evaluation of {source}: rename that file, or the folder {location}")


def write(
    workdir: epath.Path,
    stem: str,
    split: Split,
    logits: Float[np.ndarray, " n"],
    calibration: Calibration,
    origin: dict[str, Any],
) -> Evaluation:
    """Write evaluation/<stem>.json and evaluation/<stem>.csv in the run's workdir; return what the JSON file holds.

    Of the split, only ids and labels are read. `origin` are fields about the source and the model, which are written
    beside the metrics.
    """
    evaluation = origin | summarize(split.labels, logits, calibration)
    p = metrics.probabilities(logits, calibration.temperature, calibration.offset)
    rows = zip(split.ids.tolist(), split.labels.tolist(), p.tolist(), strict=True)
    write_whole(workdir / workdirs.EVALUATION / f"{stem}.csv", csv_table(("id", "label", "probability"), rows))
    write_whole(workdir / workdirs.EVALUATION / f"{stem}.json", json.dumps(evaluation, indent=2) + "\n")
    return evaluation


def summarize(labels: Integer[np.ndarray, " n"], logits: Float[np.ndarray, " n"], calibration: Calibration) -> Summary:
    """Compute `summary.every_metric` with this calibration; `prevalence` is the one that its probabilities hold for."""
    parameters = calibration._asdict()
    return {"prevalence": parameters.pop("prevalence")} | summary.every_metric(labels, logits, **parameters)


def read(workdir: epath.Path) -> dict[str, Evaluation]:
    """Read what `write` wrote, by stem: the content of the JSON file, with `ids` and `scores` of the CSV file.

    `ids` are (n,), and `scores` the labels and the probabilities, each (n,). They are empty if there is no CSV file.
    """
    folder = workdir / workdirs.EVALUATION
    paths = sorted(folder.glob("*.json")) if folder.exists() else []
    return {path.stem: json.loads(path.read_text()) | _scores(path.with_suffix(".csv")) for path in paths}


def read_own(workdir: epath.Path) -> dict[str, Evaluation]:
    """Read the evaluations of the run's own splits, whose names have no hyphen; others start with "<source>-"."""
    return {stem: evaluation for stem, evaluation in read(workdir).items() if "-" not in stem}


def _scores(path: epath.Path) -> dict[str, Any]:
    text = path.read_bytes().decode() if path.exists() else ""
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    labels = np.array([int(row["label"]) for row in rows], int)
    probabilities = np.array([float(row["probability"]) for row in rows])
    return {"ids": np.array([row["id"] for row in rows]), "scores": (labels, probabilities)}


def corruptions_file(workdir: epath.Path, stem: str) -> epath.Path:
    """Return the path of corruptions/<stem>.json."""
    return workdir / workdirs.CORRUPTIONS / f"{stem}.json"


def write_corruptions(workdir: epath.Path, stem: str, summaries: dict[str, Summary]) -> None:
    """Write the summary under each corruption, and under `corruptions.CLEAN` the one without."""
    write_whole(corruptions_file(workdir, stem), json.dumps(summaries, indent=2) + "\n")


def read_corruptions(workdir: epath.Path, stem: str) -> dict[str, Summary]:
    """Read what `write_corruptions` wrote; empty if there is no file."""
    path = corruptions_file(workdir, stem)
    return json.loads(path.read_text()) if path.exists() else {}


def describe(stem: str, summary: Summary) -> str:
    """Format AUC and accuracies for the terminal, beside the accuracy of always predicting the larger class."""
    scores = [_score(summary, name) for name in ("auc", "majority_accuracy", "balanced_accuracy", "accuracy")]
    title, *others = (part.replace(" ", _HARD_SPACE) for part in (f"{stem} (n={summary['n']}):", *scores))
    line = f"{title} {', '.join(others)}"
    lines = textwrap.fill(line, _COLUMNS, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    return lines.replace(_HARD_SPACE, " ")


def _score(summary: Summary, name: str) -> str:
    value, interval = summary[name], summary.get(f"{name}_ci")
    if value is None:
        return f"{name} undefined ({summary[f'{name}_reason']})"
    return f"{name} {value:.4f}" + (f" [{interval[0]:.4f}, {interval[1]:.4f}]" if interval else "")


def corruptions_table(stem: str, summaries: dict[str, Summary]) -> str:
    """Format a split's scores under each corruption as a table for the terminal."""
    columns = ("auc", "balanced_accuracy", "sensitivity", "specificity")
    rows = [
        [name, *("" if summary[column] is None else f"{summary[column]:.4f}" for column in columns)]
        for name, summary in summaries.items()
    ]
    return markdown_table((stem, "AUC", "balanced accuracy", "sensitivity", "specificity"), rows)
