"""The tables of an experiment: rows of text, for the terminal, for Markdown and for the page."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from pneumojax.evaluation import comparison, corruptions, paired_tests
from pneumojax.evaluation.comparison import TARGET_AUC, Result, Spread, grouped, summaries
from pneumojax.runtime.tables import markdown_table

SCORES = {
    "auc": "AUC",
    "balanced_accuracy": "balanced accuracy",
    "accuracy": "accuracy",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
}
CALIBRATION = {
    "brier_uncalibrated": "Brier before",
    "brier": "Brier after",
    "ece_uncalibrated": "ECE before",
    "ece": "ECE after",
}
_SPREAD = "Mean ± standard deviation over runs."


class Table(NamedTuple):
    """A table of plain text; the first cell of each row is the row's name."""

    title: str
    note: str
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]


def section(results: Sequence[Result]) -> str:
    """Format every table as Markdown."""
    return "\n".join(
        f"**{table.title}.** {table.note}\n\n{markdown_table(table.header, table.rows)}\n"
        for table in every_table(results)
    )


def every_table(results: Sequence[Result]) -> list[Table]:
    """Return the tables that the results have rows for."""
    makers = (_models, _sites, _calibration, _time, _corruptions, _pairs, _ensembles)
    return [table for table in (make(results) for make in makers) if table.rows]


def selection_note(split: str) -> str:
    """Return what a reader must know about scores on `split`, if anything."""
    if split != "val":
        return ""
    return "Checkpoints and thresholds were chosen on val too, so its scores are slightly optimistic: hold out folds. "


def group_name(group: tuple[str, str]) -> str:
    """Return the name of a (model, recipe) for readers."""
    model, recipe = group
    return f"{model.upper()} {recipe}"


def majority_accuracy(results: Sequence[Result]) -> float:
    """Return the accuracy of always predicting the larger class of the first run's foremost split."""
    return results[0].evaluation["majority_accuracy"]


def _models(results: Sequence[Result]) -> Table:
    rows = [
        (group_name(name), str(len(group)), *_cells(summaries(group), SCORES))
        for name, group in grouped(results).items()
    ]
    rows.append(("majority baseline", "", "0.5000", "0.5000", f"{majority_accuracy(results):.4f}", "", ""))
    split = results[0].split
    note = f"At each run's balanced threshold. {selection_note(split)}{_SPREAD}"
    return Table(f"Models on {split} (Fig. 8)", note, ("model", "runs", *SCORES.values()), rows)


def _sites(results: Sequence[Result]) -> Table:
    columns = SCORES | {"ece": "ECE"}
    rows = [
        (group_name(name), site, *_cells(found, columns)) for (name, site), found in comparison.by_site(results).items()
    ]
    note = f"Each run was trained on the other sites alone, and val is of these. The worst site comes first. {_SPREAD}"
    return Table("Sites left out", note, ("model", "site left out", *columns.values()), rows)


def _calibration(results: Sequence[Result]) -> Table:
    rows = [(group_name(name), *_cells(summaries(group), CALIBRATION)) for name, group in grouped(results).items()]
    note = f"Before and after calibration on val by a temperature and an offset. {_SPREAD}"
    return Table("Calibration", note, ("model", *CALIBRATION.values()), rows)


def _time(results: Sequence[Result]) -> Table:
    rows = []
    for name, group in grouped(results).items():
        spreads = summaries(group)
        reached = spreads["target_auc_s"]
        shown = "never" if reached is None else f"{_cell(reached, 0)} ({reached.runs} of {len(group)} runs)"
        rows.append((group_name(name), shown, _cell(spreads["training_s"], 0)))
    note = f"Seconds of training steps up to the first epoch with this AUC, and in all epochs. {_SPREAD}"
    return Table(f"Time to val AUC {TARGET_AUC}", note, ("model", f"to AUC {TARGET_AUC}", "all epochs"), rows)


def _corruptions(results: Sequence[Result]) -> Table:
    groups = {name: comparison.under_corruptions(group) for name, group in grouped(results).items()}
    groups = {name: spreads for name, spreads in groups.items() if spreads}
    names = (corruptions.CLEAN, "mean", "drop", *corruptions.CORRUPTIONS) if groups else ()
    rows = [(name, *(_cell(spreads[name], 3) for spreads in groups.values())) for name in names]
    note = (
        "Balanced accuracy under synthetic corruptions, at the threshold chosen without them. The drop is from clean to"
        f" the mean over corruptions. {_SPREAD}"
    )
    return Table("Robustness", note, ("corruption", *map(group_name, groups)), rows)


def _pairs(results: Sequence[Result]) -> Table:
    rows = [
        (
            f"{group_name(pair.first)} - {group_name(pair.second)}",
            _difference(pair.auc),
            _difference(pair.balanced_accuracy),
            f"{pair.decisions.first_alone} / {pair.decisions.second_alone}, p {pair.decisions.p:.2g}",
        )
        for pair in comparison.compared(grouped(results))
    ]
    note = (
        "First minus second, over the runs of both on the same images: mean, 95% confidence interval, and p of a t-test"
        " that is corrected for shared training images (Nadeau and Bengio 2003). Right alone: images that only the"
        " first / only the second predicts correctly, each image once, and p of McNemar's exact test. Not corrected for"
        " multiple comparisons."
    )
    return Table("Paired comparisons", note, ("first - second", "AUC", "balanced accuracy", "right alone"), rows)


def _ensembles(results: Sequence[Result]) -> Table:
    columns = SCORES | {"ece": "ECE"}
    rows = [(name, *_cells(spreads, columns)) for name, spreads in comparison.ensembles(results).items()]
    note = (
        "Mean log-odds of the runs, each scaled by its own temperature, then calibrated on val. Mean ± standard"
        " deviation over folds."
    )
    return Table("Ensembles", note, ("ensemble", *columns.values()), rows)


def _cells(spreads: Mapping[str, Spread | None], names: Iterable[str]) -> list[str]:
    return [_cell(spreads[name]) for name in names]


def _cell(value: Spread | None, digits: int = 4) -> str:
    if value is None:
        return ""
    deviation = "" if value.deviation is None else f" ± {value.deviation:.{digits}f}"
    return f"{value.mean:.{digits}f}{deviation}"


def _difference(value: paired_tests.Difference) -> str:
    if value.interval is None:
        return f"{value.mean:+.4f}"
    low, high = value.interval
    return f"{value.mean:+.4f} ({low:+.4f} to {high:+.4f}), p {value.p:.2g}"
