"""A folder of images with a CSV of labels: the right label, split and patient of each image, or one clear line."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset

from pneumojax.data.decode.unreadable import UnreadableImage
from pneumojax.data.source import Options
from pneumojax.data.sources import label_table
from pneumojax.data.sources.films import open_single
from pneumojax.runtime.errors import UserError


def put(root, *names):
    """Write files that only look like images: opening a source decodes none."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\0" * 128 + b"DICM" if not path.suffix or path.suffix[1:].isdecimal() else b"\xff\xd8\xff")


def put_dicom(path, patient):
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = uid.ComputedRadiographyImageStorage, "1.2.3.4"
    dataset.PatientID, dataset.PatientName, dataset.Modality = patient, "Doe^Jane", "CR"
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 4, 4, 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
    dataset.PixelData = bytes(range(0, 160, 10))
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)


def write(root, text, name="labels.csv"):
    root.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(text if isinstance(text, bytes) else text.encode())


def opened(root, labels=""):
    """Return {id: (label, split)} of the source at `root`."""
    return {
        record.id: (record.label, record.split)
        for record in label_table.open_table(root, Options(labels=labels)).records
    }


def refusal(root, labels=""):
    with pytest.raises(UserError) as caught:
        label_table.open_table(root, Options(labels=labels))
    line = str(caught.value)
    assert "\n" not in line and len(line) < 500
    return line


@pytest.fixture
def pair(tmp_path):
    put(tmp_path, "a.png", "b.png")
    return tmp_path


BOTH = {"a.png": (1, "all"), "b.png": (0, "all")}


def test_rsna_needs_no_flag(tmp_path):
    for number in range(4):
        put_dicom(tmp_path / "stage_2_train_images" / f"id-{number}.dcm", f"patient {number // 2}")
    put_dicom(tmp_path / "stage_2_test_images" / "id-9.dcm", "patient 9")
    write(
        tmp_path,
        "patientId,x,y,width,height,Target\nid-0,,,,,0\nid-1,1.0,2.0,3.0,4.0,1\nid-1,5.0,6.0,7.0,8.0,1\n"
        "id-2,,,,,0\nid-3,,,,,0\n",
        "stage_2_train_labels.csv",
    )
    write(
        tmp_path,
        "patientId,class\nid-0,Normal\nid-1,Lung Opacity\nid-1,Lung Opacity\nid-2,No Lung Opacity / Not Normal\n"
        "id-3,Normal\n",
        "stage_2_detailed_class_info.csv",
    )
    write(tmp_path, "patientId,PredictionString\nid-9,0.5 0 0 100 100\n", "stage_2_sample_submission.csv")
    source = label_table.open_table(tmp_path)
    folder = "stage_2_train_images"
    assert [record.id for record in source.records] == [f"{folder}/id-{number}.dcm" for number in range(4)]
    assert [record.label for record in source.records] == [0, 1, 0, 0]
    assert {record.split for record in source.records} == {"all"}
    patients = [record.patient for record in source.records]
    assert patients[0] == patients[1] != patients[2] == patients[3]
    assert source.remarks == (
        "Labels of stage_2_train_labels.csv by its column Target.",
        "Left out: 1 image without a row in stage_2_train_labels.csv, such as stage_2_test_images/id-9.dcm.",
    )
    assert not any(name in repr(source) for name in ("patient 0", "Doe"))


@pytest.mark.parametrize("id", ["patientId", "id", "image_id", "Filename", "SOPInstanceUID", "path", "Image Index"])
@pytest.mark.parametrize("label", ["Target", "label", "PNEUMONIA", "class", "Diagnosis"])
def test_columns_may_have_several_names(pair, id, label):
    write(pair, f"x,{id.replace(' ', '_')},{label}\n7,a,1\n8,b,0\n")
    assert opened(pair) == BOTH


@pytest.mark.parametrize(
    "values",
    [
        ("1", "0"),
        ("1.0", "0.0"),
        ("1.00", "-0"),
        ("PNEUMONIA", "NORMAL"),
        ("Pneumonia", " normal "),
        ("True", "False"),
        ("yes", "no"),
        ("Y", "n"),
        ("positive", "Negative"),
        ("bacteria", "healthy"),
        ("Viral Pneumonia", "NORMAL"),
        ("virus", "0"),
    ],
)
def test_labels_may_have_several_values(pair, values):
    write(pair, "id,label\na,{}\nb,{}\n".format(*values))
    assert opened(pair) == BOTH


@pytest.mark.parametrize(
    "text",
    [
        b"\xef\xbb\xbfid,label\na,1\nb,0\n",
        b"id;label\na;1\nb;0\n",
        b"id\tlabel\r\na\t1\r\nb\t0\r\n",
        b'"id","label"\n"a","1"\n"b","0"',
        b'id,note,label\na,"x, y\n""z""",1\nb,,0\n',
        b"\nid,label\n\na,1\n,\nb,0\n\n",
    ],
)
def test_dialects_of_csv_are_read(pair, text):
    write(pair, text)
    assert opened(pair) == BOTH


def test_a_row_may_give_path_name_or_stem(tmp_path):
    put(tmp_path, "x/a.png", "x/b.JPG", "x/c.jpeg", "1.2.3", "noext")
    write(tmp_path, "id,label\nx/a.png,1\nb.JPG,0\nc,1\n1.2.3,0\nnoext,1\n")
    labels = {"x/a.png": 1, "x/b.JPG": 0, "x/c.jpeg": 1, "1.2.3": 0, "noext": 1}
    assert {id: label for id, (label, _) in opened(tmp_path).items()} == labels


def test_a_name_of_several_files_needs_its_path(tmp_path):
    put(tmp_path, "x/a.png", "y/a.png")
    write(tmp_path, "id,label\na,1\n")
    assert "may be any of x/a.png, y/a.png" in refusal(tmp_path)
    write(tmp_path, "id,label\nx/a.png,1\ny\\a.png,0\n")
    assert opened(tmp_path) == {"x/a.png": (1, "all"), "y/a.png": (0, "all")}


def test_hidden_files_and_other_files_are_ignored(tmp_path):
    put(tmp_path, "a.png", ".a/a.png", "__MACOSX/a.png", "._a.png", "a.txt", "a.nii")
    (tmp_path / "a").write_text("no DICOM")
    write(tmp_path, "id,label\na,1\n")
    write(tmp_path, "id,label\na,0\n", "._labels.csv")
    assert opened(tmp_path) == {"a.png": (1, "all")}
    assert label_table.open_table(tmp_path).remarks == ("Labels of labels.csv by its column label.",)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("/home/me/films/x/a.png", "x/a.png"),
        (r"C:\films\x\a.png", "x/a.png"),
        ("../films/x/a.png", "x/a.png"),
        ("films/a.png", "a.png"),
        ("./x/a.png", "x/a.png"),
        ("x/a.png", "archive/x/a.png"),
        ("X/A.PNG", "x/a.png"),
        ("A", "x/a.Png"),
        ("x/a", "x/a.jpeg"),
        ("ro\u0308ntgen/e\u0301.png", "r\xf6ntgen/\xe9.png"),
        ("r\xf6ntgen/\xe9.png", "ro\u0308ntgen/e\u0301.png"),
    ],
)
def test_paths_may_start_elsewhere_and_be_spelled_in_another_way(tmp_path, name, file):
    put(tmp_path, file, "y/b.png")
    write(tmp_path, f"image,label\n{name},1\ny/b.png,0\n")
    assert opened(tmp_path) == {file: (1, "all"), "y/b.png": (0, "all")}


def test_a_path_through_other_folders_is_another_file(tmp_path):
    put(tmp_path, "PA/a.png", "AP/a.png", "b.png")
    write(tmp_path, "image,label\nPA/a.png,1\nLL/a.png,0\n")
    assert "no images for 1 id: LL/a.png" in refusal(tmp_path)
    write(tmp_path, "image,label\nx/b.png,1\ny/b.png,1\n")
    assert "the rows of b.png conflict" in refusal(tmp_path)
    put(tmp_path, "pa/A.png")
    write(tmp_path, "image,label\nPA/a.png,1\nb,0\n")
    assert opened(tmp_path) == {"PA/a.png": (1, "all"), "b.png": (0, "all")}, "the same spelling comes first"


def test_splits_come_from_a_column_or_else_from_folders(tmp_path):
    put(tmp_path, "Train/a.png", "valid/b.png", "test/c.png", "d.png")
    write(tmp_path, "id,label\na,1\nb,0\nc,1\n")
    assert [split for _, split in opened(tmp_path).values()] == ["train", "test", "val"]
    write(tmp_path, "id,label,Split\na,1,test\nb,0,\nc,1,Validation\nd,0,train\n")
    assert [split for _, split in opened(tmp_path).values()] == ["test", "train", "val", "val"]
    write(tmp_path, "id,label\na,1\nb,0\nc,1\nd,0\n")
    assert "1 image without a split, such as d.png" in refusal(tmp_path)
    write(tmp_path, "id,label,split\na,1,later\n")
    assert "labels.csv, line 2: split is 'later'; it must be empty or one of train, training" in refusal(tmp_path)


def test_the_patient_comes_from_a_column_a_header_or_a_name(tmp_path):
    put(tmp_path, "a.png", "b.png", "person1_virus_6.jpeg")
    put_dicom(tmp_path / "c.dcm", "P1")
    write(tmp_path, "id,label,patient_id\na,1,P1\nb,0,\nc,0,\nperson1_virus_6,1,\n")
    source = label_table.open_table(tmp_path)
    a, b, c, person = (record.patient for record in source.records)
    assert a == c, "the same patient, by its column and by its header"
    assert b == "b.png" and person == "person1_virus"
    assert "P1" not in repr(source)


def test_the_label_of_a_finding_may_be_uncertain_by_a_rule(pair):
    """Blank and -1 are of CheXpert's kind: only the user can say what they mean."""
    write(pair, "image,Pneumonia\na,1.0\nb,-1.0\n")
    assert "labels.csv, line 3: Pneumonia is '-1.0'; it must be 1 or 0 by the rule abnormal" in refusal(pair)
    assert "--config.data.label_rule from pneumonia-ones, pneumonia-zeros" in refusal(pair)
    for rule, label in (("pneumonia-ones", 1), ("pneumonia-zeros", 0), ("pneumonia-ignore", None)):
        source = label_table.open_table(pair, Options(label_rule=rule))
        assert {record.id: record.label for record in source.records} == {"a.png": 1} | (
            {} if label is None else {"b.png": label}
        )
    write(pair, "image,Pneumonia\na,1.0\nb,\n")
    assert "Pneumonia is ''; it must be 1 or 0" in refusal(pair)
    source = label_table.open_table(pair, Options(label_rule="pneumonia-ignore"))
    assert [record.label for record in source.records] == [1, 0]
    assert (
        "by its column Pneumonia and the rule pneumonia-ignore, views all: 1 pneumonia, 1 normal" in source.remarks[0]
    )


def test_the_user_chooses_among_csvs(pair):
    write(pair, "id,label\na,1\nb,0\n", "one.csv")
    write(pair, "id,label\na,0\nb,1\n", "two.csv")
    line = refusal(pair)
    assert "one.csv, two.csv" in line and "--config.data.labels=" in line
    assert opened(pair, str(pair / "one.csv")) == BOTH
    assert "no such file" in refusal(pair, str(pair / "gone.csv"))
    write(pair, "id,sex\na,m\n", "other.csv")
    assert "none of the columns target, label" in refusal(pair, str(pair / "other.csv"))


@pytest.mark.parametrize("text", ["", "a,b\n", "id,age\na,50\n", "label\n1\n"])
def test_a_csv_without_columns_of_images_and_labels_is_ignored(pair, text):
    write(pair, text)
    assert label_table.open_table(pair) is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("id,label\na,1\na,0\n", "{}, line 3: 'a' conflicts with an earlier row: fix one of them"),
        ("id,label\na,1\na.png,0\n", "{}: the rows of a.png conflict with each other"),
        ("id,label\na,1\nc,1\nd,1\ne,1\nf,1\n", "{}: no images for 4 ids: c, d, e, ..."),
        ("id,label\nc,1\n", "{} lists 1 id, but no image beside it has one"),
        ("id,label\n,1\n", "{}, line 2: id is empty"),
        ("id,label\n", "{} has no row below its first line"),
        (
            "id,label\na,1\nb,maybe\n",
            "{}, line 3: label is 'maybe'; it must be one of 0, 1, normal, healthy, pneumonia",
        ),
        ("id,label\na,1\nb,\n", "{}, line 3: label is ''; it must be one of"),
        ("id,label\na,1\nb,-1\n", "{}, line 3: label is '-1'; it must be one of"),
        ("id,class\na,Normal\nb,Lung Opacity\n", "{}, line 3: class is 'Lung Opacity'; it must be one of"),
        (b"id,label\na\xff,1\n", "{} is not UTF-8"),
        ("id,label\na,1\n".encode("utf-16"), "{} is not UTF-8"),
        (b"id,label\na\0,1\n", "{}"),
        ('id,label\na,1\n"b,0\n', "{} cannot be read as CSV"),
        ("id,label\na," + "x" * 200_000 + "\n", "{} cannot be read as CSV (field larger"),
    ],
)
def test_a_csv_that_cannot_be_understood_is_refused(pair, text, says):
    write(pair, text)
    assert says.format(pair / "labels.csv") in refusal(pair)


def test_a_chosen_csv_with_other_values_is_refused_by_line(pair):
    table = pair / "labels.csv"
    write(pair, "id,Finding\na,1\nb,perhaps\n")
    assert f"{table}, line 3: Finding is 'perhaps'; it must be one of 0, 1" in refusal(pair, str(table))
    write(pair, "id,label\na,1\nb,0,1,2\n")
    assert f"{table}, line 3: more fields than the first line has" in refusal(pair, str(table))


def test_the_fingerprint_follows_images_and_labels(pair):
    write(pair, "id,label\na,1\nb,0\n")
    seen = [label_table.open_table(pair).fingerprint]
    put(pair, "c.png", "notes.txt")  # neither has a row
    assert label_table.open_table(pair).fingerprint == seen[0]
    for change in (
        lambda: (pair / "a.png").write_bytes(b"longer than before"),
        lambda: write(pair, "id,label\na,1\nb,0\nc,1\n"),
        lambda: os.utime(pair / "labels.csv", ns=(0, 1)),
    ):
        change()
        seen.append(label_table.open_table(pair).fingerprint)
    assert len(set(seen)) == len(seen)


def test_the_right_image_is_read(tmp_path):
    Image.new("L", (5, 5), 100).save(tmp_path / "a.png")
    write(tmp_path, "id,label\na,1\n")
    source = label_table.open_table(tmp_path)
    np.testing.assert_array_equal(source.read(source.records[0], 8), np.full((8, 8), 100, np.uint8))
    assert source.root == tmp_path and Path(source.location) == tmp_path and source.name == tmp_path.name


@pytest.mark.parametrize(
    "placeholders", [("ANONYMOUS",), ("anon", "0"), ("Anonymized", "unknown", "00000", "N/A", "-")]
)
def test_placeholders_name_no_patient(tmp_path, placeholders):
    """Programs that make files anonymous write one word or another, in headers and in tables."""
    names = [f"{place}{number}" for number in range(2 * len(placeholders)) for place in ("header", "table")]
    lines = ["id,label,patient"]
    for number, name in enumerate(names):
        placeholder = placeholders[number // 2 % len(placeholders)]
        put_dicom(tmp_path / f"{name}.dcm", placeholder if name.startswith("header") else "")
        lines.append(f"{name},{number % 2},{placeholder if name.startswith('table') else ''}")
    put(tmp_path, "z.png")
    write(tmp_path, "\n".join([*lines, "z,0,none"]))
    assert all(record.patient == record.id for record in label_table.open_table(tmp_path).records)


def test_a_single_image_is_a_source(tmp_path):
    Image.new("L", (5, 5), 100).save(tmp_path / "some image.png")
    source = open_single(tmp_path / "some image.png")
    (record,) = source.records
    assert (record.id, record.label, record.split) == ("some image.png", None, "all")
    assert source.read(record, 8).shape == (8, 8) and source.root == tmp_path
    put_dicom(tmp_path / "x.dcm", "P1")
    (record,) = open_single(tmp_path / "x.dcm").records
    assert record.patient != "P1"


def test_a_broken_image_is_reported_when_it_is_read(tmp_path):
    put(tmp_path, "a.png")
    write(tmp_path, "id,label\na,1\n")
    source = label_table.open_table(tmp_path)
    with pytest.raises(UnreadableImage):
        source.read(source.records[0], 8)


@pytest.mark.parametrize("name", ["patient", "Patient ID", "patient_id", "PATIENT-ID", "Subject ID"])
def test_the_column_of_patients_may_be_spelled_in_several_ways(pair, name):
    write(pair, f"Image Index,label,{name}\na,1,P\nb,0,P\n")
    assert len({record.patient for record in label_table.open_table(pair).records}) == 1


def test_a_repeated_column_is_refused(pair):
    write(pair, "image,label,Label\na,1,0\nb,0,1\n")
    assert "several columns label" in refusal(pair)


def test_one_identifier_for_all_images_identifies_no_patient(tmp_path):
    """Programs that make files anonymous may give all of them the same identifier."""
    for name in ("a", "b", "c"):
        put_dicom(tmp_path / f"{name}.dcm", "ANONYMOUS")
    write(tmp_path, "id,label\na,1\nb,0\nc,0\n")
    assert len({record.patient for record in label_table.open_table(tmp_path).records}) == 3


def test_a_dicom_file_with_another_suffix_has_its_patient(tmp_path):
    for name, patient in (("a", "P1"), ("b", "P1"), ("c", "P2")):
        put_dicom(tmp_path / f"{name}.png", patient)
    write(tmp_path, "id,label\na,1\nb,0\nc,0\n")
    a, b, c = (record.patient for record in label_table.open_table(tmp_path).records)
    assert a == b != c
