"""The files of an evaluation: write them, read them, and show them on the terminal."""

import json
import textwrap
from contextlib import suppress
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Float, Integer

from pneumojax.data.source import Split
from pneumojax.evaluation import groups, metrics, neighbours, summary
from pneumojax.evaluation.calibration import Calibration
from pneumojax.evaluation.corruptions import CLEAN, CORRUPTIONS
from pneumojax.runtime import run_identity
from pneumojax.runtime import workdir as workdirs
from pneumojax.runtime.errors import one_line
from pneumojax.runtime.files import read_json, write_whole
from pneumojax.runtime.tables import csv_table, markdown_table, read_csv_table
from pneumojax.runtime.wording import counted

Summary = dict[str, Any]  # what `summarize` returns
Evaluation = dict[str, Any]  # of one split: its summary, its origin, and what `read` adds
_COLUMNS = 80  # of a terminal
_REQUIRED = (
    "n", "positives", "threshold", "temperature", "offset", "majority_accuracy", "auc", "bce", "average_precision",
    "brier", "brier_uncalibrated", "ece", "ece_uncalibrated",
    *(f"{name}{suffix}" for suffix in ("", "_at_0.5")
      for name in ("confusion", "balanced_accuracy", "accuracy", "sensitivity", "specificity")),
)  # fmt: skip
_HARD_SPACE = "\N{NO-BREAK SPACE}"


def write(
    workdir: epath.Path,
    stem: str,
    split: Split,
    logits: Float[np.ndarray, " n"],
    calibration: Calibration,
    origin: dict[str, Any],
) -> Evaluation:
    """Write evaluation/<stem>.json and evaluation/<stem>.csv in the run's workdir; return what the JSON file holds.

    Of the split, only ids, labels and groups are read. `origin` are fields about the source and the model, which are
    written beside the metrics. If the images make groups, `groups` has the metrics of each: see `groups.by_group`.
    """
    evaluation = origin | summarize(split.labels, logits, calibration)
    if divided := groups.by_group(split.groups, split.labels, logits, calibration):
        evaluation["groups"] = divided
    p = metrics.probabilities(logits, calibration.temperature, calibration.offset)
    rows = zip(split.ids.tolist(), split.labels.tolist(), p.tolist(), strict=True)
    write_whole(workdir / workdirs.EVALUATION / f"{stem}.csv", csv_table(("id", "label", "probability"), rows))
    write_whole(workdir / workdirs.EVALUATION / f"{stem}.json", json.dumps(evaluation, indent=2) + "\n")
    return evaluation


def summarize(labels: Integer[np.ndarray, " n"], logits: Float[np.ndarray, " n"], calibration: Calibration) -> Summary:
    """Compute `summary.every_metric` with this calibration; `prevalence` is the one that its probabilities hold for."""
    parameters = calibration._asdict()
    return {"prevalence": parameters.pop("prevalence")} | summary.every_metric(labels, logits, **parameters)


def read(workdir: epath.Path, partial: bool = False) -> dict[str, Evaluation]:
    """Read what `write` wrote, by stem: the content of the JSON file, with `ids` and `scores` of the CSV file.

    `ids` are (n,), and `scores` the labels and the probabilities, each (n,). Files that are damaged, incomplete, or of
    another run than the one in `workdir`, are passed over: evaluating writes them again. With `partial`, metrics and
    rows may be missing, as a report shows them; without a CSV file, `ids` and `scores` are empty.
    """
    folder, run = workdir / workdirs.EVALUATION, run_identity.of_workdir(workdir).id
    found = {}
    for path in sorted(folder.glob("*.json")) if folder.exists() else []:
        with suppress(AttributeError, KeyError, OSError, TypeError, ValueError):
            evaluation = _checked(read_json(path), partial)
            if evaluation.get("run", "") == run:
                found[path.stem] = evaluation | _scores(path.with_suffix(".csv"), None if partial else evaluation["n"])
    return found


def read_own(workdir: epath.Path, partial: bool = False) -> dict[str, Evaluation]:
    """Read the evaluations of the run's own splits, whose names have no hyphen; others start with "<source>-"."""
    return {stem: evaluation for stem, evaluation in read(workdir, partial).items() if "-" not in stem}


def _checked(content: Any, partial: bool = False) -> Summary:
    """Return what a file of `write` holds; raise KeyError, TypeError or ValueError if it is anything else."""
    for name in () if partial else _REQUIRED:
        content[name]
    for name, value in content.items():
        undefined = (
            partial
            or name in ("epoch", "threshold_sens95")
            or not {f"{name}_reason", f"{name.removesuffix('_ci')}_reason"}.isdisjoint(content)
        )
        if name in ("n", "positives"):
            holds = type(value) is int and value >= 0
        elif name.startswith("confusion"):
            holds = all(type(value[part]) is int and value[part] >= 0 for part in ("tp", "fp", "fn", "tn"))
        elif name.endswith("_ci"):
            holds = [_is_number(end) for end in value] == [True, True] if value is not None else undefined
        elif name.endswith("_reason") or name in ("source", "notice", "run", "site"):
            holds = isinstance(value, str)
        elif name == "groups":
            holds = bool(groups.checked(value))
        elif name == "members":
            holds = isinstance(value, list)
        elif name == "threshold":
            holds = _is_number(value) and 0 <= value <= 1
        elif name.partition("_at_")[0] in (
            *_REQUIRED,
            "epoch",
            "prevalence",
            "known_images",
            "site_images",
            "unlike_training",
        ):
            holds = _is_number(value) or (value is None and undefined)
        else:  # another version's
            holds = True
        if not holds:
            raise ValueError(f"{name} is {value!r}")
    return content


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and bool(np.isfinite(value))


def _scores(path: epath.Path, n: int | None) -> dict[str, Any]:
    rows = read_csv_table(path.read_bytes().decode())[1:] if path.exists() else []
    ids, texts, numbers = zip(*rows, strict=True) if rows else ((), (), ())
    labels = np.array([("0", "1").index(text) for text in texts], int)
    probabilities = np.array([float(number) for number in numbers])
    if n is not None and len(ids) != n:
        raise ValueError("it is of other images, or missing")
    if not np.all((probabilities >= 0) & (probabilities <= 1)):
        raise ValueError("a probability is out of range")
    return {"ids": np.array(ids), "scores": (labels, probabilities)}


def corruptions_file(workdir: epath.Path, stem: str) -> epath.Path:
    """Return the path of corruptions/<stem>.json."""
    return workdir / workdirs.CORRUPTIONS / f"{stem}.json"


def write_corruptions(workdir: epath.Path, stem: str, summaries: dict[str, Summary]) -> None:
    """Write the summary under each corruption, and under `corruptions.CLEAN` the one without."""
    write_whole(corruptions_file(workdir, stem), json.dumps(summaries, indent=2) + "\n")


def read_corruptions(workdir: epath.Path, stem: str) -> dict[str, Summary]:
    """Read what `write_corruptions` wrote; empty if there is none, it is damaged, or has another threshold than now."""
    with suppress(AttributeError, KeyError, OSError, TypeError, ValueError):
        path = corruptions_file(workdir, stem)
        found = read_json(path if path.exists() else workdir / "shifts" / path.name)  # as 0.1 called the folder
        summaries = {name: _checked(found[name]) for name in (CLEAN, *CORRUPTIONS)}
        evaluation = workdir / workdirs.EVALUATION / path.name
        used = read_json(evaluation).get("threshold") if evaluation.exists() else None
        return summaries if used in (None, summaries[CLEAN].get("threshold", used)) else {}
    return {}


def against_chance(summary: Summary) -> str:
    """Return "worse than chance", "not shown to be better than chance", or nothing, by the interval of AUC."""
    low, high = summary.get("auc_ci") or (1.0, 1.0)
    if high < 0.5:
        return "worse than chance"
    return "not shown to be better than chance" if low <= 0.5 else ""


def warnings(stem: str, evaluation: Evaluation) -> list[str]:
    """Return what must be known before an evaluation's scores are read, in sentences."""
    n, known, unlike = (evaluation.get(name, 0) for name in ("n", "known_images", "unlike_training"))
    chance = against_chance(evaluation)
    first = [f"On {stem}, the model is {chance}: do not use it on such images."] if chance else []
    if of_site := evaluation.get("site_images", 0):
        first.append(
            f"{counted(of_site, 'image')} of {stem} set the thresholds of the site: scores on them are a bit too good."
        )
    return first + neighbours.warnings(f"{counted(n, 'image')} of {stem}", n, known, unlike)


def describe(stem: str, summary: Summary) -> str:
    """Format AUC and accuracies for the terminal, beside the accuracy of always predicting the larger class.

    What `warnings` says comes first.
    """
    scores = [_score(summary, name) for name in ("auc", "majority_accuracy", "balanced_accuracy", "accuracy")]
    title, *others = (part.replace(" ", _HARD_SPACE) for part in (f"{stem} (n={summary['n']}):", *scores))
    line = f"{title} {', '.join(others)}"
    lines = textwrap.fill(line, _COLUMNS, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    first = [textwrap.fill(f"Warning: {sentence}", _COLUMNS) for sentence in warnings(stem, summary)]
    return "\n".join([*first, lines.replace(_HARD_SPACE, " ")])


def _score(summary: Summary, name: str) -> str:
    value, interval = summary[name], summary.get(f"{name}_ci")
    if value is None:
        return f"{name} undefined ({summary[f'{name}_reason']})"
    return f"{name} {value:.4f}" + (f" [{interval[0]:.4f}, {interval[1]:.4f}]" if interval else "")


def groups_table(stem: str, evaluation: Evaluation) -> str:
    """Format the foremost metrics of each group for the terminal, the worst first; empty if there are none."""
    found = evaluation.get("groups")
    if not found:
        return ""
    columns = [groups.HEADER.index(name) for name in ("group", "n", "AUC", "balanced accuracy")]
    cells = [[one_line(row[column]) for column in columns] for row in groups.rows(found)]
    longest = _COLUMNS - 58  # what the other columns leave for the group
    rows = [[name if len(name) <= longest else f"{name[: longest - 1]}…", *others] for name, *others in cells]
    table = markdown_table([groups.HEADER[column] for column in columns], rows)
    return f"Groups of {stem}, the worst first:\n{table}"


def corruptions_table(stem: str, summaries: dict[str, Summary]) -> str:
    """Format a split's scores under each corruption as a table for the terminal."""
    columns = ("auc", "balanced_accuracy", "sensitivity", "specificity")
    rows = [
        [name, *("" if summary[column] is None else f"{summary[column]:.4f}" for column in columns)]
        for name, summary in summaries.items()
    ]
    return markdown_table((stem, "AUC", "balanced accuracy", "sensitivity", "specificity"), rows)
