"""The runs of an experiment, as the config lists them."""

import re
from collections.abc import Iterable
from typing import NamedTuple

from etils import epath
from ml_collections import ConfigDict

from pneumojax.runtime import workdir as workdirs
from pneumojax.runtime.config import Rule
from pneumojax.runtime.errors import UserError
from pneumojax.runtime.files import read_json

_NUMBERS = re.compile(r"\d{1,9}(,\d{1,9})*")


class Run(NamedTuple):
    """One run of an experiment.

    Attributes:
      config: name of the model's config, such as "m1".
      recipe: such as "recommended", or a recipe with other settings, such as "recommended+augment.noise=0".
      fold: the one held out; None if the experiment has no folds.
      seed: of the run.
    """

    config: str
    recipe: str
    fold: int | None
    seed: int

    @property
    def name(self) -> str:
        """Name of the run's workdir in the experiment's."""
        fold = [] if self.fold is None else [f"fold{self.fold}"]
        parts = [self.config.rpartition("/")[2].removesuffix(".py"), self.recipe, *fold, f"seed{self.seed}"]
        return re.sub(r"[^\w.+=-]", "_", "-".join(parts))


def runs(config: ConfigDict) -> list[Run]:
    """Return the runs of the config's `experiment`: for each seed and fold, every model with every recipe, once."""
    plan = config.experiment
    folds = (_numbers(plan.folds) if plan.folds else range(config.data.folds)) if config.data.folds else [None]
    listed = [
        Run(name, recipe, fold, seed)
        for seed in _numbers(plan.seeds)
        for fold in folds
        for recipe in plan.recipes.split(",")
        for name in (plan.models or config.name).split(",")
    ]
    return list(dict.fromkeys(listed))


def recorded(workdir: epath.Path) -> list[Run]:
    """Read the runs of the experiment in a workdir; there are none where it has not started."""
    path = workdir / workdirs.EXPERIMENT
    if not path.exists():
        return []
    try:
        return [_member(**fields) for fields in read_json(path)["runs"]]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} does not list runs ({error}): bring it back, or choose another --workdir") from None


def _member(config: str, recipe: str, fold: int | None, seed: int) -> Run:
    if not (isinstance(config, str) and isinstance(recipe, str) and type(seed) is int and type(fold or 0) is int):
        raise ValueError(f"a field of {config!r} is of another type")
    return Run(config, recipe, fold, seed)


def _numbers(text: str) -> list[int]:
    return list(map(int, text.split(",")))


def rules(config: ConfigDict) -> Iterable[Rule]:
    """Yield the rules of `config.experiment`."""
    plan = config.experiment

    def numbers(field: str, limit: int) -> Rule:
        holds = bool(_NUMBERS.fullmatch(plan[field])) and all(n < limit for n in _numbers(plan[field]))
        return Rule(f"experiment.{field}", holds, f"a comma-separated list of numbers below {limit:,}")

    named = bool(plan.recipes) and all(plan.recipes.split(","))
    yield Rule("experiment.recipes", named, "a comma-separated list of recipes")
    if plan.folds:
        yield numbers("folds", config.data.folds or 1000)
    yield numbers("seeds", 2**31)
