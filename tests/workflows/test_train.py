"""Training on every kind of source: the right images are trained on, and problems with them are reported."""

import shutil
import subprocess
import sys

import pytest
from etils import epath
from PIL import Image
from support import ROOT, draw_folder, one_epoch, read_rows

from pneumojax.runtime import config as configs
from pneumojax.runtime.errors import UserError
from pneumojax.workflows import audit, evaluate, train

pytestmark = [
    pytest.mark.usefixtures("one_device"),
    pytest.mark.filterwarnings(r"ignore:label\(\) is deprecated:DeprecationWarning"),  # Protobuf's, called by TFDS
]


def test_chexpert_labels_follow_the_rule(chexpert, tmp_path, capsys, start_run):
    work = epath.Path(tmp_path / "work")
    start_run(one_epoch(chexpert, tmp_path, label_rule="pneumonia-zeros"), work)
    printed = capsys.readouterr().out
    assert "rule pneumonia-zeros" in printed
    assert "train 20 pneumonia, 40 normal" in printed
    assert "val_given" in printed, "a val split that is too small is kept under this name"
    table = read_rows(work / "splits.csv")
    assert sum(int(row["label"]) for row in table) == 20 + sum(p % 3 == 1 for p in range(64541, 64549))
    assert all(int(row["id"][13:18]) % 3 == 1 for row in table if row["label"] == "1")
    # Evaluating the run on the same images by the paper's rule would compare unlike labels.
    config = one_epoch(chexpert, tmp_path, label_rule="abnormal")
    with pytest.raises(UserError, match="data.label_rule='abnormal', not 'pneumonia-zeros'"):
        evaluate.evaluate_run(config, work, None)


def test_no_identifier_in_a_header_is_written(tmp_path, capfd, draw_rsna):
    """Neither workdir, cache, audit nor terminal shows one, although patients are distinguished by them."""
    draw_rsna(tmp_path / "rsna", 24)
    first, second = sorted((tmp_path / "rsna/stage_2_train_images").iterdir())[:2]
    (tmp_path / "rsna/broken").mkdir()
    shutil.copy(first, tmp_path / "rsna/broken/x.dcm")
    (tmp_path / "rsna/broken/x.dcm").write_bytes(second.read_bytes()[:-500])
    with (tmp_path / "rsna/stage_2_train_labels.csv").open("a") as file:
        file.write("x,,,,,0\n")
    config = one_epoch(tmp_path / "rsna", tmp_path, on_error="skip")
    train.train_and_evaluate(config, epath.Path(tmp_path / "work"))
    audit.audit_source(config, epath.Path(tmp_path / "audit"))
    printed = "".join(capfd.readouterr())
    assert "1 unreadable" in printed
    for folder in ("work", "cache", "audit"):
        for path in (tmp_path / folder).rglob("*"):
            assert not path.is_file() or b"SECRET" not in path.read_bytes().upper(), path
    assert "secret" not in printed.lower()


def test_unreadable_images_stop_a_run_or_are_left_out_and_listed(tmp_path, capsys, start_run):
    draw_folder(tmp_path / "data", "train", 20, 20)
    for name in ("chest 003.png", "chest 007.png"):
        path = tmp_path / "data/train/NORMAL" / name
        path.write_bytes(path.read_bytes()[:200])
    work = epath.Path(tmp_path / "work")
    with pytest.raises(UserError, match="^2 unreadable.*: train/NORMAL/chest 003.png"):
        train.train_and_evaluate(one_epoch(tmp_path / "data", tmp_path), work)
    assert not work.exists()
    start_run(one_epoch(tmp_path / "data", tmp_path, on_error="skip"), work)
    assert "2 unreadable images left out: see" in capsys.readouterr().out
    assert [row["id"] for row in read_rows(work / "unreadable.csv")] == [
        "train/NORMAL/chest 003.png",
        "train/NORMAL/chest 007.png",
    ]
    table = read_rows(work / "splits.csv")
    assert len(table) == 40
    assert [row["id"][-7:-4] for row in table if not row["split"]] == ["003", "007"]


def test_leakage_between_splits_is_refused_or_reported(tmp_path, capsys, start_run):
    """A training image, brightened and encoded again, lies among the test images."""
    draw_folder(tmp_path / "data", "train", 20, 20)
    draw_folder(tmp_path / "data", "test", 5, 5, first=500)
    with Image.open(tmp_path / "data/train/NORMAL/chest 003.png") as image:
        image.point(lambda value: value * 0.97 + 3).save(tmp_path / "data/test/NORMAL/leak.jpeg", quality=85)
    work = epath.Path(tmp_path / "work")
    with pytest.raises(UserError, match="more than one split") as error:
        train.train_and_evaluate(one_epoch(tmp_path / "data", tmp_path), work)
    assert "chest 003.png" in str(error.value)
    assert "leak.jpeg" in str(error.value)
    assert not work.exists()
    start_run(one_epoch(tmp_path / "data", tmp_path, allow_leakage=True), work)
    [headline] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Audit: ")]
    assert headline.rpartition("; ")[2].startswith("1 ")


def test_copies_of_an_image_stay_in_one_split(tmp_path, start_run):
    """Their names say that they are of different patients."""
    draw_folder(tmp_path / "data", "", 30, 30)
    for path in sorted((tmp_path / "data").rglob("*.png")):
        shutil.copy(path, path.with_name(f"another {path.name}"))
    work = epath.Path(tmp_path / "work")
    start_run(one_epoch(tmp_path / "data", tmp_path), work)
    split_of = {row["id"]: row["split"] for row in read_rows(work / "splits.csv")}
    assert set(split_of.values()) == {"train", "val"}
    for id, split in split_of.items():
        assert split_of[id.replace("another ", "")] == split


def test_a_subset_has_the_numbers_of_images_asked_for(chexpert, tmp_path, start_run):
    work = epath.Path(tmp_path / "work")
    start_run(one_epoch(chexpert, tmp_path, subset="15,25"), work)
    table = [row for row in read_rows(work / "splits.csv") if row["split"] in ("train", "val")]
    assert [sum(row["label"] == label for row in table) for label in "01"] == [15, 25]


@pytest.mark.parametrize(
    ("subset", "message"), [("0,25", "the train split has no normal image"), ("0,0", "no image of a train split")]
)
def test_a_subset_that_nothing_can_be_trained_on_is_refused_before_there_is_a_workdir(
    chexpert, tmp_path, subset, message
):
    with pytest.raises(UserError, match=message):
        train.train_and_evaluate(one_epoch(chexpert, tmp_path, subset=subset), epath.Path(tmp_path / "work"))
    assert not (tmp_path / "work").exists()


def test_two_processes_do_not_train_in_one_workdir(chests, tmp_path, start_run):
    """The second is refused and changes nothing; the first may be killed, and leaves the workdir free."""
    config, work = one_epoch(chests, tmp_path), epath.Path(tmp_path / "work")
    first = subprocess.Popen([sys.executable, "-c", HOLDER, str(work)], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert first.stdout.readline() == "held\n"
    with pytest.raises(UserError, match="another process is training in .*work: wait for it"):
        train.train_and_evaluate(config, work)
    assert [path.name for path in work.iterdir()] == [".lock"]
    first.kill()
    first.communicate()
    start_run(config, work)


HOLDER = """
import sys, time
from etils import epath
from pneumojax.workflows import run_folder
with run_folder.alone(epath.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_run_that_was_killed_while_it_started_starts_again(chests, tmp_path, start_run):
    work = epath.Path(tmp_path / "work")
    work.mkdir()
    for name in ("splits.csv", "config.json.unfinished"):
        (work / name).write_text("{")
    config = one_epoch(chests, tmp_path)
    start_run(config, work)
    assert len(read_rows(work / "splits.csv")) == 160
    stored = configs.with_fields(config, {"data.cache_dir": ""})  # a workdir does not say where to write
    assert configs.read(work / "config.json").to_dict() == stored.to_dict()


def test_a_config_given_to_train_is_not_changed(chests, tmp_path, monkeypatch, start_run):
    """Its source is a relative path: the run's own config, on disk, has the absolute one."""
    monkeypatch.chdir(chests.parent)
    config = one_epoch("chests", tmp_path)
    before = config.to_dict()
    start_run(config, epath.Path(tmp_path / "work"))
    assert config.to_dict() == before
    assert configs.read(epath.Path(tmp_path / "work/config.json")).data.source == str(chests)
