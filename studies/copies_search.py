"""Measure how long the search for copies takes on many random images, none of which are copies.

  python -m studies.copies_search [--counts=50000]

The time grows with the square of the number.
"""

import time
from typing import Any

import numpy as np

from pneumojax.data.audit.duplicates import HASH_BITS, THUMBNAIL, near_equal
from studies import study


def seconds(count: int) -> float:
    """Return the seconds for `count` random images."""
    rng = np.random.default_rng(0)
    hashes = [rng.bytes(HASH_BITS // 8) for _ in range(count)]
    thumbnails = rng.integers(0, 256, (count, THUMBNAIL, THUMBNAIL), dtype=np.uint8)
    started = time.perf_counter()
    near_equal(hashes, list(thumbnails))
    return time.perf_counter() - started


def main(argv: list[str]) -> None:
    parser = study.parser(__doc__)
    parser.add_argument("--counts", type=study.numbers, default=[50_000], help="numbers of images, such as 1000,50000")
    given = parser.parse_args(argv)
    rows: list[dict[str, Any]] = [{"images": count, "seconds": seconds(count)} for count in given.counts]
    study.finish("copies_search", argv, {"rows": rows}, ["copies-search"], given.output)


if __name__ == "__main__":
    study.run(main)
