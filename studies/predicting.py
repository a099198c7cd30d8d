"""Measure how fast --mode=predict is, beside the model's inference alone, and whether its memory stays flat.

  python -m studies.predicting --workdir=RUN --data=FOLDER [--count=10000] [--rounds=3]

FOLDER has class folders of JPEGs, which are linked again and again to make up the number. --mode=predict runs as users
start it, on a tenth of the images and on all; from the difference follows its rate once it has started. Inference alone
is of batches in memory. Each turn has all three. Memory is watched in further runs, since watching takes time.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging
from etils import epath

from pneumojax.evaluation.forward import Evaluator
from pneumojax.inference.restore import load
from pneumojax.runtime import allocator, sharding
from pneumojax.workflows.run_config import read_config
from studies import study
from studies.commands import link, watched

COMMAND = "--mode=predict, start to end"
NEVER = 3600.0  # seconds between looks at the memory, where time is measured


def inference(workdir: epath.Path, seconds: float) -> Callable[[], float]:
    """Return a function that gives images a second of the run's model on batches in memory, over `seconds`."""
    config, layout = read_config(workdir), sharding.layout()
    with jax.set_mesh(layout.mesh):
        trained = load(workdir, config, layout)
        evaluator = Evaluator(trained.model, layout, config.evaluation.batch_size)
    size = config.model.image_size
    batch = np.random.default_rng(0).integers(0, 256, (evaluator.batch_size, size, size, 1), np.uint8)

    def rate() -> float:
        with jax.set_mesh(layout.mesh):
            jax.block_until_ready(evaluator.batch(trained.variables, batch))
            started, steps = time.perf_counter(), 0
            while time.perf_counter() - started < seconds:
                jax.block_until_ready(evaluator.batch(trained.variables, batch))
                steps += 1
        return steps * len(batch) / (time.perf_counter() - started)

    return rate


def predicted(workdir: str, folder: Path, scratch: Path, every: float) -> tuple[float, list[int]]:
    """Return the seconds that --mode=predict takes for a folder from start to end, and its memory: see `watched`."""
    options = [f"--workdir={workdir}", f"--data={folder}", f"--config.prediction.output={scratch / 'rows.csv'}"]
    started = time.perf_counter()
    _, memory = watched([sys.executable, "-m", "pneumojax.main", "--mode=predict", *options], every)
    return time.perf_counter() - started, memory


def held(memory: Sequence[int]) -> dict[str, float]:
    """Return the peak, and the range in the second half of the time, when what grows has grown."""
    late = memory[len(memory) // 2 :]
    return {"peak_gb": max(memory) / 1e9, "late_min_gb": min(late) / 1e9, "late_max_gb": max(late) / 1e9}


def rows(turns: Sequence[tuple[float, float, float]], count: int, memory: Sequence[dict[str, float]]) -> list[dict]:
    """Return the table's rows.

    Args:
      turns: of each, images a second of inference alone, of the command from start to end, and once it has started.
      count: images in all.
      memory: what a tenth of them and all of them held.
    """
    alone, whole, further = (statistics.median(rates) for rates in zip(*turns, strict=True))
    shares = [statistics.median(turn[place] / turn[0] for turn in turns) for place in (1, 2)]
    few, many = memory
    blank = dict.fromkeys(("images_per_s", "of_inference", "peak_gb", "late_min_gb", "late_max_gb"))
    return [
        blank | {"what": "inference alone", "images": count, "images_per_s": alone},
        blank | {"what": COMMAND, "images": count, "images_per_s": whole, "of_inference": shares[0]} | many,
        blank
        | {"what": "the same once it has started", "images": count, "images_per_s": further, "of_inference": shares[1]},
        blank | {"what": COMMAND, "images": count // 10} | few,
    ]


def measure(workdir: str, data: Path, count: int, rounds: int, seconds: float) -> list[dict[str, Any]]:
    """Take all turns, then watch the memory."""
    rate, turns = inference(epath.Path(workdir), seconds), []
    counts = tenth, _ = count // 10, count
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        for number in counts:
            link(data, scratch / str(number), number)
        for _ in range(rounds):
            alone = rate()
            few, many = (predicted(workdir, scratch / str(number), scratch, NEVER)[0] for number in counts)
            turns.append((alone, count / many, (count - tenth) / (many - few)))
        memory = [held(predicted(workdir, scratch / str(number), scratch, 0.2)[1]) for number in counts]
    return rows(turns, count, memory)


def main(argv: list[str]) -> None:
    parser = study.parser(__doc__)
    parser.add_argument("--workdir", required=True, help="of a run")
    parser.add_argument("--data", required=True, type=Path, help="class folders of JPEGs")
    parser.add_argument("--count", type=int, default=10_000, help="images")
    parser.add_argument("--rounds", type=int, default=3, help="turns")
    parser.add_argument("--seconds", type=float, default=10.0, help="of inference alone, in each turn")
    given = parser.parse_args(argv)
    logging.set_verbosity(logging.ERROR)
    allocator.keep_freed()
    figures = {"rows": measure(given.workdir, given.data, given.count, given.rounds, given.seconds)}
    study.finish("predicting", argv, figures, ["predicting"], given.output)


if __name__ == "__main__":
    study.run(main)
