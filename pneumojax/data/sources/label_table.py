"""A folder of images with a CSV of labels beside them, such as RSNA's set; or a single image."""

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from pneumojax.data.decode import images
from pneumojax.data.patient_hash import hashed
from pneumojax.data.patients import is_dicom, patients_of
from pneumojax.data.source import MAX_RECORDS, SPLIT_NAMES, WHOLE, Record, Source, file_fingerprint, of_files, read_csv
from pneumojax.data.sources.folders import hidden
from pneumojax.runtime.errors import UserError
from pneumojax.runtime.wording import counted

# Names of columns in any case, without spaces and punctuation. The first that a table has counts.
ID_COLUMNS = ("path", "file", "filepath", "filename", "image", "imageid", "imagepath", "imageindex", "id")
ID_COLUMNS += ("sopinstanceuid", "dicomid", "patientid")
LABEL_COLUMNS = ("target", "label", "pneumonia", "class", "diagnosis", "finding")
PATIENT_COLUMNS = ("patient", "subjectid", "subject", "patientid")
LABELS = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "normal": 0, "pneumonia": 1}

_SUFFIXES = (*images.SUFFIXES, "")  # a DICOM file often has none


class _Row(NamedTuple):
    label: int
    patient: str
    split: str


class _Table(NamedTuple):
    """A CSV that may hold labels.

    Attributes:
      path: of the file.
      header: the first line's fields.
      columns: the same in small letters and digits alone.
      lines: number and values by column of each further line; no values where it has more fields than the header.
    """

    path: Path
    header: Sequence[str]
    columns: Sequence[str]
    lines: Sequence[tuple[int, Mapping[str, str]]]

    def column(self, names: Iterable[str], other_than: str | None = None) -> str | None:
        """Return the first of `names` that is a column."""
        return next((name for name in names if name in self.columns and name != other_than), None)

    def has_labels(self) -> bool:
        """Return whether the table has ids, and labels with no other values than `LABELS`."""
        id, label = self.column(ID_COLUMNS), self.column(LABEL_COLUMNS)
        if not id or not label:
            return False
        values = {values.get(label, "").lower() for _, values in self.lines}
        return bool(values) and values <= LABELS.keys()


def open_table(root: Path, labels: str, max_records: int = MAX_RECORDS) -> Source | None:
    """Return the source at `root`, or None if no CSV there has labels.

    A CSV has labels if it has one of `ID_COLUMNS` and one of `LABEL_COLUMNS` with no other values than `LABELS`, in any
    case. An id is a file's path below `root`, its name, or its name without the suffix. `labels` is the path of the
    CSV, or empty to look for it in `root`; it may have `max_records` rows.

    Raises:
      UserError: several CSVs have labels, or the one that counts cannot be understood or matches no image.
    """
    table = _find(root, labels, max_records)
    if table is None:
        return None
    column, rows = _rows(table)
    files = {file.relative_to(root).as_posix(): file for file in _images(root)}
    matched = _match(table.path, rows, files)
    patients = patients_of(root, [id for id, row in matched.items() if not row.patient])
    records = sorted(
        Record(id, row.label, hashed(row.patient) if row.patient else patients[id], row.split or _split_of_path(id))
        for id, row in matched.items()
    )
    without = [record.id for record in records if record.split == WHOLE]
    if 0 < len(without) < len(records):
        raise UserError(
            f"{table.path}: {counted(len(without), 'image')} without a split, such as {without[0]}: give every image"
            " a split, or none"
        )
    remarks = [f"Labels of {table.path.name} by its column {column}."]
    if len(files) > len(matched):
        others = counted(len(files) - len(matched), "image")
        remarks.append(f"Left out: {others} without a row in {table.path.name}.")
    fingerprint = file_fingerprint([table.path, *(files[id] for id in sorted(matched))])
    return of_files(root, records, fingerprint, remarks)


def open_single(path: Path) -> Source:
    """Return one image file as a source of one record without a label."""
    return of_files(path, [Record(path.name, None, path.name, WHOLE)], file_fingerprint([path]))


def _find(root: Path, labels: str, max_records: int) -> _Table | None:
    """Find the CSV that counts."""
    if labels:
        path = Path(labels).expanduser()
        if not path.is_file():
            raise UserError(f"no such file: {labels}; give the path of a CSV of labels")
        return _parse(path, max_records)
    named = [file for file in sorted(root.iterdir()) if file.suffix.lower() == ".csv" and not hidden(Path(file.name))]
    tables = [_parse(file, max_records) for file in named if file.is_file()]
    candidates = [table for table in tables if table.has_labels()]
    if len(candidates) > 1:
        names = ", ".join(table.path.name for table in candidates)
        raise UserError(f"{root} holds several CSVs with labels, {names}: choose by --config.data.labels=FILE")
    return candidates[0] if candidates else None


def _parse(path: Path, max_records: int) -> _Table:
    try:
        content = read_csv(path, "give a CSV of labels")
        text = io.TextIOWrapper(io.BytesIO(content), "utf-8-sig", newline="")  # it decodes a part at a time
        first = next(filter(str.strip, text), "")
        separator = max(",;\t", key=first.count)
        text.seek(0)
        reader = csv.reader(text, delimiter=separator, strict=True)
        filled = ((reader.line_num, line) for line in reader if any(map(str.strip, line)))
        lines = list(islice(filled, max_records + 2))
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text: save it again as CSV in UTF-8") from None
    except csv.Error as error:
        raise UserError(f"{path} cannot be read as CSV ({error}): fix it, or save it again") from None
    if b"\0" in content:
        raise UserError(f"{path} holds NUL bytes: save it again as CSV in UTF-8")
    if len(lines) > max_records + 1:
        raise UserError(f"{path} has more than {max_records:,} lines: give a CSV of labels")
    header = lines[0][1] if lines else []
    columns = [re.sub(r"[\W_]", "", name.lower()) for name in header]
    values = [
        (number, dict(zip(columns, map(str.strip, line), strict=False)) if len(line) <= len(columns) else {})
        for number, line in lines[1:]
    ]
    return _Table(path, [name.strip() for name in header], columns, values)


def _rows(table: _Table) -> tuple[str, dict[str, _Row]]:
    """Return the header of the column that labels, and the rows by id."""
    id, label = table.column(ID_COLUMNS), table.column(LABEL_COLUMNS)
    if id is None or label is None:
        names = ", ".join(ID_COLUMNS if id is None else LABEL_COLUMNS)
        raise UserError(f"{table.path} has none of the columns {names}: rename one of its columns")
    patient = table.column(PATIENT_COLUMNS, other_than=id)
    for column in (id, label, patient, "split"):
        if column is not None and table.columns.count(column) > 1:
            raise UserError(f"{table.path} has several columns {column}: rename all of them except one")
    titles = {column: table.header[table.columns.index(column)] for column in (id, label)}
    rows: dict[str, _Row] = {}
    for number, values in table.lines:
        place = f"{table.path}, line {number}"
        if not values:
            raise UserError(f"{place}: more fields than the first line has: fix the line")
        if not values.get(id):
            raise UserError(f"{place}: {titles[id]} is empty: give the image's path or name")
        label_value, split_value = values.get(label, ""), values.get("split", "")
        if label_value.lower() not in LABELS:
            raise UserError(f"{place}: {titles[label]} is {label_value!r:.100}; it must be one of {', '.join(LABELS)}")
        if split_value and split_value.lower() not in SPLIT_NAMES:
            choices = ", ".join(SPLIT_NAMES)
            raise UserError(f"{place}: split is {split_value!r:.100}; it must be empty or one of {choices}")
        patient_value = values.get(patient, "") if patient else ""
        row = _Row(LABELS[label_value.lower()], patient_value, SPLIT_NAMES.get(split_value.lower(), ""))
        name = PurePosixPath(values[id].replace("\\", "/")).as_posix()
        if rows.setdefault(name, row) != row:
            raise UserError(f"{place}: {name!r:.100} conflicts with an earlier row: fix one of them")
    return titles[label], rows


def _images(root: Path) -> Iterator[Path]:
    for file in root.rglob("*"):
        suffix = file.suffix.lower()
        if suffix not in _SUFFIXES and not suffix[1:].isdecimal():  # a UID without a suffix ends in a number
            continue
        if hidden(file.relative_to(root)) or not file.is_file():
            continue
        if suffix in _SUFFIXES[:-1] or is_dicom(file):
            yield file


def _match(table: Path, rows: Mapping[str, _Row], files: Mapping[str, Path]) -> dict[str, _Row]:
    """Return the rows by the ids of their files."""
    names: dict[str, list[str]] = {}
    for id in files:
        path = PurePosixPath(id)
        stem = path.name if path.suffix[1:].isdecimal() else path.stem
        for name in {id, path.name, stem}:
            names.setdefault(name, []).append(id)
    matched: dict[str, _Row] = {}
    missing = []
    for name, row in rows.items():
        ids = [name] if name in files else names.get(name, [])
        if len(ids) > 1:
            raise UserError(f"{name} in {table} may be any of {', '.join(sorted(ids)[:3])}: give their paths in it")
        if not ids:
            missing.append(name)
        elif matched.setdefault(ids[0], row) != row:
            raise UserError(f"{table}: the rows of {ids[0]} conflict with each other: fix them")
    if not matched:
        raise UserError(f"{table} lists {counted(len(rows), 'id')}, but no image beside it has one: put images there")
    if missing:
        named = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise UserError(f"{table}: no images for {counted(len(missing), 'id')}: {named}; add them or remove the rows")
    return matched


def _split_of_path(id: str) -> str:
    folders = (part.lower() for part in PurePosixPath(id).parts[:-1])
    return next((SPLIT_NAMES[folder] for folder in folders if folder in SPLIT_NAMES), WHOLE)
