"""Sources and splits: lists of records, each with a function that reads their images."""

import gzip
import hashlib
import os
import re
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from etils import epath

from pneumojax.data.decode import images
from pneumojax.data.decode.unreadable import UnreadableImage
from pneumojax.runtime.errors import UserError
from pneumojax.runtime.wording import counted

CLASSES = ("normal", "pneumonia")  # by their labels
SPLIT_NAMES = {"train": "train", "training": "train", "test": "test", "testing": "test"}
SPLIT_NAMES |= {"val": "val", "valid": "val", "validation": "val", "validate": "val", "dev": "val"}
SITE = "site"  # the name of the groups that are sites
WHOLE = "all"  # the split of a source that has none
MAX_RECORDS = 2_000_000  # the largest public sets have some 400,000; this many take 1 GB
MAX_CSV_BYTES = 1 << 28


class Record(NamedTuple):
    """One image.

    Attributes:
      id: unique in the source; where each image is a file, its path relative to the source.
      label: 1 for pneumonia, 0 for normal, None if unknown.
      patient: images of one patient must stay in one split. It is the image's id where nothing tells the patient. It is
        never written to any file.
      split: "train", "val", "test" or `WHOLE`.
      site: where the image is from, by the name that the user gave the site; empty where there is one unnamed site.
      metadata: (column, value) of what a CSV tells besides the label, such as ("view", "PA"); no value is empty.
      weight: of the label in training, in [0, 1]. One with less than 1 only trains, one with 0 is left out.
    """

    id: str
    label: int | None
    patient: str
    split: str
    site: str = ""
    metadata: tuple[tuple[str, str], ...] = ()
    weight: float = 1.0


class Options(NamedTuple):
    """How to read a source that leaves a choice; `configs/base.py` describes each option."""

    label_rule: str = "abnormal"
    views: str = "all"
    labels: str = ""
    patient_pattern: str = ""
    columns: str = ""


DEFAULTS = Options()


class Source(NamedTuple):
    """Images in any kind of storage. It can be sent to another process.

    Attributes:
      name: short, fit for a file name.
      location: what opens the source again.
      records: in order of id; of TFDS, in the order of its shards.
      fingerprint: changes when an image or a label does.
      read: (record, size) -> (size, size) uint8 grey; raises `unreadable.UnreadableImage`.
      root: the folder in which a record's id is the path of its file; None where images are not files.
      notice: what every output made from this source must say, if anything.
      remarks: what the user must know about how labels and images were chosen, in sentences.
      parts: (name, source without records) of each named site; empty for a single unnamed one.
    """

    name: str
    location: str
    records: tuple[Record, ...]
    fingerprint: str
    read: Callable[[Record, int], np.ndarray]
    root: Path | None = None
    notice: str | None = None
    remarks: tuple[str, ...] = ()
    parts: tuple[tuple[str, "Source"], ...] = ()

    def file_of(self, record: Record) -> Path | None:
        """Return the path of a record's image; None where images are not files."""
        if part := dict(self.parts).get(record.site):
            return part.file_of(within_site(record))
        return None if self.root is None else self.root / record.id


class Split(NamedTuple):
    """Images of one split.

    Attributes:
      name: such as "train".
      ids: (n,) str.
      labels: (n,) uint8, 1 is pneumonia.
      read: indices (k,) int -> images (k, size, size, 1) uint8.
      weights: (n,) float64, of the labels in training; None if all are 1.
      groups: column of metadata -> each image's value, (n,) str, empty where unknown. Named sites are in `SITE`.
    """

    name: str
    ids: np.ndarray
    labels: np.ndarray
    read: Callable[[np.ndarray], np.ndarray]
    weights: np.ndarray | None = None
    groups: Mapping[str, np.ndarray] = MappingProxyType({})


class Prepared(NamedTuple):
    """A source's images at a model's size, in shards or in memory.

    Attributes:
      places: id -> the image's place, for images that can be read.
      unreadable: id -> why the image could not be read.
      identical: groups of ids with the same pixels at this size.
      near_equal: groups of ids with the same picture but different pixels.
      content: digest of the readable images' ids and pixels at this size, see `duplicates.content_of`.
      read: places (k,) int -> images (k, size, size, 1) uint8.
      folder: of the shards; None for images in memory.
    """

    places: Mapping[str, int]
    unreadable: Mapping[str, str]
    identical: Sequence[Sequence[str]]
    near_equal: Sequence[Sequence[str]]
    content: str
    read: Callable[[np.ndarray], np.ndarray]
    folder: epath.Path | None = None

    def split(self, name: str, records: Sequence[Record]) -> Split:
        """Return the split of `records`, all of which must be readable."""
        places = np.array([self.places[record.id] for record in records])
        return split_of(name, records, lambda indices: self.read(places[indices]))


class UnreadableImages(UserError):
    """Some images cannot be read: `reasons` is id -> why."""

    def __init__(self, message: str, reasons: Mapping[str, str]):
        super().__init__(message)
        self.reasons = reasons


def within_site(record: Record) -> Record:
    """Return a record of a named site as the site's own source has it."""
    return record._replace(id=record.id.removeprefix(f"{record.site}/"), site="")


def name_of(location: str) -> str:
    """Return a source's short name, fit for a file name; the location need not exist."""
    name = re.sub(r"[^\w.]+", "_", Path(location).absolute().name).encode()[:100].decode(errors="ignore")
    return name if name.strip(".") else "data"  # `.` and `..` would be folders


def file_fingerprint(paths: Iterable[Path]) -> str:
    """Return a hash that changes with any file's name, size or time."""
    digest = hashlib.sha256()
    for path in paths:
        stat = path.stat() if path.exists() else path.lstat()  # reading a dangling link reports it
        digest.update(os.fsencode(path) + f"\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def read_csv(path: Path, advice: str) -> bytes:
    """Read the content of a CSV, also one that is compressed, as PhysioNet has them.

    Raises:
      UserError: it has more than `MAX_CSV_BYTES`, and the message gives this advice; or it is damaged.
    """
    compressed = path.suffix.lower() == ".gz"
    try:
        with gzip.open(path) if compressed else path.open("rb") as file:
            content = file.read(MAX_CSV_BYTES + 1)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path} is no whole gzip file ({error}): bring it back as it was") from None
    if len(content) > MAX_CSV_BYTES:
        raise UserError(f"{path} is larger than {MAX_CSV_BYTES:,} bytes: {advice}")
    return content


def is_csv(name: str) -> bool:
    """Return whether a file's name is that of a CSV, perhaps a compressed one."""
    return name.lower().endswith((".csv", ".csv.gz"))


def of_files(location: Path, records: Iterable[Record], fingerprint: str, remarks: Iterable[str] = ()) -> Source:
    """Return the source whose images are files in a folder, or one file."""
    root, place = location if location.is_dir() else location.parent, str(location)
    read = partial(_read_file, root)
    return Source(name_of(place), place, tuple(records), fingerprint, read, root, remarks=tuple(remarks))


def _read_file(root: Path, record: Record, size: int) -> np.ndarray:
    return images.read(root / record.id, size)


def from_source(source: Source, name: str, records: Sequence[Record], size: int) -> Split:
    """Return a split that decodes its images on each read, on all cores, see `read_images`."""
    return split_of(name, records, lambda indices: read_images(source, [records[i] for i in indices], size))


def at(split: Split, places: np.ndarray) -> Split:
    """Return the images at these places of a split."""
    return Split(
        split.name,
        split.ids[places],
        split.labels[places],
        lambda indices: split.read(places[indices]),
        None if split.weights is None else split.weights[places],
        {column: values[places] for column, values in split.groups.items()},
    )


def split_of(name: str, records: Sequence[Record], read: Callable[[np.ndarray], np.ndarray]) -> Split:
    """Return the split of `records`, in their order."""
    ids = np.array([record.id for record in records])
    weights = np.array([record.weight for record in records])
    labels = np.array([record.label for record in records], np.uint8)
    return Split(name, ids, labels, read, None if (weights == 1).all() else weights, _groups(records))


def _groups(records: Sequence[Record]) -> dict[str, np.ndarray]:
    values = [dict(record.metadata) | ({SITE: record.site} if record.site else {}) for record in records]
    columns = sorted({column for own in values for column in own}, key=lambda column: (column != SITE, column))
    return {column: np.array([own.get(column, "") for own in values]) for column in columns}


def read_images(source: Source, records: Sequence[Record], size: int) -> np.ndarray:
    """Read the images of `records`, (k, size, size, 1) uint8.

    Raises:
      UnreadableImages: some cannot be read; the message counts all of them and names the first few.
    """
    with ThreadPoolExecutor() as pool:
        results = list(pool.map(lambda record: try_read(source, size, record), records))
    pairs = zip(records, results, strict=True)
    refuse_unreadable({record.id: str(result) for record, result in pairs if isinstance(result, UnreadableImage)})
    return np.stack([result for result in results if isinstance(result, np.ndarray)])[..., None]


def try_read(source: Source, size: int, record: Record) -> np.ndarray | UnreadableImage:
    """Read an image, (size, size) uint8, or return why it cannot be read."""
    try:
        return source.read(record, size)
    except UnreadableImage as reason:
        return reason


def refuse_unreadable(reasons: Mapping[str, str]) -> None:
    """Raise UnreadableImages if there is any entry: id -> why the image cannot be read."""
    if reasons:
        named = "; ".join(f"{id} ({reason})" for id, reason in list(reasons.items())[:5])
        more = f"; and {len(reasons) - 5} more" if len(reasons) > 5 else ""
        count = counted(len(reasons), "unreadable image")
        raise UnreadableImages(f"{count}: {named}{more}: repair or remove them", reasons)
