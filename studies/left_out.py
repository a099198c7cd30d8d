"""Tabulate how models do on sites that they were not trained on, from the workdirs of experiments.

  python -m studies.left_out EXPERIMENT... --output FILE

An EXPERIMENT is a workdir of `--mode=experiment` with several sites, whose runs leave out a site each, or a fold of the
patients of all. The mean and standard deviation are over seeds or folds; the ensemble is that of all seeds.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from etils import epath

from pneumojax.data.source import SITE
from pneumojax.evaluation import comparison, experiment_runs
from pneumojax.evaluation import results as evaluation_files
from pneumojax.evaluation.comparison import Result
from studies import study

RECOMMENDED = "recommended"
_SCORES = ("auc", "balanced_accuracy", "sensitivity", "specificity", "ece")


class Trained(NamedTuple):
    """The sites that runs were trained on, and by which recipe."""

    trained_on: str
    recipe: str


def row(trained: Trained, scored_on: str, films: int, found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the means of some runs' scores, and the standard deviation of their AUC."""
    auc = comparison.spread([scores["auc"] for scores in found])
    assert auc is not None
    means = {name: sum(scores[name] for scores in found) / len(found) for name in _SCORES}
    place = trained._asdict() | {"scored_on": scored_on, "films": films, "runs": len(found)}
    return place | means | {"auc_sd": auc.deviation}


def without_a_site(results: Sequence[Result]) -> Iterator[dict[str, Any]]:
    """Yield, for each site left out and recipe, its scores, those of the ensemble of all seeds, and those of val."""
    for site, recipe in dict.fromkeys((result.run.site, result.run.recipe) for result in results if result.run.site):
        members = [result for result in results if (result.run.site, result.run.recipe) == (site, recipe)]
        unseen, val = ([member.evaluations[split] for member in members] for split in (members[0].split, "val"))
        trained, films = Trained(f"all but {site}", recipe), unseen[0]["n"]
        yield row(trained, site, films, unseen)
        if len(members) > 1:
            odds = comparison.ensemble([member.evaluations for member in members], members[0].split)
            together = trained._replace(trained_on=f"{trained.trained_on}, {len(members)} together")
            yield row(together, site, films, [evaluation_files.summarize(*odds)])
        yield row(trained, "its own val", val[0]["n"], val)


def of_folds(results: Sequence[Result]) -> Iterator[dict[str, Any]]:
    """Yield each site's scores over the folds that were held out."""
    found: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for result in results:
        for group in result.evaluation.get("groups", []):
            if result.run.site is None and group["by"] == SITE:
                found.setdefault((result.run.recipe, group["group"]), []).append(group)
    for (recipe, site), groups in found.items():
        films = sum(group["n"] for group in groups)
        yield row(Trained("all sites", recipe), f"{site}, held out by fold", films, groups)


def main(argv: list[str]) -> None:
    parser = study.parser(__doc__)
    parser.add_argument("experiments", nargs="+", type=epath.Path, metavar="EXPERIMENT", help="workdirs")
    given = parser.parse_args(argv)
    rows = []
    for workdir in given.experiments:
        results = [comparison.read(workdir / run.name, run) for run in experiment_runs.recorded(workdir)]
        rows += [*without_a_site(results), *of_folds(results)]
    output: Path | None = given.output
    figures = {
        "rows": [row for row in rows if row["recipe"] == RECOMMENDED],
        "before": [row for row in rows if row["recipe"] != RECOMMENDED],
    }
    study.finish("left_out", argv, figures, ["left-out", "left-out-before"], output)


if __name__ == "__main__":
    study.run(main)
