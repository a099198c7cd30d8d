"""Read from the config what a benchmark measures."""

import re
from collections.abc import Iterable
from typing import NamedTuple

from ml_collections import ConfigDict

from pneumojax.benchmark.tasks import FEED, INFER, MODES, PEERS, PRECISIONS, TRAIN, Task
from pneumojax.models.architectures import FAMILY
from pneumojax.runtime.config import Rule

_NUMBERS = re.compile(r"[1-9]\d{0,4}(,[1-9]\d{0,4})*")


class Plan(NamedTuple):
    """The fields of the config's `benchmark`, its texts split into lists."""

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
    """Return the plan of a config that satisfies `rules`. Without `benchmark.models`, the config's model is used."""
    fields = config.benchmark
    return Plan(
        models=_names(fields.models) or (config.model.name,),
        modes=_names(fields.modes),
        batch_sizes=_numbers(fields.batch_sizes),
        image_sizes=_numbers(fields.image_sizes),
        precisions=_names(fields.precisions),
        devices=_numbers(fields.devices),
        peers=_names(fields.peers),
        rounds=fields.rounds,
        seconds=fields.seconds,
    )


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(",")) if text else ()


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(",")))


def rules(config: ConfigDict) -> Iterable[Rule]:
    """Yield the rules of `config.benchmark`."""
    fields = config.benchmark

    def names(field: str, known: Iterable[str], optional: bool = False) -> Rule:
        listed = _names(fields[field])
        holds = bool(listed or optional) and set(listed) <= set(known) and len(set(listed)) == len(listed)
        expected = f"a comma-separated list of {', '.join(known)}" + (", or empty" if optional else "")
        return Rule(f"benchmark.{field}", holds, expected)

    def numbers(field: str, least: int, most: int, example: str) -> Rule:
        text = fields[field]
        holds = bool(_NUMBERS.fullmatch(text)) and all(least <= number <= most for number in _numbers(text))
        expected = f"a comma-separated list of numbers from {least} to {most}, such as {example}"
        return Rule(f"benchmark.{field}", holds, expected)

    yield names("models", FAMILY, optional=True)
    yield names("modes", MODES)
    yield numbers("batch_sizes", 1, 65536, "32,64")
    yield numbers("image_sizes", 16, 4096, "150,224")
    yield names("precisions", PRECISIONS)
    yield numbers("devices", 1, 4096, "1,8")
    yield names("peers", PEERS, optional=True)
    yield Rule("benchmark.rounds", 1 <= fields.rounds <= 1000, "from 1 to 1000")
    yield Rule("benchmark.seconds", 0 < fields.seconds <= 3600, "above 0 and at most 3600")


def tasks(plan: Plan) -> list[Task]:
    """List the tasks that measure pneumojax alone.

    For each model, every mode is measured at the first value of each list. TRAIN and INFER are also measured at each
    further value, with the first values of the other lists. FEED does not depend on the model, and is measured once.
    """
    lists = {
        "batch_size": plan.batch_sizes,
        "image_size": plan.image_sizes,
        "precision": plan.precisions,
        "devices": plan.devices,
    }
    first = Task(plan.models[0], FEED, plan.batch_sizes[0], plan.image_sizes[0], plan.precisions[0], plan.devices[0])
    further = [{field: value} for field, values in lists.items() for value in values[1:]]
    found = []
    for model in plan.models:
        at_first = [first._replace(model=model, mode=mode) for mode in plan.modes if mode != FEED]
        varied = [task for task in at_first if task.mode in (TRAIN, INFER)]
        found += at_first + [task._replace(**change) for change in further for task in varied]
    return found + [first] * (FEED in plan.modes)
