"""The tables of public sets, as they come: labels by each rule, patients, views, splits, and what is left out."""

import csv
import gzip
import io

import pytest

from pneumojax.data.source import Options
from pneumojax.data.sources import open_source
from pneumojax.data.sources.public_tables import Form, columns_of, plain
from pneumojax.runtime.errors import UserError

RULES = ("abnormal", "pneumonia-ones", "pneumonia-zeros", "pneumonia-ignore")


def put(root, *names):
    """Write files that only look like images: opening a source decodes none."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\xff\xd8\xff")


def write(root, name, header, *rows):
    text = io.StringIO()
    csv.writer(text).writerows([header.split(","), *rows])
    (root / name).write_text(text.getvalue())


def opened(root, **options):
    return open_source(str(root), Options(**options))


def labels(root, **options):
    """Return {name without suffix: label}."""
    return {record.id.rpartition("/")[2].partition(".")[0]: record.label for record in opened(root, **options).records}


def refusal(root, **options):
    with pytest.raises(UserError) as caught:
        opened(root, **options)
    line = str(caught.value)
    assert "\n" not in line
    return line


@pytest.fixture
def nih(tmp_path):
    put(tmp_path, *(f"images_00{1 + n // 2}/images/0000000{1 + n // 2}_00{n % 2}.png" for n in range(5)))
    write(
        tmp_path,
        "Data_Entry_2017.csv",
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position",
        ("00000001_000.png", "Pneumonia|Infiltration", 0, 1, 60, "M", "PA"),
        ("00000001_001.png", "No Finding", 1, 1, 60, "M", "AP"),
        ("00000002_000.png", "Cardiomegaly", 0, 2, 60, "M", "PA"),
        ("00000002_001.png", "Effusion|Pneumonia", 1, 2, 60, "M", "LL"),
        ("00000003_000.png", "No Finding", 0, 3, 60, "M", "PA"),
        ("00000099_000.png", "No Finding", 0, 99, 60, "M", "PA"),
    )
    (tmp_path / "BBox_List_2017.csv").write_text(
        "Image Index,Finding Label,Bbox [x,y,w,h]\n00000001_000.png,Mass,1,1,1,1"
    )
    return tmp_path


def test_nih(nih):
    """Half of the set is often all that is there: rows without an image are left out, and counted."""
    assert list(labels(nih).values()) == [1, 0, 1, 1, 0]
    for rule in RULES[1:]:
        assert list(labels(nih, label_rule=rule).values()) == [1, 0, 0, 1, 0]
    source = opened(nih)
    first, second, third, *_ = (record.patient for record in source.records)
    assert first == second != third and not first.isdecimal()
    assert source.remarks == (
        "Labels of Data_Entry_2017.csv (NIH ChestX-ray14) by its column Finding Labels and the rule abnormal, views"
        " all: 3 pneumonia, 2 normal.",
        "Left out: 1 row of Data_Entry_2017.csv without an image, such as 00000099_000.png.",
    )


def test_the_lists_of_nih_give_the_splits(nih):
    """As the set comes: two lists of names beside the table."""
    (nih / "train_val_list.txt").write_text("00000001_000.png\n00000001_001.png\n00000003_000.png\n")
    (nih / "test_list.txt").write_text("00000002_000.png\r\n00000002_001.png\r\n00000098_000.png\r\n")
    assert [record.split for record in opened(nih).records] == ["train", "train", "test", "test", "train"]


def test_nih_views(nih):
    source = opened(nih, views="frontal")
    assert [record.id[-16:-4] for record in source.records] == [
        "00000001_000",
        "00000001_001",
        "00000002_000",
        "00000003_000",
    ]
    assert any("Left out: 1 image by its label or view, such as images_002" in remark for remark in source.remarks)


def test_an_empty_list_of_findings_is_refused(nih):
    write(nih, "Data_Entry_2017.csv", "Image Index,Finding Labels", ("00000001_000.png", ""))
    assert "Data_Entry_2017.csv, line 2: Finding Labels is ''; it must be No Finding, or names" in refusal(nih)


def test_other_rules_are_other_sources(nih):
    """Otherwise, prepared images of one rule would be trained on with the labels of another."""
    assert opened(nih).fingerprint != opened(nih, label_rule="pneumonia-ones").fingerprint


def test_mimic(tmp_path):
    names = [f"files/p10/p1000003{n}/s5041426{n}/02aa804{n}.jpg" for n in range(5)]
    put(tmp_path, *names)
    rows = [("1.0", ""), ("", "1.0"), ("", "-1.0"), ("", "0.0"), ("", "")]
    splits = ["train", "train", "validate", "test", "train"]
    views = ["PA", "AP", "LATERAL", "LL", "AP AXIAL"]
    write(
        tmp_path,
        "mimic.csv",
        "dicom_id,subject_id,study_id,split,ViewPosition,No Finding,Pneumonia",
        *((names[n][-12:-4], 10000030 + n // 2, n, splits[n], views[n], *rows[n]) for n in range(5)),
    )
    expected = {rule: dict(zip("01234", column, strict=True)) for rule, column in zip(
        RULES, ([0, 1, 1, 1, 1], [0, 1, 1, 0, 0], [0, 1, 0, 0, 0], [0, 1, None, 0, 0]), strict=True
    )}  # fmt: skip
    for rule in RULES:
        kept = {name[-1]: label for name, label in labels(tmp_path, label_rule=rule).items()}
        assert kept == {name: label for name, label in expected[rule].items() if label is not None}
    records = opened(tmp_path).records
    assert [record.split for record in records] == ["train", "train", "val", "test", "train"]
    assert records[0].patient == records[1].patient != records[2].patient
    assert len(opened(tmp_path, views="frontal").records) == 3


def test_the_tables_of_mimic_are_joined_by_study(tmp_path):
    """As they come: findings by study, and splits and views by image."""
    put(tmp_path, *(f"files/p10/p1000000{n // 2}/s5000000{n}/{view}{n}.jpg" for n in range(3) for view in "fl"))
    write(
        tmp_path,
        "mimic-cxr-2.0.0-chexpert.csv",
        "subject_id,study_id,No Finding,Pneumonia",
        *((10000000 + n // 2, 50000000 + n, no_finding, pneumonia) for n, (no_finding, pneumonia) in enumerate(
            [("1.0", ""), ("", "1.0"), ("", "-1.0")]
        )),
    )  # fmt: skip
    images = [(f"{view}{n}", 50000000 + n, 10000000 + n // 2, view) for n in range(4) for view in "fl"]
    write(tmp_path, "mimic-cxr-2.0.0-split.csv", "dicom_id,study_id,subject_id,split", *(
        (name, study, subject, "validate" if study == 50000002 else "train") for name, study, subject, _ in images
    ))  # fmt: skip
    write(tmp_path, "mimic-cxr-2.0.0-metadata.csv", "dicom_id,subject_id,study_id,ViewPosition", *(
        (name, subject, study, "PA" if view == "f" else "LATERAL") for name, study, subject, view in images
    ))  # fmt: skip
    assert labels(tmp_path) == {"f0": 0, "l0": 0, "f1": 1, "l1": 1, "f2": 1, "l2": 1}
    assert labels(tmp_path, views="frontal", label_rule="pneumonia-ignore") == {"f0": 0, "f1": 1}
    records = opened(tmp_path).records
    assert [record.split for record in records] == ["train"] * 4 + ["val"] * 2
    assert len({record.patient for record in records}) == 2


def test_compressed_tables_are_read(tmp_path):
    """PhysioNet's are. One that is cut short is named."""
    test_the_tables_of_mimic_are_joined_by_study(tmp_path)
    whole = opened(tmp_path).records
    for path in list(tmp_path.glob("*.csv")):
        path.with_suffix(".csv.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    assert opened(tmp_path).records == whole
    path = tmp_path / "mimic-cxr-2.0.0-split.csv.gz"
    path.write_bytes(path.read_bytes()[:-9])
    assert "mimic-cxr-2.0.0-split.csv.gz is no whole gzip file" in refusal(tmp_path)


def test_one_of_two_labellers_is_chosen(tmp_path):
    """MIMIC has the findings of two programs. The chosen one is joined with the lists of images as well."""
    test_the_tables_of_mimic_are_joined_by_study(tmp_path)
    write(tmp_path, "mimic-cxr-2.0.0-negbio.csv", "subject_id,study_id,No Finding,Pneumonia", *(
        (10000000 + n // 2, 50000000 + n, "", "1.0") for n in range(3)
    ))  # fmt: skip
    assert "choose one of them by --config.data.labels=FILE" in refusal(tmp_path)
    chosen = labels(tmp_path, labels=str(tmp_path / "mimic-cxr-2.0.0-negbio.csv"))
    assert chosen == {"f0": 1, "l0": 1, "f1": 1, "l1": 1, "f2": 1, "l2": 1}


def test_a_damaged_table_of_the_same_form_is_not_passed_over(nih):
    """Another table that can be read would hide it."""
    write(nih, "Data_Entry_2018.csv", "Image Index,Finding Labels", ("00000001_000.png", ""))
    assert "Data_Entry_2018.csv, line 2" in refusal(nih)


def vindr(root, *votes, name="image_labels_train.csv", folder="train", column="rad_id"):
    """Write (image, reader, no finding, pneumonia)."""
    put(root, *{f"{folder}/{vote[0]}.dicom" for vote in votes})
    write(root, name, f"image_id,{column},Aortic enlargement,Pneumonia,No finding", *(
        (image, reader, 0, pneumonia, no_finding) for image, reader, no_finding, pneumonia in votes
    ))  # fmt: skip


def test_vindr_counts_the_readers(tmp_path):
    vindr(
        tmp_path,
        ("a", "R1", 0, 1), ("a", "R2", 0, 1), ("a", "R3", 1, 0),
        ("b", "R1", 0, 0), ("b", "R4", 0, 1), ("b", "R3", 0, 0),
        ("c", "R1", 1, 0), ("c", "R2", 1, 0), ("c", "R3", 0, 0),
        column="rad_ID",
    )  # fmt: skip
    assert labels(tmp_path) == {"a": 1, "b": 1, "c": 0}
    assert labels(tmp_path, label_rule="pneumonia-zeros") == {"a": 1, "b": 0, "c": 0}
    assert {record.split for record in opened(tmp_path).records} == {"train"}


def test_readers_who_disagree_by_halves_are_refused(tmp_path):
    vindr(tmp_path, ("a", "R1", 0, 1), ("a", "R2", 1, 0), ("b", "R1", 1, 0))
    line = refusal(tmp_path)
    assert "image_labels_train.csv: the readers of 1 image disagree by halves, such as a: keep an odd number" in line


def test_the_tables_of_vindrs_train_and_test_belong_together(tmp_path):
    vindr(tmp_path, ("a", "R1", 0, 1), ("a", "R2", 0, 1), ("a", "R3", 0, 1))
    put(tmp_path, "test/b.dicom")
    write(tmp_path, "image_labels_test.csv", "image_id,Pneumonia,No finding", ("b", 0, 1))
    assert {(record.id, record.label, record.split) for record in opened(tmp_path).records} == {
        ("train/a.dicom", 1, "train"), ("test/b.dicom", 0, "test")
    }  # fmt: skip
    write(tmp_path, "image_labels_more.csv", "image_id,Pneumonia,No finding", ("b", 1, 0))
    assert "'b' conflicts with a row of another CSV" in refusal(tmp_path)


def test_vindrs_tables_may_lie_in_a_folder_of_annotations(tmp_path):
    (tmp_path / "annotations").mkdir()
    vindr(tmp_path, ("a", "R1", 0, 1), name="annotations/image_labels_train.csv")
    put(tmp_path, "test/b.dicom")
    write(tmp_path, "annotations/image_labels_test.csv", "image_id,Pneumonia,No finding", ("b", 0, 1))
    assert labels(tmp_path) == {"a": 1, "b": 0}


def test_vindrs_boxes(tmp_path):
    put(tmp_path, "train/a.dicom", "train/b.dicom")
    write(tmp_path, "train.csv", "image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max",
        ("a", "No finding", 14, "R1", "", "", "", ""), ("a", "Lung Opacity", 7, "R2", 1, 1, 2, 2),
        ("a", "Consolidation", 4, "R2", 1, 1, 2, 2), ("a", "Cardiomegaly", 3, "R3", 1, 1, 2, 2),
        ("b", "No finding", 14, "R1", "", "", "", ""), ("b", "No finding", 14, "R2", "", "", "", ""),
        ("b", "Nodule/Mass", 8, "R3", 1, 1, 2, 2),
    )  # fmt: skip
    assert labels(tmp_path) == {"a": 1, "b": 0}


def test_rsnas_boxes_and_classes(tmp_path):
    """A film has a row for each box; the films' own names are their patients."""
    put(tmp_path, *(f"stage_2_train_images/{name}.png" for name in "abc"))
    rows = ("a", "Normal"), ("b", "Lung Opacity"), ("b", "Lung Opacity"), ("c", "No Lung Opacity / Not Normal")
    write(tmp_path, "stage_2_detailed_class_info.csv", "patientId,class", *rows)
    assert labels(tmp_path) == {"a": 0, "b": 1, "c": 1}
    assert labels(tmp_path, label_rule="pneumonia-ones") == {"a": 0, "b": 1, "c": 0}
    assert not any("unknown" in remark for remark in opened(tmp_path).remarks)
    boxes = ("a", "", "", "", "", 0), ("b", 1, 2, 3, 4, 1), ("b", 5, 6, 7, 8, 1), ("c", "", "", "", "", 0)
    write(tmp_path, "stage_2_train_labels.csv", "patientId,x,y,width,height,Target", *boxes)
    assert labels(tmp_path) == {"a": 0, "b": 1, "c": 0}
    write(tmp_path, "stage_2_train_labels.csv", "patientId,x,y,width,height,Target", *boxes, ("b", "", "", "", "", 0))
    (tmp_path / "stage_2_detailed_class_info.csv").unlink()
    assert "line 6: 'b' conflicts with an earlier row" in refusal(tmp_path)


def test_padchest(tmp_path):
    put(tmp_path, *(f"{n % 3}/{n}.png" for n in range(6)))
    lists = [
        "['pneumonia', 'pleural effusion']",
        "['normal']",
        "[' unchanged', 'normal']",
        "['scoliosis']",
        "['exclude']",
    ]
    lists.append("nan")
    projections = ["PA", "L", "AP_horizontal", "COSTAL", "PA", "PA"]
    write(
        tmp_path,
        "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv",
        ",ImageID,ImageDir,StudyID,PatientID,Projection,Report,Labels",
        *((n, f"{n}.png", n % 3, n, 100 + n // 2, projections[n], "sin hallazgos, normal", lists[n]) for n in range(6)),
    )
    assert labels(tmp_path) == {"0": 1, "1": 0, "2": 0, "3": 1}
    assert labels(tmp_path, label_rule="pneumonia-ignore") == {"0": 1, "1": 0, "2": 0, "3": 0}
    assert labels(tmp_path, views="frontal") == {"0": 1, "2": 0}
    patients = {record.id: record.patient for record in opened(tmp_path).records}
    assert patients["0/0.png"] == patients["1/1.png"] != patients["2/2.png"]
    write(tmp_path, "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv", "ImageID,Labels", ("0.png", "pneumonia"))
    assert "line 2: Labels is 'pneumonia'; it must be a list such as" in refusal(tmp_path)


def test_covid_sets(tmp_path):
    findings = {
        "a": "Pneumonia/Viral/COVID-19", "b": "No Finding", "c": "Pneumonia", "d": "Tuberculosis", "e": "todo",
        "f": "COVID-19, ARDS", "g": "Pneumonia/Fungal/Pneumocystis", "h": "Pneumonia",
    }  # fmt: skip
    put(tmp_path, *(f"images/{name}.jpg" for name in findings))
    rows = [(1, finding, "PA", "CT" if name == "h" else "X-ray", f"{name}.jpg") for name, finding in findings.items()]
    write(tmp_path, "metadata.csv", "patientid,finding,view,modality,filename", *rows)
    assert labels(tmp_path) == {"a": 1, "b": 0, "c": 1, "d": 1, "f": 1, "g": 1}
    assert labels(tmp_path, label_rule="pneumonia-ones") == {"a": 1, "b": 0, "c": 1, "d": 0, "f": 1, "g": 1}
    assert len({record.patient for record in opened(tmp_path).records}) == 1
    write(tmp_path, "metadata.csv", "patientid,finding,filename", (1, "perhaps", "a.jpg"))
    assert "metadata.csv, line 2: finding is 'perhaps'; it must be one of 0, 1" in refusal(tmp_path)


def test_a_rule_or_a_view_that_a_table_cannot_answer_is_refused(tmp_path):
    put(tmp_path, "a.png")
    write(tmp_path, "x.csv", "image,No Finding", ("a", "1.0"))
    assert labels(tmp_path) == {"a": 0}
    assert "x.csv has no column Pneumonia, which the rule pneumonia-ones reads" in refusal(
        tmp_path, label_rule="pneumonia-ones"
    )
    assert "x.csv has no column of views" in refusal(tmp_path, views="frontal")


def test_a_users_own_labels_come_before_those_of_a_public_set(nih):
    write(nih, "labels.csv", "image,label", ("00000001_000", 0), ("00000001_001", 1))
    assert labels(nih) == {"00000001_000": 0, "00000001_001": 1}


def test_a_form_of_its_own_columns_is_one_row():
    """A table with other columns takes one row of FORMS, as CONTRIBUTING.md says."""
    form = Form("a table", ("outcome",), "outcome", plain, ids=("picture",), patients=("person",))
    assert {"outcome", "picture", "person"} <= columns_of([form])
