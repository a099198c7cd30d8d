"""Measure how fast --mode=predict is, beside the model's inference alone, and whether its memory stays flat.

  python -m studies.predicting --workdir=RUN --data=FOLDER [--count=10000] [--rounds=3]

FOLDER has class folders of JPEGs, which are linked again and again to make up the number. --mode=predict runs as users
start it, on a tenth of the images and on all; from the difference follows its rate once it has started. Inference alone
is of batches in memory, reading alone by as many processes as predicting has. Both take all cores, so together they
reach at most 1 / (1 / reading + 1 / inference), the bound. Each turn has all of these. Memory is watched in further
runs, since watching takes time.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging
from etils import epath

from pneumojax.data.parallel import in_parallel
from pneumojax.data.sources.unlabelled import open_inputs
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


def reading(workdir: epath.Path, folder: Path) -> float:
    """Return the images a second that are read as predicting reads them, from the first on."""
    config, inputs = read_config(workdir), open_inputs(str(folder))
    look = partial(inputs.look, size=config.model.image_size)
    seen = in_parallel(look, inputs.ids, config.data.workers)
    next(seen)
    started = time.perf_counter()
    count = sum(1 for _ in seen)
    return count / (time.perf_counter() - started)


def predicted(workdir: str, folder: Path, scratch: Path, every: float) -> tuple[float, list[int]]:
    """Return the seconds that --mode=predict takes for a folder from start to end, and its memory: see `watched`."""
    options = [f"--workdir={workdir}", f"--data={folder}", f"--config.prediction.output={scratch / 'rows.csv'}"]
    started = time.perf_counter()
    _, looks = watched([sys.executable, "-m", "pneumojax.main", "--mode=predict", *options], every)
    return time.perf_counter() - started, [look.total for look in looks if look.total]  # the last may be too late


def held(memory: Sequence[int]) -> dict[str, float]:
    """Return the peak, and the range in the second half of the time, when what grows has grown."""
    late = memory[len(memory) // 2 :]
    return {"peak_gb": max(memory) / 1e9, "late_min_gb": min(late) / 1e9, "late_max_gb": max(late) / 1e9}


class Turn(NamedTuple):
    """Images a second: of inference and reading alone, of the command, and of the command once it has started."""

    inference: float
    reading: float
    whole: float
    further: float

    @property
    def bound(self) -> float:
        """What a command can reach that reads and infers on the same cores."""
        return 1 / (1 / self.inference + 1 / self.reading)


def rows(turns: Sequence[Turn], count: int, memory: Sequence[dict[str, float]]) -> list[dict]:
    """Return the table's rows, medians over turns; `memory` is what a tenth of the images and all of them held."""
    few, many = memory
    blank = dict.fromkeys(("images_per_s", "of_inference", "of_bound", "peak_gb", "late_min_gb", "late_max_gb"))

    def row(what: str, rate: Callable[[Turn], float], **more: Any) -> dict[str, Any]:
        return blank | {"what": what, "images": count, "images_per_s": statistics.median(map(rate, turns)), **more}

    def shares(rate: Callable[[Turn], float]) -> dict[str, float]:
        of_inference = statistics.median(rate(turn) / turn.inference for turn in turns)
        return {"of_inference": of_inference, "of_bound": statistics.median(rate(turn) / turn.bound for turn in turns)}

    def whole(turn: Turn) -> float:
        return turn.whole

    def further(turn: Turn) -> float:
        return turn.further

    return [
        row("inference alone", lambda turn: turn.inference),
        row("reading alone", lambda turn: turn.reading),
        row("both on the same cores, at best", lambda turn: turn.bound),
        row(COMMAND, whole, **shares(whole), **many),
        row("the same once it has started", further, **shares(further)),
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
            alone, read = rate(), reading(epath.Path(workdir), scratch / str(count))
            few, many = (predicted(workdir, scratch / str(number), scratch, NEVER)[0] for number in counts)
            turns.append(Turn(alone, read, count / many, (count - tenth) / (many - few)))
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
