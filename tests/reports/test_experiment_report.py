"""The tables of an experiment by hand, and its page."""

import numpy as np
import pytest
from page_outline import require_self_contained

from pneumojax.evaluation import corruptions
from pneumojax.evaluation.comparison import Result
from pneumojax.evaluation.experiment_runs import Run
from pneumojax.reports import experiment_report, experiment_tables

LABELS, PROBABILITIES = np.array([0, 0, 1, 1, 1]), np.array([0.1, 0.6, 0.4, 0.7, 0.9])
VAL = (np.array([0, 1, 0, 1]), np.array([0.2, 0.7, 0.4, 0.9]))


def result(config="m1", recipe="a", fold=0, seed=0, val_aucs=(0.9, 0.995), seconds=(30.0, 10.0), robust=None, **scores):
    summary = {"n": 5, "threshold": 0.5, "majority_accuracy": 0.6, "auc": 0.75, "balanced_accuracy": 0.8}
    summary |= {
        "accuracy": 0.6,
        "sensitivity": 0.7,
        "specificity": 0.9,
        "confusion": {"tp": 2, "fp": 1, "fn": 1, "tn": 1},
    }
    summary |= {"brier": 0.1, "brier_uncalibrated": 0.2, "ece": 0.03, "ece_uncalibrated": 0.06}
    summary |= {"ids": np.arange(5), "scores": (LABELS, PROBABILITIES)} | scores
    evaluations = {"held_out": summary, "val": {"scores": VAL, "majority_accuracy": 0.5}, "train": {"n": 20}}
    lines = {epoch: {"auc": auc, "accuracy": 0.5 + epoch / 10} for epoch, auc in enumerate(val_aucs, 1)}
    measured = {name: {"balanced_accuracy": value} for name, value in (robust or {}).items()}
    history = {"val": lines, "train": lines}
    return Result(Run(config, recipe, fold, seed), "held_out", evaluations, measured, history, list(seconds))


def cells(text, title) -> list[list[str]]:
    """The rows of the Markdown table with this title, its header first."""
    lines = text.partition(f"**{title}")[2].partition("\n\n")[2].partition("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in [lines[0], *lines[2:]]]


ROBUST = dict.fromkeys(corruptions.CORRUPTIONS, 0.7) | {corruptions.CLEAN: 0.8}
RESULTS = [
    result("m1", "a", 0, auc=0.9, robust=ROBUST),
    result("m1", "a", 1, auc=0.8, val_aucs=(0.5, 0.6), seconds=(20.0, 20.0)),
    result("m1", "b", 0, auc=0.7, val_aucs=(0.5, 0.6)),
]


def test_the_tables_by_hand():
    text = experiment_tables.section(RESULTS)
    assert cells(text, "Models on held_out (Fig. 8)") == [
        ["model", "runs", "AUC", "balanced accuracy", "accuracy", "sensitivity", "specificity"],
        ["M1 a", "2", "0.8500 ± 0.0707", *(f"{value} ± 0.0000" for value in ("0.8000", "0.6000", "0.7000", "0.9000"))],
        ["M1 b", "1", "0.7000", "0.8000", "0.6000", "0.7000", "0.9000"],
        ["majority baseline", "", "0.5000", "0.5000", "0.6000", "", ""],
    ]
    assert cells(text, "Calibration")[2] == ["M1 b", "0.2000", "0.1000", "0.0600", "0.0300"]
    assert cells(text, "Time to val AUC 0.99")[1:] == [["M1 a", "40 (1 of 2 runs)", "40 ± 0"], ["M1 b", "never", "40"]]
    assert cells(text, "Paired comparisons")[1:] == [["M1 a - M1 b", "+0.2000", "+0.0000", "0 / 0, p 1"]]
    assert "**Ensembles" not in text, "one seed and one model make no ensemble"
    assert "chosen on val" not in text


def test_robustness_has_a_row_for_each_corruption():
    """A column for each would not fit a terminal."""
    text = experiment_tables.section([*RESULTS, result("m2", "a", robust=ROBUST | {"dark": 0.48})])
    header, *rows = cells(text, "Robustness")
    assert header == ["corruption", "M1 a", "M2 a"], "M1 b was not measured"
    assert rows[:4] == [
        ["clean", "0.800", "0.800"],
        ["mean", "0.700", "0.680"],
        ["drop", "0.100", "0.120"],
        ["dark", "0.700", "0.480"],
    ]
    assert [name for name, *_ in rows[3:]] == list(corruptions.CORRUPTIONS)
    assert "**Robustness" not in experiment_tables.section(RESULTS[1:])


def test_scores_on_val_have_a_warning():
    """Without a test split or folds, nothing is held out."""
    results = [
        one._replace(split="val", evaluations={"val": one.evaluations["held_out"], "train": {"n": 20}})
        for one in RESULTS
    ]
    assert "chosen on val too" in experiment_tables.section(results)
    assert "chosen on val too" in experiment_report.render(results, None)


def test_the_page_has_every_table_and_figure():
    results = [*RESULTS, result("m2", "<b>&", 0), result("m2", "<b>&", 0, seed=1)]
    page = experiment_report.render(results, "Drawn & synthetic.")
    require_self_contained(page)
    assert '<p class="notice" role="note">Drawn &amp; synthetic.</p>' in page
    assert "5 runs (3 combinations of model and recipe), compared on held_out" in page
    assert page.count("<svg") == 2, "one figure for each model"
    assert page.count('<table class="confusion">') == 3
    assert "<b>M2 &lt;b&gt;&amp;:</b> balanced thresholds" in page
    for table in experiment_tables.every_table(results):
        assert f"<h2>{table.title}</h2>" in page
    assert "<td>0.8500 ± 0.0707</td>" in page
    assert "<b>&" not in page


@pytest.mark.parametrize("epochs", [1, 3])
def test_curves_end_with_the_shortest_run(epochs):
    results = [result(seed=n, val_aucs=[0.9] * n, seconds=[1.0] * n) for n in (epochs, 3)]
    assert f"a {0.5 + epochs / 10:.3f} at epoch {epochs};" in experiment_report.render(results, None)
