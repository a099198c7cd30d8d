"""The rules of the config's `explanation` and `prediction` fields."""

import re
from collections.abc import Iterable

from ml_collections import ConfigDict

from pneumojax.runtime.config import Rule
from pneumojax.runtime.workdir import SITE_NAME

BASELINES = ("blurred", "black")


def rules(config: ConfigDict) -> Iterable[Rule]:
    """Yield the rules of `config.explanation` and `config.prediction`."""
    c = config.explanation
    for name in ("count", "steps", "samples"):
        yield Rule(f"explanation.{name}", 1 <= c[name] <= 10_000, "from 1 to 10,000")
    yield Rule("explanation.baseline", c.baseline in BASELINES, " or ".join(BASELINES))
    for name in ("square", "square_step"):
        yield Rule(f"explanation.{name}", 0 < c[name] <= 1, "above 0 and at most 1")
    yield Rule("explanation.noise", 0 <= c.noise <= 1, "at least 0 and at most 1")
    yield Rule("prediction.abstain", config.prediction.abstain in (True, False), "true or false")
    yield Rule("site", not config.site or _is_site(config.site), "empty, the name of a site, or a path to a .json file")
    yield Rule("prediction.output", _is_output(config.prediction.output), "empty, -, or end in .csv or .jsonl")
    yield Rule("prediction.shard", _is_shard(config.prediction.shard), "empty, or like 0/4")


def _is_site(text: str) -> bool:
    return text.endswith(".json") or re.fullmatch(SITE_NAME, text) is not None


def _is_output(text: str) -> bool:
    return text in ("", "-") or text.endswith((".csv", ".jsonl"))


def _is_shard(text: str) -> bool:
    match = re.fullmatch(r"(\d{1,5})/(\d{1,5})", text)
    return not text or (match is not None and int(match[1]) < int(match[2]))
