"""Comparison of made-up runs, every number by hand."""

import json
import math

import numpy as np
import pytest
from etils import epath
from scipy.special import expit

from pneumojax.evaluation import calibration, corruptions
from pneumojax.evaluation.comparison import (
    Result,
    Spread,
    compared,
    confusion,
    ensemble,
    ensembles,
    grouped,
    read,
    seconds_to,
    spread,
    summaries,
    under_corruptions,
)
from pneumojax.evaluation.experiment_runs import Run
from pneumojax.evaluation.paired_tests import Difference
from pneumojax.evaluation.summary import every_metric
from pneumojax.runtime import config as configs
from pneumojax.runtime import workdir as workdirs
from pneumojax.runtime.errors import UserError

LABELS = np.array([0, 0, 1, 1, 1])
VAL_LABELS = np.array([0, 1, 0, 1])
VAL = (VAL_LABELS, np.array([0.2, 0.7, 0.4, 0.9]))


def evaluation(labels=LABELS, probabilities=(0.1, 0.6, 0.4, 0.7, 0.9), threshold=0.5, **fields):
    """Return an evaluation as `results.read` does, with made-up metrics except the confusion counts."""
    labels, probabilities = np.array(labels), np.array(probabilities)
    predicted = probabilities >= threshold
    pairs = {"tp": (1, True), "fp": (0, True), "fn": (1, False), "tn": (0, False)}
    counts = {key: int(np.sum((labels == label) & (predicted == decision))) for key, (label, decision) in pairs.items()}
    measured = {"auc": 0.75, "balanced_accuracy": 0.8, "accuracy": 0.6, "sensitivity": 0.7, "specificity": 0.9}
    measured |= {"brier": 0.1, "brier_uncalibrated": 0.2, "ece": 0.03, "ece_uncalibrated": 0.06}
    ids = np.array([f"{i}.png" for i in range(len(labels))])
    facts = {"n": len(labels), "threshold": threshold, "confusion": counts, "majority_accuracy": 0.6, "ids": ids}
    return facts | measured | {"scores": (labels, probabilities)} | fields


def result(config="m1", recipe="a", fold=0, seed=0, aucs=(0.9, 0.995), seconds=(30.0, 10.0), corrupted=None, **fields):
    """Return a made-up result, whose evaluation of the foremost split has these fields."""
    evaluations = {
        "held_out": evaluation(**fields),
        "val": {"scores": VAL, "majority_accuracy": 0.5},
        "train": {"n": 20},
    }
    lines = {epoch: {"auc": auc, "accuracy": 0.5 + epoch / 10} for epoch, auc in enumerate(aucs, 1)}
    history = {"val": dict(reversed(lines.items())), "train": lines}
    measured = {name: {"balanced_accuracy": value} for name, value in (corrupted or {}).items()}
    return Result(Run(config, recipe, fold, seed), "held_out", evaluations, measured, history, list(seconds))


def test_runs_are_grouped_by_model_and_recipe():
    results = [result(fold=0), result(recipe="b"), result("m2"), result(fold=1)]
    assert grouped(results) == {
        ("m1", "a"): [results[0], results[3]],
        ("m1", "b"): [results[1]],
        ("m2", "a"): [results[2]],
    }


def test_spread_by_hand():
    """The deviation is a sample's: 0.1, 0.2 and 0.6 are 0.2, 0.1 and 0.3 from their mean."""
    assert spread([0.1, 0.2, 0.6]) == pytest.approx(Spread(0.3, math.sqrt(0.14 / 2), 3))
    assert spread([None, 0.25]) == Spread(0.25, None, 1)
    assert spread([None, None]) is None


def test_a_groups_scores_are_those_of_its_foremost_split():
    group = [result(auc=0.9, ece_uncalibrated=None), result(fold=1, auc=0.8, seconds=(5.0, 5.0), aucs=(0.5, 0.6))]
    spreads = summaries(group)
    assert spreads["auc"] == pytest.approx(Spread(0.85, math.sqrt(0.005), 2))
    assert spreads["specificity"] == Spread(0.9, 0.0, 2)
    assert spreads["ece_uncalibrated"] == Spread(0.06, None, 1)
    assert spreads["training_s"] == pytest.approx(Spread(25.0, math.sqrt(450), 2))
    assert spreads["target_auc_s"] == Spread(40.0, None, 1), "the second run never reached it"


@pytest.mark.parametrize(
    ("aucs", "seconds"),
    [
        ((0.995, 0.9, 0.999), 1.0),
        ((0.9, 0.99, 0.5), 11.0),  # one epoch is enough, and so is equality
        ((0.5, 0.6, 0.991), 111.0),
        ((0.5, 0.6, 0.98999), None),
    ],
)
def test_the_time_to_an_auc_ends_with_the_epoch_that_reaches_it(aucs, seconds):
    assert seconds_to(result(aucs=aucs, seconds=(1.0, 10.0, 100.0)), 0.99) == seconds


def test_epochs_are_sorted_as_numbers():
    """As text, 10 would come before 2."""
    aucs = [0.5] * 9 + [0.995, 0.5]
    assert seconds_to(result(aucs=aucs, seconds=range(1, 12)), 0.99) == 55


def test_robustness_by_hand():
    """There are eleven corruptions."""
    first = dict.fromkeys(corruptions.CORRUPTIONS, 0.8) | {"clean": 0.9, "dark": 0.58}
    second = dict.fromkeys(corruptions.CORRUPTIONS, 0.6) | {"clean": 0.7, "dark": 0.71}
    spreads = under_corruptions([result(corrupted=first), result(fold=1), result(fold=2, corrupted=second)])
    assert set(spreads) == {"clean", "mean", "drop", *corruptions.CORRUPTIONS}
    assert spreads["clean"] == pytest.approx(Spread(0.8, math.sqrt(0.02), 2))
    assert spreads["dark"] == pytest.approx(Spread(0.645, 0.13 / math.sqrt(2), 2))
    assert spreads["mean"] == pytest.approx(Spread(0.695, 0.17 / math.sqrt(2), 2))  # 0.78 and 0.61
    assert spreads["drop"] == pytest.approx(Spread(0.105, 0.03 / math.sqrt(2), 2))  # 0.12 and 0.09
    assert under_corruptions([result(), result(fold=1)]) == {}


def test_confusion_is_of_all_runs_as_the_mean_scores_are():
    group = [
        result(seed=5, confusion={"tp": 1000, "fp": 2000, "fn": 3000, "tn": 4000}),
        result(seed=2, confusion={"tp": 10, "fp": 1, "fn": 2, "tn": 20}),
        result(seed=2, fold=1, confusion={"tp": 300, "fp": 30, "fn": 40, "tn": 500}),
    ]
    assert confusion(group) == {"tp": 1310, "fp": 2031, "fn": 3042, "tn": 4520}


def test_an_ensemble_is_the_mean_of_log_odds():
    """Odds of 4 and 1 give 2, also if a member's probabilities were restated at another prevalence."""
    labels = np.array([1, 0])
    first = {"val": {"scores": VAL}, "test": {"scores": (labels, np.array([0.8, 0.1]))}}
    # An offset of log 3 multiplies the member's odds by 3.
    restated = {"scores": (labels, expit(np.array([0.0, math.log(1 / 4)]) + math.log(3))), "offset": math.log(3)}
    second = {"val": {"scores": (VAL_LABELS, np.array([0.3, 0.6, 0.5, 0.6]))}, "test": restated}
    ensemble_labels, odds, fitted = ensemble([first, second], "test")
    np.testing.assert_array_equal(ensemble_labels, labels)
    np.testing.assert_allclose(odds, [math.log(2), -math.log(6)])
    val = np.log([1 / 4, 7 / 3, 2 / 3, 9]) / 2 + np.log([3 / 7, 3 / 2, 1, 3 / 2]) / 2
    assert fitted == pytest.approx(calibration.fit(VAL_LABELS, val))


def test_a_certain_member_does_not_make_the_ensemble_infinite():
    member = {"val": {"scores": VAL}, "test": {"scores": (np.array([1, 0, 1]), np.array([1.0, 0.0, 0.5]))}}
    _, odds, _ = ensemble([member, member], "test")
    assert np.isfinite(odds).all()
    assert odds[0] > 30 > -30 > odds[1]


def test_two_recipes_are_compared_on_the_runs_that_both_have():
    """Each image counts once, with each run's own threshold."""
    others, low = np.array(list("abcde")), (0.1, 0.1, 0.1, 0.9, 0.1)
    results = [
        result(auc=0.9, balanced_accuracy=0.8),  # wrong on the second and third image
        result(fold=1, auc=0.8, balanced_accuracy=0.8, threshold=0.65, ids=others),  # wrong on the third
        result(fold=2, auc=0.1),
        result(seed=3, auc=0.85, balanced_accuracy=0.8, probabilities=(0, 0, 1, 1, 1)),
        result(recipe="b", auc=0.89, balanced_accuracy=0.7, probabilities=(0.9, 0.9, 0.9, 0.9, 0.9)),
        result(recipe="b", fold=1, auc=0.82, balanced_accuracy=0.9, probabilities=low, ids=others),
        result(recipe="b", seed=3, auc=0.84, balanced_accuracy=0.7),
    ]
    [comparison] = compared(grouped(results))
    assert (comparison.first, comparison.second) == (("m1", "a"), ("m1", "b"))
    assert comparison.auc.mean == pytest.approx((0.01 - 0.02 + 0.01) / 3)
    assert comparison.balanced_accuracy.mean == pytest.approx((0.1 - 0.1 + 0.1) / 3)
    # Three runs, with a quarter as many test images as training images.
    half = comparison.auc.interval[1] - comparison.auc.mean
    error = math.sqrt((1 / 3 + 1 / 4) * np.var([0.01, -0.02, 0.01], ddof=1))
    assert half == pytest.approx(4.302653 * error)
    # Fold 0: only a is right on the first, only b on the third. Fold 1: only a on the last. Seed 3 does not count.
    assert comparison.decisions == (2, 1, 1.0)


def test_images_that_every_fold_has_are_counted_once():
    """As those of a test split that the source gives."""
    better = (0.1, 0.2, 0.8, 0.7, 0.9)
    results = [result(recipe="a", fold=fold) for fold in range(3)]
    results += [result(recipe="b", fold=fold, probabilities=better) for fold in range(3)]
    [comparison] = compared(grouped(results))
    assert (comparison.decisions.first_alone, comparison.decisions.second_alone) == (0, 2)


def test_images_of_one_class_are_not_compared():
    """They have neither AUC nor balanced accuracy."""
    lacking = {"labels": [1] * 5, "auc": None, "balanced_accuracy": None}
    assert compared(grouped([result(**lacking), result(recipe="b", **lacking)])) == []
    corrupted = dict.fromkeys((corruptions.CLEAN, *corruptions.CORRUPTIONS))
    assert under_corruptions([result(corrupted=corrupted)]) == {}


def test_only_groups_that_differ_in_one_respect_are_compared():
    """If both model and recipe differ, a difference shows nothing about either."""
    results = [result(config, recipe) for config in ("m1", "m2") for recipe in ("a", "b")]
    assert {(comparison.first, comparison.second) for comparison in compared(grouped(results))} == {
        (("m1", "a"), ("m1", "b")), (("m1", "a"), ("m2", "a")), (("m1", "b"), ("m2", "b")), (("m2", "a"), ("m2", "b")),
    }  # fmt: skip


def test_runs_that_share_no_images_are_not_compared():
    assert compared(grouped([result(), result(recipe="b", fold=1)])) == []
    other_labels = result(recipe="b", labels=[0, 0, 0, 1, 1])
    assert compared(grouped([result(), other_labels])) == []
    other_ids = result(recipe="b", ids=np.array(list("abcde")))
    assert compared(grouped([result(), other_ids])) == []
    elsewhere = result(recipe="b")._replace(split="val")
    assert compared(grouped([result(), elsewhere])) == []


def test_one_common_run_has_a_difference_without_an_interval():
    [comparison] = compared(grouped([result(auc=0.9), result(recipe="b", auc=0.8)]))
    assert comparison.auc == Difference(pytest.approx(0.1), None, None)


def test_ensembles_are_of_runs_on_the_same_fold():
    """There is one of each model's seeds and one of all runs, each with its spread over folds."""
    good, bad = (0.1, 0.2, 0.8, 0.9, 0.9), (0.9, 0.2, 0.1, 0.9, 0.9)
    results = [
        result(config, fold=fold, seed=seed, probabilities=good if fold == 0 else bad)
        for config in ("m1", "m2")
        for fold in (0, 1)
        for seed in (0, 1)
    ]
    spreads = ensembles(results)
    assert list(spreads) == ["m1 a, 2 runs", "m2 a, 2 runs", "m1 + m2 a, 4 runs"]
    # Fold 0 is perfect. Three of fold 1's six pairs are in order.
    for scores in spreads.values():
        assert scores["auc"] == pytest.approx(Spread((1 + 3 / 6) / 2, (1 - 3 / 6) / math.sqrt(2), 2))
    assert ensembles([result(fold=0), result(fold=1)]) == {}, "one run of a fold is no ensemble"
    assert ensembles([result(recipe="a"), result(recipe="b")]) == {}, "an ensemble has one recipe"


def test_a_finished_run_is_read_from_its_folder(tmp_path):
    """An epoch has 6 steps of 4 images."""
    run = Run("m1", "recommended", 1, 0)
    work = epath.Path(tmp_path) / run.name
    config = configs.with_fields(configs.load("m1"), {"batch_size": 4, "epochs": 2})
    configs.write(config, work / workdirs.CONFIG)
    lines = [
        {"step": 6 * epoch, "epoch": epoch, "split": split, "auc": 0.5, "accuracy": 0.5, "images_per_second": rate}
        for epoch, rate in ((1, 12.0), (2, 48.0))
        for split in ("train", "val")
    ]
    (work / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    whole = every_metric([1, 0], [1.0, 0.0], threshold=0.6)
    for name in ("held_out", "train", "val", "elsewhere-test"):
        for folder, content in (
            ("evaluation", whole | {"notice": name}),
            ("corruptions", {one: whole | {"notice": name} for one in (corruptions.CLEAN, *corruptions.CORRUPTIONS)}),
        ):
            (work / folder).mkdir(exist_ok=True)
            (work / folder / f"{name}.json").write_text(json.dumps(content))
        (work / f"evaluation/{name}.csv").write_text("id,label,probability\na,1,0.75\nb,0,0.5\n")
    finished = read(work, run)
    assert (finished.run, finished.split) == (run, "held_out")
    assert finished.evaluation["notice"] == "held_out"
    assert set(finished.evaluations) == {"held_out", "train", "val"}, "evaluations of other sources do not belong here"
    np.testing.assert_array_equal(finished.evaluation["scores"], [[1, 0], [0.75, 0.5]])
    assert finished.corruptions["dark"]["notice"] == "held_out"
    assert finished.seconds == [2.0, 0.5]
    (work / "corruptions/held_out.json").unlink()
    assert read(work, run).corruptions == {}
    (work / "metrics.jsonl").write_text("damaged\n")
    assert read(work, run).seconds == [], "nobody knows them then"
    (work / "evaluation/val.json").write_text("")
    with pytest.raises(UserError, match="is damaged: run --mode=evaluate --workdir="):
        read(work, run)
