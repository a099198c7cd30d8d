"""What preparing a source gives: its images at a model's size, and which of them are the same picture."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from etils import epath

from pneumojax.data.duplicates import HASH_BITS, THUMBNAIL, identical, near_equal, perceptual_hash, thumbnail
from pneumojax.data.readers import Split, split_of
from pneumojax.data.records import Record

_DIGEST = 32  # bytes of a signature that are the SHA-256
_HASHED = _DIGEST + HASH_BITS // 8  # bytes of it before the thumbnail
SIGNATURE = _HASHED + THUMBNAIL**2  # bytes of it


class Prepared(NamedTuple):
    """A source's images at a model's size, all of which were read once, in shards or in memory.

    Attributes:
      places: id -> the image's place among them, for those that could be read.
      unreadable: id -> why the image could not be read.
      identical: groups of ids whose images are the same at this size.
      near_equal: groups of ids whose images are the same picture, though not the same pixels.
      read: places (k,) int -> images (k, size, size, 1) uint8.
      folder: where the shards lie; None for images in memory.
    """

    places: Mapping[str, int]
    unreadable: Mapping[str, str]
    identical: Sequence[Sequence[str]]
    near_equal: Sequence[Sequence[str]]
    read: Callable[[np.ndarray], np.ndarray]
    folder: epath.Path | None = None

    def split(self, name: str, records: Sequence[Record]) -> Split:
        """A split of `records`, all of which must be readable."""
        places = np.array([self.places[record.id] for record in records])
        return split_of(name, records, lambda indices: self.read(places[indices]))


def signature(image: np.ndarray) -> bytes:
    """What `same_pictures` compares images by: the (s, s) uint8 image's SHA-256, perceptual hash and thumbnail."""
    return hashlib.sha256(image).digest() + perceptual_hash(image) + thumbnail(image).tobytes()


def same_pictures(signatures: Mapping[str, bytes]) -> dict[str, list[list[str]]]:
    """The groups of ids `identical` and `near_equal`, see `Prepared`.

    Args:
      signatures: id -> `signature` of the image.
    """
    names = sorted(signatures)
    digests = [signatures[name][:_DIGEST] for name in names]
    hashes = [signatures[name][_DIGEST:_HASHED] for name in names]
    shape = (THUMBNAIL, THUMBNAIL)
    thumbnails = [np.frombuffer(signatures[name][_HASHED:], np.uint8).reshape(shape) for name in names]
    near = [group for group in near_equal(hashes, thumbnails) if len({digests[i] for i in group}) > 1]
    groups = {"identical": identical(digests), "near_equal": near}
    return {kind: [[names[i] for i in group] for group in found] for kind, found in groups.items()}
