"""Measure what feeding costs within one process, where every step overlaps with the next batch's preparation.

  python -m studies.feeding_overlap [--model=m1] [--rounds=60] [--data=phantom]

One compiled step and one state take batches from several places, in turns of a few steps and in random order. A ratio
is of a turn to that turn's batches on the device. The benchmark's `feed-train` measures the same in separate processes.
"""

import itertools
import queue
import random
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from statistics import geometric_mean, median
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from pneumojax.benchmark.own_steps import ENDLESS, train_split
from pneumojax.data import loader
from pneumojax.models.classifier import init_variables
from pneumojax.models.configured import create_model
from pneumojax.runtime import allocator, sharding
from pneumojax.runtime import config as configs
from pneumojax.training.optimizer import create_optimizer
from pneumojax.training.step import TrainState, compile_step, init_state
from studies import study

Batch = Sequence[Any]  # images and labels
Side = Callable[[], Batch]
Step = Callable[..., tuple[TrainState, jax.Array]]
THERE = "on the device"
FEED_MS = 1.4  # of a thread, for a batch: what the feed computes for one
STEPS = 3  # counted in a turn
RESAMPLES = 2000


class Batches(NamedTuple):
    """Batches of a split: `fed` by tf.data from shards, `from_memory` by tf.data from an array, `some` in memory."""

    fed: Generator[Batch, None, None]
    from_memory: Generator[Batch, None, None]
    some: Sequence[Batch]


def batches(config: ConfigDict) -> Batches:
    """Open the config's source."""
    split = train_split(config)
    images = split.read(np.arange(len(split.ids)))

    def feed(split: Any) -> Generator[Batch, None, None]:
        order = {"batch_size": config.batch_size, "seed": config.seed}
        yield from loader.feed(split, first_step=0, last_step=ENDLESS, rows=slice(None), **order)

    fed = feed(split)
    return Batches(fed, feed(split._replace(read=lambda rows: images[rows])), [next(fed) for _ in range(16)])


def computing_thread(milliseconds: float) -> Callable[[], int]:
    """Start a thread that computes for so long before each call of the returned function can return."""
    ready: queue.Queue[int] = queue.Queue(2)

    def compute() -> None:
        for number in itertools.count(1):
            until = time.thread_time() + milliseconds / 1e3
            while time.thread_time() < until:
                pass
            ready.put(number)

    threading.Thread(target=compute, daemon=True).start()
    return ready.get


def sides(found: Batches, layout: sharding.Layout) -> dict[str, Side]:
    """Return where a batch can come from."""

    def place(batch: Batch) -> Batch:
        return [sharding.place(layout, part) for part in batch]

    there, host = itertools.cycle([place(batch) for batch in found.some]), itertools.cycle(found.some)
    wait = computing_thread(FEED_MS)

    def beside_a_thread() -> Batch:
        wait()
        return place(next(host))

    return {
        THERE: lambda: next(there),
        "from the host": lambda: place(next(host)),
        "by tf.data, from memory": lambda: place(next(found.from_memory)),
        f"from the host, and a thread computes for {FEED_MS:g} ms": beside_a_thread,
        "by the feed": lambda: place(next(found.fed)),
    }


def step_and_state(config: ConfigDict, layout: sharding.Layout) -> tuple[Step, TrainState]:
    """Return the recipe's training step and the state that it starts from; call it within the layout's mesh."""
    model, optimizer = create_model(config), create_optimizer(config, steps_per_epoch=1000)
    variables = init_variables(model, config.model.image_size, config.seed)
    state = jax.device_put(init_state(variables, optimizer), layout.replicated)
    fixed = {"strength": config.augment, "weights": (1.0, 1.0), "seed": config.seed}
    return compile_step(layout, model=model, optimizer=optimizer, **fixed), state


def take_turns(step: Step, state: TrainState, places: Mapping[str, Side], rounds: int) -> dict[str, list[float]]:
    """Return each side's seconds for STEPS steps, for each round; one step is in flight while the next is placed."""
    took: dict[str, list[float]] = {side: [] for side in places}
    for _ in range(rounds):
        for side in random.sample(list(places), len(places)):
            ends = []
            state, latest = step(state, *places[side]())
            for _ in range(STEPS + 1):  # the first is not counted
                before, (state, latest) = latest, step(state, *places[side]())
                before.block_until_ready()
                ends.append(time.perf_counter())
            latest.block_until_ready()
            took[side].append(ends[-1] - ends[0])
    return took


def row(side: str, turns: Sequence[float], base: Sequence[float]) -> dict[str, Any]:
    """Return the ratios' median, its bootstrap interval (95 %) and their geometric mean."""
    ratios = [turn / there for turn, there in zip(turns, base, strict=True)]
    medians = sorted(median(random.choices(ratios, k=len(ratios))) for _ in range(RESAMPLES))
    low, high = medians[RESAMPLES // 40], medians[-RESAMPLES // 40 - 1]
    return {"side": side, "median": median(ratios), "low": low, "high": high, "mean": geometric_mean(ratios)}


def measure(config: ConfigDict, rounds: int) -> list[dict[str, Any]]:
    """Return a row for each place that a batch can come from."""
    layout = sharding.layout(jax.devices()[:1])
    found = batches(config)
    with closing(found.fed), closing(found.from_memory), jax.set_mesh(layout.mesh):  # else they would read ahead on
        step, state = step_and_state(config, layout)
        took = take_turns(step, state, sides(found, layout), rounds)
    return [row(side, turns, took[THERE]) for side, turns in took.items() if side != THERE]


def main(argv: list[str]) -> None:
    parser = study.parser(__doc__)
    parser.add_argument("--model", default="m1", help="a config, such as m1")
    parser.add_argument("--data", default="phantom", help="what to train on")
    parser.add_argument("--size", type=int, default=150, help="image size, px")
    parser.add_argument("--rounds", type=int, default=60, help="turns of each side")
    given = parser.parse_args(argv)
    allocator.keep_freed()
    config = configs.load(given.model)
    config.data.source, config.model.image_size = given.data, given.size
    commit = study.commit()
    rows = [{"commit": commit} | found for found in measure(config, given.rounds)]
    study.finish("feeding_overlap", argv, {"rows": rows}, ["feeding-overlap"], given.output)


if __name__ == "__main__":
    study.run(main)
