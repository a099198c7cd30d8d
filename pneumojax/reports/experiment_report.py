"""The report of an experiment: its tables, the accuracy curves of the paper's Figs. 3, 5 and 7, and Fig. 9."""

from collections.abc import Sequence

import numpy as np

from pneumojax.evaluation.comparison import Groups, Result, confusion, grouped
from pneumojax.reports import figures, html_page
from pneumojax.reports.experiment_tables import every_table, group_name, majority_accuracy, selection_note
from pneumojax.runtime.wording import counted


def render(results: Sequence[Result], notice: str | None) -> str:
    """Render the page. `notice` is what every reader must see, such as that the images are synthetic."""
    groups = grouped(results)
    split = results[0].split
    return html_page.render(
        "experiment_report.html.jinja",
        title="Experiment",
        facts=f"{counted(len(results), 'run')} ({counted(len(groups), 'combination')} of model and recipe), compared on"
        f" {split}, which no run was trained on. {selection_note(split)}"
        f"Always predicting the larger class scores {majority_accuracy(results):.4f}.",
        notice=notice,
        split=split,
        tables=every_table(results),
        curves=_curves(groups),
        confusions=[
            (group_name(name), confusion(group), f"balanced thresholds, sum of {counted(len(group), 'run')}")
            for name, group in groups.items()
        ],
    )


def _curves(groups: Groups) -> list[figures.Drawing]:
    """Draw one figure for each model: the val accuracy of each recipe."""
    drawings = []
    for model in dict.fromkeys(model for model, _ in groups):
        recipes = {recipe: group for (other, recipe), group in groups.items() if other == model}
        majority = next(iter(recipes.values()))[0].evaluations["val"]["majority_accuracy"]
        accuracies = {recipe: found for recipe, group in recipes.items() if len(found := _accuracies(group))}
        if accuracies:
            drawings.append(figures.accuracy_by_recipe(model, accuracies, majority))
    return drawings


def _accuracies(group: Sequence[Result]) -> np.ndarray:
    """Return the val accuracy of each run by epoch, up to the shortest run's last: (runs, epochs)."""
    runs = [
        [epoch["accuracy"] for _, epoch in sorted(result.history["val"].items())] for result in group if result.seconds
    ]
    return np.array([run[: min(map(len, runs))] for run in runs])
