"""Where images come from: each kind of source becomes a list of records and a function that reads one."""

import hashlib
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from pneumojax.data import images, phantom
from pneumojax.errors import UserError

CLASSES = {"normal": 0, "pneumonia": 1}
SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}
WHOLE = "all"  # the split of a source that has none


class Record(NamedTuple):
    """One labelled image. `id` is unique in the source; images of one `patient` must stay in one split."""

    id: str
    label: int
    patient: str
    split: str


class Source(NamedTuple):
    """Labelled images, however they are kept.

    Attributes:
      name: short, fit for a file name.
      location: what opens the source again.
      records: in order of id.
      fingerprint: changes when an image does.
      read: (record, size) -> (size, size) uint8 grey; raises `images.UnreadableImage`.
      notice: what every output made from this source must say, if anything.
    """

    name: str
    location: str
    records: tuple[Record, ...]
    fingerprint: str
    read: Callable[[Record, int], np.ndarray]
    notice: str | None = None


def open_source(location: str) -> Source:
    """Recognises what lies at `location`: "phantom", or a path to class folders.

    Raises:
      UserError: there is nothing there, or nothing that is recognised.
    """
    if location == "phantom":
        return _phantom()
    try:
        path = Path(location).expanduser()
        if not location or not path.exists():
            raise UserError(f"no such data: {location!r}; give a folder, or phantom")
        if not path.is_dir():
            raise UserError(f"{location} is a file; give the folder that holds the class folders, or phantom")
        str(path).encode()
        return _class_folders(path.resolve())
    except UnicodeEncodeError:
        raise UserError(f"the name of {location!r} is not UTF-8, or the locale is not: rename it") from None
    except (OSError, RuntimeError) as error:  # such as no permission, or no such home as in ~nobody
        raise UserError(f"cannot open {location}: {getattr(error, 'strerror', None) or error}") from None


def name_of(location: str) -> str:
    """The source's short name, fit for a file name: without looking whether it is there."""
    return re.sub(r"[^\w.]+", "_", Path(location).absolute().name) or "data"


def _phantom() -> Source:
    cases = {
        f"{split}/{number:04d}": (split, *case)
        for split in phantom.SPLITS
        for number, case in enumerate(phantom.cases(split))
    }
    return Source(
        name="phantom",
        location="phantom",
        records=tuple(Record(id, label, id, split) for id, (split, _, label) in sorted(cases.items())),
        fingerprint=_file_fingerprint([Path(phantom.__file__)]),
        read=lambda record, size: phantom.render(0, cases[record.id][1], record.label, size)[0],
        notice="Synthetic phantoms drawn from formulas, not radiographs of patients.",
    )


def _class_folders(root: Path) -> Source:
    found = {file.relative_to(root).as_posix(): (file, *told) for file, *told in _classified(root)}
    if not found:
        raise UserError(
            f"{root} holds no images in folders named {' and '.join(CLASSES)}, with or without train, val,"
            " test above: arrange them so"
        )
    for id in found:
        if not id.isascii() and os.fsencode(id) != id.encode(errors="replace"):
            raise UserError(f"{root} holds a file whose name is not UTF-8: {id!r}; rename it")
    files = dict(sorted(found.items()))
    return Source(
        name=name_of(str(root)),
        location=str(root),
        records=tuple(Record(id, label, patient_of(id), split) for id, (_, label, split) in files.items()),
        fingerprint=_file_fingerprint(path for path, _, _ in files.values()),
        read=lambda record, size: images.read(files[record.id][0], size),
    )


def _classified(root: Path) -> list[tuple[Path, int, str]]:
    """(file, label, split) of every image below `root`, at root/class or root/split/class."""
    folders = _folders(root)
    splits = [(folder, SPLITS[name]) for folder, name in folders if name in SPLITS]
    without = _labelled(root, WHOLE)
    within = [found for folder, split in splits for found in _labelled(folder, split)]
    if without and within:
        raise UserError(
            f"{root} holds class folders both in splits and beside them: which count? Move either elsewhere"
        )
    found = without or within
    # An archive often unpacks to one folder around the folders that count.
    return _classified(folders[0][0]) if not found and len(folders) == 1 else found


def _labelled(parent: Path, split: str) -> list[tuple[Path, int, str]]:
    return [
        (file, CLASSES[name], split)
        for folder, name in _folders(parent)
        if name in CLASSES
        for file in folder.rglob("*")
        if file.suffix.lower() in images.SUFFIXES
        if not _hidden(file.relative_to(folder)) and not file.is_dir()
    ]


def _folders(parent: Path) -> list[tuple[Path, str]]:
    if not parent.is_dir():
        return []
    return [
        (path, path.name.lower())
        for path in sorted(parent.iterdir())
        if path.is_dir() and not _hidden(path.relative_to(parent))
    ]


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in path.parts)


# Kermany et al. in both of their releases, and CheXpert: the prefix is the patient, what follows the image.
_PATIENT = re.compile(
    r"(person\d+_(?:bacteria|virus)|(?:NORMAL2-)?IM-\d+|(?:NORMAL|BACTERIA|VIRUS)-\d+|patient\d+)(?=[-_.]|$)"
)


def patient_of(id: str) -> str:
    """The patient that the name of an image or of a folder above it tells; otherwise the image is its own."""
    matches = filter(None, map(_PATIENT.match, PurePosixPath(id).parts))
    return next((match[1] for match in matches), id)


def _file_fingerprint(paths: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        stat = path.stat() if path.exists() else path.lstat()  # a link to nowhere is found when it is read
        digest.update(os.fsencode(path) + f"\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()
