"""Which images are the same picture: byte for byte, or encoded, resized or brightened anew."""

from collections import defaultdict
from collections.abc import Hashable, Sequence

import numpy as np
from PIL import Image
from scipy import fft, ndimage, sparse

THUMBNAIL = 32  # px a side
HASH_BITS = 256

# Measured on 5,232 radiographs of children (Kermany et al.) at sides of 150, 64, 28 and 16 px, 13.7 million pairs,
# and on 300 of them in 14 other encodings, sizes, brightnesses and contrasts.
MAX_DISTANCE = 32  # bits: copies differ in 20 at most, different pictures in 35 at least
MIN_LIKENESS = 0.97  # copies reach 0.98 at least, different pictures 0.89 at most, 0.95 at 16 px
MIN_DETAIL = 2.0  # grey levels: radiographs have 5 at least, an even grey encoded as JPEG below 1

_BLOCK = 4096  # hashes compared with as many others at a time: 64 MiB


def thumbnail(image: np.ndarray) -> np.ndarray:
    """What `near_equal` compares pictures by: (s, s) uint8 -> (32, 32) uint8."""
    return np.rint(_shrink(image)).astype(np.uint8)


def perceptual_hash(image: np.ndarray) -> bytes:
    """256 bits of which copies of a picture share nearly all: the signs of its lowest cosine frequencies.

    Args:
      image: (s, s) uint8, s >= 16.
    """
    low = fft.dctn(_shrink(image))[:16, :16]
    low[0, 0] = 0  # the brightness
    return np.packbits(low > 0).tobytes()


def _shrink(image: np.ndarray) -> np.ndarray:
    image = Image.fromarray(image).convert("F")
    return np.asarray(image.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX))


def identical(digests: Sequence[Hashable]) -> list[list[int]]:
    """Groups of two or more equal digests, by their indices, in order of the first of each."""
    groups = defaultdict(list)
    for index, digest in enumerate(digests):
        groups[digest].append(index)
    return [group for group in groups.values() if len(group) > 1]


def near_equal(hashes: Sequence[bytes], thumbnails: Sequence[np.ndarray]) -> list[list[int]]:
    """Groups of two or more images that show the same picture, by their indices, in order of the first of each.

    A picture encoded, resized or squashed anew, or a little brighter or of another contrast, is the same. Another
    exposure of the same patient is not, nor are images without detail.

    Args:
      hashes: `perceptual_hash` of each of n images.
      thumbnails: `thumbnail` of each.
    """
    # Images of one even grey all have much the same hash, and each would be compared with each.
    kept = np.array([index for index, thumbnail in enumerate(thumbnails) if thumbnail.std() >= MIN_DETAIL], np.intp)
    copies = identical([(bytes(hashes[index]), thumbnails[index].tobytes()) for index in kept])
    pairs = [np.empty((0, 2), np.intp)]
    pairs += [np.stack(np.broadcast_arrays(kept[group[0]], kept[group[1:]]), 1) for group in copies]
    # One of equal ones stands for all: a thousand copies would be half a million pairs.
    kept = np.delete(kept, [index for group in copies for index in group[1:]])
    bits = np.unpackbits(np.frombuffer(b"".join(hashes), np.uint8)).reshape(-1, HASH_BITS)[kept]
    signs = 2 * bits.astype(np.float32) - 1
    for row in range(0, len(kept), _BLOCK):
        for column in range(row, len(kept), _BLOCK):
            # Two rows of signs that differ in d bits have the product HASH_BITS - 2 d.
            agreement = signs[row : row + _BLOCK] @ signs[column : column + _BLOCK].T
            close = np.argwhere(agreement >= HASH_BITS - 2 * MAX_DISTANCE) + (row, column)
            pairs.append(_alike(thumbnails, kept[close[close[:, 0] < close[:, 1]]]))
    first, second = np.concatenate(pairs).T
    graph = sparse.coo_array((np.ones(len(first), bool), (first, second)), shape=(len(hashes),) * 2)
    return identical(sparse.csgraph.connected_components(graph, directed=False)[1].tolist())


def _alike(thumbnails: Sequence[np.ndarray], pairs: np.ndarray) -> np.ndarray:
    """Those of the (k, 2) `pairs` whose details correlate."""
    if not len(pairs):
        return pairs
    (rows, row), (columns, column) = (np.unique(side, return_inverse=True) for side in pairs.T)
    details, others = (np.stack([_detail(thumbnails[index]) for index in side]) for side in (rows, columns))
    return pairs[(details @ others.T)[row, column] >= MIN_LIKENESS]


def _detail(thumbnail: np.ndarray) -> np.ndarray:
    """A thumbnail's fine structure as a vector of length 1, or of zeros where it has none.

    What all radiographs share, a bright middle between dark lungs, is taken away; and contrast is evened out, so
    that a frame or a letter burnt into many images does not outweigh the anatomy.
    """
    thumbnail = thumbnail.astype(np.float32)
    detail = thumbnail - ndimage.gaussian_filter(thumbnail, 1.5, mode="nearest")
    if detail.std() < MIN_DETAIL:
        return np.zeros(detail.size, np.float32)
    detail /= np.sqrt(ndimage.gaussian_filter(detail**2, 4.0)) + 3.0
    detail -= detail.mean()
    return detail.ravel() / np.linalg.norm(detail)
