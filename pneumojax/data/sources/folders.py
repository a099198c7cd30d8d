"""Class folders, with or without split folders above them: NORMAL and PNEUMONIA in any case."""

import os
from collections.abc import Container
from pathlib import Path
from typing import NamedTuple

from pneumojax.data.decode import images
from pneumojax.data.patients import patients_of
from pneumojax.data.source import CLASSES, SPLIT_NAMES, WHOLE, Record, Source, file_fingerprint, of_files
from pneumojax.runtime.errors import UserError
from pneumojax.runtime.wording import counted


class _Image(NamedTuple):
    file: Path
    label: int
    split: str


def open_folders(root: Path) -> Source | None:
    """Return the source at `root`, or None if there are no images in folders named by class.

    Raises:
      UserError: there are class folders both in splits and beside them, or a file's name is not UTF-8.
    """
    by_id = {image.file.relative_to(root).as_posix(): image for image in _classified(root)}
    if not by_id:
        return None
    for id in by_id:
        if not id.isascii() and os.fsencode(id) != id.encode(errors="replace"):
            raise UserError(f"{root}: the name of the file {id!r} is not UTF-8, or the locale is not: rename it")
    by_id = dict(sorted(by_id.items()))
    patients = patients_of(root, by_id)
    records = [Record(id, image.label, patients[id], image.split) for id, image in by_id.items()]
    others = _other_files(root, by_id)
    remarks = [f"Left out: {counted(len(others), 'other file')}, such as {others[0]}."] if others else []
    return of_files(root, records, file_fingerprint(image.file for image in by_id.values()), remarks)


def _other_files(root: Path, ids: Container[str]) -> list[str]:
    """List the files that are left out: outside class folders, or with another suffix."""
    paths = (path for path in root.rglob("*") if path.is_file())
    names = (path.relative_to(root) for path in paths)
    return sorted(name.as_posix() for name in names if not hidden(name) and name.as_posix() not in ids)


def hidden(path: Path) -> bool:
    """Return whether a relative path is one that systems and archives leave beside images."""
    return any(part.startswith(".") or part == "__MACOSX" for part in path.parts)


def _classified(root: Path) -> list[_Image]:
    """List every image below `root`, in root/class or root/split/class."""
    folders = _folders(root)
    splits = [(folder, SPLIT_NAMES[name]) for folder, name in folders if name in SPLIT_NAMES]
    beside = _labelled(root, WHOLE)
    within = [image for folder, split in splits for image in _labelled(folder, split)]
    if beside and within:
        raise UserError(f"{root} holds class folders both in split folders and beside them: move one kind elsewhere")
    classified = beside or within
    # An archive often unpacks to a single folder that holds the others.
    return _classified(folders[0][0]) if not classified and len(folders) == 1 else classified


def _labelled(parent: Path, split: str) -> list[_Image]:
    classes = [(folder, CLASSES.index(name)) for folder, name in _folders(parent) if name in CLASSES]
    below = [path for folder, _ in classes for path, name in _folders(folder) if name in SPLIT_NAMES]
    if below:
        raise UserError(f"{below[0]} is a split folder in a class folder: put class folders into split folders")
    return [
        _Image(file, label, split)
        for folder, label in classes
        for file in folder.rglob("*")
        if file.suffix.lower() in images.SUFFIXES
        if not hidden(file.relative_to(folder)) and not file.is_dir()
    ]


def _folders(parent: Path) -> list[tuple[Path, str]]:
    """List the folders in `parent` with their names in lower case."""
    paths = sorted(parent.iterdir()) if parent.is_dir() else []
    return [(path, path.name.lower()) for path in paths if path.is_dir() and not hidden(Path(path.name))]
