"""A folder of images with a CSV of labels beside them, as RSNA's set has it; or one image alone."""

import csv
import io
import re
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from pneumojax.data import images
from pneumojax.data.keys import hashed
from pneumojax.data.patients import is_dicom, patients_of
from pneumojax.data.records import (
    MAX_CSV_BYTES,
    MAX_RECORDS,
    SPLITS,
    WHOLE,
    Record,
    Source,
    file_fingerprint,
    name_of,
    read_file,
)
from pneumojax.data.sources.folders import hidden
from pneumojax.errors import UserError

# Names of columns, in any case, and whatever stands in them but letters and digits. Of several the first counts.
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


def open_table(root: Path, labels: str) -> Source | None:
    """The source at `root`, or None where no CSV there has labels.

    A CSV has them if one of its columns is named as in `ID_COLUMNS`, and one as in `LABEL_COLUMNS` with none but the
    values of `LABELS` in any case. An id is a file's path below `root`, its name, or its name without the suffix.

    Args:
      root: the folder.
      labels: the path of the CSV; empty to look for it in `root`.

    Raises:
      UserError: several CSVs have labels, or the one that counts cannot be understood or fits no image.
    """
    table, label, rows = _find(root, labels)
    if table is None:
        return None
    files = {file.relative_to(root).as_posix(): file for file in _images(root)}
    found = _match(table, rows, files)
    patients = patients_of(root, [id for id, row in found.items() if not row.patient])
    records = (
        Record(id, row.label, hashed(row.patient) if row.patient else patients[id], row.split or _split(id))
        for id, row in found.items()
    )
    records = sorted(records)
    without = [record.id for record in records if record.split == WHOLE]
    if 0 < len(without) < len(records):
        raise UserError(f"{len(without):,} images have no split while others have, such as {without[0]}: give all one")
    remarks = [f"Labels of {table.name} by its column {label}."]
    if len(files) > len(found):
        remarks.append(f"{len(files) - len(found):,} images without a row in {table.name} are left out.")
    return Source(
        name=name_of(str(root)),
        location=str(root),
        records=tuple(records),
        fingerprint=file_fingerprint([table, *(files[id] for id in sorted(found))]),
        read=partial(read_file, root),
        root=root,
        remarks=tuple(remarks),
    )


def open_single(path: Path) -> Source:
    """One image file as a source of one record that has no label."""
    return Source(
        name=name_of(str(path)),
        location=str(path),
        records=(Record(path.name, None, path.name, WHOLE),),
        fingerprint=file_fingerprint([path]),
        read=partial(read_file, path.parent),
        root=path.parent,
    )


def _find(root, labels) -> tuple[Path | None, str, dict[str, _Row]]:
    """The CSV that counts, the column of it that labels, and its rows by id."""
    if labels:
        table = Path(labels).expanduser()
        if not table.is_file():
            raise UserError(f"no such file of labels: {labels}; give the path of a CSV")
        return _labelled(table, _parse(table))
    csvs = sorted(file for file in root.iterdir() if _is_csv(file))
    parsed = {file: _parse(file) for file in csvs}
    candidates = [file for file, (header, lines) in parsed.items() if _is_table(header, lines)]
    if len(candidates) > 1:
        names = ", ".join(file.name for file in candidates)
        raise UserError(f"{root} holds several CSVs with labels, {names}: choose by --config.data.labels=FILE")
    return _labelled(candidates[0], parsed[candidates[0]]) if candidates else (None, "", {})


def _labelled(table, parsed):
    rows = _rows(table, parsed)  # which refuses a table without such a column
    return table, _column(parsed[0], LABEL_COLUMNS), rows


def _is_csv(file) -> bool:
    return file.suffix.lower() == ".csv" and not hidden(Path(file.name)) and file.is_file()


def _parse(table: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """The columns' names, letters and digits alone, in small; and (number, values by column) of the lines."""
    try:
        if table.stat().st_size > MAX_CSV_BYTES:
            raise UserError(f"{table} is larger than {MAX_CSV_BYTES:,} bytes: give a CSV of labels")
        content = table.read_bytes()
        text = io.TextIOWrapper(io.BytesIO(content), "utf-8-sig", newline="")  # which decodes a part at a time
        first = next(filter(str.strip, text), "")
        separator = max(",;\t", key=first.count)
        text.seek(0)
        reader = csv.reader(text, delimiter=separator, strict=True)
        filled = ((reader.line_num, line) for line in reader if any(map(str.strip, line)))
        lines = list(islice(filled, MAX_RECORDS + 2))
    except UnicodeDecodeError:
        raise UserError(f"{table} is not UTF-8 text: save it again as CSV in UTF-8") from None
    except csv.Error as error:
        raise UserError(f"{table} cannot be read as CSV ({error}): mend it") from None
    if b"\0" in content:
        raise UserError(f"{table} holds bytes that are no text: save it again as CSV in UTF-8")
    if not lines:
        return [], []
    if len(lines) > MAX_RECORDS + 1:
        raise UserError(f"{table} has more than {MAX_RECORDS:,} lines: give a CSV of labels")
    header = [re.sub(r"[\W_]", "", name.lower()) for name in lines[0][1]]
    return header, [
        (number, dict(zip(header, map(str.strip, line), strict=False)) if len(line) <= len(header) else {})
        for number, line in lines[1:]
    ]


def _column(header, names) -> str | None:
    return next((name for name in names if name in header), None)


def _is_table(header, lines) -> bool:
    id, label = _column(header, ID_COLUMNS), _column(header, LABEL_COLUMNS)
    values = {values.get(label, "").lower() for _, values in lines}
    return bool(id and label and values and values <= LABELS.keys())


def _rows(table, parsed) -> dict[str, _Row]:
    header, lines = parsed
    id, label = _column(header, ID_COLUMNS), _column(header, LABEL_COLUMNS)
    patient = _column([name for name in header if name != id], PATIENT_COLUMNS)
    for column, names in ((id, ID_COLUMNS), (label, LABEL_COLUMNS)):
        if not column:
            raise UserError(f"{table} has none of the columns {', '.join(names)}: name one of its columns so")
    for column in (id, label, patient, "split"):
        if header.count(column) > 1:
            raise UserError(f"{table} has several columns {column}: name one of them otherwise")
    rows = {}
    for number, values in lines:
        told = values.get(label, "").lower()
        if told not in LABELS or not values.get(id):
            raise UserError(f"line {number} of {table} has no {id} or no {label} of {', '.join(LABELS)}: mend it")
        split = values.get("split", "").lower()
        if split and split not in SPLITS:
            raise UserError(f"line {number} of {table} has a split that is none of {', '.join(SPLITS)}: mend it")
        row = _Row(LABELS[told], values.get(patient, ""), SPLITS.get(split, ""))
        name = PurePosixPath(values[id].replace("\\", "/")).as_posix()
        if rows.setdefault(name, row) != row:
            raise UserError(f"line {number} of {table} contradicts another line of the same {id}: mend either")
    return rows


def _images(root) -> Iterator[Path]:
    for file in root.rglob("*"):
        suffix = file.suffix.lower()
        if suffix not in _SUFFIXES and not suffix[1:].isdecimal():  # a UID without a suffix ends in a number
            continue
        if hidden(file.relative_to(root)) or not file.is_file():
            continue
        if suffix in _SUFFIXES[:-1] or is_dicom(file):
            yield file


def _match(table, rows, files) -> dict[str, _Row]:
    """The rows by the ids of their files."""
    names: dict[str, list[str]] = {}
    for id in files:
        path = PurePosixPath(id)
        stem = path.name if path.suffix[1:].isdecimal() else path.stem
        for name in {id, path.name, stem}:
            names.setdefault(name, []).append(id)
    found, missing = {}, []
    for name, row in rows.items():
        ids = [name] if name in files else names.get(name, [])
        if len(ids) > 1:
            raise UserError(f"{name} in {table} may be any of {', '.join(sorted(ids)[:3])}: give their paths in it")
        if not ids:
            missing.append(name)
        elif found.setdefault(ids[0], row) != row:
            raise UserError(f"several lines of {table} are of {ids[0]} and contradict each other: mend them")
    if not found:
        raise UserError(f"none of the {len(rows):,} ids in {table} is an image beside it: put the images there")
    if missing:
        told = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise UserError(f"{len(missing):,} ids in {table} are no image beside it: {told}; remove them or add files")
    return found


def _split(id) -> str:
    folders = (part.lower() for part in PurePosixPath(id).parts[:-1])
    return next((SPLITS[folder] for folder in folders if folder in SPLITS), WHOLE)
