"""What is wrong with a source's images and splits: unreadable files, copies, leaks, images that show no chest."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from pneumojax.data import splits
from pneumojax.data.audit import leakage
from pneumojax.data.audit.duplicates import identical, near_equal, perceptual_hash, thumbnail
from pneumojax.data.audit.quality import MAX_ASPECT, MIN_SIDE, declared, is_absurd, is_constant, is_inverted
from pneumojax.data.decode.unreadable import MAX_PIXELS, UnreadableImage, refuse_special
from pneumojax.data.source import CLASSES, WHOLE, Record, Source
from pneumojax.runtime.wording import counted

SIDE = 150  # px; side of the squares that are examined
_SUFFIXES = {".jpeg": "JPEG", ".jpg": "JPEG", ".png": "PNG", ".dcm": "DICOM", ".dicom": "DICOM"}

Group = Sequence[Record]


class _Kind(NamedTuple):
    severity: str
    unit: str  # of a finding's count
    short: str
    what: str


_KINDS = {
    "unreadable": _Kind(
        "error",
        "image",
        "that cannot be read",
        "Training refuses them, or skips them with --config.data.on_error=skip.",
    ),
    "truncated": _Kind(
        "error", "image", "cut short", "The files are incomplete, as after an interrupted download: get them again."
    ),
    "patient_across_splits": _Kind(
        "error",
        "patient",
        "with images in more than one split",
        "The model has seen these patients in training: scores on the other splits are too good.",
    ),
    "identical_across_splits": _Kind(
        "error",
        "group",
        "identical across splits",
        "The files of a group are the same, byte for byte, in more than one split: scores on them are too good.",
    ),
    "near_equal_across_splits": _Kind(
        "error",
        "group",
        "nearly identical across splits",
        "The files of a group show the same picture, encoded or resized differently, in more than one split: scores on"
        " them are too good.",
    ),
    "conflicting_labels": _Kind(
        "warning",
        "group",
        "of the same picture with different labels",
        "One image of a group is labelled normal, another pneumonia: one of the labels is wrong.",
    ),
    "one_class": _Kind("warning", "split", "of one class only ({splits})", "Training needs images of both classes."),
    "identical_within_split": _Kind(
        "warning",
        "group",
        "identical within {splits}",
        "The files of a group are the same, byte for byte: such a picture counts more than once.",
    ),
    "near_equal_within_split": _Kind(
        "warning",
        "group",
        "nearly identical within {splits}",
        "The files of a group show the same picture, encoded or resized differently: such a picture counts more than"
        " once.",
    ),
    "wrong_extension": _Kind(
        "warning",
        "image",
        "with a wrong extension",
        "The content has another format than the file's name says. PneumoJAX reads it; other programs may refuse it.",
    ),
    "absurd_size": _Kind(
        "warning",
        "image",
        "of an implausible size",
        f"A side of less than {MIN_SIDE} pixels, a side {MAX_ASPECT} times as long as the other, or more than"
        f" {MAX_PIXELS:,} pixels: this can hardly be a whole radiograph.",
    ),
    "colour": _Kind("warning", "image", "in colour", "A radiograph is grey: these may be photographs, or screenshots."),
    "constant": _Kind("warning", "image", "of uniform grey", "Nothing can be seen in them."),
    "inverted": _Kind(
        "warning",
        "image",
        "perhaps inverted",
        "Bone looks dark and air bright, the reverse of the usual: a model takes it for different anatomy.",
    ),
}


class Facts(NamedTuple):
    """What one image shows by itself.

    Attributes:
      problem: why it cannot be read, or empty; if not empty, `hash` and the fields after it mean nothing.
      digest: SHA-256 of the file, or of the pixels of an image that is not a file.
      size: of the file in bytes; None without a file.
      format: "JPEG", "PNG" or "DICOM" by content; empty for others and without a file.
      width, height: in pixels, as the file declares; None for DICOM, whose reader judges them, and without a file.
      mode: Pillow's, of JPEG and PNG.
      colour: whether its channels differ.
      hash, thumbnail: see `duplicates`.
      constant: whether it is uniform.
      inverted: whether bone is dark and air bright.
    """

    problem: str
    digest: bytes = b""
    size: int | None = None
    format: str = ""
    width: int | None = None
    height: int | None = None
    mode: str = ""
    colour: bool = False
    hash: bytes = b""
    thumbnail: np.ndarray | None = None
    constant: bool = False
    inverted: bool = False


def examine(source: Source, record: Record) -> Facts:
    """Return the facts of one image; can be sent to another process."""
    file = {} if source.root is None else _file_facts(source.root / record.id)
    try:
        square = source.read(record, SIDE)
    except UnreadableImage as reason:
        return Facts(str(reason), **file)
    small, constant = thumbnail(square), is_constant(square)
    known: dict[str, Any] = {"digest": hashlib.sha256(square.data).digest()} | file
    inverted = not constant and is_inverted(small)
    return Facts("", **known, hash=perceptual_hash(square), thumbnail=small, constant=constant, inverted=inverted)


def _file_facts(path: Path) -> dict[str, Any]:
    """Return as many facts as the file itself gives."""
    facts: dict[str, Any] = {}
    try:
        refuse_special(path)
        with path.open("rb") as file:
            facts |= {"digest": hashlib.file_digest(file, "sha256").digest(), "size": file.tell()}
    except Exception:  # reading the image reports what is wrong
        pass
    return facts | declared(path)._asdict()


def audit(source: Source, facts: Iterable[Facts | UnreadableImage]) -> dict[str, Any]:
    """Return what is wrong with a source, fit for JSON.

    Args:
      source: the source.
      facts: of each record, in order; or why an image could not even be examined.

    Returns:
      source: its name.
      location: what opens it again.
      notice: what every reader must see, or None.
      splits: name -> {"n", "normal", "pneumonia", "majority_accuracy"}, the last None where no image has a label.
      findings: the errors first, each
        kind: such as "unreadable".
        severity: "error" if images cannot be used, or scores on them are too good; otherwise "warning".
        count: of images; or of groups, patients or splits.
        images: how many images it concerns.
        short: what was found, in a few words.
        what: what it means, in a sentence.
        ids: of the images; or a list of ids for each group, and each patient, without a name; empty for a split.
        notes: id -> split, label, format, size and problem of this image.
    """
    examined = {
        record: Facts(str(fact)) if isinstance(fact, UnreadableImage) else fact
        for record, fact in zip(source.records, facts, strict=True)
    }
    given = sorted(splits.as_given(source.records).items())
    composition = {name: splits.composition([record.label for record in members]) for name, members in given}
    groups = _faulty_images(examined) | _copies(examined) | _one_class(source.records)
    groups["patient_across_splits"] = [*leakage.crossing(source.records)]
    return {
        "source": source.name,
        "location": source.location,
        "notice": source.notice,
        "splits": composition,
        "findings": [_finding(kind, groups[kind], examined) for kind in _KINDS if groups[kind]],
    }


def headline(audit: Mapping[str, Any]) -> str:
    """Summarise an audit in one line."""
    parts = [finding["short"] for finding in audit["findings"]]
    if parts and len(audit["splits"]) > 1 and not any("_across_" in finding["kind"] for finding in audit["findings"]):
        parts.append("nothing across splits")
    count = sum(split["n"] for split in audit["splits"].values())
    return f"Audit: {counted(count, 'image')}; {'; '.join(parts) or 'nothing found'}."


def _faulty_images(examined: Mapping[Record, Facts]) -> dict[str, list[Group]]:
    """Find the kinds that concern single images; each image is a group."""
    tests: dict[str, Callable[[Record, Facts], bool]] = {
        "unreadable": lambda record, facts: bool(facts.problem) and not _is_truncated(facts),
        "truncated": lambda record, facts: _is_truncated(facts),
        "wrong_extension": lambda record, facts: facts.format != _format_by_name(record, facts),
        "absurd_size": lambda record, facts: (
            facts.width is not None and facts.height is not None and is_absurd(facts.width, facts.height)
        ),
        "colour": lambda record, facts: facts.colour,
        "constant": lambda record, facts: facts.constant,
        "inverted": lambda record, facts: facts.inverted,
    }
    return {
        kind: [[record] for record, facts in examined.items() if test(record, facts)] for kind, test in tests.items()
    }


def _is_truncated(facts: Facts) -> bool:
    return "truncated" in facts.problem.lower()  # as Pillow puts it


def _format_by_name(record: Record, facts: Facts) -> str:
    """Return the format that the name claims; the content's if the name claims none or the content is unknown."""
    return _SUFFIXES.get(PurePosixPath(record.id).suffix.lower(), facts.format) if facts.format else ""


def _copies(examined: Mapping[Record, Facts]) -> dict[str, list[Group]]:
    """Find groups of one picture, by whether their bytes are identical and whether they cross splits."""
    readable = [(record, facts) for record, facts in examined.items() if not facts.problem]
    records = [record for record, _ in readable]
    digests = [facts.digest for _, facts in readable]
    thumbnails = [facts.thumbnail for _, facts in readable if facts.thumbnail is not None]
    by_picture = near_equal([facts.hash for _, facts in readable], thumbnails)
    by_picture = [group for group in by_picture if len({digests[index] for index in group}) > 1]
    near: list[Group] = [[records[index] for index in group] for group in by_picture]
    same: list[Group] = [[records[index] for index in group] for group in identical(digests)]
    conflicting = [group for group in near if _labels_conflict(group)]
    reported = {record for group in conflicting for record in group}  # a group of identical images may be part of one
    conflicting += [group for group in same if _labels_conflict(group) and group[0] not in reported]
    return {
        "identical_within_split": [group for group in same if not _crosses(group)],
        "identical_across_splits": [group for group in same if _crosses(group)],
        "near_equal_within_split": [group for group in near if not _crosses(group)],
        "near_equal_across_splits": [group for group in near if _crosses(group)],
        "conflicting_labels": conflicting,
    }


def _crosses(group: Group) -> bool:
    return len({record.split for record in group}) > 1


def _labels_conflict(group: Group) -> bool:
    return {0, 1} <= {record.label for record in group}


def _one_class(records: Iterable[Record]) -> dict[str, list[Group]]:
    """Find the splits to train on that lack a class; each is a group."""
    given = splits.as_given([record for record in records if record.label is not None])
    train = [given[name] for name in ("train", WHOLE) if name in given]
    return {"one_class": [list(members) for members in train if len({record.label for record in members}) < 2]}


def _finding(kind: str, groups: Sequence[Group], examined: Mapping[Record, Facts]) -> dict[str, Any]:
    severity, unit, short, what = _KINDS[kind]
    records = {record: examined[record] for group in groups for record in group}
    count = counted(len(groups), unit) + (f" ({counted(len(records), 'image')})" if unit != "image" else "")
    where = " and ".join(sorted({record.split for record in records}))
    ids = [[record.id for record in group] for group in groups if unit != "split"]
    return {
        "kind": kind,
        "severity": severity,
        "count": len(groups),
        "images": len(records),
        "short": f"{count} {short.format(splits=where)}",
        "what": what,
        "ids": [id for group in ids for id in group] if unit == "image" else ids,
        "notes": {record.id: _note(record, facts) for record, facts in records.items() if ids},
    }


def _note(record: Record, facts: Facts) -> str:
    label = "no label" if record.label is None else CLASSES[record.label]
    shape = f"{facts.width}x{facts.height}" if facts.width is not None else ""
    length = counted(facts.size, "byte") if facts.size is not None else ""
    return ", ".join(filter(None, (record.split, label, facts.format, shape, length, facts.problem)))
