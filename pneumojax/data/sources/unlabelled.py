"""Images without labels, to be predicted: a file, a folder, a pattern of names, or an NPZ file."""

import glob
import os
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from pneumojax.data.audit.duplicates import thumbnail
from pneumojax.data.audit.quality import Declared, declared, is_absurd, is_constant, is_inverted
from pneumojax.data.decode import images
from pneumojax.data.decode.unreadable import UnreadableImage
from pneumojax.data.source import WHOLE, Record, Source, name_of
from pneumojax.data.sources.folders import hidden
from pneumojax.data.sources.npz import open_npz
from pneumojax.runtime.errors import UserError


class Seen(NamedTuple):
    """One image as the model sees it.

    Attributes:
      image: (size, size) uint8; None if it cannot be read.
      problem: why it cannot be read, or empty.
      flags: quality flags: of "size", "colour", "constant", "inverted".
    """

    image: np.ndarray | None
    problem: str
    flags: tuple[str, ...]


class Look(Protocol):
    """Reads and checks the image of an id, at a size in pixels; can be sent to another process."""

    def __call__(self, id: str, size: int) -> Seen: ...


class Inputs(NamedTuple):
    """Images to predict, in any number.

    Attributes:
      name: short, fit for a file name.
      ids: of each image, generated on demand: paths as the user gave them, or places in an NPZ file.
      look: reads and checks one image.
    """

    name: str
    ids: Iterator[str]
    look: Look


def open_inputs(location: str) -> Inputs:
    """Open an image file, a folder with images anywhere below, an .npz file, or a pattern.

    A pattern is a path with `*`, `?`, `[...]` or `**`. Files come in order of their names. In a folder, files with
    one of `images.SUFFIXES` are images; a file that the location or a pattern names may have any suffix.

    Raises:
      UserError: there is no image.
    """
    try:
        path = Path(location).expanduser()
    except RuntimeError as error:  # no such home, as in ~nobody
        raise UserError(f"cannot open {location}: {error}") from None
    if location and path.is_dir():
        ids = _below(path)
    elif location and path.suffix.lower() == ".npz" and path.exists():
        source = open_npz(path, labelled=False)
        ids = (record.id for record in source.records)
        return Inputs(source.name, ids, partial(_look_in, source._replace(records=())))
    elif location and path.exists():
        ids = iter([str(path)])
    else:
        ids = iter(sorted(name for name in glob.glob(str(path), recursive=True) if not os.path.isdir(name)))
    first = next(ids, None)
    if first is None:
        raise UserError(f"no image at {location!r}: give a file, a folder, a pattern in quotes, or an .npz file")
    name = name_of(str(path.resolve()) if path.exists() else str(path).replace("*", "_"))
    return Inputs(name, chain([first], ids), look_at_file)


def _below(root: Path) -> Iterator[str]:
    """Yield every image below a folder, with one folder in memory at a time."""
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not hidden(Path(name)))
        for name in sorted(names):
            if name.lower().endswith(images.SUFFIXES) and not name.startswith("."):
                yield os.path.join(folder, name)


def look_at_file(id: str, size: int) -> Seen:
    """Read and check one image file."""
    return _seen(lambda: images.read(Path(id), size), declared(Path(id)))


def _look_in(source: Source, id: str, size: int) -> Seen:
    return _seen(lambda: source.read(Record(id, None, id, WHOLE), size), Declared())


def _seen(read: Callable[[], np.ndarray], file: Declared) -> Seen:
    try:
        image = read()
    except UnreadableImage as reason:
        return Seen(None, str(reason), ())
    constant = is_constant(image)
    flags = {"size": is_absurd(file), "colour": file.colour, "constant": constant}
    flags["inverted"] = not constant and is_inverted(thumbnail(image))
    return Seen(image, "", tuple(flag for flag, raised in flags.items() if raised))
