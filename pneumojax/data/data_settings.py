"""The config's section on data: how to read a source, how to divide train, how many images to draw."""

import re
from collections.abc import Iterable, Sequence

from ml_collections import ConfigDict

from pneumojax.data import splits as splitting
from pneumojax.data import trust
from pneumojax.data.source import SITE, Options, Record
from pneumojax.data.sources import labels, sites
from pneumojax.data.splits import PAPERS_SUBSET, Carving
from pneumojax.runtime.config import Rule

_SUBSET = re.compile(r"all|paper|\d+,\d+")


def rules(config: ConfigDict) -> Iterable[Rule]:
    """Yield the rules of `config.data`."""
    c = config.data
    yield Rule("data.label_rule", c.label_rule in labels.RULES, f"one of {', '.join(labels.RULES)}")
    yield Rule("data.views", c.views in labels.VIEWS, " or ".join(labels.VIEWS))
    yield Rule("data.subset", bool(_SUBSET.fullmatch(c.subset)), "all, paper, or NORMAL,PNEUMONIA such as 1082,6517")
    yield Rule("data.on_error", c.on_error in ("fail", "skip"), "fail or skip")
    yield Rule("data.resident", c.resident in ("auto", "always", "never"), "auto, always or never")
    yield Rule("data.workers", 0 <= c.workers <= 1024, "from 0 to 1024")
    yield Rule("data.split_seed", 0 <= c.split_seed < 2**31, "at least 0 and below 2**31")
    yield Rule("data.folds", c.folds == 0 or 2 <= c.folds <= 1000, "0, or from 2 to 1000")
    yield Rule("data.fold", 0 <= c.fold < max(c.folds, 1), "at least 0 and below data.folds")
    yield Rule("data.leave_out", _is_pattern(c.leave_out), "a regular expression")
    known = not c.leave_out_site or (c.leave_out_site in sites.places(c.source) and not (c.folds or c.leave_out))
    rule = "empty, or the name of a site in --data, where data.folds and data.leave_out are not set"
    yield Rule("data.leave_out_site", known, rule)
    short = len(c.patient_pattern) <= 1000
    rule = "a regular expression of at most 1,000 characters"
    yield Rule("data.patient_pattern", short and _is_pattern(c.patient_pattern), rule)
    unlike_sites = SITE not in {name.strip().lower() for name in c.columns.split(",")}
    rule = f"names of columns with commas between them, except {SITE!r}, which is what --data names"
    yield Rule("data.columns", len(c.columns) <= 1000 and unlike_sites, rule)
    trusted = not c.trust or bool(trust.FORM.fullmatch(c.trust))
    yield Rule("data.trust", trusted, "VALUE=WEIGHT,... with weights from 0 to 1, such as text=0.3,box=1")
    yield Rule("data.trust_column", bool(re.fullmatch(r"[^,]*\w[^,]*", c.trust_column)), "the name of a column")
    yield Rule("data.val_fraction", 0 < c.val_fraction < 1, "above 0 and below 1")
    yield Rule("data.test_fraction", 0 <= c.test_fraction < 1 - c.val_fraction, "at least 0, and below 1 with val")


def _is_pattern(text: str) -> bool:
    try:
        re.compile(text)
    except (re.error, OverflowError, RecursionError):
        return False
    return True


def source_options(config: ConfigDict) -> Options:
    """Return how to read the source."""
    options = Options(**{name: config.data[name] for name in Options._fields})
    return options._replace(columns=f"{options.columns},{config.data.trust_column}") if config.data.trust else options


def weighted(config: ConfigDict, records: Sequence[Record]) -> tuple[Record, ...]:
    """Return the records with the weights that `data.trust` gives them."""
    return trust.weighted(records, trust.weights_in(config.data.trust), config.data.trust_column)


def usable(config: ConfigDict, records: Sequence[Record]) -> Sequence[Record]:
    """Return the records that train or judge: those with a weight, and of train as many as `data.subset` says.

    Raises:
      UserError: there is nothing to train on, only one class, or an image without a label.
    """
    records = [record for record in weighted(config, records) if record.weight]
    if wanted := subset_counts(config):
        records = splitting.subset(records, wanted, config.data.split_seed)
    splitting.require_trainable(records)
    return records


def carving(config: ConfigDict) -> Carving:
    """Return how to divide train."""
    names = ("val_fraction", "test_fraction", "folds", "fold", "leave_out", "leave_out_site")
    return Carving(seed=config.data.split_seed, **{name: config.data[name] for name in names})


def subset_counts(config: ConfigDict) -> tuple[int, int] | None:
    """Return how many normal and pneumonia images to train on; None for all."""
    text = config.data.subset
    if text == "all":
        return None
    if text == "paper":
        return PAPERS_SUBSET
    normal, pneumonia = map(int, text.split(","))
    return normal, pneumonia
