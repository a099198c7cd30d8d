"""Measure how fast images come in: decoding beside other libraries, the whole preparation, and the tf.data feed.

  python -m studies.loading --large=FOLDER --small=FOLDER [--rounds=7]

Both are class folders of JPEGs: radiographs at their own size, and radiographs near the model's size. The ways of
decoding take turns on one core, and every ratio is of one turn.
"""

import os
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import logging
from PIL import Image

from pneumojax.data.decode import images
from pneumojax.data.loader import feed
from pneumojax.data.store.builder import prepare
from pneumojax.data.tensorflow_import import import_tensorflow
from studies import study
from studies.commands import class_folders, labelled_paths, link, watched

SIZE = 150  # px
BATCH = 16
PREPARED = "large:2000:1,large:2000:2,small:2000:2,small:20000:1,small:20000:2"
OWN, FULL = "pneumojax", "Pillow, antialiased"
Decoder = Callable[[Path], np.ndarray]


def decoders() -> dict[str, Decoder]:
    """Return ways from a JPEG file to a grey (SIZE, SIZE) uint8 square."""
    return {
        OWN: lambda path: images.read(path, SIZE),
        FULL: _pillow,
        "TensorFlow, antialiased": _tensorflow(antialias=True),
        "TensorFlow, not antialiased": _tensorflow(antialias=False),
    }


def _pillow(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("L").resize((SIZE, SIZE), Image.Resampling.BILINEAR))


def _tensorflow(antialias: bool) -> Decoder:
    tf = import_tensorflow()

    def decode(path: Path) -> np.ndarray:
        image = tf.io.decode_jpeg(tf.io.read_file(str(path)), channels=1)
        square = tf.image.resize(image, (SIZE, SIZE), antialias=antialias)
        return tf.cast(tf.round(square), tf.uint8).numpy()[..., 0]

    return decode


def one_thread() -> None:
    """Keep TensorFlow to one thread; call it before TensorFlow computes."""
    threading = import_tensorflow().config.threading
    threading.set_intra_op_parallelism_threads(1)
    threading.set_inter_op_parallelism_threads(1)


def decoding(paths: Sequence[Path], rounds: int) -> list[dict[str, Any]]:
    """Return, for each way, images a second on one core, ratios, and errors against a full decode by Pillow."""
    ways = decoders()
    squares = {way: [decode(path).astype(int) for path in paths] for way, decode in ways.items()}
    turns = [{way: _seconds(decode, paths) for way, decode in ways.items()} for _ in range(rounds)]
    found = []
    for way in ways:
        errors = [np.abs(own - full).mean() for own, full in zip(squares[way], squares[FULL], strict=True)]
        found.append(
            {
                "way": way,
                "images_per_s": statistics.median(len(paths) / turn[way] for turn in turns),
                "ratio": None if way == OWN else study.spread(turn[way] / turn[OWN] for turn in turns),
                "mean_error": float(np.mean(errors)),
                "worst_error": float(max(errors)),
            }
        )
    return found


def _seconds(decode: Decoder, paths: Sequence[Path]) -> float:
    started = time.perf_counter()
    for path in paths:
        decode(path)
    return time.perf_counter() - started


def preparing(what: str, folder: Path, count: int, cores: int, scratch: Path) -> dict[str, Any]:
    """Prepare `count` images by the command line on some cores, in a process of its own."""
    linked = scratch / f"{what}-{count}-{cores}"
    link(folder, linked, count)
    command = [sys.executable, "-m", "pneumojax.main", "--mode=prepare", f"--data={linked}"]
    command += [f"--config.data.cache_dir={scratch / 'cache'}", f"--config.data.workers={cores}"]
    started = time.perf_counter()
    with on_cores(cores):
        printed, memory = watched(command)
    seconds = time.perf_counter() - started
    return {
        "what": what,
        "images": count,
        "cores": cores,
        "reading_per_s": _reading_rate(printed),
        "whole_per_s": count / seconds,
        "peak_gb": max(memory).total / 1e9,
        "shuffled_gb": min(count * SIZE**2, 1000 << 20) / 1e9,  # TFDS shuffles on disk beyond 1 GB
    }


def _reading_rate(printed: str) -> float:
    """Images a second, as the command prints them."""
    found = re.search(r"([\d,.]+) images/s", printed)
    if not found:
        raise SystemExit(f"--mode=prepare printed no images/s: {printed}")
    return float(found[1].replace(",", ""))


@contextmanager
def on_cores(count: int) -> Iterator[None]:
    """Keep this process, and those that it starts, to some of its cores for a while."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, set(sorted(before)[:count]))
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def feeding(folder: Path, scratch: Path, count: int) -> dict[str, Any]:
    """Measure the feed from prepared shards: its first batch, and its rate over `count` images."""
    source = class_folders(folder)
    prepared = prepare(source, size=SIZE, cache_dir=str(scratch / "fed"))
    split = prepared.split("train", source.records)
    started = time.perf_counter()
    steps = 1 + count // BATCH
    batches = feed(split, batch_size=BATCH, seed=0, first_step=0, last_step=steps, rows=slice(0, BATCH))
    next(batches)
    first = time.perf_counter() - started
    started = time.perf_counter()
    fed = sum(len(labels) for _, labels in islice(batches, steps - 1))
    return {"batch": BATCH, "first_s": first, "images_per_s": fed / (time.perf_counter() - started)}


class Preparation(NamedTuple):
    """What to prepare: "large" or "small" images, how many, on how many cores."""

    what: str
    images: int
    cores: int


def preparations(text: str) -> list[Preparation]:
    """Parse the option: WHAT:IMAGES:CORES, separated by commas."""
    parts = [name.split(":") for name in study.names(text)]
    return [Preparation(what, int(count), int(cores)) for what, count, cores in parts]


def measure(
    folders: Mapping[str, Path], rounds: int, wanted: Sequence[Preparation], fed: int
) -> dict[str, list[dict[str, Any]]]:
    """Measure all.

    Args:
      folders: those of "large" and of "small" images.
      rounds: turns that each way of decoding takes.
      wanted: what to prepare.
      fed: images to feed.
    """
    large, small = (sorted(path for path, _ in labelled_paths(folders[what])) for what in ("large", "small"))
    one_thread()
    with on_cores(1):
        decoded = {"large": decoding(large, rounds), "small": decoding(small[:: max(1, len(small) // 500)], rounds)}
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        prepared = [preparing(one.what, folders[one.what], one.images, one.cores, scratch) for one in wanted]
        return decoded | {"preparing": prepared, "feed": [feeding(folders["small"], scratch, fed)]}


def main(argv: list[str]) -> None:
    parser = study.parser(__doc__)
    parser.add_argument("--large", required=True, type=Path, help="class folders of JPEGs at their own size")
    parser.add_argument("--small", required=True, type=Path, help="class folders of JPEGs near the model's size")
    parser.add_argument("--rounds", type=int, default=7, help="turns that each way of decoding takes")
    parser.add_argument("--prepare", type=preparations, default=PREPARED, help=f"WHAT:IMAGES:CORES,...; {PREPARED}")
    parser.add_argument("--fed", type=int, default=20_000, help="images to feed")
    given = parser.parse_args(argv)
    logging.set_verbosity(logging.WARNING)
    figures = measure({"large": given.large, "small": given.small}, given.rounds, given.prepare, given.fed)
    study.finish("loading", argv, figures, ["decoding-large", "decoding-small", "preparing", "feed"], given.output)


if __name__ == "__main__":
    study.run(main)
