"""How fast images are predicted, files and all, beside the model's inference alone; and whether memory stays flat.

  python -m pneumojax.benchmark.predicting --workdir=RUN --data=FOLDER [--count=10000] [--rounds=3]

FOLDER has class folders of JPEGs, linked again and again to make up the number. `--mode=predict` runs as users
start it, on a tenth of the images and on all; what it takes for the rest of them is its rate once it has started.
Inference is of batches that lie in memory. Each turn has all three. Prints a table of BENCHMARKS.md.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
from absl import app, flags, logging
from etils import epath

from pneumojax import allocator, devices, workdirs
from pneumojax.benchmark.commands import link, watched
from pneumojax.evaluate import Evaluator
from pneumojax.files import markdown_table
from pneumojax.trained import load

flags.DEFINE_string("workdir", None, "Of a run.", required=True)
flags.DEFINE_string("data", None, "Class folders of JPEGs.", required=True)
flags.DEFINE_integer("count", 10_000, "Images.")
flags.DEFINE_integer("rounds", 3, "Turns.")
FLAGS = flags.FLAGS

SECONDS = 10.0  # of inference alone, in each turn


def inference(workdir: epath.Path):
    """A function that gives images a second of the run's model on batches in memory."""
    config, layout = workdirs.read_config(workdir), devices.layout()
    with jax.set_mesh(layout.mesh):
        trained = load(workdir, config, layout)
        evaluator = Evaluator(trained.model, layout, config.evaluation.batch_size)
    size = config.model.image_size
    batch = np.random.default_rng(0).integers(0, 256, (evaluator.batch_size, size, size, 1), np.uint8)

    def rate():
        with jax.set_mesh(layout.mesh):
            jax.block_until_ready(evaluator.batch(trained.variables, batch))
            started, steps = time.perf_counter(), 0
            while time.perf_counter() - started < SECONDS:
                jax.block_until_ready(evaluator.batch(trained.variables, batch))
                steps += 1
        return steps * len(batch) / (time.perf_counter() - started)

    return rate


def predicted(folder: Path, scratch: Path, every: float) -> tuple[float, list[int]]:
    """Seconds that `--mode=predict` takes for the folder from start to end, and its memory: see `watched`."""
    options = [f"--workdir={FLAGS.workdir}", f"--data={folder}", f"--config.prediction.output={scratch / 'rows.csv'}"]
    started = time.perf_counter()
    _, memory = watched([sys.executable, "-m", "pneumojax.main", "--mode=predict", *options], every)
    return time.perf_counter() - started, memory


def held(memory: list[int]) -> tuple[str, str]:
    """The most of it, and its range in the second half of the time, when whatever grows has grown."""
    late = memory[len(memory) // 2 :]
    return f"{max(memory) / 1e9:.2f} GB", f"{min(late) / 1e9:.2f}-{max(late) / 1e9:.2f} GB"


def main(argv: list[str]) -> None:
    logging.set_verbosity(logging.ERROR)
    allocator.keep_freed()
    rate, rows = inference(epath.Path(FLAGS.workdir)), []
    counts = tenth, _ = FLAGS.count // 10, FLAGS.count
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        for count in counts:
            link(Path(FLAGS.data), scratch / str(count), count)
        for _ in range(FLAGS.rounds):
            alone = rate()
            few, many = (predicted(scratch / str(n), scratch, every=3600)[0] for n in counts)
            rows.append((alone, FLAGS.count / many, (FLAGS.count - tenth) / (many - few)))
        few, many = (held(predicted(scratch / str(n), scratch, every=0.2)[1]) for n in counts)
    whole, further = (statistics.median(row[i] / row[0] for row in rows) for i in (1, 2))
    alone, start_to_end, after = map(statistics.median, zip(*rows, strict=True))
    told = [
        ("inference alone", f"{alone:.0f}", "", "", ""),
        ("--mode=predict, start to end", f"{start_to_end:.0f}", f"{whole:.2f}", *many),
        ("the same once it has started", f"{after:.0f}", f"{further:.2f}", "", ""),
        (f"of {tenth:,} images alone", "", "", *few),
    ]
    header = (f"{FLAGS.count:,} images", "images/s", "of inference", "peak memory", "in the second half")
    print(markdown_table(header, told))


if __name__ == "__main__":
    app.run(main)
