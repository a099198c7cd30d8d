"""The files below a folder: which are images, which are masks of images, and which are left out."""

import os
import re
from collections.abc import Iterable, Iterator
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from pneumojax.data.decode import images
from pneumojax.data.patients import is_dicom
from pneumojax.data.source import is_csv
from pneumojax.runtime.errors import UserError
from pneumojax.runtime.wording import counted

# Of a file or folder, such as `masks`, `leftMask` or `Normal-1_mask`.
_MASK = re.compile(r"(?:.*[\W_]|left|right|manual|lung)?masks?", re.IGNORECASE)


class Kind(Enum):
    """What a file is."""

    IMAGE = "image"
    MASK = "mask"
    OTHER = "other file"


class Found(NamedTuple):
    """A file, by its path below the folder that was listed."""

    name: str
    kind: Kind


def below(root: Path) -> Iterator[Found]:
    """Yield every file below a folder, in order of names, with one folder in memory at a time.

    A file is an image if it has one of `images.SUFFIXES`, or if its content is DICOM. What systems and archives leave
    beside images is not listed. Links to folders are followed, and every real folder is listed once, by its own name
    where it has one below `root`. A link to a folder around it is not followed, since it leads to all others. A folder
    that cannot be listed counts as another file.
    """
    start = os.path.realpath(root)
    locked: list[str] = []
    listed: set[tuple[int, int]] = set()
    for folder, folders, files in os.walk(root, followlinks=True, onerror=lambda error: locked.append(error.filename)):
        while locked:
            yield Found(os.path.relpath(locked.pop(), root), Kind.OTHER)
        identity = _identity(folder)
        if identity is None or identity in listed:
            folders.clear()
            continue
        listed.add(identity)
        folders[:] = sorted(name for name in folders if not hidden(name) and not _is_astray(folder, name, start))
        prefix = os.path.relpath(folder, root)
        for name in sorted(name for name in files if not hidden(name)):
            relative = name if prefix == os.curdir else os.path.join(prefix, name)
            if kind := _kind(relative, os.path.join(folder, name)):
                yield Found(relative, kind)
    for name in locked:
        yield Found(os.path.relpath(name, root), Kind.OTHER)


def _identity(folder: str) -> tuple[int, int] | None:
    """Return what is the same for all names of a folder; None for one that was just removed."""
    try:
        status = os.stat(folder)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _is_astray(folder: str, name: str, start: str) -> bool:
    """Return whether a folder is a link that leads to a folder around it, or to one that is listed by its own name."""
    path = os.path.join(folder, name)
    if not os.path.islink(path):
        return False
    target = os.path.realpath(path)
    inside = os.path.relpath(target, start)
    if not inside.startswith("..") and not hidden(inside):
        return True
    return os.path.commonpath([target, os.path.realpath(folder)]) == target


def _kind(relative: str, path: str) -> Kind | None:
    """Return what a file is; None for what is no file, such as a pipe, and has no image's name."""
    if not relative.lower().endswith(images.SUFFIXES):
        if not os.path.isfile(path):
            return None
        if os.path.basename(path) == "DICOMDIR" or not is_dicom(Path(path)):
            return Kind.OTHER
    return Kind.MASK if is_mask(relative) else Kind.IMAGE


def hidden(path: str) -> bool:
    """Return whether a relative path is one that systems and archives leave beside images."""
    return any(part.startswith(".") or part == "__MACOSX" for part in path.split("/"))


def is_mask(path: str) -> bool:
    """Return whether a relative path is named as a mask that shows where the lungs are, beside an image."""
    return any(map(_MASK.fullmatch, os.path.splitext(path)[0].split("/")))


def csvs_in(root: Path) -> list[Path]:
    """List the CSVs in `root`, or else in its folder of annotations, as VinDr-CXR has one."""
    paths = (path for path in sorted(root.iterdir()) if is_csv(path.name))
    found = [path for path in paths if path.is_file() and not hidden(path.name)]
    annotations = root / "annotations"
    return found or (csvs_in(annotations) if annotations.is_dir() else [])


def refuse_other_encodings(root: Path, names: Iterable[str]) -> None:
    """Raise UserError if a file's name cannot be written down as text."""
    for name in names:
        if not name.isascii() and os.fsencode(name) != name.encode(errors="replace"):
            raise UserError(f"{root}: the name of the file {name!r} is not UTF-8, or the locale is not: rename it")


def left_out(names: Iterable[str], what: str, why: str = "") -> list[str]:
    """Return a sentence on what is left out, or none if there is nothing."""
    names = sorted(names)
    return [f"Left out: {' '.join([counted(len(names), what), *why.split()])}, such as {names[0]}."] if names else []
