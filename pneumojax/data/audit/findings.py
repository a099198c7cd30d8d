"""What is wrong with a source's images and splits: unreadable files, copies, leaks, images that show no chest."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from pneumojax.data import splits
from pneumojax.data.audit import leakage
from pneumojax.data.audit.duplicates import copies, perceptual_hash, thumbnail
from pneumojax.data.audit.quality import (
    MAX_ASPECT,
    MIN_SIDE,
    Declared,
    declared,
    is_absurd,
    is_constant,
    is_dark,
    is_inverted,
)
from pneumojax.data.decode.images import Picture, look
from pneumojax.data.decode.unreadable import MAX_PIXELS, UnreadableImage, open_file
from pneumojax.data.source import CLASSES, WHOLE, Record, Source
from pneumojax.runtime.wording import counted

SIDE = 150  # px; side of the squares that are examined
_SUFFIXES = {".jpeg": "JPEG", ".jpg": "JPEG", ".jfif": "JPEG", ".png": "PNG", ".tif": "TIFF", ".tiff": "TIFF"}
_SUFFIXES |= {".bmp": "BMP", ".webp": "WebP", ".dcm": "DICOM", ".dicom": "DICOM"}

Group = list[Record]


# Kind -> (unit of a finding's count, what was found in a few words, what it means).
_ERRORS = {
    "unreadable": (
        "image",
        "that cannot be read",
        "Training refuses them, or skips them with --config.data.on_error=skip.",
    ),
    "truncated": ("image", "cut short", "The files are incomplete, as after an interrupted download: get them again."),
    "patient_across_splits": (
        "patient",
        "with images in more than one split",
        "The model has seen these patients in training: scores on the other splits are too good.",
    ),
    "identical_across_splits": (
        "group",
        "identical across splits",
        "The files of a group are the same, byte for byte, in more than one split: scores on them are too good.",
    ),
    "near_equal_across_splits": (
        "group",
        "nearly identical across splits",
        "The files of a group show the same picture, encoded or resized differently, in more than one split: scores on"
        " them are too good.",
    ),
}
_WARNINGS = {
    "conflicting_labels": (
        "group",
        "of the same picture with different labels",
        "One image of a group is labelled normal, another pneumonia: one of the labels is wrong.",
    ),
    "one_class": ("split", "of one class only ({splits})", "Training needs images of both classes."),
    "identical_within_split": (
        "group",
        "identical within {splits}",
        "The files of a group are the same, byte for byte: such a picture counts more than once.",
    ),
    "near_equal_within_split": (
        "group",
        "nearly identical within {splits}",
        "The files of a group show the same picture, encoded or resized differently: such a picture counts more than"
        " once.",
    ),
    "wrong_extension": (
        "image",
        "with a wrong extension",
        "The content has another format than the file's name says. PneumoJAX reads it; other programs may refuse it.",
    ),
    "absurd_size": (
        "image",
        "of an implausible size",
        f"A side of less than {MIN_SIDE} pixels, a side {MAX_ASPECT} times as long as the other, or more than"
        f" {MAX_PIXELS:,} pixels: this can hardly be a whole radiograph.",
    ),
    "colour": ("image", "in colour", "A radiograph is grey: these may be photographs, or screenshots."),
    "constant": ("image", "of uniform grey", "Nothing can be seen in them."),
    "dark": (
        "image",
        "perhaps too dark",
        "They have 16 bits but use fewer, and no header says how many. The brightest pixel was taken as white, and few"
        " others come near it.",
    ),
    "clipped": (
        "image",
        "with a few pixels far outside the range of the others",
        "They are DICOM without a window. Such pixels, as of a side marker, are shown black or white.",
    ),
    "lateral": (
        "image",
        "from the side",
        "The DICOM header's ViewPosition says so: a model of frontal films takes it for different anatomy.",
    ),
    "inverted": (
        "image",
        "perhaps inverted",
        "Bone looks dark and air bright, the reverse of the usual: a model takes it for different anatomy.",
    ),
}
_KINDS = _ERRORS | _WARNINGS


class Facts(NamedTuple):
    """What one image shows by itself.

    Attributes:
      problem: why it cannot be read, or empty; if not empty, `hash` and the fields after it mean nothing.
      digest: SHA-256 of the file, or of the pixels of an image that is not a file.
      size: of the file in bytes; None without a file.
      declared: what the file declares; nothing without a file.
      hash, thumbnail: see `duplicates`.
      constant: whether it is uniform.
      dark: whether its range of 16 bits was guessed, and too wide.
      clipped: whether a few of its pixels are far outside the range of all others.
      inverted: whether bone is dark and air bright.
    """

    problem: str
    digest: bytes = b""
    size: int | None = None
    declared: Declared = Declared()
    hash: bytes = b""
    thumbnail: np.ndarray | None = None
    constant: bool = False
    inverted: bool = False
    dark: bool = False
    clipped: bool = False


def examine(source: Source, record: Record) -> Facts:
    """Return the facts of one image; can be sent to another process."""
    file = source.file_of(record)
    known: dict[str, Any] = {} if file is None else _file_facts(file)
    try:
        picture = Picture(source.read(record, SIDE)) if file is None else look(file, SIDE)
    except UnreadableImage as reason:
        return Facts(str(reason), **known)
    square = picture.square
    known.setdefault("digest", hashlib.sha256(square.data).digest())
    small, constant = thumbnail(square), is_constant(square)
    inverted = not constant and is_inverted(small)
    known |= {"constant": constant, "inverted": inverted, "clipped": picture.clipped}
    known["dark"] = picture.guessed and is_dark(square)
    return Facts("", **known, hash=perceptual_hash(square), thumbnail=small)


def _file_facts(path: Path) -> dict[str, Any]:
    """Return as many facts as the file itself gives."""
    facts: dict[str, Any] = {"declared": declared(path)}
    with suppress(Exception), open_file(path) as file:  # reading the image reports what is wrong
        facts |= {"digest": hashlib.file_digest(file, "sha256").digest(), "size": file.tell()}
    return facts


def audit(source: Source, facts: Iterable[Facts | UnreadableImage]) -> dict[str, Any]:
    """Return what is wrong with a source, fit for JSON, from each record's facts or why it could not be examined.

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
        "wrong_extension": lambda record, facts: _format_by_name(record, facts) != facts.declared.format,
        "absurd_size": lambda record, facts: is_absurd(facts.declared),
        "colour": lambda record, facts: facts.declared.colour,
        "constant": lambda record, facts: facts.constant,
        "dark": lambda record, facts: facts.dark,
        "clipped": lambda record, facts: facts.clipped,
        "lateral": lambda record, facts: facts.declared.lateral and not facts.problem,
        "inverted": lambda record, facts: facts.inverted,
    }
    return {
        kind: [[record] for record, facts in examined.items() if test(record, facts)] for kind, test in tests.items()
    }


def _is_truncated(facts: Facts) -> bool:
    return "truncated" in facts.problem.lower()  # as Pillow puts it


def _format_by_name(record: Record, facts: Facts) -> str:
    """Return the format that the name claims; the content's if the name claims none or the content is unknown."""
    content = facts.declared.format
    return _SUFFIXES.get(PurePosixPath(record.id).suffix.lower(), content) if content else ""


def _copies(examined: Mapping[Record, Facts]) -> dict[str, list[Group]]:
    """Find groups of one picture, by whether their bytes are identical and whether they cross splits."""
    readable = {record: facts for record, facts in examined.items() if not facts.problem}
    digests, hashes = [facts.digest for facts in readable.values()], [facts.hash for facts in readable.values()]
    thumbnails = [facts.thumbnail for facts in readable.values() if facts.thumbnail is not None]
    same, near = copies(list(readable), digests, hashes, thumbnails)
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
    unit, short, what = _KINDS[kind]
    records = {record: examined[record] for group in groups for record in group}
    count = counted(len(groups), unit) + (f" ({counted(len(records), 'image')})" if unit != "image" else "")
    where = " and ".join(sorted({record.split for record in records}))
    ids = [[record.id for record in group] for group in groups if unit != "split"]
    return {
        "kind": kind,
        "severity": "error" if kind in _ERRORS else "warning",
        "count": len(groups),
        "images": len(records),
        "short": f"{count} {short.format(splits=where)}",
        "what": what,
        "ids": [id for group in ids for id in group] if unit == "image" else ids,
        "notes": {record.id: _note(record, facts) for record, facts in records.items() if ids},
    }


def _note(record: Record, facts: Facts) -> str:
    label = "no label" if record.label is None else CLASSES[record.label]
    form = facts.declared
    shape = f"{form.width}x{form.height}" if form.width is not None else ""
    length = counted(facts.size, "byte") if facts.size is not None else ""
    return ", ".join(filter(None, (record.split, label, form.format, shape, length, facts.problem)))
