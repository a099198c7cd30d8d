"""Which images show a picture that a model was trained or chosen on: scores on those say nothing about new films."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, UInt8

from pneumojax.data.audit.duplicates import HASH_BITS, perceptual_hash
from pneumojax.data.source import Split
from pneumojax.evaluation import film_statistics

# Bits of `perceptual_hash`. Copies in 14 other encodings, sizes, brightnesses and contrasts differ in 20 at most,
# different pictures in 35 at least (see `duplicates`).
MAX_BITS = 24
BYTES = HASH_BITS // 8
_READ = 256  # images at a time
_COMPARED = 1 << 22  # pairs of hashes at a time: 128 MiB

Hashes = UInt8[np.ndarray, "n 32"]


class Hashing(NamedTuple):
    """A split whose images are hashed and measured as they are read.

    Attributes:
      split: reads the images.
      hashes: of the images that were read.
      statistics: of the images that were read, see `film_statistics`.
      read: whether an image was.
    """

    split: Split
    hashes: Hashes
    statistics: Float32[np.ndarray, "n statistics"]
    read: Bool[np.ndarray, " n"]


def hashing(split: Split) -> Hashing:
    """Return the split, to be read once for its images, their hashes and their statistics."""
    hashes, done = np.zeros((len(split.ids), BYTES), np.uint8), np.zeros(len(split.ids), bool)
    statistics = np.zeros((len(split.ids), film_statistics.COUNT), np.float32)

    def read(indices: np.ndarray) -> np.ndarray:
        images = split.read(indices)
        for index, image in zip(indices.tolist(), images, strict=True):
            hashes[index], done[index] = hash_of(image[..., 0]), True
        statistics[indices] = film_statistics.of(images[..., 0])
        return images

    return Hashing(split._replace(read=read), hashes, statistics, done)


def complete(hashed: Hashing) -> Hashes:
    """Return the hashes of all images, and complete the statistics; read what another process of the job has read."""
    missing = np.flatnonzero(~hashed.read)
    for start in range(0, len(missing), _READ):
        hashed.split.read(missing[start : start + _READ])
    return hashed.hashes


def hash_of(image: UInt8[np.ndarray, "side side"]) -> UInt8[np.ndarray, "32"]:
    """Return the perceptual hash of an image."""
    return np.frombuffer(perceptual_hash(image), np.uint8)


def known(seen: Hashes, hashes: UInt8[np.ndarray, "k 32"], compared: int = _COMPARED) -> Bool[np.ndarray, " k"]:
    """Return for each of `hashes` whether one of the pictures `seen` has nearly the same; compare so many at a time.

    Pictures without detail, whose hashes are zero, are all alike: they are not known.
    """
    seen = seen[seen.any(1)] if len(seen) else seen
    if not len(seen):
        return np.zeros(len(hashes), bool)
    words = np.ascontiguousarray(seen).view(np.uint64)
    rows = max(compared // len(seen), 1)
    found = []
    for start in range(0, len(hashes), rows):
        block = np.ascontiguousarray(hashes[start : start + rows]).view(np.uint64)
        # Few pairs agree so far in the first of the four words: only they are compared whole.
        near, like = np.nonzero(np.bitwise_count(block[:, None, 0] ^ words[:, 0]) <= MAX_BITS)
        bits = np.bitwise_count(block[near] ^ words[like]).sum(1, dtype=np.uint16)
        alike = np.zeros(len(block), bool)
        alike[near[bits <= MAX_BITS]] = True
        found.append(alike & block.any(1))
    return np.concatenate(found) if found else np.zeros(0, bool)
