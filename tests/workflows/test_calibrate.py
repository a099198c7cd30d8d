"""Setting a model up for a site: from films to a site file, which the other modes take."""

import shutil

import numpy as np
import pytest
from etils import epath
from PIL import Image
from support import draw_folder, read_json, read_rows

import pneumojax
from pneumojax import modes
from pneumojax.data.sources import phantom
from pneumojax.evaluation import neighbours
from pneumojax.inference import bundle
from pneumojax.modes import Command
from pneumojax.runtime.errors import UserError
from pneumojax.workflows import trained_models

pytestmark = pytest.mark.usefixtures("one_device")


@pytest.fixture(scope="module")
def place(finished, tmp_path_factory):
    """A folder with `work`, a run; `clinic`, labelled films; and `later`, films without labels that are brighter."""
    folder = tmp_path_factory.mktemp("sites")
    shutil.copytree(finished[0] / "work", folder / "work")
    draw_folder(folder / "clinic", "", 14, 26, first=700)
    (folder / "later").mkdir()
    for number in range(40):
        image = phantom.render(9, number, number % 2, 40)[0]
        bright = np.clip(image * 1.2 + 60.0, 0, 255).astype(np.uint8)
        Image.fromarray(bright).save(folder / f"later/{number}.png")
    return folder


def calibrate(place, data, *overrides):
    """Calibrate the run, and return the site file."""
    command = Command(workdir=epath.Path(place / "work"), data=str(place / data), overrides=overrides)
    modes.run("calibrate", command)


@pytest.fixture(scope="module")
def site_file(place):
    """The site file of the labelled films."""
    calibrate(place, "clinic")
    return read_json(place / "work/sites/clinic.json")


def test_labelled_films_set_the_thresholds(site_file):
    site = site_file
    assert (site["films"]["all"], site["films"]["normal"], site["films"]["pneumonia"]) == (40, 14, 26)
    assert site["fitted_on"] == "labelled films"
    assert site["calibration"]["threshold"] == site["calibration"]["prevalence"] == 26 / 40
    for name, (low, high) in site["fit"]["intervals"].items():
        assert low <= site["calibration"][name] <= high
    assert 0 <= site["fit"]["measured"]["balanced_accuracy"] <= 1
    assert site["prevalence"]["em"]["low"] <= site["prevalence"]["em"]["share"] <= site["prevalence"]["em"]["high"]
    assert site["prevalence"]["black_box_shift"] is not None


def predicted(place, output, *overrides, **command):
    target = f"prediction.output={output}"
    command = {"workdir": epath.Path(place / "work")} | command
    modes.run("predict", Command(data=str(place / "clinic"), overrides=[target, *overrides], **command))
    return read_rows(output)


def test_predict_takes_a_site(place, site_file, tmp_path):
    plain = predicted(place, tmp_path / "plain.csv")
    rows = predicted(place, tmp_path / "site.csv", "site=clinic")
    assert {row["site"] for row in plain} == {""}
    assert {(row["site"], float(row["threshold"])) for row in rows} == {
        ("clinic", site_file["calibration"]["threshold"])
    }
    assert {row["digest"] for row in rows} == {row["digest"] for row in plain} == {site_file["digest"]}
    assert [row["probability"] for row in rows] != [row["probability"] for row in plain]
    path = predicted(place, tmp_path / "path.csv", f"site={place / 'work' / 'sites' / 'clinic.json'}")
    assert path == rows
    model = pneumojax.load(place / "work", site="clinic", keep_compiled=False)
    row = model.predict(str(place / "clinic/NORMAL/chest 000.png"))
    assert (row.site, row.threshold) == ("clinic", site_file["calibration"]["threshold"])
    assert row.probability == pytest.approx(float(rows[0]["probability"]), rel=1e-4)


def test_evaluate_takes_a_site(place, site_file):
    command = Command(workdir=epath.Path(place / "work"), data=str(place / "clinic"), overrides=["site=clinic"])
    modes.run("evaluate", command)
    evaluation = read_json(place / "work/evaluation/clinic-all.json")
    assert evaluation["threshold"] == site_file["calibration"]["threshold"]
    assert (evaluation["site"], evaluation["site_images"]) == (f"clinic {site_file['date']}", 40)
    report = (place / "work/report/index.html").read_text()
    assert "With the site file clinic" in report
    assert "Sites that the model is set up for" in report
    assert "Where the evidence lies" in report
    own = Command(workdir=epath.Path(place / "work"), overrides=["site=clinic"])
    with pytest.raises(UserError, match="is for films from there"):
        modes.run("evaluate", own)


def test_a_later_month_tells_what_moved(place, site_file, capsys):
    """It has no labels: the thresholds stay, and the earlier month is kept."""
    calibrate(place, "later", "site=clinic")
    shown = capsys.readouterr().out
    assert "brightness" in shown.partition("Moved since")[2]
    site = read_json(place / "work/sites/clinic.json")
    assert site["calibration"] == site_file["calibration"]
    assert site["fitted_on"] == "labelled films"
    assert [month["state"] for month in site["earlier"]] == [site_file["state"]]
    calibrate(place, "later", "site=clinic")
    assert "Nothing has moved" in capsys.readouterr().out
    assert len(read_json(place / "work/sites/clinic.json")["earlier"]) == 2


def test_films_without_labels_alone_leave_decisions_as_they_are(place, site_file, capsys):
    calibrate(place, "later", "site=unlabelled")
    site = read_json(place / "work/sites/unlabelled.json")
    assert (site["fit"], site["films"]["normal"]) == (None, 0)
    assert site["fitted_on"] == (
        "prevalence of unlabelled films" if site["prevalence"]["trusted"] else "val, as trained"
    )
    assert "decisions are as trained" in " ".join(capsys.readouterr().out.split())


def test_a_site_file_of_another_model_is_refused(place, site_file, tmp_path):
    work = shutil.copytree(place / "work", tmp_path / "work")
    path = work / "sites/clinic.json"
    path.write_text(path.read_text().replace(site_file["digest"], "0" * 16))
    command = Command(workdir=epath.Path(work), data=str(place / "clinic"), overrides=["site=clinic"])
    for mode in ("predict", "evaluate", "calibrate", "export"):
        with pytest.raises(UserError, match="clinic.json was written for the model"):
            modes.run(mode, command)
    missing = command._replace(overrides=["site=nowhere"])
    with pytest.raises(UserError, match=r"no site file .*nowhere.json \(there are clinic"):
        modes.run("predict", missing)


def test_films_that_the_model_has_seen_are_left_out(place, chests):
    with pytest.raises(UserError, match="pictures that the model was trained or chosen on"):
        calibrate(place, str(chests / "train"))


def test_an_exported_folder_is_set_up_too(place, site_file, tmp_path, monkeypatch):
    """Its site files lie in the workdir that --model has by default."""
    monkeypatch.chdir(tmp_path)
    exported = tmp_path / "exported"
    exported.mkdir()
    for name, content in bundle.contents(trained_models.load_alone(str(place / "work")), {}).items():
        (exported / name).write_bytes(content)
    modes.run("calibrate", Command(model="exported", data=str(place / "clinic")))
    site = read_json(tmp_path / "runs/model-exported/sites/clinic.json")
    for name in ("calibration", "digest", "prevalence", "state"):
        assert site[name] == pytest.approx(site_file[name], rel=1e-3) if name == "calibration" else True
    assert site["digest"] == site_file["digest"]
    assert site["prevalence"]["black_box_shift"] is not None
    row = pneumojax.load("exported", site="clinic", keep_compiled=False).predict(np.zeros((40, 40), np.uint8))
    assert row.site == "clinic"


def test_an_earlier_index_can_be_calibrated(place, tmp_path):
    """Without val's scores, black-box shift has no estimate, and that is said."""
    work = epath.Path(shutil.copytree(place / "work", tmp_path / "work"))
    index = neighbours.read(work)
    neighbours.write(work, neighbours.Index(index.ids, index.labels, index.features, 0.5, index.seen))
    command = Command(workdir=work, data=str(place / "clinic"), overrides=["site=old"])
    modes.run("calibrate", command)
    site = read_json(tmp_path / "work/sites/old.json")
    assert site["prevalence"]["black_box_shift"] is None
    assert not site["prevalence"]["trusted"]


def test_flagged_films_can_go_without_a_number(place, tmp_path, capsys):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40), np.uint8)).save(tmp_path / "noise.png")
    overrides = [f"prediction.output={tmp_path}/rows.csv", "prediction.abstain=true"]
    command = Command(workdir=epath.Path(place / "work"), data=str(tmp_path / "*.png"), overrides=overrides)
    assert modes.run("predict", command) == 0
    [row] = read_rows(tmp_path / "rows.csv")
    assert (row["probability"], row["decision"], row["decision_at_sens95"], row["error"]) == ("", "", "", "")
    assert "unlike_training" in row["flags"]
    line = next(line for line in capsys.readouterr().out.splitlines() if "noise.png" in line)
    assert line.startswith("flags: ")
    assert "no number" in line


def test_training_takes_no_site(place):
    with pytest.raises(UserError, match="leave it out of training"):
        modes.run("train", Command(workdir=epath.Path(place / "work"), overrides=["site=clinic"]))
