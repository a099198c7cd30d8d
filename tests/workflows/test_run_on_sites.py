"""A run on several sites, from the command line: what it stores, and that it opens its images again."""

import numpy as np
import pytest
from etils import epath
from PIL import Image
from support import QUICK, draw_folder, in_process, read_json, read_rows, refused

from pneumojax.data.decode.images import resize
from pneumojax.runtime import config as configs
from pneumojax.workflows.export_films import MAX_WHOLE, films

SETTINGS = (
    "--config=m1", "--config.model.image_size=32", "--config.epochs=1", "--config.batch_size=8",
    "--config.data.cache_dir=cache", "--config.data.val_fraction=0.25", QUICK,
)  # fmt: skip


TRUST = "--config.data.trust=text=0.3"

pytestmark = pytest.mark.xdist_group("run on sites")


def described(root, weak=3):
    """Return a CSV of the images in a folder, in which every `weak`th is read by a text."""
    paths = sorted(path.relative_to(root) for path in root.rglob("*.png"))
    rows = (
        f"{path},{'radiologist' if number % weak else 'text'},{'PA' if number % 2 else 'AP'},{20 + number}"
        for number, path in enumerate(paths)
    )
    return "\n".join(("image,read_by,view,age", *rows)) + "\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with `one` and `two`, and `work`: a run on both. It printed `printed.txt`.

    `two` has a CSV: every third label is from a text, and weighs 0.3.
    """
    folder = tmp_path_factory.mktemp("sites")
    draw_folder(folder / "one", "train", 20, 30)
    draw_folder(folder / "one", "test", 6, 10, first=500)
    draw_folder(folder / "two", "", 30, 24, first=700)
    (folder / "two/films.csv").write_text(described(folder / "two"))
    flags = (TRUST, "--config.loss.class_weights=balanced_sites", "--data=old=one,new=two", "--workdir=work")
    done = in_process(*SETTINGS, *flags, cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    (folder / "printed.txt").write_text(done.stdout)
    return folder


def test_the_run_knows_its_sites(folder):
    config = read_json(folder / "work/config.json")
    assert config["data"]["source"] == f"old={folder}/one,new={folder}/two"
    sites = {row["id"].partition("/")[0] for row in read_rows(folder / "work/splits.csv")}
    assert sites == {"old", "new"}
    printed = (folder / "printed.txt").read_text()
    assert "new: 54 images, 30 normal and 24 pneumonia." in printed
    assert "<title>M1 (recommended) on old, new</title>" in (folder / "work/report/index.html").read_text()


def test_the_classes_of_each_site_are_balanced_if_the_user_says_so(folder):
    assert read_json(folder / "work/config.json")["loss"]["class_weights"] == "balanced_sites"
    assert "each class of each site has the same weight" in (folder / "printed.txt").read_text()


def test_it_opens_its_images_again(folder):
    done = in_process("--mode=evaluate", "--workdir=work", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert "have changed" not in done.stdout
    done = in_process("--mode=train", "--workdir=work", cwd=folder)
    assert "This run is complete" in done.stdout, done.stderr


def test_an_export_is_compared_on_whole_films_of_the_sites(folder):
    work = epath.Path(folder / "work")
    found = films(configs.read(work / "config.json"), work, None, None)
    assert len(found.whole) == min(len(found.squares), MAX_WHOLE)
    for film, square in zip(found.whole, found.squares, strict=False):
        np.testing.assert_array_equal(resize(Image.fromarray(film), 32), square)


def test_distrusted_labels_train_with_less_weight_and_judge_nothing(folder):
    rows = [row for row in read_rows(folder / "work/splits.csv") if row["id"].startswith("new/")]
    texts = {f"new/{row['image']}" for row in read_rows(folder / "two/films.csv") if row["read_by"] == "text"}
    assert len(texts) == 18
    for row in rows:
        expected = {("train", "0.3"), ("", "")} if row["id"] in texts else {("train", "1.0"), ("val", "1.0")}
        assert (row["split"], row["weight"]) in expected
    assert {row["split"] for row in rows} >= {"train", "val"}
    assert "18 images of weight 0.3" in (folder / "printed.txt").read_text()


def test_labels_that_are_trusted_otherwise_are_other_images(folder):
    """Resumed with other weights, a run would be neither the old one nor a new one."""
    table = folder / "two/films.csv"
    before = table.read_text()
    try:
        table.write_text(described(folder / "two", weak=4))
        done = in_process("--mode=train", "--workdir=work", cwd=folder)
        assert done.returncode == 2 and "are not those that the run in work started with" in done.stderr
    finally:
        table.write_text(before)
    line = refused("--mode=train", "--workdir=work", "--config.data.trust=text=0.5", cwd=folder, run=in_process)
    assert "data.trust='text=0.5', not 'text=0.3'" in line
    line = refused(*SETTINGS, "--config.data.trust=txt=0.5", "--data=two", cwd=folder, run=in_process)
    assert "no image has read_by 'txt'" in line


def test_sites_and_subgroups_are_scored_the_worst_first(folder):
    """The same images, by id, score the same in the CSV of the evaluation."""
    evaluation = read_json(folder / "work/evaluation/train.json")
    groups = {(group["by"], group["group"]): group for group in evaluation["groups"]}
    by = {column for column, _ in groups}
    assert by == {"site", "view", "read_by", "age"}, "the CSV of one site"
    assert {group for column, group in groups if column == "view"} == {"AP", "PA"}
    rows = [row for row in read_rows(folder / "work/evaluation/train.csv") if row["id"].startswith("new/")]
    labels, p = ([float(row[name]) for row in rows] for name in ("label", "probability"))
    new = groups["site", "new"]
    assert (new["n"], new["positives"]) == (len(rows), sum(labels))
    found = [q for label, q in zip(labels, p, strict=True) if label]
    assert new["sensitivity"] == sum(q >= evaluation["threshold"] for q in found) / len(found)
    scores = [group["balanced_accuracy"] for group in evaluation["groups"] if group["balanced_accuracy"] is not None]
    assert scores == sorted(scores)
    printed = (folder / "printed.txt").read_text()
    assert "Groups of train, the worst first:" in printed and "| site new" in printed
    assert "Sites and subgroups" in (folder / "work/report/index.html").read_text()


def test_sites_are_evaluated_as_one_source(folder):
    done = in_process("--mode=evaluate", "--workdir=work", "--data=a=one/train,b=two", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    evaluation = read_json(folder / "work/evaluation/a_b-all.json")
    assert evaluation["n"] == 50 + 54, "labels that are not trusted are scored too, as a group of their own"
    assert {group["group"]: group["n"] for group in evaluation["groups"] if group["by"] == "site"} == {"a": 50, "b": 54}
    worst = next(group for group in evaluation["groups"] if group["by"] == "site")
    assert f"The worst site is {worst['group']} (" in (folder / "work/report/index.html").read_text()


def test_the_default_workdir_is_named_by_the_sites(folder):
    done = in_process("--mode=audit", "--data=old=one,new=two", cwd=folder)
    assert done.returncode in (0, 1), done.stderr
    assert (folder / "runs/audit-old_new/audit/audit.json").exists()


def test_mistakes_are_one_line(folder):
    assert "site new: no such data" in refused(*SETTINGS, "--data=old=one,new=nowhere", cwd=folder, run=in_process)
    assert "two sites are named a" in refused(*SETTINGS, "--data=a=one,a=two", cwd=folder, run=in_process)
