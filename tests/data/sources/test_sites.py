"""Several sources as one: which locations name sites, and that ids, patients, splits and labels stay apart by site."""

import pickle
import re

import numpy as np
import pytest
from support import draw_folder

from pneumojax.data import splits
from pneumojax.data.audit import findings, leakage
from pneumojax.data.source import DEFAULTS
from pneumojax.data.sources import open_source, sites
from pneumojax.runtime.errors import UserError


@pytest.fixture
def hospitals(tmp_path, monkeypatch):
    """Two folders, the working directory's: `one` with train and test, `two` without splits."""
    draw_folder(tmp_path / "one", "train", 12, 12)
    draw_folder(tmp_path / "one", "test", 2, 3, first=300)
    draw_folder(tmp_path / "two", "", 5, 4, first=600)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def put(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\xff\xd8\xff")


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("children=one,adults=two", {"children": "one", "adults": "two"}),
        ("children=one", {"children": "one"}),
        ("a.b-c=one,3rd=tfds:x/y:1.0.0", {"a.b-c": "one", "3rd": "tfds:x/y:1.0.0"}),
        ("a=phantom,b=~/films", {"a": "phantom", "b": "~/films"}),
        ("a=x,y,b=z", {"a": "x,y", "b": "z"}),  # no NAME= follows the first comma
        ("a=k=v,b=z", {"a": "k=v", "b": "z"}),
        ("a=x,", {"a": "x,"}),
        ("a=", {"a": ""}),
        ("one", {}),
        ("phantom", {}),
        ("tfds:mnist/x=1", {}),
        ("/films/a=1", {}),
        ("./a=1,b=2", {}),
        ("my hospital=one", {}),
        ("_a=one", {}),
        ("", {}),
        pytest.param("a=" + "x" * 5000, {"a": "x" * 5000}, id="too long for a name"),
        pytest.param("a=\0,b=~nobody", {"a": "\0", "b": "~nobody"}, id="no path, and no such home"),
    ],
)
def test_sites_are_named_before_an_equals_sign(location, expected):
    found = sites.places(location)
    assert found == expected and list(found) == list(expected)


def test_a_path_that_exists_wins(tmp_path, monkeypatch):
    """Folders may be named like this, so a location that was right before sites existed stays right."""
    monkeypatch.chdir(tmp_path)
    for name in ("a=x,b=y", "year=2024", "x,b=y"):
        (tmp_path / name).mkdir()
    assert sites.places("a=x,b=y") == sites.places("year=2024") == {}
    assert sites.places("c=x,b=y") == {"c": "x,b=y"}
    assert sites.places("c=x,b=y,d=z") == {"c": "x,b=y", "d": "z"}
    assert sites.places("c=w,b=y") == {"c": "w", "b": "y"}


def test_two_sites_of_one_name_are_refused():
    with pytest.raises(UserError, match="two sites are named a: give each"):
        sites.places("a=x,b=y,a=z")


def test_a_record_knows_its_site_and_is_read_from_it(hospitals):
    source = open_source("old=one,new=two")
    alone = {name: open_source(place) for name, place in (("old", "one"), ("new", "two"))}
    assert len(source.records) == 29 + 9
    assert [record.id for record in source.records] == sorted(record.id for record in source.records)
    for record in source.records:
        site, _, id = record.id.partition("/")
        [own] = [one for one in alone[site].records if one.id == id]
        assert (record.site, record.label, record.patient) == (site, own.label, f"{site}/{own.patient}")
        assert np.array_equal(source.read(record, 16), alone[site].read(own, 16))
        assert source.file_of(record) == hospitals / {"old": "one", "new": "two"}[site] / id
    assert {record.site for record in alone["old"].records} == {""}
    pickled = pickle.loads(pickle.dumps(source._replace(records=())))  # as processes that read images get it
    assert np.array_equal(pickled.read(source.records[0], 16), source.read(source.records[0], 16))


def test_its_location_opens_it_again_from_anywhere(hospitals, monkeypatch):
    source = open_source("old=one,new=two")
    assert source.location == f"old={hospitals}/one,new={hospitals}/two" == sites.absolute("old=one,new=two")
    assert sites.is_there(source.location) and not sites.is_there("old=one,new=three")
    monkeypatch.chdir("/")
    again = open_source(source.location)
    assert again._replace(read=None, parts=()) == source._replace(read=None, parts=())
    assert source.name == "old_new" == sites.name_of(source.location)
    assert sites.title_of(source.location) == "old, new" and sites.title_of("/data/chests/") == "chests"


def test_a_site_without_splits_counts_as_train_beside_one_with_splits(hospitals):
    source = open_source("old=one,new=two")
    assert {(record.site, record.split) for record in source.records} == {
        ("old", "train"), ("old", "test"), ("new", "train")
    }  # fmt: skip
    assert "new: It has no splits: its images count as train." in source.remarks
    alone = open_source("new=two")
    assert {record.split for record in alone.records} == {"all"}
    assert "new: 9 images, 5 normal and 4 pneumonia." in alone.remarks


def test_any_kind_of_place_is_a_site(hospitals):
    np.savez("digits.npz", train_images=np.zeros((2, 28, 28), np.uint8), train_labels=np.arange(2))
    source = open_source("drawn=phantom,mnist=digits.npz,folder=two")
    assert {record.site for record in source.records} == {"drawn", "mnist", "folder"}
    for site in ("drawn", "mnist"):
        record = next(record for record in source.records if record.site == site)
        assert source.read(record, 20).shape == (20, 20) and source.file_of(record) is None
    assert source.notice == "drawn: Synthetic phantoms drawn from formulas, not radiographs of patients."
    assert any(re.match("mnist: The file names no classes", sentence) for sentence in source.remarks)


def test_the_fingerprint_follows_every_site(hospitals):
    seen = [open_source("old=one,new=two").fingerprint, open_source("old=one,newer=two").fingerprint]
    draw_folder(hospitals / "two", "", 6, 4, first=600)
    seen.append(open_source("old=one,new=two").fingerprint)
    assert len(set(seen)) == 3


@pytest.mark.parametrize(
    ("location", "line"),
    [
        ("old=one,new=three", "site new: no such data: 'three'"),
        ("old=one,new=two=x", "site new: no such data: 'two=x'"),  # sites do not nest
        ("old=one,new=one/train/NORMAL", "site new: .* holds no images in folders named"),
    ],
)
def test_a_site_that_cannot_be_opened_is_named(hospitals, location, line):
    with pytest.raises(UserError, match=line):
        open_source(location)


def test_a_csv_of_labels_is_of_one_folder(hospitals):
    with pytest.raises(UserError, match="data.labels is for one folder"):
        open_source("old=one,new=two", DEFAULTS._replace(labels="labels.csv"))


def test_a_site_may_not_be_a_class(tmp_path, monkeypatch):
    """Else a model would learn the site: its scores would be perfect and mean nothing."""
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "sick/PNEUMONIA/a.jpg")
    put(tmp_path / "well/NORMAL/b.jpg")
    put(tmp_path / "both/NORMAL/c.jpg")
    put(tmp_path / "both/PNEUMONIA/d.jpg")
    with pytest.raises(UserError, match=r"one class only \(a only pneumonia, b only normal\)"):
        open_source("a=sick,b=well")
    source = open_source("a=sick,c=both")
    assert "a: All labels are pneumonia: a model may learn the site instead of the disease." in source.remarks
    assert not any(sentence.startswith("c: All") for sentence in source.remarks)
    assert len(open_source("a=sick,b=sick").records) == 2, "one class altogether: evaluation scores it"


def test_a_pattern_of_patients_may_fit_one_site_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (
        "a/NORMAL/p1-1.jpg",
        "a/NORMAL/p1-2.jpg",
        "a/PNEUMONIA/p2-1.jpg",
        "b/NORMAL/x.jpg",
        "b/PNEUMONIA/y.jpg",
    ):
        put(tmp_path / name)
    pattern = DEFAULTS._replace(patient_pattern=r"(p\d)-")
    source = open_source("a=a,b=b", pattern)
    patients = {record.id: record.patient for record in source.records}
    assert patients["a/NORMAL/p1-1.jpg"] == patients["a/NORMAL/p1-2.jpg"] == "a/p1"
    assert patients["b/NORMAL/x.jpg"] == "b/NORMAL/x.jpg"
    assert "b: Patients are unknown: each image counts as its own." in source.remarks
    with pytest.raises(UserError, match="no image's id matches"):
        open_source("a=a,b=b", DEFAULTS._replace(patient_pattern="nobody"))


def test_the_same_picture_at_two_sites_is_found(hospitals):
    """Sites share teaching files: a copy must not lie in the train split of one and the test split of another."""
    copied = hospitals / "one/test/NORMAL/chest 000.png"
    (hospitals / "two/NORMAL/copy.png").write_bytes(copied.read_bytes())
    source = open_source("old=one,new=two")
    found = findings.audit(source, [findings.examine(source, record) for record in source.records])
    [crossing] = [one for one in found["findings"] if one["kind"] == "identical_across_splits"]
    assert crossing["ids"] == [["new/NORMAL/copy.png", "old/test/NORMAL/chest 000.png"]]


def test_carving_takes_its_share_of_each_class_at_each_site(hospitals):
    draw_folder(hospitals / "large", "", 40, 20, first=2000)
    source = open_source("large=large,new=two")
    chosen, _ = splits.for_training(source.records, splits.Carving(val_fraction=0.25))
    counts = {(site, label): 0 for site in ("large", "new") for label in (0, 1)}
    for record in chosen["val"]:
        counts[record.site, record.label] += 1
    assert counts == {("large", 0): 10, ("large", 1): 5, ("new", 0): 1, ("new", 1): 1}


def test_a_site_that_is_left_out_is_unseen_as_a_whole(hospitals):
    """Its train, val and test images alike, and the others' splits stay."""
    source = open_source("old=one,new=two")
    for site, other in (("old", "new"), ("new", "old")):
        chosen, notes = splits.for_training(source.records, splits.Carving(val_fraction=0.3, leave_out_site=site))
        assert {record.site for record in chosen["unseen"]} == {site}
        assert len(chosen["unseen"]) == sum(record.site == site for record in source.records)
        rest = [record for name, members in chosen.items() if name != "unseen" for record in members]
        assert {record.site for record in rest} == {other}
        assert set(chosen) == {"train", "val", "unseen"} | ({"test"} if other == "old" else set())
        assert any(note.startswith(f"unseen is the site {site}: ") for note in notes)


def test_a_picture_of_the_site_left_out_trains_no_model(hospitals):
    source = open_source("old=one,new=two")
    copied, kept = "new/NORMAL/chest 000.png", "old/train/NORMAL/chest 000.png"
    tied = leakage.tied(source.records, [[copied, kept]])
    chosen, _ = splits.for_training(tied, splits.Carving(val_fraction=0.3, leave_out_site="new"))
    used = {record.id for members in chosen.values() for record in members}
    assert copied in used and kept not in used


@pytest.mark.parametrize(
    ("location", "site", "line"),
    [
        ("old=one,new=two", "neu", "no site is named neu"),
        ("old=one,new=only", "old", "the train split has no pneumonia image"),
        ("old=one,new=only", "new", "the unseen split has no pneumonia image: the site new cannot be left out"),
        ("old=one/test,new=two", "new", None),
    ],
)
def test_a_site_that_cannot_be_left_out_is_refused(hospitals, location, site, line):
    draw_folder(hospitals / "only", "", 1, 0, first=900)  # of one class
    records = open_source(location).records
    carving = splits.Carving(val_fraction=0.4, leave_out_site=site)
    if line is None:
        assert set(splits.for_training(records, carving)[0]) == {"train", "val", "unseen"}
        return
    with pytest.raises(UserError, match=line):
        splits.for_training(records, carving)


def test_a_given_val_split_without_a_site_is_remarked(hospitals):
    draw_folder(hospitals / "one", "val", 50, 50, first=4000)
    _, notes = splits.for_training(open_source("old=one,new=two").records, splits.Carving())
    assert "val has no image of new: the model is not chosen by that site." in notes
    _, notes = splits.for_training(open_source("one").records, splits.Carving())
    assert not any("has no image of" in note for note in notes)
