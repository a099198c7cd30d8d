"""Patients by the names of files and folders, by placeholders that name nobody, and by the user's own pattern."""

import pytest

from pneumojax.data.patient_hash import hashed
from pneumojax.data.patients import patient_of, patients_of
from pneumojax.data.source import Options
from pneumojax.data.sources import open_source
from pneumojax.runtime.errors import UserError


@pytest.mark.parametrize(
    ("name", "patient"),
    [
        ("person1_bacteria_2.jpeg", "person1_bacteria"),
        ("PERSON1_BACTERIA_2.JPEG", "person1_bacteria"),
        ("Person1_Virus_2.jpeg", "person1_virus"),
        ("im-0115-0001.jpeg", "IM-0115"),
        ("normal2-im-0383-0001-0002.jpeg", "NORMAL2-IM-0383"),
        ("Bacteria-1003233-0001.jpeg", "BACTERIA-1003233"),
        ("Patient00012_study1_view1_frontal.jpg", "patient00012"),
        ("PATIENT00012/study1/view1_frontal.jpg", "patient00012"),
        ("Patient_001/a.png", "patient_001"),
        ("patient-7/x/a.png", "patient-7"),
        ("subject_12/a.png", "subject_12"),
        ("Subject 12/a.png", "subject 12"),
        ("patient_3_left.png", "patient_3"),
        ("sub-S03044/ses-E07363/mod-rx/sub-S03044_ses-E07363_run-1.png", "sub-s03044"),
        ("p10/p10000032/s50414267/02aa804e.jpg", "p10000032"),
        ("p10000032_s50414267_02aa804e.jpg", "p10000032"),
    ],
)
def test_names_contain_the_patient(name, patient):
    assert patient_of(f"train/NORMAL/{name}") == patient


@pytest.mark.parametrize(
    "name",
    [
        "1_2.png", "00000013_005.png", "20190101_001.png", "Normal-1.png", "NORMAL-1.png", "VIRUS-7.png", "im-001.png",
        "patients_1x.png", "subfolder/a.png", "sub-films/a.png", "p10/a.png", "patient/a.png", "inpatient_12.png",
    ],
)  # fmt: skip
def test_names_that_may_mean_anything_contain_no_patient(name):
    """Two images of two patients would count as one patient's: train and test could not both have a `Normal-1.png`."""
    assert patient_of(f"train/NORMAL/{name}") == f"train/NORMAL/{name}"


def by_names(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"\xff\xd8\xff")
    return patients_of(root, names)


def test_nihs_numbers_are_patients_where_most_names_have_them(tmp_path):
    few = ("00000001_000.png", "00000001_001.png")
    assert by_names(tmp_path, *few, "a.png")[few[0]] == "00000001"
    assert by_names(tmp_path, *few, "a.png", "b.png") == {name: name for name in (*few, "a.png", "b.png")}


@pytest.mark.parametrize(
    "names",
    [
        ("1_1.png", "1_2.png", "2_1.png"),
        ("001_001.png", "001_002.png"),
        ("20190101_001.png", "20190101_002.png"),
        ("20190101_120000_1.png", "20190101_120000_2.png"),
        ("00000001_0001.png", "00000001_0002.png"),
        ("20190101120000_1234567890_1.png", "20190101120000_1234567890_2.png"),
    ],
)
def test_other_numbers_are_no_patients(tmp_path, names):
    assert by_names(tmp_path, *names) == {name: name for name in names}


def test_padchests_numbers_are_patients(tmp_path):
    names = [f"2168401113669640122{patient}_2834678901{study}_00-059-001.png" for patient in "12" for study in "12"]
    assert [patient[-1] for patient in by_names(tmp_path, *names).values()] == ["1", "1", "2", "2"]


@pytest.mark.parametrize(
    "text",
    ["", " ", "-", "0", "00000", "ANONYMOUS", "Anonymous^", "anon", "anonymized", "Anonymised", "unknown", "none"]
    + ["N/A", "n.a.", "NaN", "null", "XXXX", "Not available", "removed"],
)  # fmt: skip
def test_placeholders_name_nobody(text):
    assert hashed(text) is None


@pytest.mark.parametrize("text", ["1", "10", "ANON01", "anonymous-17", "A", "X1", "Nana", "unknown 3"])
def test_pseudonyms_name_somebody(text):
    assert hashed(text)


def folder(root, *names):
    by_names(root, *names)
    return str(root)


def patients(location, pattern):
    return [record.patient for record in open_source(location, Options(patient_pattern=pattern)).records]


def test_the_users_pattern_names_patients(tmp_path):
    location = folder(tmp_path, "NORMAL/a1-x.png", "NORMAL/a1-y.png", "PNEUMONIA/b2-x.png")
    assert patients(location, r"([a-z]\d)-") == ["a1", "a1", "b2"]
    assert patients(location, r"[a-z]\d") == ["a1", "a1", "b2"]
    source = open_source(location, Options(patient_pattern="a1"))
    assert [record.patient for record in source.records] == ["a1", "a1", "PNEUMONIA/b2-x.png"]
    assert source.remarks[0] == ("--config.data.patient_pattern='a1' matches 2 of 3 images, not PNEUMONIA/b2-x.png.")
    assert "The patient of 1 image is unknown: each counts as its own." in source.remarks


def test_a_pattern_comes_before_known_names(tmp_path):
    location = folder(tmp_path, "NORMAL/person1_virus_1.png", "NORMAL/person2_virus_1.png", "PNEUMONIA/c.png")
    assert patients(location, "person(?=.*NORMAL)|person") == ["person", "person", "PNEUMONIA/c.png"]


@pytest.mark.parametrize("pattern", ["gone", "z*", "()"])
def test_a_pattern_that_names_nobody_is_refused(tmp_path, pattern):
    with pytest.raises(UserError, match="no image's id matches --config.data.patient_pattern=.* such as NORMAL/a.png"):
        patients(folder(tmp_path, "NORMAL/a.png"), pattern)


def test_the_user_learns_that_patients_are_unknown(tmp_path):
    location = folder(tmp_path, "NORMAL/a.png", "NORMAL/b.png")
    assert open_source(location).remarks == ("Patients are unknown: each image counts as its own.",)
    location = folder(tmp_path / "known", "NORMAL/IM-1-1.png", "NORMAL/IM-2-1.png")
    assert open_source(location).remarks == ()
