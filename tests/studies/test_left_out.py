"""The table of sites that were not trained on."""

import numpy as np
import pytest

from pneumojax.evaluation import calibration, results
from pneumojax.evaluation.comparison import Result
from pneumojax.evaluation.experiment_runs import Run
from studies import left_out


def evaluation(labels: np.ndarray, logits: np.ndarray) -> dict:
    own = calibration.Calibration(temperature=1.0, threshold=0.5, threshold_sens95=0.5, prevalence=0.5, offset=0.0)
    probabilities = 1 / (1 + np.exp(-logits))
    return results.summarize(labels, logits, own) | {"scores": (labels, probabilities)}


def run(site: str | None, seed: int, groups: list[dict] | None = None) -> Result:
    rng = np.random.default_rng(seed)
    labels = np.arange(40) % 2
    foremost = "test" if site is None else "unseen"
    evaluations = {split: evaluation(labels, rng.normal(labels, 1.0)) for split in ("val", foremost)}
    evaluations[foremost] |= {"groups": groups or []}
    fold = seed if site is None else None
    return Result(Run("m1", "recommended", fold, seed, site), foremost, evaluations, {}, {}, [])


def test_each_site_left_out_has_its_seeds_their_ensemble_and_val() -> None:
    members = [run("b", 0), run("b", 1), run("b", 2)]
    alone, together, val = left_out.without_a_site(members)
    aucs = [member.evaluation["auc"] for member in members]
    assert alone["auc"] == pytest.approx(np.mean(aucs)) and alone["auc_sd"] == pytest.approx(np.std(aucs, ddof=1))
    assert (alone["trained_on"], alone["scored_on"], alone["films"], alone["runs"]) == ("all but b", "b", 40, 3)
    assert together["runs"] == 1 and together["auc"] > alone["auc"], "independent errors cancel"
    assert val["scored_on"] == "its own val" and val["films"] == 40


def test_folds_are_scored_site_by_site() -> None:
    def group(site: str, n: int, auc: float) -> dict:
        scores = {"auc": auc, "balanced_accuracy": 0.5, "sensitivity": 0.5, "specificity": 0.5, "ece": 0.1}
        return {"by": "site", "group": site, "n": n} | scores

    other = group("PA", 5, 0.1) | {"by": "view"}
    folds = [run(None, 0, [group("a", 10, 0.9), other]), run(None, 1, [group("a", 12, 0.7)])]
    [row] = left_out.of_folds(folds)
    assert (row["films"], row["runs"], row["scored_on"]) == (22, 2, "a, held out by fold")
    assert row["recipe"] == "recommended"
    assert row["auc"] == pytest.approx(0.8)
