"""How fast images come in: decoding beside what others use, the whole preparation, and the feed of prepared shards.

  python -m pneumojax.benchmark.loading --large=FOLDER --small=FOLDER

Both are class folders of JPEGs: radiographs at their own size, and radiographs near the model's. Prints the tables of
BENCHMARKS.md. What is compared takes turns, and every ratio is of one turn.
"""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import numpy as np
from absl import app, flags, logging
from PIL import Image

from pneumojax.benchmark.commands import link, watched
from pneumojax.data import images
from pneumojax.data.pipeline import feed
from pneumojax.data.prepare import prepare
from pneumojax.data.quiet_tensorflow import import_tensorflow
from pneumojax.data.sources.folders import open_folders

flags.DEFINE_string("large", None, "Class folders of JPEGs at their own size.", required=True)
flags.DEFINE_string("small", None, "Class folders of JPEGs near the model's size.", required=True)
flags.DEFINE_integer("rounds", 7, "Turns that each way of decoding takes.")
FLAGS = flags.FLAGS

SIZE = 150  # px
BATCH = 16
OURS = "pneumojax"
Decoder = Callable[[Path], np.ndarray]


def decoders() -> dict[str, Decoder]:
    """Ways from a JPEG file to a grey (SIZE, SIZE) uint8 square."""
    tf = import_tensorflow()
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)

    def pillow(path):
        return np.asarray(Image.open(path).convert("L").resize((SIZE, SIZE), Image.Resampling.BILINEAR))

    def tensorflow(antialias):
        def decode(path):
            image = tf.io.decode_jpeg(tf.io.read_file(str(path)), channels=1)
            square = tf.image.resize(image, (SIZE, SIZE), antialias=antialias)
            return tf.cast(tf.round(square), tf.uint8).numpy()[..., 0]

        return decode

    return {
        OURS: lambda path: images.read(path, SIZE),
        "Pillow, antialiased": pillow,
        "TensorFlow, antialiased": tensorflow(True),
        "TensorFlow, not antialiased": tensorflow(False),
    }


def decoding(name: str, paths: Sequence[Path], rounds: int) -> str:
    """A table of images a second on one core, ratios, and errors against a full decode by Pillow."""
    ways = decoders()
    squares = {way: [decode(path).astype(int) for path in paths] for way, decode in ways.items()}
    errors = {
        way: [np.abs(ours - full).mean() for ours, full in zip(own, squares["Pillow, antialiased"], strict=True)]
        for way, own in squares.items()
    }
    turns = [{way: _seconds(decode, paths) for way, decode in ways.items()} for _ in range(rounds)]
    lines = [
        f"{name}: {len(paths)} files, {rounds} turns, one core\n",
        "| way | images/s | ours is faster by (worst to best turn) | mean error | worst image |",
        "|---|---|---|---|---|",
    ]
    for way in ways:
        rate = statistics.median(len(paths) / turn[way] for turn in turns)
        ratios = sorted(turn[way] / turn[OURS] for turn in turns)
        told = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f})" if way != OURS else ""
        lines.append(f"| {way} | {rate:.0f} | {told} | {np.mean(errors[way]):.2f} | {max(errors[way]):.2f} |")
    return "\n".join(lines)


def _seconds(decode, paths):
    started = time.perf_counter()
    for path in paths:
        decode(path)
    return time.perf_counter() - started


def preparing(sources: Sequence[tuple[str, str, int, int]], scratch: Path) -> str:
    """A table of whole preparations, each by the command line in a process of its own.

    Args:
      sources: (what it is, class folders, how many images to make of them by links, cores).
      scratch: an empty folder.
    """
    lines = [
        "| images | cores | reading, images/s | start to end, images/s | peak memory | of it TFDS's buffer |",
        "|---|---|---|---|---|---|",
    ]
    for number, (what, folder, count, cores) in enumerate(sources):
        linked = scratch / f"{number}-{count}"
        link(Path(folder), linked, count)
        command = [sys.executable, "-m", "pneumojax.main", "--mode=prepare", f"--data={linked}"]
        command += [f"--config.data.cache_dir={scratch / 'cache'}", f"--config.data.workers={cores}"]
        started = time.perf_counter()
        with on_cores(cores):
            printed, memory = watched(command)
        seconds = time.perf_counter() - started
        reading = printed.splitlines()[0].rpartition(": ")[2].removesuffix(" images/s")
        shuffled = min(count * SIZE**2, 1000 << 20) / 1e9
        cells = (f"{count:,} {what}", cores, reading, f"{count / seconds:.0f}", f"{max(memory) / 1e9:.2f} GB")
        lines.append(f"| {' | '.join(map(str, cells))} | {shuffled:.2f} GB |")
    return "\n".join(lines)


@contextmanager
def on_cores(count: int) -> Iterator[None]:
    """Keeps this process, and those that it starts, to some of its cores for a while."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, set(sorted(cores)[:count]))
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def feeding(folder: str, scratch: Path) -> str:
    """A sentence on the feed from prepared shards: its first batch, and its rate."""
    source = open_folders(Path(folder))
    prepared = prepare(source, size=SIZE, cache_dir=str(scratch / "fed"))
    split = prepared.split("train", source.records)
    steps = 20 * len(source.records) // BATCH
    started = time.perf_counter()
    batches = feed(split, batch_size=BATCH, seed=0, first_step=0, last_step=steps, rows=slice(0, BATCH))
    next(batches)
    first = time.perf_counter() - started
    started = time.perf_counter()
    count = sum(len(labels) for _, labels in islice(batches, 20_000 // BATCH))
    rate = count / (time.perf_counter() - started)
    return f"First batch {first:.2f} s after the pipeline's start; {rate:.0f} images/s, the feed alone."


def main(argv: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)
    large, small = (
        sorted(found.root / record.id for found in [open_folders(Path(folder))] for record in found.records)
        for folder in (FLAGS.large, FLAGS.small)
    )
    with on_cores(1):
        print(decoding("At their own size", large, FLAGS.rounds), flush=True)
        print("\n" + decoding("Near the model's size", small[:: max(1, len(small) // 500)], FLAGS.rounds), flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        table = preparing(
            [
                ("large", FLAGS.large, 2_000, 1),
                ("large", FLAGS.large, 2_000, 2),
                ("small", FLAGS.small, 2_000, 2),
                ("small", FLAGS.small, 20_000, 1),
                ("small", FLAGS.small, 20_000, 2),
            ],
            Path(scratch),
        )
        print("\n" + table, flush=True)
        print("\n" + feeding(FLAGS.small, Path(scratch)))


if __name__ == "__main__":
    app.run(main)
