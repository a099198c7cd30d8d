"""What a source is once it is opened: a list of records and a function that reads one."""

import hashlib
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pneumojax.data import images

CLASSES = ("normal", "pneumonia")  # by their labels
SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}
MAX_RECORDS = 2_000_000  # the largest public sets have some 400,000; these take 1 GB
MAX_CSV_BYTES = 1 << 28
WHOLE = "all"  # the split of a source that has none


class Record(NamedTuple):
    """One image.

    Attributes:
      id: unique in the source; where each image is a file, its path relative to the source.
      label: 1 for pneumonia, 0 for normal, None where nothing tells.
      patient: images of one patient must stay in one split. It is never written anywhere.
      split: "train", "val", "test" or `WHOLE`.
    """

    id: str
    label: int | None
    patient: str
    split: str


class Options(NamedTuple):
    """How a source is to be read where it leaves a choice; `configs/base.py` tells of each."""

    label_rule: str = "abnormal"
    views: str = "all"
    labels: str = ""


DEFAULTS = Options()


class Source(NamedTuple):
    """Images, however they are kept. It can be sent to another process.

    Attributes:
      name: short, fit for a file name.
      location: what opens the source again.
      records: in order of id.
      fingerprint: changes when an image or a label does.
      read: (record, size) -> (size, size) uint8 grey; raises `unreadable.UnreadableImage`.
      root: the folder in which a record's id is the path of its file; None where images are no files.
      notice: what every output made from this source must say, if anything.
      remarks: what the user must know of how labels and images were chosen, in sentences.
    """

    name: str
    location: str
    records: tuple[Record, ...]
    fingerprint: str
    read: Callable[[Record, int], np.ndarray]
    root: Path | None = None
    notice: str | None = None
    remarks: tuple[str, ...] = ()


def read_file(root: Path, record: Record, size: int) -> np.ndarray:
    """`Source.read` of a source whose images are files below `root`."""
    return images.read(root / record.id, size)


def name_of(location: str) -> str:
    """The source's short name, fit for a file name: without looking whether it is there."""
    name = re.sub(r"[^\w.]+", "_", Path(location).absolute().name)
    return name.encode()[:100].decode(errors="ignore") or "data"


def file_fingerprint(paths: Iterable[Path]) -> str:
    """Changes with any file's name, size or time."""
    digest = hashlib.sha256()
    for path in paths:
        stat = path.stat() if path.exists() else path.lstat()  # a link to nowhere is found when it is read
        digest.update(os.fsencode(path) + f"\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()
