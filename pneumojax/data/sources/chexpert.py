"""CheXpert as released: CSVs with labels mined from reports, and images by patient and study.

Irvin et al., "CheXpert: A Large Chest Radiograph Dataset with Uncertainty Labels and Expert Comparison" (2019).
"""

import csv
import hashlib
import io
import os
import re
from collections.abc import Iterator
from pathlib import Path

from pneumojax.data.source import Options, Record, Source, of_files, read_csv
from pneumojax.data.sources.folders import subfolders
from pneumojax.data.sources.labels import RULES, VIEWS
from pneumojax.runtime.errors import UserError, unknown

CSVS = {"train.csv": "train", "valid.csv": "val", "test.csv": "test"}
# Present, absent, uncertain; blank if the report does not mention the finding.
_VALUES = {"1.0": 1, "0.0": 0, "-1.0": -1, "1": 1, "0": 0, "-1": -1, "": 0}
_BATCH = "batch"  # in the names of the folders into which the full-size release is divided
_EXAMPLE = "CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg"
_NAME = r"(?!\.\.?(?:/|$))[^/\\]+"  # of a folder or file; `..` would lead out of the source
# The test set's CSV names no release folder above the split folder, and people's copies name whole paths.
_PATH = re.compile(rf"(?:.*?/)?({_NAME}/(patient\d+)(?:/{_NAME})+)")


def open_chexpert(root: Path, options: Options) -> Source | None:
    """Return the source at `root`, or None if neither train.csv nor valid.csv is one of CheXpert's.

    The ids are paths below `root`, without the release folder that the CSVs name first, or through the folders into
    which the full-size release is divided. A test.csv without the columns that are needed is left out, with a remark.

    Raises:
      UserError: a CSV cannot be read, none of its images is there, or an option is unknown.
    """
    paths = {name: _find(root, name) for name in CSVS}
    starts = {name: _start(path) for name, path in paths.items()}
    if not any(_is_chexpert(starts[name]) for name in ("train.csv", "valid.csv")):
        return None
    if options.label_rule not in RULES:
        raise unknown("label rule", options.label_rule, RULES)
    if options.views not in VIEWS:
        raise unknown("choice of views", options.views, VIEWS)
    remarks, compositions, records = [], [], {}
    digest = hashlib.sha256(f"{options.label_rule}\n".encode())
    for name, split in CSVS.items():
        if (start := starts[name]) is None:
            continue
        if name == "test.csv" and not _needed_columns(options) <= _columns(start):
            columns = ", ".join(sorted(_needed_columns(options)))
            remarks.append(f"test.csv is left out: it lacks one of the columns {columns}.")
            continue
        content = read_csv(paths[name], "replace it by CheXpert's")
        listed, left_out = parse(content, str(paths[name]), split, options)
        listed = _relocated(root, listed)
        digest.update(f"{name}\0{hashlib.sha256(content).hexdigest()}\n".encode())
        _add_files(digest, root, paths[name], listed)
        if twice := [record.id for record in listed if record.id in records]:
            raise UserError(f"{paths[name]} lists {twice[0]}, as another CSV does: remove it from one of them")
        records |= {record.id: record for record in listed}
        compositions.append(_composition(split, listed, left_out))
    if not records:
        raise UserError(f"{root}: the CSVs list no image with views {options.views}: choose other views or CSVs")
    remarks.insert(0, f"Labels by the rule {options.label_rule}, views {options.views}: {'; '.join(compositions)}.")
    return of_files(root, [records[id] for id in sorted(records)], digest.hexdigest(), remarks)


def parse(content: bytes, name: str, split: str, options: Options) -> tuple[list[Record], int]:
    """Return the records that a CSV lists, in its order, and how many rows of the chosen views the rule leaves out.

    The CSV's name is for errors; the options have a known label rule and known views.

    Raises:
      UserError: it is no CSV in UTF-8, lacks a column, or a row has a path or value that CheXpert does not have.
    """
    column, labels = RULES[options.label_rule]
    values: dict[str, tuple[int, str]] = {}  # id -> (value, patient)
    for place, path, value, view in _rows(content, name, column, options):
        if value not in _VALUES:
            raise UserError(f"{place}: {column} is {value!r:.100}; it must be 1.0, 0.0, -1.0 or blank")
        if not (match := _PATH.fullmatch(path.strip().replace("\\", "/"))):
            raise UserError(f"{place}: Path is {path!r:.100}; it must be like {_EXAMPLE}")
        if options.views == "frontal" and view != "Frontal":
            continue
        id, patient = match.groups()
        if values.setdefault(id, (_VALUES[value], patient))[0] != _VALUES[value]:
            raise UserError(f"{place}: an earlier row of {path!r:.100} has another {column}: remove one of them")
    records = [Record(id, labels[value], patient, split) for id, (value, patient) in values.items() if value in labels]
    return records, len(values) - len(records)


def _rows(content: bytes, name: str, column: str, options: Options) -> Iterator[tuple[str, str, str, str | None]]:
    """Yield (place, path, value, view) of every row; the view is None if all views are chosen."""
    if b"\0" in content:
        raise UserError(f"{name} holds NUL bytes: save it as CSV in UTF-8")
    try:
        content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is not UTF-8 at byte {error.start:,}: save it as CSV in UTF-8") from None
    # This decodes a part at a time: the whole text would take four times its length.
    reader = csv.reader(io.TextIOWrapper(io.BytesIO(content), "utf-8-sig", newline=""), strict=True)
    try:
        header = next(reader, [])
        if lacking := sorted(needed for needed in _needed_columns(options) if header.count(needed) != 1):
            raise UserError(f"{name} must have one column named {' and one named '.join(lacking)}: fix its first line")
        path, value = header.index("Path"), header.index(column)
        view = header.index("Frontal/Lateral") if options.views == "frontal" else None
        for row in reader:
            if not row:
                continue
            place = f"{name}, line {reader.line_num}"
            if len(row) != len(header):
                raise UserError(f"{place}: {len(row)} fields, but the first line has {len(header)}: fix the line")
            yield place, row[path], row[value].strip(), None if view is None else row[view].strip()
    except csv.Error as error:
        raise UserError(f"{name}, line {reader.line_num}: {error}: fix the line, or unpack the file again") from None


def _needed_columns(options: Options) -> set[str]:
    return {"Path", RULES[options.label_rule][0]} | ({"Frontal/Lateral"} if options.views == "frontal" else set())


def _find(root: Path, name: str) -> Path:
    """Return the path of a CSV: in `root`, or in one of the batch folders."""
    divided = [folder / name for folder, title in subfolders(root) if _BATCH in title]
    return next((path for path in (root / name, *divided) if path.is_file()), root / name)


def _relocated(root: Path, records: list[Record]) -> list[Record]:
    """Return the records with ids through the folders in `root` that hold the patients, where the split's does not."""
    folders = {split: _patients(root, split) for split in {record.id.partition("/")[0] for record in records}}
    relocated = []
    for record in records:
        split, _, rest = record.id.partition("/")
        folder = folders[split].get(rest.partition("/")[0], split)
        relocated.append(record._replace(id=f"{folder}/{rest}"))
    return relocated


def _patients(root: Path, split: str) -> dict[str, str]:
    """Return the folders of patients, name -> the folder around it, relative to `root`; none if it has the split's."""
    if (root / split).is_dir():
        return {}
    folders = subfolders(root)
    places = [folder / split for folder, _ in folders] + [folder for folder, title in folders if _BATCH in title]
    return {path.name: place.relative_to(root).as_posix() for place in places for path, _ in subfolders(place)}


def _start(path: Path) -> bytes | None:
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return file.read(1 << 16)


def _columns(start: bytes) -> set[str]:
    """Return the first line's fields, in any encoding, so that a CheXpert tree with a broken CSV is recognised."""
    line = start.replace(b"\0", b"").removeprefix(b"\xff\xfe").removeprefix(b"\xfe\xff").decode("utf-8-sig", "ignore")
    return {field.strip(' "\r') for field in line.partition("\n")[0].split(",")}


def _is_chexpert(start: bytes | None) -> bool:
    columns = _columns(start or b"")
    return "Path" in columns and not columns.isdisjoint(("Frontal/Lateral", "No Finding", "Pneumonia"))


def _add_files(digest: "hashlib._Hash", root: Path, table: Path, records: list[Record]) -> None:
    """Add every image's size and time to a fingerprint; raise UserError if none is there, not if some are missing."""
    missing = 0
    for record in records:
        try:
            # Not `Path.stat`, which takes seconds more for all of CheXpert.
            stat = os.stat(f"{root}/{record.id}")
            state = f"{stat.st_size}\0{stat.st_mtime_ns}"
        except OSError:
            missing += 1
            state = "missing"
        digest.update(f"{record.id}\0{state}\n".encode())
    if records and missing == len(records):
        raise UserError(
            f"none of the images that {table} lists is there, such as {root / records[0].id}: put them there,"
            f" or move {table.name} away"
        )


def _composition(split: str, records: list[Record], left_out: int) -> str:
    positives = sum(record.label == 1 for record in records)
    counts = f"{split} {positives:,} pneumonia, {len(records) - positives:,} normal"
    return counts + (f", {left_out:,} left out as uncertain" if left_out else "")
