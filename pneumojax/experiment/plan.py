"""Which runs an experiment has, read from the config."""

import re
from typing import NamedTuple

from etils import epath
from ml_collections import ConfigDict

FILE = "experiment.json"  # in an experiment's workdir: which runs it has
_NUMBERS = re.compile(r"\d{1,9}(,\d{1,9})*")


class Run(NamedTuple):
    """One run of an experiment.

    Attributes:
      config: what names the model's config, such as "m1".
      recipe: such as "recommended"; or a recipe with other settings, such as "recommended+augment.noise=0".
      fold: the one held out; None where none is.
      seed: of the run.
    """

    config: str
    recipe: str
    fold: int | None
    seed: int

    @property
    def name(self) -> str:
        """Of the run's workdir within the experiment's."""
        fold = [] if self.fold is None else [f"fold{self.fold}"]
        parts = [self.config.rpartition("/")[2].removesuffix(".py"), self.recipe, *fold, f"seed{self.seed}"]
        return re.sub(r"[^\w.+=-]", "_", "-".join(parts))


def is_experiment(workdir: epath.Path | None) -> bool:
    """Whether `workdir` holds an experiment."""
    return workdir is not None and (workdir / FILE).exists()


def runs(config: ConfigDict) -> list[Run]:
    """The runs of a config's `experiment`: for each fold and seed, every model under every recipe."""
    given = config.experiment
    folds = (_numbers(given.folds) if given.folds else range(config.data.folds)) if config.data.folds else [None]
    found = [
        Run(name, recipe, fold, seed)
        for seed in _numbers(given.seeds)
        for fold in folds
        for recipe in given.recipes.split(",")
        for name in (given.models or config.name).split(",")
    ]
    return list(dict.fromkeys(found))  # what is named twice is not two runs


def _numbers(text: str) -> list[int]:
    return list(map(int, text.split(",")))


def rules(given: ConfigDict, folds: int) -> list[tuple[str, bool, str]]:
    """(field, whether its value is in range, what it must be) of the config's `experiment`."""

    def counted(field, below):
        holds = bool(_NUMBERS.fullmatch(given[field])) and all(n < below for n in _numbers(given[field]))
        return f"experiment.{field}", holds, f"a comma list of numbers below {below:,}"

    return [
        ("experiment.recipes", bool(given.recipes) and all(given.recipes.split(",")), "a comma list of recipes"),
        *([counted("folds", folds or 1000)] if given.folds else []),
        counted("seeds", 2**31),
    ]
