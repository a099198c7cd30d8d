"""What the documents say can be done can be done: links, commands, settings, figures, and the README's way through."""

import importlib.util
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from support import QUICK, ROOT, draw_folder, pneumojax

from pneumojax import main, modes
from pneumojax.config_rules import FURTHER
from pneumojax.runtime import config as configs
from pneumojax.runtime.config import split_overrides
from pneumojax.workflows import run_config

README = ROOT / "README.md"
BENCHMARKS = ROOT / "BENCHMARKS.md"
DOCUMENTS = [
    README,
    BENCHMARKS,
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
ELSEWHERE = ("docker", "kubectl", "sbatch", "srun", "mpirun", "scancel", "gcloud", "launch/tpu_vm.sh")
QUESTIONS = ("--help", "--help-config", "--version")


def name_of(document: Path) -> str:
    return str(document.relative_to(ROOT))


def blocks(text: str) -> Iterator[tuple[str, str]]:
    """The language and the content of every code block."""
    yield from re.findall(r"^```([^\n]*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def lines(document: Path) -> Iterator[tuple[str, str]]:
    """The block's language and each of its command lines, continued lines joined."""
    for language, content in blocks(document.read_text()):
        for line in content.replace("\\\n", " ").splitlines():
            yield language, line.strip()


def commands(document: Path) -> Iterator[list[str]]:
    """The arguments of every call of PneumoJAX in code blocks, those after the program."""
    for _, line in lines(document):
        words = shlex.split(line, comments=True) if re.match(r"pneumojax |(\S*/)?python -m ", line) else []
        if words[:1] == ["pneumojax"]:
            yield words[1:]
        elif words[1:2] == ["-m"] and words[2] in ("pneumojax", "pneumojax.main"):
            yield words[3:]


def slug(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.strip().lower().replace("`", "")).replace(" ", "-")


def anchors(document: Path) -> set[str]:
    return {slug(heading) for heading in re.findall(r"^#+ (.*)$", document.read_text(), re.MULTILINE)}


def test_the_first_pages_are_short():
    assert len(README.read_text().splitlines()) <= 150
    assert len(BENCHMARKS.read_text().splitlines()) <= 200


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_links_lead_somewhere(document):
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        path, _, anchor = target.partition("#")
        if "://" in target:
            continue
        found = document.parent / path if path else document
        assert found.exists(), f"{name_of(document)} links to {target}"
        assert not anchor or anchor in anchors(found), f"{name_of(document)} links to {target}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_commands_parse(document):
    """Every flag and every setting is known, and every value is in range."""
    for arguments in commands(document):
        plain, overrides = split_overrides(arguments)
        given = dict(argument.removeprefix("--").partition("=")[::2] for argument in plain if argument not in QUESTIONS)
        assert given.keys() <= set(main.FLAGS), arguments
        assert given.get("mode", "train") in modes.MODES, arguments
        config = configs.load(given.get("config") or "m1")
        run_config.completed(config, overrides, source=given.get("data"), further_rules=FURTHER)


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_settings_in_the_text_exist(document):
    known = configs.fields(configs.load("m1"))
    groups = {field.rpartition(".")[0] for field in known}
    for name in re.findall(r"--config\.([a-z_]+(?:\.[a-z_0-9]+)?)", document.read_text()):
        assert name in known or name in groups, f"{name_of(document)} names the setting {name}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_modules_targets_and_extras_exist(document):
    text = document.read_text()
    for module in re.findall(r"python -m (pneumojax[\w.]*|studies[\w.]*)", text):
        assert importlib.util.find_spec(module), f"{name_of(document)} runs {module}"
    targets = re.findall(r"^([\w./-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for target in re.findall(r"(?:^|`)make ([\w./-]+)", text, re.MULTILINE):
        assert target in targets, f"{name_of(document)} runs make {target}"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for extra in re.findall(r"-e \.\[(\w+)\]", text):
        assert extra in project["optional-dependencies"], f"{name_of(document)} installs {extra}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_commands_that_need_other_programs_are_marked(document):
    """A reader can run each unmarked block where PneumoJAX alone is installed."""
    for language, line in lines(document):
        if line.startswith(ELSEWHERE):
            assert language == "console", f"{name_of(document)}: {line}"


def test_figures_of_the_readme_are_those_of_the_benchmarks():
    """A figure is one of BENCHMARKS.md, or one of them rounded."""
    text = README.read_text()
    sections = re.findall(r"^## (?:What to expect|How fast)\n(.*?)(?=^## )", text, re.DOTALL | re.MULTILINE)
    assert len(sections) == 2
    known = re.findall(r"\d+(?:\.\d+)?", BENCHMARKS.read_text())
    paper = {"0.838", "0.8376"}  # its own figures: see docs/paper.md
    for figure in re.findall(r"\d+\.\d+|\d{3,}", re.sub(r"(?<=\d),(?=\d{3})", "", " ".join(sections))):
        places = len(figure.partition(".")[2])
        assert figure in paper or any(f"{float(one):.{places}f}" == figure for one in known), figure


def test_examples_of_the_readme_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    examples = [content for language, content in blocks(README.read_text()) if language == "python"]
    assert examples
    for example in examples:
        exec(example, {})


def test_the_readme_leads_from_images_to_scores_and_maps(tmp_path):
    """Its own commands, in its order, on small synthetic radiographs."""
    draw_folder(tmp_path / "chest_xray", "train", 60, 60)
    draw_folder(tmp_path / "chest_xray", "test", 10, 10, first=500)
    draw_folder(tmp_path / "other_hospital", "", 5, 5, first=700)
    draw_folder(tmp_path / "new_films", "", 2, 1, first=800)
    (tmp_path / "new_films/NORMAL/chest 000.png").rename(tmp_path / "new_films/film.png")
    cache = ["--config.data.cache_dir=cache"]
    plain = [f"--config.augment.{name}=0" for name in configs.load("m1").augment]  # which takes long to compile
    small = ["--config.model.image_size=32", "--config.epochs=1", "--config.batch_size=12", *plain, *cache]
    quick = [QUICK, "--config.explanation.samples=2"]
    run = tmp_path / "runs/m1-recommended-chest_xray"
    left = {
        "train": run / "report/index.html",
        "audit": tmp_path / "runs/audit-chest_xray/audit/index.html",
        "predict": run / "predictions/new_films.csv",
        "explain": run / "explanations/film.png/explained.csv",
        "evaluate": run / "evaluation/other_hospital-all.json",
    }
    for arguments in commands(README):
        given = dict(argument.removeprefix("--").partition("=")[::2] for argument in arguments)
        mode = given.get("mode", "train")
        if "data" not in given or given.get("config", "m1") != "m1":
            continue
        extra = {"train": small + quick, "explain": quick, "audit": cache}.get(mode, [])
        done = pneumojax(*arguments, *extra, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert left.pop(mode).exists(), mode
    assert not left


def test_the_citation_file_has_what_its_format_asks_for():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= citation.keys()
    for entry in (citation, *citation["references"]):
        assert (
            entry["type"] and entry["title"] and all("name" in one or "family-names" in one for one in entry["authors"])
        )


def test_the_changelog_has_the_version():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "version" in version["dynamic"]
    released = re.findall(r"^## \[(\d+\.\d+\.\d+)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert released == sorted(released, reverse=True)
    assert main.__version__ in released
