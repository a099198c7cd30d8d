"""Class folders, with or without a level of splits above: NORMAL and PNEUMONIA in any case."""

import os
from functools import partial
from pathlib import Path

from pneumojax.data import images
from pneumojax.data.patients import patients_of
from pneumojax.data.records import (
    CLASSES,
    SPLITS,
    WHOLE,
    Record,
    Source,
    file_fingerprint,
    name_of,
    read_file,
)
from pneumojax.errors import UserError


def open_folders(root: Path) -> Source | None:
    """The source at `root`, or None where there are no images in folders named by class.

    Raises:
      UserError: there are class folders both in splits and beside them, or a file's name is not UTF-8.
    """
    found = {file.relative_to(root).as_posix(): (file, *told) for file, *told in _classified(root)}
    if not found:
        return None
    for id in found:
        if not id.isascii() and os.fsencode(id) != id.encode(errors="replace"):
            raise UserError(f"{root} holds a file whose name is not UTF-8, or the locale is not: {id!r}; rename it")
    files = dict(sorted(found.items()))
    patients = patients_of(root, files)
    others = _others(root, files)
    return Source(
        name=name_of(str(root)),
        location=str(root),
        records=tuple(Record(id, label, patients[id], split) for id, (_, label, split) in files.items()),
        fingerprint=file_fingerprint(path for path, _, _ in files.values()),
        read=partial(read_file, root),
        root=root,
        remarks=(f"{len(others):,} files are left out, such as {others[0]}.",) if others else (),
    )


def _others(root, files) -> list[str]:
    """What lies there besides: outside class folders, or under another suffix."""
    paths = (path for path in root.rglob("*") if path.is_file())
    names = (path.relative_to(root) for path in paths)
    return sorted(name.as_posix() for name in names if not hidden(name) and name.as_posix() not in files)


def hidden(path: Path) -> bool:
    """Whether a relative path is one of those that systems and archives leave beside images."""
    return any(part.startswith(".") or part == "__MACOSX" for part in path.parts)


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
    for folder, name in _folders(parent):
        below = [path for path, part in _folders(folder) if part in SPLITS] if name in CLASSES else []
        if below:
            raise UserError(f"{below[0]} is a split below a class: put the class folders into the split's instead")
    return [
        (file, CLASSES.index(name), split)
        for folder, name in _folders(parent)
        if name in CLASSES
        for file in folder.rglob("*")
        if file.suffix.lower() in images.SUFFIXES
        if not hidden(file.relative_to(folder)) and not file.is_dir()
    ]


def _folders(parent: Path) -> list[tuple[Path, str]]:
    if not parent.is_dir():
        return []
    return [
        (path, path.name.lower())
        for path in sorted(parent.iterdir())
        if path.is_dir() and not hidden(path.relative_to(parent))
    ]
