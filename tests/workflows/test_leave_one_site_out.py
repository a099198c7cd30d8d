"""An experiment that leaves each site out in turn, from the command line: splits, evaluations, tables."""

import numpy as np
import pytest
from support import QUICK, draw_folder, in_process, read_json, read_rows, refused

SETTINGS = (
    "--mode=experiment", "--config=m1", "--config.model.image_size=32", "--config.epochs=1", "--config.batch_size=8",
    "--config.data.cache_dir=cache", "--config.data.val_fraction=0.25", "--config.experiment.recipes=paper",
    "--config.experiment.corruptions=false", QUICK,
)  # fmt: skip
LEFT_OUT = "--config.experiment.leave_one_site_out=true"

pytestmark = pytest.mark.xdist_group("leave one site out")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the sites `one` and `two`, and `work`: an experiment that leaves out each. It printed `out.txt`."""
    folder = tmp_path_factory.mktemp("sites")
    draw_folder(folder / "one", "train", 16, 20)
    draw_folder(folder / "one", "test", 10, 10, first=500)
    draw_folder(folder / "two", "", 20, 16, first=700)
    done = in_process(*SETTINGS, LEFT_OUT, "--data=old=one,new=two", "--workdir=work", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    (folder / "out.txt").write_text(done.stdout)
    return folder


def test_each_run_is_trained_without_its_site_and_evaluated_on_it(folder):
    for site, other, count in (("old", "new", 56), ("new", "old", 36)):
        work = folder / f"work/m1-paper-without-{site}-seed0"
        assert read_json(work / "config.json")["data"]["leave_out_site"] == site
        sites = {}
        for row in read_rows(work / "splits.csv"):
            sites.setdefault(row["split"], set()).add(row["id"].partition("/")[0])
        assert sites.pop("unseen") == {site}
        assert set(map(frozenset, sites.values())) == {frozenset({other})} and sites.keys() >= {"train", "val"}
        assert read_json(work / "evaluation/unseen.json")["n"] == count


def test_the_table_of_sites_has_each_site_the_worst_first(folder):
    tables = (folder / "work/experiment.md").read_text()
    assert tables in (folder / "out.txt").read_text()
    lines = tables.partition("**Sites left out.**")[2].splitlines()[4:6]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    scores = {}
    for site in ("old", "new"):
        evaluation = read_json(folder / f"work/m1-paper-without-{site}-seed0/evaluation/unseen.json")
        scores[site] = [f"{evaluation[name]:.4f}" for name in ("auc", "balanced_accuracy")]
    assert {row[1]: row[2:4] for row in rows} == scores
    assert [row[0] for row in rows] == ["M1 paper"] * 2
    balanced = [float(row[3]) for row in rows]
    assert balanced == sorted(balanced)
    mean = np.mean([float(auc) for auc, _ in scores.values()])
    models = tables.partition("**Models on unseen")[2].splitlines()
    model = next(line for line in models if line.startswith("| M1 paper"))
    assert abs(float(model.split("|")[3].split("±")[0]) - mean) < 2e-4, "the table of models is over the sites"
    assert "Sites left out" in (folder / "work/report/index.html").read_text()


def test_the_same_command_finds_all_done_and_seeds_can_be_listed(folder):
    done = in_process(*SETTINGS, LEFT_OUT, "--data=old=one,new=two", "--workdir=work", cwd=folder)
    assert done.stdout.count("This run is complete") == 2, done.stderr
    seeds = "--config.experiment.seeds=0,1"
    arguments = (*SETTINGS, LEFT_OUT, seeds, "--config.experiment.dry_run", "--data=old=one,new=two", "--workdir=work")
    done = in_process(*arguments, cwd=folder)
    assert done.stdout.count("finished") == 2 and "m1-paper-without-new-seed1" in done.stdout, done.stderr


def test_one_run_can_leave_a_site_out(folder):
    command = ("--config=m1", "--config.data.leave_out_site=neu", "--data=old=one,new=two")
    assert "'data.leave_out_site' must be empty, or the name of a site" in refused(*command, cwd=folder, run=in_process)
    assert "leave_one_site_out' must be false" in refused(*SETTINGS, LEFT_OUT, "--data=one", cwd=folder, run=in_process)
