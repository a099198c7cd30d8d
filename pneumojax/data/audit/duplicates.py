"""Which images show the same picture: identical ones, or copies encoded, resized or brightened differently."""

import hashlib
from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np
from PIL import Image

Item = TypeVar("Item")

THUMBNAIL = 32  # px a side
HASH_BITS = 256
_DIGEST = 32  # bytes of the SHA-256, the first part of a signature
_HASHED = _DIGEST + HASH_BITS // 8  # bytes before the thumbnail, its last part
SIGNATURE = _HASHED + THUMBNAIL**2  # bytes of a signature

# Measured on 5,232 radiographs of children (Kermany et al.) at sides of 150, 64, 28 and 16 px, 13.7 million pairs,
# and on 300 of them in 14 other encodings, sizes, brightnesses and contrasts.
MAX_DISTANCE = 32  # bits: copies differ in 20 at most, different pictures in 35 at least
MIN_LIKENESS = 0.97  # copies reach 0.98 at least, different pictures 0.89 at most, 0.95 at 16 px
MIN_DETAIL = 2.0  # grey levels: radiographs have 5 at least, uniform grey encoded as JPEG below 1

_SIDE = 16  # frequencies of a hash, in each direction
_COSINES = 2 * np.cos(np.pi * np.outer(np.arange(_SIDE), 2 * np.arange(THUMBNAIL) + 1) / (2 * THUMBNAIL))
_NOISE = 1e-3  # grey levels, times `THUMBNAIL` squared: what rounding leaves of a frequency that an image lacks
BLOCK = 4096  # hashes that are compared with as many others at a time: 64 MiB
# Of copies, whose hashes differ in 20 bits at most, the tables miss one pair in 10^17; of pairs at `MAX_DISTANCE`, one
# in 10^4.
_TABLES = 256
_KEY_BITS = 24  # of a hash, drawn for each table; different pictures agree in all of them once in 250,000 pairs
_PAIRS_AT_ONCE = 256  # whose details are compared


def thumbnail(image: np.ndarray) -> np.ndarray:
    """Shrink an image for `near_equal`: (s, s) uint8 -> (32, 32) uint8."""
    return np.rint(_shrink(image)).astype(np.uint8)


def perceptual_hash(image: np.ndarray) -> bytes:
    """Return 256 bits that copies of an (s, s) uint8 image, s >= 16, nearly share: signs of its lowest frequencies.

    Frequencies are those of the cosine transform (DCT-II) of its thumbnail, without the brightness.
    """
    small = _shrink(image).astype(np.float64)
    low = _COSINES @ (small - small.mean()) @ _COSINES.T
    low[0, 0] = 0
    return np.packbits(low > _NOISE).tobytes()


def _shrink(image: np.ndarray) -> np.ndarray:
    small = Image.fromarray(image).convert("F").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    return np.asarray(small)


def identical(digests: Sequence[Hashable]) -> list[list[int]]:
    """Return groups of two or more equal digests, by their indices, in order of the first of each."""
    groups = defaultdict(list)
    for index, digest in enumerate(digests):
        groups[digest].append(index)
    return [group for group in groups.values() if len(group) > 1]


def components(count: int, pairs: np.ndarray) -> list[int]:
    """Return the connected component of each of `count` nodes of a graph with the edges `pairs`, (k, 2) int."""
    if not len(pairs):
        return list(range(count))
    from scipy import sparse  # not at the top: they are slow to import, and predicting needs the hash alone
    from scipy.sparse import csgraph

    first, second = pairs.T
    graph = sparse.coo_array((np.ones(len(pairs), bool), (first, second)), shape=(count, count))
    return csgraph.connected_components(graph, directed=False)[1].tolist()


def near_equal(hashes: Sequence[bytes], thumbnails: Sequence[np.ndarray]) -> list[list[int]]:
    """Return groups of two or more images of the same picture, by their indices, in order of the first of each.

    A picture encoded, resized or squashed differently, or with a little more brightness or contrast, is the same.
    Another exposure of the same patient is not, nor are images without detail. The arguments are `perceptual_hash` and
    `thumbnail` of each image. The time grows about linearly with their number, unless most of them look alike.
    """
    # Images of uniform grey all have nearly the same hash, and each would be compared with each.
    kept = np.array([index for index, thumbnail in enumerate(thumbnails) if thumbnail.std() >= MIN_DETAIL], np.intp)
    copies = identical([(bytes(hashes[index]), thumbnails[index].tobytes()) for index in kept])
    pairs = [np.empty((0, 2), np.intp)]
    pairs += [np.stack(np.broadcast_arrays(kept[group[0]], kept[group[1:]]), 1) for group in copies]
    # The first of equal images stands for all: a thousand copies would be half a million pairs.
    kept = np.delete(kept, [index for group in copies for index in group[1:]])
    bits = np.unpackbits(np.frombuffer(b"".join(hashes), np.uint8)).reshape(-1, HASH_BITS)[kept]
    pairs += [_with_like_details(thumbnails, kept[close]) for close in _close(bits)]
    return identical(components(len(hashes), np.concatenate(pairs)))


def _close(bits: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the pairs of rows that differ in at most `MAX_DISTANCE` bits, (k, 2) at a time, by the quicker way."""
    if len(bits) < 2:
        return
    tables = _tables(bits)
    order, keys = next(tables)
    lengths = np.diff(np.flatnonzero(np.diff(keys, prepend=keys[0] - 1, append=keys[-1] + 1)))
    if _TABLES * int((lengths * (lengths - 1)).sum()) > len(bits) ** 2:
        yield from close_by_all_pairs(bits)
    else:
        found = close_by_tables(bits)
        yield from (found[start : start + _PAIRS_AT_ONCE] for start in range(0, len(found), _PAIRS_AT_ONCE))


def close_by_all_pairs(bits: np.ndarray, block: int = BLOCK) -> Iterator[np.ndarray]:
    """Yield the pairs of rows that differ in at most `MAX_DISTANCE` bits, from comparing each row with each."""
    signs = 2 * bits.astype(np.float32) - 1
    for row in range(0, len(bits), block):
        for column in range(row, len(bits), block):
            # Two rows of signs that differ in d bits have the product HASH_BITS - 2 d.
            agreement = signs[row : row + block] @ signs[column : column + block].T
            close = np.argwhere(agreement >= HASH_BITS - 2 * MAX_DISTANCE) + (row, column)
            yield close[close[:, 0] < close[:, 1]]


def close_by_tables(bits: np.ndarray) -> np.ndarray:
    """Return the pairs of rows that differ in at most `MAX_DISTANCE` bits, and agree in all key bits of some table.

    This is locality-sensitive hashing by bit sampling (Indyk and Motwani, "Approximate nearest neighbors: towards
    removing the curse of dimensionality", 1998).
    """
    words = np.packbits(bits, axis=1).view(np.uint64)
    found = np.empty(0, np.int64)  # row * len(bits) + column, of each pair once
    for order, keys in _tables(bits):
        places, step = np.arange(len(keys)), 1
        while len(places := places[places < len(keys) - step]):
            places = places[keys[places] == keys[places + step]]
            pair = np.sort(np.stack([order[places], order[places + step]]), axis=0)
            distances = np.bitwise_count(words[pair[0]] ^ words[pair[1]]).sum(1)
            row, column = pair[:, distances <= MAX_DISTANCE]
            found = np.union1d(found, row * len(keys) + column)
            step += 1
    return np.stack(np.divmod(found, len(bits)), 1)


def _tables(bits: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the order that sorts the rows by a few of their bits, and these bits as numbers, for each table."""
    rng, columns = np.random.default_rng(0), np.ascontiguousarray(bits.T)
    for _ in range(_TABLES):
        keys = np.zeros(len(bits), np.int64)
        for bit in rng.choice(HASH_BITS, _KEY_BITS, replace=False):
            keys <<= 1
            keys |= columns[bit]
        keys = np.sort(keys << 32 | np.arange(len(bits)))  # sorting numbers takes a third of the time of `argsort`
        yield keys & 0xFFFFFFFF, keys >> 32


def _with_like_details(thumbnails: Sequence[np.ndarray], pairs: np.ndarray) -> np.ndarray:
    """Return those of the (k, 2) `pairs` whose details correlate."""
    if not len(pairs):
        return pairs
    (rows, row), (columns, column) = (np.unique(side, return_inverse=True) for side in pairs.T)
    details, others = (np.stack([_detail(thumbnails[index]) for index in side]) for side in (rows, columns))
    return pairs[(details @ others.T)[row, column] >= MIN_LIKENESS]


def _detail(thumbnail: np.ndarray) -> np.ndarray:
    """Return a thumbnail's fine structure as a vector of length 1; of zeros if it has none.

    What all radiographs share, a bright middle between dark lungs, is subtracted. Contrast is evened out, so that a
    frame or a letter burnt into many images does not outweigh the anatomy.
    """
    from scipy import ndimage  # not at the top: it is slow to import

    thumbnail = thumbnail.astype(np.float32)
    detail = thumbnail - ndimage.gaussian_filter(thumbnail, 1.5, mode="nearest")
    if detail.std() < MIN_DETAIL:
        return np.zeros(detail.size, np.float32)
    detail /= np.sqrt(ndimage.gaussian_filter(detail**2, 4.0)) + 3.0
    detail -= detail.mean()
    return detail.ravel() / np.linalg.norm(detail)


def signature(image: np.ndarray) -> bytes:
    """Return an (s, s) uint8 image's SHA-256, perceptual hash and thumbnail, for `same_pictures`."""
    return hashlib.sha256(image.data).digest() + perceptual_hash(image) + thumbnail(image).tobytes()


def content_of(signatures: Mapping[str, bytes]) -> str:
    """Return a digest that changes with any id or pixel, from id -> `signature`, or its first 32 bytes."""
    digest = hashlib.sha256()
    for id in sorted(signatures):
        digest.update(f"{id}\0".encode() + signatures[id][:_DIGEST])
    return digest.hexdigest()


def same_pictures(signatures: Mapping[str, bytes]) -> tuple[list[list[str]], list[list[str]]]:
    """Return the groups of ids `identical` and `near_equal`, see `source.Prepared`, from id -> `signature`."""
    ids = sorted(signatures)
    digests = [signatures[id][:_DIGEST] for id in ids]
    hashes = [signatures[id][_DIGEST:_HASHED] for id in ids]
    thumbnails = [np.frombuffer(signatures[id][_HASHED:], np.uint8).reshape(THUMBNAIL, THUMBNAIL) for id in ids]
    return copies(ids, digests, hashes, thumbnails)


def copies(
    items: Sequence[Item], digests: Sequence[bytes], hashes: Sequence[bytes], thumbnails: Sequence[np.ndarray]
) -> tuple[list[list[Item]], list[list[Item]]]:
    """Return the groups of items whose digests are `identical`; and of those `near_equal` without being identical."""
    near = [group for group in near_equal(hashes, thumbnails) if len({digests[i] for i in group}) > 1]
    same = identical(digests)
    return [[items[i] for i in group] for group in same], [[items[i] for i in group] for group in near]
