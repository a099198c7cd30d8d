"""Report and secondary capture: what is in them is what was predicted, of the right patient, in their own series."""

import io
from datetime import UTC, datetime
from types import SimpleNamespace

import numpy as np
import pydicom
import pytest
from pacs_films import STUDY, film, items
from PIL import Image

pytest.importorskip("highdicom", reason="the extra [dicom] is not installed")

from pneumojax.inference.predictions import Row
from pneumojax.pacs import capture, documents, identity, report, source
from pneumojax.pacs.reading import Film
from pneumojax.pacs.reading import read as read_film

ROW = Row("0", 0.123456789012345678, "normal", 0.5, "pneumonia", 0.1, 0.25, (), None, "m1", "0.2.0", "0123456789abcdef")
FLAGGED = ROW._replace(flags=("unlike_training", "inverted"), probability=0.99, decision="pneumonia")


@pytest.fixture
def header(tmp_path):
    return source.read(film(tmp_path / "film.dcm", StudyDescription="CHEST", SpecificCharacterSet="ISO_IR 192"))


def written(document):
    """Return the document as a reader finds it."""
    return pydicom.dcmread(io.BytesIO(documents.encoded(document)))


def values(document):
    return {name: value for name, value in items(document) if value is not None}


def test_numbers_and_decisions_are_those_of_the_row(header):
    found = values(written(report.report(ROW, header)))
    assert found["Probability"].FloatingPointValue == ROW.probability
    assert float(found["Probability"].NumericValue) == pytest.approx(ROW.probability, rel=1e-12)
    assert found["Threshold of best balanced accuracy"].FloatingPointValue == 0.5
    assert found["Threshold of at least 95 % sensitivity"].FloatingPointValue == 0.1
    assert found["Out-of-distribution score"].FloatingPointValue == 0.25
    assert found["Pneumonia at the threshold of best balanced accuracy"] == "Absent"
    assert found["Pneumonia at the threshold of at least 95 % sensitivity"] == "Present"
    assert "Finding" not in found
    assert found["Algorithm Name"] == "PneumoJAX m1"
    assert found["Algorithm Version"] == "0.2.0"
    assert found["Algorithm Parameters"] == "digest=0123456789abcdef"


def test_a_model_that_is_set_up_for_a_site_writes_results_of_its_own(header):
    """Its thresholds are others, so the film needs another report."""
    at_site = ROW._replace(site="clinic")
    document = written(report.report(at_site, header))
    assert document.SOPInstanceUID != report.report(ROW, header).SOPInstanceUID
    parameters = [value for name, value in items(document) if name == "Algorithm Parameters"]
    assert parameters == ["digest=0123456789abcdef", "site=clinic"]
    model = SimpleNamespace(metadata={"digest": ROW.digest}, site="clinic")
    assert identity.key_of_model(model) == identity.key_of(at_site) != identity.key_of(ROW)


def test_pneumonia_is_the_finding_where_the_decision_says_so(header):
    found = values(written(report.report(ROW._replace(decision="pneumonia"), header)))
    assert found["Finding"] == "Pneumonia"
    assert found["Pneumonia at the threshold of best balanced accuracy"] == "Present"


def test_a_flagged_film_gets_a_report_that_says_so_first_and_gives_no_decision(header):
    document = written(report.report(FLAGGED, header))
    order = [(name, value) for name, value in items(document) if value is not None]
    names = [name for name, _ in order]
    assert names.index("Comment") < names.index("Reason not to rely on the prediction") < names.index("Probability")
    assert dict(order)["Comment"].startswith("FLAGGED: the film is unlike the training images; the film looks inverted")
    assert "Finding" not in names
    assert dict(order)["Pneumonia at the threshold of best balanced accuracy"] == "No decision is given"
    assert "Pneumonia at the threshold of at least 95 % sensitivity" not in names
    assert "FLAGGED" in document.SeriesDescription


def test_the_report_is_of_the_films_study_and_says_that_nobody_verified_it(header):
    document = written(report.report(ROW, header))
    assert (document.StudyInstanceUID, document.PatientID, document.AccessionNumber) == (STUDY, "ID-4711", "ACC-99")
    assert (str(document.PatientName), document.StudyDate) == ("Doe^Jane", "20260131")
    assert document.SeriesInstanceUID not in (header.SeriesInstanceUID, STUDY)
    assert (document.VerificationFlag, document.CompletionFlag, document.PreliminaryFlag) == (
        "UNVERIFIED", "COMPLETE", "PRELIMINARY",
    )  # fmt: skip
    assert document.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    assert document.SOPClassUID.name == "Comprehensive 3D SR Storage"
    [study] = document.CurrentRequestedProcedureEvidenceSequence
    [series] = study.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == header.SeriesInstanceUID
    assert series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == header.SOPInstanceUID


def test_times_are_in_the_zone_of_the_film(tmp_path):
    header = source.read(film(tmp_path / "film.dcm", TimezoneOffsetFromUTC="+1300"))
    document = written(report.report(ROW, header))
    stated = datetime.strptime(document.ContentDate + document.ContentTime + "+1300", "%Y%m%d%H%M%S%z")
    assert abs((datetime.now(UTC) - stated).total_seconds()) < 60
    assert document.TimezoneOffsetFromUTC == "+1300"


def test_a_second_report_on_the_same_film_by_the_same_model_is_recognised(header):
    one, same = report.report(ROW, header), report.report(ROW, header)
    other = report.report(ROW._replace(digest="f" * 16), header)
    assert one.SOPInstanceUID == same.SOPInstanceUID != other.SOPInstanceUID
    assert one.SeriesInstanceUID == same.SeriesInstanceUID != other.SeriesInstanceUID


def test_the_capture_shows_the_film_the_map_and_the_legend(header):
    picture = np.full((900, 600), 100, np.uint8)
    values = np.zeros((32, 32), np.float32)
    values[:, :16], values[:, 16:] = 1, -1
    document = written(capture.capture(ROW, header, picture, values, "grad-cam"))
    pixels = document.pixel_array
    assert pixels.shape[1] == 600 and pixels.shape[0] > 900
    left, right = pixels[450, 60].astype(int), pixels[450, 540].astype(int)
    assert left[0] > left[2] and right[2] > right[0], "orange for pneumonia, blue against it"
    legend = pixels[900:]
    assert (legend == 255).all(-1).sum() > 100, "text"
    assert (document.StudyInstanceUID, document.PatientID) == (STUDY, "ID-4711")
    assert document.SourceImageSequence[0].ReferencedSOPInstanceUID == header.SOPInstanceUID
    assert (document.Modality, document.ConversionType, document.BurnedInAnnotation) == ("OT", "WSD", "NO")
    assert "Laterality" not in document
    assert document.SeriesInstanceUID != report.report(ROW, header).SeriesInstanceUID


def test_a_flagged_film_says_so_in_the_legend(header):
    picture, values = np.full((300, 800), 100, np.uint8), np.ones((32, 32), np.float32)
    plain, flagged = (capture.drawn(row, picture, values, "grad-cam") for row in (ROW, FLAGGED))
    assert flagged.shape[0] > plain.shape[0]


def test_documents_are_made_of_a_film_and_its_row(tmp_path, model):
    path = film(tmp_path / "film.dcm")
    read = read_film(str(path), model.image_size)
    assert isinstance(read, Film)
    [row] = model.rows([("0", read.seen)])
    made = [pydicom.dcmread(io.BytesIO(content)) for content in documents.documents(read, row, model)]
    assert [one.Modality for one in made] == ["OT", "SR"], "the report last"
    assert values(made[1])["Probability"].FloatingPointValue == row.probability == model.predict(path).probability
    explained = model.explain(path, documents.METHOD)
    np.testing.assert_array_equal(explained.values, model.explain(read.seen.image, documents.METHOD).values)
    assert Image.fromarray(made[0].pixel_array).mode == "RGB"
