"""Each planted fault is found, with the right kind; no sound image is named."""

import io
import json
import pickle
import shutil
import struct
import zlib
from functools import partial
from pathlib import Path

import dicom_files
import numpy as np
import pytest
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngImageFile

from pneumojax.data.audit import quality
from pneumojax.data.audit.duplicates import thumbnail
from pneumojax.data.audit.findings import audit, examine, headline
from pneumojax.data.audit.quality import is_inverted
from pneumojax.data.decode.unreadable import UnreadableImage
from pneumojax.data.parallel import in_parallel
from pneumojax.data.source import Record, Source
from pneumojax.data.sources import open_source, phantom

REAL = Path(__file__).parents[4] / "shared" / "data" / "kermany_224"


def chest(index, label=0, side=160):
    return Image.fromarray(phantom.render(5, index, label, side)[0])


def put(path, image, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)


def png_bomb(side):
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def audited(root):
    source = open_source(str(root))
    return audit(source, [examine(source, record) for record in source.records])


def ids(report):
    """{kind: ids}."""
    return {finding["kind"]: finding["ids"] for finding in report["findings"]}


@pytest.fixture
def sound(tmp_path):
    """A folder with images of every encoding, without faults."""
    root = tmp_path / "set"
    wide = np.asarray(chest(0)).astype(np.uint16) * 257
    put(root / "train/NORMAL/16 bits.png", Image.fromarray(wide))
    put(root / "train/NORMAL/quality 40.jpg", chest(1), quality=40)
    put(root / "train/NORMAL/rgb.JPEG", chest(2).convert("RGB"), quality=60)
    put(root / "train/PNEUMONIA/rgba.png", chest(3, 1).convert("RGBA"))
    put(root / "train/PNEUMONIA/palette.png", chest(4, 1).convert("P"))
    put(root / "train/PNEUMONIA/cmyk.jpg", chest(5, 1).convert("CMYK"))
    put(root / "test/NORMAL/grey and alpha.png", chest(6).convert("LA"))
    put(root / "test/NORMAL/wide.jpeg", chest(7).resize((300, 100)))
    put(root / "test/NORMAL/smallest.png", chest(8).resize((32, 32)))
    marked = chest(9, 1).convert("RGB")
    ImageDraw.Draw(marked).rectangle([5, 5, 25, 15], fill="red")
    put(root / "test/PNEUMONIA/letter in colour.png", marked)
    put(root / "test/PNEUMONIA/dim.png", chest(10, 1).point(lambda value: value // 3))
    put(root / "test/PNEUMONIA/progressive.jpg", chest(11, 1), progressive=True)
    return root


def test_sound_images_have_no_fault(sound):
    report = audited(sound)
    assert report["findings"] == []
    assert report["splits"] == {
        "test": {"n": 6, "normal": 3, "pneumonia": 3, "majority_accuracy": 0.5},
        "train": {"n": 6, "normal": 3, "pneumonia": 3, "majority_accuracy": 0.5},
    }
    assert headline(report) == "Audit: 12 images; nothing found."


def test_every_planted_fault_is_found_by_its_kind(sound):
    normal, sick, test = sound / "train/NORMAL", sound / "train/PNEUMONIA", sound / "test/PNEUMONIA"
    (normal / "empty.png").write_bytes(b"")
    (normal / "text.jpeg").write_text("<html>404 Not Found</html>")
    (normal / "gif.jpg").write_bytes(b"GIF89a" + bytes(100))
    (normal / "bomb.png").write_bytes(png_bomb(30_000))
    (normal / "gone.png").symlink_to(sound / "nowhere.png")
    whole = (normal / "quality 40.jpg").read_bytes()
    (normal / "half.jpg").write_bytes(whole[: len(whole) // 2])
    (normal / "header.jpg").write_bytes(whole[:60])
    whole = (normal / "16 bits.png").read_bytes()
    (normal / "half.png").write_bytes(whole[: len(whole) // 2])
    put(normal / "really png.jpg", chest(20), format="PNG")
    put(normal / "really jpeg.png", chest(21), format="JPEG")
    put(normal / "tiny.png", chest(22).resize((10, 10)))
    put(normal / "strip.png", chest(23).resize((500, 100)))
    put(normal / "black.png", Image.new("L", (100, 100), 0))
    put(normal / "grey.jpg", Image.new("RGB", (200, 100), (100, 100, 100)))
    photo = Image.merge("RGB", [chest(24), chest(25), chest(26)])
    put(normal / "photo.jpg", photo)
    put(normal / "inverse.png", chest(27).point(lambda value: 255 - value))
    shutil.copy(sick / "rgba.png", sick / "rgba again.png")
    shutil.copy(sick / "palette.png", test / "palette again.png")
    put(test / "smaller.jpg", chest(3, 1).resize((120, 110)), quality=60)  # of rgba.png, in train twice
    put(normal / "same pixels.png", chest(28), compress_level=1)
    put(normal / "same pixels too.png", chest(28), compress_level=9)
    put(sick / "labelled pneumonia.jpg", chest(2), quality=80)  # rgb.JPEG, which is normal
    put(sick / "person7_virus_1.jpeg", chest(30, 1))
    put(sick / "person7_virus_2.jpeg", chest(31, 1))
    put(test / "person7_virus_3.jpeg", chest(32, 1))
    film = np.asarray(chest(34)).astype(np.uint16) * 16
    film[0, 0] = 20_000
    put(normal / "dead pixel.tif", Image.fromarray(film))
    film = np.asarray(chest(36)).astype(np.uint16) * 16
    film[:, 0] = 65_000
    dicom_files.write(normal / "marker.dcm", film, 16)
    dicom_files.write(normal / "side.dcm", np.asarray(chest(35)), 8, ViewPosition="LL")
    put(test / "person8_virus_3.jpeg", chest(33, 1))

    report = audited(sound)
    train = "train/NORMAL/"
    assert ids(report) == {
        "unreadable": [train + name for name in ("bomb.png", "empty.png", "gif.jpg", "gone.png", "text.jpeg")],
        "truncated": [train + name for name in ("half.jpg", "half.png", "header.jpg")],
        "wrong_extension": [train + "really jpeg.png", train + "really png.jpg"],
        "absurd_size": [train + "bomb.png", train + "strip.png", train + "tiny.png"],
        "colour": [train + "photo.jpg"],
        "constant": [train + "black.png", train + "grey.jpg"],
        "dark": [train + "dead pixel.tif"],
        "clipped": [train + "marker.dcm"],
        "lateral": [train + "side.dcm"],
        "inverted": [train + "inverse.png"],
        "identical_within_split": [["train/PNEUMONIA/rgba again.png", "train/PNEUMONIA/rgba.png"]],
        "identical_across_splits": [["test/PNEUMONIA/palette again.png", "train/PNEUMONIA/palette.png"]],
        "near_equal_within_split": [
            ["train/NORMAL/rgb.JPEG", "train/PNEUMONIA/labelled pneumonia.jpg"],
            ["train/NORMAL/same pixels too.png", "train/NORMAL/same pixels.png"],
        ],
        "near_equal_across_splits": [
            ["test/PNEUMONIA/smaller.jpg", "train/PNEUMONIA/rgba again.png", "train/PNEUMONIA/rgba.png"]
        ],
        "conflicting_labels": [["train/NORMAL/rgb.JPEG", "train/PNEUMONIA/labelled pneumonia.jpg"]],
        "patient_across_splits": [
            [
                "test/PNEUMONIA/person7_virus_3.jpeg",
                "train/PNEUMONIA/person7_virus_1.jpeg",
                "train/PNEUMONIA/person7_virus_2.jpeg",
            ]
        ],
    }
    errors = [finding["kind"] for finding in report["findings"] if finding["severity"] == "error"]
    assert errors == [finding["kind"] for finding in report["findings"][: len(errors)]]
    assert set(errors) == {"unreadable", "truncated"} | {kind for kind in ids(report) if "_across_" in kind}
    notes = {id: note for finding in report["findings"] for id, note in finding["notes"].items()}
    assert "900,000,000" in notes[train + "bomb.png"] or "30000x30000" in notes[train + "bomb.png"]
    assert "the file is empty" in notes[train + "empty.png"]
    assert notes[train + "tiny.png"].startswith("train, normal, PNG, 10x10, ")
    assert all(finding["count"] and finding["what"].endswith(".") for finding in report["findings"])
    assert json.loads(json.dumps(report)) == report


def test_a_patient_is_never_named():
    records = tuple(Record(f"{split}/{i}", i, "Jane Doe", split) for split in ("train", "test") for i in (0, 1))
    images = {record.id: np.asarray(chest(i, side=150)) for i, record in enumerate(records)}
    source = Source("x", "x.npz", records, "", lambda record, size: images[record.id])
    report = audit(source, [examine(source, record) for record in records])
    assert ids(report) == {"patient_across_splits": [[record.id for record in records]]}
    assert report["findings"][0]["short"] == "1 patient (4 images) with images in more than one split"
    assert "Jane" not in json.dumps(report)


def test_identical_images_that_are_not_files_are_found_by_their_pixels():
    records = tuple(Record(str(i), i % 2, str(i), "train") for i in range(4))
    image = np.asarray(chest(0, side=150))
    source = Source("x", "x.npz", records, "", lambda record, size: image if record.id in "03" else image[::-1] // 2)
    report = audit(source, [examine(source, record) for record in records])
    assert ids(report)["identical_within_split"] == [["0", "3"], ["1", "2"]]
    assert ids(report)["conflicting_labels"] == [["0", "3"], ["1", "2"]]
    assert "near_equal_within_split" not in ids(report)


def test_a_conflict_among_identical_images_is_reported_once(tmp_path):
    put(tmp_path / "NORMAL/a.png", chest(1))
    put(tmp_path / "PNEUMONIA/again.jpg", chest(1), quality=70)
    put(tmp_path / "PNEUMONIA/other.png", chest(2))
    shutil.copytree(tmp_path / "NORMAL", tmp_path / "PNEUMONIA", dirs_exist_ok=True)
    kinds = ids(audited(tmp_path))
    assert kinds["identical_within_split"] == [["NORMAL/a.png", "PNEUMONIA/a.png"]]
    assert kinds["conflicting_labels"] == [["NORMAL/a.png", "PNEUMONIA/a.png", "PNEUMONIA/again.jpg"]]


def test_uniform_images_are_no_copies_of_each_other_but_equal_files_are(tmp_path):
    for grey in range(60):
        put(tmp_path / f"NORMAL/{grey}.png", Image.new("L", (64, 64), 2 * grey))
        put(tmp_path / f"PNEUMONIA/{grey}.png", chest(grey, 1, 64))
    shutil.copy(tmp_path / "NORMAL/7.png", tmp_path / "NORMAL/copy.png")
    kinds = ids(audited(tmp_path))
    assert set(kinds) == {"constant", "identical_within_split"}
    assert len(kinds["constant"]) == 61
    assert kinds["identical_within_split"] == [["NORMAL/7.png", "NORMAL/copy.png"]]


@pytest.mark.parametrize(("split", "reported"), [("train", True), ("", True), ("test", False)])
def test_one_class_alone_is_reported_in_a_split_to_train_on(tmp_path, split, reported):
    for index in range(3):
        put(tmp_path / split / f"NORMAL/{index}.png", chest(index))
    report = audited(tmp_path)
    assert ids(report) == ({"one_class": []} if reported else {})
    if reported:
        assert headline(report) == f"Audit: 3 images; 1 split (3 images) of one class only ({split or 'all'})."


def test_images_without_labels_have_no_majority():
    record = Record("a", None, "a", "all")
    source = Source("x", "x", (record,), "", lambda record, size: np.asarray(chest(0, side=size)))
    report = audit(source, [examine(source, record)])
    assert report["splits"]["all"] == {"n": 1, "normal": 0, "pneumonia": 0, "majority_accuracy": None}
    assert report["findings"] == []


def test_an_image_that_could_not_be_examined_is_unreadable(sound):
    source = open_source(str(sound))
    facts = [examine(source, record) for record in source.records]
    facts[3] = UnreadableImage("it crashes its decoder")
    report = audit(source, facts)
    assert ids(report) == {"unreadable": [source.records[3].id]}
    assert "it crashes its decoder" in report["findings"][0]["notes"][source.records[3].id]


def test_facts_can_be_sent_between_processes(sound):
    source = open_source(str(sound))
    there = list(in_parallel(partial(examine, source._replace(records=())), source.records, workers=1))
    here = [examine(source, record) for record in source.records]
    assert audit(source, there) == audit(source, here)
    assert pickle.loads(pickle.dumps(here[0])).digest == here[0].digest


def test_a_bomb_is_not_decoded(tmp_path, monkeypatch):
    (tmp_path / "NORMAL").mkdir()
    (tmp_path / "NORMAL/bomb.png").write_bytes(png_bomb(30_000))

    def refuse(*_):
        raise AssertionError("the image was decoded")

    monkeypatch.setattr(PngImageFile, "load", refuse)
    assert ids(audited(tmp_path))["absurd_size"] == ["NORMAL/bomb.png"]


def test_inverted_phantoms_are_distinguished_from_upright_ones():
    drawn = [np.asarray(chest(index, index % 2, 64)) for index in range(200)]
    small = [thumbnail(image) for image in drawn]
    assert not any(map(is_inverted, small))
    assert np.mean([is_inverted(255 - image) for image in small]) >= 0.95


@pytest.mark.parametrize(("encoding", "options"), [("PNG", {}), ("JPEG", {"quality": 20})])
def test_a_tint_is_colour_but_grey_in_three_channels_is_not(encoding, options):
    grey = chest(0).convert("RGB")
    tinted = Image.merge("RGB", [chest(0).point(lambda value, share=share: value * share) for share in (1, 0.9, 0.8)])
    for image, expected in ((grey, False), (tinted, True)):
        file = io.BytesIO()
        image.save(file, encoding, **options)
        assert quality.is_colour(Image.open(file)) == expected


@pytest.mark.slow
def test_the_headline_of_the_real_set():
    if not REAL.is_dir():
        pytest.skip("the shared radiographs are not here")
    source = open_source(str(REAL))
    facts = list(in_parallel(partial(examine, source._replace(records=())), source.records))
    report = audit(source, facts)
    assert headline(report) == (
        "Audit: 5,232 images; 24 groups (50 images) identical within train; nothing across splits."
    )
    groups = report["findings"][0]["ids"]
    assert len(groups) == 24
    for group in groups:
        assert len({(REAL / id).read_bytes() for id in group}) == 1
        assert len({record.patient for record in source.records if record.id in group}) == 1
    inverses = [is_inverted(255 - image.thumbnail) for image in facts]
    assert np.mean(inverses) >= 0.99
    assert report["splits"]["train"]["majority_accuracy"] == pytest.approx(3875 / 5216)
