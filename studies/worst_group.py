"""Measure what operating points by the worst group of val are worth, at home and elsewhere.

  python -m studies.worst_group RUN... [--elsewhere NAME=FOLDER] [--column read_by=radiologist] --output FILE

Each RUN is a workdir. Its own test split is scored where it has one, site by site; otherwise its val. Films of FOLDER
whose column has another value are left out; a run that has a site of that name is not scored on them.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from pneumojax.data import data_settings
from pneumojax.data.source import DEFAULTS, SITE, Split, from_source
from pneumojax.data.sources import open_source, sites
from pneumojax.evaluation import forward, metrics, operating_points
from pneumojax.evaluation.calibration import Calibration
from pneumojax.inference.restore import Trained, load
from pneumojax.runtime import allocator, sharding
from pneumojax.workflows import run_folder, worst_group
from pneumojax.workflows.run_config import read_config
from studies import study

Cases = tuple[np.ndarray, np.ndarray]


class Run(NamedTuple):
    """A run's model, and what computes its logits."""

    workdir: epath.Path
    size: int
    trained: Trained
    evaluator: forward.Evaluator
    layout: sharding.Layout


def opened(workdir: epath.Path) -> Run:
    """Load a run, calibrated on val whatever its operating points are."""
    config, layout = read_config(workdir), sharding.layout(jax.local_devices())
    with jax.set_mesh(layout.mesh):
        trained = load(workdir, config, layout)
    if chosen := operating_points.read(workdir, trained.epoch):
        trained = trained._replace(calibration=chosen.of_val)
    evaluator = forward.Evaluator(trained.model, layout, config.evaluation.batch_size)
    return Run(workdir, config.model.image_size, trained, evaluator, layout)


def own_splits(run: Run) -> dict[str, Split]:
    """Return the run's own val, and its test where it has one."""
    config = read_config(run.workdir)
    source = open_source(config.data.source, data_settings.source_options(config))
    records = run_folder.own_splits(run.workdir, source)
    return {name: from_source(source, name, records[name], run.size) for name in ("val", "test") if name in records}


def by_site(run: Run, split: Split) -> Iterator[tuple[str, Cases]]:
    """Yield the name of each site, and its labels and logits."""
    with jax.set_mesh(run.layout.mesh):
        logits = run.evaluator.outputs(run.trained.variables, split).logits
    named = split.groups.get(SITE, np.full(len(split.ids), ""))
    for site in sorted(set(named.tolist())):
        yield f"{split.name} {site}".strip(), (split.labels[named == site].astype(int), logits[named == site])


def elsewhere(run: Run, place: str, column: str) -> Split:
    """Return the films of another site."""
    ((name, folder),) = sites.places(place).items()
    key, _, value = column.partition("=")
    source = open_source(folder, DEFAULTS._replace(columns=key))
    records = [record for record in source.records if not key or dict(record.metadata).get(key) == value]
    return from_source(source, name, records, run.size)


def row(run: str, where: str, by: str, cases: Cases, calibration: Calibration) -> dict[str, Any]:
    """Score a calibration on films."""
    labels, logits = cases
    p = metrics.probabilities(logits, calibration.temperature, calibration.offset)
    reached = p >= calibration.threshold
    sensitivity, specificity = float(reached[labels == 1].mean()), float((~reached[labels == 0]).mean())
    return {
        "run": run, "where": where, "by": by, "count": len(labels), "threshold": calibration.threshold,
        "balanced_accuracy": (sensitivity + specificity) / 2, "sensitivity": sensitivity, "specificity": specificity,
        "ece": metrics.expected_calibration_error(labels, p),
    }  # fmt: skip


def rows(workdir: str, options: Any) -> list[dict[str, Any]]:
    """Return the scores of a run by both choices."""
    run = opened(epath.Path(workdir))
    splits = own_splits(run)
    with jax.set_mesh(run.layout.mesh):
        chosen = worst_group.choose(splits["val"], run.evaluator, run.trained)
    if chosen is None:
        raise SystemExit(f"val of {workdir} has no group of enough images")
    scored = dict(by_site(run, splits.get("test", splits["val"])))
    trained_on = sites.places(str(read_config(run.workdir).data.source))
    if options.elsewhere and not trained_on.keys() & sites.places(options.elsewhere).keys():
        scored |= dict(by_site(run, elsewhere(run, options.elsewhere, options.column)))
    name = sites.title_of(str(read_config(run.workdir).data.source))
    ways = {"val": chosen.of_val, "worst group": chosen.calibration}
    return [row(name, where, by, cases, way) for where, cases in scored.items() for by, way in ways.items()]


def main(argv: list[str]) -> None:
    parser = study.parser(__doc__)
    parser.add_argument("runs", nargs="+", help="workdirs")
    parser.add_argument("--elsewhere", default="", help="NAME=FOLDER of labelled films that no run has seen")
    parser.add_argument("--column", default="", help="column and value of the films to use there")
    allocator.keep_freed()
    options = parser.parse_args(argv)
    found = [one for workdir in options.runs for one in rows(workdir, options)]
    study.finish("worst_group", argv, {"rows": found}, ["worst-group"], options.output)


if __name__ == "__main__":
    study.run(main)
