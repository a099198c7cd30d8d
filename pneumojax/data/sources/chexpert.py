"""CheXpert as it is released: CSVs of labels that were mined from reports, and images by patient and study.

Irvin et al., "CheXpert: A Large Chest Radiograph Dataset with Uncertainty Labels and Expert Comparison" (2019).
"""

import csv
import hashlib
import io
import os
import re
from functools import partial
from pathlib import Path

from pneumojax.data.records import MAX_CSV_BYTES, Options, Record, Source, name_of, read_file
from pneumojax.errors import UserError, unknown

CSVS = {"train.csv": "train", "valid.csv": "val", "test.csv": "test"}
# Rule: the column that it reads, and value -> label; a value without a label leaves the image out. `abnormal` is
# that of Huynh et al., the others are those of Irvin et al. for uncertain findings.
RULES = {
    "abnormal": ("No Finding", {1: 0, 0: 1, -1: 1}),
    "pneumonia-ones": ("Pneumonia", {1: 1, 0: 0, -1: 1}),
    "pneumonia-zeros": ("Pneumonia", {1: 1, 0: 0, -1: 0}),
    "pneumonia-ignore": ("Pneumonia", {1: 1, 0: 0}),
}
VIEWS = ("all", "frontal")

# Present, absent, uncertain; blank is a finding that the report does not mention.
_VALUES = {"1.0": 1, "0.0": 0, "-1.0": -1, "1": 1, "0": 0, "-1": -1, "": 0}
_EXAMPLE = "CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg"
_NAME = r"(?!\.\.?(?:/|$))[^/\\]+"  # of a folder or file; `..` would lead out of the source
# The test set's CSV has no folder of the release before that of the split.
_PATH = re.compile(rf"(?:{_NAME}/)?({_NAME}/(patient\d+)(?:/{_NAME})+)")


def open_chexpert(root: Path, options: Options) -> Source | None:
    """The source at `root`, or None where neither train.csv nor valid.csv is one of CheXpert's.

    The ids are paths below `root`: the first folder that the CSVs name is that of the release, whatever it is
    called here. A test.csv without the columns that are needed is left out, which the remarks tell.

    Raises:
      UserError: a CSV cannot be understood, none of the images that it lists is there, or an option is unknown.
    """
    starts = {name: _start(root / name) for name in CSVS}
    if not any(_is_chexpert(starts[name]) for name in ("train.csv", "valid.csv")):
        return None
    if options.label_rule not in RULES:
        raise unknown("label rule", options.label_rule, RULES)
    if options.views not in VIEWS:
        raise unknown("choice of views", options.views, VIEWS)
    remarks, compositions, records = [], [], {}
    digest = hashlib.sha256(f"{options.label_rule}\n".encode())
    for name, split in CSVS.items():
        if starts[name] is None:
            continue
        if name == "test.csv" and not _needed(options) <= _columns(starts[name]):
            remarks.append(f"test.csv is left out: it lacks a column of {', '.join(sorted(_needed(options)))}.")
            continue
        if (root / name).stat().st_size > MAX_CSV_BYTES:
            raise UserError(f"{root / name} is larger than {MAX_CSV_BYTES:,} bytes: give CheXpert's")
        content = (root / name).read_bytes()
        found, left_out = parse(content, str(root / name), split, options)
        digest.update(f"{name}\0{hashlib.sha256(content).hexdigest()}\n".encode())
        _stamp(root, name, found, digest)
        twice = next((record.id for record in found if record.id in records), None)
        if twice is not None:
            raise UserError(f"{root / name} lists {twice}, as another CSV does: remove it from either")
        records |= {record.id: record for record in found}
        compositions.append(_composition(split, found, left_out))
    if not records:
        raise UserError(f"{root} lists no image with views {options.views}: choose other views, or mend the CSVs")
    remarks.insert(0, f"Labels by the rule {options.label_rule}, views {options.views}: {'; '.join(compositions)}.")
    return Source(
        name=name_of(str(root)),
        location=str(root),
        records=tuple(records[id] for id in sorted(records)),
        fingerprint=digest.hexdigest(),
        read=partial(read_file, root),
        root=root,
        remarks=tuple(remarks),
    )


def parse(content: bytes, name: str, split: str, options: Options) -> tuple[list[Record], int]:
    """The records that a CSV lists, in its order, and how many rows of the wanted views the rule leaves out.

    Args:
      content: of the CSV.
      name: of the CSV, for errors.
      split: of its records.
      options: their label rule and views must be known.

    Raises:
      UserError: it is no CSV in UTF-8, lacks a column, or a row has no path or value that CheXpert has.
    """
    column, labels = RULES[options.label_rule]
    values = {}  # id -> (value, patient)
    for place, path, value, view in _rows(content, name, column, options):
        if value not in _VALUES:
            raise UserError(f"{place}: {column} is {value!r:.100}; it must be 1.0, 0.0, -1.0 or blank")
        match = _PATH.fullmatch(path)
        if not match:
            raise UserError(f"{place}: Path is {path!r:.100}; it must be like {_EXAMPLE}")
        if options.views == "frontal" and view != "Frontal":
            continue
        id, patient = match.groups()
        if values.setdefault(id, (_VALUES[value], patient))[0] != _VALUES[value]:
            raise UserError(f"{place}: {path!r:.100} is listed before with another {column}; remove either row")
    records = [Record(id, labels[value], patient, split) for id, (value, patient) in values.items() if value in labels]
    return records, len(values) - len(records)


def _rows(content, name, column, options):
    """(place, path, value, view) of every row; the view is None where any will do."""
    if b"\0" in content:
        raise UserError(f"{name} holds NUL bytes: save it as CSV in UTF-8")
    try:
        content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is not UTF-8 at byte {error.start:,}: save it as CSV in UTF-8") from None
    # Which decodes a part at a time: as one text it would take four times its length.
    reader = csv.reader(io.TextIOWrapper(io.BytesIO(content), "utf-8-sig", newline=""), strict=True)
    try:
        header = next(reader, [])
        lacking = sorted(wanted for wanted in _needed(options) if header.count(wanted) != 1)
        if lacking:
            raise UserError(f"{name} must have one column named {' and one named '.join(lacking)}: mend its first line")
        path, value = header.index("Path"), header.index(column)
        view = header.index("Frontal/Lateral") if options.views == "frontal" else None
        for row in reader:
            if not row:
                continue
            place = f"{name}, line {reader.line_num}"
            if len(row) != len(header):
                raise UserError(f"{place}: {len(row)} fields where the first line has {len(header)}; mend it")
            yield place, row[path], row[value].strip(), None if view is None else row[view].strip()
    except csv.Error as error:
        raise UserError(f"{name}, line {reader.line_num}: {error}; mend it, or unpack the file again") from None


def _needed(options: Options) -> set[str]:
    return {"Path", RULES[options.label_rule][0]} | ({"Frontal/Lateral"} if options.views == "frontal" else set())


def _start(path: Path) -> bytes | None:
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return file.read(1 << 16)


def _columns(start: bytes) -> set[str]:
    """The first line's fields: whatever its encoding, so that a CheXpert tree with a broken CSV is still one."""
    line = start.replace(b"\0", b"").removeprefix(b"\xff\xfe").removeprefix(b"\xfe\xff").decode("utf-8-sig", "ignore")
    return {field.strip(' "\r') for field in line.partition("\n")[0].split(",")}


def _is_chexpert(start: bytes | None) -> bool:
    known = {"Frontal/Lateral", "No Finding", "Pneumonia"}
    return start is not None and "Path" in _columns(start) and not known.isdisjoint(_columns(start))


def _stamp(root: Path, name: str, records: list[Record], digest) -> None:
    """Adds every image's size and time; one that is missing is found when it is read, unless all are."""
    missing = 0
    for record in records:
        try:
            # Not `Path.stat`: over the whole of CheXpert it takes seconds more.
            stat = os.stat(f"{root}/{record.id}")
            told = f"{stat.st_size}\0{stat.st_mtime_ns}"
        except OSError:
            missing += 1
            told = "missing"
        digest.update(f"{record.id}\0{told}\n".encode())
    if records and missing == len(records):
        raise UserError(
            f"none of the images that {root / name} lists is there, such as {root / records[0].id}: put them there,"
            f" or move {name} away"
        )


def _composition(split: str, records: list[Record], left_out: int) -> str:
    positives = sum(record.label for record in records)
    told = f"{split} {positives:,} pneumonia, {len(records) - positives:,} normal"
    return told + (f", {left_out:,} left out as uncertain" if left_out else "")
