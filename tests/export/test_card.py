"""The model card: every figure in it is the files', what is missing is said, and texts from files are only text."""

import io
import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from card_runs import EXPORT, PARITY, PLACES, outline, records, shown, trained, wilson, write_run
from etils import epath
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pneumojax.data.audit import findings
from pneumojax.evaluation import comparison, results
from pneumojax.export import about as abouts
from pneumojax.export import card_facts, checklists
from pneumojax.export.card import card
from pneumojax.export.card_text import figure
from pneumojax.runtime import config as configs
from pneumojax.runtime.errors import UserError
from pneumojax.workflows import model_card

HOSTILE = '<script>alert("x")</script>&amp; | [a](javascript:b) `c` ![d](e) **f** $g$\n# h'
NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:e[+-]\d+)?")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> epath.Path:
    return write_run(tmp_path_factory.mktemp("card") / "run")


@pytest.fixture
def copied(run, tmp_path) -> epath.Path:
    return epath.Path(shutil.copytree(run, tmp_path / "run"))


def facts_of(workdir, **changes):
    return model_card.facts_of(workdir, trained(workdir), **({"parity": PARITY, "commands": [EXPORT]} | changes))


def card_of(workdir, **changes) -> str:
    return card(facts_of(workdir, **changes))


def content_of(workdir, name):
    return json.loads((workdir / name).read_text())


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


def tables_of(markdown: str, heading: str) -> list:
    """Return the tables whose nearest heading is this."""
    found = [table for table in outline(markdown)[1] if table.headings[-1] == heading]
    assert found, heading
    return found


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


def test_every_figure_of_the_scores_is_the_files(run):
    markdown = card_of(run)
    evaluations = {
        path.stem: content_of(run, f"evaluation/{path.name}") for path in (run / "evaluation").glob("*.json")
    }
    usefulness = tables_of(markdown, "Usefulness, Usability and Efficacy")
    assert [len(table.rows) for table in usefulness] == [4, 12, 12]
    assert sum(require_summaries(table, evaluations) for table in usefulness) == 4 * 4 + 12 * 8 + 12 * 8
    [calibrations] = tables_of(markdown, "Calibration")
    assert require_summaries(calibrations, evaluations) == 4 * 10
    [unlike] = tables_of(markdown, "Images unlike the training images")
    assert require_summaries(unlike, evaluations) == 6 and len(unlike.rows) == 1
    corruptions = content_of(run, "corruptions/test.json")
    [corrupted] = tables_of(markdown, "Corruptions")
    assert [row[0] for row in corrupted.rows] == list(corruptions)
    assert require_summaries(corrupted, corruptions) == 12 * 9
    groups = {f"test, {g['column']}, {g['value']}": g for g in evaluations["test"]["groups"]}
    [by_group] = tables_of(markdown, "Fairness and Equity")
    assert require_summaries(by_group, groups, keys=3) == 3 * 7 - 2  # of one class there is neither AUC nor specificity
    assert "undefined (no negatives)" in by_group.rows[2]


def test_every_figure_of_the_data_is_the_files(run):
    markdown, test = card_of(run), content_of(run, "evaluation/test.json")
    characteristics, made = sorted(tables_of(markdown, "Development data characterization"), key=lambda t: t.header)
    for split, *cells, use in made.rows:
        normal, pneumonia = PLACES[split]
        share = pneumonia / (normal + pneumonia)
        for cell, number in zip(cells, (normal + pneumonia, normal, pneumonia, share, share), strict=True):
            require_shown(cell, [number], split)
        assert use == card_facts.use_of(split)
    assert [row[0] for row in made.rows] == ["test", "val", "train"], "the foremost first"
    for row, group in zip(characteristics.rows, test["groups"], strict=True):
        assert row[:3] == ["test", group["column"], group["value"]]
        numbers = (group["n"], group["positives"], group["positives"] / group["n"])
        for cell, number in zip(row[3:], numbers, strict=True):
            require_shown(cell, [number], row[2])


def test_every_figure_of_the_model_is_the_files(run):
    markdown, model = card_of(run), trained(run)
    [thresholds] = tables_of(markdown, "Outcomes and outputs")
    for row, name in zip(thresholds.rows, ("threshold", "threshold_sens95"), strict=True):
        require_shown(row[1], [getattr(model.calibration, name)], name)
    [network] = tables_of(markdown, "Model type")[0].rows
    blocks = model.members[0].model.blocks
    require_shown(network[2], [block.filters for block in blocks], "filters")
    require_shown(network[3], [block.dropout for block in blocks], "dropout")
    require_shown(network[5], [0.4375], "limit")
    [settings] = tables_of(markdown, "Training")
    saved = configs.fields(configs.read(run / "config.json"))
    assert {"epochs", "seed", "optimizer.learning_rate", "model.image_size"} <= {name for name, _ in settings.rows}
    assert {name: json.loads(value) for name, value in settings.rows} == {
        name: saved[name] for name, _ in settings.rows
    }
    checks = content_of(run, "explanations/checks.json")["methods"]
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


def test_every_figure_of_the_sentences_is_the_files(run):
    markdown, test = card_of(run), content_of(run, "evaluation/test.json")
    summary = re.split(r"\n## ", markdown)[3]
    assert summary.startswith("Model Summary") and "- **" not in summary, "it has a test split and another source"
    for line, names in (("- AUC", ["auc"]), ("- At the", ["sensitivity", "specificity"]), ("- Accuracy", ["accuracy"])):
        [found] = [sentence for sentence in summary.splitlines() if sentence.startswith(line)]
        numbers = [number for name in names for number in (test[name], *test[f"{name}_ci"])]
        require_shown(found, numbers + ([test["majority_accuracy"]] if names == ["accuracy"] else []), line)
    [found] = [sentence for sentence in summary.splitlines() if sentence.startswith("- On other")]
    elsewhere = content_of(run, "evaluation/other_hospital-all.json")
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


def test_a_changed_figure_in_any_file_changes_the_card(run):
    """Each number of the evaluations and the checks, one at a time; of other files, those that are shown."""
    facts = facts_of(run)
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


def test_a_model_no_better_than_chance_is_said_to_be_so(run):
    facts = facts_of(run)
    poor = dict(facts.evaluations["test"]) | {"auc": 0.52, "auc_ci": [0.45, 0.6], "accuracy_ci": [0.3, 0.5]}
    summary = card(facts._replace(evaluations=facts.evaluations | {"test": poor})).partition("## Uses")[0]
    assert "not shown to be better than chance" in summary and "The model is worse than that" in summary


def test_texts_from_files_are_only_text(copied):
    """A remark, a stem, a group or a user's text may hold Markdown or HTML: a reader sees it as it is."""
    facts = facts_of(copied)
    evaluation = dict(facts.evaluations["test"])
    evaluation["groups"] = [evaluation["groups"][0] | {"column": HOSTILE, "value": HOSTILE}]
    hostile = facts._replace(
        name=HOSTILE, remarks=[HOSTILE], sources=[HOSTILE], commands=[f"pneumojax ```\n{HOSTILE}"],
        evaluations={"test": evaluation | {"source": HOSTILE, "notice": HOSTILE}, f"other-{HOSTILE}": evaluation},
        about={"risks": HOSTILE, "developer": HOSTILE, "license": HOSTILE, "sites": {HOSTILE: {"title": HOSTILE}}},
    )  # fmt: skip
    markdown = card(hostile)
    tokens = outline(markdown)[2]
    inline = [part for token in tokens if token.type == "inline" for part in token.children]
    assert not [part for part in tokens + inline if part.type in ("html_block", "html_inline", "image")]
    assert {part.attrs["href"][0] for part in inline if part.type == "link_open"} == {"#"}
    line = HOSTILE.replace("\n", r"\n")
    assert sum(line in shown(token) for token in tokens if token.type == "inline") >= 12
    assert len([token for token in tokens if token.type == "fence"]) == 2
    assert yaml.safe_load(markdown.split("---\n")[1])["license_name"] == line


def test_the_front_matter_is_that_of_hugging_face(run):
    front = yaml.safe_load(card_of(run).split("---\n")[1])
    assert front["library_name"] == "pneumojax" and front["pipeline_tag"] == "image-classification"
    assert front["license"] == "unknown" and front["datasets"] == ["chests"]
    [model] = front["model-index"]
    measured = {result["dataset"]["split"]: result for result in model["results"]}
    assert set(measured) == {"test", "val", "all"}, "what it was trained on says nothing"
    for stem, result in (("test", measured["test"]), ("other_hospital-all", measured["all"])):
        values = {metric["name"]: metric["value"] for metric in result["metrics"]}
        found = content_of(run, f"evaluation/{stem}.json")
        assert values == pytest.approx({name: found[name] for name in values}, abs=5e-4)
        assert set(values) == {"auc", "accuracy", "sensitivity", "specificity"}


@pytest.mark.parametrize(
    "license, key", [("Apache-2.0", "apache-2.0"), ("cc-by-4.0", "cc-by-4.0"), ("Ask me.", "other")]
)
def test_the_license_is_as_hugging_face_names_it(run, tmp_path, license, key):
    (tmp_path / "about.json").write_text(json.dumps({"license": license}))
    front = yaml.safe_load(card_of(run, about=str(tmp_path / "about.json")).split("---\n")[1])
    assert front["license"] == key and front.get("license_name", license) == license


def test_synthetic_images_give_no_results_to_compare(tmp_path):
    workdir = write_run(tmp_path / "run", notice="Synthetic phantom radiographs, not patients.", place="phantom")
    files = model_card.files_of(facts_of(workdir))
    markdown = files["README.md"].decode()
    assert "model-index" not in markdown and "synthetic-data" in markdown
    assert markdown.index("Synthetic phantom radiographs") < markdown.index("## Basic Info")
    assert set(files) == {"README.md", "pictures/error-1.png", "pictures/error-2.png"}, "they may be shown"


def test_films_are_shown_only_where_that_is_allowed(run, tmp_path):
    assert set(model_card.files_of(facts_of(run))) == {"README.md"}
    assert "Films are not shown" in card_of(run)
    (tmp_path / "about.toml").write_text("show_pictures = true\n")
    files = model_card.files_of(facts_of(run, about=str(tmp_path / "about.toml")))
    picture = np.asarray(Image.open(io.BytesIO(files["pictures/error-1.png"])))
    assert picture.shape == (8, 16, 3) and (picture[:, :8] == 90).all() and (picture[:, 8:] == 30).all()
    tokens = outline(files["README.md"].decode())[2]
    images = [part for token in tokens if token.type == "inline" for part in token.children if part.type == "image"]
    assert {part.attrs["src"] for part in images} == set(files) - {"README.md"}


def test_one_synthetic_site_does_not_let_the_films_of_another_be_shown(tmp_path):
    place, notice = f"drawn=phantom,real={tmp_path}/films", "drawn: Synthetic phantom radiographs, not patients."
    workdir = write_run(tmp_path / "run", notice=notice, sites=("drawn", "real"), place=place)
    assert set(model_card.files_of(facts_of(workdir))) == {"README.md"}


@pytest.mark.parametrize("location", ["/data/a=b/c", "/data/films,b=c", "tfds:pneumonia_mnist", "phantom"])
def test_a_plain_place_is_one_source(location, tmp_path):
    facts = facts_of(write_run(tmp_path / "run", place=location))
    assert len(facts.sources) == 1 and "/" not in facts.sources[0]
    assert set(facts.composition["test"]) == {""}


def test_no_place_on_the_machine_and_no_id_of_a_film_is_told(run, copied):
    markdown = card_of(copied) + card_of(run)
    assert str(run.parent) not in markdown and str(copied.parent) not in markdown and "/home" not in markdown
    assert "secret id" not in markdown and "film000" not in markdown


ABOUT = """
developer = "A hospital"
license = "cc-by-4.0"
intended_use = "Research on flags."
[sites.chests]
title = "Labeled chest films"
license = "CC BY 4.0"
dates = "2013 to 2017"
"""


@pytest.mark.parametrize("name", ["about.toml", "about.json"])
def test_what_the_user_states_is_in_the_card(run, tmp_path, name):
    content = {"developer": "A hospital", "license": "cc-by-4.0", "intended_use": "Research on flags."}
    sites = {"chests": {"title": "Labeled chest films", "license": "CC BY 4.0", "dates": "2013 to 2017"}}
    (tmp_path / name).write_text(ABOUT if name.endswith("toml") else json.dumps(content | {"sites": sites}))
    markdown = card_of(run, about=str(tmp_path / name))
    tables = {table.headings[-1]: dict(table.rows) for table in outline(markdown)[1] if len(table.header) == 2}
    assert tables["Basic Info"] == {"Developer": "A hospital", "License of the weights": "cc-by-4.0"}
    assert tables["Source chests"] == {"Title": "Labeled chest films", "License": "CC BY 4.0", "Dates": "2013 to 2017"}
    assert "Intended use and workflow: Research on flags." in markdown
    assert "Not stated: contact; citation." in markdown
    answers = {row[0]: row[2] for row in tables_of(markdown, "TRIPOD+AI")[0].rows}
    assert answers["5b"] == "Input data source" and answers["6a"] == "not answered"


@pytest.mark.parametrize(
    "content, message",
    [
        ('developr = "x"', "developr.*did you mean developer"),
        ("developer = 3", "developer.*must be a text"),
        ('show_pictures = "yes"', "show_pictures.*true or false"),
        ('sites = "x"', "no table of sites"),
        ('[sites.a]\ntitel = "x"', "titel.*did you mean title"),
        ("developer = ", "is no TOML"),
        (None, "cannot read"),
    ],
)
def test_a_wrong_statement_is_refused_in_one_line(run, tmp_path, content, message):
    path = tmp_path / "about.toml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=message) as refused:
        facts_of(run, about=str(path))
    assert "\n" not in str(refused.value)


def test_json_that_is_no_table_is_refused(tmp_path):
    for content in ("[]", "3", '{"developer": '):
        (tmp_path / "about.json").write_text(content)
        with pytest.raises(UserError, match="has no fields|is no JSON"):
            abouts.read(str(tmp_path / "about.json"))


def test_an_audit_in_the_workdir_is_in_the_card(copied):
    finding = {"kind": "dark", "severity": "warning", "count": 2, "images": 2, "short": "2 images perhaps too dark",
               "what": "They use few bits.", "ids": ["secret/film000"], "notes": {}}  # fmt: skip
    audit = {
        "source": "chests",
        "location": "/home/a",
        "notice": None,
        "splits": {"train": {"n": 3}},
        "findings": [finding],
    }
    assert findings.headline(audit)
    (copied / "audit").mkdir()
    (copied / "audit" / "audit.json").write_text(json.dumps(audit))
    markdown = card_of(copied)
    assert ["warning", "2 images perhaps too dark", "They use few bits."] in [
        row for table in tables_of(markdown, "Development data characterization") for row in table.rows
    ]
    assert "film000" not in markdown and "/home" not in markdown


def test_several_sites_are_counted_apart(tmp_path):
    workdir = write_run(tmp_path / "run", sites=("adults", "children"))
    facts = facts_of(workdir)
    assert facts.sources == ["adults: adults", "children: children"]
    [made] = [t for t in tables_of(card(facts), "Development data characterization") if t.header[1] == "Site"]
    for split, site, *cells in made.rows:
        assert cells[:3] == [str(sum(PLACES[split])), str(PLACES[split][0]), str(PLACES[split][1])], site
    assert {row[1] for row in made.rows} == {"adults", "children"} and len(made.rows) == 6
    assert "--data=adults=adults,children=children" in card(facts)


def test_the_training_command_makes_the_same_config(run):
    training, exporting = facts_of(run).commands
    assert exporting == EXPORT
    program, mode, spec, data, *overrides = shlex.split(training)
    assert (program, mode, spec, data) == ("pneumojax", "--mode=train", "--config=m2:paper", "--data=chests")
    others, assignments = configs.split_overrides(overrides)
    made = configs.override(configs.load(spec.partition("=")[2]), assignments)
    saved = configs.read(run / "config.json")
    assert others == []
    assert configs.differences(configs.with_fields(made, {"data.source": saved.data.source}), saved) == []


def test_an_ensemble_is_scored_from_the_files_of_its_runs(tmp_path):
    names = [f"m2-paper-seed{seed}" for seed in (0, 1)]
    runs = [write_run(tmp_path / "experiment" / name, seed=seed) for seed, name in enumerate(names)]
    listed = [{"config": "m2", "recipe": "paper", "fold": None, "seed": seed} for seed in (0, 1)]
    (tmp_path / "experiment" / "experiment.json").write_text(json.dumps({"runs": listed}))
    facts = model_card.facts_of(epath.Path(tmp_path / "experiment"), trained(runs[0]), parity={}, commands=[])
    members = [results.read(path) for path in runs]
    labels, odds, fitted = comparison.ensemble(members, "test")
    assert set(facts.evaluations) == {"train", "val", "test"}
    assert facts.evaluations["test"] == results.summarize(labels, odds, fitted)
    assert len(facts.commands) == 2 and "--config.seed=1" in facts.commands[1]
    assert not facts.corruptions and not facts.failures, "they are of one network"
    assert figure(facts.evaluations["test"]["auc"]) in card(facts)


LETTERS = {3: "abc", 5: "ab", 6: "abc", 8: "abc", 9: "abc", 12: "abcdefg", 18: "abcdef", 20: "abc", 23: "ab", 27: "abc"}
TRIPOD_NUMBERS = [f"{number}{letter}" for number in range(1, 28) for letter in LETTERS.get(number, [""])]


def test_the_guidelines_have_all_their_items():
    assert [item.number for item in checklists.CLAIM] == [str(number) for number in range(1, 45)]
    assert [item.number for item in checklists.TRIPOD_AI] == TRIPOD_NUMBERS


def test_an_answer_leads_to_a_section_that_is_there(run):
    markdown = card_of(run)
    headings, _, tokens = outline(markdown)
    anchors = {checklists.anchor(heading) for heading in headings}
    inline = [part for token in tokens if token.type == "inline" for part in token.children]
    links = {part.attrs["href"] for part in inline if part.type == "link_open"}
    assert len(links) >= 12 and {link[1:] for link in links} <= anchors
    sections = {item.section for item in checklists.CLAIM + checklists.TRIPOD_AI if item.section}
    assert sections <= set(headings), "also of items that this card does not answer"


def test_an_item_is_answered_only_where_its_facts_are(run):
    facts = facts_of(run)
    kinds = card_facts.available(facts)
    known = {f"about.{name}" for name in abouts.OF_THE_MODEL} | {f"sites.{name}" for name in abouts.OF_SITES}
    known |= {"config", "composition", "remarks", "evaluations", "internal", "external", "groups", "corruptions",
              "explanations", "audit"}  # fmt: skip
    for item in checklists.CLAIM + checklists.TRIPOD_AI:
        assert set(item.needs) <= known, item
        assert (checklists.where(item, kinds) != "not answered") == (bool(item.section) and set(item.needs) <= kinds)
    answered = {item.number: checklists.where(item, kinds) for item in checklists.CLAIM}
    assert answered["30"] == "[Corruptions](#corruptions)" and answered["44"] == "not answered"
    less = card_facts.available(facts._replace(corruptions={}))
    assert checklists.where(checklists.CLAIM[29], less) == "not answered"


def test_a_site_that_nothing_is_stated_of_leaves_the_item_open(tmp_path):
    facts = facts_of(write_run(tmp_path / "run", sites=("adults", "children")))
    one = {"sites": {"adults": {"license": "CC BY 4.0"}}}
    both = {"sites": one["sites"] | {"children": {"license": "CC BY 4.0"}}}
    assert "sites.license" not in card_facts.available(facts._replace(about=one))
    assert "sites.license" in card_facts.available(facts._replace(about=both))


@given(st.one_of(st.integers(-(10**9), 10**9), st.floats(-1e6, 1e6, allow_nan=False)))
def test_a_figure_can_be_read_back(value):
    text = figure(value)
    require_shown(text, [value], "figure")
    if value not in (0, 1):
        assert float(text.replace(",", "")) not in (0, 1) or type(value) is int


def test_the_template_is_in_the_package():
    assert (Path(checklists.__file__).parent / "card.md.jinja").is_file()
    assert len(records()) == 335
