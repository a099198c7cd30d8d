"""One NPZ file with the keys of MedMNIST: train_images, train_labels, and so on for val and test.

Yang et al., "MedMNIST v2 - A large-scale lightweight benchmark for 2D and 3D biomedical image classification" (2023).
"""

import io
import math
from collections import Counter
from functools import lru_cache, partial
from pathlib import Path
from threading import Lock
from typing import BinaryIO, NamedTuple
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile

import numpy as np
from numpy.lib import format as npy
from PIL import Image

from pneumojax.data.decode import images
from pneumojax.data.decode.unreadable import MAX_PIXELS, Metered, UnreadableImage, open_file, reason_of
from pneumojax.data.source import MAX_RECORDS, Record, Source, file_fingerprint, name_of
from pneumojax.runtime.errors import UserError

NPZ_SPLITS = ("train", "val", "test")
MAX_UNPACKED_BYTES = 8 << 30  # of all arrays; PneumoniaMNIST at 224 pixels has 0.3 GiB
MAX_RATIO = 4  # of unpacked bytes to those of the file, beyond the following; radiographs reach about 2
ANY_RATIO_BYTES = 400_000_000

_CHUNK = 1 << 20
_LONGEST = 4 << 20  # bytes that are read at once; also of the archive's directory, 40,000 members
_MAX_HEADER = 10_000  # bytes of an array's header, as NumPy has it
_HEADERS = {(1, 0): (2, npy.read_array_header_1_0), (2, 0): (4, npy.read_array_header_2_0)}  # bytes of the length
_lock = Lock()


class _Header(NamedTuple):
    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype


def open_npz(path: Path, labelled: bool = True, max_bytes: int = MAX_UNPACKED_BYTES) -> Source:
    """Return the source in an NPZ file, with any of the splits.

    Images are (n, h, w), (n, h, w, 1) or (n, h, w, 3) uint8, labels (n,) or (n, 1) integers. An NPZ names no
    classes: label 1 is taken as pneumonia and 0 as normal, as in PneumoniaMNIST. Nothing is ever unpickled. Images
    are checked here, but stay in memory only once they are read. Labels are ignored unless `labelled`.

    Raises:
      UserError: it is no NPZ, damaged, unpacks to more than `max_bytes` or to far more than the file has, or its
        arrays do not have the forms above.
      OSError: it cannot be opened.
    """
    path = path.resolve()
    modified = path.stat().st_mtime_ns
    max_bytes = min(max_bytes, max(ANY_RATIO_BYTES, MAX_RATIO * path.stat().st_size))
    with _open(path) as file:
        try:
            with _archive(file) as archive:
                labels = _check(archive, path, labelled, max_bytes)
        except UserError:
            raise
        except Exception as error:  # on broken data, decoders raise errors of many kinds
            raise UserError(f"{path} cannot be read as NPZ: {reason_of(error)}; download or write it again") from None
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


def _open(path: Path) -> BinaryIO:
    try:
        return open_file(path)
    except UnreadableImage as reason:
        raise UserError(f"{path} is {reason}: give an .npz file") from None


def _archive(file: BinaryIO) -> ZipFile:
    """Open an archive; reading a long directory is refused."""
    return ZipFile(Metered(file, _LONGEST, pieces=1 << 62))  # pyright: ignore[reportArgumentType]  # it needs no more


@lru_cache(maxsize=2 * len(NPZ_SPLITS))  # for a run's source and another one to evaluate
def _images(path: Path, modified: int, split: str) -> np.ndarray:
    try:
        if path.stat().st_mtime_ns != modified:
            raise UnreadableImage(f"{path} has changed since it was opened")
        with open_file(path) as file, _archive(file) as archive:
            return _load(archive, f"{split}_images")
    except UnreadableImage:
        raise
    except Exception as error:
        raise UnreadableImage(reason_of(error)) from None


def _check(archive: ZipFile, path: Path, labelled: bool, max_bytes: int) -> dict[str, list[int | None]]:
    """Check headers and contents before any array is allocated; return each image's label, or None, by split."""
    members = Counter(info.filename.removesuffix(".npy") for info in archive.infolist())
    kinds = ("images", "labels") if labelled else ("images",)
    keys_of = {split: [f"{split}_{kind}" for kind in kinds] for split in NPZ_SPLITS}
    splits = [split for split, keys in keys_of.items() if any(members[key] for key in keys)]
    if not splits:
        raise UserError(f"{path} has no train_images and train_labels, nor those of val or test: add them")
    keys = [key for split in splits for key in keys_of[split]]
    if lacking := [key for key in keys if not members[key]]:
        raise UserError(f"{path} lacks {' and '.join(lacking)}: give images and labels of each split")
    if twice := [key for key in keys if members[key] > 1]:
        raise UserError(f"{path} holds {' and '.join(twice)} more than once: write it again")
    headers = {key: _header(archive, path, key) for key in keys}
    total = sum(math.prod(header.shape) * header.dtype.itemsize for header in headers.values())
    if total > max_bytes:
        raise UserError(f"{path} unpacks to {total:,} bytes, more than {max_bytes:,}: give fewer or smaller images")
    counts = {}
    for split in splits:
        counts[split] = _check_images(path, split, headers[f"{split}_images"])
        if labelled:
            _check_labels(path, split, headers[f"{split}_labels"], counts[split])
    if (count := sum(counts.values())) > MAX_RECORDS:
        raise UserError(f"{path} holds {count:,} images, more than {MAX_RECORDS:,}: give fewer")
    for key in keys:
        _check_content(archive, key)
    if not labelled:
        return {split: [None] * count for split, count in counts.items()}
    return {split: _labels(archive, path, split).tolist() for split in splits}


def _header(archive: ZipFile, path: Path, key: str) -> _Header:
    info, name = archive.getinfo(f"{key}.npy"), f"{path}: {key}"
    if info.compress_type not in (ZIP_STORED, ZIP_DEFLATED):  # others unpack all at once
        raise UserError(f"{name} has a compression that NumPy never uses: save it by numpy.savez_compressed")
    with archive.open(info) as file:
        version = npy.read_magic(file)
        if version not in _HEADERS:
            raise UserError(f"{name} has NPY version {version}, which arrays of numbers never need: save it again")
        width, read_header = _HEADERS[version]
        content = file.read(width)
        if (length := int.from_bytes(content, "little")) > _MAX_HEADER:
            raise UserError(f"{name} has a header of {length:,} bytes, which no array of numbers needs: save it again")
        header = _Header(*read_header(io.BytesIO(content + file.read(length))))
        start = file.tell()
    if header.dtype.hasobject:
        raise UserError(f"{name} holds pickled objects, which are never loaded: save it as numbers")
    size = math.prod(header.shape) * header.dtype.itemsize
    if min(header.shape, default=0) < 0 or size != info.file_size - start:
        raise UserError(
            f"{name} has {info.file_size:,} bytes, too many or few for shape {header.shape!s:.60}: save it again"
        )
    if header.fortran:
        raise UserError(f"{name} is in Fortran order: save the result of numpy.ascontiguousarray")
    return header


def _check_images(path: Path, split: str, images: _Header) -> int:
    """Return the number of images."""
    name, shape = f"{path}: {split}_images", images.shape
    if images.dtype != np.uint8:
        raise UserError(f"{name} are {images.dtype}: save them as uint8, 0 to 255")
    if len(shape) not in (3, 4) or shape[3:] not in ((), (1,), (3,)) or 0 in shape[1:]:
        raise UserError(f"{name} have shape {shape}: save them as (n, h, w), or with 1 or 3 channels")
    if shape[1] * shape[2] > MAX_PIXELS:
        raise UserError(f"{name} have {shape[2]}x{shape[1]} pixels, more than {MAX_PIXELS:,}: shrink them")
    return shape[0]


def _check_labels(path: Path, split: str, labels: _Header, count: int) -> None:
    name = f"{path}: {split}_labels"
    if labels.dtype.kind not in "iu":
        raise UserError(f"{name} are {labels.dtype}: save them as integers, 1 for pneumonia")
    if labels.shape[1:] not in ((), (1,)) or not labels.shape:
        raise UserError(f"{name} have shape {labels.shape}: save them as (n,) or (n, 1), for two classes")
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
