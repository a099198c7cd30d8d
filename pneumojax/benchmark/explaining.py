"""How long one explanation takes, by each method, beside Captum's of the same network in PyTorch.

  python -m pneumojax.benchmark.explaining [--models=m1,m2,m3] [--methods=...] [--rounds=5] [--seconds=3]

Prints a table of BENCHMARKS.md. Both explain one image at a time, taking turns, each in a process of its own; Captum by
the fastest of several batch sizes and layouts. In the environment of `make test-peers`.
"""

import statistics
from collections.abc import Iterator
from contextlib import ExitStack

from absl import app, flags

from pneumojax import config as configs
from pneumojax import explain
from pneumojax.benchmark.compare import ratios, take_turns
from pneumojax.benchmark.processes import Unmeasured, started
from pneumojax.benchmark.task import CAPTUM, OURS, Task
from pneumojax.files import markdown_table

flags.DEFINE_list("models", "m1,m2,m3", "Of the family.")
flags.DEFINE_list("methods", list(explain.METHODS), "Of explanation.")
flags.DEFINE_integer("rounds", 5, "Of turns.")
flags.DEFINE_float("seconds", 3.0, "Of each turn.")
FLAGS = flags.FLAGS

HEADER = (
    "model",
    "method",
    "pneumojax, ms",
    "Captum, ms",
    "Captum takes so many times as long (range)",
    "Captum's way",
)


def rows(model: str) -> Iterator[tuple[str, ...]]:
    """The table's rows of a model: medians over turns."""
    config = configs.load(model)
    given = config.to_dict()
    for method in FLAGS.methods:
        task = Task(model, method, 1, config.model.image_size, "float32", 1)
        with ExitStack() as stack:
            able, way = {}, ""
            for side in (OURS, CAPTUM):
                worker = stack.enter_context(started(side, platform="cpu"))
                try:
                    told = worker.prepare(task, given, FLAGS.seconds)
                except Unmeasured as reason:
                    way = str(reason)
                    continue
                able[side], way = worker, told["way"]
            turns, _, failed = take_turns(able, FLAGS.rounds, FLAGS.seconds)
        measured = able.keys() - failed.keys()
        took = {side: f"{1e3 * statistics.median(turn[side] for turn in turns):.1f}" for side in measured}
        found = ratios(turns, dict.fromkeys(measured, 1)).get(CAPTUM)
        ratio = "{median:.2f} ({min:.2f}-{max:.2f})".format(**found) if found else ""
        yield model.upper(), method, took.get(OURS, ""), took.get(CAPTUM, ""), ratio, way


def main(argv: list[str]) -> None:
    print(markdown_table(HEADER, [row for model in FLAGS.models for row in rows(model)]))


if __name__ == "__main__":
    app.run(main)
