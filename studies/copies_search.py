"""Measure how long the search for copies takes on many images, and whether it finds the copies among them.

  python -m studies.copies_search [--counts=22000,74000,224316]

The hashes are random, as those of radiographs nearly are. One image in a hundred has a copy, whose hash differs in at
most 20 bits, as those of copies do, and which shows the same picture.
"""

import time
from typing import Any

import numpy as np

from pneumojax.data.audit.duplicates import HASH_BITS, THUMBNAIL, near_equal
from studies import study

_DIFFER = 20  # bits, at most
_DISTINCT = 1000  # thumbnails; the search looks at those of images whose hashes nearly agree


def searched(count: int) -> dict[str, Any]:
    """Return the seconds for `count` images, and how many of their copies were found."""
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2, (count, HASH_BITS), np.uint8)
    copied = max(count // 100, 1)
    bits[-copied:] = bits[:copied]
    for row in bits[-copied:]:
        row[rng.choice(HASH_BITS, rng.integers(_DIFFER + 1), replace=False)] ^= 1
    pictures = rng.integers(0, 256, (_DISTINCT, THUMBNAIL, THUMBNAIL), dtype=np.uint8)
    thumbnails = [pictures[place % _DISTINCT] for place in range(count)]
    thumbnails[-copied:] = thumbnails[:copied]
    hashes = [row.tobytes() for row in np.packbits(bits, axis=1)]
    started = time.perf_counter()
    groups = near_equal(hashes, thumbnails)
    seconds = time.perf_counter() - started
    found = sum(group == [group[0], count - copied + group[0]] for group in groups)
    return {"images": count, "seconds": seconds, "copies": copied, "found": found}


def main(argv: list[str]) -> None:
    parser = study.parser(__doc__)
    parser.add_argument(
        "--counts", type=study.numbers, default=[22_000, 74_000, 224_316], help="numbers of images, such as 1000,50000"
    )
    given = parser.parse_args(argv)
    rows = [searched(count) for count in given.counts]
    study.add_exponents(rows)
    study.finish("copies_search", argv, {"rows": rows}, ["copies-search"], given.output)


if __name__ == "__main__":
    study.run(main)
