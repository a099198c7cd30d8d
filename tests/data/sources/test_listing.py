"""Files below a folder: each real folder once, images by suffix or content, masks and other files apart."""

import os

import pytest

from pneumojax.data.sources import open_source
from pneumojax.data.sources.listing import Kind, below, is_mask

DICOM = b"\0" * 128 + b"DICM"


def put(root, *names, content=b"\xff\xd8\xff"):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


def images(root):
    return [found.name for found in below(root) if found.kind is Kind.IMAGE]


def test_dicom_is_an_image_whatever_its_suffix(tmp_path):
    put(tmp_path, "IM000001", "s/1.2.840", "film.ima", "DICOMDIR", content=DICOM)
    put(tmp_path, "IM000002", "x.csv", "a.png")
    assert images(tmp_path) == ["IM000001", "a.png", "film.ima", "s/1.2.840"]
    assert {found.name for found in below(tmp_path) if found.kind is Kind.OTHER} == {"DICOMDIR", "IM000002", "x.csv"}


def test_pipes_without_the_name_of_an_image_are_not_opened(tmp_path):
    os.mkfifo(tmp_path / "IM000001")
    os.mkfifo(tmp_path / "a.png")
    assert [found.name for found in below(tmp_path)] == ["a.png"]


def test_links_to_folders_are_followed_once(tmp_path):
    put(tmp_path / "store", "a.png", "sub/b.png")
    put(tmp_path / "root", "c.png", "own/d.png")
    for name, target in (("1", "store"), ("2", "store"), ("3", "store/sub"), ("4", "root/own")):
        (tmp_path / "root" / name).symlink_to(tmp_path / target)
    assert images(tmp_path / "root") == ["c.png", "1/a.png", "1/sub/b.png", "own/d.png"]


def test_links_to_folders_around_them_lead_nowhere(tmp_path):
    """Otherwise, a link below one class folder would give its label to the images of the other."""
    put(tmp_path, "NORMAL/a.png", "NORMAL/s/b.png", "PNEUMONIA/c.png", "elsewhere/d.png")
    (tmp_path / "NORMAL" / "up").symlink_to(tmp_path)
    (tmp_path / "NORMAL" / "s" / "self").symlink_to(tmp_path / "NORMAL" / "s")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "NORMAL")
    (tmp_path / "NORMAL" / "out").symlink_to(tmp_path / "elsewhere")
    source = open_source(str(tmp_path))
    assert {record.id: record.label for record in source.records} == {
        "NORMAL/a.png": 0, "NORMAL/s/b.png": 0, "NORMAL/out/d.png": 0, "PNEUMONIA/c.png": 1
    }  # fmt: skip
    assert not any("Left out" in remark for remark in source.remarks), "an image with two names is used by one"


def test_links_into_hidden_folders_are_followed(tmp_path):
    """Tools that keep versions of data store files in hidden folders beside links."""
    put(tmp_path, ".store/7f/a.png")
    (tmp_path / "x").symlink_to(tmp_path / ".store" / "7f")
    assert images(tmp_path) == ["x/a.png"]


def test_a_table_finds_images_in_linked_folders(tmp_path):
    put(tmp_path / "store", "a.png", "b.png")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "films").symlink_to(tmp_path / "store")
    (tmp_path / "root" / "labels.csv").write_text("image,label\na,1\nfilms/b.png,0\n")
    assert [record.id for record in open_source(str(tmp_path / "root")).records] == ["films/a.png", "films/b.png"]


def test_a_folder_that_cannot_be_listed_counts_as_left_out(tmp_path):
    put(tmp_path, "a.png", "locked/b.png")
    (tmp_path / "locked").chmod(0)
    try:
        if os.access(tmp_path / "locked", os.R_OK):
            pytest.skip("this user may read everything")
        assert [found.name for found in below(tmp_path) if found.kind is Kind.OTHER] == ["locked"]
    finally:
        (tmp_path / "locked").chmod(0o700)


@pytest.mark.parametrize(
    "name",
    [
        "masks/a.png",
        "Mask/a.png",
        "x/masks/a.png",
        "leftMask/a.png",
        "a_mask.png",
        "a-MASK.PNG",
        "a masks.jpg",
        "mask.png",
    ],
)
def test_names_show_which_files_are_masks(name):
    assert is_mask(name)


@pytest.mark.parametrize("name", ["unmasked/a.png", "damask.png", "a_mask_7/b.png", "maskless/a.png"])
def test_other_names_are_no_masks(name):
    assert not is_mask(name)


def test_masks_are_left_out_and_counted(tmp_path):
    """As in the COVID-19 Radiography Database: class/images and class/masks, with the same names."""
    for folder in ("Normal", "Viral Pneumonia"):
        put(tmp_path, *(f"{folder}/{kind}/{folder}-{n}.png" for kind in ("images", "masks") for n in range(2)))
    put(tmp_path, "Normal/images/Normal-0_mask.png", "masks/other.png")
    source = open_source(str(tmp_path))
    assert [(record.id, record.label) for record in source.records] == [
        ("Normal/images/Normal-0.png", 0),
        ("Normal/images/Normal-1.png", 0),
        ("Viral Pneumonia/images/Viral Pneumonia-0.png", 1),
        ("Viral Pneumonia/images/Viral Pneumonia-1.png", 1),
    ]
    assert "Left out: 6 masks, such as Normal/images/Normal-0_mask.png." in source.remarks
    (tmp_path / "labels.csv").write_text("image,label\nNormal-0,0\n")
    (tmp_path / "Normal").rename(tmp_path / "films")
    (tmp_path / "Viral Pneumonia").rename(tmp_path / "more")
    source = open_source(str(tmp_path))
    assert [record.id for record in source.records] == ["films/images/Normal-0.png"]
    assert "Left out: 6 masks, such as films/images/Normal-0_mask.png." in source.remarks
