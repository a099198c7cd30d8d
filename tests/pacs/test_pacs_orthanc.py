"""`--mode=pacs` beside Orthanc, DCMTK, dicom3tools and OHIF, as a hospital has them. `make test-pacs` runs this."""

import csv
import io
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pacs_films import film, items
from PIL import Image
from support import ROOT, pneumojax

if "PACS" not in os.environ:
    pytest.skip("starts a PACS on this machine: see `make test-pacs`", allow_module_level=True)

from studies.orthanc import TITLE, free_port, orthanc
from studies.pacs_service import Service

REAL = sorted((ROOT.parent / "shared/data/dicom").glob("*.dcm"))  # and a phantom, which may be shown to anybody
NEEDED = ("Orthanc", "storescu", "findscu", "dsrdump", "dciodvfy", "nginx", "chromium", "chromedriver")
HERE = Path(os.environ["PACS"])
PACKAGES = "orthanc orthanc-dicomweb dcmtk dicom3tools nginx-light chromium chromium-driver"


@pytest.fixture(scope="module")
def hospital(tmp_path_factory):
    """Orthanc with the films, their predictions by `--mode=predict`, and the results of `--mode=pacs`.

    The films come by storescu to the service that listens; they are also in Orthanc, as in a hospital.
    """
    missing = [name for name in NEEDED if not shutil.which(name)]
    assert not missing, f"{missing} not found: run `apt-get install {PACKAGES}`"
    folder = tmp_path_factory.mktemp("hospital")
    (folder / "films").mkdir()
    for path in REAL:
        (folder / "films" / path.name).symlink_to(path)
    film(folder / "films/phantom.dcm", size=512, StudyDescription="Phantom")
    predict = ["--mode=predict", "--model=m1", "--data=films", "--config.prediction.output=rows.csv"]
    assert pneumojax(*predict, cwd=folder).returncode == 0
    with orthanc(folder / "orthanc") as server:
        service = Service("m1", folder, free_port(), server.web)
        service.start()
        service.ready()
        for title, port in ((TITLE, server.dicom_port), ("PNEUMOJAX", service.port)):
            for path in films_of(folder):
                syntax = "--propose-jpeg8" if path.is_symlink() else "--propose-little"
                command = ["storescu", syntax, "-aet", "STUDY", "-aec", title, "127.0.0.1", str(port), path]
                subprocess.run(command, check=True)
        end = time.monotonic() + 120
        while len(server.instances("SR")) < len(films_of(folder)) and time.monotonic() < end:
            time.sleep(0.2)
        yield folder, server, service
        assert service.stop() == 75
        shutil.copy(service.output, HERE / "lines.txt")


def films_of(folder):
    return sorted((folder / "films").iterdir())


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


def test_each_film_has_one_report_and_one_capture_in_its_study(hospital, documents):
    films = films_of(hospital[0])
    studies = {pydicom.dcmread(path).StudyInstanceUID for path in films}
    for paths in documents.values():
        assert len(paths) == len(films)
        assert {pydicom.dcmread(path).StudyInstanceUID for path in paths} == studies


def test_probabilities_are_those_of_predict_to_the_last_digit(hospital, documents):
    folder = hospital[0]
    with (folder / "rows.csv").open() as file:
        rows = {Path(row["id"]).name: row for row in csv.DictReader(file)}
    films = {str(pydicom.dcmread(path).SOPInstanceUID): path.name for path in films_of(folder)}
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
    for path in films_of(folder):
        header = pydicom.dcmread(path, stop_before_pixels=True)
        for keyword in ("PatientID", "PatientName", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
            secrets.add(str(header.get(keyword, "")))
    secrets -= {""}
    texts = [service.output.read_text(), (folder / "work/pacs.csv").read_text()]
    texts += [str(path.relative_to(folder)) for path in (folder / "queue").rglob("*")]
    assert secrets and not [secret for secret in secrets for text in texts if secret in text]


def test_the_study_can_be_fetched_again_and_nothing_comes_twice(hospital, tmp_path):
    folder, server, _ = hospital
    before = server.get("statistics")["CountInstances"]
    study = pydicom.dcmread(films_of(folder)[0]).StudyInstanceUID
    command = ["--mode=pacs", "--model=m1", "--workdir=work", f"--config.pacs.dicomweb={server.web}"]
    done = pneumojax(*command, f"--config.pacs.study={study}", "--config.pacs.queue=queue", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 films fetched, 1 known already" in done.stdout
    assert server.get("statistics")["CountInstances"] == before


@pytest.fixture(scope="module")
def viewer(hospital):
    """A browser, and the address where nginx serves OHIF beside Orthanc, by the files of the documentation."""
    webdriver = pytest.importorskip("selenium.webdriver")
    folder, server, _ = hospital
    shutil.copy(ROOT / "docs/ohif/app-config.js", HERE / "package/dist")
    port, settings = free_port(), (ROOT / "docs/ohif/nginx.conf").read_text()
    settings = settings.replace("127.0.0.1:8080", f"127.0.0.1:{port}").replace("http://127.0.0.1:8042", server.rest)
    (folder / "nginx.conf").write_text(settings)
    user = ["-g", f"daemon off; {'user root;' * (os.getuid() == 0)}"]
    nginx = subprocess.Popen(["nginx", "-c", folder / "nginx.conf", "-p", HERE, *user])
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for argument in ("--headless=new", "--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"):
        options.add_argument(argument)
    options.add_argument("--window-size=1600,1000")
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    yield browser, f"http://127.0.0.1:{port}"
    browser.quit()
    nginx.terminate()
    nginx.wait(20)


def shown(browser, text):
    """Wait until an element shows this text, and return it."""
    from selenium.webdriver.support.ui import WebDriverWait

    path = f"//*[contains(text(), '{text}')]"
    return WebDriverWait(browser, 120).until(lambda browser: browser.find_element("xpath", path))


def drawn(browser, condition):
    """Wait until the middle of the page fulfils a condition; return the picture of the page."""
    end = time.monotonic() + 120
    while True:
        page = Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("RGB")
        width, height = page.size
        middle = np.asarray(page.crop((width * 2 // 5, height // 4, width * 3 // 4, height * 3 // 4)), float)
        if condition(middle):
            return page
        assert time.monotonic() < end, "nothing is drawn"
        time.sleep(1)


@pytest.mark.parametrize("name", ["phantom", *(path.stem for path in REAL[:1])])
def test_ohif_draws_film_and_capture_and_lists_the_report(hospital, viewer, name):
    from selenium.webdriver.common.action_chains import ActionChains

    browser, address = viewer
    study = pydicom.dcmread(hospital[0] / f"films/{name}.dcm").StudyInstanceUID
    browser.get(f"{address}/viewer?StudyInstanceUIDs={study}")
    for button in ("Skip all", "Confirm and hide"):
        if name == "phantom":  # the viewer asks once
            shown(browser, button).click()
    shown(browser, "PneumoJAX m1:")
    picture = shown(browser, "PneumoJAX m1 hea")
    film_page = drawn(browser, lambda middle: middle.std() > 20 and np.ptp(middle, axis=2).mean() < 5)
    ActionChains(browser).double_click(picture).perform()
    capture_page = drawn(browser, lambda middle: middle.std() > 20 and np.ptp(middle, axis=2).mean() > 10)
    which = "phantom" if name == "phantom" else "film"
    film_page.save(HERE / f"ohif-{which}.png")
    capture_page.save(HERE / f"ohif-{which}-capture.png")
