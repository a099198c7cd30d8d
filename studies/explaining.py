"""Measure how long one explanation takes by each method, beside Captum's of the same network in PyTorch.

  python -m studies.explaining [--models=m1,m2,m3] [--methods=...] [--rounds=5] [--seconds=3]

Both explain one image at a time and take turns, each in a process of its own. Captum has the fastest of several batch
sizes and memory layouts. Run it in the environment of `make test-peers`; where Captum is missing, its cells stay empty.
"""

import statistics
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

from pneumojax.benchmark.compare import ratios, take_turns
from pneumojax.benchmark.tasks import OURS, SIDES, Side, Task
from pneumojax.benchmark.worker_client import Unmeasured, started
from pneumojax.inference import attribution
from pneumojax.runtime import config as configs
from studies import study

CAPTUM = "captum"


def measure(model: str, methods: list[str], rounds: int, seconds: float, image_size: int) -> Iterator[dict[str, Any]]:
    """Yield a row for each method on a model: medians over turns."""
    config = configs.load(model)
    config.model.image_size = image_size
    for method in methods:
        task = Task(model, method, 1, image_size, "float32", 1)
        yield {"model": model.upper(), "method": method} | _beside_captum(task, config.to_dict(), rounds, seconds)


def _beside_captum(task: Task, config: dict[str, Any], rounds: int, seconds: float) -> dict[str, Any]:
    with ExitStack() as stack:
        able, way = {}, ""
        for side, implementation in {OURS: SIDES[OURS], CAPTUM: Side("studies.captum_peer")}.items():
            worker = stack.enter_context(started(implementation, platform="cpu"))
            try:
                prepared = worker.prepare(task, config, seconds)
            except Unmeasured as reason:
                way = str(reason)
                continue
            able[side], way = worker, prepared["way"]
        turns, _, failed = take_turns(able, rounds, seconds)
    measured = able.keys() - failed.keys()
    took = {side: 1e3 * statistics.median(turn[side] for turn in turns) for side in measured}
    return {
        "pneumojax_ms": took.get(OURS),
        "captum_ms": took.get(CAPTUM),
        "ratio": ratios(turns, dict.fromkeys(measured, 1)).get(CAPTUM),
        "way": way,
    }


def main(argv: list[str]) -> None:
    parser = study.parser(__doc__)
    parser.add_argument("--models", type=study.names, default=["m1", "m2", "m3"], help="configs, such as m1,m2")
    parser.add_argument("--methods", type=study.names, default=list(attribution.METHODS), help="of explanation")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each side")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of a turn")
    parser.add_argument("--size", type=int, default=150, help="image size, px")
    given = parser.parse_args(argv)
    rows = [
        row for model in given.models for row in measure(model, given.methods, given.rounds, given.seconds, given.size)
    ]
    study.finish("explaining", argv, {"rows": rows}, ["explaining"], given.output)


if __name__ == "__main__":
    study.run(main)
