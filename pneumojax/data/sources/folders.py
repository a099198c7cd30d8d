"""Class folders, with or without split folders above them: NORMAL and PNEUMONIA in any case."""

import os
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from pneumojax.data.patients import patients_of
from pneumojax.data.source import SPLIT_NAMES, WHOLE, Record, Source, file_fingerprint, of_files
from pneumojax.data.sources.labels import class_of
from pneumojax.data.sources.listing import Kind, below, hidden, left_out, refuse_other_encodings
from pneumojax.runtime.errors import UserError


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
    refuse_other_encodings(root, by_id)
    by_id = dict(sorted(by_id.items()))
    patients = patients_of(root, by_id)
    records = [Record(id, image.label, patients[id], image.split) for id, image in by_id.items()]
    fingerprint = file_fingerprint(image.file for image in by_id.values())
    return of_files(root, records, fingerprint, _remarks(root, by_id))


def _remarks(root: Path, ids: Iterable[str]) -> list[str]:
    """Count the files that are left out: masks, and what lies outside class folders or is no image."""
    real = lru_cache(maxsize=None)(os.path.realpath)  # of folders: the same file may have another name by a link

    def place(name: str) -> tuple[str, str]:
        folder, base = os.path.split(root / name)
        return real(folder), base

    used = set(map(place, ids))
    rest = [found for found in below(root) if place(found.name) not in used]
    masks = [found.name for found in rest if found.kind is Kind.MASK]
    # A CSV may describe the images, see `metadata`.
    others = [found.name for found in rest if found.kind is not Kind.MASK and not found.name.lower().endswith(".csv")]
    return [*left_out(masks, "mask"), *left_out(others, "other file")]


def _classified(root: Path) -> list[_Image]:
    """List every image below `root`, in root/class or root/split/class."""
    folders = subfolders(root)
    splits = [(folder, SPLIT_NAMES[name]) for folder, name in folders if name in SPLIT_NAMES]
    beside = _labelled(root, WHOLE)
    within = [image for folder, split in splits for image in _labelled(folder, split)]
    if beside and within:
        raise UserError(f"{root} holds class folders both in split folders and beside them: move one kind elsewhere")
    classified = beside or within
    # An archive often unpacks to a single folder that holds the others.
    return _classified(folders[0][0]) if not classified and len(folders) == 1 else classified


def _labelled(parent: Path, split: str) -> list[_Image]:
    classes = [(folder, label) for folder, name in subfolders(parent) if (label := class_of(name)) is not None]
    within = [path for folder, _ in classes for path, name in subfolders(folder) if name in SPLIT_NAMES]
    if within:
        raise UserError(f"{within[0]} is a split folder in a class folder: put class folders into split folders")
    return [
        _Image(folder / found.name, label, split)
        for folder, label in classes
        for found in below(folder)
        if found.kind is Kind.IMAGE
    ]


def subfolders(parent: Path) -> list[tuple[Path, str]]:
    """List the folders in `parent` with their names in lower case, without spaces around them."""
    paths = sorted(parent.iterdir()) if parent.is_dir() else []
    return [(path, path.name.lower().strip()) for path in paths if path.is_dir() and not hidden(path.name)]
