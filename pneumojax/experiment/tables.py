"""An experiment's tables: rows of text, for the terminal, for Markdown and for the page."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from pneumojax import shifts
from pneumojax.experiment import paired
from pneumojax.experiment.results import (
    CALIBRATED,
    REACHED,
    TOLD,
    Result,
    Spread,
    compared,
    ensembles,
    grouped,
    summaries,
    under_shifts,
)
from pneumojax.files import markdown_table


class Table(NamedTuple):
    """A table: what it shows, and cells of plain text, of which each row's first names it."""

    title: str
    note: str
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]


def section(results: Sequence[Result]) -> str:
    """Every table as Markdown."""
    return "\n".join(
        f"**{table.title}.** {table.note}\n\n{markdown_table(table.header, table.rows)}\n"
        for table in every_table(results)
    )


def every_table(results: Sequence[Result]) -> list[Table]:
    """The tables that the results have rows for."""
    found = [_models(results), _calibration(results), _time(results), _shifts(results), _pairs(results)]
    return [table for table in [*found, _ensembles(results)] if table.rows]


def chosen_by(split: str) -> str:
    """What a reader must know of figures on `split`, if anything."""
    if split != "val":
        return ""
    return "Checkpoints and thresholds were chosen on val too, so its figures are a little too good: hold out folds. "


_SPREAD = "Mean over runs, and their standard deviation."


def _models(results) -> Table:
    groups = grouped(results)
    split = results[0].split
    rows = [
        (_name(group_name), str(len(group)), *_row(summaries(group), TOLD[:-1])) for group_name, group in groups.items()
    ]
    share = next(iter(groups.values()))[0].told["majority_accuracy"]
    rows.append(("always the larger class", "", "0.5000", "0.5000", f"{share:.4f}", "", ""))
    header = ("model", "runs", "AUC", "balanced accuracy", "accuracy", "sensitivity", "specificity")
    note = f"At each run's stored threshold. {chosen_by(split)}{_SPREAD}"
    return Table(f"Models (Fig. 8), on {split}", note, header, rows)


def _calibration(results) -> Table:
    rows = [(_name(group_name), *_row(summaries(group), CALIBRATED)) for group_name, group in grouped(results).items()]
    note = f"Before and after the temperature and offset that were fitted on val. {_SPREAD}"
    return Table("Calibration", note, ("model", "Brier before", "after", "ECE before", "after"), rows)


def _time(results) -> Table:
    rows = []
    for group_name, group in grouped(results).items():
        told = summaries(group)
        reached = told["reached_s"]
        shown = "never" if reached is None else f"{_shown(reached, 0)} ({reached.count} of {len(group)} runs)"
        rows.append((_name(group_name), shown, _shown(told["training_s"], 0)))
    note = "Seconds of training steps, to the end of the first epoch that reaches it, and of all epochs."
    header = ("model", f"to val AUC {REACHED}", "all epochs")
    return Table(f"Time to val AUC {REACHED}", note, header, rows)


def _shifts(results) -> Table:
    columns = (shifts.CLEAN, "mean", "drop", *shifts.SHIFTS)
    rows = []
    for group_name, group in grouped(results).items():
        if told := under_shifts(group):
            rows.append((_name(group_name), *(_shown(told[column], 3) for column in columns)))
    note = f"Balanced accuracy under shifts made on purpose, at the threshold chosen without them. {_SPREAD}"
    return Table("Robustness", note, ("model", *columns), rows)


def _pairs(results) -> Table:
    rows = [
        (
            f"{_name(found.first)} - {_name(found.second)}",
            _difference(found.auc),
            _difference(found.balanced_accuracy),
            f"{found.decisions.first_alone} / {found.decisions.second_alone}, p {found.decisions.p:.2g}",
        )
        for found in compared(grouped(results))
    ]
    note = (
        "The first minus the second over runs of both on the same images: the mean, its 95 % interval and p by a t-test"
        " that allows for shared training images (Nadeau and Bengio 2003); images that one alone calls right, and p by"
        " McNemar's exact test, of each image once. Not corrected for the number of comparisons."
    )
    header = ("first - second", "AUC", "balanced accuracy", "right alone")
    return Table("Paired comparisons", note, header, rows)


def _ensembles(results) -> Table:
    shown = (*TOLD[:-1], "ece")
    rows = [(title, *_row(told, shown)) for title, told in ensembles(results).items()]
    note = f"The mean of the runs' log-odds, each by its own temperature, calibrated on val anew. {_SPREAD}"
    header = ("ensemble", "AUC", "balanced accuracy", "accuracy", "sensitivity", "specificity", "ECE")
    return Table("Ensembles", note, header, rows)


def _name(group: tuple[str, str]) -> str:
    return f"{group[0].upper()} {group[1]}"


def _row(told: Mapping[str, Spread | None], names: Iterable[str]) -> list[str]:
    return [_shown(told[name]) for name in names]


def _shown(value: Spread | None, digits: int = 4) -> str:
    if value is None:
        return ""
    deviation = "" if value.deviation is None else f" ± {value.deviation:.{digits}f}"
    return f"{value.mean:.{digits}f}{deviation}"


def _difference(value: paired.Difference) -> str:
    if value.interval is None:
        return f"{value.mean:+.4f}"
    return f"{value.mean:+.4f} ({value.interval[0]:+.4f} to {value.interval[1]:+.4f}), p {value.p:.2g}"
