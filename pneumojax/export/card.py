"""The model card: the README.md of an exported model, made from files alone.

Its sections are those of the Applied Model Card of the Coalition for Health AI, its front matter is Hugging Face's.
"""

import functools
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from pneumojax.evaluation import neighbours
from pneumojax.evaluation.calibration import SENSITIVITY
from pneumojax.evaluation.metrics import ECE_BINS
from pneumojax.evaluation.results import Evaluation
from pneumojax.export import card_facts, card_tables, checklists
from pneumojax.export.card_facts import CardFacts
from pneumojax.export.card_text import Markdown, code, count, figure, is_number, metric, share, text
from pneumojax.runtime.errors import printable

TEMPLATE = "card.md.jinja"
NAME = "README.md"
_METRICS = {"auc": "roc_auc", "accuracy": "accuracy", "sensitivity": "recall", "specificity": "specificity"}
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]*")  # as Hugging Face names them


def card(facts: CardFacts) -> str:
    """Write the model card.

    Every number in it is one of the files that the facts come from, or a share of two of their counts. What is missing
    is "not measured", or "not stated" where only the user can state it. Texts from files are escaped.
    """
    foremost = facts.foremost
    return _environment().get_template(TEMPLATE).render(
        facts=facts,
        front_matter=Markdown(front_matter(facts)),
        foremost=foremost,
        evaluation=facts.evaluations[foremost] if foremost else {},
        available=card_facts.available(facts),
        ensemble=len(facts.description["networks"]) > 1,
    )  # fmt: skip


def front_matter(facts: CardFacts) -> str:
    """Write the YAML that Hugging Face reads; each value is JSON, which is YAML too."""
    license = str(facts.about.get("license", "")).lower()
    named = {"license": license} if _LICENSE.fullmatch(license) else {"license": "other" if license else "unknown"}
    if named["license"] == "other":
        named["license_name"] = str(facts.about["license"])
    tags = ["chest-x-ray", "radiology", "pneumonia", "medical-imaging", "jax", "flax"]
    fields: dict[str, Any] = named | {
        "library_name": "pneumojax",
        "pipeline_tag": "image-classification",
        "tags": tags + (["synthetic-data"] if facts.notice else []),
    }
    if facts.sources:
        fields["datasets"] = list(facts.sources)
    if results := _model_index(facts):
        fields |= {"metrics": list(_METRICS.values())}
        fields["model-index"] = [{"name": facts.name, "results": results}]
    lines = (f"{name}: {one_line_json(value)}" for name, value in fields.items())
    return "\n".join(["---", *lines, "---"])


def one_line_json(value: Any) -> str:
    """Return a value as JSON on one line that is also YAML; control characters in texts are escaped."""

    def safe(value: Any) -> Any:
        if isinstance(value, str):
            return printable(value)
        if isinstance(value, Mapping):
            return {name: safe(part) for name, part in value.items()}
        return [safe(part) for part in value] if isinstance(value, list | tuple) else value

    return json.dumps(safe(value), ensure_ascii=False)


def _model_index(facts: CardFacts) -> list[dict[str, Any]]:
    """Return the results on images that were not trained on; none if they are synthetic."""
    found = []
    for stem, evaluation in facts.evaluations.items():
        metrics = [
            {"type": kind, "name": name, "value": float(figure(evaluation[name]).replace(",", ""))}
            for name, kind in _METRICS.items()
            if is_number(evaluation.get(name))
        ]
        if stem == "train" or evaluation.get("notice") or not metrics:
            continue
        name = f"{stem} ({card_facts.use_of(stem)})"
        dataset = {"type": str(evaluation.get("source") or stem), "name": name, "split": stem.rpartition("-")[2]}
        task = {"type": "image-classification", "name": "pneumonia or normal"}
        found.append({"task": task, "dataset": dataset, "metrics": metrics})
    return found


def majority_class(evaluation: Evaluation) -> str:
    """Return the name of the larger class."""
    return "pneumonia" if 2 * evaluation.get("positives", 0) >= evaluation.get("n", 0) else "normal"


def against_majority(evaluation: Evaluation) -> str:
    """Return how the accuracy's interval compares with the accuracy of always answering with the larger class."""
    ends, majority = evaluation.get("accuracy_ci"), evaluation.get("majority_accuracy")
    if not ends or not is_number(majority):
        return "not compared with"
    return (
        "better than" if majority < ends[0] else "worse than" if ends[1] < majority else "not shown to be better than"
    )


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals.update(
        tables=card_tables,
        count=count,
        use_of=card_facts.use_of,
        claim=checklists.CLAIM,
        tripod=checklists.TRIPOD_AI,
        answers=checklists.answers,
        against_majority=against_majority,
        majority_class=majority_class,
        metric=metric,
        share=share,
        other=card_facts.other,
        bins=ECE_BINS,
        sensitivity=SENSITIVITY,
        val_share=neighbours.VAL_SHARE,
    )
    environment.filters.update(code=code, verbatim=_verbatim)
    return environment


def _verbatim(line: str) -> Markdown:
    """Return a line of a code block, which it cannot end."""
    return Markdown(printable(line).replace("```", "\\`\\`\\`"))


def _shown(value: Any) -> Any:
    """Return a value of the template as Markdown: texts escaped, numbers formatted."""
    if type(value) in (int, float):
        return figure(value)
    return text(value) if isinstance(value, str) else value
