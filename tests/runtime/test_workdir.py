"""What a workdir holds, and the names of its files that scripts outside rely on."""

import pytest
from etils import epath

from pneumojax.runtime import workdir as workdirs


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
