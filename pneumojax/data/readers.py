"""How the images of a split are read: the one form in which training and evaluation see them."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from pneumojax.data.records import Record, Source
from pneumojax.data.unreadable import UnreadableImage
from pneumojax.errors import UserError


class Split(NamedTuple):
    """Images of one split.

    Attributes:
      name: such as "train".
      ids: (n,) str.
      labels: (n,) uint8, 1 is pneumonia.
      read: indices (k,) int -> images (k, size, size, 1) uint8.
    """

    name: str
    ids: np.ndarray
    labels: np.ndarray
    read: Callable[[np.ndarray], np.ndarray]


def split_of(name: str, records: Sequence[Record], read: Callable[[np.ndarray], np.ndarray]) -> Split:
    """The split of `records`, in their order."""
    ids = np.array([record.id for record in records])
    return Split(name, ids, np.array([record.label for record in records], np.uint8), read)


def from_source(source: Source, name: str, records: Sequence[Record], size: int) -> Split:
    """A split whose images are decoded whenever they are read, on all cores.

    `read` raises UserError with every unreadable image among those asked for.
    """
    return split_of(name, records, lambda indices: read_images(source, [records[i] for i in indices], size))


def read_images(source: Source, records: Sequence[Record], size: int) -> np.ndarray:
    """The images of `records`, (k, size, size, 1) uint8.

    Raises:
      UserError: some are unreadable; all of them are counted, the first few named.
    """
    with ThreadPoolExecutor() as pool:
        results = list(pool.map(lambda record: try_read(source, size, record), records))
    pairs = zip(records, results, strict=True)
    refuse_unreadable({record.id: str(result) for record, result in pairs if isinstance(result, Exception)})
    return np.stack(results)[..., None]


def try_read(source: Source, size: int, record: Record) -> np.ndarray | UnreadableImage:
    """The image, (size, size) uint8, or why there is none."""
    try:
        return source.read(record, size)
    except UnreadableImage as reason:
        return reason


class UnreadableImages(UserError):
    """Some images cannot be read: `reasons` tells of each, by its id, why."""

    def __init__(self, message: str, reasons: Mapping[str, str]):
        super().__init__(message)
        self.reasons = reasons


def refuse_unreadable(reasons: Mapping[str, str]) -> None:
    """Raises UnreadableImages if there are any: id -> why the image cannot be read."""
    if reasons:
        named = "; ".join(f"{id} ({reason})" for id, reason in list(reasons.items())[:5])
        more = f"; and {len(reasons) - 5} more" if len(reasons) > 5 else ""
        raise UnreadableImages(f"{len(reasons)} unreadable: {named}{more}; mend or remove them", reasons)
