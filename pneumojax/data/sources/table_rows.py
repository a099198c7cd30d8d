"""What each row of a table of labels says of its image, and what its readers agree on."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from pneumojax.data.patient_hash import hashed
from pneumojax.data.source import SPLIT_NAMES, Options
from pneumojax.data.sources import public_tables
from pneumojax.data.sources.csv_table import Table
from pneumojax.data.sources.labels import RULES, is_frontal
from pneumojax.data.sources.matching import tidy
from pneumojax.data.sources.public_tables import FORMS, Form, Unclear
from pneumojax.runtime.errors import UserError
from pneumojax.runtime.wording import counted

_NO_RADIOGRAPHS = ("ct", "mr", "mri")


class Row(NamedTuple):
    """What a table says of an image.

    Attributes:
      label: None for an image to leave out: by its label, its view, or since it is no radiograph.
      patient: a key, see `patient_hash`; None if the table does not tell.
      split: empty if the table does not tell.
      stands_for: a key of the patient whose only image this is, as the image's own name says; None if it does not.
    """

    label: int | None
    patient: str | None
    split: str
    stands_for: str | None


class Reading(NamedTuple):
    """What a table, or several of one form, says.

    Attributes:
      paths: of the tables.
      form: that they have.
      title: of the column that labels.
      by_rule: whether the labels depend on the label rule.
      rows: by the images' names.
    """

    paths: tuple[Path, ...]
    form: Form
    title: str
    by_rule: bool
    rows: dict[str, Row]

    @property
    def name(self) -> str:
        """The tables' paths, for messages."""
        return " and ".join(map(str, self.paths))


class _Columns(NamedTuple):
    id: str
    label: str
    patient: str | None
    view: str | None
    reader: str | None
    split: str | None


def form_of(table: Table) -> Form | None:
    """Return the first form that the table has the columns of; None if it has none."""
    fitting = (form for form in FORMS if table.titles.keys() >= set(form.needs) and table.column(form.ids))
    return next(fitting, None)


def read(table: Table, form: Form, options: Options) -> Reading:
    """Read the label, patient and split of each image.

    Where several readers judged an image, the label of most counts. By `options.views`, images with other views get no
    label.

    Raises:
      UserError: a row cannot be understood, or rows of one image conflict.
    """
    columns, read_label = _columns(table, form, options)
    title = table.titles[columns.label]
    votes: dict[str, dict[str, int | None]] = {}
    others: dict[str, tuple[str, str]] = {}  # patient and split
    for place, values in _lines(table, columns):
        name = tidy(values[columns.id])
        text = values.get(columns.label, "")
        try:
            label = read_label(text, options.label_rule) if _is_wanted(values, columns, options) else None
        except Unclear as expected:
            raise UserError(f"{place}: {title} is {text!r:.100}; it must be {expected}") from None
        other = (values.get(columns.patient or "", ""), _split(values.get(columns.split or "", ""), place))
        reader = values.get(columns.reader or "", "")
        mine = votes.setdefault(name, {})
        conflicts = reader in mine and mine[reader] != label and not form.boxes
        if conflicts or others.setdefault(name, other) != other:
            raise UserError(f"{place}: {name!r:.100} conflicts with an earlier row: fix one of them")
        given = [known for known in (mine.get(reader), label) if known is not None]
        mine[reader] = max(given, default=None)
    if not votes:
        raise UserError(f"{table.path} has no row below its first line: add one for each image")
    labels = {name: _majority(list(mine.values())) for name, mine in votes.items()}
    _refuse_ties(table, [name for name, label in labels.items() if label == 0.5])
    is_patient = columns.id in public_tables.PATIENT_COLUMNS
    rows = {
        name: Row(
            None if label is None else int(label),
            hashed(others[name][0]),
            others[name][1],
            hashed(name) if is_patient else None,
        )
        for name, label in labels.items()
    }
    by_rule = form.by_rule and read_label is not public_tables.certain
    return Reading((table.path,), form, title, by_rule, rows)


def _columns(table: Table, form: Form, options: Options) -> tuple[_Columns, Callable[[str, str], int | None]]:
    """Return the table's columns, and how to read the one that labels."""
    id, label, read_label = table.column(form.ids), form.column, form.label
    assert id is not None, "the table has this form"
    if not label:
        finding = RULES[options.label_rule][0]
        label = finding.lower().replace(" ", "")
        if label not in table.titles and options.label_rule == "abnormal":
            label, read_label = "pneumonia", public_tables.certain
        if label not in table.titles:
            raise UserError(
                f"{table.path} has no column {finding}, which the rule {options.label_rule} reads: choose another"
                " --config.data.label_rule"
            )
    view = table.column(public_tables.VIEW_COLUMNS)
    if options.views == "frontal" and view is None:
        names = ", ".join(public_tables.VIEW_COLUMNS)
        raise UserError(f"{table.path} has no column of views ({names}): choose --config.data.views=all")
    patient = table.column(form.patients, other_than=id)
    reader, split = table.column(public_tables.READER_COLUMNS), table.column(public_tables.SPLIT_COLUMNS)
    columns = _Columns(id, label, patient, view, reader, split)
    if repeated := sorted(table.repeated.intersection(filter(None, columns))):
        raise UserError(f"{table.path} has several columns {repeated[0]}: rename all of them except one")
    return columns, read_label


def _lines(table: Table, columns: _Columns) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Yield the place of every line, for messages, and its values."""
    for number, values in table.lines:
        place = f"{table.path}, line {number}"
        if values is None:
            raise UserError(f"{place}: more fields than the first line has: fix the line")
        if not values.get(columns.id):
            raise UserError(f"{place}: {table.titles[columns.id]} is empty: give the image's path or name")
        yield place, values


def _is_wanted(values: Mapping[str, str], columns: _Columns, options: Options) -> bool:
    """Return whether a row is of a radiograph with one of the chosen views."""
    if values.get(public_tables.MODALITY, "").lower() in _NO_RADIOGRAPHS:
        return False
    return options.views == "all" or is_frontal(values.get(columns.view or "", ""))


def _split(text: str, place: str) -> str:
    if text and text.lower() not in SPLIT_NAMES:
        raise UserError(f"{place}: split is {text!r:.100}; it must be empty or one of {', '.join(SPLIT_NAMES)}")
    return SPLIT_NAMES.get(text.lower(), "")


def _majority(labels: list[int | None]) -> float | None:
    """Return what most readers say; 0.5 for a tie, None if no reader says anything."""
    given = [label for label in labels if label is not None]
    if not given:
        return None
    share = sum(given) / len(given)
    return 0.5 if share == 0.5 else float(share > 0.5)


def _refuse_ties(table: Table, names: list[str]) -> None:
    if names:
        raise UserError(
            f"{table.path}: the readers of {counted(len(names), 'image')} disagree by halves, such as {names[0]}: keep"
            " an odd number of readers for each, or remove these images"
        )
