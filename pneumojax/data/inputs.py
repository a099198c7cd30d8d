"""Images without labels, to be predicted: a file, a folder, a pattern of names, or an NPZ file."""

import glob
import os
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pneumojax.data import images
from pneumojax.data.checks import declared, is_absurd, is_constant, is_inverted
from pneumojax.data.duplicates import thumbnail
from pneumojax.data.records import WHOLE, Record, Source, name_of
from pneumojax.data.sources.folders import hidden
from pneumojax.data.sources.npz import open_npz
from pneumojax.data.unreadable import UnreadableImage
from pneumojax.errors import UserError


class Seen(NamedTuple):
    """One image as the model is to see it.

    Attributes:
      image: (size, size) uint8; None where it cannot be read.
      problem: why it cannot be read, or empty.
      doubts: what makes it doubtful: of "size", "colour", "constant", "inverted".
    """

    image: np.ndarray | None
    problem: str
    doubts: tuple[str, ...]


class Inputs(NamedTuple):
    """Images to predict, however many.

    Attributes:
      name: short, fit for a file name.
      ids: of each image in turn, made as they are asked for: paths as they were given, or places in an NPZ file.
      look: id, size -> `Seen`; can be sent to another process.
    """

    name: str
    ids: Iterator[str]
    look: Callable[[str, int], Seen]


def open_inputs(location: str) -> Inputs:
    """Opens what lies at `location`: an image file, a folder with images anywhere below, an .npz file, or a pattern.

    A pattern is a path with `*`, `?`, `[...]` or `**`. Files are taken in order of their names. In a folder those of
    `images.SUFFIXES` are; a file that is named, or that a pattern names, is taken whatever its suffix.

    Raises:
      UserError: there is nothing.
    """
    try:
        path = Path(location).expanduser()
    except RuntimeError as error:  # no such home, as in ~nobody
        raise UserError(f"cannot open {location}: {error}") from None
    if location and path.is_dir():
        ids = _below(path)
    elif location and path.suffix.lower() == ".npz" and path.exists():
        return _of_npz(path)
    elif location and path.exists():
        ids = iter([str(path)])
    else:
        ids = iter(sorted(found for found in glob.glob(str(path), recursive=True) if not os.path.isdir(found)))
    first = next(ids, None)
    if first is None:
        raise UserError(f"no image at {location!r}: give a file, a folder, a pattern in quotes, or an .npz file")
    name = name_of(str(path.resolve()) if path.exists() else str(path).replace("*", "_"))
    return Inputs(name, chain([first], ids), look_at_file)


def _below(root: Path) -> Iterator[str]:
    """Every image below a folder, one folder in memory at a time."""
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not hidden(Path(name)))
        for name in sorted(names):
            if name.lower().endswith(images.SUFFIXES) and not name.startswith("."):
                yield os.path.join(folder, name)


def _of_npz(path: Path) -> Inputs:
    source = open_npz(path, labelled=False)
    ids = (record.id for record in source.records)
    return Inputs(source.name, ids, partial(_look_in, source._replace(records=())))


def look_at_file(id: str, size: int) -> Seen:
    """Reads and judges one image file."""
    path = Path(id)
    told = declared(path)
    doubts = ("size",) if told.width and told.height and is_absurd(told.width, told.height) else ()
    doubts += ("colour",) if told.colour else ()
    try:
        return _judged(images.read(path, size), doubts)
    except UnreadableImage as reason:
        return Seen(None, str(reason), ())


def _look_in(source: Source, id: str, size: int) -> Seen:
    try:
        return _judged(source.read(Record(id, None, id, WHOLE), size), ())
    except UnreadableImage as reason:
        return Seen(None, str(reason), ())


def _judged(image: np.ndarray, doubts: tuple[str, ...]) -> Seen:
    if is_constant(image):
        return Seen(image, "", (*doubts, "constant"))
    return Seen(image, "", (*doubts, "inverted") if is_inverted(thumbnail(image)) else doubts)
