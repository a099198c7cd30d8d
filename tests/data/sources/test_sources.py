"""Class folders as users have them: the right images with the right labels, or one clear line."""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pneumojax.data.decode.images import UnreadableImage
from pneumojax.data.patients import patient_of
from pneumojax.data.source import CLASSES, name_of
from pneumojax.data.sources import open_source
from pneumojax.runtime.errors import UserError

REAL = Path(__file__).parents[4] / "shared" / "data" / "kermany_224"


def put(root, *names):
    """Write files that only look like images: opening a source decodes none."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\xff\xd8\xff")


def opened(root):
    """Return {id: (label, split)} of the source at `root`."""
    return {record.id: (record.label, record.split) for record in open_source(str(root)).records}


def refusal(location):
    with pytest.raises(UserError) as caught:
        open_source(str(location))
    line = str(caught.value)
    assert "\n" not in line
    return line


@pytest.mark.parametrize(
    ("folder", "split"),
    [
        ("train", "train"),
        ("Train", "train"),
        ("TRAIN", "train"),
        ("training", "train"),
        ("val", "val"),
        ("Val", "val"),
        ("valid", "val"),
        ("validation", "val"),
        ("Validate", "val"),
        ("dev", "val"),
        ("Training ", "train"),
        ("Testing", "test"),
        ("Test", "test"),
    ],
)
@pytest.mark.parametrize(
    "classes",
    [("NORMAL", "PNEUMONIA"), ("Normal", "Pneumonia"), ("NORMAL ", "pneumonia"), ("healthy", "Viral_Pneumonia")],
)
def test_splits_and_classes_may_be_spelled_in_several_ways(tmp_path, folder, split, classes):
    normal, pneumonia = classes
    put(tmp_path, f"{folder}/{normal}/a.png", f"{folder}/{pneumonia}/b.png")
    assert opened(tmp_path) == {f"{folder}/{normal}/a.png": (0, split), f"{folder}/{pneumonia}/b.png": (1, split)}


def test_without_split_level_everything_is_one_split(tmp_path):
    put(tmp_path, "Normal/a.png", "Pneumonia/b.png")
    assert opened(tmp_path) == {"Normal/a.png": (0, "all"), "Pneumonia/b.png": (1, "all")}


def test_suffixes_may_have_any_case_and_other_files_are_ignored(tmp_path):
    expected = [f"NORMAL/{name}" for name in ("a.jpeg", "b.JPG", "c.Png", "d.e.jpg", "e.DCM")]
    put(tmp_path, *expected, "NORMAL/readme.txt", "NORMAL/jpeg", "NORMAL/a.jpeg.tmp", "NORMAL/scan.nii")
    (tmp_path / "NORMAL" / "folder.png").mkdir()
    assert list(opened(tmp_path)) == expected


def test_hidden_files_and_leftovers_of_archives_are_no_images(tmp_path):
    put(
        tmp_path,
        "train/NORMAL/a.jpeg",
        "train/NORMAL/._a.jpeg",
        "train/NORMAL/.DS_Store",
        "train/NORMAL/.thumbnails/a.jpeg",
        "train/NORMAL/__MACOSX/a.jpeg",
        "train/.cache/NORMAL/b.jpeg",
        "__MACOSX/train/NORMAL/a.jpeg",
        ".git/train/NORMAL/a.jpeg",
    )
    assert list(opened(tmp_path)) == ["train/NORMAL/a.jpeg"]


def test_only_names_below_the_source_can_be_hidden(tmp_path):
    put(tmp_path / ".cache" / "data", "NORMAL/a.png")
    assert list(opened(tmp_path / ".cache" / "data")) == ["NORMAL/a.png"]


def test_a_single_folder_around_the_splits_is_entered(tmp_path):
    put(tmp_path, "archive/chest_xray/train/NORMAL/a.jpeg", "__MACOSX/chest_xray/train/NORMAL/._a.jpeg")
    assert opened(tmp_path) == {"archive/chest_xray/train/NORMAL/a.jpeg": (0, "train")}


def test_bacteria_and_virus_are_pneumonia(tmp_path):
    put(tmp_path, "NORMAL/a.png", "BACTERIA/b.png", "Virus/c.png", "PNEUMONIA/BACTERIA/d.png")
    assert [label for label, _ in opened(tmp_path).values()] == [1, 0, 1, 1]


def test_unknown_folders_beside_the_splits_are_ignored(tmp_path):
    # The archive of Kermany et al. on Kaggle holds a second copy of itself.
    put(tmp_path, "train/NORMAL/a.jpeg", "chest_xray/train/NORMAL/a.jpeg", "train/OTHER/b.jpeg", "masks/c.png")
    assert list(opened(tmp_path)) == ["train/NORMAL/a.jpeg"]


def test_folders_within_a_class_belong_to_it(tmp_path):
    put(tmp_path, "Pneumonia/patient1/study1/view1.jpg")
    assert opened(tmp_path) == {"Pneumonia/patient1/study1/view1.jpg": (1, "all")}


def test_an_unlabelled_split_folder_does_not_hide_the_classes_beside_it(tmp_path):
    put(tmp_path, "NORMAL/a.png", "test/b.png")
    assert opened(tmp_path) == {"NORMAL/a.png": (0, "all")}


def test_classes_both_in_splits_and_beside_them_are_refused(tmp_path):
    put(tmp_path, "NORMAL/a.png", "test/NORMAL/b.png")
    assert "both in split folders and beside them" in refusal(tmp_path)


def test_symbolic_links_to_folders_are_followed(tmp_path):
    put(tmp_path, "store/x/a.png", "store/val/NORMAL/b.png")
    source = tmp_path / "source"
    (source / "train").mkdir(parents=True)
    (source / "train" / "NORMAL").symlink_to(tmp_path / "store" / "x")
    (source / "val").symlink_to(tmp_path / "store" / "val")
    (tmp_path / "link").symlink_to(source)
    expected = {"train/NORMAL/a.png": (0, "train"), "val/NORMAL/b.png": (0, "val")}
    assert opened(source) == opened(tmp_path / "link") == expected
    assert open_source(str(tmp_path / "link")).location == open_source(str(source)).location


def test_a_folder_linked_into_itself_ends(tmp_path):
    (tmp_path / "again").symlink_to(tmp_path)
    assert "holds no images" in refusal(tmp_path)


def test_a_dangling_link_is_a_record_that_cannot_be_read(tmp_path):
    put(tmp_path, "NORMAL/a.png")
    (tmp_path / "NORMAL" / "b.png").symlink_to(tmp_path / "gone.png")
    source = open_source(str(tmp_path))
    assert len(source.records) == 2
    with pytest.raises(UnreadableImage, match="No such file"):
        source.read(source.records[1], 8)


def test_names_may_have_spaces_and_unicode(tmp_path):
    names = ["NORMAL/röntgen bild.png", "NORMAL/胸部\u3000写真.png", "NORMAL/q'\"$;.png"]
    put(tmp_path / "my data é", *names)
    assert list(opened(tmp_path / "my data é")) == sorted(names)


def test_a_name_that_is_not_utf8_is_refused(tmp_path):
    put(tmp_path, "NORMAL/a.png")
    broken = os.fsencode(tmp_path / "NORMAL") + b"/\xff.png"
    try:
        os.close(os.open(broken, os.O_CREAT))
    except OSError as error:
        pytest.skip(f"this file system takes no such name: {error}")
    assert "not UTF-8" in refusal(tmp_path)
    (tmp_path / "NORMAL").rename(tmp_path / "films")
    with pytest.raises(UserError, match="not UTF-8"):
        open_source(str(tmp_path), labelled=False)


def test_records_are_unique_relative_and_in_order_of_id(tmp_path):
    names = ["NORMAL/s/1.png", "NORMAL/s-1/1.png", "NORMAL/s 1/1.png", "NORMAL/s.png", "PNEUMONIA/s/1.png"]
    put(tmp_path, *(f"{split}/{name}" for split in ("val", "train") for name in names))
    ids = [record.id for record in open_source(str(tmp_path)).records]
    assert ids == sorted(ids)
    assert len(set(ids)) == 10, "the same stem in two splits is two images"
    assert all((tmp_path / id).is_file() for id in ids)


def test_the_right_image_is_read(tmp_path):
    for label, name in enumerate(("NORMAL", "PNEUMONIA")):
        (tmp_path / name).mkdir()
        Image.new("L", (5, 5), 100 + label).save(tmp_path / name / "same.png")
    source = open_source(str(tmp_path))
    for record in source.records:
        np.testing.assert_array_equal(source.read(record, 8), np.full((8, 8), 100 + record.label, np.uint8))


@pytest.mark.parametrize("name", ["no/such/folder", "", "~nobody-of-this-name/x", "x" * 5000, "a\0b"])
def test_a_missing_location_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    put(tmp_path, "NORMAL/a.png")  # an empty location is not the working folder
    assert refusal(name).startswith(("no such data", "cannot open"))


def test_a_file_that_is_no_image_is_refused(tmp_path):
    put(tmp_path, "notes.txt")
    assert "neither an .npz file nor an image" in refusal(tmp_path / "notes.txt")


@pytest.mark.parametrize("content", [[], ["a.png"], ["cats/a.png"], ["train/cats/a.png"], ["NORMAL/notes.txt"]])
def test_an_unknown_layout_is_refused(tmp_path, content):
    put(tmp_path, *content)
    line = refusal(tmp_path)
    assert "normal and pneumonia" in line
    assert str(tmp_path) in line


def test_a_folder_without_permission_is_refused(tmp_path, monkeypatch):
    put(tmp_path, "NORMAL/a.png")

    def refuse(self):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "iterdir", refuse)
    assert refusal(tmp_path) == f"cannot open {tmp_path}: Permission denied"


def test_one_class_alone_is_a_source(tmp_path):
    """Evaluation scores it, with an undefined AUC; training refuses it (see test_splits)."""
    put(tmp_path, "NORMAL/a.png")
    assert opened(tmp_path) == {"NORMAL/a.png": (0, "all")}


@pytest.mark.parametrize(
    ("name", "patient"),
    [
        ("person1_bacteria_2.jpeg", "person1_bacteria"),
        ("person1_bacteria_12.jpeg", "person1_bacteria"),
        ("person1_virus_6.jpeg", "person1_virus"),
        ("person1438_virus_2453_1.jpeg", "person1438_virus"),
        ("person12_bacteria_2.jpeg", "person12_bacteria"),
        ("IM-0115-0001.jpeg", "IM-0115"),
        ("IM-0115-0001-0002.jpeg", "IM-0115"),
        ("NORMAL2-IM-0383-0001-0002.jpeg", "NORMAL2-IM-0383"),
        ("NORMAL-1003233-0001.jpeg", "NORMAL-1003233"),
        ("BACTERIA-1003233-0001.jpeg", "BACTERIA-1003233"),
        ("VIRUS-123-0001.jpeg", "VIRUS-123"),
        ("patient00012_study1_view1_frontal.jpg", "patient00012"),
        ("patient00012/study1/view1_frontal.jpg", "patient00012"),
        # Names without a patient: each image is its own patient, also among images of the same name.
        ("image_0001.jpeg", "train/NORMAL/image_0001.jpeg"),
        ("person1.jpeg", "train/NORMAL/person1.jpeg"),
        ("IM-0115x.jpeg", "train/NORMAL/IM-0115x.jpeg"),
    ],
)
def test_names_contain_the_patient(name, patient):
    assert patient_of(f"train/NORMAL/{name}") == patient


def test_patients_do_not_depend_on_where_the_folder_is(tmp_path):
    patients = []
    for place in ("here", "elsewhere/person1_virus_2"):
        put(tmp_path / place, "NORMAL/a.png", "NORMAL/IM-1-2.png")
        patients.append([record.patient for record in open_source(str(tmp_path / place)).records])
    assert patients[0] == patients[1]


def test_the_fingerprint_follows_only_the_images(tmp_path):
    put(tmp_path, "NORMAL/a.png", "NORMAL/b.png", "PNEUMONIA/c.png")
    seen = [open_source(str(tmp_path)).fingerprint]

    put(tmp_path, "NORMAL/notes.txt", "other/a.png", "NORMAL/.hidden.png")
    assert open_source(str(tmp_path)).fingerprint == seen[0]

    image = tmp_path / "NORMAL" / "a.png"
    changes = [
        lambda: image.write_bytes(b"longer than before"),
        lambda: os.utime(image, ns=(0, image.stat().st_mtime_ns + 1)),
        lambda: put(tmp_path, "NORMAL/new.png"),
        lambda: (tmp_path / "NORMAL" / "b.png").unlink(),
        lambda: (tmp_path / "PNEUMONIA" / "c.png").rename(tmp_path / "PNEUMONIA" / "d.png"),
    ]
    for change in changes:
        change()
        seen.append(open_source(str(tmp_path)).fingerprint)
    assert len(set(seen)) == len(seen)
    assert open_source(str(tmp_path)).fingerprint == seen[-1]


@pytest.mark.parametrize("name", ["chest xray", "a:b*c", "Ärzte", "x.y-z"])
def test_the_name_is_fit_for_a_file_name(tmp_path, name):
    put(tmp_path / name, "NORMAL/a.png")
    short_name = open_source(str(tmp_path / name)).name
    assert short_name.replace("_", "").replace(".", "").isalnum()


@pytest.mark.parametrize("name", ["..", "...", ".", "x/..", "/", "..npz/.."])
def test_the_name_is_no_folder_around(name):
    """`...npz` without its suffix is `..`: results would be written beside the workdir."""
    assert name_of(name).strip(".") and "/" not in name_of(name)


def test_films_without_labels_are_a_source_where_labels_are_not_needed(tmp_path):
    put(tmp_path, "x/a.png", "b.jpg", "notes.txt", "masks/b.jpg")
    assert "holds no images in folders named" in refusal(tmp_path)
    source = open_source(str(tmp_path), labelled=False)
    assert [(record.id, record.label, record.split) for record in source.records] == [
        ("b.jpg", None, "all"), ("x/a.png", None, "all")
    ]  # fmt: skip
    assert source.remarks == (
        "No image has a label.",
        "Left out: 1 mask, such as masks/b.jpg.",
        "Left out: 1 other file, such as notes.txt.",
        "Patients are unknown: each image counts as its own.",
    )
    put(tmp_path, "empty/notes.txt")
    with pytest.raises(UserError, match="holds no images"):
        open_source(str(tmp_path / "empty"), labelled=False)


def test_a_csv_without_labels_is_named(tmp_path):
    put(tmp_path, "a.png")
    (tmp_path / "films.csv").write_text("image,age\na,50\n")
    assert f"({tmp_path}/films.csv has none of the columns target, label" in refusal(tmp_path)
    assert len(open_source(str(tmp_path), labelled=False).records) == 1
    (tmp_path / "tables").mkdir()
    (tmp_path / "films.csv").rename(tmp_path / "tables" / "films.csv")
    put(tmp_path, "other/b.png")
    assert f"({tmp_path}/tables/films.csv has none of the columns target, label" in refusal(tmp_path)
    (tmp_path / "tables" / "films.csv").write_text("image,label\na,1\n")
    assert f"({tmp_path}/tables/films.csv does not lie beside the images: move it there)" in refusal(tmp_path)
    (tmp_path / "films.csv").write_text("image,label\na,maybe\n")
    for labelled in (True, False):
        with pytest.raises(UserError, match="films.csv, line 2: label is 'maybe'; it must be one of 0, 1"):
            open_source(str(tmp_path), labelled=labelled)


def test_the_real_set():
    if not REAL.is_dir():
        pytest.skip("the shared radiographs are not here")
    source = open_source(str(REAL))
    counts = Counter((record.split, record.label) for record in source.records)
    assert counts == {("train", 0): 1341, ("train", 1): 3875, ("val", 0): 8, ("val", 1): 8}
    alone = [record.id for record in source.records if record.patient == record.id]
    assert not alone, "every name of this set contains the patient"
    assert source.read(source.records[0], 150).shape == (150, 150)
    assert source.notice is None
    assert CLASSES == ("normal", "pneumonia")


def test_splits_below_classes_are_refused(tmp_path):
    """If class folders were pooled, test images would be trained on."""
    put(tmp_path, "NORMAL/train/a.png", "NORMAL/test/b.png", "PNEUMONIA/train/c.png")
    assert "is a split folder in a class folder" in refusal(tmp_path)


def test_files_that_are_left_out_are_counted(tmp_path):
    put(tmp_path, "train/NORMAL/a.png", "train/PNEUMONIA/b.png", "train/COVID/c.png", "train/NORMAL/d.nii", "._e.png")
    assert "Left out: 2 other files, such as train/COVID/c.png." in open_source(str(tmp_path)).remarks


def test_a_long_name_is_cut(tmp_path):
    assert len(name_of(str(tmp_path / ("\u75c5" * 80))).encode()) <= 100
