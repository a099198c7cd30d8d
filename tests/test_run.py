"""Modes on every kind of source: what is read is what is trained on, and what is wrong with it is told."""

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from conftest import ROOT, SIZE, draw_folder, pneumojax
from etils import epath
from PIL import Image

from pneumojax import config as configs
from pneumojax import curate, devices, run, shifts
from pneumojax.data import phantom
from pneumojax.errors import UserError

pytestmark = pytest.mark.filterwarnings(r"ignore:label\(\) is deprecated:DeprecationWarning")  # TFDS of Protobuf


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    """What is compiled for eight takes long, and it is not their number that counts here."""
    own = devices.layout(jax.devices()[:1])
    monkeypatch.setattr(devices, "layout", lambda: own)


def small(source, tmp_path, **data):
    config = configs.load("m1")
    config.epochs, config.batch_size, config.model.image_size = 1, 8, SIZE
    config.data.update({"source": str(source), "cache_dir": str(tmp_path / "cache"), "val_fraction": 0.25} | data)
    configs.check(config)
    return config


def rows(path):
    return list(csv.DictReader(io.StringIO(path.read_text(), newline="")))


def draw(path, label, number):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(phantom.render(5, number, label, 48)[0]).save(path)


@pytest.fixture
def begin(monkeypatch):
    """`train_mode`, but that it ends where the first step would be computed."""

    def begin(config, workdir):
        with monkeypatch.context() as patch:
            patch.setattr(run, "train", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                run.train_mode(config, workdir)

    return begin


@pytest.fixture(scope="module")
def complete(finished, tmp_path_factory):
    """A function that copies a complete run on `chests` into a folder: its config and its workdir."""

    def copy(folder):
        work = epath.Path(shutil.copytree(finished[0] / "work", folder / "work"))
        config = configs.read(work / "config.json")
        config.data.cache_dir = str(finished[0] / "cache")
        return config, work

    return copy


@pytest.fixture(scope="module")
def chexpert(tmp_path_factory):
    """CheXpert's layout: 60 patients to train on, 8 to validate on; a third uncertain of pneumonia."""
    root = tmp_path_factory.mktemp("data") / "CheXpert-v1.0-small"
    names = "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Pneumonia"
    for split, first, patients in (("train", 1, 60), ("valid", 64541, 8)):
        lines = [names]
        for patient in range(first, first + patients):
            kind = patient % 3
            path = f"{split}/patient{patient:05d}/study1/view1_frontal.jpg"
            draw(root / path, int(kind != 0), patient)
            labels = ("1.0,", ",1.0", ",-1.0")[kind]
            lines.append(f"{root.name}/{path},Female,50,Frontal,AP,{labels}")
        (root / f"{split}.csv").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture(scope="module")
def npz(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "drawn_28.npz"
    arrays = {}
    for number, (split, count) in enumerate((("train", 60), ("test", 12))):
        labels = np.arange(count) % 2
        images = [phantom.render(6, 1000 * number + i, int(label), 28)[0] for i, label in enumerate(labels)]
        arrays |= {f"{split}_images": np.stack(images), f"{split}_labels": labels[:, None]}
    np.savez_compressed(path, **arrays)
    return path


def test_chexpert_is_trained_on_by_the_rule(chexpert, tmp_path, capsys, begin):
    work = tmp_path / "work"
    begin(small(chexpert, tmp_path, label_rule="pneumonia-zeros"), epath.Path(work))
    told = capsys.readouterr().out
    assert "rule pneumonia-zeros" in told
    assert "train 20 pneumonia, 40 normal" in told
    assert "too small to choose a model by: it is kept as val_given" in told
    table = rows(work / "splits.csv")
    assert sum(int(row["label"]) for row in table) == 20 + sum(p % 3 == 1 for p in range(64541, 64549))
    assert all(int(row["id"][13:18]) % 3 == 1 for row in table if row["label"] == "1")
    # The same images by the paper's rule, as another reader of the same run would want them.
    config = small(chexpert, tmp_path, label_rule="abnormal")
    with pytest.raises(UserError, match="data.label_rule='abnormal', not 'pneumonia-zeros'"):
        run.evaluate_mode(config, epath.Path(work), None)


def test_a_run_at_28_pixels_is_evaluated_on_sources_of_every_kind(npz, chexpert, tmp_path, capsys):
    work = epath.Path(tmp_path / "work")
    config = small(npz, tmp_path)
    config.model.image_size = 28
    run.train_mode(config, work)
    found = {path.stem: json.loads(path.read_text()) for path in (work / "evaluation").glob("*.json")}
    assert {name: told["n"] for name, told in found.items()} == {"train": 46, "val": 14, "test": 12}
    dicom = tmp_path / "rsna"
    rsna(dicom, 10)
    for source, expected in ((dicom, {"rsna-all": (10, 5)}), (chexpert, {"CheXpert_v1.0_small-val": (8, 5)})):
        run.evaluate_mode(config, work, str(source))
        for name, (n, positives) in expected.items():
            told = json.loads((work / f"evaluation/{name}.json").read_text())
            assert (told["n"], told["positives"]) == (n, positives)


def rsna(root, count):
    """RSNA's layout, of files that pydicom writes."""
    import pydicom
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

    lines = ["patientId,x,y,width,height,Target"]
    for number in range(count):
        label, name = number % 2, f"{number:08d}-aaaa"
        image = phantom.render(8, number, label, 64)[0]
        ds = pydicom.Dataset()
        ds.file_meta = pydicom.dataset.FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.SOPClassUID, ds.SOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
        ds.PatientID, ds.PatientName, ds.Modality = f"SECRET{number}", "Doe^Secret", "CR"
        ds.Rows, ds.Columns = image.shape
        ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 0
        ds.BitsAllocated = ds.BitsStored = 8
        ds.HighBit, ds.PixelData = 7, image.tobytes()
        path = root / "stage_2_train_images" / f"{name}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        ds.save_as(path, enforce_file_format=True)
        lines += [f"{name},10,20,30,40,1"] * 2 if label else [f"{name},,,,,0"]
    (root / "stage_2_train_labels.csv").write_text("\n".join(lines) + "\n")


def test_no_identifier_of_a_header_is_written(tmp_path, capfd):
    """Not in the workdir, the cache, the audit, nor on the terminal, though patients are told apart."""
    rsna(tmp_path / "rsna", 24)
    one, other = sorted((tmp_path / "rsna/stage_2_train_images").iterdir())[:2]
    (tmp_path / "rsna/broken").mkdir()
    shutil.copy(one, tmp_path / "rsna/broken/x.dcm")
    (tmp_path / "rsna/broken/x.dcm").write_bytes(other.read_bytes()[:-500])
    with (tmp_path / "rsna/stage_2_train_labels.csv").open("a") as file:
        file.write("x,,,,,0\n")
    config = small(tmp_path / "rsna", tmp_path, on_error="skip")
    run.train_mode(config, epath.Path(tmp_path / "work"))
    curate.audit_mode(config, epath.Path(tmp_path / "audit"))
    printed = "".join(capfd.readouterr())
    assert "1 unreadable" in printed
    for folder in ("work", "cache", "audit"):
        for path in (tmp_path / folder).rglob("*"):
            assert not path.is_file() or b"SECRET" not in path.read_bytes().upper(), path
    assert "secret" not in printed.lower()


def test_unreadable_images_stop_a_run_or_are_left_out_and_listed(tmp_path, capsys, begin):
    draw_folder(tmp_path / "data", "train", 20, 20)
    for name in ("chest 003.png", "chest 007.png"):
        path = tmp_path / "data/train/NORMAL" / name
        path.write_bytes(path.read_bytes()[:200])
    work = epath.Path(tmp_path / "work")
    with pytest.raises(UserError, match="^2 unreadable: train/NORMAL/chest 003.png"):
        run.train_mode(small(tmp_path / "data", tmp_path), work)
    assert not work.exists()
    begin(small(tmp_path / "data", tmp_path, on_error="skip"), work)
    told = capsys.readouterr().out
    assert "2 unreadable images are left out" in told
    assert [row["id"] for row in rows(work / "unreadable.csv")] == [
        "train/NORMAL/chest 003.png",
        "train/NORMAL/chest 007.png",
    ]
    table = rows(work / "splits.csv")
    assert len(table) == 40
    assert [row["id"][-7:-4] for row in table if not row["split"]] == ["003", "007"]


def test_leakage_across_splits_is_refused_or_allowed_aloud(tmp_path, capsys, begin):
    """A training image, encoded anew and brightened, among the test images."""
    draw_folder(tmp_path / "data", "train", 20, 20)
    draw_folder(tmp_path / "data", "test", 5, 5, first=500)
    with Image.open(tmp_path / "data/train/NORMAL/chest 003.png") as image:
        image.point(lambda value: value * 0.97 + 3).save(tmp_path / "data/test/NORMAL/leak.jpeg", quality=85)
    work = epath.Path(tmp_path / "work")
    with pytest.raises(UserError, match="^1 patients or pictures lie in more than one split") as told:
        run.train_mode(small(tmp_path / "data", tmp_path), work)
    assert "chest 003.png" in str(told.value)
    assert "leak.jpeg" in str(told.value)
    assert not work.exists()
    begin(small(tmp_path / "data", tmp_path, allow_leakage=True), work)
    assert "1 patients or pictures in more than one given split" in capsys.readouterr().out


def test_sources_of_one_name_do_not_overwrite_each_other(complete, tmp_path):
    config, work = complete(tmp_path)
    draw_folder(tmp_path / "one/data", "", 3, 3)
    draw_folder(tmp_path / "two/data", "", 4, 4)
    run.evaluate_mode(config, work, str(tmp_path / "one/data"))
    with pytest.raises(UserError, match=r"data-all.json is of .*one/data: rename"):
        run.evaluate_mode(config, work, str(tmp_path / "two/data"))
    assert json.loads((work / "evaluation/data-all.json").read_text())["n"] == 6
    curate.audit_mode(small(tmp_path / "one/data", tmp_path), work)
    with pytest.raises(UserError, match=r"audit.json is of .*one/data: choose another --workdir"):
        curate.audit_mode(small(tmp_path / "two/data", tmp_path), work)


def test_labels_of_one_source_are_not_anothers(tmp_path):
    """Another hospital's images may have the same names; their folders say what they are."""
    for number in range(40):
        draw(tmp_path / f"own/{number}.png", number % 2, number)
    table = "\n".join(["image,label", *(f"{number}.png,{number % 2}" for number in range(40))])
    (tmp_path / "own/labels.csv").write_text(table)
    for number in range(6):
        draw(tmp_path / f"other/{('PNEUMONIA', 'NORMAL')[number % 2]}/{number}.png", 1 - number % 2, 50 + number)
    shutil.copy(tmp_path / "own/labels.csv", tmp_path / "other/labels.csv")
    config = small(tmp_path / "own", tmp_path, labels=str(tmp_path / "own/labels.csv"))
    work = epath.Path(tmp_path / "work")
    run.train_mode(config, work)
    run.evaluate_mode(config, work, str(tmp_path / "other"))
    labels = {row["id"]: row["label"] for row in rows(work / "evaluation/other-all.csv")}
    assert labels == {f"{('PNEUMONIA', 'NORMAL')[n % 2]}/{n}.png": str(1 - n % 2) for n in range(6)}


def test_changed_files_are_told_of(complete, chests, tmp_path, capsys):
    config, work = complete(tmp_path)
    run.evaluate_mode(config, work, None)
    assert "have changed" not in capsys.readouterr().out
    changed = chests / "train/NORMAL/chest 000.png"
    before = shutil.copy2(changed, tmp_path)
    draw(changed, 1, 7)
    try:
        run.evaluate_mode(config, work, None)
    finally:
        shutil.copy2(before, changed)
    assert "have changed since the run began" in capsys.readouterr().out


def test_a_prevalence_restates_probabilities_and_changes_no_decision(complete, tmp_path):
    """By Bayes' rule from val's: odds are multiplied by what the odds of being ill are multiplied by."""
    config, work = complete(tmp_path)
    before, given = json.loads((work / "evaluation/test.json").read_text()), rows(work / "evaluation/test.csv")
    assert before["prevalence"] == 0.5
    config.evaluation.prevalence = 0.05
    run.evaluate_mode(config, work, None)
    after, restated = json.loads((work / "evaluation/test.json").read_text()), rows(work / "evaluation/test.csv")
    for row, changed in zip(given, restated, strict=True):
        p = float(row["probability"])
        assert float(changed["probability"]) == pytest.approx(p * 0.05 / (p * 0.05 + (1 - p) * 0.95), rel=1e-6)
    assert after["prevalence"] == 0.05
    for name in ("confusion", "confusion_at_sens95", "balanced_accuracy", "auc", "bce", "temperature"):
        assert after[name] == pytest.approx(before[name]), name
    for name in ("threshold", "threshold_sens95"):
        p = before[name]
        assert after[name] == pytest.approx(p * 0.05 / (p * 0.05 + (1 - p) * 0.95)), name


def test_shifts_are_evaluated_on_request(complete, tmp_path, capsys):
    """The foremost split under each, also where a run was complete without; of another source beside it."""
    config, work = complete(tmp_path)
    assert not (work / "shifts").exists()
    config.evaluation.shifts = True
    run.train_mode(config, work)
    assert "This run is complete" not in capsys.readouterr().out
    run.train_mode(config, work)
    assert "This run is complete" in capsys.readouterr().out
    draw_folder(tmp_path / "other", "", 3, 4)
    run.evaluate_mode(config, work, str(tmp_path / "other"))
    assert {path.name for path in (work / "shifts").iterdir()} == {"test.json", "other-all.json"}
    for stem, n in (("test", 40), ("other-all", 7)):
        told = json.loads((work / f"shifts/{stem}.json").read_text())
        clean = json.loads((work / f"evaluation/{stem}.json").read_text())
        assert list(told) == ["clean", *shifts.SHIFTS]
        assert told["clean"] == {key: clean[key] for key in told["clean"]}
        assert {measured["n"] for measured in told.values()} == {n}
        assert {measured["threshold"] for measured in told.values()} == {clean["threshold"]}


def test_copies_are_carved_together(tmp_path, begin):
    """Whatever their names say of patients."""
    draw_folder(tmp_path / "data", "", 30, 30)
    for path in sorted((tmp_path / "data").rglob("*.png")):
        shutil.copy(path, path.with_name(f"another {path.name}"))
    work = epath.Path(tmp_path / "work")
    begin(small(tmp_path / "data", tmp_path), work)
    split_of = {row["id"]: row["split"] for row in rows(work / "splits.csv")}
    assert set(split_of.values()) == {"train", "val"}
    for id, split in split_of.items():
        assert split_of[id.replace("another ", "")] == split


def test_the_papers_subset_is_drawn_by_seed(chexpert, tmp_path, begin):
    work = epath.Path(tmp_path / "work")
    begin(small(chexpert, tmp_path, subset="15,25"), work)
    table = [row for row in rows(work / "splits.csv") if row["split"] in ("train", "val")]
    assert [sum(row["label"] == label for row in table) for label in "01"] == [15, 25]


def test_an_audit_tells_by_its_status(chests, tmp_path):
    assert pneumojax("--mode=audit", f"--data={chests}", cwd=tmp_path).returncode == 0
    shutil.copytree(chests, tmp_path / "dirty")
    (tmp_path / "dirty/test/NORMAL/empty.png").touch()
    done = pneumojax("--mode=audit", "--data=dirty", "--workdir=work", cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert "1 image that cannot be read" in done.stdout
    told = json.loads((tmp_path / "work/audit/audit.json").read_text())
    assert [(finding["kind"], finding["ids"]) for finding in told["findings"]] == [
        ("unreadable", ["test/NORMAL/empty.png"])
    ]
    assert {path.name for path in tmp_path.iterdir()} == {"dirty", "runs", "work"}
    missing = pneumojax("--mode=audit", cwd=tmp_path)
    assert (missing.returncode, missing.stderr) == (2, "pneumojax: give --data: what is to be audited\n")


def test_preparing_that_is_stopped_leaves_nothing_and_goes_on(chests, tmp_path):
    draw_folder(tmp_path / "data", "", 100, 100)
    arguments = ["--mode=prepare", "--data=data", "--config.data.cache_dir=cache", "--config.data.workers=2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "pneumojax.main", *arguments],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("cache/*partial*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, complaint = process.communicate(timeout=120)
    assert process.returncode == 75, complaint
    assert complaint == "pneumojax: interrupted: run the same command again to go on\n"
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"], "nothing else is left"
    again = pneumojax(*arguments, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "200 images read in" in again.stdout
    assert "Prepared: 200 images of 150 px in cache/data-" in again.stdout


def test_two_runs_at_once_do_not_share_a_workdir(chests, tmp_path, begin):
    """The second is refused in a line and changes nothing; one that the first ends without a word leaves no trace."""
    config, workdir = small(chests, tmp_path), epath.Path(tmp_path / "work")
    first = subprocess.Popen([sys.executable, "-c", HOLDER, str(workdir)], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert first.stdout.readline() == "held\n"
    with pytest.raises(UserError, match="another process is training in .*work: wait for it"):
        run.train_mode(config, workdir)
    assert [path.name for path in workdir.iterdir()] == [".lock"]
    first.kill()
    first.communicate()
    begin(config, workdir)


def test_a_run_killed_while_it_began_begins_anew(chests, tmp_path, begin):
    work = epath.Path(tmp_path / "work")
    work.mkdir()
    for name in ("splits.csv", "config.json.unfinished"):
        (work / name).write_text("{")
    config = small(chests, tmp_path)
    begin(config, work)
    assert len(rows(work / "splits.csv")) == 160
    assert configs.read(work / "config.json").to_dict() == config.to_dict()


HOLDER = """
import sys, time
from etils import epath
from pneumojax import workdirs
with workdirs.alone(epath.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""
