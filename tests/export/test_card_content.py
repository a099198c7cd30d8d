"""What else a model card holds: front matter, what the user states, pictures, commands; texts are only text."""

import io
import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import yaml
from card_runs import (
    EXPORT,
    PLACES,
    card_of,
    content_of,
    facts_of,
    outline,
    records,
    shown,
    tables_of,
    trained,
    write_run,
)
from etils import epath
from PIL import Image

from pneumojax.data.audit import findings
from pneumojax.evaluation import comparison, results
from pneumojax.export import about as abouts
from pneumojax.export import checklists
from pneumojax.export.card import card
from pneumojax.export.card_text import figure
from pneumojax.runtime import config as configs
from pneumojax.runtime.errors import UserError
from pneumojax.workflows import model_card

HOSTILE = '<script>alert("x")</script>&amp; | [a](javascript:b) `c` ![d](e) **f** $g$\n# h'


def test_texts_from_files_are_only_text(copied):
    """A remark, a stem, a group or a user's text may hold Markdown or HTML: a reader sees it as it is."""
    facts = facts_of(copied)
    evaluation = dict(facts.evaluations["test"])
    evaluation["groups"] = [evaluation["groups"][0] | {"by": HOSTILE, "group": HOSTILE}]
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


def test_the_front_matter_is_that_of_hugging_face(card_run):
    front = yaml.safe_load(card_of(card_run).split("---\n")[1])
    assert front["library_name"] == "pneumojax" and front["pipeline_tag"] == "image-classification"
    assert front["license"] == "unknown" and front["datasets"] == ["chests"]
    [model] = front["model-index"]
    measured = {result["dataset"]["split"]: result for result in model["results"]}
    assert set(measured) == {"test", "val", "all"}, "what it was trained on says nothing"
    for stem, result in (("test", measured["test"]), ("other_hospital-all", measured["all"])):
        values = {metric["name"]: metric["value"] for metric in result["metrics"]}
        found = content_of(card_run, f"evaluation/{stem}.json")
        assert values == pytest.approx({name: found[name] for name in values}, abs=5e-4)
        assert set(values) == {"auc", "accuracy", "sensitivity", "specificity"}


@pytest.mark.parametrize(
    "license, key", [("Apache-2.0", "apache-2.0"), ("cc-by-4.0", "cc-by-4.0"), ("Ask me.", "other")]
)
def test_the_license_is_as_hugging_face_names_it(card_run, tmp_path, license, key):
    (tmp_path / "about.json").write_text(json.dumps({"license": license}))
    front = yaml.safe_load(card_of(card_run, about=str(tmp_path / "about.json")).split("---\n")[1])
    assert front["license"] == key and front.get("license_name", license) == license


def test_synthetic_images_give_no_results_to_compare(tmp_path):
    workdir = write_run(tmp_path / "run", notice="Synthetic phantom radiographs, not patients.", place="phantom")
    files = model_card.files_of(facts_of(workdir))
    markdown = files["README.md"].decode()
    assert "model-index" not in markdown and "synthetic-data" in markdown
    assert markdown.index("Synthetic phantom radiographs") < markdown.index("## Basic Info")
    assert set(files) == {"README.md", "card.json", "pictures/error-1.png", "pictures/error-2.png"}, "they may be shown"


def test_films_are_shown_only_where_that_is_allowed(card_run, tmp_path):
    assert set(model_card.files_of(facts_of(card_run))) == {"README.md", "card.json"}
    assert "Films are not shown" in card_of(card_run)
    (tmp_path / "about.toml").write_text("show_pictures = true\n")
    files = model_card.files_of(facts_of(card_run, about=str(tmp_path / "about.toml")))
    picture = np.asarray(Image.open(io.BytesIO(files["pictures/error-1.png"])))
    assert picture.shape == (8, 16, 3) and (picture[:, :8] == 90).all() and (picture[:, 8:] == 30).all()
    tokens = outline(files["README.md"].decode())[2]
    images = [part for token in tokens if token.type == "inline" for part in token.children if part.type == "image"]
    assert {part.attrs["src"] for part in images} == set(files) - {"README.md", "card.json"}


def test_one_synthetic_site_does_not_let_the_films_of_another_be_shown(tmp_path):
    place, notice = f"drawn=phantom,real={tmp_path}/films", "drawn: Synthetic phantom radiographs, not patients."
    workdir = write_run(tmp_path / "run", notice=notice, sites=("drawn", "real"), place=place)
    assert set(model_card.files_of(facts_of(workdir))) == {"README.md", "card.json"}


@pytest.mark.parametrize("location", ["/data/a=b/c", "/data/films,b=c", "tfds:pneumonia_mnist", "phantom"])
def test_a_plain_place_is_one_source(location, tmp_path):
    facts = facts_of(write_run(tmp_path / "run", place=location))
    assert len(facts.sources) == 1 and "/" not in facts.sources[0]
    assert set(facts.composition["test"]) == {""}


def test_no_place_on_the_machine_and_no_id_of_a_film_is_told(card_run, copied):
    markdown = card_of(copied) + card_of(card_run)
    assert str(card_run.parent) not in markdown and str(copied.parent) not in markdown and "/home" not in markdown
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
def test_what_the_user_states_is_in_the_card(card_run, tmp_path, name):
    content = {"developer": "A hospital", "license": "cc-by-4.0", "intended_use": "Research on flags."}
    sites = {"chests": {"title": "Labeled chest films", "license": "CC BY 4.0", "dates": "2013 to 2017"}}
    (tmp_path / name).write_text(ABOUT if name.endswith("toml") else json.dumps(content | {"sites": sites}))
    markdown = card_of(card_run, about=str(tmp_path / name))
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
def test_a_wrong_statement_is_refused_in_one_line(card_run, tmp_path, content, message):
    path = tmp_path / "about.toml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=message) as refused:
        facts_of(card_run, about=str(path))
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


def test_the_training_command_makes_the_same_config(card_run):
    training, exporting = facts_of(card_run).commands
    assert exporting == EXPORT
    program, mode, spec, data, *overrides = shlex.split(training)
    assert (program, mode, spec, data) == ("pneumojax", "--mode=train", "--config=m2:paper", "--data=chests")
    others, assignments = configs.split_overrides(overrides)
    made = configs.override(configs.load(spec.partition("=")[2]), assignments)
    saved = configs.read(card_run / "config.json")
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


def test_the_template_is_in_the_package():
    assert (Path(checklists.__file__).parent / "card.md.jinja").is_file()
    assert len(records()) == 335
