"""The report of a run: one HTML page without outside resources."""

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from pneumojax.data import splits as splitting
from pneumojax.data.audit import findings
from pneumojax.data.sources import sites
from pneumojax.evaluation import groups, operating_points, results
from pneumojax.evaluation.results import Evaluation
from pneumojax.inference import attribution_places, faithfulness, worst_errors
from pneumojax.inference.report_pictures import SAMPLES_PER_CLASS, Sample
from pneumojax.reports import audit_report, figures, html_page, score_tables, site_tables
from pneumojax.reports.score_tables import score
from pneumojax.runtime import host, run_log
from pneumojax.runtime import workdir as workdirs
from pneumojax.runtime.files import read_json, write_whole

SLIDER_STEPS = 500  # from threshold 0 to 1

Evaluations = Mapping[str, Evaluation]  # by split


class Slider(NamedTuple):
    """A split's confusion matrix at every threshold from 0 to 1, in `SLIDER_STEPS` steps."""

    split: str
    start: int  # the step nearest to the balanced threshold
    positives: dict[str, list[int]]  # "fp" and "tp" at each step; at threshold 0 they are all images of a class

    @property
    def confusion(self) -> dict[str, int]:
        """The counts at `start`."""
        fp, tp = (self.positives[key][self.start] for key in ("fp", "tp"))
        return {"tp": tp, "fp": fp, "fn": self.positives["tp"][0] - tp, "tn": self.positives["fp"][0] - fp}


def write(
    workdir: epath.Path,
    *,
    layer_table: str,
    samples: Iterable[Sample],
    errors: Sequence[worst_errors.WorstError] = (),
    composition: Mapping[str, Mapping[str, Any]] | None = None,
    remarks: Sequence[str] = (),
    notice: str | None = None,
) -> epath.Path:
    """Write `workdir/report/index.html`; a section whose files the workdir lacks is left out.

    The first samples of each split and class are shown; `composition` has what `splits.composition` returns of each
    split, `remarks` what the reader must know about images, labels and splits, and `notice` what every reader must see,
    such as that the images are synthetic. The path of the page is returned.
    """
    own = results.read_own(workdir, partial=True)
    own = {name: own[name] for name in sorted(own, key=splitting.importance)}
    other = {name: evaluation for name, evaluation in results.read(workdir, partial=True).items() if name not in own}
    config, audit = _read_json(workdir / workdirs.CONFIG), audit_report.read(workdir)
    details = {"Configuration": config, "Machine and versions that wrote this report": host.describe()}
    page = html_page.render(
        "run_report.html.jinja",
        notice=notice,
        level=figures.LEVEL,
        own=list(own),
        own_rows=score_tables.rows(own),
        other=list(other),
        other_verdicts=[score_tables.verdict(*item) for item in other.items()],
        other_rows=score_tables.rows(other),
        group_tables={name: groups.rows(one["groups"]) for name, one in (own | other).items() if "groups" in one},
        group_header=groups.HEADER,
        smallest_class=groups.MIN_OF_CLASS,
        other_sites={name: one["site"] for name, one in other.items() if "site" in one},
        set_up=site_tables.rows(workdir),
        set_up_header=site_tables.HEADER,
        operating_points=_operating_points(own, workdir),
        places={stem: attribution_places.rows(found) for stem, found in attribution_places.read(workdir).items()},
        places_header=attribution_places.HEADER,
        errors=errors,
        composition=composition,
        remarks=remarks,
        audit=findings.headline(audit) if audit else "",
        audit_page=f"../{workdirs.AUDIT_REPORT}",
        samples=_samples(samples),
        layer_table=layer_table,
        details={name: json.dumps(tree, indent=2, ensure_ascii=False) for name, tree in details.items()},
        **_header(config, run_log.read(workdir)),
        **_figures(own, run_log.read(workdir)),
        **_explanations(_read_json(workdir / workdirs.EXPLANATION_CHECKS)),
    )
    write_whole(workdir / workdirs.REPORT, page)
    return workdir / workdirs.REPORT


def _operating_points(own: Evaluations, workdir: epath.Path) -> dict[str, list[tuple[str, str, str]]]:
    """Return the rows of the groups, and of val as it is, if operating points were chosen by the worst group."""
    epochs = {evaluation.get("epoch") for evaluation in own.values()}
    epoch = epochs.pop() if len(epochs) == 1 else None
    chosen = None if epoch is None else operating_points.read(workdir, epoch)
    if chosen is None:
        return {}
    home = [(name.replace("_", " "), *pair) for name, pair in chosen.home.items()]
    return {
        part: [(name, f"{before:.3f}", f"{after:.3f}") for name, before, after in rows]
        for part, rows in (("groups", chosen.groups), ("home", home))
    }


def slider(split: str, evaluation: Evaluation) -> Slider:
    """Count the positive predictions in each class at every step of the slider."""
    labels, probabilities = evaluation["scores"]
    thresholds = np.arange(SLIDER_STEPS + 1) / SLIDER_STEPS - 1e-12
    positives = {}
    for key, label in (("fp", 0), ("tp", 1)):
        members = np.sort(probabilities[labels == label])
        positives[key] = (len(members) - np.searchsorted(members, thresholds)).tolist()
    return Slider(split, round(evaluation["threshold"] * SLIDER_STEPS), positives)


def _read_json(path: epath.Path) -> dict[str, Any]:
    """Read a JSON file; empty if there is none, or it is damaged."""
    with suppress(OSError, TypeError, ValueError):
        return dict(read_json(path))
    return {}


def _header(config: Mapping[str, Any], history: figures.History) -> dict[str, str]:
    source = str(config.get("data", {}).get("source", "unknown data"))
    name, recipe = config.get("name", "model").upper(), config.get("recipe", "default")
    done = max((epoch for epochs in history.values() for epoch in epochs), default=0)
    return {
        "title": f"{name} ({recipe}) on {sites.title_of(source)}",
        "facts": f"Pneumonia or normal on chest radiographs · source {source} · seed {config.get('seed', 'unknown')} · "
        f"{done} of {config.get('epochs', 'unknown')} epochs",
    }


def _figures(own: Evaluations, history: figures.History) -> dict[str, Any]:
    """Return what the page shows of the run's own splits and its training, except the table of scores."""
    foremost = next(iter(own.items()), None)
    scored = {name: evaluation for name, evaluation in own.items() if len(evaluation["scores"][0])}
    both = {name: evaluation for name, evaluation in scored.items() if len(np.unique(evaluation["scores"][0])) == 2}
    return {
        "verdict": score_tables.verdict(*foremost) if foremost else None,
        "training": _training(history, own),
        "roc": [_roc(*item) for item in own.items()],
        "precision_recall": [_precision_recall(*item) for item in both.items()],
        "reliability": [_reliability(*item) for item in scored.items()],
        "confusions": [_confusions(*item) for item in own.items()],
        "slider": slider(*foremost) if foremost and foremost[0] in scored else None,
    }


def _training(history: figures.History, own: Evaluations) -> list[figures.Drawing]:
    majority = None
    if split := next((name for name in ("val", "train") if own.get(name, {}).get("majority_accuracy")), None):
        majority = (own[split]["majority_accuracy"], f"always {score_tables.majority_class(own[split])} ({split})")
    curves = [
        figures.metric_by_epoch(history, "accuracy", "Accuracy", majority),
        figures.metric_by_epoch(history, "bce", "Cross-entropy", None),
        figures.metric_by_epoch(history, "auc", "AUC", (0.5, "random")),
    ]
    return [curve for curve in curves if curve]


def _roc(split: str, evaluation: Evaluation) -> figures.Drawing:
    labels, probabilities = evaluation["scores"]
    caption = f"AUC {score(evaluation, 'auc')}."
    if len(np.unique(labels)) < 2:
        reason = "images of one class only" if len(labels) else "no probabilities recorded"
        return figures.Drawing(split, f"{caption} No curve: {reason}.")
    points = [
        figures.OperatingPoint(evaluation[f"sensitivity{suffix}"], evaluation[f"specificity{suffix}"], name)
        for suffix, name in (("", "balanced threshold"), ("_at_0.5", "threshold 0.5"))
        if None not in (evaluation.get(f"sensitivity{suffix}"), evaluation.get(f"specificity{suffix}"))
    ]
    for sensitivity, specificity, name in points:
        caption += f" {name.capitalize()}: sensitivity {sensitivity:.3f}, specificity {specificity:.3f}."
    return figures.roc(split, labels, probabilities, points, caption)


def _precision_recall(split: str, evaluation: Evaluation) -> figures.Drawing:
    labels, probabilities = evaluation["scores"]
    caption = f"Average precision {score(evaluation, 'average_precision')}; prevalence {np.mean(labels):.3f}."
    return figures.precision_recall(split, labels, probabilities, caption)


def _reliability(split: str, evaluation: Evaluation) -> figures.Drawing:
    caption = (
        f"ECE {score(evaluation, 'ece_uncalibrated')} before calibration, {score(evaluation, 'ece')} after"
        f" (temperature {score(evaluation, 'temperature')}, offset {score(evaluation, 'offset')})."
    )
    return figures.reliability(split, *evaluation["scores"], caption=caption)


def _confusions(split: str, evaluation: Evaluation) -> list[tuple[dict[str, int], str, str]]:
    """Return (counts, split, caption) at the balanced threshold and at 0.5."""
    captions = {
        "confusion": f"balanced threshold {score(evaluation, 'threshold').text}",
        "confusion_at_0.5": "threshold 0.5",
    }
    return [(evaluation[key], split, caption) for key, caption in captions.items() if key in evaluation]


def _explanations(checks: Mapping[str, Any]) -> dict[str, Any]:
    """Return the checks of explanation methods, and why the method that explains the worst errors fails them."""
    try:
        table = faithfulness.table(checks) if checks else None
        checked = checks.get("methods", {}).get(worst_errors.METHOD)
        failure = faithfulness.verdict(checked) if checked else ""
        described = {name: checks[name] for name in ("split", "images", "epoch") if checks}
    except (AttributeError, KeyError, TypeError, ValueError):  # damaged
        return _explanations({})
    return {
        "method": worst_errors.METHOD.replace("-", " "),
        "failure": failure,
        "checks": described,
        "check_table": table,
    }


def _samples(samples: Iterable[Sample]) -> dict[str, dict[int, list[tuple[str, np.ndarray]]]]:
    """Group the first samples: split -> label -> (id, image)."""
    groups: dict[str, dict[int, list[tuple[str, np.ndarray]]]] = {}
    for split, label, id, image in samples:
        members = groups.setdefault(split, {}).setdefault(int(label), [])
        if len(members) < SAMPLES_PER_CLASS:
            members.append((id, image))
    return {split: dict(sorted(classes.items())) for split, classes in groups.items()}
