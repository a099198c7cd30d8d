"""What the runs of an experiment left in their workdirs, and what that says of recipes."""

import itertools
import json
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from etils import epath

from pneumojax import calibration, evaluate, log, metrics, shifts
from pneumojax import config as configs
from pneumojax.data import splits as splitting
from pneumojax.experiment import paired
from pneumojax.experiment.plan import Run

REACHED = 0.99  # val AUC, the time to which is told
TOLD = ("auc", "balanced_accuracy", "accuracy", "sensitivity", "specificity", "majority_accuracy")
CALIBRATED = ("brier_uncalibrated", "brier", "ece_uncalibrated", "ece")


class Result(NamedTuple):
    """What a finished run left.

    Attributes:
      run: which.
      split: name of the foremost split, on which recipes are compared.
      evaluations: split -> what evaluation/<split>.json holds, with `scores`, see `evaluate.read`.
      shifts: shift -> what was measured under it; empty where nothing was.
      history: split -> epoch -> metrics.
      seconds: of training steps, for each epoch in turn.
    """

    run: Run
    split: str
    evaluations: dict[str, dict]
    shifts: dict[str, dict]
    history: dict[str, dict[int, dict]]
    seconds: list[float]

    @property
    def told(self) -> dict:
        """What was measured on the foremost split."""
        return self.evaluations[self.split]


def gather(workdir: epath.Path, runs: Sequence[Run]) -> list[Result]:
    """Reads what the finished `runs` left below `workdir`."""
    return [_read(workdir / run.name, run) for run in runs]


def _read(workdir: epath.Path, run: Run) -> Result:
    evaluations = evaluate.read_own(workdir)
    history, config = log.read(workdir), configs.read(workdir / configs.FILE)
    seconds = [
        line["step"] / line["epoch"] * config.batch_size / line["images_per_second"]
        for _, line in sorted(history["train"].items())
    ]
    split = splitting.foremost(evaluations)
    path = evaluate.shifts_file(workdir, split)
    return Result(run, split, evaluations, json.loads(path.read_text()) if path.exists() else {}, history, seconds)


Groups = dict[tuple[str, str], list[Result]]


def grouped(results: Sequence[Result]) -> Groups:
    """(config, recipe) -> the results of its folds and seeds, in order of first appearance."""
    groups: Groups = {}
    for result in results:
        groups.setdefault((result.run.config, result.run.recipe), []).append(result)
    return groups


class Spread(NamedTuple):
    """Of a figure over runs: the mean, the standard deviation (None of one run), and how many runs have it."""

    mean: float
    deviation: float | None
    count: int


def spread(values: Sequence[float | None]) -> Spread | None:
    """None where no run has the figure."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    return Spread(float(np.mean(known)), float(np.std(known, ddof=1)) if len(known) > 1 else None, len(known))


def summaries(group: Sequence[Result]) -> dict[str, Spread | None]:
    """Metrics on the foremost split, and the time that training takes, in seconds."""
    found = {name: spread([result.told.get(name) for result in group]) for name in (*TOLD, *CALIBRATED)}
    return found | {
        "training_s": spread([sum(result.seconds) for result in group]),
        "reached_s": spread([seconds_to(result, REACHED) for result in group]),
    }


def seconds_to(result: Result, auc: float) -> float | None:
    """Seconds of training steps up to the end of the first epoch with a val AUC of at least `auc`; None if none."""
    passed = itertools.accumulate(result.seconds)
    for (_, line), seconds in zip(sorted(result.history["val"].items()), passed, strict=True):
        if line["auc"] >= auc:
            return seconds
    return None


def under_shifts(group: Sequence[Result]) -> dict[str, Spread | None]:
    """Shift -> balanced accuracy under it; `clean` without, `mean` over shifts, `drop` from clean to that."""
    measured = [
        {name: told["balanced_accuracy"] for name, told in result.shifts.items()} for result in group if result.shifts
    ]
    if not measured:
        return {}
    names = [shifts.CLEAN, *shifts.SHIFTS]
    means = [float(np.mean([values[name] for name in shifts.SHIFTS])) for values in measured]
    drops = [values[shifts.CLEAN] - mean for values, mean in zip(measured, means, strict=True)]
    return {name: spread([values[name] for values in measured]) for name in names} | {
        "mean": spread(means),
        "drop": spread(drops),
    }


class Compared(NamedTuple):
    """Two groups over the folds and seeds that both have; differences are the first's minus the second's.

    `decisions` are of the images held out in the folds under the lowest common seed, each once.
    """

    first: tuple[str, str]
    second: tuple[str, str]
    auc: paired.Difference
    balanced_accuracy: paired.Difference
    decisions: paired.Discordant


def compared(groups: Groups) -> list[Compared]:
    """Every two groups of one recipe or of one model, that share runs on the same images."""
    found = []
    for first, second in itertools.combinations(groups, 2):
        if first[0] != second[0] and first[1] != second[1]:
            continue
        own, others = ({(r.run.fold, r.run.seed): r for r in groups[name]} for name in (first, second))
        pairs = [(own[key], others[key]) for key in own if key in others and _same_images(own[key], others[key])]
        if pairs:
            found.append(_compare(first, second, pairs))
    return found


def _same_images(one: Result, other: Result) -> bool:
    if one.split != other.split:
        return False
    labels = (result.told["scores"][0] for result in (one, other))
    return np.array_equal(one.told["ids"], other.told["ids"]) and np.array_equal(*labels)


def _compare(first, second, pairs) -> Compared:
    share = float(np.mean([one.told["n"] / one.evaluations["train"]["n"] for one, _ in pairs]))
    differences = (
        paired.corrected_t([one.told[name] - other.told[name] for one, other in pairs], share)
        for name in ("auc", "balanced_accuracy")
    )
    seed = min(one.run.seed for one, _ in pairs)
    right = [
        np.concatenate([_right(result) for result in side])
        for side in zip(*(pair for pair in pairs if pair[0].run.seed == seed), strict=True)
    ]
    return Compared(first, second, *differences, paired.mcnemar(*right))


def _right(result: Result) -> np.ndarray:
    labels, probabilities = result.told["scores"]
    return (probabilities >= result.told["threshold"]) == labels


def ensemble(members: Sequence[dict[str, dict]], split: str) -> tuple[np.ndarray, np.ndarray, calibration.Calibration]:
    """The mean of the members' log-odds on a split, each by its own temperature, calibrated anew on val.

    Their offsets are left out: the ensemble's own takes their place.

    Args:
      members: the `evaluations` of each, over the same images of val and of `split`.
      split: whose images are scored.

    Returns:
      The labels (n,), the mean log-odds (n,), and the calibration of these.
    """
    labels, logits = _mean_log_odds(members, split)
    return labels, logits, calibration.fit(*_mean_log_odds(members, "val"))


def _mean_log_odds(members, split) -> tuple[np.ndarray, np.ndarray]:
    odds = [metrics.log_odds(m[split]["scores"][1]) - m[split].get("offset", 0.0) for m in members]
    return members[0][split]["scores"][0], np.mean(odds, axis=0)


def ensembles(results: Sequence[Result]) -> dict[str, dict[str, Spread | None]]:
    """Name -> metrics on the foremost split: of each model's seeds, and of all models and seeds, of one recipe.

    An ensemble is of the runs of one fold; its metrics are spread over folds.
    """
    found: dict[str, list[dict]] = {}
    for recipe, fold in dict.fromkeys((r.run.recipe, r.run.fold) for r in results):
        members = [r for r in results if (r.run.recipe, r.run.fold) == (recipe, fold)]
        models = dict.fromkeys(r.run.config for r in members)
        sets = {name: [r for r in members if r.run.config == name] for name in models}
        if len(models) > 1:
            sets[" + ".join(models)] = members
        for name, chosen in sets.items():
            if len(chosen) > 1 and all(_same_images(chosen[0], other) for other in chosen):
                labels, odds, fitted = ensemble([r.evaluations for r in chosen], chosen[0].split)
                title = f"{name} {recipe}, {len(chosen)} runs"
                found.setdefault(title, []).append(evaluate.summarize(labels, odds, fitted))
    return {
        title: {name: spread([told[name] for told in every]) for name in (*TOLD, *CALIBRATED)}
        for title, every in found.items()
    }


def confusion(group: Sequence[Result]) -> dict[str, int]:
    """Of the foremost split, summed over the folds of the lowest seed, so that every image counts once."""
    seed = min(result.run.seed for result in group)
    counts = [result.told["confusion"] for result in group if result.run.seed == seed]
    return {key: sum(count[key] for count in counts) for key in ("tp", "fp", "fn", "tn")}
