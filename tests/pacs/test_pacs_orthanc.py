"""`--mode=pacs` beside Orthanc, DCMTK, dicom3tools and OHIF, as a hospital has them. `make test-pacs` runs this."""

import csv
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pydicom
import pytest
from pacs_films import items
from support import ROOT, pneumojax

if "PACS" not in os.environ:
    pytest.skip("starts a PACS on this machine: see `make test-pacs`", allow_module_level=True)

from studies.orthanc import TITLE, free_port, orthanc
from studies.pacs_service import Service

FILMS = sorted((ROOT.parent / "shared/data/dicom").glob("*.dcm"))
NEEDED = ("Orthanc", "storescu", "findscu", "dsrdump", "dcmdump", "dciodvfy")
SHOTS = Path(os.environ["PACS"])

pytestmark = pytest.mark.skipif(not FILMS, reason="no DICOM films in ../shared/data/dicom")


@pytest.fixture(scope="module")
def hospital(tmp_path_factory):
    """Orthanc with the films, their predictions by `--mode=predict`, and the results of `--mode=pacs`.

    The films come by storescu to the service that listens; they are also in Orthanc, as in a hospital.
    """
    missing = [name for name in NEEDED if not shutil.which(name)]
    assert not missing, f"{missing} not found: run `apt-get install orthanc orthanc-dicomweb dcmtk dicom3tools`"
    folder = tmp_path_factory.mktemp("hospital")
    predict = ["--mode=predict", "--model=m1", f"--data={FILMS[0].parent}", "--config.prediction.output=rows.csv"]
    assert pneumojax(*predict, cwd=folder).returncode == 0
    with orthanc(folder / "orthanc") as server:
        store = ["storescu", "--propose-jpeg8", "-aet", "STUDY"]
        subprocess.run([*store, "-aec", TITLE, "127.0.0.1", str(server.dicom_port), *FILMS], check=True)
        service = Service("m1", folder, free_port(), server.web)
        service.start()
        service.ready()
        subprocess.run([*store, "-aec", "PNEUMOJAX", "127.0.0.1", str(service.port), *FILMS], check=True)
        end = time.monotonic() + 120
        while len(server.instances("SR")) < len(FILMS) and time.monotonic() < end:
            time.sleep(0.2)
        yield folder, server, service
        assert service.stop() == 75
        shutil.copy(service.output, SHOTS / "pacs-output.txt")


@pytest.fixture(scope="module")
def documents(hospital):
    """All reports and captures, as Orthanc has them: lists of paths."""
    folder, server, _ = hospital
    found = {}
    for modality in ("SR", "OT"):
        found[modality] = []
        for instance in server.instances(modality):
            path = folder / f"{modality}-{instance['ID']}.dcm"
            path.write_bytes(server.file(instance["ID"]))
            found[modality].append(path)
    return found


def printed(*command) -> str:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120)
    return done.stdout + done.stderr


def test_each_film_has_one_report_and_one_capture_in_its_study(documents):
    studies = {pydicom.dcmread(path).StudyInstanceUID for path in FILMS}
    for paths in documents.values():
        assert len(paths) == len(FILMS)
        assert {pydicom.dcmread(path).StudyInstanceUID for path in paths} == studies


def test_probabilities_are_those_of_predict_to_the_last_digit(hospital, documents):
    folder = hospital[0]
    with (folder / "rows.csv").open() as file:
        rows = {Path(row["id"]).name: row for row in csv.DictReader(file)}
    films = {str(pydicom.dcmread(path).SOPInstanceUID): path.name for path in FILMS}
    for path in documents["SR"]:
        report = pydicom.dcmread(path)
        series = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
        row = rows[films[series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID]]
        value = dict(items(report))["Probability"]
        assert repr(float(value.FloatingPointValue)) == row["probability"]
        assert float(value.NumericValue) == pytest.approx(float(row["probability"]), rel=1e-12)


def test_dsrdump_reads_every_report_without_a_complaint(documents):
    for path in documents["SR"]:
        text = printed("dsrdump", "--verbose", "--processing-details", "--print-template-id", path)
        assert "Probability" in text and "Imaging Measurement Report" in text
        assert not re.search(r"^[WE]: ", text, re.MULTILINE), text


def test_dciodvfy_finds_no_error(documents):
    for paths in documents.values():
        for path in paths:
            text = printed("dciodvfy", "-new", path)
            assert not re.search(r"^Error", text, re.MULTILINE), text


def test_results_are_found_by_qido_wado_and_c_find(hospital, documents):
    import requests

    server = hospital[1]
    report = pydicom.dcmread(documents["SR"][0])
    study, series = report.StudyInstanceUID, report.SeriesInstanceUID
    found = requests.get(f"{server.web}/studies/{study}/series", timeout=30).json()
    assert {"SR", "OT", "CR"} == {one["00080060"]["Value"][0] for one in found}
    url = f"{server.web}/studies/{study}/series/{series}/instances/{report.SOPInstanceUID}"
    accept = {"Accept": 'multipart/related; type="application/dicom"'}
    body = requests.get(url, headers=accept, timeout=30).content
    assert documents["SR"][0].read_bytes()[132:] in body
    keys = ["QueryRetrieveLevel=SERIES", f"StudyInstanceUID={study}", "Modality", "SeriesDescription"]
    query = ["findscu", "-S", *[word for key in keys for word in ("-k", key)], "-aec", TITLE]
    text = printed(*query, "127.0.0.1", server.dicom_port)
    assert "PneumoJAX m1" in text and "[SR]" in text.replace(" ", "").replace("CS[SR]", "[SR]")


def test_no_identifier_is_in_lines_rows_and_names(hospital):
    folder, _, service = hospital
    secrets = set()
    for path in FILMS:
        header = pydicom.dcmread(path, stop_before_pixels=True)
        for keyword in ("PatientID", "PatientName", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
            secrets.add(str(header.get(keyword, "")))
    secrets -= {""}
    texts = [service.output.read_text(), (folder / "work/pacs.csv").read_text()]
    texts += [str(path.relative_to(folder)) for path in (folder / "queue").rglob("*")]
    assert secrets and not [secret for secret in secrets for text in texts if secret in text]


def test_the_study_can_be_fetched_again_and_nothing_comes_twice(hospital, tmp_path):
    server = hospital[1]
    before = server.get("statistics")["CountInstances"]
    study = pydicom.dcmread(FILMS[0]).StudyInstanceUID
    command = ["--mode=pacs", "--model=m1", "--workdir=work", f"--config.pacs.dicomweb={server.web}"]
    done = pneumojax(*command, f"--config.pacs.study={study}", "--config.pacs.queue=queue", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 films fetched, 1 known already" in done.stdout
    assert server.get("statistics")["CountInstances"] == before
