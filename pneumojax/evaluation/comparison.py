"""Comparison of an experiment's runs, from what they left in their workdirs."""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from jaxtyping import Bool, Float64, Integer

from pneumojax.data import splits as splitting
from pneumojax.evaluation import calibration, corruptions, metrics, paired_tests
from pneumojax.evaluation import results as evaluation_files
from pneumojax.evaluation.experiment_runs import Run
from pneumojax.evaluation.results import Evaluation, Summary
from pneumojax.runtime import config as configs
from pneumojax.runtime import run_log
from pneumojax.runtime import workdir as workdirs
from pneumojax.runtime.errors import UserError

TARGET_AUC = 0.99  # on val; the time to reach it is compared
SCORES = ("auc", "balanced_accuracy", "accuracy", "sensitivity", "specificity")
CALIBRATION_SCORES = ("brier_uncalibrated", "brier", "ece_uncalibrated", "ece")


class Result(NamedTuple):
    """What a finished run left.

    Attributes:
      run: the run.
      split: name of the foremost split, on which recipes are compared.
      evaluations: of the run's own splits, by name; see `results.read`.
      corruptions: summaries by corruption; empty if they were not evaluated.
      history: metrics by split and epoch.
      seconds: duration of each epoch's training steps; empty if metrics.jsonl is damaged.
    """

    run: Run
    split: str
    evaluations: dict[str, Evaluation]
    corruptions: dict[str, Summary]
    history: dict[str, dict[int, dict[str, Any]]]
    seconds: list[float]

    @property
    def evaluation(self) -> Evaluation:
        """The evaluation of the foremost split."""
        return self.evaluations[self.split]


def read(workdir: epath.Path, run: Run) -> Result:
    """Read the result of a finished run from its workdir."""
    evaluations = evaluation_files.read_own(workdir)
    if not {"train", "val"} <= evaluations.keys():
        raise UserError(f"evaluation/ in {workdir} is damaged: run --mode=evaluate --workdir={workdir}")
    history, config = run_log.read(workdir), configs.read(workdir / workdirs.CONFIG)
    whole = range(1, config.epochs + 1)
    train, val = ([history.get(split, {}).get(epoch, {}) for epoch in whole] for split in ("train", "val"))
    seconds = []
    if all(line.get("images_per_second") for line in train) and all({"auc", "accuracy"} <= line.keys() for line in val):
        seconds = [line["step"] / line["epoch"] * config.batch_size / line["images_per_second"] for line in train]
    split = splitting.foremost(evaluations)
    return Result(run, split, evaluations, evaluation_files.read_corruptions(workdir, split), history, seconds)


Groups = dict[tuple[str, str], list[Result]]


def grouped(results: Sequence[Result]) -> Groups:
    """Group the results by config and recipe, in order of first appearance."""
    groups: Groups = {}
    for result in results:
        groups.setdefault((result.run.config, result.run.recipe), []).append(result)
    return groups


def by_site(results: Sequence[Result]) -> dict[tuple[tuple[str, str], str], dict[str, "Spread | None"]]:
    """Compute the spread of each score by group and site left out, the lowest mean balanced accuracy first."""
    sites: dict[tuple[tuple[str, str], str], list[Summary]] = {}
    for result in results:
        if result.run.site is not None:
            sites.setdefault(((result.run.config, result.run.recipe), result.run.site), []).append(result.evaluation)
    spreads = {key: _spreads(summaries) for key, summaries in sites.items()}

    def rank(key: tuple[tuple[str, str], str]) -> float:
        balanced = spreads[key]["balanced_accuracy"]
        return 1.0 if balanced is None else balanced.mean

    return {key: spreads[key] for key in sorted(spreads, key=rank)}


class Spread(NamedTuple):
    """A score over the runs that have it: its mean, its sample standard deviation (None with one run), their number."""

    mean: float
    deviation: float | None
    runs: int


def spread(values: Sequence[float | None]) -> Spread | None:
    """Compute the spread of a score over runs, None where a run lacks it. Return None if every run does."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    return Spread(float(np.mean(known)), float(np.std(known, ddof=1)) if len(known) > 1 else None, len(known))


def _spreads(summaries: Sequence[Summary]) -> dict[str, Spread | None]:
    names = (*SCORES, *CALIBRATION_SCORES)
    return {name: spread([summary.get(name) for summary in summaries]) for name in names}


def summaries(group: Sequence[Result]) -> dict[str, Spread | None]:
    """Compute the spread of each score on the foremost split, and of training times.

    Times are in seconds: `training_s` for all epochs, `target_auc_s` until val reached `TARGET_AUC`.
    """
    return _spreads([result.evaluation for result in group]) | {
        "training_s": spread([sum(result.seconds) or None for result in group]),
        "target_auc_s": spread([seconds_to(result, TARGET_AUC) for result in group]),
    }


def seconds_to(result: Result, auc: float) -> float | None:
    """Return the seconds of training until the end of the first epoch with this val AUC; None if it is not reached."""
    for epoch, seconds in enumerate(itertools.accumulate(result.seconds), 1):
        if result.history["val"][epoch]["auc"] >= auc:
            return seconds
    return None


def under_corruptions(group: Sequence[Result]) -> dict[str, Spread | None]:
    """Compute the spread of balanced accuracy under each corruption; empty if no run evaluated them.

    `clean` is without corruption, `mean` the mean over corruptions, and `drop` the difference of the two.
    """
    measured = []
    for result in group:
        if result.corruptions:
            values = {name: summary["balanced_accuracy"] for name, summary in result.corruptions.items()}
            if None in values.values():  # the images are of one class
                continue
            mean = float(np.mean([values[name] for name in corruptions.CORRUPTIONS]))
            measured.append(values | {"mean": mean, "drop": values[corruptions.CLEAN] - mean})
    names = (corruptions.CLEAN, *corruptions.CORRUPTIONS, "mean", "drop") if measured else ()
    return {name: spread([values[name] for values in measured]) for name in names}


class Comparison(NamedTuple):
    """Two groups, compared over the folds and seeds that both have.

    Attributes:
      first: config and recipe of the first group.
      second: of the second.
      auc: the first's minus the second's.
      balanced_accuracy: the first's minus the second's.
      decisions: on the images of each fold with the lowest common seed; on one fold's where all have the same.
    """

    first: tuple[str, str]
    second: tuple[str, str]
    auc: paired_tests.Difference
    balanced_accuracy: paired_tests.Difference
    decisions: paired_tests.Discordant


def compared(groups: Groups) -> list[Comparison]:
    """Compare every two groups that share a config or a recipe, and have runs on the same images."""
    comparisons = []
    for first, second in itertools.combinations(groups, 2):
        if first[0] != second[0] and first[1] != second[1]:
            continue
        ours, theirs = ({(r.run.fold, r.run.site, r.run.seed): r for r in groups[name]} for name in (first, second))
        pairs = [(ours[key], theirs[key]) for key in ours if key in theirs and _comparable(ours[key], theirs[key])]
        if pairs:
            comparisons.append(_compare(first, second, pairs))
    return comparisons


def _comparable(first: Result, second: Result) -> bool:
    """Whether both are of the same images, and of both classes."""
    return _same_images(first, second) and first.evaluation["auc"] is not None


def _same_images(first: Result, second: Result) -> bool:
    if first.split != second.split:
        return False
    labels = (result.evaluation["scores"][0] for result in (first, second))
    return np.array_equal(first.evaluation["ids"], second.evaluation["ids"]) and np.array_equal(*labels)


def _compare(first: tuple[str, str], second: tuple[str, str], pairs: Sequence[tuple[Result, Result]]) -> Comparison:
    share = float(np.mean([result.evaluation["n"] / result.evaluations["train"]["n"] for result, _ in pairs]))

    def difference(name: str) -> paired_tests.Difference:
        return paired_tests.corrected_t([a.evaluation[name] - b.evaluation[name] for a, b in pairs], share)

    seed = min(result.run.seed for result, _ in pairs)
    of_images = {tuple(pair[0].evaluation["ids"]): pair for pair in pairs if pair[0].run.seed == seed}
    sides = zip(*of_images.values(), strict=True)
    first_correct, second_correct = (np.concatenate([_correct(result) for result in side]) for side in sides)
    decisions = paired_tests.mcnemar(first_correct, second_correct)
    return Comparison(first, second, difference("auc"), difference("balanced_accuracy"), decisions)


def _correct(result: Result) -> Bool[np.ndarray, " n"]:
    labels, probabilities = result.evaluation["scores"]
    return (probabilities >= result.evaluation["threshold"]) == labels


def ensemble(
    members: Sequence[dict[str, Evaluation]], split: str
) -> tuple[Integer[np.ndarray, " n"], Float64[np.ndarray, " n"], calibration.Calibration]:
    """Average the members' log-odds on a split, each with its own temperature, and calibrate them on val.

    A member is the `evaluations` of a run, all of the same images. The members' offsets are left out: the ensemble's
    calibration has its own. Return the labels, the mean log-odds, and their calibration.
    """
    labels, odds = _mean_log_odds(members, split)
    return labels, odds, calibration.fit(*_mean_log_odds(members, "val"))


def _mean_log_odds(
    members: Sequence[dict[str, Evaluation]], split: str
) -> tuple[Integer[np.ndarray, " n"], Float64[np.ndarray, " n"]]:
    odds = [metrics.log_odds(m[split]["scores"][1]) - m[split].get("offset", 0.0) for m in members]
    return members[0][split]["scores"][0], np.mean(odds, axis=0)


def ensembles(results: Sequence[Result]) -> dict[str, dict[str, Spread | None]]:
    """Compute the spread of each score of ensembles over folds, or over sites left out, by the ensemble's title.

    For each recipe, there is an ensemble of each model's seeds, and one of all models and seeds.
    """
    summaries_of: dict[str, list[Summary]] = {}
    for recipe, fold, site in dict.fromkeys((r.run.recipe, r.run.fold, r.run.site) for r in results):
        members = [r for r in results if (r.run.recipe, r.run.fold, r.run.site) == (recipe, fold, site)]
        models = dict.fromkeys(r.run.config for r in members)
        sets = {name: [r for r in members if r.run.config == name] for name in models}
        if len(models) > 1:
            sets[" + ".join(models)] = members
        for name, chosen in sets.items():
            if len(chosen) > 1 and all(_same_images(chosen[0], other) for other in chosen):
                labels, odds, fitted = ensemble([r.evaluations for r in chosen], chosen[0].split)
                title = f"{name} {recipe}, {len(chosen)} runs"
                summaries_of.setdefault(title, []).append(evaluation_files.summarize(labels, odds, fitted))
    return {title: _spreads(summaries) for title, summaries in summaries_of.items()}


def confusion(group: Sequence[Result]) -> dict[str, int]:
    """Sum the confusion counts on the foremost split over all runs of a group, as its mean scores are over all."""
    counts = [result.evaluation["confusion"] for result in group]
    return {key: sum(count[key] for count in counts) for key in ("tp", "fp", "fn", "tn")}
