"""What runs say together: from made-up results, every figure by hand; and the tables that show it."""

import json
import math

import numpy as np
import pytest
from etils import epath
from scipy.special import expit

from pneumojax import calibration, shifts
from pneumojax import config as configs
from pneumojax.experiment import page, tables
from pneumojax.experiment.paired import Difference
from pneumojax.experiment.plan import Run
from pneumojax.experiment.results import (
    Result,
    Spread,
    compared,
    confusion,
    ensemble,
    ensembles,
    gather,
    grouped,
    seconds_to,
    spread,
    summaries,
    under_shifts,
)

LABELS = np.array([0, 0, 1, 1, 1])
VAL_LABELS = np.array([0, 1, 0, 1])
VAL = (VAL_LABELS, np.array([0.2, 0.7, 0.4, 0.9]))


def evaluation(labels=LABELS, probabilities=(0.1, 0.6, 0.4, 0.7, 0.9), threshold=0.5, **told):
    """As `evaluate.read` gives it, of its own probabilities; what is told of in figures is made up."""
    labels, probabilities = np.array(labels), np.array(probabilities)
    called = probabilities >= threshold
    pairs = {"tp": (1, True), "fp": (0, True), "fn": (1, False), "tn": (0, False)}
    counts = {key: int(np.sum((labels == label) & (called == call))) for key, (label, call) in pairs.items()}
    measured = {"auc": 0.75, "balanced_accuracy": 0.8, "accuracy": 0.6, "sensitivity": 0.7, "specificity": 0.9}
    measured |= {"brier": 0.1, "brier_uncalibrated": 0.2, "ece": 0.03, "ece_uncalibrated": 0.06}
    ids = np.array([f"{i}.png" for i in range(len(labels))])
    found = {"n": len(labels), "threshold": threshold, "confusion": counts, "majority_accuracy": 0.6, "ids": ids}
    return found | measured | {"scores": (labels, probabilities)} | told


def result(config="m1", recipe="a", fold=0, seed=0, aucs=(0.9, 0.995), seconds=(30.0, 10.0), shifted=None, **told):
    own = evaluation(**told)
    evaluations = {"held_out": own, "val": {"scores": VAL, "majority_accuracy": 0.5}, "train": {"n": 20}}
    lines = {epoch: {"auc": auc, "accuracy": 0.5 + epoch / 10} for epoch, auc in enumerate(aucs, 1)}
    history = {"val": dict(reversed(lines.items())), "train": lines}
    measured = {name: {"balanced_accuracy": value} for name, value in (shifted or {}).items()}
    return Result(Run(config, recipe, fold, seed), "held_out", evaluations, measured, history, list(seconds))


def test_runs_are_grouped_by_model_and_recipe():
    given = [result(fold=0), result(recipe="b"), result("m2"), result(fold=1)]
    assert grouped(given) == {
        ("m1", "a"): [given[0], given[3]],
        ("m1", "b"): [given[1]],
        ("m2", "a"): [given[2]],
    }


def test_spread_by_hand():
    """The deviation is of a sample: 0.1, 0.2 and 0.6 lie 0.2, 0.1 and 0.3 from 0.3."""
    assert spread([0.1, 0.2, 0.6]) == pytest.approx(Spread(0.3, math.sqrt(0.14 / 2), 3))
    assert spread([None, 0.25]) == Spread(0.25, None, 1)
    assert spread([None, None]) is None


def test_a_groups_figures_are_those_of_its_foremost_split():
    group = [result(auc=0.9, ece_uncalibrated=None), result(fold=1, auc=0.8, seconds=(5.0, 5.0), aucs=(0.5, 0.6))]
    found = summaries(group)
    assert found["auc"] == pytest.approx(Spread(0.85, math.sqrt(0.005), 2))
    assert found["specificity"] == Spread(0.9, 0.0, 2)
    assert found["ece_uncalibrated"] == Spread(0.06, None, 1)
    assert found["training_s"] == pytest.approx(Spread(25.0, math.sqrt(450), 2))
    assert found["reached_s"] == Spread(40.0, None, 1), "the second never got there"


@pytest.mark.parametrize(
    ("aucs", "seconds"),
    [
        ((0.995, 0.9, 0.999), 1.0),
        ((0.9, 0.99, 0.5), 11.0),  # once is enough, and exactly is enough
        ((0.5, 0.6, 0.991), 111.0),
        ((0.5, 0.6, 0.98999), None),
    ],
)
def test_the_time_to_an_auc_ends_with_its_epoch(aucs, seconds):
    assert seconds_to(result(aucs=aucs, seconds=(1.0, 10.0, 100.0)), 0.99) == seconds


def test_epochs_are_counted_in_order():
    """Of ten and more, whose names as text would sort otherwise."""
    aucs = [0.5] * 9 + [0.995, 0.5]
    assert seconds_to(result(aucs=aucs, seconds=range(1, 12)), 0.99) == 55


def test_robustness_by_hand():
    """The mean over eleven shifts, and how far it lies below what is measured without."""
    one = dict.fromkeys(shifts.SHIFTS, 0.8) | {"clean": 0.9, "dark": 0.58}
    other = dict.fromkeys(shifts.SHIFTS, 0.6) | {"clean": 0.7, "dark": 0.71}
    found = under_shifts([result(shifted=one), result(fold=1), result(fold=2, shifted=other)])
    assert set(found) == {"clean", "mean", "drop", *shifts.SHIFTS}
    assert found["clean"] == pytest.approx(Spread(0.8, math.sqrt(0.02), 2))
    assert found["dark"] == pytest.approx(Spread(0.645, 0.13 / math.sqrt(2), 2))
    assert found["mean"] == pytest.approx(Spread(0.695, 0.17 / math.sqrt(2), 2))  # 0.78 and 0.61
    assert found["drop"] == pytest.approx(Spread(0.105, 0.03 / math.sqrt(2), 2))  # 0.12 and 0.09
    assert under_shifts([result(), result(fold=1)]) == {}


def test_confusion_counts_each_image_once():
    """Over the folds of the lowest seed: another seed has the same images again."""
    group = [
        result(seed=5, confusion={"tp": 1000, "fp": 1000, "fn": 1000, "tn": 1000}),
        result(seed=2, confusion={"tp": 10, "fp": 1, "fn": 2, "tn": 20}),
        result(seed=2, fold=1, confusion={"tp": 300, "fp": 30, "fn": 40, "tn": 500}),
    ]
    assert confusion(group) == {"tp": 310, "fp": 31, "fn": 42, "tn": 520}


def test_an_ensemble_is_the_mean_of_log_odds():
    """Odds of 4 and 1 make 2, whatever prevalence a member's probabilities were restated at."""
    labels = np.array([1, 0])
    one = {"val": {"scores": VAL}, "test": {"scores": (labels, np.array([0.8, 0.1]))}}
    # The same member's odds times 3, which is what an offset of log 3 does.
    offset = {"scores": (labels, expit(np.array([0.0, math.log(1 / 4)]) + math.log(3))), "offset": math.log(3)}
    other = {"val": {"scores": (VAL_LABELS, np.array([0.3, 0.6, 0.5, 0.6]))}, "test": offset}
    found, odds, fitted = ensemble([one, other], "test")
    np.testing.assert_array_equal(found, labels)
    np.testing.assert_allclose(odds, [math.log(2), -math.log(6)])
    val = np.log([1 / 4, 7 / 3, 2 / 3, 9]) / 2 + np.log([3 / 7, 3 / 2, 1, 3 / 2]) / 2
    assert fitted == pytest.approx(calibration.fit(VAL_LABELS, val))


def test_a_certain_member_does_not_make_the_ensemble_infinite():
    member = {"val": {"scores": VAL}, "test": {"scores": (np.array([1, 0, 1]), np.array([1.0, 0.0, 0.5]))}}
    _, odds, _ = ensemble([member, member], "test")
    assert np.isfinite(odds).all()
    assert odds[0] > 30 > -30 > odds[1]


def test_two_recipes_are_compared_on_the_runs_that_both_have():
    """The first minus the second, on folds 0 and 1; and the images of each fold once, by each run's own threshold."""
    given = [
        result(auc=0.9, balanced_accuracy=0.8),  # right but for the second and third image
        result(fold=1, auc=0.8, balanced_accuracy=0.8, threshold=0.65),  # but for the third
        result(fold=2, auc=0.1),
        result(seed=3, auc=0.85, balanced_accuracy=0.8, probabilities=(0, 0, 1, 1, 1)),
        result(recipe="b", auc=0.89, balanced_accuracy=0.7, probabilities=(0.9, 0.9, 0.9, 0.9, 0.9)),
        result(recipe="b", fold=1, auc=0.82, balanced_accuracy=0.9, probabilities=(0.1, 0.1, 0.1, 0.9, 0.1)),
        result(recipe="b", seed=3, auc=0.84, balanced_accuracy=0.7),
    ]
    [found] = compared(grouped(given))
    assert (found.first, found.second) == (("m1", "a"), ("m1", "b"))
    assert found.auc.mean == pytest.approx((0.01 - 0.02 + 0.01) / 3)
    assert found.balanced_accuracy.mean == pytest.approx((0.1 - 0.1 + 0.1) / 3)
    # Three runs, a quarter as many images tested on as trained on.
    half = found.auc.interval[1] - found.auc.mean
    error = math.sqrt((1 / 3 + 1 / 4) * np.var([0.01, -0.02, 0.01], ddof=1))
    assert half == pytest.approx(4.302653 * error)
    # Fold 0: a alone is right on the first, b alone on the third. Fold 1: a alone on the last. Seed 3 has them again.
    assert found.decisions == (2, 1, 1.0)


def test_only_groups_that_differ_in_one_respect_are_compared():
    """Of one model under two recipes, or two models under one: else, nothing is told of either."""
    given = [result(config, recipe) for config in ("m1", "m2") for recipe in ("a", "b")]
    assert {(found.first, found.second) for found in compared(grouped(given))} == {
        (("m1", "a"), ("m1", "b")), (("m1", "a"), ("m2", "a")), (("m1", "b"), ("m2", "b")), (("m2", "a"), ("m2", "b")),
    }  # fmt: skip


def test_runs_that_share_no_images_are_not_compared():
    assert compared(grouped([result(), result(recipe="b", fold=1)])) == []
    other = result(recipe="b", labels=[0, 0, 0, 1, 1])
    assert compared(grouped([result(), other])) == []
    others = result(recipe="b", ids=np.array(list("abcde")))  # whose labels are the same by chance
    assert compared(grouped([result(), others])) == []
    elsewhere = result(recipe="b")._replace(split="val")
    assert compared(grouped([result(), elsewhere])) == []


def test_one_common_run_has_a_difference_without_spread():
    [found] = compared(grouped([result(auc=0.9), result(recipe="b", auc=0.8)]))
    assert found.auc == Difference(pytest.approx(0.1), None, None)


def test_ensembles_are_of_runs_on_the_same_fold():
    """Of each model's seeds, and of all; the spread is over folds."""
    good, bad = (0.1, 0.2, 0.8, 0.9, 0.9), (0.9, 0.2, 0.1, 0.9, 0.9)
    given = [
        result(config, fold=fold, seed=seed, probabilities=good if fold == 0 else bad)
        for config in ("m1", "m2")
        for fold in (0, 1)
        for seed in (0, 1)
    ]
    found = ensembles(given)
    assert list(found) == ["m1 a, 2 runs", "m2 a, 2 runs", "m1 + m2 a, 4 runs"]
    # Perfect on fold 0; of fold 1's six pairs, the third image loses two and the others one each to the first.
    for told in found.values():
        assert told["auc"] == pytest.approx(Spread((1 + 3 / 6) / 2, (1 - 3 / 6) / math.sqrt(2), 2))
    assert ensembles([result(fold=0), result(fold=1)]) == {}, "one run of a fold is none"
    assert ensembles([result(recipe="a"), result(recipe="b")]) == {}, "of one recipe only"


def test_a_finished_run_is_read_from_its_folder(tmp_path):
    """The foremost split, its shifts, and the seconds that each epoch's steps took: 6 steps of 4 images."""
    run = Run("m1", "recommended", 1, 0)
    work = epath.Path(tmp_path) / run.name
    config = configs.load("m1")
    config.batch_size = 4
    configs.write(config, work / configs.FILE)
    lines = [
        {"step": 6 * epoch, "epoch": epoch, "split": split, "auc": 0.5, "accuracy": 0.5, "images_per_second": rate}
        for epoch, rate in ((1, 12.0), (2, 48.0))
        for split in ("train", "val")
    ]
    (work / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for folder, name in (("evaluation", "held_out"), ("evaluation", "val"), ("evaluation", "elsewhere-test"),
                         ("shifts", "held_out"), ("shifts", "elsewhere-test")):  # fmt: skip
        (work / folder).mkdir(exist_ok=True)
        (work / folder / f"{name}.json").write_text(json.dumps({"of": f"{folder}/{name}"}))
    (work / "evaluation/held_out.csv").write_text("id,label,probability\na,1,0.75\nb,0,0.5\n")
    [found] = gather(epath.Path(tmp_path), [run])
    assert (found.run, found.split, found.told["of"]) == (run, "held_out", "evaluation/held_out")
    assert set(found.evaluations) == {"held_out", "val"}, "evaluations of other sources are none of the experiment's"
    np.testing.assert_array_equal(found.told["scores"], [[1, 0], [0.75, 0.5]])
    assert found.shifts == {"of": "shifts/held_out"}
    assert found.seconds == [2.0, 0.5]
    (work / "shifts/held_out.json").unlink()
    assert gather(epath.Path(tmp_path), [run])[0].shifts == {}


def cells(text, title) -> list[list[str]]:
    """The rows of the table with this title, its header first."""
    lines = text.partition(f"**{title}")[2].partition("\n\n")[2].partition("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in [lines[0], *lines[2:]]]


MADE_UP = [
    result("m1", "a", 0, auc=0.9, shifted=dict.fromkeys(shifts.SHIFTS, 0.7) | {"clean": 0.8}),
    result("m1", "a", 1, auc=0.8, aucs=(0.5, 0.6), seconds=(20.0, 20.0)),
    result("m1", "b", 0, auc=0.7, aucs=(0.5, 0.6)),
]


def test_the_tables():
    text = tables.section(MADE_UP)
    assert cells(text, "Models (Fig. 8), on held_out") == [
        ["model", "runs", "AUC", "balanced accuracy", "accuracy", "sensitivity", "specificity"],
        ["M1 a", "2", "0.8500 ± 0.0707", *(f"{value} ± 0.0000" for value in ("0.8000", "0.6000", "0.7000", "0.9000"))],
        ["M1 b", "1", "0.7000", "0.8000", "0.6000", "0.7000", "0.9000"],
        ["always the larger class", "", "0.5000", "0.5000", "0.6000", "", ""],
    ]
    assert cells(text, "Calibration")[2] == ["M1 b", "0.2000", "0.1000", "0.0600", "0.0300"]
    assert cells(text, "Time to val AUC 0.99")[1:] == [["M1 a", "40 (1 of 2 runs)", "40 ± 0"], ["M1 b", "never", "40"]]
    header, *rows = cells(text, "Robustness")
    assert header == ["model", "clean", "mean", "drop", *shifts.SHIFTS]
    assert rows == [["M1 a", "0.800", "0.700", "0.100", *["0.700"] * len(shifts.SHIFTS)]]
    assert cells(text, "Paired comparisons")[1:] == [["M1 a - M1 b", "+0.2000", "+0.0000", "0 / 0, p 1"]]
    assert "**Ensembles" not in text, "there is none of one seed and one model"
    assert "chosen on val" not in text


def test_figures_on_val_are_said_to_be_too_good():
    """Where neither a test split nor folds are held out."""
    given = [one._replace(split="val", evaluations={"val": one.told, "train": {"n": 20}}) for one in MADE_UP]
    assert "chosen on val too" in tables.section(given)
    assert "chosen on val too" in page.render(given, None)


def test_the_page_has_every_table_and_figure():
    """Self-contained, with what is not the product's own text escaped."""
    given = [*MADE_UP, result("m2", "<b>&", 0), result("m2", "<b>&", 0, seed=1)]
    text = page.render(given, "Drawn & synthetic.")
    assert '<p class="notice" role="note">Drawn &amp; synthetic.</p>' in text
    assert "5 runs of 3 models and recipes, compared on held_out" in text
    assert text.count("<svg") == 2, "one figure for each model"
    assert text.count('<table class="confusion">') == 3
    assert "<b>M2 &lt;b&gt;&amp;</b>, stored thresholds" in text
    for table in tables.every_table(given):
        assert f"<h2>{table.title}</h2>" in text
    assert "<td>0.8500 ± 0.0707</td>" in text
    assert not [part for part in ("<script", "://", "<b>&") if part in text]
