"""What CSVs beside images tell of each image besides its label, such as the view, the age, or who read it."""

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from pneumojax.data.source import MAX_RECORDS, Options, Source
from pneumojax.data.sources.csv_table import Table, parse
from pneumojax.data.sources.listing import csvs_in
from pneumojax.data.sources.matching import Files, tidy
from pneumojax.data.sources.public_tables import ID_COLUMNS, VIEW_COLUMNS
from pneumojax.runtime.errors import UserError
from pneumojax.runtime.wording import counted

# How public sets name a column, in small letters and digits: CheXpert, MIMIC-CXR, NIH, PadChest.
_OTHER_NAMES = {
    "view": ("appa", *VIEW_COLUMNS),
    "age": ("patientage", "ageatstudy"),
    "sex": ("gender", "patientsex", "patientgender", "patientsexdicom"),
}
_LONGEST = 100  # letters of a value


def described(source: Source, options: Options) -> Source:
    """Return the source with each record's `metadata`: its values in the columns that `options.columns` names.

    They are read from every CSV that lies in the source's folder, in a folder within it that holds all images, or at
    `options.labels`, and that names images. Where rows of an image differ, the first value counts. A CSV that cannot be
    read is left out with a remark.
    """
    columns = _columns(options.columns)
    if source.root is None or not columns:
        return source
    files = Files(record.id for record in source.records)
    remarks: list[str] = []
    values: dict[str, dict[str, str]] = {}
    for path in _tables(source.root, [record.id for record in source.records], options.labels):
        try:
            table = parse(path, {*ID_COLUMNS, *(name for names in columns.values() for name in names)}, MAX_RECORDS)
        except UserError as error:
            remarks.append(f"Not read: {error}.")
            continue
        if read := _read(table, columns, files, values):
            named = ", ".join(read.values())
            remarks.append(f"{path.name} describes {counted(_described(values, read), 'image')}: {named}.")
    records = (
        record._replace(metadata=tuple((name, own[name]) for name in columns if name in own))
        for record in source.records
        for own in [values.get(record.id, {})]
    )
    return source._replace(records=tuple(records), remarks=(*source.remarks, *remarks))


def _columns(text: str) -> dict[str, tuple[str, ...]]:
    """Return how a table may name each of the columns, as `Table.titles` has them."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    plain = {name: re.sub(r"[\W_]", "", name.lower()) for name in names}
    return {name: (own, *_OTHER_NAMES.get(own, ())) for name, own in plain.items() if own}


def _tables(root: Path, ids: Iterable[str], labels: str) -> list[Path]:
    """List the CSVs in the folder, in those between it and the images, and the user's own."""
    common = os.path.commonpath([os.path.dirname(id) for id in ids])
    folders = [root, *(root / part for part in reversed(Path(common).parents)), root / common]
    found = [path for folder in dict.fromkeys(folders) if folder.is_dir() for path in csvs_in(folder)]
    return list(dict.fromkeys(found + [Path(labels).expanduser()] * bool(labels)))


def _read(
    table: Table, columns: Mapping[str, tuple[str, ...]], files: Files, values: dict[str, dict[str, str]]
) -> dict[str, str]:
    """Add a table's values to `values`, by id and by the column's own name; return the titles of the columns used."""
    id_column = table.column(ID_COLUMNS)
    chosen = {name: table.column(names, other_than=id_column) for name, names in columns.items()}
    used: dict[str, str] = {}
    for _, row in table.lines:
        id = files.only(tidy(row[id_column])) if row and id_column and row.get(id_column) else None
        for name, column in chosen.items() if id else ():
            if row and column and (value := row.get(column, "")[:_LONGEST]):
                values.setdefault(id or "", {}).setdefault(name, value)
                used[name] = table.titles[column]
    return used


def _described(values: Mapping[str, Mapping[str, str]], columns: Iterable[str]) -> int:
    return sum(not set(columns).isdisjoint(own) for own in values.values())
