"""An evaluation's scores as text: the verdict, and the table of every split."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from pneumojax.data.source import CLASSES
from pneumojax.evaluation import groups
from pneumojax.evaluation.results import Evaluation, against_chance, warnings
from pneumojax.reports.figures import LEVEL

COUNTS = {"n": "Images", "positives": "Pneumonia"}
DECISION = {
    "balanced_accuracy": "Balanced accuracy",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "accuracy": "Accuracy",
}
MAJORITY = {"majority_accuracy": "Majority baseline"}
ROW_GROUPS = {
    "Data": COUNTS,
    "Ranking": {"auc": "AUC", "average_precision": "Average precision"},
    "At the balanced threshold (best balanced accuracy on val)": {"threshold": "Threshold"} | DECISION | MAJORITY,
    "At the sensitive threshold (at least 95% sensitivity on val)": {"threshold_sens95": "Threshold"}
    | {f"{key}_at_sens95": name for key, name in DECISION.items()},
    "At threshold 0.5": {f"{key}_at_0.5": name for key, name in DECISION.items()} | MAJORITY,
    "Probabilities": {
        "bce": "Cross-entropy, raw logits",
        "temperature": "Temperature",
        "offset": "Offset (log-odds)",
        "prevalence": "Assumed prevalence",
        "brier_uncalibrated": "Brier score, uncalibrated",
        "brier": "Brier score",
        "ece_uncalibrated": "Calibration error (ECE), uncalibrated",
        "ece": "Calibration error (ECE)",
    },
}


class Score(NamedTuple):
    """A score as text, with its confidence interval or the reason why it is undefined; both may be empty."""

    text: str
    interval: str = ""
    reason: str = ""

    def __str__(self) -> str:
        """Format for a sentence."""
        details = self.reason or (f"{LEVEL}% CI {self.interval}" if self.interval else "")
        return self.text + (f" ({details})" if details else "")


class Verdict(NamedTuple):
    """Whether a model is better than always predicting the larger class."""

    split: str
    better: bool  # whether that is shown
    claim: str  # the same in words
    sentence: str  # the scores behind the claim
    tiles: dict[str, Score]  # by name


class Row(NamedTuple):
    """A metric's name, its score on each split, and whether it is the baseline."""

    name: str
    scores: list[Score]
    baseline: bool


def score(evaluation: Evaluation, key: str) -> Score:
    """Format a metric of an evaluation, of whatever version."""
    if key not in evaluation:
        return Score("–")
    value = _number(evaluation[key])
    if value is None:
        return Score("undefined", reason=_reason(evaluation, key))
    interval = _interval(evaluation, key)
    text = f"{value:,}" if key in COUNTS else f"{value:.3f}"
    return Score(text, f"{interval[0]:.3f}–{interval[1]:.3f}" if interval else "")


def rows(evaluations: Mapping[str, Evaluation]) -> dict[str, list[Row]]:
    """Return the rows of the table of every split, by group."""
    return {
        group: [
            Row(name, [score(evaluation, key) for evaluation in evaluations.values()], key in MAJORITY)
            for key, name in keys.items()
        ]
        for group, keys in ROW_GROUPS.items()
    }


def majority_class(evaluation: Evaluation) -> str:
    """Return the name of the larger class."""
    return CLASSES[2 * evaluation.get("positives", 0) >= evaluation.get("n", 0)]


def verdict(split: str, evaluation: Evaluation) -> Verdict:
    """Compare accuracy with that of always predicting the larger class, and AUC with chance, by their intervals."""
    interval, majority = _interval(evaluation, "accuracy"), _number(evaluation.get("majority_accuracy"))
    better = interval is not None and majority is not None and majority < interval[0]
    baseline = f"always predicting {majority_class(evaluation)}"
    images = f"the {evaluation.get('n', 0):,} {split} images"
    sentence = f"{baseline.capitalize()} scores {score(evaluation, 'majority_accuracy')}"
    if interval is None:
        reason = evaluation.get("accuracy_ci_reason") or _reason(evaluation, "accuracy")
        sentence = f"The confidence interval of the accuracy on {images} is undefined: {reason}. {sentence}."
    else:
        if majority is not None:
            place = "below" if better else "within" if majority <= interval[1] else "above"
            sentence += f", {place} that interval"
        sentence = f"Accuracy on {images} is {score(evaluation, 'accuracy')}. {sentence}."
    names = {"auc": "AUC", "balanced_accuracy": "Balanced accuracy", "accuracy": "Accuracy"} | MAJORITY
    claim = f"{'Better' if better else 'Not shown to be better'} than {baseline}"
    if chance := against_chance(evaluation):
        better, claim = False, f"{chance.capitalize()} on these images"
    sentence = " ".join([*warnings(split, evaluation), sentence, *_worst_site(evaluation)])
    return Verdict(split, better, claim, sentence, {name: score(evaluation, key) for key, name in names.items()})


def _worst_site(evaluation: Evaluation) -> list[str]:
    """Return sentences on the site with the lowest balanced accuracy, and on sites that are too small to compare."""
    found = evaluation.get("groups", ())
    small = " and ".join(groups.too_small_sites(found))
    sentences = [f"There are too few images of {small} to compare sites."] if small else []
    if site := groups.worst_site(found):
        scores = f"balanced accuracy {score(site, 'balanced_accuracy')}, AUC {score(site, 'auc')}"
        chance = ", ".join(filter(None, (scores, against_chance(site))))
        sentences.insert(0, f"The worst site is {site['group']} ({site['n']:,} images): {chance}.")
    return sentences


def _number(value: Any) -> float | None:
    return value if isinstance(value, int | float) and math.isfinite(value) else None


def _interval(evaluation: Evaluation, key: str) -> tuple[float, float] | None:
    low, high = map(_number, evaluation.get(f"{key}_ci") or (None, None))
    return None if low is None or high is None else (low, high)


def _reason(evaluation: Evaluation, key: str) -> str:
    return evaluation.get(f"{key}_reason") or "no reason recorded"
