"""The report of a run: one HTML page without outside resources."""

import json
import math
import platform
from importlib import metadata

import numpy as np
from etils import epath

from pneumojax import cases, evaluate, faithfulness, figures, log, page
from pneumojax.data import splits as splitting
from pneumojax.files import write_whole

FILE = "report/index.html"
SAMPLES_PER_CLASS = 6
SAMPLE_SIDE = 192

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
    "At the stored threshold": {"threshold": "Threshold"} | DECISION | MAJORITY,
    "At 95 % sensitivity on val": {"threshold_sens95": "Threshold"}
    | {f"{key}_at_sens95": name for key, name in DECISION.items()},
    "At threshold 0.5": {f"{key}_at_0.5": name for key, name in DECISION.items()} | MAJORITY,
    "Probabilities": {
        "bce": "Cross-entropy of raw logits",
        "temperature": "Temperature",
        "offset": "Offset (log-odds)",
        "prevalence": "Prevalence they hold for",
        "brier_uncalibrated": "Brier score, uncalibrated",
        "brier": "Brier score",
        "ece_uncalibrated": "Calibration error (ECE), uncalibrated",
        "ece": "Calibration error (ECE)",
    },
}

OWN_NOTE = (
    f"The small figures are {figures.LEVEL} % intervals. The checkpoint, temperature and offset, and both stored "
    "thresholds (of best balanced accuracy, and of 95 % sensitivity) are chosen on val, so val's own figures are a "
    "little too good. The majority baseline is the accuracy of always answering the split's larger class."
)
OTHER_NOTE = "Images of other sources than the run's own, at the threshold stored with the run."
CHECKS_NOTE = (
    "Untrained: rank correlation with the maps of an untrained network, which should be small. Deletion and insertion: "
    "areas under the chance of what is called, as what a map marks is blurred (less than the random map's is good) or "
    "brought back (should be more). Hits: how often a map is largest within the lesion, where that is known."
)
LIMITS = (
    "Not a medical device. These figures describe the images named above and nothing else: another hospital, "
    "scanner, age group or share of pneumonia gives others. Public labels are often read from reports by a "
    "program and hold errors. Do not use the model for diagnosis, triage or the care of a patient."
)


def write(workdir, *, layer_table: str, samples, errors=(), notice: str | None = None) -> epath.Path:
    """Writes `workdir/report/index.html` from what the run has left in `workdir`, and returns its path.

    Args:
      workdir: the run's folder, local or `gs://`. What it lacks (no evaluation yet, say) the page leaves out.
      layer_table: the model's layers as preformatted text.
      samples: iterable of `(split, label, id, image)`, image `(height, width)` uint8.
      errors: of the foremost split, see `cases.build`.
      notice: one line that every reader must see, e.g. that the images are synthetic.
    """
    workdir = epath.Path(workdir)
    evaluations = evaluate.read(workdir)
    by_importance = sorted(evaluations, key=splitting.importance)
    content = render(
        config=_read_json(workdir / "config.json"),
        history=log.read(workdir),
        own={name: evaluations[name] for name in by_importance if "-" not in name},
        other={name: evaluations[name] for name in by_importance if "-" in name},
        layer_table=layer_table,
        samples=samples,
        errors=errors,
        checks=_read_json(workdir / faithfulness.FILE),
        notice=notice,
    )
    path = workdir / FILE
    write_whole(path, content)
    return path


def _read_json(path) -> dict:
    return json.loads(path.read_text()) if path.exists() else {}


def render(*, config, history, own, other, layer_table, samples, errors, checks, notice) -> str:
    """Returns the whole page as a string; equal arguments give equal pages."""
    parts = [
        _header(config, history),
        page.notice(notice),
    ]
    if own:
        parts.append(_verdict(*next(iter(own.items()))))
        parts.append(page.section("Every split", _metrics_table(own, OWN_NOTE)))
    else:
        parts.append(page.section("Verdict", "<p>This run has not been evaluated yet.</p>"))
    if other:
        parts.append(page.section("Other data", _metrics_table(other, OTHER_NOTE)))
    if history:
        parts.append(page.section("Training", page.panels(_curves(history, own))))
    if own:
        parts.append(page.section("ROC curves", page.panels(_roc_figure(*item) for item in own.items())))
        parts.append(page.section("Precision and recall", page.panels(_precision(*item) for item in own.items())))
        parts.append(page.section("Calibration", page.panels(_reliability_figure(*item) for item in own.items())))
        parts.append(page.section("Confusion matrices", page.panels(_confusions(*item) for item in own.items())))
        if at_any := _any_threshold(*next(iter(own.items()))):
            parts.append(page.section("At any threshold", at_any))
    if errors:
        measured = checks.get("methods", {}).get("grad-cam")
        failing = faithfulness.verdict(measured) if measured else ""
        parts.append(page.section("Worst errors", cases.html(errors, "Grad-CAM", failing)))
    if checks:
        parts.append(page.section("Checks of explanation methods", _checks(checks)))
    if grids := _samples(samples):
        parts.append(page.section("Samples of the data", grids))
    parts += [
        page.section("Layers", page.scroll(f"<pre>{page.text(layer_table)}</pre>", "Layers of the model")),
        page.section(
            "Configuration and versions",
            _details("Configuration", config),
            _details("Versions that wrote this report", _versions()),
        ),
        page.section("Limits of use", f"<p>{LIMITS}</p>"),
    ]
    return page.document(_title(config), parts, script="report.js")


def _source(config) -> str:
    return str(config.get("data", {}).get("source", "unknown data"))


def _title(config) -> str:
    source = _source(config).rstrip("/").rpartition("/")[2]
    return f"{config.get('name', 'model').upper()} ({config.get('recipe', 'default')}) on {source}"


def _header(config, history) -> str:
    done = max((epoch for epochs in history.values() for epoch in epochs), default=0)
    facts = (
        f"Pneumonia or normal on chest radiographs · source {_source(config)} · "
        f"seed {config.get('seed', 'unknown')} · {done} of {config.get('epochs', 'unknown')} epochs"
    )
    return f"<header>\n<h1>{page.text(_title(config))}</h1>\n<p>{page.text(facts)}</p>\n</header>"


def _number(value) -> float | None:
    known = isinstance(value, int | float) and math.isfinite(value)
    return value if known else None


def _interval(found, key) -> tuple[float, float] | None:
    pair = found.get(f"{key}_ci") or ()
    return tuple(pair) if len(pair) == 2 and None not in map(_number, pair) else None


def _reason(found, key) -> str:
    return found.get(f"{key}_reason") or "no reason recorded"


def _plain(found, key) -> str:
    """The value with its interval, or why there is none, as it stands in a sentence (not escaped)."""
    if _number(found.get(key)) is None:
        return f"undefined ({_reason(found, key)})"
    pair = _interval(found, key)
    return f"{found[key]:.3f}" + (f" ({figures.LEVEL} % interval {pair[0]:.3f}–{pair[1]:.3f})" if pair else "")


def _value(found, key) -> str:
    """The value with its interval, or why there is none, as it stands in a table (HTML)."""
    if key not in found:
        return "–"
    if _number(found[key]) is None:
        return f'undefined<span class="reason">{page.text(_reason(found, key))}</span>'
    pair = _interval(found, key)
    value = f"{found[key]:,}" if key in COUNTS else f"{found[key]:.3f}"
    return value + (f"<small>{pair[0]:.3f}–{pair[1]:.3f}</small>" if pair else "")


def _majority_class(found) -> str:
    return page.CLASSES[2 * found.get("positives", 0) >= found.get("n", 0)]


def _verdict(split, found) -> str:
    pair, majority = _interval(found, "accuracy"), _number(found.get("majority_accuracy"))
    better = pair is not None and majority is not None and pair[0] > majority
    answer = f"always answering {_majority_class(found)}"
    claim = f"{'Better' if better else 'Not shown to be better'} than {answer}"
    relation = f"{'lies' if better else 'does not lie'} above the {_plain(found, 'majority_accuracy')}"
    sentence = f"On the {found.get('n', 0):,} {split} images the accuracy's {figures.LEVEL} % interval "
    if pair:
        sentence += f"{pair[0]:.3f}–{pair[1]:.3f} {relation} that {answer} scores."
    else:
        sentence += f"is undefined: {found.get('accuracy_ci_reason') or _reason(found, 'accuracy')}."
    tiles = {
        "auc": "AUC",
        "balanced_accuracy": "Balanced accuracy",
        "accuracy": "Accuracy",
        "majority_accuracy": f"Always “{_majority_class(found)}”",
    }
    shown = "".join(f"<div><dt>{name}</dt><dd>{_value(found, k)}</dd></div>" for k, name in tiles.items())
    return (
        f'<section class="verdict{" better" if better else ""}">\n<h2>Verdict on {page.text(split)}</h2>\n'
        f'<p><strong>{claim}.</strong> {page.text(sentence)}</p>\n<dl class="tiles">{shown}</dl>\n</section>'
    )


def _metrics_table(evaluations, note) -> str:
    head = "".join(f'<th scope="col">{page.text(name)}</th>' for name in evaluations)
    body = []
    for title, rows in ROW_GROUPS.items():
        span = len(evaluations) + 1
        body.append(f'<tr class="group"><th scope="rowgroup" colspan="{span}"><span>{title}</span></th></tr>')
        for key, name in rows.items():
            cells = "".join(f"<td>{_value(found, key)}</td>" for found in evaluations.values())
            mark = ' class="baseline"' if key in MAJORITY else ""
            body.append(f'<tr{mark}><th scope="row">{name}</th>{cells}</tr>')
    table = (
        f'<table class="metrics"><thead><tr><th scope="col">Metric</th>{head}</tr></thead>\n'
        "<tbody>" + "\n".join(body) + "</tbody></table>"
    )
    return f'<p class="note">{note}</p>\n' + page.scroll(table, "Metrics by split")


def _curves(history, own) -> list[str]:
    split = next((name for name in ("val", "train") if own.get(name, {}).get("majority_accuracy")), None)
    majority = ()
    if split:
        majority = (own[split]["majority_accuracy"], f"always {_majority_class(own[split])} ({split})")
    return [
        figures.curve(history, "accuracy", "Accuracy", majority),
        figures.curve(history, "bce", "Cross-entropy", ()),
        figures.curve(history, "auc", "AUC", (0.5, "chance")),
    ]


def _roc_figure(split, found) -> str:
    labels, probabilities = found["scores"]
    described = f"AUC {_plain(found, 'auc')}."
    if len(np.unique(labels)) < 2:
        missing = "images of one class only" if len(labels) else "no probabilities recorded"
        described += f" No curve: {missing}."
        return f"<figure><figcaption><b>{page.text(split)}</b>: {page.text(described)}</figcaption></figure>"
    points = [
        (found[f"sensitivity{suffix}"], found[f"specificity{suffix}"], meaning)
        for suffix, meaning in (("", "stored threshold"), ("_at_0.5", "threshold 0.5"))
        if f"sensitivity{suffix}" in found
    ]
    for sensitivity, specificity, meaning in points:
        described += f" {meaning.capitalize()}: sensitivity {sensitivity:.3f}, specificity {specificity:.3f}."
    return figures.roc_curve(split, labels, probabilities, points, described)


def _reliability_figure(split, found) -> str:
    labels, probabilities = found["scores"]
    described = (
        f"ECE {_plain(found, 'ece_uncalibrated')} before the temperature {_plain(found, 'temperature')} and the offset"
        f" {_plain(found, 'offset')}, {_plain(found, 'ece')} after."
    )
    return figures.reliability(split, labels, probabilities, described) if len(labels) else ""


def _precision(split, found) -> str:
    labels, probabilities = found["scores"]
    if len(np.unique(labels)) < 2:
        return ""
    described = (
        f"Average precision {_plain(found, 'average_precision')}; pneumonia is {np.mean(labels):.3f} of the images."
    )
    return figures.precision_recall(split, labels, probabilities, described)


def _any_threshold(split, found) -> str:
    labels, probabilities = found["scores"]
    return page.confusion_at_any(split, labels, probabilities, found["threshold"]) if len(labels) else ""


def _checks(checks) -> str:
    measured = f"On {checks['images']} images of {checks['split']} that epoch {checks['epoch']} calls right."
    note = f'<p class="note">{page.text(measured)} {CHECKS_NOTE}</p>\n'
    return note + page.table(*faithfulness.table(checks), "Checks")


def _confusions(split, found) -> str:
    thresholds = {"": f"stored threshold {_value(found, 'threshold')}", "_at_0.5": "threshold 0.5"}
    captions = {f"confusion{suffix}": f"<b>{page.text(split)}</b>, {at}" for suffix, at in thresholds.items()}
    tables = (page.confusion(found[key], text) for key, text in captions.items() if key in found)
    return f"<div>{''.join(tables)}</div>"


def _samples(samples) -> str:
    groups: dict[str, dict[int, list]] = {}
    for split, label, name, image in samples:
        shown = groups.setdefault(split, {}).setdefault(int(label), [])
        if len(shown) < SAMPLES_PER_CLASS:
            shown.append(_sample(name, image, f"{split}, {page.CLASSES[int(label)]}"))
    parts = []
    for split, classes in groups.items():
        parts.append(f"<h3>{page.text(split)}</h3>")
        for label, shown in sorted(classes.items()):
            parts.append(f'<p class="class">{page.CLASSES[label]}</p>\n<div class="strip">{"".join(shown)}</div>')
    return "\n".join(parts)


def _sample(name, image, alt) -> str:
    shown = page.picture(image, SAMPLE_SIDE, alt)
    return f'<figure>{shown}<figcaption title="{page.text(name)}">{page.text(name)}</figcaption></figure>'


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in ("jax", "flax"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def _details(title, tree) -> str:
    listing = f"<pre>{page.text(json.dumps(tree, indent=2, ensure_ascii=False))}</pre>"
    return f"<details><summary>{title}</summary>{page.scroll(listing, title)}</details>"
