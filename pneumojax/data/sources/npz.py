"""One NPZ file with the keys of MedMNIST: train_images, train_labels, and so on for val and test.

Yang et al., "MedMNIST v2 - A large-scale lightweight benchmark for 2D and 3D biomedical image classification" (2023).
"""

import math
import warnings
import zipfile
from collections import Counter
from functools import lru_cache, partial
from pathlib import Path
from threading import Lock
from typing import NamedTuple

import numpy as np
from numpy.lib import format as npy
from PIL import Image

from pneumojax.data import images
from pneumojax.data.records import MAX_RECORDS, Record, Source, file_fingerprint, name_of
from pneumojax.data.unreadable import MAX_PIXELS, UnreadableImage
from pneumojax.errors import UserError

SPLITS = ("train", "val", "test")
MAX_BYTES = 8 << 30  # of all arrays; PneumoniaMNIST at 224 pixels has 0.3 GiB

# What NumPy, and the parser that it uses, say of a header that is none, or of Python 2.
warnings.filterwarnings("ignore", module=r"numpy\.lib|<unknown>|pneumojax\.data\.sources\.npz")

_CHUNK = 1 << 20
_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
_lock = Lock()


class _Header(NamedTuple):
    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype


def open_npz(path: Path, labelled: bool = True) -> Source:
    """The source in an NPZ file: any of the splits, each with images and labels; not `labelled`, images will do.

    Images are (n, h, w), (n, h, w, 1) or (n, h, w, 3) uint8, labels (n,) or (n, 1) integers. An NPZ names no
    classes: label 1 is taken as pneumonia and 0 as normal, as in PneumoniaMNIST. Nothing is ever unpickled. The
    images are checked here but kept only once they are read.

    Raises:
      UserError: it is no NPZ, damaged, larger than `MAX_BYTES`, or its arrays are not as above.
      OSError: it cannot be opened.
    """
    path = path.resolve()
    modified = path.stat().st_mtime_ns
    with path.open("rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                labels = _checked(archive, path, labelled)
        except UserError:
            raise
        except Exception as error:  # on broken data the decoders raise whatever they stumble over
            raise UserError(f"{path} cannot be read as NPZ: {_told(error)}; download or write it again") from None
    records = [
        Record(id := f"{split}/{number:05d}", label, id, split)
        for split, own in labels.items()
        for number, label in enumerate(own)
    ]
    if not records:
        raise UserError(f"{path} holds no image: give another file")
    return Source(
        name=name_of(path.stem),
        location=str(path),
        records=tuple(sorted(records)),
        fingerprint=file_fingerprint([path]),
        read=partial(read_image, path, modified),
        remarks=("The file names no classes: label 1 is taken as pneumonia, 0 as normal, as in PneumoniaMNIST.",),
    )


def read_image(path: Path, modified: int, record: Record, size: int) -> np.ndarray:
    """`Source.read` of a source in an NPZ file that was last modified at `modified` (ns)."""
    split, _, number = record.id.partition("/")
    with _lock:  # threads that ask at once must not each load the array
        array = _images(path, modified, split)
    pixels = array[int(number)]
    if pixels.shape[2:] == (1,):
        pixels = pixels[..., 0]
    return images.resize(images.grey(Image.fromarray(pixels)), size)


@lru_cache(maxsize=2 * len(SPLITS))  # a source's, and another's that is evaluated beside it
def _images(path: Path, modified: int, split: str) -> np.ndarray:
    try:
        if path.stat().st_mtime_ns != modified:
            raise UnreadableImage(f"{path} has changed since it was opened")
        with zipfile.ZipFile(path) as archive:
            return _load(archive, f"{split}_images")
    except UnreadableImage:
        raise
    except Exception as error:
        raise UnreadableImage(_told(error)) from None


def _checked(archive, path, labelled) -> dict[str, list[int | None]]:
    """The label of each image, or None, by split; nothing is allocated before everything is known to be as it must."""
    members = Counter(info.filename.removesuffix(".npy") for info in archive.infolist())
    keys = [key for split in SPLITS for key in _keys(split) if members[key]]
    if not labelled:
        keys = [key for key in keys if key.endswith("_images")]
    if not keys:
        raise UserError(f"{path} has no train_images and train_labels, nor those of val or test: give such an NPZ")
    splits = [split for split in SPLITS if any(key in keys for key in _keys(split))]
    lacking = [key for split in splits for key in _keys(split) if key not in keys]
    if lacking and labelled:
        raise UserError(f"{path} lacks {' and '.join(lacking)}: images and labels come in pairs, add what is missing")
    twice = [key for key in keys if members[key] > 1]
    if twice:
        raise UserError(f"{path} holds {' and '.join(twice)} more than once: write it again")
    headers = {key: _header(archive, path, key) for key in keys}
    total = sum(math.prod(header.shape) * header.dtype.itemsize for header in headers.values())
    if total > MAX_BYTES:
        raise UserError(f"{path} unpacks to {total:,} bytes, more than {MAX_BYTES:,}: give fewer or smaller images")
    for split in splits:
        _check_images(path, split, headers[f"{split}_images"].shape, headers[f"{split}_images"].dtype)
        if labelled:
            _check_labels(path, split, headers[f"{split}_labels"], headers[f"{split}_images"].shape[0])
    count = sum(headers[f"{split}_images"].shape[0] for split in splits)
    if count > MAX_RECORDS:
        raise UserError(f"{path} holds {count:,} images, more than {MAX_RECORDS:,}: give fewer")
    for key in keys:
        _check_content(archive, key)
    if not labelled:
        return {split: [None] * headers[f"{split}_images"].shape[0] for split in splits}
    return {split: _labels(archive, path, split).tolist() for split in splits}


def _keys(split) -> tuple[str, str]:
    return f"{split}_images", f"{split}_labels"


def _header(archive, path, key) -> _Header:
    info = archive.getinfo(f"{key}.npy")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others unpack all at once
        raise UserError(f"{path}: {key} is compressed as NumPy never does: save it by numpy.savez_compressed")
    with archive.open(info) as file:
        version = npy.read_magic(file)
        if version not in _HEADERS:
            raise UserError(f"{path}: {key} is in NPY version {version}, which numbers do not need: write it again")
        header = _Header(*_HEADERS[version](file))
        start = file.tell()
    if header.dtype.hasobject:
        raise UserError(f"{path}: {key} holds pickled objects, which are never loaded: save it as numbers")
    size = math.prod(header.shape) * header.dtype.itemsize
    if min(header.shape, default=0) < 0 or size != info.file_size - start:
        raise UserError(
            f"{path}: {key} claims shape {header.shape!s:.60} but has {info.file_size:,} bytes: write it again"
        )
    if header.fortran:
        raise UserError(f"{path}: {key} is in Fortran order: save it as numpy.ascontiguousarray of it")
    return header


def _check_images(path, split, shape, dtype) -> None:
    if dtype != np.uint8:
        raise UserError(f"{path}: {split}_images are {dtype}: save them as uint8, 0 to 255")
    if len(shape) not in (3, 4) or shape[3:] not in ((), (1,), (3,)) or 0 in shape[1:]:
        raise UserError(f"{path}: {split}_images have shape {shape}: save them as (n, h, w), or with 1 or 3 channels")
    if shape[1] * shape[2] > MAX_PIXELS:
        raise UserError(f"{path}: {split}_images have {shape[2]}x{shape[1]} pixels, more than {MAX_PIXELS:,}")


def _check_labels(path, split, labels, count) -> None:
    if labels.dtype.kind not in "iu":
        raise UserError(f"{path}: {split}_labels are {labels.dtype}: save them as integers, 1 for pneumonia")
    if labels.shape[1:] not in ((), (1,)) or not labels.shape:
        raise UserError(f"{path}: {split}_labels have shape {labels.shape}: not a two-class set, which has (n, 1)")
    if labels.shape[0] != count:
        raise UserError(f"{path}: {count:,} {split}_images but {labels.shape[0]:,} {split}_labels: give one each")


def _check_content(archive, key) -> None:
    """Reads to the end, where `zipfile` compares the checksum, and keeps nothing."""
    with archive.open(f"{key}.npy") as file:
        while file.read(_CHUNK):
            pass


def _labels(archive, path, split) -> np.ndarray:
    labels = _load(archive, f"{split}_labels").reshape(-1)
    if not np.isin(labels, (0, 1)).all():
        told = f"{labels.min()} to {labels.max()}"
        raise UserError(f"{path}: {split}_labels are {told}: not a two-class set, in which 0 is normal, 1 pneumonia")
    return labels


def _load(archive, key) -> np.ndarray:
    with archive.open(f"{key}.npy") as file:
        return npy.read_array(file, allow_pickle=False)


def _told(error: Exception) -> str:
    return " ".join((getattr(error, "strerror", None) or str(error) or type(error).__name__).split())
