"""A run on several sites, from the command line: what it stores, and that it opens its images again."""

import pytest
from support import draw_folder, pneumojax, read_json, read_rows, refused

SETTINGS = (
    "--config=m1", "--config.model.image_size=32", "--config.epochs=1", "--config.batch_size=8",
    "--config.data.cache_dir=cache", "--config.data.val_fraction=0.25",
)  # fmt: skip


pytestmark = pytest.mark.xdist_group("run on sites")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with `one` and `two`, and `work`: a run on both. It printed `printed.txt`."""
    folder = tmp_path_factory.mktemp("sites")
    draw_folder(folder / "one", "train", 20, 30)
    draw_folder(folder / "one", "test", 6, 10, first=500)
    draw_folder(folder / "two", "", 16, 12, first=700)
    done = pneumojax(*SETTINGS, "--data=old=one,new=two", "--workdir=work", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    (folder / "printed.txt").write_text(done.stdout)
    return folder


def test_the_run_knows_its_sites(folder):
    config = read_json(folder / "work/config.json")
    assert config["data"]["source"] == f"old={folder}/one,new={folder}/two"
    sites = {row["id"].partition("/")[0] for row in read_rows(folder / "work/splits.csv")}
    assert sites == {"old", "new"}
    printed = (folder / "printed.txt").read_text()
    assert "new: 28 images, 16 normal and 12 pneumonia." in printed
    assert "<title>M1 (recommended) on old, new</title>" in (folder / "work/report/index.html").read_text()


def test_it_opens_its_images_again(folder):
    done = pneumojax("--mode=evaluate", "--workdir=work", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert "have changed" not in done.stdout
    done = pneumojax("--mode=train", "--workdir=work", cwd=folder)
    assert "This run is complete" in done.stdout, done.stderr


def test_sites_are_evaluated_as_one_source(folder):
    done = pneumojax("--mode=evaluate", "--workdir=work", "--data=a=one/test,b=two", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert read_json(folder / "work/evaluation/a_b-all.json")["n"] == 16 + 28


def test_the_default_workdir_is_named_by_the_sites(folder):
    done = pneumojax("--mode=audit", "--data=old=one,new=two", cwd=folder)
    assert done.returncode in (0, 1), done.stderr
    assert (folder / "runs/audit-old_new/audit/audit.json").exists()


def test_mistakes_are_one_line(folder):
    assert "site new: no such data" in refused(*SETTINGS, "--data=old=one,new=nowhere", cwd=folder)
    assert "two sites are named a" in refused(*SETTINGS, "--data=a=one,a=two", cwd=folder)
