"""What a report says of an evaluation's figures: its verdict, and the table of every split."""

import math

from pneumojax import figures, page
from pneumojax.data.records import CLASSES

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


def _number(value) -> float | None:
    known = isinstance(value, int | float) and math.isfinite(value)
    return value if known else None


def _interval(found, key) -> tuple[float, float] | None:
    pair = found.get(f"{key}_ci") or ()
    return tuple(pair) if len(pair) == 2 and None not in map(_number, pair) else None


def _reason(found, key) -> str:
    return found.get(f"{key}_reason") or "no reason recorded"


def plain(found, key) -> str:
    """The value with its interval, or why there is none, as it stands in a sentence (not escaped)."""
    if _number(found.get(key)) is None:
        return f"undefined ({_reason(found, key)})"
    pair = _interval(found, key)
    return f"{found[key]:.3f}" + (f" ({figures.LEVEL} % interval {pair[0]:.3f}–{pair[1]:.3f})" if pair else "")


def value(found, key) -> str:
    """The value with its interval, or why there is none, as it stands in a table (HTML)."""
    if key not in found:
        return "–"
    if _number(found[key]) is None:
        return f'undefined<span class="reason">{page.text(_reason(found, key))}</span>'
    pair = _interval(found, key)
    value = f"{found[key]:,}" if key in COUNTS else f"{found[key]:.3f}"
    return value + (f"<small>{pair[0]:.3f}–{pair[1]:.3f}</small>" if pair else "")


def majority_class(found) -> str:
    return CLASSES[2 * found.get("positives", 0) >= found.get("n", 0)]


def verdict(split, found) -> str:
    pair, majority = _interval(found, "accuracy"), _number(found.get("majority_accuracy"))
    better = pair is not None and majority is not None and pair[0] > majority
    answer = f"always answering {majority_class(found)}"
    claim = f"{'Better' if better else 'Not shown to be better'} than {answer}"
    relation = f"{'lies' if better else 'does not lie'} above the {plain(found, 'majority_accuracy')}"
    sentence = f"On the {found.get('n', 0):,} {split} images the accuracy's {figures.LEVEL} % interval "
    if pair:
        sentence += f"{pair[0]:.3f}–{pair[1]:.3f} {relation} that {answer} scores."
    else:
        sentence += f"is undefined: {found.get('accuracy_ci_reason') or _reason(found, 'accuracy')}."
    tiles = {
        "auc": "AUC",
        "balanced_accuracy": "Balanced accuracy",
        "accuracy": "Accuracy",
        "majority_accuracy": f"Always “{majority_class(found)}”",
    }
    shown = "".join(f"<div><dt>{name}</dt><dd>{value(found, k)}</dd></div>" for k, name in tiles.items())
    return (
        f'<section class="verdict{" better" if better else ""}">\n<h2>Verdict on {page.text(split)}</h2>\n'
        f'<p><strong>{claim}.</strong> {page.text(sentence)}</p>\n<dl class="tiles">{shown}</dl>\n</section>'
    )


def table(evaluations, note) -> str:
    head = "".join(f'<th scope="col">{page.text(name)}</th>' for name in evaluations)
    body = []
    for title, rows in ROW_GROUPS.items():
        span = len(evaluations) + 1
        body.append(f'<tr class="group"><th scope="rowgroup" colspan="{span}"><span>{title}</span></th></tr>')
        for key, name in rows.items():
            cells = "".join(f"<td>{value(found, key)}</td>" for found in evaluations.values())
            mark = ' class="baseline"' if key in MAJORITY else ""
            body.append(f'<tr{mark}><th scope="row">{name}</th>{cells}</tr>')
    table = (
        f'<table class="metrics"><thead><tr><th scope="col">Metric</th>{head}</tr></thead>\n'
        "<tbody>" + "\n".join(body) + "</tbody></table>"
    )
    return f'<p class="note">{note}</p>\n' + page.scroll(table, "Metrics by split")
