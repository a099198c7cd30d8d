"""Measure how long a core takes to read an image, in one process and in several.

  python -m studies.reading --data=FOLDER [--count=4000] [--size=150]

Reads as --mode=predict does, its checks included. What several processes take beyond one is the cost of handing images
over.
"""

import time
from collections.abc import Sequence
from functools import partial
from itertools import islice
from typing import Any

from pneumojax.data.parallel import in_parallel
from pneumojax.data.sources.unlabelled import look_at_file, open_inputs
from pneumojax.runtime.host import cores
from studies import study


def by_one_process(ids: Sequence[str], size: int) -> float:
    """Return the milliseconds for an image in this process."""
    started = time.perf_counter()
    for id in ids:
        look_at_file(id, size)
    return 1e3 * (time.perf_counter() - started) / len(ids)


def by_processes(ids: Sequence[str], size: int, workers: int) -> float:
    """Return the milliseconds of a core for an image in `workers` processes that each have a core."""
    started = time.perf_counter()
    for _ in in_parallel(partial(look_at_file, size=size), iter(ids), workers):
        pass
    return 1e3 * workers * (time.perf_counter() - started) / len(ids)


def measure(data: str, count: int, size: int, workers: int) -> list[dict[str, Any]]:
    """Read the first images at `data` in both ways; one process reads a quarter of them."""
    ids = list(islice(open_inputs(data).ids, count))
    quarter = ids[: max(1, len(ids) // 4)]
    return [
        {"way": "one process", "ms": by_one_process(quarter, size)},
        {"way": f"{workers} processes", "ms": by_processes(ids, size, workers)},
    ]


def main(argv: list[str]) -> None:
    parser = study.parser(__doc__)
    parser.add_argument("--data", required=True, help="a folder of images")
    parser.add_argument("--count", type=int, default=4_000, help="images")
    parser.add_argument("--size", type=int, default=150, help="image size, px")
    parser.add_argument("--workers", type=int, default=cores(), help="processes; one for each core by default")
    given = parser.parse_args(argv)
    rows = measure(given.data, given.count, given.size, given.workers)
    study.finish("reading", argv, {"rows": rows}, ["reading"], given.output)


if __name__ == "__main__":
    study.run(main)
