"""Site files: read as they were written, and refused where they do not fit."""

import json

import pytest
from bundles import random_model, written
from etils import epath

from pneumojax.evaluation.calibration import Calibration
from pneumojax.inference import bundle, site_file
from pneumojax.inference.site_file import SiteFile
from pneumojax.runtime.errors import UserError

STATE = {
    "films": 3,
    "unlike_training": {"films": 1, "share": 1 / 3, "ci": [0.1, 0.7]},
    "logits": [0.0, 1.0, 2.0],
    "ood_scores": [0.1, 0.2, 0.3],
    "statistics": {"brightness": {"mean": 0.5, "sd": 0.1, "training_mean": 0.4, "training_sd": 0.1}},
}
OF_SITE = Calibration(temperature=2.0, threshold=0.3, threshold_sens95=0.2, prevalence=0.3, offset=-1.0)


@pytest.fixture(scope="module")
def model():
    return random_model()


def site_of(model, **changes):
    facts = {"films": {"all": 3, "normal": 2, "pneumonia": 1}, "fit": None, "state": STATE}
    site = SiteFile("clinic", "2026-11-27", model.name, model.digest, OF_SITE, site_file.LABELLED, facts)
    return site._replace(**changes)


def test_a_site_file_is_read_as_it_was_written(model, tmp_path):
    path = site_file.path_of(epath.Path(tmp_path), "clinic")
    site_file.write(path, site_of(model))
    assert site_file.read(path) == site_of(model)
    assert path == epath.Path(tmp_path) / "sites/clinic.json"
    assert site_file.found("clinic", [epath.Path(tmp_path / "no"), epath.Path(tmp_path)]) == path
    assert site_file.path_of(epath.Path(tmp_path), str(path)) == path


def test_it_replaces_the_calibration_and_keeps_that_of_val(model):
    applied = site_file.applied(model, site_of(model), "clinic.json")
    assert (applied.calibration, applied.site.of_val) == (OF_SITE, model.calibration)
    assert (applied.digest, applied.site.name) == (model.digest, "clinic")
    again = site_file.applied(applied, site_of(model, name="other"), "other.json")
    assert again.site.of_val == model.calibration


def test_that_of_another_model_is_refused(model):
    with pytest.raises(UserError, match=r"clinic.json was written for the model m1 0000, not for m1 [0-9a-f]{16}"):
        site_file.applied(model, site_of(model, digest="0000"), "clinic.json")


def test_an_exported_model_has_its_site(model, tmp_path):
    folder = written(site_file.applied(model, site_of(model), "clinic.json"), tmp_path / "exported")
    read = bundle.read(folder)
    assert (read.calibration, read.digest, read.site.name) == (OF_SITE, model.digest, "clinic")
    description = bundle.describe(folder)
    assert description["calibration"] == model.calibration._asdict()
    description["site"]["digest"] = "0000"
    (folder / bundle.DESCRIPTION).write_text(json.dumps(description))
    with pytest.raises(UserError, match="is damaged .*written for the model"):
        bundle.read(folder)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        {"format": "PneumoJAX site, version 9"},
        {"calibration": {"temperature": 1.0}},
        {"calibration": OF_SITE._asdict() | {"threshold": 2.0}},
        {"digest": 7},
        {"state": {}},
        {"state": STATE | {"logits": []}},
        {"earlier": [{"date": "2026-10-01"}]},
    ],
)
def test_damaged_files_are_refused_in_a_line(model, tmp_path, content):
    path = epath.Path(tmp_path / "clinic.json")
    text = content if isinstance(content, str) else json.dumps(site_file.to_json(site_of(model)) | content)
    path.write_text(text)
    with pytest.raises(UserError, match="clinic.json is no site file") as caught:
        site_file.read(path)
    assert len(str(caught.value).splitlines()) == 1


def test_names_that_leave_the_folder_are_refused(tmp_path):
    for name in ("../clinic", "a/b", "", ".hidden"):
        with pytest.raises(UserError, match="is no name of a site"):
            site_file.path_of(epath.Path(tmp_path), name)
    with pytest.raises(UserError, match="no site file .*clinic.json: write it with --mode=calibrate"):
        site_file.found("clinic", [epath.Path(tmp_path)])
