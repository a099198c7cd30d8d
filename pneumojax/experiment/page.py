"""The page of an experiment: its tables, the accuracy curves of the paper's Figs. 3, 5 and 7, and Fig. 9."""

from collections.abc import Sequence

import numpy as np

from pneumojax import figures, page
from pneumojax.experiment.results import Result, confusion, grouped
from pneumojax.experiment.tables import Table, chosen_by, every_table

FILE = "report/index.html"


def render(results: Sequence[Result], notice: str | None) -> str:
    """The whole page; `notice`: what every reader must see, if anything."""
    groups = grouped(results)
    first = results[0]
    facts = (
        f"{len(results)} runs of {len(groups)} models and recipes, compared on {first.split}, on which none was"
        f" trained. {chosen_by(first.split)}Always answering the larger class scores"
        f" {first.told['majority_accuracy']:.4f} there."
    )
    models, *others = every_table(results)
    return page.document(
        "Experiment",
        [
            f"<header>\n<h1>Experiment</h1>\n<p>{page.text(facts)}</p>\n</header>",
            page.notice(notice),
            _section(models),
            page.section("Val accuracy by epoch (Figs. 3, 5, 7)", page.panels(_curves(groups))),
            page.section(f"Confusion matrices on {first.split} (Fig. 9)", page.panels(_confusions(groups))),
            *map(_section, others),
        ],
    )


def _section(table: Table) -> str:
    note = f'<p class="note">{page.text(table.note)}</p>'
    return page.section(table.title, note, page.table(table.header, table.rows, table.title))


def _curves(groups) -> list[str]:
    """One figure for each model: val accuracy of each recipe, the mean of its runs within their least and most."""
    found = []
    for name in dict.fromkeys(name for name, _ in groups):
        lines = {}
        for (other, recipe), group in groups.items():
            if other == name:
                runs = [[line["accuracy"] for _, line in sorted(r.history["val"].items())] for r in group]
                lines[recipe] = np.array([run[: min(map(len, runs))] for run in runs])
        share = next(group for (other, _), group in groups.items() if other == name)[0].evaluations["val"]
        found.append(figures.accuracy_curves(name, lines, share["majority_accuracy"]))
    return found


def _confusions(groups) -> list[str]:
    return [
        page.confusion(confusion(group), f"<b>{page.text(f'{name.upper()} {recipe}')}</b>, stored thresholds")
        for (name, recipe), group in groups.items()
    ]
