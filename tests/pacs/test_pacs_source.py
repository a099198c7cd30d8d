"""What a result takes over from a film: unchanged, or the film is refused in words that quote nothing."""

import pytest
from pacs_films import SECRETS, STUDY, film
from pydicom.dataset import Dataset

from pneumojax.data.decode.unreadable import UnreadableImage
from pneumojax.pacs import reading, source

LATERAL_CODE = Dataset()
LATERAL_CODE.CodeValue, LATERAL_CODE.CodingSchemeDesignator = "399173006", "SCT"
LATERAL_CODE.CodeMeaning = "left lateral"


def test_the_patient_and_the_study_are_taken_over(tmp_path):
    found = source.read(film(tmp_path / "film.dcm", StudyDescription="CHEST PA", PatientAge="056Y"))
    assert (found.PatientName, found.PatientID, found.PatientBirthDate) == ("Doe^Jane", "ID-4711", "19700101")
    assert (found.StudyInstanceUID, found.AccessionNumber, found.StudyID) == (STUDY, "ACC-99", "7")
    assert (found.StudyDescription, found.PatientAge, found.PatientSex) == ("CHEST PA", "056Y", "F")
    assert "InstitutionName" not in found


@pytest.mark.parametrize(
    ("charset", "name"),
    [("ISO_IR 100", "Müller^Jörg"), ("ISO_IR 192", "Yamada^Tarou=山田^太郎"), ("GB18030", "Wang^XiaoDong=王^小东")],
)
def test_names_in_other_scripts_stay_what_they_are(tmp_path, charset, name):
    found = source.read(film(tmp_path / "film.dcm", SpecificCharacterSet=charset, PatientName=name))
    found.file_meta = None
    assert str(found.PatientName) == name
    assert found.SpecificCharacterSet == charset


def test_a_name_in_several_character_sets_is_written_as_utf8(tmp_path):
    name, charsets = "Yamada^Tarou=山田^太郎", ["", "ISO 2022 IR 87"]
    found = source.read(film(tmp_path / "film.dcm", SpecificCharacterSet=charsets, PatientName=name))
    assert str(found.PatientName) == name
    assert found.SpecificCharacterSet == "ISO_IR 192"


@pytest.mark.parametrize(
    ("elements", "reason"),
    [
        ({"StudyInstanceUID": ""}, "its StudyInstanceUID is missing or damaged"),
        ({"SOPInstanceUID": "1.2." + "3" * 70}, "its SOPInstanceUID is missing or damaged"),
        ({"PatientID": "ID-4711" * 20}, "its PatientID is damaged"),
        ({"AccessionNumber": "ACC-99" * 20}, "its AccessionNumber is damaged"),
        ({"PatientName": "Doe^Jane" * 20}, "its PatientName is damaged"),
        ({"Modality": "OT"}, "no film: its modality is not CR, DX, DR or RG"),
        ({"Modality": "CT"}, "no film: its modality is not CR, DX, DR or RG"),
        ({"ViewCodeSequence": [LATERAL_CODE]}, "a lateral film"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_a_film_that_is_not_certain_is_refused_and_nothing_is_quoted(tmp_path, elements, reason):
    with pytest.raises(UnreadableImage) as refusal:
        source.read(film(tmp_path / "film.dcm", **elements))
    assert str(refusal.value) == reason
    assert not any(secret in str(refusal.value) for secret in SECRETS)


def test_a_name_that_cannot_be_decoded_is_not_replaced_by_another(tmp_path):
    path = film(tmp_path / "film.dcm", SpecificCharacterSet="ISO_IR 192")
    path.write_bytes(path.read_bytes().replace(b"Doe^Jane", b"Doe^J\xff\xfee"))
    with pytest.raises(UnreadableImage, match="its PatientName is damaged"):
        source.read(path)


@pytest.mark.filterwarnings("ignore")
def test_what_identifies_nobody_is_left_empty_where_it_is_damaged(tmp_path):
    found = source.read(film(tmp_path / "film.dcm", StudyTime="late", PatientSex="X", StudyDate="31.01.26"))
    assert (found.StudyTime, found.PatientSex, found.StudyDate) == ("", "", "")


def test_a_film_is_read_for_the_model_and_for_the_reader(tmp_path):
    read = reading.read(str(film(tmp_path / "film.dcm", size=1200)), 32)
    assert isinstance(read, reading.Film)
    assert read.seen.image is not None and read.seen.image.shape == (32, 32)
    assert max(read.picture.shape) == reading.PICTURE_SIDE
    assert read.source.StudyInstanceUID == STUDY


@pytest.mark.parametrize(
    ("elements", "reason"),
    [
        ({"ViewPosition": "LL"}, "a lateral film"),
        ({"BodyPartExamined": "HAND"}, "not a chest: its body part is HAND"),
        ({"NumberOfFrames": 2}, "more than one frame"),
        ({"Rows": 4000}, "its pixel data is cut short"),
    ],
)
def test_a_film_that_cannot_be_predicted_has_a_reason(tmp_path, elements, reason):
    assert str(reading.read(str(film(tmp_path / "film.dcm", **elements)), 32)) == reason
