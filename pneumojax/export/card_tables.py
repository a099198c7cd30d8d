"""The tables of a model card: each cell is a value of a file, or a share of two of its counts."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pneumojax.evaluation.results import Evaluation, against_chance
from pneumojax.export import card_facts
from pneumojax.export.card_facts import CardFacts
from pneumojax.export.card_text import (
    NOT_MEASURED,
    Markdown,
    code,
    count,
    figure,
    is_number,
    is_stated,
    metric,
    proportion,
    share,
    table,
    text,
)  # fmt: skip
from pneumojax.inference import faithfulness
from pneumojax.runtime import config as configs


class OperatingPoint(NamedTuple):
    """A threshold: its name, the field that holds it (or its value), and what ends the names of its metrics."""

    name: str
    threshold: str | float
    suffix: str


OPERATING_POINTS = (
    OperatingPoint("balanced", "threshold", ""),
    OperatingPoint("sensitive", "threshold_sens95", "_at_sens95"),
    OperatingPoint("0.5", 0.5, "_at_0.5"),
)


def composition(facts: CardFacts) -> Markdown:
    """Format the images of every split and site."""
    rows = [
        (split, *_named(site, facts), count(made, "n"), count(made, "normal"), count(made, "pneumonia"),
         share(made.get("pneumonia"), made.get("n")), metric(made, "majority_accuracy"), card_facts.use_of(split))
        for split, sites in facts.composition.items()
        for site, made in sites.items()
    ]  # fmt: skip
    site = ("Site",) if card_facts.named_sites(facts) else ()
    return table(
        ("Split", *site, "Images", "Normal", "Pneumonia", "Prevalence", "Majority baseline", "What it was used for"),
        rows,
    )


def _named(site: str, facts: CardFacts) -> tuple[str, ...]:
    return (site or "all sites",) if card_facts.named_sites(facts) else ()


def characteristics(facts: CardFacts) -> Markdown:
    """Format the images of every group, such as an age band or a view."""
    rows = [
        (stem, *_group(group), count(group, "n"), count(group, "positives"), _prevalence(group))
        for stem, group in _groups(facts)
    ]
    return table(("Images of", "Column", "Value", "Images", "Pneumonia", "Prevalence"), rows)


def _groups(facts: CardFacts) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the groups of every evaluation, as they are sorted in its file: the worst first."""
    for stem, evaluation in evaluations(facts).items():
        for group in evaluation.get("groups") or ():
            yield stem, group


def _group(group: Mapping[str, Any]) -> tuple[str, str]:
    return str(group.get("by", "")), str(group.get("group", ""))


def evaluations(facts: CardFacts) -> dict[str, Evaluation]:
    """Return all evaluations: the run's own first, the foremost at the start."""
    return card_facts.own(facts.evaluations) | card_facts.other(facts.evaluations)


def _prevalence(summary: Mapping[str, Any]) -> Markdown:
    return share(summary.get("positives"), summary.get("n"))


def _about_images(stem: str, summary: Mapping[str, Any]) -> tuple[str, ...]:
    return stem, count(summary, "n"), _prevalence(summary)


def ranking(facts: CardFacts) -> Markdown:
    """Format how well the probabilities rank the images of every evaluation."""
    rows = [
        (*_about_images(stem, evaluation), metric(evaluation, "auc"), by_its_interval(evaluation),
         metric(evaluation, "average_precision"), card_facts.use_of(stem))
        for stem, evaluation in evaluations(facts).items()
    ]  # fmt: skip
    return table(
        ("Split", "n", "Prevalence", "AUC", "Against chance", "Average precision", "What these images are"), rows
    )


def by_its_interval(evaluation: Evaluation) -> str:
    """Return whether the AUC's interval shows that a model is better than chance."""
    if not evaluation.get("auc_ci"):
        return Markdown(NOT_MEASURED)
    return against_chance(evaluation) or "better than chance"


def operating_points(facts: CardFacts) -> Markdown:
    """Format the rates of every evaluation at each threshold, beside the majority baseline."""
    names = ("sensitivity", "specificity", "balanced_accuracy", "accuracy")
    rows = [
        (*_about_images(stem, evaluation), point.name, threshold_of(evaluation, point),
         *(metric(evaluation, name + point.suffix) for name in names), metric(evaluation, "majority_accuracy"))
        for stem, evaluation in evaluations(facts).items()
        for point in OPERATING_POINTS
    ]  # fmt: skip
    return table(
        ("Split", "n", "Prevalence", "Operating point", "Threshold", "Sensitivity", "Specificity", "Balanced accuracy",
         "Accuracy", "Majority baseline"),
        rows,
    )  # fmt: skip


def threshold_of(evaluation: Mapping[str, Any], point: OperatingPoint) -> Markdown:
    """Format the threshold of an operating point."""
    return count(evaluation, point.threshold) if isinstance(point.threshold, str) else figure(point.threshold)


def confusions(facts: CardFacts) -> Markdown:
    """Format the counts of every evaluation at each threshold, and the predictive values that they give."""
    rows = []
    for stem, evaluation in evaluations(facts).items():
        for point in OPERATING_POINTS:
            counts = evaluation.get(f"confusion{point.suffix}") or {}
            tp, fp, fn, tn = (counts.get(name) for name in ("tp", "fp", "fn", "tn"))
            values = (proportion(tp, _sum(tp, fp)), proportion(tn, _sum(tn, fn)))
            cells = (count(counts, name) for name in ("tp", "fp", "fn", "tn"))
            rows.append((*_about_images(stem, evaluation), point.name, *cells, *values))
    return table(
        ("Split", "n", "Prevalence", "Operating point", "True positive", "False positive", "False negative",
         "True negative", "Positive predictive value", "Negative predictive value"),
        rows,
    )  # fmt: skip


def _sum(first: Any, second: Any) -> Any:
    return first + second if type(first) is int and type(second) is int else None


def calibration(facts: CardFacts) -> Markdown:
    """Format how far the probabilities of every evaluation are right."""
    rows = [
        (*_about_images(stem, evaluation),
         *(count(evaluation, name) for name in ("prevalence", "temperature", "offset")),
         *(metric(evaluation, name) for name in ("ece", "ece_uncalibrated", "brier", "brier_uncalibrated", "bce")))
        for stem, evaluation in evaluations(facts).items()
    ]  # fmt: skip
    return table(
        ("Split", "n", "Prevalence", "Assumed prevalence", "Temperature", "Offset", "ECE", "ECE uncalibrated", "Brier",
         "Brier uncalibrated", "Cross-entropy, raw"),
        rows,
    )  # fmt: skip


def by_group(facts: CardFacts) -> Markdown:
    """Format the scores of every group at the balanced threshold."""
    names = ("auc", "sensitivity", "specificity", "ece")
    rows = []
    for stem, group in _groups(facts):
        cells = (*_group(group), count(group, "n"), _prevalence(group), _majority(group))
        rows.append((stem, *cells, *(metric(group, name) for name in names)))
    return table(
        (
            "Split",
            "Column",
            "Value",
            "n",
            "Prevalence",
            "Majority baseline",
            "AUC",
            "Sensitivity",
            "Specificity",
            "ECE",
        ),
        rows,
    )


def _majority(group: Mapping[str, Any]) -> Markdown:
    """Format the larger class's share of a group, which files of groups do not have."""
    positives, n = group.get("positives"), group.get("n")
    return share(max(positives, n - positives), n) if type(positives) is int and type(n) is int else share(None, None)


def corruption_tables(facts: CardFacts) -> list[tuple[str, Markdown]]:
    """Format the scores under each corruption: (stem, table)."""
    names = ("auc", "balanced_accuracy", "sensitivity", "specificity", "accuracy", "majority_accuracy", "ece")
    header = ("Corruption", "n", "Prevalence", "AUC", "Balanced accuracy", "Sensitivity", "Specificity", "Accuracy")
    return [
        (
            stem,
            table(
                (*header, "Majority baseline", "ECE"),
                [
                    (*_about_images(name, summary), *(metric(summary, metric_name) for metric_name in names))
                    for name, summary in summaries.items()
                ],
            ),
        )
        for stem, summaries in facts.corruptions.items()
    ]


def unlike(facts: CardFacts) -> Markdown:
    """Format how many images of other sources the model flags as unlike its training images, or knows."""
    rows = [
        (*_about_images(stem, evaluation),
         *(cell for name in ("unlike_training", "known_images")
           for cell in (count(evaluation, name), proportion(evaluation.get(name), evaluation.get("n")))))
        for stem, evaluation in card_facts.other(facts.evaluations).items()
    ]  # fmt: skip
    return table(
        ("Split", "n", "Prevalence", "Unlike training", "Share unlike training", "Known images", "Share known"), rows
    )


def explanations(facts: CardFacts) -> Markdown:
    """Format the checks of each method of explanation."""
    columns = {
        "rank_correlation": "Untrained", "deletion": "Deletion", "random_deletion": "Deletion, random map",
        "insertion": "Insertion", "random_insertion": "Insertion, random map", "hits": "Hits",
        "energy": "Energy inside", "chance_hits": "Mask's share",
    }  # fmt: skip
    rows = [
        (name, *(count(measures, key) for key in columns), faithfulness.verdict(measures) or "passes")
        for name, measures in facts.explanations.get("methods", {}).items()
        if is_number(measures.get("rank_correlation"))  # the random map has none: it is what others are compared with
    ]
    return table(("Method", *columns.values(), "Verdict"), rows)


def failures(facts: CardFacts) -> Markdown:
    """Format the worst errors, with the names of their pictures."""
    shown = any(failure.picture for failure in facts.failures)
    rows = [
        (figure(number), *((_picture(number) if failure.picture else "",) if shown else ()),
         ("normal", "pneumonia")[failure.label], figure(failure.probability), "yes" if failure.unlike else "no")
        for number, failure in enumerate(facts.failures, 1)
    ]  # fmt: skip
    header = ("Error", *(("Film",) if shown else ()), "Label", "P(pneumonia)", "Flagged as unlike training")
    return table(header, rows)


def _picture(number: int) -> Markdown:
    return Markdown(f"![error {number}]({picture_name(number)})")


def picture_name(number: int) -> str:
    """Return the file of an error's picture, beside the card; the first is 1."""
    return f"pictures/error-{number}.png"


def parity(facts: CardFacts) -> Markdown:
    """Format the differences between the exported formats and JAX."""
    rows = [
        (name, " ".join(path), figure(value) if is_number(value) else str(value))
        for name, measured in facts.parity.items()
        if isinstance(measured, Mapping)
        for path, value in _leaves(measured)
    ]
    return table(("Format", "Measure", "Value"), rows)


def _leaves(tree: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, (*path, name))
        else:
            yield (*path, name), value


def audit(facts: CardFacts) -> Markdown:
    """Format what an audit of the images found."""
    rows = [
        (str(finding.get("severity", "")), str(finding.get("short", "")), str(finding.get("what", "")))
        for finding in facts.audit.get("findings", ())
    ]
    return table(("Severity", "Found", "What it means"), rows)


def networks(facts: CardFacts) -> Markdown:
    """Format the blocks of each network."""
    rows = [
        (figure(number), str(network["dtype"]), "yes" if network.get("equalize") else "no",
         ", ".join(figure(block["filters"]) for block in network["blocks"]),
         ", ".join(figure(block["dropout"]) for block in network["blocks"]), figure(network["scale"]),
         figure(network["ood_limit"]))
        for number, network in enumerate(facts.description["networks"], 1)
    ]  # fmt: skip
    return table(
        ("Network", "Computes in", "Equalizes", "Filters of its blocks", "Dropout of its blocks", "Scale", "OOD limit"),
        rows,
    )


def settings(facts: CardFacts) -> Markdown:
    """Format the settings on which the trained model depends, without places on a machine."""
    rows = [
        (code(name), code(json.dumps(value, ensure_ascii=False)))
        for name, value in configs.effective(facts.config or {}).items()
    ]
    return table(("Setting", "Value"), rows)


def stated(facts: CardFacts, names: Mapping[str, str]) -> Markdown:
    """Format what the user states of the model: a row for each of `names`, a field of `about` and its title."""
    return _stated(facts.about, names)


def _stated(about: Mapping[str, Any], names: Mapping[str, str]) -> Markdown:
    """Format a table of what is stated, and a sentence that lists what is not."""
    rows = [(title, about[field]) for field, title in names.items() if is_stated(about.get(field))]
    missing = [title for field, title in names.items() if not is_stated(about.get(field))]
    parts = [table(("", ""), rows)] if rows else []
    return Markdown("\n\n".join([*parts, f"Not stated: {'; '.join(missing).lower()}."] if missing else parts))


def sites(facts: CardFacts, names: Mapping[str, str]) -> list[tuple[str, Markdown]]:
    """Format what the user states of each source, in `names`: (the source's name, a table)."""
    about = facts.about.get("sites", {})
    known = card_facts.named_sites(facts) | set(about)
    listed: Sequence[str] = sorted(known) or facts.sources
    return [(text(site), _stated(about.get(site, {}), names)) for site in listed]
