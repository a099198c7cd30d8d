"""Images without labels, to be predicted: a file, a folder, a pattern of names, or an NPZ file."""

import glob
import os
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from pneumojax.data.audit.duplicates import thumbnail
from pneumojax.data.audit.quality import Declared, declared, is_absurd, is_constant, is_dark, is_inverted
from pneumojax.data.decode import images
from pneumojax.data.decode.images import Picture
from pneumojax.data.decode.unreadable import UnreadableImage
from pneumojax.data.source import WHOLE, Record, Source, name_of
from pneumojax.data.sources.listing import Found, Kind, below
from pneumojax.data.sources.npz import open_npz
from pneumojax.runtime.errors import UserError
from pneumojax.runtime.wording import counted


class Seen(NamedTuple):
    """One image as the model sees it.

    Attributes:
      image: (size, size) uint8; None if it cannot be read.
      problem: why it cannot be read, or empty.
      flags: quality flags: of "size", "colour", "constant", "dark", "clipped", "lateral", "inverted".
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
      left_out: files in a folder that are no images; counted while `ids` is read.
    """

    name: str
    ids: Iterator[str]
    look: Look
    left_out: "LeftOut"


class LeftOut:
    """Counts files by what they are, and remembers the first of each kind."""

    def __init__(self) -> None:
        self._counts: Counter[Kind] = Counter()
        self._first: dict[Kind, str] = {}

    def add(self, found: Found) -> None:
        """Count a file."""
        self._counts[found.kind] += 1
        self._first.setdefault(found.kind, found.name)

    def remarks(self) -> list[str]:
        """Return a sentence on the files of each kind."""
        return [
            f"{counted(count, kind.value)} {'is' if count == 1 else 'are'} left out, such as {self._first[kind]}."
            for kind, count in self._counts.items()
        ]


def open_inputs(location: str) -> Inputs:
    """Open an image file, a folder with images anywhere below, an .npz file, or a pattern.

    A pattern is a path with `*`, `?`, `[...]` or `**`. Files come in order of their names. `listing.below` says which
    files in a folder are images; a file that the location or a pattern names may have any suffix.

    Raises:
      UserError: there is no image.
    """
    try:
        path = Path(location).expanduser()
    except RuntimeError as error:  # no such home, as in ~nobody
        raise UserError(f"cannot open {location}: {error}") from None
    left_out = LeftOut()
    if location and path.is_dir():
        ids = _below(path, left_out)
    elif location and path.suffix.lower() == ".npz" and path.exists():
        source = open_npz(path, labelled=False)
        ids = (record.id for record in source.records)
        return Inputs(source.name, ids, partial(_look_in, source._replace(records=())), left_out)
    elif location and path.exists():
        ids = iter([str(path)])
    else:
        ids = iter(sorted(name for name in glob.glob(str(path), recursive=True) if not os.path.isdir(name)))
    first = next(ids, None)
    if first is None:
        others = "".join(f" ({remark[:-1]})" for remark in left_out.remarks())
        raise UserError(
            f"no image at {location!r}{others}: give a file, a folder, a pattern in quotes, or an .npz file"
        )
    name = name_of(str(path.resolve()) if path.exists() else str(path).replace("*", "_"))
    return Inputs(name, chain([first], ids), look_at_file, left_out)


def _below(root: Path, left_out: LeftOut) -> Iterator[str]:
    """Yield every image below a folder, and count the other files."""
    for found in below(root):
        if found.kind is Kind.IMAGE:
            yield os.path.join(root, found.name)
        else:
            left_out.add(found)


def look_at_file(id: str, size: int) -> Seen:
    """Read and check one image file."""
    return _seen(lambda: images.look(Path(id), size), declared(Path(id)))


def look_at_whole_file(id: str, size: int) -> tuple[Seen, np.ndarray | None]:
    """Read and check a DICOM file as `look_at_file` does; return too the film at its full size, uint8."""
    found: list[np.ndarray] = []

    def read() -> Picture:
        picture, pixels = images.look_whole(Path(id), size)
        found.append(pixels)
        return picture

    seen = _seen(read, declared(Path(id)))
    return seen, found[0] if found else None


def look_at_array(pixels: np.ndarray, size: int, bits: int | None = None, inverted: bool = False) -> Seen:
    """Check an image in memory; the arguments are those of `images.from_array`."""
    height, width = pixels.shape[:2] if pixels.ndim == 2 else (None, None)
    return _seen(lambda: images.from_array(pixels, size, bits, inverted), Declared(width=width, height=height))


def _look_in(source: Source, id: str, size: int) -> Seen:
    return _seen(lambda: Picture(source.read(Record(id, None, id, WHOLE), size)), Declared())


def _seen(read: Callable[[], Picture], file: Declared) -> Seen:
    try:
        image, guessed, clipped = read()
    except UnreadableImage as reason:
        return Seen(None, str(reason), ())
    constant = is_constant(image)
    flags = {"size": is_absurd(file), "colour": file.colour, "constant": constant}
    flags |= {"dark": guessed and is_dark(image), "clipped": clipped, "lateral": file.lateral}
    flags["inverted"] = not constant and is_inverted(thumbnail(image))
    return Seen(image, "", tuple(flag for flag, raised in flags.items() if raised))
