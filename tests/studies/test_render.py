"""The documentation's tables are what the results of studies give."""

import json
import re
import shutil
from pathlib import Path

import pytest

from studies import cost, render, study, tables
from studies.table import cell

ROOT = study.ROOT
RESULTS = sorted(path.stem for path in study.RESULTS.glob("*.json"))


def copied(folder: Path) -> Path:
    """A folder with the pages alone."""
    (folder / "docs").mkdir()
    shutil.copytree(ROOT / "docs" / "benchmarks", folder / "docs" / "benchmarks")
    for name in ("README.md", "BENCHMARKS.md"):
        shutil.copy(ROOT / name, folder / name)
    return folder


def test_every_page_is_what_the_results_give() -> None:
    pages = [page.name for page, _ in render.outdated(ROOT)]
    assert not pages, f"{pages} are not what studies/results gives: run `python -m studies.render`"


def test_a_changed_digit_in_a_page_is_found(tmp_path: Path) -> None:
    root = copied(tmp_path)
    assert not list(render.outdated(root))
    page = root / "BENCHMARKS.md"
    text = page.read_text()
    assert text.count("0.848") == 1
    page.write_text(text.replace("0.848", "0.849"))
    assert list(render.outdated(root)) == [(page, text)]


def test_a_changed_figure_in_a_result_is_found(tmp_path: Path) -> None:
    results = tmp_path / "results"
    shutil.copytree(study.RESULTS, results)
    assert not list(render.outdated(ROOT, results))
    result = study.read("elsewhere", results)
    result["figures"]["rows"][2]["auc"] = 0.849
    study.write(results / "elsewhere.json", result)
    assert {page.name for page, _ in render.outdated(ROOT, results)} == {"BENCHMARKS.md", "learning.md"}


def test_check_exits_with_1_and_names_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    root = copied(tmp_path)
    page = root / "docs" / "benchmarks" / "parity.md"
    page.write_text(page.read_text().replace("5.0e-06", "5.1e-06"))
    monkeypatch.setattr(study, "ROOT", root)
    with pytest.raises(SystemExit) as ended:
        render.main(["--check"])
    assert ended.value.code == 1
    assert capsys.readouterr().err == (
        "docs/benchmarks/parity.md is not what studies/results gives: run `python -m studies.render`\n"
    )
    render.main([])
    assert page.read_text() == (ROOT / "docs" / "benchmarks" / "parity.md").read_text()
    render.main(["--check"])


def test_every_table_and_every_result_is_shown() -> None:
    text = "".join(page.read_text() for page in render.pages(ROOT))
    marks = re.findall(r"<!-- (?:table|source): (\S+) -->", text)
    results = {*RESULTS, *tables.AWAITED}
    assert {name for name, table in tables.TABLES.items() if table.result in results} <= set(marks)
    assert {tables.TABLES[name].result for name in marks if name in tables.TABLES} == results
    assert text.count("<!-- end -->") == len(marks)


@pytest.mark.parametrize("name", RESULTS)
def test_a_result_says_where_it_comes_from(name: str) -> None:
    result = study.read(name)
    assert result["machine"]
    assert result.keys() >= {"study", "command", "machine", "date", "commit", "figures"}
    assert json.loads((study.RESULTS / f"{name}.json").read_text()) == result


def test_a_table_whose_result_is_awaited_names_the_command(tmp_path: Path) -> None:
    """A mistyped result must not pass for one that is awaited."""
    page = "<!-- table: gpu-steps -->\n<!-- end -->"
    assert "Not measured yet: `make gpu` measures it." in render.rendered(page, tmp_path)
    steps = [{"step": "card", "summary": "the card", "outcome": "done", "seconds": 9.0, "rows": 7, "reason": None}]
    study.write(tmp_path / "gpu.json", {"figures": {"steps": steps}})
    assert "| card | the card | done    | 9 | 7    |        |" in render.rendered(page, tmp_path)
    with pytest.raises(FileNotFoundError):
        render.rendered("<!-- source: no-such -->\n<!-- end -->", tmp_path)


def test_an_unknown_table_is_an_error() -> None:
    with pytest.raises(KeyError):
        render.rendered("<!-- table: no-such -->\n<!-- end -->")


def test_the_counts_of_the_cost_model_are_those_of_the_code() -> None:
    """They need no measurement, and so cannot be out of date."""
    figures = study.read("cost")["figures"]
    for name in ("cost-counted", "cost-growth", "cost-ring", "cost-h100"):
        assert tables.render(name, figures) == tables.render(name, cost.counts())


def test_links_of_the_pages_lead_somewhere() -> None:
    for page in render.pages(ROOT)[1:]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_first_page_is_short() -> None:
    assert len((ROOT / "BENCHMARKS.md").read_text().splitlines()) <= 200


def test_cells() -> None:
    template = "{mean:.2f} ± {sd:.2f}|{mean:.2f}|none"
    assert cell(template, {"mean": 0.5, "sd": 0.1}) == "0.50 ± 0.10"
    assert cell(template, {"mean": 0.5, "sd": None}) == "0.50"
    assert cell(template, {"mean": None, "sd": None}) == "none"
    assert cell("{ratio[median]:.1f}", {"ratio": None}) == ""
    with pytest.raises(KeyError):
        cell("{mean}", {})


def test_a_source_has_machine_and_command() -> None:
    described = {
        "cpu": "CPU X", "instructions": "AVX", "cores": 2, "memory_bytes": 24e9, "system": "Linux",
        "versions": {"python": "3.11", "jax": "1.0"},
    }  # fmt: skip
    assert render.source({"machine": described, "command": "run"}) == (
        "Machine: 2 cores of CPU X with AVX, 24 GB of memory, Linux; python 3.11, jax 1.0.\n\n```\nrun\n```"
    )
    assert render.source({"machine": "a laptop", "command": None}) == "Machine: a laptop."
