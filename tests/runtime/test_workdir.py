"""What a workdir holds, and the names of its files that scripts outside rely on."""

import os

import pytest
from etils import epath

from pneumojax.runtime import workdir as workdirs
from pneumojax.runtime.errors import UserError


def test_the_names_are_those_that_scripts_rely_on():
    names = (
        workdirs.CONFIG, workdirs.SPLITS, workdirs.CHECKPOINTS, workdirs.METRICS, workdirs.EVALUATION,
        workdirs.CORRUPTIONS, workdirs.PREDICTIONS, workdirs.EXPLANATIONS, workdirs.REPORT, workdirs.AUDIT_JSON,
        workdirs.AUDIT_REPORT, workdirs.EXPERIMENT, workdirs.EXPERIMENT_TABLES, workdirs.BENCHMARK,
        workdirs.BENCHMARK_TABLES,
    )  # fmt: skip
    assert names == (
        "config.json", "splits.csv", "checkpoints", "metrics.jsonl", "evaluation", "corruptions", "predictions",
        "explanations", "report/index.html", "audit/audit.json", "audit/index.html", "experiment.json",
        "experiment.md", "benchmark.json", "benchmark.md",
    )  # fmt: skip


@pytest.mark.parametrize("name", [workdirs.CONFIG, workdirs.EXPERIMENT])
def test_a_workdir_holds_a_run_or_an_experiment_by_its_file(tmp_path, name):
    workdir = epath.Path(tmp_path)
    assert not workdirs.is_run(workdir)
    assert not workdirs.is_experiment(workdir)
    (workdir / name).touch()
    assert workdirs.is_run(workdir) is (name == workdirs.CONFIG)
    assert workdirs.is_experiment(workdir) is (name == workdirs.EXPERIMENT)


def test_without_a_workdir_there_is_no_experiment():
    assert not workdirs.is_experiment(None)


def test_unfinished_files_are_not_listed(tmp_path):
    """A killed process leaves them: they must not make a workdir look used."""
    workdir = epath.Path(tmp_path) / "work"
    assert workdirs.names_in(workdir) == set(), "not created yet"
    (workdir / workdirs.CHECKPOINTS).mkdir(parents=True)
    for name in (workdirs.CONFIG, f"splits.csv.123{workdirs.UNFINISHED}"):
        (workdir / name).touch()
    assert workdirs.names_in(workdir) == {workdirs.CONFIG, workdirs.CHECKPOINTS}


@pytest.fixture
def used(tmp_path):
    """A workdir with files and folders, reached by a link, which a user may set."""
    (tmp_path / "disk/checkpoints/3/model").mkdir(parents=True)
    (tmp_path / "disk/config.json").write_text("{}")
    (tmp_path / "work").symlink_to("disk")
    return epath.Path(tmp_path / "work")


@pytest.mark.parametrize("name", [".lock", "config.json", "evaluation", "checkpoints/3/model/d", "places/x", "report"])
@pytest.mark.parametrize("kind", ["link", "dangling link", "pipe"])
def test_a_link_or_a_pipe_in_a_workdir_is_refused(used, tmp_path, name, kind):
    """Through a link, files elsewhere would be written over; a pipe would be read forever."""
    workdirs.refuse_links(used)
    (used / name).parent.mkdir(exist_ok=True)
    (used / name).unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(used / name)
    else:
        os.symlink(tmp_path if kind == "link" else "nowhere", used / name)
    with pytest.raises(UserError, match=f"{name} is a {kind.split()[-1]}.*: a workdir holds files and folders only"):
        workdirs.refuse_links(used)


def test_what_the_user_keeps_in_a_workdir_is_not_looked_at(used):
    os.symlink("/somewhere", used / "notes")
    workdirs.refuse_links(used)
    with pytest.raises(UserError, match="notes is a link"):
        workdirs.refuse_links(used, ["notes"])


def test_exported_models_of_different_runs_write_to_different_places():
    """Their folders are all called export."""
    places = [workdirs.default_of(epath.Path(f"runs/{run}/export")) for run in ("a", "b")]
    assert places == [epath.Path("runs/model-a"), epath.Path("runs/model-b")]
    assert workdirs.default_of(epath.Path("weights/m1")) == epath.Path("runs/model-m1")
