"""The runs of an experiment, as the config lists them."""

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from etils import epath
from ml_collections import ConfigDict

from pneumojax.data.sources import sites
from pneumojax.runtime import workdir as workdirs
from pneumojax.runtime.config import Rule
from pneumojax.runtime.errors import UserError
from pneumojax.runtime.files import read_json

_NUMBERS = re.compile(r"\d{1,10}(,\d{1,10})*")


class Run(NamedTuple):
    """One run of an experiment.

    Attributes:
      config: name of the model's config, such as "m1".
      recipe: such as "recommended", or a recipe with other settings, such as "recommended+augment.noise=0".
      fold: the one held out; None if the experiment has no folds.
      seed: of the run.
      site: the one left out of training; None if the experiment leaves none out.
    """

    config: str
    recipe: str
    fold: int | None
    seed: int
    site: str | None = None

    @property
    def fields(self) -> dict[str, Any]:
        """What `recorded` reads."""
        return {name: value for name, value in self._asdict().items() if (name, value) != ("site", None)}

    @property
    def name(self) -> str:
        """Name of the run's workdir in the experiment's."""
        fold = [] if self.fold is None else [f"fold{self.fold}"]
        site = [] if self.site is None else [f"without-{self.site}"]
        parts = [self.config.rpartition("/")[2].removesuffix(".py"), self.recipe, *fold, *site, f"seed{self.seed}"]
        return re.sub(r"[^\w.+=-]", "_", "-".join(parts))


def runs(config: ConfigDict) -> list[Run]:
    """Return the runs of the config's `experiment`, each once: for each seed, fold and site, all models and recipes.

    Raises:
      UserError: two of them have one name.
    """
    plan = config.experiment
    folds = (_numbers(plan.folds) if plan.folds else range(config.data.folds)) if config.data.folds else [None]
    listed = [
        Run(name, recipe, fold, seed, site)
        for seed in _numbers(plan.seeds)
        for fold in folds
        for site in (sites.places(config.data.source) if plan.leave_one_site_out else [None])
        for recipe in plan.recipes.split(",")
        for name in (plan.models or config.name).split(",")
    ]
    unique = list(dict.fromkeys(listed))
    names = [run.name for run in unique]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"two different runs are called {twice[0]}: list one of them, or rename a config")
    return unique


def recorded(workdir: epath.Path) -> list[Run]:
    """Read the runs of the experiment in a workdir; there are none where it has not started."""
    path = workdir / workdirs.EXPERIMENT
    if not path.exists():
        return []
    try:
        return [_member(**fields) for fields in read_json(path)["runs"]]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} does not list runs ({error}): bring it back, or choose another --workdir") from None


def _member(config: str, recipe: str, fold: int | None, seed: int, site: str | None = None) -> Run:
    texts = all(isinstance(text, str) for text in (config, recipe, site or ""))
    if not (texts and type(seed) is int and type(fold or 0) is int):
        raise ValueError(f"a field of {config!r} is of another type")
    return Run(config, recipe, fold, seed, site)


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
    if plan.folds and config.data.folds:
        yield numbers("folds", config.data.folds)
    else:
        yield Rule("experiment.folds", not plan.folds, "empty where data.folds is 0")
    yield numbers("seeds", 2**31)
    possible = not (config.data.folds or config.data.leave_out or config.data.leave_out_site)
    several = possible and len(sites.places(config.data.source)) > 1
    rule = "false, or true where --data names several sites and nothing else is held out"
    yield Rule("experiment.leave_one_site_out", several or not plan.leave_one_site_out, rule)
