"""What is wrong with a source's images and splits: unreadable files, copies, leaks, images that show no chest."""

import hashlib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from pneumojax.data import leakage, splits
from pneumojax.data.checks import MAX_ASPECT, MIN_SIDE, declared, is_absurd, is_constant, is_inverted
from pneumojax.data.duplicates import identical, near_equal, perceptual_hash, thumbnail
from pneumojax.data.records import WHOLE, Record, Source
from pneumojax.data.unreadable import MAX_PIXELS, UnreadableImage, refuse_special

SIDE = 150  # px; of the square that is looked at
_SUFFIXES = {".jpeg": "JPEG", ".jpg": "JPEG", ".png": "PNG", ".dcm": "DICOM", ".dicom": "DICOM"}


class _Kind(NamedTuple):
    severity: str
    counts: str  # what a finding of this kind counts
    short: str
    what: str


_KINDS = {
    "unreadable": _Kind("error", "image", "that cannot be read", "Training refuses them, or skips them."),
    "truncated": _Kind(
        "error", "image", "cut short", "The files are cut short, as by a download that broke off: get them again."
    ),
    "patient_across_splits": _Kind(
        "error",
        "patient",
        "with images in more than one split",
        "A model knows a patient again whom it has seen in training: scores on the other splits are too good.",
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
        "The files of a group show the same picture, encoded or resized anew, in more than one split: scores on them"
        " are too good.",
    ),
    "conflicting_labels": _Kind(
        "warning",
        "group",
        "alike with different labels",
        "The images of a group are the same picture, and yet one is normal and another pneumonia: some label is wrong.",
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
        "The files of a group show the same picture, encoded or resized anew: such a picture counts more than once.",
    ),
    "wrong_extension": _Kind(
        "warning",
        "image",
        "with a wrong extension",
        "The content is of another format than the name tells. It is read all the same; other programs may refuse it.",
    ),
    "absurd_size": _Kind(
        "warning",
        "image",
        "of an absurd size",
        f"A side of less than {MIN_SIDE} pixels, a side {MAX_ASPECT} times as long as the other, or more than"
        f" {MAX_PIXELS:,} pixels: this is hardly a whole radiograph.",
    ),
    "colour": _Kind("warning", "image", "in colour", "A radiograph is grey: these may be photographs, or screenshots."),
    "constant": _Kind("warning", "image", "of one even grey", "Nothing can be seen in them."),
    "inverted": _Kind(
        "warning",
        "image",
        "perhaps inverted",
        "Bone looks dark and air bright, against what is usual: a model takes it for another anatomy.",
    ),
}


class Facts(NamedTuple):
    """What one image tells on its own.

    Attributes:
      problem: why it cannot be read, or empty; where it cannot, `hash` and what follows say nothing.
      digest: SHA-256 of the file, or of the pixels of what is no file.
      bytes: size of the file; None where there is none.
      format: "JPEG", "PNG" or "DICOM" by content; empty where it is none of them, or no file.
      width, height: in pixels, as the file declares; None for DICOM, whose reader judges them, and for what is no file.
      mode: Pillow's, of JPEG and PNG.
      colour: whether its channels differ.
      hash, thumbnail: see `duplicates`.
      constant: whether it is one even grey.
      inverted: whether bone is dark and air bright.
    """

    problem: str
    digest: bytes = b""
    bytes: int | None = None
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
    """The facts of one image; can be sent to another process."""
    file = {} if source.root is None else _file_facts(source.root / record.id)
    try:
        square = source.read(record, SIDE)
    except UnreadableImage as reason:
        return Facts(str(reason), **file)
    small, constant = thumbnail(square), is_constant(square)
    return Facts(
        "",
        **{"digest": hashlib.sha256(square).digest()} | file,
        hash=perceptual_hash(square),
        thumbnail=small,
        constant=constant,
        inverted=not constant and is_inverted(small),
    )


def _file_facts(path: Path) -> dict:
    """The facts that the file itself tells, as far as it is fit to."""
    facts = {}
    try:
        refuse_special(path)
        with path.open("rb") as file:
            facts |= {"digest": hashlib.file_digest(file, "sha256").digest(), "bytes": file.tell()}
    except Exception:  # what is wrong, reading the image tells
        pass
    return facts | declared(path)._asdict()


def audit(source: Source, facts: Iterable[Facts | UnreadableImage]) -> dict:
    """What is wrong with a source, fit for JSON.

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
        severity: "error" where images cannot be used, or scores on them are too good; otherwise "warning".
        count: of images; or of groups, patients or splits.
        images: how many images it concerns.
        short: what was found, in a few words.
        what: what it means, in a sentence.
        ids: of the images; or a list of ids for each group, and each patient, who is not named; none of a split.
        notes: id -> what there is to say of this image.
    """
    facts = [Facts(str(found)) if isinstance(found, UnreadableImage) else found for found in facts]
    found = dict(zip(source.records, facts, strict=True))
    given = sorted(splits.as_given(source.records).items())
    composition = {name: splits.composition([record.label for record in members]) for name, members in given}
    groups = _single(found) | _alike(found) | _one_class(source.records)
    groups["patient_across_splits"] = leakage.crossing(source.records)
    return {
        "source": source.name,
        "location": source.location,
        "notice": source.notice,
        "splits": composition,
        "findings": [_finding(kind, groups[kind], found) for kind in _KINDS if groups[kind]],
    }


def headline(audit: dict) -> str:
    """The audit in one line."""
    told = [finding["short"] for finding in audit["findings"]]
    if told and len(audit["splits"]) > 1 and not any("_across_" in finding["kind"] for finding in audit["findings"]):
        told.append("nothing across splits")
    count = sum(split["n"] for split in audit["splits"].values())
    return f"Audit: {_counted(count, 'image')}; {'; '.join(told) or 'nothing found'}."


def _single(found) -> dict[str, list[list[Record]]]:
    """The kinds that one image tells of; each is a group of its own."""
    tests = {
        "unreadable": lambda record, told: told.problem and not _truncated(told),
        "truncated": lambda record, told: _truncated(told),
        "wrong_extension": lambda record, told: told.format != _suffix_format(record, told),
        "absurd_size": lambda record, told: told.width is not None and is_absurd(told.width, told.height),
        "colour": lambda record, told: told.colour,
        "constant": lambda record, told: told.constant,
        "inverted": lambda record, told: told.inverted,
    }
    return {kind: [[record] for record, told in found.items() if test(record, told)] for kind, test in tests.items()}


def _truncated(told) -> bool:
    return "truncated" in told.problem.lower()  # as Pillow puts it


def _suffix_format(record, told) -> str:
    """What the name tells; where it tells nothing, or the content does not, what the content is."""
    return _SUFFIXES.get(PurePosixPath(record.id).suffix.lower(), told.format) if told.format else ""


def _alike(found) -> dict[str, list[list[Record]]]:
    """Groups of one picture, by whether they are the same bytes, and lie in one split."""
    seen = [(record, told) for record, told in found.items() if not told.problem]
    digests = [told.digest for _, told in seen]
    same = identical(digests)
    near = near_equal([told.hash for _, told in seen], [told.thumbnail for _, told in seen])
    near = [group for group in near if len({digests[index] for index in group}) > 1]
    near = [[seen[index][0] for index in group] for group in near]
    same = [[seen[index][0] for index in group] for group in same]
    mixed = [group for group in near if _contradict(group)]
    told_of = {record for group in mixed for record in group}  # a group of identical images may be part of one
    return {
        "identical_within_split": [group for group in same if not _crosses(group)],
        "identical_across_splits": [group for group in same if _crosses(group)],
        "near_equal_within_split": [group for group in near if not _crosses(group)],
        "near_equal_across_splits": [group for group in near if _crosses(group)],
        "conflicting_labels": mixed + [group for group in same if _contradict(group) and group[0] not in told_of],
    }


def _crosses(group) -> bool:
    return len({record.split for record in group}) > 1


def _contradict(group) -> bool:
    return {0, 1} <= {record.label for record in group}


def _one_class(records) -> dict[str, list[list[Record]]]:
    """The splits to train on that lack a class, as groups."""
    given = splits.as_given([record for record in records if record.label is not None])
    train = [given[name] for name in ("train", WHOLE) if name in given]
    return {"one_class": [list(members) for members in train if len({record.label for record in members}) < 2]}


def _finding(kind, groups, found) -> dict:
    severity, counts, short, what = _KINDS[kind]
    records = {record: found[record] for group in groups for record in group}
    counted = _counted(len(groups), counts) + (f" ({_counted(len(records), 'image')})" if counts != "image" else "")
    where = " and ".join(sorted({record.split for record in records}))
    ids = [[record.id for record in group] for group in groups if counts != "split"]
    return {
        "kind": kind,
        "severity": severity,
        "count": len(groups),
        "images": len(records),
        "short": f"{counted} {short.format(splits=where)}",
        "what": what,
        "ids": [id for group in ids for id in group] if counts == "image" else ids,
        "notes": {record.id: _note(record, told) for record, told in records.items() if ids},
    }


def _note(record, told) -> str:
    label = {0: "normal", 1: "pneumonia"}.get(record.label, "no label")
    size = f"{told.width}x{told.height}" if told.width is not None else ""
    length = _counted(told.bytes, "byte") if told.bytes is not None else ""
    return ", ".join(filter(None, (record.split, label, told.format, size, length, told.problem)))


def _counted(count, thing) -> str:
    return f"{count:,} {thing}{'' if count == 1 else 's'}"
