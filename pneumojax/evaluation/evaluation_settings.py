"""The rules of the config's `evaluation` fields."""

from collections.abc import Iterable

from ml_collections import ConfigDict

from pneumojax.evaluation import operating_points
from pneumojax.runtime.config import Rule


def rules(config: ConfigDict) -> Iterable[Rule]:
    """Yield the rules of `config.evaluation`."""
    yield Rule("evaluation.batch_size", 1 <= config.evaluation.batch_size <= 65536, "from 1 to 65536")
    chosen = config.evaluation.operating_points
    yield Rule("evaluation.operating_points", chosen in operating_points.CHOICES, " or ".join(operating_points.CHOICES))
    yield Rule("evaluation.prevalence", 0 <= config.evaluation.prevalence < 1, "at least 0 and below 1")
