"""One NPZ file with the keys of MedMNIST: train_images, train_labels, and so on for val and test.

Yang et al., "MedMNIST v2 - A large-scale lightweight benchmark for 2D and 3D biomedical image classification" (2023).
"""

import math
from collections import Counter
from functools import lru_cache, partial
from pathlib import Path
from threading import Lock
from typing import NamedTuple
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile

import numpy as np
from numpy.lib import format as npy
from PIL import Image

from pneumojax.data.decode import images
from pneumojax.data.decode.unreadable import MAX_PIXELS, UnreadableImage
from pneumojax.data.source import MAX_RECORDS, Record, Source, file_fingerprint, name_of
from pneumojax.runtime.errors import UserError

NPZ_SPLITS = ("train", "val", "test")
MAX_UNPACKED_BYTES = 8 << 30  # of all arrays; PneumoniaMNIST at 224 pixels has 0.3 GiB

_CHUNK = 1 << 20
_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
_lock = Lock()


class _Header(NamedTuple):
    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype


def open_npz(path: Path, labelled: bool = True, max_bytes: int = MAX_UNPACKED_BYTES) -> Source:
    """Return the source in an NPZ file, with any of the splits.

    Images are (n, h, w), (n, h, w, 1) or (n, h, w, 3) uint8, labels (n,) or (n, 1) integers. An NPZ names no
    classes: label 1 is taken as pneumonia and 0 as normal, as in PneumoniaMNIST. Nothing is ever unpickled. Images
    are checked here, but stay in memory only once they are read.

    Args:
      path: the file.
      labelled: whether labels are needed; otherwise they are ignored.
      max_bytes: of the unpacked arrays.

    Raises:
      UserError: it is no NPZ, damaged, larger than `max_bytes`, or its arrays do not have the forms above.
      OSError: it cannot be opened.
    """
    path = path.resolve()
    modified = path.stat().st_mtime_ns
    with path.open("rb") as file:
        try:
            with ZipFile(file) as archive:
                labels = _check(archive, path, labelled, max_bytes)
        except UserError:
            raise
        except Exception as error:  # on broken data, decoders raise errors of many kinds
            raise UserError(f"{path} cannot be read as NPZ: {_reason(error)}; download or write it again") from None
    records = [
        Record(id := f"{split}/{number:05d}", label, id, split)
        for split, labels_of_split in labels.items()
        for number, label in enumerate(labels_of_split)
    ]
    if not records:
        raise UserError(f"{path} holds no image: choose another file")
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
    with _lock:  # otherwise several threads might each load the array
        array = _images(path, modified, split)
    pixels = array[int(number)]
    if pixels.shape[2:] == (1,):
        pixels = pixels[..., 0]
    return images.resize(images.grey(Image.fromarray(pixels)), size)


@lru_cache(maxsize=2 * len(NPZ_SPLITS))  # for a run's source and another one to evaluate
def _images(path: Path, modified: int, split: str) -> np.ndarray:
    try:
        if path.stat().st_mtime_ns != modified:
            raise UnreadableImage(f"{path} has changed since it was opened")
        with ZipFile(path) as archive:
            return _load(archive, f"{split}_images")
    except UnreadableImage:
        raise
    except Exception as error:
        raise UnreadableImage(_reason(error)) from None


def _check(archive: ZipFile, path: Path, labelled: bool, max_bytes: int) -> dict[str, list[int | None]]:
    """Check headers and contents before any array is allocated; return each image's label, or None, by split."""
    members = Counter(info.filename.removesuffix(".npy") for info in archive.infolist())
    keys = [key for split in NPZ_SPLITS for key in _keys(split) if members[key]]
    if not labelled:
        keys = [key for key in keys if key.endswith("_images")]
    if not keys:
        raise UserError(f"{path} has no train_images and train_labels, nor those of val or test: add them")
    splits = [split for split in NPZ_SPLITS if any(key in keys for key in _keys(split))]
    lacking = [key for split in splits for key in _keys(split) if key not in keys]
    if lacking and labelled:
        raise UserError(f"{path} lacks {' and '.join(lacking)}: give images and labels of each split")
    twice = [key for key in keys if members[key] > 1]
    if twice:
        raise UserError(f"{path} holds {' and '.join(twice)} more than once: write it again")
    headers = {key: _header(archive, path, key) for key in keys}
    total = sum(math.prod(header.shape) * header.dtype.itemsize for header in headers.values())
    if total > max_bytes:
        raise UserError(f"{path} unpacks to {total:,} bytes, more than {max_bytes:,}: give fewer or smaller images")
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


def _keys(split: str) -> tuple[str, str]:
    return f"{split}_images", f"{split}_labels"


def _header(archive: ZipFile, path: Path, key: str) -> _Header:
    info = archive.getinfo(f"{key}.npy")
    if info.compress_type not in (ZIP_STORED, ZIP_DEFLATED):  # others unpack all at once
        raise UserError(f"{path}: {key} has a compression that NumPy never uses: save it by numpy.savez_compressed")
    with archive.open(info) as file:
        version = npy.read_magic(file)
        if version not in _HEADERS:
            raise UserError(
                f"{path}: {key} has NPY version {version}, which arrays of numbers never need: save it again"
            )
        header = _Header(*_HEADERS[version](file))
        start = file.tell()
    if header.dtype.hasobject:
        raise UserError(f"{path}: {key} holds pickled objects, which are never loaded: save it as numbers")
    size = math.prod(header.shape) * header.dtype.itemsize
    if min(header.shape, default=0) < 0 or size != info.file_size - start:
        raise UserError(
            f"{path}: {key} has {info.file_size:,} bytes, too many or few for shape {header.shape!s:.60}: save it again"
        )
    if header.fortran:
        raise UserError(f"{path}: {key} is in Fortran order: save the result of numpy.ascontiguousarray")
    return header


def _check_images(path: Path, split: str, shape: tuple[int, ...], dtype: np.dtype) -> None:
    if dtype != np.uint8:
        raise UserError(f"{path}: {split}_images are {dtype}: save them as uint8, 0 to 255")
    if len(shape) not in (3, 4) or shape[3:] not in ((), (1,), (3,)) or 0 in shape[1:]:
        raise UserError(f"{path}: {split}_images have shape {shape}: save them as (n, h, w), or with 1 or 3 channels")
    if shape[1] * shape[2] > MAX_PIXELS:
        raise UserError(
            f"{path}: {split}_images have {shape[2]}x{shape[1]} pixels, more than {MAX_PIXELS:,}: shrink them"
        )


def _check_labels(path: Path, split: str, labels: _Header, count: int) -> None:
    if labels.dtype.kind not in "iu":
        raise UserError(f"{path}: {split}_labels are {labels.dtype}: save them as integers, 1 for pneumonia")
    if labels.shape[1:] not in ((), (1,)) or not labels.shape:
        raise UserError(
            f"{path}: {split}_labels have shape {labels.shape}: save them as (n,) or (n, 1), for two classes"
        )
    if labels.shape[0] != count:
        raise UserError(f"{path}: {count:,} {split}_images but {labels.shape[0]:,} {split}_labels: give one each")


def _check_content(archive: ZipFile, key: str) -> None:
    """Read to the end, where `zipfile` compares the checksum, and keep nothing."""
    with archive.open(f"{key}.npy") as file:
        while file.read(_CHUNK):
            pass


def _labels(archive: ZipFile, path: Path, split: str) -> np.ndarray:
    labels = _load(archive, f"{split}_labels").reshape(-1)
    if not np.isin(labels, (0, 1)).all():
        extent = f"{labels.min()} to {labels.max()}"
        raise UserError(f"{path}: {split}_labels are {extent}: use 0 for normal and 1 for pneumonia, no others")
    return labels


def _load(archive: ZipFile, key: str) -> np.ndarray:
    with archive.open(f"{key}.npy") as file:
        return npy.read_array(file, allow_pickle=False)


def _reason(error: Exception) -> str:
    return " ".join((getattr(error, "strerror", None) or str(error) or type(error).__name__).split())
