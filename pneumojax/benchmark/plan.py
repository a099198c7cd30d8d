"""What a benchmark is to measure, read from the config."""

import re
from typing import NamedTuple

from ml_collections import ConfigDict

from pneumojax.benchmark.task import FEED, INFER, MODES, PEERS, PRECISIONS, TRAIN, Task
from pneumojax.family import FAMILY

_NUMBERS = re.compile(r"[1-9]\d{0,4}(,[1-9]\d{0,4})*")


class Plan(NamedTuple):
    """The config's `benchmark`, its lists parted, with the model of the config where it names none."""

    models: tuple[str, ...]
    modes: tuple[str, ...]
    batch_sizes: tuple[int, ...]
    image_sizes: tuple[int, ...]
    precisions: tuple[str, ...]
    devices: tuple[int, ...]
    peers: tuple[str, ...]
    rounds: int
    seconds: float


def plan(config: ConfigDict) -> Plan:
    """The plan of a config that `rules` hold for."""
    given = config.benchmark
    return Plan(
        models=_names(given.models) or (config.model.name,),
        modes=_names(given.modes),
        batch_sizes=_numbers(given.batch_sizes),
        image_sizes=_numbers(given.image_sizes),
        precisions=_names(given.precisions),
        devices=_numbers(given.devices),
        peers=_names(given.peers),
        rounds=given.rounds,
        seconds=given.seconds,
    )


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(",")) if text else ()


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(",")))


def rules(given: ConfigDict) -> list[tuple[str, bool, str]]:
    """(field, whether its value is in range, what it must be) of the config's `benchmark`."""

    def named(field, known, least):
        names = _names(given[field])
        holds = len(names) >= least and set(names) <= set(known) and len(set(names)) == len(names)
        return f"benchmark.{field}", holds, f"a comma list of {', '.join(known)}" + (", or empty" if not least else "")

    def counted(field, least, most, such_as):
        holds = bool(_NUMBERS.fullmatch(given[field])) and all(least <= n <= most for n in _numbers(given[field]))
        return f"benchmark.{field}", holds, f"a comma list of numbers from {least} to {most}, such as {such_as}"

    return [
        named("models", FAMILY, 0),
        named("modes", MODES, 1),
        counted("batch_sizes", 1, 65536, "32,64"),
        counted("image_sizes", 16, 4096, "150,224"),
        named("precisions", PRECISIONS, 1),
        counted("devices", 1, 4096, "1,8"),
        named("peers", PEERS, 0),
        ("benchmark.rounds", 1 <= given.rounds <= 1000, "from 1 to 1000"),
        ("benchmark.seconds", 0 < given.seconds <= 3600, "above 0 and at most 3600"),
    ]


def tasks(plan: Plan) -> list[Task]:
    """What is measured of ours: for each model, every mode at the first of each list; TRAIN and INFER at the others,
    one at a time, too.

    The feed alone has nothing to do with the model, and is measured once.
    """
    lists = {
        "batch_size": plan.batch_sizes,
        "image_size": plan.image_sizes,
        "precision": plan.precisions,
        "devices": plan.devices,
    }
    firsts = {field: values[0] for field, values in lists.items()}
    found = []
    for model in plan.models:
        at_first = [Task(model, mode, **firsts) for mode in plan.modes if mode != FEED]
        varied = [task for task in at_first if task.mode in (TRAIN, INFER)]
        others = [(field, value) for field, values in lists.items() for value in values[1:]]
        found += at_first + [task._replace(**{field: value}) for field, value in others for task in varied]
    return found + [Task(plan.models[0], FEED, **firsts)] * (FEED in plan.modes)
