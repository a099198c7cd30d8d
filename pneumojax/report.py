"""The report of a run: one HTML page without outside resources."""

import json

import numpy as np
from etils import epath

from pneumojax import cases, evaluate, faithfulness, figures, log, machine, page, scores, workdirs
from pneumojax.data import audit, audit_page
from pneumojax.data import splits as splitting
from pneumojax.data.records import CLASSES
from pneumojax.files import write_whole

FILE = "report/index.html"
SAMPLES_PER_CLASS = 6
SAMPLE_SIDE = 192

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
    own, evaluations = evaluate.read_own(workdir), evaluate.read(workdir)
    content = render(
        config=_read_json(workdir / "config.json"),
        history=log.read(workdir),
        own={name: own[name] for name in sorted(own, key=splitting.importance)},
        other={name: told for name, told in evaluations.items() if name not in own},
        layer_table=layer_table,
        samples=samples,
        errors=errors,
        checks=_read_json(workdir / faithfulness.FILE),
        composition=workdirs.composition(workdir),
        remarks=workdirs.remarks(workdir),
        audited=_read_json(workdir / audit_page.FILE),
        notice=notice,
    )
    path = workdir / FILE
    write_whole(path, content)
    return path


def _read_json(path) -> dict:
    return json.loads(path.read_text()) if path.exists() else {}


def render(
    *, config, history, own, other, layer_table, samples, errors, checks, composition, remarks, audited, notice
) -> str:
    """Returns the whole page as a string; equal arguments give equal pages."""
    parts = [
        _header(config, history),
        page.notice(notice),
    ]
    if own:
        parts.append(scores.verdict(*next(iter(own.items()))))
        parts.append(page.section("Every split", scores.table(own, OWN_NOTE)))
    else:
        parts.append(page.section("Verdict", "<p>This run has not been evaluated yet.</p>"))
    if other:
        parts.append(page.section("Other data", scores.table(other, OTHER_NOTE)))
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
        measured = checks.get("methods", {}).get(cases.METHOD)
        failing = faithfulness.verdict(measured) if measured else ""
        parts.append(page.section("Worst errors", cases.html(errors, failing)))
    if checks:
        parts.append(page.section("Checks of explanation methods", _checks(checks)))
    if data := _data(composition, remarks, audited) + _samples(samples):
        parts.append(page.section("Data", data))
    parts += [
        page.section("Layers", page.scroll(f"<pre>{page.text(layer_table)}</pre>", "Layers of the model")),
        page.section(
            "Configuration and machine",
            _details("Configuration", config),
            _details("Machine and versions that wrote this report", machine.describe()),
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


def _curves(history, own) -> list[str]:
    split = next((name for name in ("val", "train") if own.get(name, {}).get("majority_accuracy")), None)
    majority = ()
    if split:
        majority = (own[split]["majority_accuracy"], f"always {scores.majority_class(own[split])} ({split})")
    return [
        figures.curve(history, "accuracy", "Accuracy", majority),
        figures.curve(history, "bce", "Cross-entropy", ()),
        figures.curve(history, "auc", "AUC", (0.5, "chance")),
    ]


def _roc_figure(split, found) -> str:
    labels, probabilities = found["scores"]
    described = f"AUC {scores.plain(found, 'auc')}."
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
        f"ECE {scores.plain(found, 'ece_uncalibrated')} before the temperature {scores.plain(found, 'temperature')} and"
        f" the offset {scores.plain(found, 'offset')}, {scores.plain(found, 'ece')} after."
    )
    return figures.reliability(split, labels, probabilities, described) if len(labels) else ""


def _precision(split, found) -> str:
    labels, probabilities = found["scores"]
    if len(np.unique(labels)) < 2:
        return ""
    described = (
        f"Average precision {scores.plain(found, 'average_precision')}; pneumonia is {np.mean(labels):.3f} of the"
        " images."
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
    thresholds = {"": f"stored threshold {scores.value(found, 'threshold')}", "_at_0.5": "threshold 0.5"}
    captions = {f"confusion{suffix}": f"<b>{page.text(split)}</b>, {at}" for suffix, at in thresholds.items()}
    tables = (page.confusion(found[key], text) for key, text in captions.items() if key in found)
    return f"<div>{''.join(tables)}</div>"


def _data(composition, remarks, audited) -> str:
    parts = [page.composition(composition)] if composition else []
    if remarks:
        parts.append(f"<ul>{''.join(f'<li>{page.text(remark)}</li>' for remark in remarks)}</ul>")
    if audited:
        parts.append(f'<p>{page.text(audit.headline(audited))} <a href="../{audit_page.PAGE}">The whole audit</a></p>')
    return "\n".join(parts)


def _samples(samples) -> str:
    groups: dict[str, dict[int, list]] = {}
    for split, label, name, image in samples:
        shown = groups.setdefault(split, {}).setdefault(int(label), [])
        if len(shown) < SAMPLES_PER_CLASS:
            shown.append(_sample(name, image, f"{split}, {CLASSES[int(label)]}"))
    parts = []
    for split, classes in groups.items():
        parts.append(f"<h3>{page.text(split)}</h3>")
        for label, shown in sorted(classes.items()):
            parts.append(f'<p class="class">{CLASSES[label]}</p>\n<div class="strip">{"".join(shown)}</div>')
    return "\n".join(parts)


def _sample(name, image, alt) -> str:
    shown = page.picture(image, SAMPLE_SIDE, alt)
    return f'<figure>{shown}<figcaption title="{page.text(name)}">{page.text(name)}</figcaption></figure>'


def _details(title, tree) -> str:
    listing = f"<pre>{page.text(json.dumps(tree, indent=2, ensure_ascii=False))}</pre>"
    return f"<details><summary>{title}</summary>{page.scroll(listing, title)}</details>"
