"""The figures of a model card are the files', and what no file has is said to be missing."""

import json
import re
from collections.abc import Iterator

import numpy as np
import pytest
from card_runs import PLACES, card_of, content_of, facts_of, outline, tables_of, trained, wilson
from etils import epath
from hypothesis import given
from hypothesis import strategies as st

from pneumojax.export import card_facts
from pneumojax.export.card import card
from pneumojax.export.card_text import figure
from pneumojax.runtime import config as configs
from pneumojax.workflows import model_card

NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:e[+-]\d+)?")


# The files' figures by the columns of the card's tables, written down here once more.
SCORES = {"AUC": "auc", "Average precision": "average_precision", "Sensitivity": "sensitivity", "ECE": "ece",
          "Specificity": "specificity", "Balanced accuracy": "balanced_accuracy", "Accuracy": "accuracy",
          "Majority baseline": "majority_accuracy", "Brier": "brier", "Brier uncalibrated": "brier_uncalibrated",
          "ECE uncalibrated": "ece_uncalibrated", "Cross-entropy, raw": "bce", "Assumed prevalence": "prevalence",
          "Temperature": "temperature", "Offset": "offset", "n": "n", "Unlike training": "unlike_training",
          "Known images": "known_images"}  # fmt: skip
COUNTS = {"True positive": "tp", "False positive": "fp", "False negative": "fn", "True negative": "tn"}
CHECKS = {"Untrained": "rank_correlation", "Deletion": "deletion", "Deletion, random map": "random_deletion",
          "Insertion": "insertion", "Insertion, random map": "random_insertion", "Hits": "hits",
          "Energy inside": "energy", "Mask's share": "chance_hits"}  # fmt: skip
SUFFIXES = {"balanced": "", "sensitive": "_at_sens95", "0.5": "_at_0.5"}
AT_A_THRESHOLD = ("Sensitivity", "Specificity", "Balanced accuracy", "Accuracy")


def expected(column: str, summary: dict, suffix: str = "") -> list[float] | None:
    """Return the numbers that a cell must show of a summary: the value, and the ends of its interval."""
    if column in COUNTS:
        return [summary[f"confusion{suffix}"][COUNTS[column]]]
    if column in ("Prevalence", "Share unlike training", "Share known"):
        part = {"Prevalence": "positives", "Share known": "known_images"}.get(column, "unlike_training")
        return list(wilson(summary[part], summary["n"]))[: 1 if column == "Prevalence" else 3]
    if column.endswith("predictive value"):
        right, wrong = ("tp", "fp") if column.startswith("Positive") else ("tn", "fn")
        counts = summary[f"confusion{suffix}"]
        return list(wilson(counts[right], counts[right] + counts[wrong]))
    if column == "Threshold":
        return [0.5 if suffix == "_at_0.5" else summary[{"": "threshold"}.get(suffix, "threshold_sens95")]]
    if column not in SCORES:
        return None
    name = SCORES[column] + (suffix if column in AT_A_THRESHOLD else "")
    return None if summary[name] is None else [summary[name], *(summary.get(f"{name}_ci") or [])]


def require_shown(cell: str, numbers: list[float] | None, where: str) -> None:
    """Check that a cell shows these numbers and no others, to the digits that it has."""
    found = NUMBER.findall(cell)
    assert len(found) == len(numbers or []), f"{where}: {cell!r} should show {numbers}"
    for text, number in zip(found, numbers or [], strict=True):
        digits = text.replace(",", "").partition("e")[0].partition(".")[2]
        unit = 10.0 ** -len(digits) * (10.0 ** int(text.partition("e")[2]) if "e" in text else 1)
        assert abs(float(text.replace(",", "")) - number) <= unit / 2 * 1.0001, f"{where}: {text} is not {number}"
        assert type(number) is not int or float(text.replace(",", "")) == number, f"{where}: {text} is not {number}"


def require_summaries(table, summaries: dict[str, dict], keys: int = 1) -> int:
    """Check every cell of a table whose rows are summaries, by their first cells; return how many have figures."""
    checked = 0
    for row in table.rows:
        cells = dict(zip(table.header, row, strict=True))
        summary = summaries[", ".join(row[:keys])]
        suffix = SUFFIXES[cells["Operating point"]] if "Operating point" in cells else ""
        for column, cell in list(cells.items())[keys:]:
            if column in ("Operating point", "Against chance", "What these images are"):
                continue
            numbers = expected(column, summary, suffix)
            require_shown(cell, numbers, f"{table.headings[-1]}, {row[0]}, {column}")
            checked += numbers is not None
    return checked


def test_every_figure_of_the_scores_is_the_files(card_run):
    markdown = card_of(card_run)
    evaluations = {
        path.stem: content_of(card_run, f"evaluation/{path.name}") for path in (card_run / "evaluation").glob("*.json")
    }
    usefulness = tables_of(markdown, "Usefulness, Usability and Efficacy")
    assert [len(table.rows) for table in usefulness] == [4, 12, 12]
    assert sum(require_summaries(table, evaluations) for table in usefulness) == 4 * 4 + 12 * 8 + 12 * 8
    [calibrations] = tables_of(markdown, "Calibration")
    assert require_summaries(calibrations, evaluations) == 4 * 10
    [unlike] = tables_of(markdown, "Images unlike the training images")
    assert require_summaries(unlike, evaluations) == 6 and len(unlike.rows) == 1
    corruptions = content_of(card_run, "corruptions/test.json")
    [corrupted] = tables_of(markdown, "Corruptions")
    assert [row[0] for row in corrupted.rows] == list(corruptions)
    assert require_summaries(corrupted, corruptions) == 12 * 9
    groups = {f"test, {g['by']}, {g['group']}": g for g in evaluations["test"]["groups"]}
    [by_group] = tables_of(markdown, "Fairness and Equity")
    assert require_summaries(by_group, groups, keys=3) == 3 * 7 - 2  # of one class there is neither AUC nor specificity
    assert "undefined (no negatives)" in by_group.rows[2]


def test_every_figure_of_the_data_is_the_files(card_run):
    markdown, test = card_of(card_run), content_of(card_run, "evaluation/test.json")
    characteristics, made = sorted(tables_of(markdown, "Development data characterization"), key=lambda t: t.header)
    for split, *cells, use in made.rows:
        normal, pneumonia = PLACES[split]
        share = pneumonia / (normal + pneumonia)
        for cell, number in zip(cells, (normal + pneumonia, normal, pneumonia, share, share), strict=True):
            require_shown(cell, [number], split)
        assert use == card_facts.use_of(split)
    assert [row[0] for row in made.rows] == ["test", "val", "train"], "the foremost first"
    for row, group in zip(characteristics.rows, test["groups"], strict=True):
        assert row[:3] == ["test", group["by"], group["group"]]
        numbers = (group["n"], group["positives"], group["positives"] / group["n"])
        for cell, number in zip(row[3:], numbers, strict=True):
            require_shown(cell, [number], row[2])


def test_every_figure_of_the_model_is_the_files(card_run):
    markdown, model = card_of(card_run), trained(card_run)
    [thresholds] = tables_of(markdown, "Outcomes and outputs")
    for row, name in zip(thresholds.rows, ("threshold", "threshold_sens95"), strict=True):
        require_shown(row[1], [getattr(model.calibration, name)], name)
    [network] = tables_of(markdown, "Model type")[0].rows
    blocks = model.members[0].model.blocks
    require_shown(network[3], [block.filters for block in blocks], "filters")
    require_shown(network[4], [block.dropout for block in blocks], "dropout")
    require_shown(network[6], [0.4375], "limit")
    [settings] = tables_of(markdown, "Training")
    saved = configs.fields(configs.read(card_run / "config.json"))
    assert {"epochs", "seed", "optimizer.learning_rate", "model.image_size"} <= {name for name, _ in settings.rows}
    assert {name: json.loads(value) for name, value in settings.rows} == {
        name: saved[name] for name, _ in settings.rows
    }
    checks = content_of(card_run, "explanations/checks.json")["methods"]
    [measured] = tables_of(markdown, "Explanation checks")
    for name, *cells, _ in measured.rows:
        for column, cell in zip(measured.header[1:-1], cells, strict=True):
            require_shown(cell, [checks[name][CHECKS[column]]], f"{name}, {column}")
    [agreement] = tables_of(markdown, "Agreement of the formats")
    values = [(0.0,), (7.25e-7,), (0.01325,), (0,)]
    for row, numbers in zip(agreement.rows, values, strict=True):
        require_shown(row[-1], list(numbers), row[1])
    assert "on 96 films of films" in markdown
    [worst] = tables_of(markdown, "Known failures")
    assert [row[1:] for row in worst.rows] == [["normal", "0.988", "yes"], ["pneumonia", "0.012", "no"]]


def test_every_figure_of_the_sentences_is_the_files(card_run):
    markdown, test = card_of(card_run), content_of(card_run, "evaluation/test.json")
    summary = re.split(r"\n## ", markdown)[3]
    assert summary.startswith("Model Summary") and "- **" not in summary, "it has a test split and another source"
    for line, names in (("- AUC", ["auc"]), ("- At the", ["sensitivity", "specificity"]), ("- Accuracy", ["accuracy"])):
        [found] = [sentence for sentence in summary.splitlines() if sentence.startswith(line)]
        numbers = [number for name in names for number in (test[name], *test[f"{name}_ci"])]
        require_shown(found, numbers + ([test["majority_accuracy"]] if names == ["accuracy"] else []), line)
    [found] = [sentence for sentence in summary.splitlines() if sentence.startswith("- On other")]
    elsewhere = content_of(card_run, "evaluation/other_hospital-all.json")
    scores = ("auc", "sensitivity", "specificity", "accuracy")
    numbers = [number for name in scores for number in (elsewhere[name], *elsewhere[f"{name}_ci"])]
    require_shown(found, [75, 45 / 75, *numbers, elsewhere["majority_accuracy"], 7, 1], "another source")
    assert "too good" in found
    counts = test["confusion"]
    sentence = (
        "On test, at the balanced threshold, the model misses {} of {} films with pneumonia and calls {} of {} normal"
    )
    assert sentence.format(counts["fn"], 45, counts["fp"], 30) in markdown


def leaves(tree, path=()) -> Iterator[tuple]:
    """Yield the path of every number in a JSON file."""
    for name, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        if isinstance(value, dict | list):
            yield from leaves(value, (*path, name))
        elif type(value) in (int, float):
            yield *path, name


def changed_at(tree, path):
    tree = json.loads(json.dumps(tree))
    node = tree
    for name in path[:-1]:
        node = node[name]
    node[path[-1]] += 1 if type(node[path[-1]]) is int else 0.0625
    return tree


@pytest.mark.slow
def test_a_changed_figure_in_any_file_changes_the_card(card_run):
    """Each number of the evaluations and the checks, one at a time; of other files, those that are shown."""
    facts = facts_of(card_run)
    before = card(facts)
    unshown = {"epoch"}
    for field in ("evaluations", "explanations", "parity"):
        tree = getattr(facts, field)
        paths = [path for path in leaves(tree) if path[-1] not in unshown and not shadowed(field, path)]
        paths = [path for path in paths if path[0] not in ("train", "val")]  # files like that of test
        assert paths
        for path in paths:
            assert card(facts._replace(**{field: changed_at(tree, path)})) != before, (field, path)
    for path in leaves(facts.corruptions):
        if path[2].removesuffix("_ci") in ("auc", "sensitivity", "ece", "n", "positives", "accuracy"):
            assert card(facts._replace(corruptions=changed_at(facts.corruptions, path))) != before, path


def shadowed(field, path) -> bool:
    """Whether a number is not for the card: of groups, it shows the scores at the balanced threshold alone."""
    if field == "explanations":
        return "random" in path
    shown = ("n", "positives", "auc", "sensitivity", "specificity", "ece")
    return field == "evaluations" and "groups" in path and path[3].removesuffix("_ci") not in shown


def test_a_changed_file_changes_the_card(copied):
    before = card_of(copied)
    path = copied / "evaluation" / "val.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"auc": 0.6789}))
    after = card_of(copied)
    assert "0.679" in after and "0.679" not in before


def test_what_no_file_has_is_not_measured():
    facts = facts_of_a_bundle()
    markdown = card(facts)
    headings, tables, _ = outline(markdown)
    shown = {table.headings[-1] for table in tables}
    assert shown == {"Outcomes and outputs", "Model type", "CLAIM, 2024 update", "TRIPOD+AI"}, (
        "tables of scores are left out"
    )
    for heading in (
        "Corruptions",
        "Calibration",
        "Explanation checks",
        "Fairness and Equity",
        "Agreement of the formats",
    ):
        section = re.split(rf"#+ {heading}\n", markdown)[1].partition("\n#")[0]
        assert "ot measured" in section, heading
    assert "Scores: not measured." in markdown
    assert "model-index" not in markdown and "datasets" not in markdown
    for heading in ("Known failures", "Usefulness, Usability and Efficacy"):
        assert heading in headings


def facts_of_a_bundle():
    from card_runs import Index, Member, TrainedModel, calibration, create

    fitted = calibration.Calibration(1.0, 0.5, 0.25, 0.5, 0.0)
    index = Index(np.array(["a"]), np.zeros(1, np.uint8), np.ones((1, 1), np.float32), 0.4375)
    model = TrainedModel("m1", "0123456789abcdef", [Member(create("m1"), {}, index)], fitted, 150)
    return model_card.facts_of(epath.Path("/nowhere"), model, parity={}, commands=[])


def test_a_damaged_file_is_as_one_that_is_missing(copied):
    for name in ("evaluation/test.json", "corruptions/test.json", "explanations/checks.json", "report/pictures.npz"):
        (copied / name).write_bytes(b'{"half": ')
    (copied / "splits.csv").write_bytes(b"half a")
    facts = facts_of(copied)
    assert not (facts.corruptions or facts.explanations or facts.failures or facts.composition)
    assert facts.foremost == "val"
    assert "too good" in card(facts) and "Worst errors: not measured" in card(facts)


def test_an_undefined_metric_says_why(copied):
    path = copied / "evaluation" / "test.json"
    none = {"auc": None, "auc_ci": None, "auc_reason": "images of one class only"}
    path.write_text(json.dumps(json.loads(path.read_text()) | none))
    assert "AUC undefined (images of one class only): not measured." in card_of(copied)


def test_a_model_no_better_than_chance_is_said_to_be_so(card_run):
    facts = facts_of(card_run)
    poor = dict(facts.evaluations["test"]) | {"auc": 0.52, "auc_ci": [0.45, 0.6], "accuracy_ci": [0.3, 0.5]}
    summary = card(facts._replace(evaluations=facts.evaluations | {"test": poor})).partition("## Uses")[0]
    assert "not shown to be better than chance" in summary and "The model is worse than that" in summary


@given(st.one_of(st.integers(-(10**9), 10**9), st.floats(-1e6, 1e6, allow_nan=False)))
def test_a_figure_can_be_read_back(value):
    text = figure(value)
    require_shown(text, [value], "figure")
    if value not in (0, 1):
        assert float(text.replace(",", "")) not in (0, 1) or type(value) is int
