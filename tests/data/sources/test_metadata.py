"""What CSVs beside images tell of each image: it is kept, by the right image, and nothing of it can stop a source."""

import pytest
from support import ROOT

from pneumojax.data.source import Options
from pneumojax.data.sources import open_source

ADULTS = ROOT.parent / "shared" / "data" / "adults_224"
COLUMNS = Options(columns="view,age,sex,read_by")


def put(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\xff\xd8\xff")


def metadata(root, options=COLUMNS):
    return {record.id: dict(record.metadata) for record in open_source(str(root), options).records}


def test_a_csv_beside_class_folders_describes_their_images(tmp_path):
    """The label is the folder's: the CSV adds to it."""
    put(tmp_path, "NORMAL/a.jpg", "NORMAL/b.jpg", "PNEUMONIA/c.jpg")
    (tmp_path / "films.csv").write_text(
        "image,label,Read By,age,view\nNORMAL/a.jpg,1,radiologist,40,PA\nc.jpg,0,text,,AP\nNORMAL/d.jpg,0,text,1,PA\n"
    )
    assert metadata(tmp_path) == {
        "NORMAL/a.jpg": {"view": "PA", "age": "40", "read_by": "radiologist"},
        "NORMAL/b.jpg": {},
        "PNEUMONIA/c.jpg": {"view": "AP", "read_by": "text"},
    }
    source = open_source(str(tmp_path), COLUMNS)
    assert [record.label for record in source.records] == [0, 0, 1]
    assert "films.csv describes 2 images: view, age, Read By." in source.remarks
    assert metadata(tmp_path, Options(columns="view"))["NORMAL/a.jpg"] == {"view": "PA"}
    assert set(map(str, metadata(tmp_path, Options()).values())) == {"{}"}, "no column is asked for"
    assert [r._replace(metadata=()) for r in source.records] == list(open_source(str(tmp_path)).records)


@pytest.mark.parametrize(
    ("header", "row"),
    [
        (
            "Image Index,Finding Labels,Patient ID,Patient Age,Patient Gender,View Position",
            "a.png,Pneumonia,7,058Y,M,AP",
        ),
        ("Path,Sex,Age,AP/PA,Frontal/Lateral,Pneumonia", "films/a.png,M,058Y,AP,Frontal,1"),
        ("ImageID,Projection,PatientSex_DICOM,Age_at_study,Labels", "a.png,AP,M,058Y,['pneumonia']"),
    ],
)
def test_the_names_of_public_sets_are_known(tmp_path, header, row):
    put(tmp_path, "a.png")
    first, *rest = row.split(",", 1)
    (tmp_path / "labels.csv").write_text(f"{header}\n{first},{rest[0]}\n")
    rule = COLUMNS._replace(label_rule="pneumonia-ones")
    assert metadata(tmp_path, rule) == {"a.png": {"view": "AP", "age": "058Y", "sex": "M"}}


def test_images_are_found_by_the_end_of_a_path_or_a_name_that_no_other_has(tmp_path):
    put(tmp_path, "train/NORMAL/a.jpg", "test/NORMAL/a.jpg", "train/PNEUMONIA/b.jpg", "test/PNEUMONIA/c.jpg")
    (tmp_path / "films.csv").write_text(
        "image,view\n/disk/films/train/NORMAL/a.jpg,1\na.jpg,2\nB,3\nval/PNEUMONIA/c.jpg,4\n"
    )
    assert metadata(tmp_path) == {
        "test/NORMAL/a.jpg": {}, "train/NORMAL/a.jpg": {"view": "1"}, "train/PNEUMONIA/b.jpg": {"view": "3"},
        "test/PNEUMONIA/c.jpg": {},
    }  # fmt: skip


def test_the_first_value_of_an_image_counts(tmp_path):
    """Tables of boxes and of readers have several rows for each image."""
    put(tmp_path, "NORMAL/a.jpg")
    (tmp_path / "boxes.csv").write_text("image,view,age\na,,1\na,PA,2\na,AP,3\n")
    (tmp_path / "later.csv").write_text("image,sex,view\na,F,lateral\n")
    assert metadata(tmp_path) == {"NORMAL/a.jpg": {"view": "PA", "age": "1", "sex": "F"}}


def test_a_csv_within_an_unpacked_archive_is_read(tmp_path):
    put(tmp_path, "archive/NORMAL/a.jpg", "archive/PNEUMONIA/b.jpg")
    (tmp_path / "archive/films.csv").write_text("image,view\na,PA\n")
    assert metadata(tmp_path)["archive/NORMAL/a.jpg"] == {"view": "PA"}


def test_the_users_own_csv_of_labels_is_read(tmp_path):
    put(tmp_path / "films", "a.jpg", "b.jpg")
    (tmp_path / "labels.csv").write_text("image,label,view\na,1,PA\nb,0,AP\n")
    options = COLUMNS._replace(labels=str(tmp_path / "labels.csv"))
    assert metadata(tmp_path / "films", options) == {"a.jpg": {"view": "PA"}, "b.jpg": {"view": "AP"}}


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xfe\x00", b"image,view\n\"a", b"view\nPA\n", b"image,view\na,PA,more\n", b"image,view\n,PA\n",
     b"image,view\n../../a,\n", b"\0" * 100],
)  # fmt: skip
def test_a_csv_that_cannot_be_used_changes_nothing(tmp_path, content):
    """Class folders need no CSV, so one that happens to lie there must not stop anything."""
    put(tmp_path, "NORMAL/a.jpg", "PNEUMONIA/b.jpg")
    (tmp_path / "stray.csv").write_bytes(content)
    assert metadata(tmp_path) == {"NORMAL/a.jpg": {}, "PNEUMONIA/b.jpg": {}}


def test_a_csv_that_cannot_be_read_is_named(tmp_path):
    put(tmp_path, "NORMAL/a.jpg")
    (tmp_path / "stray.csv").write_bytes(b"\xff\xfe\x00")
    remarks = open_source(str(tmp_path), COLUMNS).remarks
    assert f"Not read: {tmp_path}/stray.csv is not UTF-8 text: save it again as CSV in UTF-8." in remarks


def test_long_values_are_cut(tmp_path):
    put(tmp_path, "NORMAL/a.jpg")
    (tmp_path / "films.csv").write_text(f"image,view\na,{'x' * 5000}\n")
    assert metadata(tmp_path)["NORMAL/a.jpg"] == {"view": "x" * 100}


def test_the_adults():
    if not ADULTS.is_dir():
        pytest.skip("the shared radiographs are not here")
    found = metadata(ADULTS)
    assert len(found) == 1225
    assert sum(own["read_by"] == "radiologist" for own in found.values()) == 179
    assert {own["view"] for own in found.values()} == {"AP", "PA"}
