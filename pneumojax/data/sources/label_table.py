"""A folder of images with a CSV of labels beside them: a public set's, or a user's own."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from pneumojax.data.patients import patients_of
from pneumojax.data.source import (
    DEFAULTS,
    MAX_RECORDS,
    SPLIT_NAMES,
    WHOLE,
    Options,
    Record,
    Source,
    file_fingerprint,
    of_files,
    read_csv,
)
from pneumojax.data.sources.csv_table import Table, joined, parse
from pneumojax.data.sources.listing import Kind, below, csvs_in, left_out
from pneumojax.data.sources.matching import Files, may_be_equal
from pneumojax.data.sources.public_tables import COLUMNS, FORMS, ID_COLUMNS, LABEL_COLUMNS, STUDY
from pneumojax.data.sources.table_rows import Reading, Row, form_of, read
from pneumojax.runtime.errors import UserError
from pneumojax.runtime.wording import counted


def open_table(root: Path, options: Options = DEFAULTS, max_records: int = MAX_RECORDS) -> Source | None:
    """Return the source at `root`, or None if no CSV there has a column of images and one of labels.

    `public_tables.FORMS` lists the columns. An image is named by its path, its name, or its name without the suffix.
    `options.labels` is the path of the CSV, or empty to look for it in `root`; it may have `max_records` rows. Images
    without a row are left out. So are rows without an image in the table of a public set, since many have only a part.

    Raises:
      UserError: several CSVs have labels, or the one that counts cannot be understood or matches no image.
    """
    reading = _chosen(root, options, max_records)
    if reading is None:
        return None
    found = list(below(root))
    files = [file.name for file in found if file.kind is Kind.IMAGE]
    matched, missing = _match(reading, files)
    kept = {id: row for id, row in sorted(matched.items()) if row.label is not None}
    if not kept:
        raise UserError(
            f"{reading.name}: no image is labelled by the rule {options.label_rule} with views {options.views}:"
            " choose others"
        )
    records = _records(root, reading, kept)
    csv = reading.paths[0].name
    remarks = [
        _labels_remark(reading, options, records),
        *left_out(matched.keys() - kept.keys(), "image", "by its label or view"),
        *left_out(missing, "row", f"of {csv} without an image"),
        *left_out(set(files) - matched.keys(), "image", f"without a row in {csv}"),
        *left_out((file.name for file in found if file.kind is Kind.MASK), "mask"),
    ]
    fingerprint = file_fingerprint([*reading.paths, *(root / id for id in kept)])
    if reading.by_rule:
        labels = "".join(str(record.label) for record in records)
        fingerprint = hashlib.sha256(f"{fingerprint}\0{labels}".encode()).hexdigest()
    return of_files(root, records, fingerprint, remarks)


def lacking(path: Path) -> str:
    """Return why a CSV was not recognised as one of labels."""
    table = parse(path, COLUMNS, MAX_RECORDS)
    return _lacking(table) if form_of(table) is None else f"{path} does not lie beside the images: move it there"


def _lacking(table: Table) -> str:
    columns = LABEL_COLUMNS if table.column(ID_COLUMNS) else ID_COLUMNS
    return f"{table.path} has none of the columns {', '.join(columns)}"


def _chosen(root: Path, options: Options, max_records: int) -> Reading | None:
    """Read the CSV that counts: the user's choice, one of people's own form, or those of a public set."""
    if options.labels:
        path = Path(options.labels).expanduser()
        if not path.is_file():
            raise UserError(f"no such file: {options.labels}; give the path of a CSV of labels")
        table = parse(path, COLUMNS, max_records)
        if STUDY in table.titles and table.column(("dicomid",)) is None:
            others = [other for other in csvs_in(path.parent) if other.name != path.name]
            table = joined([table, *(parse(other, COLUMNS, max_records) for other in others)], "dicomid", STUDY)[0]
        form = form_of(table)
        if form is None:
            raise UserError(f"{_lacking(table)}: rename one of its columns")
        return _with_splits(root, read(table, form, options))
    readings: list[Reading] = []
    problems: dict[int, UserError] = {}  # by the place of the table's form in `FORMS`
    for table in joined([parse(path, COLUMNS, max_records) for path in csvs_in(root)], "dicomid", STUDY):
        if form := form_of(table):
            try:
                readings.append(read(table, form, options))
            except UserError as error:
                problems.setdefault(FORMS.index(form), error)
    own = [reading for reading in readings if not reading.form.name]
    if len(own) > 1:
        names = ", ".join(reading.paths[0].name for reading in own)
        raise UserError(f"{root} holds several CSVs with labels, {names}: choose by --config.data.labels=FILE")
    if own:
        return own[0]
    foremost = min((FORMS.index(reading.form) for reading in readings), default=len(FORMS))
    if problems and min(problems) <= foremost:  # else the tables that count are whole
        raise problems[min(problems)]
    return _with_splits(root, _merged(readings)) if readings else None


def _with_splits(root: Path, reading: Reading) -> Reading:
    """Add the splits that a public set's lists of images give."""
    rows = dict(reading.rows)
    for name, split in reading.form.lists.items():
        if (path := root / name).is_file():
            listed = read_csv(path, "bring back the set's own").decode(errors="replace").split()
            rows |= {image: rows[image]._replace(split=split) for image in listed if image in rows}
    return reading._replace(rows=rows)


def _merged(readings: Sequence[Reading]) -> Reading:
    """Merge the tables of the public set's first form, such as one of train and one of test."""
    first = min(readings, key=lambda reading: FORMS.index(reading.form))
    rows: dict[str, Row] = {}
    same = [reading for reading in readings if reading.form == first.form]
    for reading in same:
        for name, row in reading.rows.items():
            if rows.setdefault(name, row) != row:
                raise UserError(
                    f"{reading.name}: {name!r:.100} conflicts with a row of another CSV: choose one of them by"
                    " --config.data.labels=FILE"
                )
    return first._replace(paths=tuple(path for reading in same for path in reading.paths), rows=rows)


def _match(reading: Reading, ids: Sequence[str]) -> tuple[dict[str, Row], list[str]]:
    """Return the rows by the ids of their files, and the names in rows of a public set that no file has."""
    files = Files(ids)
    matched: dict[str, Row] = {}
    names: dict[str, str] = {}
    missing = []
    for name, row in reading.rows.items():
        found = files.find(name)
        if len(found) > 1:
            named = ", ".join(sorted(found)[:3])
            raise UserError(f"{name} in {reading.name} may be any of {named}: give their paths in it")
        if not found:
            if row.label is not None:
                missing.append(name)
            continue
        [id] = found
        if matched.setdefault(id, row) != row or not may_be_equal(names.setdefault(id, name), name):
            raise UserError(f"{reading.name}: the rows of {id} conflict with each other: fix them")
    if not matched:
        count = counted(len(reading.rows), "id")
        raise UserError(f"{reading.name} lists {count}, but no image beside it has one: put images there")
    if missing and not reading.form.name:
        named = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        count = counted(len(missing), "id")
        raise UserError(f"{reading.name}: no images for {count}: {named}; add them or remove the rows")
    return matched, missing


def _records(root: Path, reading: Reading, rows: Mapping[str, Row]) -> list[Record]:
    """Return the records. The patient is the table's, or else the header's or the name's, or else the image itself."""
    patients = patients_of(root, [id for id, row in rows.items() if row.patient is None])
    records = []
    for id, row in rows.items():
        patient = row.patient or patients[id]
        if patient == id and row.stands_for:
            patient = row.stands_for
        records.append(Record(id, row.label, patient, row.split or _split_of_path(id)))
    without = [record.id for record in records if record.split == WHOLE]
    if 0 < len(without) < len(records):
        raise UserError(
            f"{reading.name}: {counted(len(without), 'image')} without a split, such as {without[0]}: give every image"
            " a split, or none"
        )
    return records


def _split_of_path(id: str) -> str:
    folders = (part.lower() for part in PurePosixPath(id).parts[:-1])
    return next((SPLIT_NAMES[folder] for folder in folders if folder in SPLIT_NAMES), WHOLE)


def _labels_remark(reading: Reading, options: Options, records: Sequence[Record]) -> str:
    names = " and ".join(path.name for path in reading.paths)
    source = f" ({reading.form.name})" if reading.form.name else ""
    remark = f"Labels of {names}{source} by its column {reading.title}"
    if not reading.by_rule:
        return f"{remark}."
    positives = sum(record.label == 1 for record in records)
    return (
        f"{remark} and the rule {options.label_rule}, views {options.views}: {positives:,} pneumonia,"
        f" {len(records) - positives:,} normal."
    )
